package fsm

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"

	"vcn/api"
)

// What owners and the leader do to reservations in random histories; hosts and
// time are in property_test.go.

func (h *history) pick(name string, of func(*Reservation) bool) (Reservation, bool) {
	list := slices.DeleteFunc(h.f.View().Reservations(ReservationFilter{}), func(r Reservation) bool { return !of(&r) })
	if len(list) == 0 {
		return Reservation{}, false
	}
	return rapid.SampledFrom(list).Draw(h.rt, name), true
}

func any1(*Reservation) bool { return true }

func (h *history) minutes(name string, lo, hi int) time.Duration {
	return time.Duration(rapid.IntRange(lo, hi).Draw(h.rt, name)) * time.Minute
}

// seats are at random; volumes that exist stay.
func (h *history) seats(r *Reservation) []Seat {
	var out []Seat
	for i, n := range r.Nodes {
		s := Seat{"a", rapid.SampledFrom([]string{"a", "b"}).Draw(h.rt, "storage")}
		if i > 0 {
			s.Host = h.host()
		}
		if n.Volume != "" {
			s.Storage = n.Storage
		}
		out = append(out, s)
	}
	return out
}

// unchanged is a change of nothing.
func unchanged(r *Reservation) ReservationChange {
	c := ReservationChange{ID: r.ID, Modified: r.Modified, By: "op", Name: r.Name, Start: r.Start, End: r.End, Provision: r.Provision,
		Lead: r.Lead, Grace: r.Grace, Zone: r.Zone, Wait: r.Wait, Spec: r.Spec, Nodes: slices.Clone(r.Nodes), Rolls: r.Rolls, Recipes: r.Recipes}
	for _, n := range r.Nodes {
		if n.Leaving {
			c.Leave = append(c.Leave, Leave{n.Name, n.LeaveBy})
		}
	}
	return c
}

func (h *history) change(*rapid.T) {
	r, ok := h.pick("changed", any1)
	if !ok {
		return
	}
	c := unchanged(&r)
	switch rapid.IntRange(0, 10).Draw(h.rt, "what") {
	case 0, 1:
		c.End = c.End.Add(h.minutes("longer", -90, 180))
	case 2, 3:
		h.grow(&c)
	case 4, 5:
		h.shrink(&c)
	case 6:
		by := h.minutes("later", -60, 120)
		c.Start, c.End, c.Provision = c.Start.Add(by), c.End.Add(by), c.Provision.Add(by)
	case 7:
		c.Name, c.Spec.Name = "renamed", "renamed"
	case 8:
		c.Spec.AtEnd = h.atEnd()
		c.Grace = c.Spec.Grace()
	case 9:
		c.Leave = nil
	case 10:
		c.Recipes = map[string]string{"frontend": "rec-f", "worker": "rec-w2"}
		c.Images = []ImageWant{{Recipe: "rec-w2", Appliance: "worker", Builder: h.host()}}
		if c.Reinstall = rapid.Bool().Draw(h.rt, "reinstall"); c.Reinstall {
			for i := range c.Nodes {
				c.Nodes[i].Volume = ""
			}
			c.Binding = binding(&Reservation{ID: r.ID, Modified: r.Modified, Nodes: c.Nodes})
		}
	}
	if c.Wait != nil {
		c.Wait = &Wait{Earliest: c.Start, Latest: c.Start.Add(time.Hour), Length: c.End.Sub(c.Start)}
	}
	h.do(c)
}

func (h *history) grow(c *ReservationChange) {
	n := testNode(1+rapid.IntRange(0, 5).Draw(h.rt, "number"), h.host(), rapid.SampledFrom([]string{"a", "b"}).Draw(h.rt, "storage"), 1)
	if slices.ContainsFunc(c.Nodes, func(o Node) bool { return o.Name == n.Name }) {
		return
	}
	c.Nodes = append(c.Nodes, n)
	c.Binding = binding(&Reservation{ID: c.ID, Modified: c.Modified, Nodes: []Node{n}})
}

