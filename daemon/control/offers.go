package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"vcn/api"
	"vcn/fsm"
	"vcn/placement"
)

// latestDefault is how far ahead a question without a latest start looks.
const latestDefault = 30 * 24 * time.Hour

// asker answers one OfferRequest. It reads a snapshot and holds no lock.
type asker struct {
	c      *Control
	v      *fsm.View
	inv    *placement.Inventory
	req    api.OfferRequest
	d      *draft
	lead   time.Duration
	now    time.Time
	latest time.Time
	ahead  queue // those in the waitlist that it may not pass
	why    *placement.NoFit
	out    []heldOffer
}

type heldOffer struct {
	offer api.Offer
	held  fsm.HeldOffer
}

// Offers answers when something could be had. The offers are held together, for
// as long as the request says, and one of them can be taken.
func (c *Control) Offers(ctx context.Context, req api.OfferRequest, project, owner string) (api.OfferList, error) {
	req = req.Defaults()
	errs := req.Validate()
	if req.Spec.Project == "" && project == "" {
		errs = append(errs, api.FieldError{Field: "spec.project", Want: "the project that this is for (an operator's token has none of its own)"})
	}
	if len(errs) > 0 {
		return api.OfferList{}, api.Invalid(countFields(errs), errs)
	}
	var why error
	for range replanTriesMax {
		a, err := c.ask(req, project, owner)
		if err != nil {
			return api.OfferList{}, err
		}
		list, err := a.answer()
		if err != nil {
			return api.OfferList{}, err
		}
		if why = a.hold(ctx, &list); why == nil {
			return list, nil
		}
		if !moved(why) {
			break
		}
	}
	return api.OfferList{}, stateProblem(why)
}

func (c *Control) ask(req api.OfferRequest, project, owner string) (*asker, error) {
	now := c.now()
	spec := req.Spec
	spec.Slot.Latest = ""
	d, err := newDraft(c.recipes, spec, project, owner, "", now)
	if err != nil {
		return nil, err
	}
	v, inv := c.planner.snapshot()
	if err := formed(v); err != nil {
		return nil, err
	}
	if err := subnetFits(v, len(d.nodes)); err != nil && req.WorkersMin == 0 {
		return nil, err
	}
	a := c.asker(v, inv, d, now)
	a.req = req
	window, err := req.Window(now)
	if err != nil {
		return nil, slotProblem(err)
	}
	a.latest = window.Latest
	if d.window.Length == 0 { // a later start has a later end
		d.window.Length, d.window.End = window.Length, time.Time{}
	}
	return a, nil
}

func (c *Control) asker(v *fsm.View, inv *placement.Inventory, d *draft, now time.Time) *asker {
	return &asker{c: c, v: v, inv: inv, d: d, now: now, lead: c.planner.leadOf(v, d, now), ahead: queue(v.Waitlist()).starving()}
}

// find is findSlot for one that can get identifiers.
func (a *asker) find(inv *placement.Inventory, d *draft) (slotTimes, placement.Plan, error) {
	if err := subnetFits(a.v, len(d.nodes)); err != nil {
		return slotTimes{}, placement.Plan{}, &placement.NoFit{Reasons: err.(*api.Problem).Reasons}
	}
	return findSlot(inv, d, a.lead, a.now, a.ahead)
}

// answer finds the offers, best first.
func (a *asker) answer() (api.OfferList, error) {
	list := api.OfferList{Items: []api.Offer{}}
	a.out = nil
	times, plan, err := a.find(a.inv, a.d)
	var no *placement.NoFit
	switch {
	case err == nil:
		a.offer(api.OfferExact, a.d, []slotTimes{times}, []placement.Plan{plan})
	case errors.As(err, &no):
		list.Reasons, a.why = no.Reasons, no
		for _, find := range []func() error{a.later, a.fewer, a.shapes, a.shorter, a.split} {
			if err := find(); err != nil && !errors.As(err, &no) {
				return list, err
			}
		}
	default:
		return list, err
	}
	return list, nil
}

// variant is the draft with another specification.
func (a *asker) variant(change func(*api.Spec)) *draft {
	d := *a.d
	d.spec.Workers = slices.Clone(d.spec.Workers)
	change(&d.spec)
	d.nodes, d.wants = layOut(d.spec), nil
	return &d
}

// within is the draft with a window that ends at the latest start asked for.
func (a *asker) within(d *draft) *draft {
	out := *d
	out.window.Latest = a.latest
	if w := &out.window; w.Length == 0 { // a later start has a later end
		w.Length, w.End = w.End.Sub(w.Earliest), time.Time{}
	}
	return &out
}

