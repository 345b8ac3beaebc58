package control

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"vcn/api"
	"vcn/fsm"
	"vcn/placement"
)

// planner places drafts on the latest state plus the plans in flight.
type planner struct {
	state   State
	recipes *recipes

	mu   sync.Mutex
	inv  inventory
	lead leads
}

func newPlanner(state State, rs *recipes) *planner { return &planner{state: state, recipes: rs} }

// reset forgets all plans in flight.
func (p *planner) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inv = inventory{}
}

// land takes a plan out of flight: its command is applied, or (not ok) given up.
func (p *planner) land(f *flight, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.inv.flights[f]:
	case ok:
		f.done = true // what it booked is on the timelines that are read next
	default:
		p.inv.cancel(f)
	}
}

// snapshot is the inventory as it is now, to be read without the lock.
func (p *planner) snapshot() (*fsm.View, *placement.Inventory) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.state.View()
	return v, p.inv.follow(v).Clone()
}

// leadOf is the lead time of a draft, with the lock not held.
func (p *planner) leadOf(v *fsm.View, d *draft, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lead.of(v, d, now)
}

// booking is a draft with the slot and the seats that were found for it.
type booking struct {
	draft *draft
	times slotTimes
	plan  placement.Plan
}

// planned is drafts that were placed together.
type planned struct {
	bookings []booking
	images   []fsm.ImageWant
	passed   []string // ids of those in the waitlist whose window this takes from
	flight   *flight
}

// plan places drafts together, at the time now. With keep, the plan stays in
// flight until land. The error is a *api.Problem when they cannot be placed, and
// errSlotGone if the slot that was found for one has been taken meanwhile.
func (p *planner) plan(drafts []*draft, now time.Time, keep bool) (planned, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.state.View()
	f := &flight{id: drafts[0].id}
	out := planned{flight: f}
	if err := admit(v, drafts); err != nil {
		return out, err
	}
	out.images = p.images(v, drafts)
	for _, w := range out.images {
		f.builders, f.recipes = append(f.builders, w.Builder), append(f.recipes, w.Recipe)
	}
	waiting := queue(v.Waitlist())
	inv := p.inv.follow(v)
	if len(drafts) > 1 {
		inv = inv.Clone() // each is placed on those before it
	}
	for _, d := range drafts {
		b := booking{draft: d}
		var err error
		if d.found != nil {
			b.times = *d.found
			if b.plan, err = inv.Plan(d.request(b.times)); err != nil {
				return out, errSlotGone
			}
		} else if b.times, b.plan, err = findFirst(inv, d, p.lead.of(v, d, now), now, waiting.starving()); err != nil {
			return out, noFit(err)
		}
		own := b.plan.Bookings(d.request(b.times))
		if len(drafts) > 1 {
			inv.Add(own...)
		}
		f.bookings = append(f.bookings, own...)
		out.bookings, out.passed = append(out.bookings, b), waiting.passedBy(b.times, out.passed)
	}
	id := f.id
	f.landed = func(v *fsm.View) bool { _, ok := v.Reservation(id); return ok }
	if keep {
		p.inv.add(f)
	}
	return out, nil
}

// admit says what forbids reservations before anything is chosen for them.
func admit(v *fsm.View, drafts []*draft) error {
	if err := formed(v); err != nil {
		return err
	}
	for _, d := range drafts {
		if _, taken := v.ReservationByName(d.spec.Project, d.spec.Name); taken {
			return nameTaken(d.spec)
		}
		if err := subnetFits(v, len(d.nodes)); err != nil {
			return err
		}
	}
	return nil
}

func formed(v *fsm.View) error {
	meta, ok := v.Meta()
	if ok && meta.Formed {
		return nil
	}
	return &api.Problem{Status: http.StatusServiceUnavailable, Code: api.CodeForming,
		Detail: fmt.Sprintf("this cluster of hosts is still forming: it waits for %d voters", meta.Expect),
		Next:   "try again when the operator has joined the other hosts (vcnd join); vcnctl status shows how many there are"}
}