func (h *history) shrink(c *ReservationChange) {
	n := rapid.SampledFrom(c.Nodes).Draw(h.rt, "leaver")
	l := Leave{Node: n.Name}
	if rapid.Bool().Draw(h.rt, "deadline") {
		l.By = h.now.Add(h.minutes("deadline", 0, 60))
	}
	if r := h.get(c.ID); r.Running() {
		c.Leave = append(slices.DeleteFunc(c.Leave, func(o Leave) bool { return o.Node == n.Name }), l)
		return
	}
	c.Nodes = slices.DeleteFunc(c.Nodes, func(o Node) bool { return o.Name == n.Name })
}

func (h *history) atEnd() *api.AtEnd {
	return &api.AtEnd{Action: rapid.SampledFrom([]string{api.EndRelease, api.EndPark}).Draw(h.rt, "at end"),
		Grace:   rapid.SampledFrom([]string{"0s", "10m"}).Draw(h.rt, "grace"),
		ParkFor: rapid.SampledFrom([]string{"1h", "3h"}).Draw(h.rt, "park for"),
		Warn:    rapid.SampledFrom([][]string{nil, {"0s"}, {"30m", "5m"}}).Draw(h.rt, "warn")}
}

func (h *history) park(*rapid.T) {
	if r, ok := h.pick("parks", func(r *Reservation) bool { return r.State != api.StateWaitlisted }); ok {
		h.do(ReservationPark{ID: r.ID, By: "op", For: h.minutes("park", 60, 240)})
	}
}

func (h *history) resume(*rapid.T) {
	r, ok := h.pick("resumes", func(r *Reservation) bool { return r.State == api.StateParked })
	if !ok {
		return
	}
	in := h.minutes("in", 0, 60)
	c := ReservationResume{ID: r.ID, Modified: r.Modified, Spec: r.Spec, Provision: h.now.Add(in), Start: h.now.Add(in), Seats: h.seats(&r)}
	c.Spec.AtEnd = h.atEnd()
	c.Grace, c.End = c.Spec.Grace(), c.Start.Add(h.minutes("for", 1, 240))
	if in == 0 && rapid.Bool().Draw(h.rt, "bind") {
		b := binding(&r)
		if rapid.Bool().Draw(h.rt, "old credentials") {
			b.Volumes = nil
		}
		c.Bind = &b
	}
	h.do(c)
}

func (h *history) reseat(*rapid.T) {
	c := ReservationReseat{Why: "to make room"}
	for range rapid.IntRange(1, 2).Draw(h.rt, "moves") {
		if r, ok := h.pick("moved", func(r *Reservation) bool { return r.State == api.StateBooked }); ok {
			c.Moves = append(c.Moves, Move{r.ID, r.Modified, h.seats(&r)})
		}
	}
	h.do(c)
}

// hold holds one or two offers of one or two slots.
func (h *history) hold(*rapid.T) {
	h.serial++
	hold := Hold{ID: fmt.Sprint("h", h.serial), Project: "studio", Expires: h.now.Add(h.minutes("held", 1, 60))}
	for i := range rapid.IntRange(1, 2).Draw(h.rt, "offers") {
		o := HeldOffer{ID: fmt.Sprint(hold.ID, "-", i), Offer: api.Offer{Kind: api.OfferExact}}
		for range rapid.IntRange(1, 2).Draw(h.rt, "parts") {
			r := h.draft().Reservations[0]
			o.Spec = r.Spec
			o.Parts = append(o.Parts, Promise{Start: r.Start, End: r.End, Provision: r.Provision, Lead: r.Lead, Grace: r.Grace, Nodes: r.Nodes})
		}
		hold.Offers = append(hold.Offers, o)
	}
	h.do(HoldPlace{hold})
}