// later is the first start after the one asked for, which was tried already.
func (a *asker) later() error {
	d := a.within(a.d)
	if subnetFits(a.v, len(d.nodes)) != nil {
		return nil
	}
	if times, plan, ok := later(a.inv, d, a.lead, a.now, a.ahead); ok {
		a.offer(api.OfferLater, d, []slotTimes{times}, []placement.Plan{plan})
	}
	return nil
}

// fewer takes workers from the groups in proportion, as many as must be.
func (a *asker) fewer() error {
	all, least := workers(a.d.spec), a.req.WorkersMin
	if least == 0 || least >= all {
		return nil
	}
	best := -1
	var times slotTimes
	var plan placement.Plan
	lo, hi, guess := least, all-1, a.fitted(all)
	for lo <= hi {
		n := (lo + hi + 1) / 2
		if guess > 0 {
			n = min(max(guess, lo), hi)
		}
		t, p, err := a.find(a.inv, a.withWorkers(n))
		if err == nil {
			best, times, plan, lo = n, t, p, n+1
			guess = min(guess, 1) * lo // one more than the guess should not fit
		} else {
			hi, guess = n-1, 0
		}
	}
	if best > 0 {
		a.offer(api.OfferFewer, a.withWorkers(best), []slotTimes{times}, []placement.Plan{plan})
	}
	return nil
}

// fitted guesses how many workers would fit, by how many had no place when all were
// tried; 0 if that is not known. Mostly it is right, and saves the bisection.
func (a *asker) fitted(all int) int {
	if a.why == nil {
		return 0
	}
	missing := 0
	for _, s := range a.why.Shortages {
		if s.Class == string(api.ClassCompute) || s.Class == string(api.ClassStorage) {
			missing = max(missing, s.Missing)
		}
	}
	return max(all-missing, 0)
}

func (a *asker) withWorkers(n int) *draft {
	return a.variant(func(s *api.Spec) { scaleWorkers(s, n) })
}

// scaleWorkers leaves n workers, spread over the groups in proportion; groups of
// none go.
func scaleWorkers(s *api.Spec, n int) {
	all, left := workers(*s), n
	for i := range s.Workers {
		share := s.Workers[i].Count * n / all
		left -= share
		s.Workers[i].Count = share
	}
	for i := 0; left > 0; i = (i + 1) % len(s.Workers) {
		s.Workers[i].Count++
		left--
	}
	s.Workers = slices.DeleteFunc(s.Workers, func(g api.WorkerGroup) bool { return g.Count == 0 })
}

// shapes tries the other worker shapes, at the time asked for, then later.
func (a *asker) shapes() error {
	for _, shape := range a.req.Shapes {
		d := a.variant(func(s *api.Spec) {
			for i := range s.Workers {
				s.Workers[i].NodeShape = shape
			}
		})
		times, plan, err := a.find(a.inv, a.within(d))
		if err == nil {
			a.offer(api.OfferShape, d, []slotTimes{times}, []placement.Plan{plan})
		}
	}
	return nil
}

// shorter is the longest slot, of at least LengthMin, at the time asked for.
func (a *asker) shorter() error {
	if a.req.LengthMin == "" {
		return nil
	}
	times, plan, err := a.longest(a.d, a.req.Shortest(a.d.window.EndOf(a.d.window.Earliest).Sub(a.d.window.Earliest)))
	if err != nil {
		return err
	}
	if !times.end.Before(a.d.window.EndOf(times.start)) {
		return nil
	}
	a.offer(api.OfferShorter, a.d, []slotTimes{times}, []placement.Plan{plan})
	return nil
}

// longest is the longest slot at the draft's own start.
func (a *asker) longest(d *draft, least time.Duration) (slotTimes, placement.Plan, error) {
	at, first := slots(d, a.lead, a.now)
	times := at(first)
	around := times.until().Sub(times.end)
	min := times
	min.end = times.start.Add(least)
	if err := a.ahead.before(min); err != nil {
		return times, placement.Plan{}, err
	}
	for i := range a.ahead { // no longer than until somebody's window
		if w := waitSpan(&a.ahead[i]); w.overlaps(times.provision, times.until()) {
			times.end = w.from.Add(-around)
		}
	}
	if err := subnetFits(a.v, len(d.nodes)); err != nil || times.end.Before(min.end) {
		return times, placement.Plan{}, &placement.NoFit{}
	}
	until, plan, err := a.inv.Longest(d.request(times), min.until().Sub(times.provision))
	if err != nil {
		return times, plan, err
	}
	times.end = until.Add(-around)
	if cut := times.end.Truncate(grain); !cut.Before(min.end) && times.end.Before(d.window.EndOf(first)) {
		times.end = cut
	}
	return times, plan, nil
}

