package fsm

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"vcn/api"
)

// CheckInvariants says everything that must never be true of a state. Tests
// call it after every apply. It works from the records, not from the indexes
// and derived tables that Apply uses, and compares those with its own result.
func CheckInvariants(v *View) error {
	return errors.Join(
		v.checkBookings(), v.checkLeasesHeld(), v.checkDisks(), v.checkWork(),
		v.checkStates(), v.checkPromises(), v.checkImagesKept(), v.checkBounds(),
	)
}

// live returns every live reservation by a scan of all.
func (v *View) live() []Reservation {
	return slices.DeleteFunc(v.Reservations(ReservationFilter{Closed: true}), func(r Reservation) bool { return !r.Live() })
}

// checkBookings: no host is overbooked at any instant, and bookings and
// timelines are what the reservations say.
func (v *View) checkBookings() error {
	var want []Booking
	for _, r := range v.live() {
		for _, b := range bookingsOf(&r) {
			want = append(want, *b)
		}
	}
	for _, h := range v.Holds() {
		for _, b := range heldBy(&h) {
			want = append(want, *b)
		}
	}
	byID := func(a, b Booking) int {
		return cmp.Or(cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.Host, b.Host), a.From.Compare(b.From), a.Until.Compare(b.Until))
	}
	have := list(scan[Booking](v.reader, tabBookings, "id", nil))
	slices.SortFunc(have, byID)
	slices.SortFunc(want, byID)
	if !slices.Equal(have, want) {
		return fmt.Errorf("bookings are %v, reservations and holds say %v", have, want)
	}
	byHost := map[string][]Booking{}
	for _, b := range want {
		byHost[b.Host] = append(byHost[b.Host], b)
	}
	hosts := v.Hosts()
	if _, ok := v.Meta(); ok {
		hosts = append(hosts, Host{ID: Identifiers, Name: "the pool of identifiers"})
	}
	for _, h := range hosts {
		if err := v.checkHostTime(h, byHost[h.ID]); err != nil {
			return err
		}
		delete(byHost, h.ID)
	}
	if len(byHost) > 0 {
		return fmt.Errorf("bookings of unknown hosts: %v", byHost)
	}
	return nil
}

// checkHostTime sums the bookings at every instant at which one begins or ends.
func (v *View) checkHostTime(h Host, bookings []Booking) error {
	var instants []int64
	for _, b := range bookings {
		instants = append(instants, b.From.UnixNano(), b.Until.UnixNano())
	}
	slices.Sort(instants)
	have, _, err := v.capacity(h.ID)
	if err != nil {
		return err
	}
	steps, n, last := v.steps(h.ID), 0, Amounts{}
	for _, t := range slices.Compact(instants) {
		var sum Amounts
		for _, b := range bookings {
			if b.From.UnixNano() <= t && b.Until.UnixNano() > t {
				sum = sum.plus(b.amounts())
			}
		}
		if got := at(steps, t); got != sum {
			return fmt.Errorf("timeline of %s at %s is %+v, bookings sum to %+v", h.Name, time.Unix(0, t).UTC(), got, sum)
		}
		future := t > v.Clock().UnixNano() // what is over was admitted when it was not
		if future && h.Short == "" && (sum.CPUs > have.CPUs || sum.MemoryBytes > have.MemoryBytes || sum.StorageBytes > have.StorageBytes || sum.Clusters > have.Clusters) {
			return fmt.Errorf("%s is overbooked at %s: %+v", h.Name, time.Unix(0, t).UTC(), sum)
		}
		if sum != last {
			n++
		}
		last = sum
	}
	if len(steps) != n {
		return fmt.Errorf("timeline of %s has %d steps, its bookings %d", h.Name, len(steps), n)
	}
	return nil
}

