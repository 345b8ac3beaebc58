package control

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"vcn/api"
	"vcn/fsm"
)

// Park ends a reservation now and keeps its volumes. by is the token's id.
func (c *Control) Park(ctx context.Context, id string, req api.ParkRequest, by string) (*fsm.Reservation, error) {
	req = req.Defaults()
	if errs := req.Validate(); len(errs) > 0 {
		return nil, api.Invalid(countFields(errs), errs)
	}
	res, err := c.apply(ctx, fsm.ReservationPark{ID: id, By: by, For: duration(req.For)})
	switch {
	case errors.Is(err, fsm.ErrNoCapacity):
		return nil, &api.Problem{Status: http.StatusConflict, Code: api.CodeNoFit, Detail: "its volumes cannot be kept for so long",
			Reasons: []string{err.Error()}, Next: "park it for a shorter time (--for); the storage is promised to others later"}
	case errors.Is(err, fsm.ErrInvalid):
		return nil, api.Invalid(err.Error(), []api.FieldError{{Field: "for", Value: req.For, Want: "1h to what the operator allows (vcnctl policy show)"}})
	}
	return c.answer(id, res, err)
}

// resumeRequest is what a repeated call is recognised by.
type resumeRequest struct {
	ID   string
	Slot api.Slot
}

// Resume books a parked reservation for a new slot.
func (c *Control) Resume(ctx context.Context, id string, slot api.Slot, key string) (*fsm.Reservation, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	hash, err := keyHash(key, resumeRequest{id, slot})
	if err != nil {
		return nil, err
	}
	var why error
	for range replanTriesMax {
		r, ok := c.cfg.State.View().Reservation(id)
		if !ok {
			return nil, noReservation(id)
		}
		if old, err := c.replay(hash, r.Project, key); old != nil || err != nil {
			return old, err
		}
		cmd, f, _, err := c.planResume(r, slot, true)
		if errors.Is(err, errSlotGone) {
			why = err
			continue
		}
		if err != nil {
			return nil, err
		}
		cmd.Key, cmd.RequestHash = key, hash
		res, err := c.apply(ctx, cmd)
		c.planner.land(f, err == nil)
		if err == nil {
			return res.Reservation, nil
		}
		if why = err; !moved(err) && !errors.Is(err, fsm.ErrChanged) {
			break
		}
	}
	return nil, stateProblem(why)
}

// PlanResume says what Resume would book, and books nothing.
func (c *Control) PlanResume(id string, slot api.Slot) (api.Plan, error) {
	r, ok := c.cfg.State.View().Reservation(id)
	if !ok {
		return api.Plan{}, noReservation(id)
	}
	_, _, made, err := c.planResume(r, slot, false)
	if err != nil {
		return api.Plan{}, stateProblem(err)
	}
	return c.showPlan(&made, nil, c.now()), nil
}

// resumeDraft is a parked reservation in a new slot as a draft.
func resumeDraft(r *fsm.Reservation, slot api.Slot, now time.Time) (*draft, error) {
	if r.State != api.StateParked {
		return nil, &api.Problem{Status: http.StatusConflict, Code: api.CodeConflict, Detail: r.Name + " is " + string(r.State) + ", not parked",
			Next: "vcnctl show " + r.Name}
	}
	if slot.Repeat != "" {
		return nil, api.Invalid("one field is wrong", []api.FieldError{{Field: "slot.repeat", Value: slot.Repeat, Want: "nothing: it can come back once"}})
	}
	spec := r.Spec
	spec.Slot = slot
	window, err := spec.ResolveWindow(now)
	if err != nil {
		return nil, slotProblem(err)
	}
	return &draft{spec: spec, window: window, id: r.ID, nodes: r.Nodes, grace: spec.Grace(), parkFor: timesOf(r).parkFor,
		recipes: digests(r.Recipes), pinStorage: true}, nil
}

