package fsm

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// HoldPlace holds the offers that answer one question.
type HoldPlace struct{ Hold Hold }

// HoldRelease gives a hold back before it expires.
type HoldRelease struct{ ID string }

var (
	_ = register[HoldPlace](TypeHoldPlace, "HoldPlace")
	_ = register[HoldRelease](TypeHoldRelease, "HoldRelease")
)

// Type is the command's number.
func (HoldPlace) Type() Type { return TypeHoldPlace }

// Type is the command's number.
func (HoldRelease) Type() Type { return TypeHoldRelease }

func (c HoldPlace) apply(t *tx) error {
	h := c.Hold
	if !validID(h.ID) || !validID(h.Project) || len(h.Offers) == 0 || len(h.Offers) > OffersMax {
		return invalid("hold %q of project %q with %d offers: want 1-%d", h.ID, h.Project, len(h.Offers), OffersMax)
	}
	if _, dup := first[Hold](t.reader, tabHolds, "id", key(h.ID)); dup {
		return fmt.Errorf("hold %q: %w", h.ID, ErrExists)
	}
	m, err := t.meta()
	if err != nil {
		return err
	}
	policy, have := m.Policy.OrDefault(), 0
	for o := range scan[Hold](t.reader, tabHolds, "id", nil) {
		if o.Project == h.Project {
			have++
		}
	}
	if have >= policy.HoldsMax {
		return fmt.Errorf("project %s has %d holds: %w", h.Project, have, ErrQuota)
	}
	h.Created, h.Expires = t.now, h.Expires.UTC()
	if !h.Expires.After(t.now) || h.Expires.After(t.now.Add(policy.HoldMax)) {
		return invalid("hold until %s: want at most %s from now", h.Expires, policy.HoldMax)
	}
	ids := map[string]bool{}
	for _, o := range h.Offers {
		if err := t.checkOffer(o); err != nil {
			return err
		}
		if _, _, dup := (&View{reader: t.reader}).OfferByID(o.ID); dup || ids[o.ID] {
			return fmt.Errorf("offer %q: %w", o.ID, ErrExists)
		}
		ids[o.ID] = true
	}
	t.put(tabHolds, &h)
	return t.admit(heldBy(&h), nil)
}

func (t *tx) checkOffer(o HeldOffer) error {
	if !validID(o.ID) || len(o.Parts) < 1 || len(o.Parts) > OfferPartsMax {
		return invalid("offer %q of %d slots: want 1-%d", o.ID, len(o.Parts), OfferPartsMax)
	}
	for _, p := range o.Parts {
		r := Reservation{Start: p.Start, End: p.End, Provision: p.Provision, Lead: p.Lead, Grace: p.Grace, Nodes: p.Nodes, Spec: o.Spec}
		if err := t.checkPromise(&r); err != nil {
			return fmt.Errorf("offer %s: %w", o.ID, err)
		}
	}
	return nil
}

func (c HoldRelease) apply(t *tx) error {
	h, ok := first[Hold](t.reader, tabHolds, "id", key(c.ID))
	if !ok {
		return fmt.Errorf("hold %q: %w", c.ID, ErrNotFound)
	}
	t.endHold(h)
	return nil
}

func (t *tx) endHold(h *Hold) {
	t.unbookAll(h.ID)
	t.del(tabHolds, h)
}

// takeHold ends a hold so that what it held can be booked.
func (t *tx) takeHold(id, project string) error {
	if id == "" {
		return nil
	}
	h, ok := first[Hold](t.reader, tabHolds, "id", key(id))
	if !ok || h.Project != project || !h.Expires.After(t.now) {
		return fmt.Errorf("hold %q: %w", id, ErrNoHold)
	}
	t.endHold(h)
	return nil
}

// heldBy is what a hold books: of each host at each instant the most that any
// one of its offers needs.
func heldBy(h *Hold) []*Booking {
	lines := map[string][]Step{}
	for _, o := range h.Offers {
		var own []*Booking
		for _, p := range o.Parts {
			r := Reservation{ID: h.ID, State: "booked", Start: p.Start, End: p.End, Provision: p.Provision, Grace: p.Grace, Nodes: p.Nodes, Spec: o.Spec}
			own = append(own, bookingsOf(&r)...)
		}
		sums := map[string][]Step{}
		for _, b := range own {
			sums[b.Host] = shifted(sums[b.Host], b.From.UnixNano(), b.Until.UnixNano(), func(a Amounts) Amounts { return a.plus(b.amounts()) })
		}
		for host, s := range sums { // each host by itself: the order does not matter
			lines[host] = highest(lines[host], s)
		}
	}
	var out []*Booking
	for host, steps := range lines { // sorted below
		for i, s := range steps {
			if s.Amounts != (Amounts{}) {
				out = append(out, &Booking{Host: host, Owner: h.ID, From: time.Unix(0, s.At).UTC(), Until: time.Unix(0, steps[i+1].At).UTC(),
					CPUs: s.CPUs, MemoryBytes: s.MemoryBytes, StorageBytes: s.StorageBytes, Clusters: s.Clusters})
			}
		}
	}
	slices.SortFunc(out, func(a, b *Booking) int { return cmp.Or(cmp.Compare(a.Host, b.Host), a.From.Compare(b.From)) })
	return out
}

// highest is the larger of two timelines at each instant.
func highest(a, b []Step) []Step {
	var out []Step
	var instants []int64
	for _, s := range a {
		instants = append(instants, s.At)
	}
	for _, s := range b {
		instants = append(instants, s.At)
	}
	slices.Sort(instants)
	last := Amounts{}
	for _, t := range slices.Compact(instants) {
		x, y := at(a, t), at(b, t)
		m := Amounts{max(x.CPUs, y.CPUs), max(x.MemoryBytes, y.MemoryBytes), max(x.StorageBytes, y.StorageBytes), max(x.Clusters, y.Clusters)}
		if m != last {
			out = append(out, Step{t, m})
		}
		last = m
	}
	return out
}
