package simulate

import (
	"container/heap"
	"context"
	"fmt"
	"slices"
	"time"

	"vcn/api"
	"vcn/fsm"
)

// Progress is how far a run is.
type Progress struct {
	Done, Total int       // requests
	At          time.Time // the virtual clock
}

// Run plays a scenario to its end and says what came of it. progress, if not nil,
// is called before each request. Errors are ErrInvalid, that of ctx soon after it
// has ended, or whatever must not happen: a refusal is no error.
func Run(ctx context.Context, s Scenario, progress func(Progress)) (Report, error) {
	began := time.Now()
	hosts, err := expand(s.Hosts)
	if err != nil {
		return Report{}, err
	}
	if err := s.check(hosts); err != nil {
		return Report{}, err
	}
	p, err := newPlayer(ctx, &s, hosts)
	if err != nil {
		return Report{}, err
	}
	if err := p.play(ctx, progress); err != nil {
		return Report{}, fmt.Errorf("simulate, at %s: %w", p.rig.now.Format(time.RFC3339), err)
	}
	rep := p.tally.report(&s, hosts)
	rep.Took = time.Since(began)
	return rep, nil
}

// player drives the virtual clock.
type player struct {
	s       *Scenario
	rig     *rig
	tally   *tally
	coming  []int // indices of requests, by when they come
	events  events
	serial  uint64
	waiting []*job // in the waitlist
	next    time.Time
	kept    []closed // oldest first
	nodes   int      // that the state knows
}

// job is a request that was not refused.
type job struct {
	n      int
	req    *Request
	id     string
	demand amounts
	usable time.Time
	end    time.Time
}

// closed is how many nodes the state forgets, and when.
type closed struct {
	at    time.Time
	nodes int
}

const setupBefore = time.Hour

func newPlayer(ctx context.Context, s *Scenario, hosts []Host) (*player, error) {
	p := &player{s: s, coming: make([]int, len(s.Requests))}
	for i := range p.coming {
		p.coming[i] = i
	}
	slices.SortStableFunc(p.coming, func(a, b int) int {
		return s.Requests[a].At.Truncate(time.Second).Compare(s.Requests[b].At.Truncate(time.Second))
	})
	first := s.Requests[p.coming[0]].At.Truncate(time.Second).UTC()
	var err error
	p.rig, err = newRig(ctx, s, hosts, first.Add(-setupBefore))
	p.tally = newTally(first)
	return p, err
}

// play goes from instant to instant until nothing is left to happen.
func (p *player) play(ctx context.Context, progress func(Progress)) error {
	done := 0
	for {
		at, ok := p.soonest(done)
		if !ok {
			return nil
		}
		if at.After(p.rig.now) {
			p.rig.now = at
		}
		if err := p.elapse(ctx); err != nil {
			return err
		}
		for ; done < len(p.coming) && !p.request(done).At.After(p.rig.now); done++ {
			if progress != nil {
				progress(Progress{Done: done, Total: len(p.coming), At: p.rig.now})
			}
			if err := p.ask(ctx, p.coming[done]); err != nil {
				return err
			}
		}
	}
}

func (p *player) request(i int) *Request { return &p.s.Requests[p.coming[i]] }

// soonest is when something happens next.
func (p *player) soonest(done int) (at time.Time, ok bool) {
	sooner := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	if done < len(p.coming) {
		sooner(p.request(done).At.Truncate(time.Second).UTC())
	}
	if len(p.events) > 0 {
		sooner(p.events[0].at)
	}
	if (ok || len(p.waiting) > 0) && !p.next.IsZero() {
		sooner(p.next)
	}
	return at, ok
}

// elapse lets happen what is due now.
func (p *player) elapse(ctx context.Context) error {
	var ended []*job
	for len(p.events) > 0 && !p.events[0].at.After(p.rig.now) {
		e := heap.Pop(&p.events).(event)
		if e.kind == evEnd {
			ended = append(ended, e.job)
		}
		p.tally.happened(e, p.rig.now)
	}
	if err := p.release(ctx, ended); err != nil {
		return err
	}
	if len(ended) == 0 && (p.next.IsZero() || p.next.After(p.rig.now)) {
		return nil
	}
	next, err := p.rig.control.Step(ctx)
	if err != nil {
		return err
	}
	if p.next = ceil(next); !next.IsZero() && !p.next.After(p.rig.now) {
		p.next = p.rig.now.Add(time.Second)
	}
	return p.claimed()
}

