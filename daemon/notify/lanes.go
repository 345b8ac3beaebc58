package notify

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// kind of a target; an index of Queue.slots.
type kind int

const (
	webhook kind = iota
	mail
)

type laneKey struct {
	kind kind
	to   string
}

// pending is a message that Add took.
type pending struct {
	id       string
	added    time.Time
	left     int // deliveries that are not settled
	attempts int
	errs     []error
}

// delivery is a message to one of its targets.
type delivery struct {
	msg Message
	of  *pending
}

// lane is what waits for one target, in order. The first is in flight while busy.
type lane struct {
	key      laneKey
	waiting  []*delivery
	busy     bool
	failures int       // in a row
	ready    time.Time // not before
	last     error     // of the last attempt, if it failed
}

// slots are the attempts of one kind that may be in flight. At most half may be
// for lanes that failed last time, and at most half for one project.
type slots struct {
	max, used, failing int
	projects           map[string]int
}

func (s *slots) init(n int) { s.max, s.projects = n, map[string]int{} }

func (s *slots) fit(l *lane) bool {
	return s.used < s.max && (l.failures == 0 || s.failing < s.max/2) && s.projects[l.waiting[0].msg.Project] < s.max/2
}

func (s *slots) add(project string, failing bool, n int) {
	s.used += n
	if failing {
		s.failing += n
	}
	if s.projects[project] += n; s.projects[project] == 0 {
		delete(s.projects, project)
	}
}

func targetsOf(m Message) []laneKey {
	var out []laneKey
	if m.Webhook != "" {
		out = append(out, laneKey{webhook, m.Webhook})
	}
	if m.Mail != "" {
		out = append(out, laneKey{mail, m.Mail})
	}
	return out
}

// The rest is called with the queue's lock held, but attempt.

func (q *Queue) enqueue(k laneKey, d *delivery) {
	l := q.lanes[k]
	if l == nil {
		l = &lane{key: k}
		q.lanes[k] = l
	}
	l.waiting = append(l.waiting, d)
	if len(l.waiting) > q.cfg.PerTarget {
		q.drop(l)
	}
}

// makeRoom drops until the bound holds again.
func (q *Queue) makeRoom() {
	total := 0
	for _, l := range q.lanes {
		total += len(l.waiting)
	}
	for ; total > q.cfg.Pending; total-- {
		var longest *lane
		for _, l := range q.lanes {
			if !l.droppable() {
				continue
			}
			if longest == nil || len(l.waiting) > len(longest.waiting) ||
				len(l.waiting) == len(longest.waiting) && l.oldest().of.added.Before(longest.oldest().of.added) {
				longest = l
			}
		}
		if longest == nil {
			return // all are in flight: less than the bound of those
		}
		q.drop(longest)
	}
}

func (l *lane) droppable() bool { return len(l.waiting) > 1 || len(l.waiting) == 1 && !l.busy }

// oldest is the first that is not in flight.
func (l *lane) oldest() *delivery {
	if l.busy {
		return l.waiting[1]
	}
	return l.waiting[0]
}

// drop forgets the oldest delivery of a lane that is not in flight.
func (q *Queue) drop(l *lane) {
	at := 0
	if l.busy {
		at = 1
	}
	d := l.waiting[at]
	l.waiting = append(l.waiting[:at], l.waiting[at+1:]...)
	q.tidy(l)
	q.stats.Dropped++
	q.dropped++
	q.settle(d, fmt.Errorf("no room to wait%s: %w", because(l.last), ErrDropped))
	q.logDropped(false)
}

// logDropped says how many were dropped, at most once a minute unless now.
func (q *Queue) logDropped(now bool) {
	if q.dropped == 0 || !now && time.Since(q.loggedAt) < dropLogEvery && !q.loggedAt.IsZero() {
		return
	}
	q.sender.cfg.Log.Warn("notifications dropped, more wait than there is room for", "count", q.dropped, "total", q.stats.Dropped)
	q.dropped, q.loggedAt = 0, time.Now()
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return ", after " + err.Error()
}

// tidy forgets an empty lane.
func (q *Queue) tidy(l *lane) {
	if len(l.waiting) == 0 {
		delete(q.lanes, l.key)
	}
}

