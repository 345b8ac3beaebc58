package control

import (
	"context"
	"fmt"
	"time"

	"vcn/fsm"
)

const (
	// clockSleepMax bounds how long the clockwork sleeps without looking, as
	// wall clocks may be set.
	clockSleepMax = time.Minute
	// clockDoubtEvery is how often it looks while the wall clock is not believed.
	clockDoubtEvery = time.Second
	// clockRetryEvery is its pace after a command that did not get through.
	clockRetryEvery = 200 * time.Millisecond
	// clockSpinMax is how many times one deadline may be due in a row before
	// the clockwork slows down to clockRetryEvery.
	clockSpinMax = 3
)

// runClockwork sends ClockAdvance when the state's next deadline is due.
func (c *Control) runClockwork(ctx context.Context) error {
	var last time.Time
	repeats := 0
	for ctx.Err() == nil {
		v := c.cfg.State.View()
		at, ok := v.NextDeadline()
		// Apply's time is max(state clock + 1 ns, wall): a deadline that the
		// state's clock has passed already is due whatever the wall says.
		now, believed := c.believed()
		wait := clockSleepMax
		if !believed {
			wait = clockDoubtEvery
		}
		if ok {
			wait = min(max(at.Sub(now), 0), wait)
			if !at.After(v.Clock()) {
				wait = 0
			}
		}
		if wait > 0 {
			c.watch(ctx, v.Index(), wait)
			continue
		}
		if repeats++; !at.Equal(last) {
			repeats = 0
		}
		last = at
		if _, err := c.apply(ctx, fsm.ClockAdvance{}); err != nil || repeats >= clockSpinMax {
			if err != nil && ctx.Err() == nil {
				c.cfg.Log.Warn("advance the clock", "err", err)
			}
			sleep(ctx, clockRetryEvery)
		}
	}
	return ctx.Err()
}

// Step does at once what the leader's tasks would do at this moment: what is due
// happens, what is to be provisioned begins, promises in danger move, and the
// waitlist is served. It returns when to step next at the latest. For whoever
// drives time himself; not beside RunLeader.
func (c *Control) Step(ctx context.Context) (next time.Time, err error) {
	now := c.now()
	for range clockStepsMax {
		v := c.cfg.State.View()
		if at, ok := v.NextDeadline(); !ok || at.After(now) {
			break
		}
		if _, err := c.apply(ctx, fsm.ClockAdvance{}); err != nil {
			return next, fmt.Errorf("advance the clock: %w", err)
		}
		now = c.now()
	}
	b := &binder{c: c, failed: map[string]time.Time{}}
	for b.look(ctx, c.cfg.State.View(), now) > 0 {
	}
	(&reseater{}).look(ctx, c, now)
	if err := c.serveWaitlist(ctx); err != nil {
		return next, err
	}
	v := c.cfg.State.View()
	next, ok := v.NextDeadline()
	if at, bind := v.NextBind(now); bind && (!ok || at.Before(next)) {
		next = at
	}
	return next, nil
}

// clockStepsMax bounds how often one Step advances the clock.
const clockStepsMax = 1000

// watch waits until the state moves on from index, at most d.
func (c *Control) watch(ctx context.Context, index uint64, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	c.cfg.State.WatchIndex(ctx, index)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