// release gives back what has ended.
func (p *player) release(ctx context.Context, ended []*job) error {
	var hosts []string
	for _, j := range ended {
		r, err := p.rig.control.Release(ctx, j.id, "")
		if err != nil {
			return fmt.Errorf("release request %d: %w", j.n+1, err)
		}
		hosts = append(hosts, hostsOf(r)...)
	}
	if err := p.rig.settle(ctx, hosts); err != nil {
		return err
	}
	v := p.rig.fsm.View()
	for _, j := range ended {
		r, ok := v.Reservation(j.id)
		if ok && r.Live() {
			return fmt.Errorf("request %d is released, and still %s: %s", j.n+1, r.State, r.Message)
		}
		if r.State == api.StateFailed {
			p.tally.rep.Broken++
		}
		p.close(j.req.nodes())
	}
	return nil
}

// close notes nodes that the state forgets in a while.
func (p *player) close(nodes int) {
	p.kept = append(p.kept, closed{p.rig.now.Add(fsm.ClosedLife), nodes})
}

// claimed finds those that have left the waitlist.
func (p *player) claimed() error {
	v := p.rig.fsm.View()
	left := p.waiting[:0]
	for _, j := range p.waiting {
		r, ok := v.Reservation(j.id)
		switch {
		case ok && r.State == api.StateWaitlisted:
			left = append(left, j)
		case ok && r.Live():
			p.accept(j, &r, true)
		default:
			p.tally.leave(p.rig.now)
			p.tally.refuse(ClassWaited)
			p.close(j.req.nodes())
		}
	}
	clear(p.waiting[len(left):])
	p.waiting = left
	return nil
}

// ask is one request.
func (p *player) ask(ctx context.Context, n int) error {
	req := &p.s.Requests[n]
	for len(p.kept) > 0 && !p.kept[0].at.After(p.rig.now) {
		p.nodes -= p.kept[0].nodes
		p.kept = p.kept[1:]
	}
	if p.nodes+req.nodes() > NodesKeptMax {
		return invalid("more than %d nodes would have to be remembered at one time; play a shorter part", NodesKeptMax)
	}
	p.tally.asked(req)
	r, err := p.book(ctx, n, req)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		class, known := classify(err)
		if !known {
			return fmt.Errorf("request %d: %w", n+1, err)
		}
		p.tally.refuse(class)
		return nil
	}
	p.nodes += req.nodes()
	j := &job{n: n, req: req, id: r.ID, demand: req.demand()}
	if r.State != api.StateWaitlisted {
		p.accept(j, r, false)
		return nil
	}
	p.waiting = append(p.waiting, j)
	p.enqueue(later(p.rig.now, r.Wait.Earliest))
	p.stepBy(r.Wait.Latest)
	return nil
}

// accept follows a reservation that has its slot; waited is true of one that was
// in the waitlist before.
func (p *player) accept(j *job, r *fsm.Reservation, waited bool) {
	now := p.rig.now
	asked := j.req.At.Truncate(time.Second).UTC()
	provision := later(r.Provision.Truncate(time.Second), now)
	best := later(asked.Add(r.Lead), j.req.Earliest.Truncate(time.Second))
	j.usable = later(r.Start, r.Provision.Add(r.Lead)).Truncate(time.Second)
	j.end = r.End.Truncate(time.Second)
	cut := false
	if j.usable.After(j.end) { // the slot is shorter than its provisioning
		j.usable, cut = j.end, true
	}
	if runs := j.req.Runs.Truncate(time.Second); runs > 0 {
		over := j.usable.Add(runs)
		cut = cut || over.After(j.end)
		if over.Before(j.end) {
			j.end = over
		}
	}
	wait := max(j.usable.Sub(best), 0)
	p.tally.accept(j, wait, j.usable.Sub(provision), cut)
	queued := later(asked, j.req.Earliest.Truncate(time.Second))
	if waited {
		p.push(event{at: later(queued.Add(wait), now), kind: evLeave, job: j})
	} else if wait > 0 {
		p.enqueue(queued)
		p.push(event{at: queued.Add(wait), kind: evLeave, job: j})
	}
	p.push(event{at: provision, kind: evHold, job: j})
	p.push(event{at: later(j.end, now), kind: evEnd, job: j})
	if r.Provision.After(now) {
		p.stepBy(r.Provision)
	}
}

// enqueue counts one more in the queue from a moment on.
func (p *player) enqueue(at time.Time) {
	p.push(event{at: later(at, p.rig.now), kind: evQueue})
}

func (p *player) stepBy(at time.Time) {
	if at = ceil(at); p.next.IsZero() || at.Before(p.next) {
		p.next = at
	}
}

// push lets something happen: now, if it is due.
func (p *player) push(e event) {
	e.at = e.at.UTC()
	if e.kind != evEnd && !e.at.After(p.rig.now) {
		p.tally.happened(e, p.rig.now)
		return
	}
	p.serial++
	e.serial = p.serial
	heap.Push(&p.events, e)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// ceil is the first whole second that is not before t; zero stays zero.
func ceil(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	if c := t.Truncate(time.Second); !c.Before(t) {
		return c.UTC()
	}
	return t.Truncate(time.Second).Add(time.Second).UTC()
}
