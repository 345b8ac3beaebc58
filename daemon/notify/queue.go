package notify

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Bounds and defaults of QueueConfig, and the times of retries.
const (
	WebhooksDefault  = 8
	MailsDefault     = 4
	PendingDefault   = 4096
	PerTargetDefault = 256

	RetryMin    = time.Second
	RetryMax    = 10 * time.Minute
	GiveUpAfter = 24 * time.Hour

	inFlightMin  = 2 // so that one is left where half are for what fails
	inFlightMax  = 64
	pendingMin   = 2
	pendingMax   = 65536
	dropLogEvery = time.Minute
)

// What Add refuses with, beside ErrRefused.
var (
	ErrClosed = errors.New("queue is closed")
	// ErrBusy: Settled does not return, so there is no room to remember more.
	ErrBusy = errors.New("queue is full of outcomes that nobody takes")
)

// QueueConfig bounds a Queue. Zero values mean the defaults.
type QueueConfig struct {
	Webhooks  int // in flight, 2-64; 0: 8
	Mails     int // in flight, 2-64; 0: 4
	Pending   int // deliveries that wait, 2-65536; 0: 4096
	PerTarget int // of them for one target, 2-Pending; 0: 256 or Pending
	// Settled is called once for each message that Add took, when nothing more will be done
	// for it; not for those that are left at Close. Calls follow each other, on
	// a goroutine of the queue that holds no lock: it may call Add, not Close.
	Settled func(Outcome)
}

// Outcome is what became of a message.
type Outcome struct {
	ID       string
	Err      error // nil: delivered to all targets; else joined of ErrRefused, ErrGaveUp, ErrDropped, each with why
	Attempts int   // of all its targets together
	Took     time.Duration
}

// Stats counts. Delivered, Refused, GaveUp, Dropped and Retries count deliveries (one for each
// target) since the queue was made.
type Stats struct {
	Waiting, InFlight                            int
	Delivered, Refused, GaveUp, Dropped, Retries uint64
}

// Queue delivers messages, tries again, and keeps those to one target in order.
type Queue struct {
	cfg    QueueConfig
	sender *Sender
	send   func(context.Context, Message) error
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{} // the dispatcher has something to look at
	tell   chan struct{} // the reporter has

	mu       sync.Mutex
	closed   bool
	lanes    map[laneKey]*lane
	open     map[string]*pending
	slots    [2]slots
	settled  []Outcome
	stats    Stats
	dropped  int // since the last log line
	loggedAt time.Time
}

// Queue starts a queue; Close ends it. An error names the field that is out of range.
func (s *Sender) Queue(c QueueConfig) (*Queue, error) {
	if c.Settled == nil {
		return nil, errors.New("start notify queue: Settled: is nil")
	}
	def := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	def(&c.Webhooks, WebhooksDefault)
	def(&c.Mails, MailsDefault)
	def(&c.Pending, PendingDefault)
	def(&c.PerTarget, min(PerTargetDefault, c.Pending))
	for _, f := range []struct {
		name           string
		v, least, most int
	}{{"Webhooks", c.Webhooks, inFlightMin, inFlightMax}, {"Mails", c.Mails, inFlightMin, inFlightMax},
		{"Pending", c.Pending, pendingMin, pendingMax}, {"PerTarget", c.PerTarget, pendingMin, c.Pending}} {
		if f.v < f.least || f.v > f.most {
			return nil, fmt.Errorf("start notify queue: %s: %d: want %d-%d", f.name, f.v, f.least, f.most)
		}
	}
	return startQueue(s, c, s.Send), nil
}

func startQueue(s *Sender, c QueueConfig, send func(context.Context, Message) error) *Queue {
	q := &Queue{
		cfg: c, sender: s, send: send, wake: make(chan struct{}, 1), tell: make(chan struct{}, 1),
		lanes: map[laneKey]*lane{}, open: map[string]*pending{},
	}
	q.slots[webhook].init(c.Webhooks)
	q.slots[mail].init(c.Mails)
	q.ctx, q.cancel = context.WithCancel(context.Background())
	q.wg.Go(q.dispatchLoop)
	q.wg.Go(q.reportLoop)
	return q
}

// Add takes a message. One whose id is still being worked on is taken as the same and not
// delivered twice. Errors: ErrRefused (it can never be sent), ErrBusy, ErrClosed; then
// Settled is not called for it.
func (q *Queue) Add(m Message) error {
	m, err := m.clean()
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	if q.open[m.ID] != nil {
		return nil
	}
	if len(q.settled) >= q.cfg.Pending {
		return ErrBusy
	}
	p := &pending{id: m.ID, added: time.Now()}
	q.open[m.ID] = p
	for _, k := range targetsOf(m) {
		p.left++
		one := m
		one.Webhook, one.Mail = "", ""
		if k.kind == webhook {
			one.Webhook = k.to
		} else {
			one.Mail = k.to
		}
		q.enqueue(k, &delivery{msg: one, of: p})
	}
	if p.left == 0 {
		q.finish(p)
	}
	q.makeRoom()
	poke(q.wake)
	return nil
}

// Pending tells whether a message is waiting, in flight, or settled while Settled
// has not returned.
func (q *Queue) Pending(id string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.open[id] != nil
}

// Stats returns the counts of now.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.stats
	for _, l := range q.lanes {
		s.Waiting += len(l.waiting)
	}
	s.InFlight = q.slots[webhook].used + q.slots[mail].used
	s.Waiting -= s.InFlight // the first of a busy lane is in flight
	return s
}

// Close ends what is in flight and every goroutine. What is not settled is
// forgotten: it is for the next leader. It may be called again.
func (q *Queue) Close() {
	q.mu.Lock()
	q.closed = true
	q.logDropped(true)
	q.mu.Unlock()
	q.cancel()
	q.wg.Wait()
}

// dispatchLoop starts attempts: when something came, ended, or is due again.
func (q *Queue) dispatchLoop() {
	for {
		q.mu.Lock()
		wait := q.dispatch(time.Now())
		q.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-q.ctx.Done():
			timer.Stop()
			return
		case <-q.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// reportLoop calls Settled.
func (q *Queue) reportLoop() {
	for {
		select {
		case <-q.ctx.Done():
			return
		case <-q.tell:
		}
		for q.ctx.Err() == nil {
			q.mu.Lock()
			if len(q.settled) == 0 {
				q.mu.Unlock()
				break
			}
			o := q.settled[0]
			q.settled = q.settled[1:]
			q.mu.Unlock()
			q.cfg.Settled(o)
			q.mu.Lock()
			delete(q.open, o.ID)
			q.mu.Unlock()
		}
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