// planResume finds a slot and hosts for a parked reservation. Its disks stay
// where they are.
func (c *Control) planResume(r fsm.Reservation, slot api.Slot, keep bool) (fsm.ReservationResume, *flight, fsm.Reservation, error) {
	cmd := fsm.ReservationResume{ID: r.ID, Modified: r.Modified}
	now := c.now()
	d, err := resumeDraft(&r, slot, now)
	if err != nil {
		return cmd, nil, r, err
	}
	p := c.planner
	v, inv := p.snapshot()
	inv.Remove(placeBookings(v.BookingsOf(r.ID))...)
	times, _, err := findSlot(inv, d, p.leadOf(v, d, now), now, queue(v.Waitlist()).starving())
	if err != nil {
		err = noFit(err)
		if no := (*noFitError)(nil); errors.As(err, &no) {
			err = c.nearestOn(v, inv, d, no, 0)
		}
		return cmd, nil, r, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	v = p.state.View()
	inv = p.inv.follow(v).Clone()
	held := placeBookings(v.BookingsOf(r.ID))
	if now, ok := v.Reservation(r.ID); !ok || now.Modified != r.Modified {
		return cmd, nil, r, errSlotGone
	}
	if until, _ := inv.Extend(held, times.provision); until.Before(times.provision) {
		return cmd, nil, r, keptTooShort(until, r.Zone)
	}
	inv.Remove(held...)
	q := d.request(times)
	plan, err := inv.Plan(q)
	if err != nil {
		return cmd, nil, r, errSlotGone
	}
	cmd.Spec, cmd.Zone, cmd.Seats = d.spec, slot.Zone, seats(plan)
	cmd.Start, cmd.End, cmd.Provision, cmd.Lead, cmd.Grace = times.start, times.end, times.provision, times.lead, times.grace
	made := r
	made.Start, made.End, made.Provision, made.Lead = times.start, times.end, times.provision, times.lead
	made.Nodes = slices.Clone(r.Nodes)
	for i, a := range plan.Nodes {
		made.Nodes[i].Host, made.Nodes[i].Storage = a.Host, a.Storage
	}
	if !times.provision.After(now) {
		b, err := p.binding(&r, r.Nodes)
		if err != nil {
			return cmd, nil, r, err
		}
		cmd.Bind = &b
	}
	f := changedFlight(&r, beyond(plan.Bookings(q), held))
	if keep {
		p.inv.add(f)
	}
	return cmd, f, made, nil
}

// keptTooShort: between its parking and its new slot others are promised the storage.
func keptTooShort(until time.Time, zone string) error {
	return &api.Problem{Status: http.StatusConflict, Code: api.CodeNoFit, Detail: "its disks cannot be kept until that slot",
		Reasons: []string{"the storage of its disks is promised to others from " + until.In(zoneOf(zone)).Format(time.RFC3339)},
		Next:    "ask for an earlier slot"}
}

// Policy is what the operator has set.
func (c *Control) Policy() api.Policy {
	m, _ := c.cfg.State.View().Meta()
	p := m.Policy.OrDefault()
	return api.Policy{HoldMax: api.FormatDuration(p.HoldMax), HoldsMax: p.HoldsMax, ParkMax: api.FormatDuration(p.ParkMax),
		ParkBytes: api.Quantity(p.ParkBytes), SeriesMax: p.SeriesMax, WaitMax: p.WaitMax}
}

// SetPolicy replaces it.
func (c *Control) SetPolicy(ctx context.Context, p api.Policy) error {
	p = p.Defaults()
	if errs := p.Validate(); len(errs) > 0 {
		return api.Invalid(countFields(errs), errs)
	}
	_, err := c.apply(ctx, fsm.PolicySet{Policy: fsm.Policy{HoldMax: duration(p.HoldMax), HoldsMax: p.HoldsMax, ParkMax: duration(p.ParkMax),
		ParkBytes: int64(p.ParkBytes), SeriesMax: p.SeriesMax, WaitMax: p.WaitMax}})
	if errors.Is(err, fsm.ErrInvalid) {
		return api.Invalid(err.Error(), nil)
	}
	return err
}

// CreateFeed makes the secret of a project's iCalendar feed: a token that shows
// times and names and nothing else.
func (c *Control) CreateFeed(ctx context.Context, req api.FeedRequest, project, by string) (api.Feed, error) {
	if req.Project == "" {
		req.Project = project
	}
	req = req.Defaults()
	errs := req.Validate()
	if req.Project == "" {
		errs = append(errs, api.FieldError{Field: "project", Want: "the project whose calendar it is (an operator's token has none of its own)"})
	}
	if len(errs) > 0 {
		return api.Feed{}, api.Invalid(countFields(errs), errs)
	}
	t, err := c.makeToken(ctx, api.TokenRequest{Kind: api.TokenFeed, Project: req.Project, Note: "calendar feed", For: req.For}, by)
	if err != nil {
		return api.Feed{}, err
	}
	return api.Feed{ID: t.ID, Project: req.Project, URL: api.PathFeed + "?feed=" + t.Secret, Expires: t.Expires}, nil
}

// zoneOf is a time zone by name; UTC if it names none.
func zoneOf(name string) *time.Location {
	if z, err := api.LoadZone(name); err == nil && name != "" {
		return z
	}
	return time.UTC
}