// checkLeasesHeld: live reservations hold exactly their leases, each value
// once, and nobody else holds any; names are unique.
func (v *View) checkLeasesHeld() error {
	want, names := map[[2]string]Lease{}, map[[2]string]bool{}
	for _, r := range v.live() {
		if names[[2]string{r.Project, r.Name}] {
			return fmt.Errorf("name %s/%s is held twice", r.Project, r.Name)
		}
		names[[2]string{r.Project, r.Name}] = true
		if bound := r.Bound; bound != (r.VLAN != 0) {
			return fmt.Errorf("reservation %s: bound %v, VLAN %d", r.ID, bound, r.VLAN)
		}
		for _, l := range leasesOf(&r) {
			k := [2]string{l.Kind, l.Value}
			if o, twice := want[k]; twice {
				return fmt.Errorf("%s %s is leased to %s and %s", l.Kind, l.Value, o.Reservation, l.Reservation)
			}
			want[k] = l
		}
	}
	for _, l := range v.Leases() {
		k := [2]string{l.Kind, l.Value}
		if want[k] != l {
			return fmt.Errorf("lease %+v is of no live reservation", l)
		}
		delete(want, k)
	}
	for _, l := range want { // any one will do
		return fmt.Errorf("live reservation without its lease %+v", l)
	}
	return nil
}

// checkDisks: every node of a live reservation has its volume, served to its
// generation, and there is no other volume. One that its host holds ready is made.
func (v *View) checkDisks() error {
	n := 0
	for _, r := range v.live() {
		for _, node := range r.Nodes {
			if node.Leaving && r.State == api.StateEnding { // it may have been deleted already
				if vol, ok := v.Volume(node.Volume); ok && vol.Reservation == r.ID {
					n++
				}
				continue
			}
			if !r.Bound && !r.Kept || node.LeftIndex != 0 && node.State == NodeGone {
				if vol, ok := v.Volume(node.Volume); ok {
					return fmt.Errorf("node %s/%s is only promised, or gone, and has volume %s", r.ID, node.Name, vol.ID)
				}
				continue
			}
			vol, ok := v.Volume(node.Volume)
			if !ok || vol.Reservation != r.ID || vol.Node != node.Name {
				return fmt.Errorf("node %s/%s has no volume %s of its own", r.ID, node.Name, node.Volume)
			}
			if vol.Generation != node.Generation {
				return fmt.Errorf("volume %s is served to generation %d, node %s/%s has %d",
					vol.ID, vol.Generation, r.ID, node.Name, node.Generation)
			}
			if o, ok := v.object(vol.Host, KindVolume, vol.ID); ok && o.State == ObjReady && !vol.Made {
				return fmt.Errorf("volume %s is ready on %s and not known to be made", vol.ID, vol.Host)
			}
			n++
		}
	}
	if have := len(v.Volumes("")); have != n {
		return fmt.Errorf("%d volumes for %d nodes", have, n)
	}
	return nil
}

// checkWork looks at all assignments together: no node runs on two hosts, no
// volume is served by two or to more than one, no VLAN carries two clusters.
func (v *View) checkWork() error {
	nodes, volumes, vlans := map[string]string{}, map[string]string{}, map[int]string{}
	for _, h := range v.Hosts() {
		a := v.AssignmentFor(h.ID)
		for _, n := range a.Nodes {
			id := nodeID(n.Reservation, n.Node)
			if o, twice := nodes[id]; twice {
				return fmt.Errorf("node %s is assigned to %s and %s", id, o, h.ID)
			}
			nodes[id] = h.ID
			if vol, ok := v.Volume(n.Volume); n.Run && (!ok || vol.Generation != n.Generation) {
				return fmt.Errorf("node %s may run, volume %s is not of its generation", id, n.Volume)
			}
			if n.Run != (n.Wait == "") {
				return fmt.Errorf("node %s: run %v, wait %q", id, n.Run, n.Wait)
			}
		}
		for _, w := range a.Volumes {
			if o, twice := volumes[w.ID]; twice || len(w.Access) > 1 {
				return fmt.Errorf("volume %s is assigned to %s and %s, or to several: %v", w.ID, o, h.ID, w.Access)
			}
			volumes[w.ID] = h.ID
		}
		for _, n := range a.Networks {
			if o, ok := vlans[n.VLAN]; ok && o != n.Reservation {
				return fmt.Errorf("VLAN %d carries %s and %s", n.VLAN, o, n.Reservation)
			}
			vlans[n.VLAN] = n.Reservation
		}
	}
	return nil
}

