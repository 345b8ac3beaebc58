package notify

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// try is one attempt that a fake receiver saw.
type try struct {
	to, id string
	at     time.Duration // since the start
}

// receivers stands in for all targets: it answers by what the test sets for each.
type receivers struct {
	mu      sync.Mutex
	begin   time.Time
	tries   []try
	answer  map[string]func(ctx context.Context, n int) error // n: how many tries it has seen before
	seen    map[string]int
	now     int
	most    int
	settled []Outcome
}

func (r *receivers) send(ctx context.Context, m Message) error {
	to := m.Webhook + m.Mail
	r.mu.Lock()
	r.tries = append(r.tries, try{to, m.ID, time.Since(r.begin)})
	n := r.seen[to]
	r.seen[to]++
	r.now++
	r.most = max(r.most, r.now)
	f := r.answer[to]
	r.mu.Unlock()
	var err error
	if f != nil {
		err = f(ctx, n)
	}
	r.mu.Lock()
	r.now--
	r.mu.Unlock()
	return err
}

func (r *receivers) of(to string) []try {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.tries), func(t try) bool { return t.to != to })
}

func (r *receivers) set(to string, answer func(ctx context.Context, n int) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer[to] = answer
}

func (r *receivers) inFlightMost() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.most
}

func (r *receivers) outcome(id string) (Outcome, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.settled, func(o Outcome) bool { return o.ID == id })
	if i < 0 {
		return Outcome{}, false
	}
	return r.settled[i], true
}

func (r *receivers) settle(o Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settled = append(r.settled, o)
}

func dead(context.Context, int) error { return fmt.Errorf("dead: %w", ErrLater) }

func slow(d time.Duration) func(context.Context, int) error {
	return func(ctx context.Context, _ int) error {
		select {
		case <-time.After(d):
			return fmt.Errorf("slow: %w", ErrLater)
		case <-ctx.Done():
			return ErrLater
		}
	}
}

func newReceivers() *receivers {
	return &receivers{begin: time.Now(), answer: map[string]func(context.Context, int) error{}, seen: map[string]int{}}
}

// start makes a queue with small bounds, in a bubble.
func start(t *testing.T, r *receivers, c QueueConfig) *Queue {
	t.Helper()
	if c.Settled == nil {
		c.Settled = r.settle
	}
	q, err := newSender(t, Config{}).Queue(c)
	if err != nil {
		t.Fatal(err)
	}
	q.Close()
	q = startQueue(q.sender, q.cfg, r.send) // the same bounds, other receivers
	t.Cleanup(q.Close)
	return q
}

func to(id, webhook, mail string) Message {
	m := message()
	m.ID, m.Webhook, m.Mail = id, webhook, mail
	return m
}

func add(t *testing.T, q *Queue, ms ...Message) {
	t.Helper()
	for _, m := range ms {
		if err := q.Add(m); err != nil {
			t.Fatalf("add %s: %v", m.ID, err)
		}
	}
}