// dispatch starts every attempt that is due and has a slot, and returns how long
// until another is due. One that only lacks a slot is looked at when an attempt ends.
func (q *Queue) dispatch(now time.Time) time.Duration {
	if q.closed {
		return RetryMax
	}
	for k := range q.slots {
		for l := q.next(kind(k), now); l != nil; l = q.next(kind(k), now) {
			d, failing := l.waiting[0], l.failures > 0
			l.busy = true
			d.of.attempts++
			q.slots[k].add(d.msg.Project, failing, 1)
			q.wg.Go(func() { q.attempt(l, d, failing) })
		}
	}
	wait := RetryMax
	for _, l := range q.lanes {
		if due := l.ready.Sub(now); !l.busy && due > 0 {
			wait = min(wait, due)
		}
	}
	return wait
}

// next chooses the lane of the next attempt: those that work first, then who waits longest.
func (q *Queue) next(k kind, now time.Time) *lane {
	s := &q.slots[k]
	if s.used >= s.max {
		return nil
	}
	var best *lane
	for _, l := range q.lanes {
		if l.key.kind != k || l.busy || l.ready.After(now) || !s.fit(l) {
			continue
		}
		if best == nil || l.before(best) {
			best = l
		}
	}
	return best
}

func (l *lane) before(o *lane) bool {
	if (l.failures > 0) != (o.failures > 0) {
		return l.failures == 0
	}
	if l.failures > 0 && !l.ready.Equal(o.ready) {
		return l.ready.Before(o.ready)
	}
	return l.waiting[0].of.added.Before(o.waiting[0].of.added)
}

// attempt sends the first of a lane and puts down what came of it.
func (q *Queue) attempt(l *lane, d *delivery, failing bool) {
	err := q.send(q.ctx, d.msg)
	q.mu.Lock()
	defer q.mu.Unlock()
	defer poke(q.wake)
	l.busy = false
	q.slots[l.key.kind].add(d.msg.Project, failing, -1)
	if err != nil && q.ctx.Err() != nil {
		return // it says nothing about the receiver
	}
	l.last = err
	if err != nil && errors.Is(err, ErrLater) {
		q.later(l, d, err)
		return
	}
	l.failures, l.ready = 0, time.Time{}
	l.waiting = l.waiting[1:]
	q.tidy(l)
	if err == nil {
		q.stats.Delivered++
	} else {
		q.stats.Refused++
		q.sender.cfg.Log.Warn("notification refused", "message", d.msg.ID, "kind", d.msg.Kind, "reservation", d.msg.Reservation, "error", err)
	}
	q.settle(d, err)
}

// later puts off a lane, and gives up what would be too old by then.
func (q *Queue) later(l *lane, d *delivery, err error) {
	now := time.Now()
	wait := backoff(l.failures)
	var nb notBefore
	if errors.As(err, &nb) {
		wait = max(wait, nb.wait)
	}
	l.failures++
	l.ready = now.Add(wait)
	q.stats.Retries++
	q.sender.cfg.Log.Debug("notification is late", "message", d.msg.ID, "failures", l.failures, "retry", wait, "error", err)
	for len(l.waiting) > 0 && l.ready.Sub(l.waiting[0].of.added) > GiveUpAfter {
		old := l.waiting[0]
		l.waiting = l.waiting[1:]
		q.stats.GaveUp++
		q.sender.cfg.Log.Warn("notification given up", "message", old.msg.ID, "kind", old.msg.Kind, "reservation", old.msg.Reservation, "error", err)
		q.settle(old, fmt.Errorf("%w after %s: %v", ErrGaveUp, GiveUpAfter, err))
	}
	q.tidy(l)
}

// backoff is the wait after the n-th failure in a row, from 0: twice as long each time up to RetryMax,
// and anywhere in the upper half of that, so that what failed together does not return together.
func backoff(n int) time.Duration {
	d := RetryMax
	if n < 16 {
		d = min(2*RetryMin<<n, RetryMax)
	}
	return d/2 + rand.N(d/2+1)
}

func (q *Queue) settle(d *delivery, err error) {
	p := d.of
	p.left--
	if err != nil {
		p.errs = append(p.errs, err)
	}
	if p.left == 0 {
		q.finish(p)
	}
}

// finish leaves the message among the open ones until Settled has returned: who
// hands it over once more before must not send it twice.
func (q *Queue) finish(p *pending) {
	q.settled = append(q.settled, Outcome{ID: p.id, Err: errors.Join(p.errs...), Attempts: p.attempts, Took: time.Since(p.added)})
	poke(q.tell)
}