// split is the longest slot at the time asked for, and the rest as soon as it fits.
func (a *asker) split() error {
	if !a.req.Split {
		return nil
	}
	whole := a.d.window.EndOf(a.d.window.Earliest).Sub(a.d.window.Earliest)
	first, plan1, err := a.longest(a.d, api.SlotLengthMin)
	if err != nil {
		return err
	}
	rest := whole - first.end.Sub(first.start)
	if rest < api.SlotLengthMin {
		return nil
	}
	inv := a.inv.Clone()
	inv.Add(plan1.Bookings(a.d.request(first))...)
	d := a.within(a.d)
	d.window.Earliest, d.window.Asap, d.window.Length, d.window.End = first.end, false, rest, time.Time{}
	if d.window.Latest.Before(d.window.Earliest) {
		return nil
	}
	second, plan2, err := a.find(inv, d)
	if err != nil {
		return err
	}
	a.offer(api.OfferSplit, a.d, []slotTimes{first, second}, []placement.Plan{plan1, plan2})
	return nil
}

// offer adds one.
func (a *asker) offer(kind string, d *draft, times []slotTimes, plans []placement.Plan) {
	o := api.Offer{Kind: kind, Project: d.spec.Project, Workers: workers(d.spec), Shape: d.spec.Workers[0].NodeShape}
	h := fsm.HeldOffer{Spec: d.spec}
	for i, t := range times {
		r := d.record(t, plans[i])
		o.Parts = append(o.Parts, api.OfferPart{Start: t.start, End: t.end, Provision: t.provision, Expected: expected(t.start, t.provision, t.lead)})
		h.Parts = append(h.Parts, fsm.Promise{Start: t.start.UTC(), End: t.end.UTC(), Provision: t.provision.UTC(), Lead: t.lead, Grace: t.grace, Nodes: r.Nodes})
	}
	o.Summary = summary(o, d.window.Zone)
	a.out = append(a.out, heldOffer{o, h})
}

// summary is an offer in one line.
func summary(o api.Offer, zone *time.Location) string {
	if zone == nil {
		zone = time.UTC
	}
	text := fmt.Sprintf("%d workers of %d cores and %s", o.Workers, o.Shape.CPUs, o.Shape.Memory.Short())
	for i, p := range o.Parts {
		if i > 0 {
			text += ", and"
		}
		text += fmt.Sprintf(" from %s for %s", p.Start.In(zone).Format("2006-01-02T15:04Z07:00"), api.FormatDuration(p.End.Sub(p.Start)))
	}
	return o.Kind + ": " + text
}

// hold holds the offers for as long as was asked, and gives them their ids.
func (a *asker) hold(ctx context.Context, list *api.OfferList) error {
	list.Items = list.Items[:0]
	life := a.req.HoldFor()
	if m, ok := a.v.Meta(); ok {
		life = min(life, m.Policy.OrDefault().HoldMax)
	}
	if life == 0 || len(a.out) == 0 {
		for _, o := range a.out {
			list.Items = append(list.Items, o.offer)
		}
		return nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make id of hold: %w", err)
	}
	expires := a.now.Add(life).UTC()
	h := fsm.Hold{ID: id.String(), Project: a.d.spec.Project, Owner: a.d.owner, Expires: expires}
	for i, o := range a.out {
		o.offer.ID, o.offer.Expires = fmt.Sprintf("%s-%d", h.ID, i+1), &expires
		o.held.ID, o.held.Offer = o.offer.ID, o.offer
		h.Offers = append(h.Offers, o.held)
		list.Items = append(list.Items, o.offer)
	}
	_, err = a.c.apply(ctx, fsm.HoldPlace{Hold: h})
	return err
}

// nearest adds to a refusal what would fit: later, or fewer workers. It works on a
// snapshot.
func (c *Control) nearest(d *draft, err error) error {
	var no *noFitError
	if !errors.As(err, &no) {
		return err
	}
	v, inv := c.planner.snapshot()
	return c.nearestOn(v, inv, d, no, 1)
}

// nearestOn is nearest on an inventory; workersMin 0: as many workers as there are.
func (c *Control) nearestOn(v *fsm.View, inv *placement.Inventory, d *draft, no *noFitError, workersMin int) error {
	now := c.now()
	a := c.asker(v, inv, d, now)
	a.req, a.why = api.OfferRequest{Spec: d.spec, WorkersMin: workersMin}, no.why
	if a.latest = now; d.window.Latest.After(now) {
		a.latest = d.window.Latest
	} else if d.window.Earliest.After(now) {
		a.latest = d.window.Earliest
	}
	a.latest = a.latest.Add(latestDefault)
	_, _ = a.later(), a.fewer() // a refusal without a nearest is a refusal all the same
	p := *no.Problem
	for _, o := range a.out {
		p.Nearest = append(p.Nearest, o.offer)
	}
	return &noFitError{Problem: &p, why: no.why}
}