func subnetFits(v *fsm.View, nodes int) error {
	meta, _ := v.Meta()
	fit := meta.Pools.NodesFit()
	if nodes <= fit {
		return nil
	}
	return &api.Problem{Status: http.StatusConflict, Code: api.CodeNoFit,
		Detail:  fmt.Sprintf("%d nodes do not fit into a subnet of /%d", nodes, meta.Pools.SubnetBits),
		Reasons: []string{fmt.Sprintf("the operator gives each cluster a subnet of /%d: room for %d nodes", meta.Pools.SubnetBits, fit)},
		Next:    "ask for fewer workers"}
}

func nameTaken(s api.Spec) *api.Problem {
	return &api.Problem{Status: http.StatusConflict, Code: api.CodeConflict,
		Detail: fmt.Sprintf("project %s has a live reservation named %s", s.Project, s.Name),
		Next:   "choose another name, or release that one first (vcnctl release " + s.Name + ")"}
}

func noFit(err error) error {
	var known *api.Problem
	if errors.As(err, &known) {
		return err
	}
	var behind *behindError
	if errors.As(err, &behind) {
		return behind.problem()
	}
	var nf *placement.NoFit
	if !errors.As(err, &nf) {
		return fmt.Errorf("place nodes: %w", err)
	}
	return &noFitError{Problem: &api.Problem{Status: http.StatusConflict, Code: api.CodeNoFit,
		Detail: "the hosts cannot carry this in that slot", Reasons: nf.Reasons,
		Next: "ask for less, for smaller nodes, or for another time (vcnctl when shows what there is), or wait for it (reserve --wait-for)"}, why: nf}
}

// noFitError is the problem of what does not fit, with the facts.
type noFitError struct {
	*api.Problem
	why *placement.NoFit
}

func (e *noFitError) Unwrap() error { return e.Problem }

// building is true if an image of the draft is not built yet.
func building(v *fsm.View, recipes map[string]resolved) bool {
	for _, r := range recipes {
		if img, ok := v.Image(r.digest); !ok || img.State != fsm.ImageReady {
			return true
		}
	}
	return false
}

// images lists the images that have to be built for the drafts, each with a
// builder. It is called with the lock held.
func (p *planner) images(v *fsm.View, drafts []*draft) []fsm.ImageWant {
	var out []fsm.ImageWant
	var load map[string]int
	for _, d := range drafts {
		for _, a := range d.appliances() {
			r := d.recipes[a]
			if img, ok := v.Image(r.digest); ok && img.State != fsm.ImageFailed {
				continue
			}
			if slices.ContainsFunc(out, func(w fsm.ImageWant) bool { return w.Recipe == r.digest }) {
				continue
			}
			if load == nil {
				load = p.buildLoad(v)
			}
			w := fsm.ImageWant{Recipe: r.digest, Appliance: a, Rolls: r.names}
			w.Builder = p.builderInFlight(r.digest)
			if w.Builder == "" {
				w.Builder = chooseBuilder(v, load, "")
			}
			load[w.Builder]++
			out = append(out, w)
		}
	}
	return out
}

// builderInFlight is who builds the recipe for a plan in flight.
func (p *planner) builderInFlight(recipe string) string {
	best := ""
	for f := range p.inv.flights { // of several the first by id, whatever the order of the map
		if i := slices.Index(f.recipes, recipe); i >= 0 && (best == "" || f.builders[i] < best) {
			best = f.builders[i]
		}
	}
	return best
}

// load is buildLoad with the lock not held.
func (p *planner) load(v *fsm.View) map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.buildLoad(v)
}

func (p *planner) buildLoad(v *fsm.View) map[string]int {
	load := buildLoad(v)
	for f := range p.inv.flights {
		for _, b := range f.builders {
			load[b]++
		}
	}
	return load
}