// checkStates: each record is possible for its state.
func (v *View) checkStates() error {
	for _, r := range v.Reservations(ReservationFilter{Closed: true}) {
		bad := ""
		switch {
		case r.Running() && !r.Bound || r.State == api.StateBooked && r.Bound || r.State == api.StateParked && (r.Bound || !r.Kept):
			bad = fmt.Sprintf("bound is %v, kept %v", r.Bound, r.Kept)
		case (r.State == api.StateWaitlisted) != (r.Wait != nil):
			bad = "it waits without a window, or has one and does not wait"
		case !r.StopAt.IsZero() && r.State != api.StateEnding:
			bad = "it has a grace before its end"
		case r.NodesGone && r.State != api.StateEnding && r.Live():
			bad = "its nodes are gone before its end"
		case r.State == api.StateEnding && (r.EndIndex == 0 || r.EndIndex > v.Index() || r.Outcome == ""):
			bad = "it ends without index or outcome"
		case !r.Live() && (r.State != r.Outcome || r.Closed.IsZero() || r.Secrets != nil):
			bad = "it is closed without outcome or time, or keeps secrets"
		case (r.State == api.StateReady || r.State == api.StateActive) && r.ReadyAt.IsZero():
			bad = "it was never ready"
		case r.State == api.StateActive && r.Start.After(v.Clock()):
			bad = "it is active before its start"
		case r.Live() && r.State != api.StateEnding && r.Outcome != "":
			bad = "it has an outcome before its end"
		case r.Modified == 0 || r.Modified > v.Index():
			bad = "its index of change is impossible"
		}
		if bad != "" {
			return fmt.Errorf("reservation %s is %s: %s", r.ID, r.State, bad)
		}
	}
	return nil
}

// checkPromises: a promise that cannot be kept as it stands says so, and what
// waits for time waits for a time ahead.
func (v *View) checkPromises() error {
	for _, r := range v.Reservations(ReservationFilter{}) {
		if r.State != api.StateBooked {
			continue
		}
		bad := ""
		for i := range r.Nodes {
			for _, id := range []string{r.Nodes[i].Host, r.Nodes[i].Storage} {
				if h, ok := v.Host(id); !ok || h.Status != HostAlive || h.Cordoned != "" {
					bad = id
				}
			}
		}
		if flagged := slices.ContainsFunc(r.Conditions, func(c api.Condition) bool { return c.Type == condMissing }); bad != "" && !flagged {
			return fmt.Errorf("reservation %s has a seat on %s, which is not there, and does not say so", r.ID, bad)
		}
	}
	for _, b := range v.Holds() {
		if b.Expires.After(v.Clock().Add(HoldMax)) {
			return fmt.Errorf("hold %s expires too late", b.ID)
		}
	}
	return nil
}

// checkImagesKept: ready means built, and built means that nobody builds.
func (v *View) checkImagesKept() error {
	for _, i := range v.Images() {
		if (i.Digest != "") != (i.State == ImageReady) || i.Digest != "" && i.Builder != "" {
			return fmt.Errorf("image %s is %s with digest %q and builder %q", i.Recipe, i.State, i.Digest, i.Builder)
		}
	}
	return nil
}

// checkBounds: counters and times are what the tables say.
func (v *View) checkBounds() error {
	if n := len(list(scan[Event](v.reader, tabEvents, "id", nil))); n != v.st.Events || n > EventsMax {
		return fmt.Errorf("%d events, counted %d, at most %d", n, v.st.Events, EventsMax)
	}
	for k := range scan[keyRow](v.reader, tabKeys, "id", nil) {
		if k.Expires.After(v.Clock().Add(KeyLife)) {
			return fmt.Errorf("key %s expires too late", k.Key)
		}
	}
	for t := range scan[touchedRow](v.reader, tabTouched, "id", nil) {
		if t.Index > v.Index() {
			return fmt.Errorf("host %s was touched at %d, after %d", t.Host, t.Index, v.Index())
		}
	}
	return nil
}