// take books an offer, or gives the hold back. An offer alone in its hold always fits.
func (h *history) take(*rapid.T) {
	holds := h.f.View().Holds()
	if len(holds) == 0 {
		return
	}
	hold := rapid.SampledFrom(holds).Draw(h.rt, "hold")
	if rapid.IntRange(0, 3).Draw(h.rt, "give back") == 0 {
		h.must(HoldRelease{hold.ID})
		return
	}
	c := h.draft()
	c.Hold, c.Bind = hold.ID, nil
	like := c.Reservations[0]
	c.Reservations = nil
	o := rapid.SampledFrom(hold.Offers).Draw(h.rt, "offer")
	for i, p := range o.Parts {
		r := like
		r.ID, r.Name = fmt.Sprint(like.ID, "-", i), fmt.Sprint("taken-", hold.ID, "-", i)
		r.Start, r.End, r.Provision, r.Lead, r.Grace, r.Nodes, r.Spec = p.Start, p.End, p.Provision, p.Lead, p.Grace, p.Nodes, o.Spec
		c.Reservations = append(c.Reservations, r)
	}
	v := h.f.View()
	healthy := !slices.ContainsFunc(v.Hosts(), func(x Host) bool { return x.Status != HostAlive || x.Short != "" })
	res := h.do(c)
	if late := v.Overruns(); errors.Is(res.Err, ErrNoCapacity) && healthy && len(late) == 0 && hold.Expires.After(h.f.View().Clock()) && o.Parts[0].End.After(h.f.View().Clock()) {
		for _, p := range o.Parts {
			if !p.End.After(h.f.View().Clock()) {
				return
			}
		}
		h.rt.Fatalf("an offer that was held until %s is refused: %v", hold.Expires, res.Err)
	}
}

func (h *history) enlist(*rapid.T) {
	c := h.draft()
	r := &c.Reservations[0]
	c.Bind, r.State = nil, api.StateWaitlisted
	r.Wait = &Wait{Earliest: h.now, Latest: h.now.Add(h.minutes("latest", 1, 240)), Length: h.minutes("length", 1, 240)}
	h.do(c)
}

func (h *history) claim(*rapid.T) {
	list := h.f.View().Waitlist()
	if len(list) == 0 {
		return
	}
	i := rapid.IntRange(0, len(list)-1).Draw(h.rt, "claims")
	r := list[i]
	c := ReservationClaim{ID: r.ID, Modified: r.Modified, Start: h.now.Add(time.Minute), Provision: h.now, Lead: time.Minute, Seats: h.seats(&r)}
	c.End = c.Start.Add(r.Wait.Length)
	for _, o := range list[:i] {
		c.Passed = append(c.Passed, o.ID)
	}
	if rapid.Bool().Draw(h.rt, "bind") {
		r.Modified = h.f.Index()
		b := binding(&r)
		c.Bind = &b
	}
	h.do(c)
}

func (h *history) series(*rapid.T) {
	c := h.draft()
	first := c.Reservations[0]
	c.Bind = nil
	c.Series = &Series{ID: "s" + first.ID, Name: first.Name, Project: first.Project, Spec: first.Spec}
	c.Reservations = nil
	for i := range rapid.IntRange(1, 3).Draw(h.rt, "dates") {
		r := first
		r.ID, r.Name, r.Series = fmt.Sprint(first.ID, "-", i), fmt.Sprint(first.Name, "-", i), c.Series.ID
		by := time.Duration(i) * 5 * time.Hour
		r.Start, r.End, r.Provision = r.Start.Add(by), r.End.Add(by), r.Provision.Add(by)
		c.Reservations = append(c.Reservations, r)
	}
	h.do(c)
}

func (h *history) policy(*rapid.T) {
	p := DefaultPolicy
	p.ParkBytes = rapid.SampledFrom([]int64{0, 0, 40 * gib}).Draw(h.rt, "park bytes")
	p.HoldsMax = rapid.IntRange(1, 10).Draw(h.rt, "holds")
	h.must(PolicySet{p})
	h.must(NotifyDone{h.f.Index()})
}
