package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"vcn/api"
	"vcn/fsm"
	"vcn/placement"
)

func offerGone() *api.Problem {
	return &api.Problem{Status: http.StatusConflict, Code: api.CodeExpired,
		Detail: "this offer is not held any more: its time is over, or one of its alternatives was taken", Next: "ask again: vcnctl when"}
}

// Offer finds a held offer; its project is in it.
func (c *Control) Offer(id string) (api.Offer, error) {
	_, o, ok := c.cfg.State.View().OfferByID(id)
	if !ok {
		return api.Offer{}, offerGone()
	}
	return o.Offer, nil
}

// ReleaseOffer gives the hold of an offer back, with all its alternatives.
func (c *Control) ReleaseOffer(ctx context.Context, id string) error {
	h, _, ok := c.cfg.State.View().OfferByID(id)
	if !ok {
		return offerGone()
	}
	_, err := c.apply(ctx, fsm.HoldRelease{ID: h.ID})
	if errors.Is(err, fsm.ErrNotFound) {
		return nil
	}
	return err
}

// takeRequest is what a repeated call is recognised by.
type takeRequest struct{ Offer, Name string }

// TakeOffer books a held offer. name, if not empty, replaces the one that was
// asked with. Of a split offer the second slot is named NAME-2. An offer that was
// to start at once starts now, and ends when it was to end. Where a host of it is
// out of use meanwhile, others are taken.
func (c *Control) TakeOffer(ctx context.Context, id, name, project, owner, key string) (*fsm.Reservation, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	hash, err := keyHash(key, takeRequest{id, name})
	if err != nil {
		return nil, err
	}
	if r, err := c.replay(hash, project, key); r != nil || err != nil {
		return r, err
	}
	var why error
	for range replanTriesMax {
		cmd, f, err := c.planTake(id, name, project, owner)
		if err != nil {
			// The same request may have taken it since.
			if r, rerr := c.replay(hash, project, key); r != nil || rerr != nil {
				return r, rerr
			}
			return nil, err
		}
		cmd.Key, cmd.RequestHash = key, hash
		if err := c.bindFirst(&cmd, c.now()); err != nil {
			c.planner.land(f, false)
			return nil, err
		}
		res, err := c.apply(ctx, cmd)
		c.planner.land(f, err == nil)
		if err == nil {
			return res.Reservation, nil
		}
		if why = err; !moved(err) && !errors.Is(err, fsm.ErrTurn) {
			break
		}
	}
	return nil, stateProblem(why)
}

// planTake makes the command that takes an offer.
func (c *Control) planTake(id, name, project, owner string) (fsm.ReservationBook, *flight, error) {
	var cmd fsm.ReservationBook
	p := c.planner
	p.mu.Lock()
	defer p.mu.Unlock()
	v, now := p.state.View(), c.now()
	h, o, ok := v.OfferByID(id)
	if !ok || h.Project != project || !h.Expires.After(now) {
		return cmd, nil, offerGone()
	}
	cmd.Hold = h.ID
	held := placeBookings(v.BookingsOf(h.ID))
	inv := p.inv.follow(v).Clone()
	inv.Remove(held...)
	waiting := queue(v.Waitlist())
	var wanted []placement.Booking
	var drafts []*draft
	for i, part := range o.Parts {
		d, times, err := c.taken(partSpec(o.Spec, name, i, part), part, owner, now)
		if err != nil {
			return cmd, nil, err
		}
		q := placeRequest(request(d.nodes, true), times)
		plan, err := inv.Plan(q)
		if err != nil {
			plan, err = inv.Plan(unpinned(q, false))
		}
		if err != nil {
			return cmd, nil, noFit(err)
		}
		own := plan.Bookings(q)
		inv.Add(own...)
		wanted, drafts = append(wanted, own...), append(drafts, d)
		cmd.Reservations, cmd.Passed = append(cmd.Reservations, d.record(times, plan)), waiting.passedBy(times, cmd.Passed)
	}
	cmd.Images = p.images(v, drafts)
	first := cmd.Reservations[0].ID
	f := &flight{id: first, bookings: beyond(wanted, held), landed: func(v *fsm.View) bool { _, ok := v.Reservation(first); return ok }}
	p.inv.add(f)
	return cmd, f, nil
}

// partSpec is the specification of one slot of an offer.
func partSpec(spec api.Spec, name string, i int, p fsm.Promise) api.Spec {
	if name != "" {
		spec.Name = name
	}
	if i > 0 {
		spec.Name = fmt.Sprintf("%s-%d", spec.Name, i+1)
	}
	zone := zoneOf(spec.Slot.Zone)
	spec.Slot = api.Slot{Start: p.Start.In(zone).Format(time.RFC3339), End: p.End.In(zone).Format(time.RFC3339), Zone: spec.Slot.Zone}
	return spec
}

// taken is one slot of an offer as a draft, with its times.
func (c *Control) taken(spec api.Spec, p fsm.Promise, owner string, now time.Time) (*draft, slotTimes, error) {
	s := slotTimes{start: p.Start, end: p.End, provision: p.Provision, lead: p.Lead, grace: p.Grace}
	if errs := spec.Validate(); len(errs) > 0 {
		return nil, s, api.Invalid(countFields(errs), errs)
	}
	if spec.AtEnd != nil && spec.AtEnd.Action == api.EndPark {
		s.parkFor = spec.ParkFor()
	}
	if s.provision.Before(now) { // time went on since it was offered
		s.provision = now
	}
	if s.start.Before(now) {
		s.start = now
	}
	if s.end.Sub(s.start) < api.SlotLengthMin {
		return nil, s, &api.Problem{Status: http.StatusConflict, Code: api.CodeExpired,
			Detail: "the slot of this offer is over", Next: "ask again: vcnctl when"}
	}
	d := &draft{spec: spec, owner: owner, nodes: p.Nodes}
	if err := d.resolveRolls(c.recipes); err != nil {
		return nil, s, err
	}
	for i, u := range spec.Users {
		d.users = append(d.users, fsm.User{Name: u.Name, UID: firstUID + i, Keys: u.Keys, Admin: u.Admin})
	}
	return d, s, d.rename()
}
