package fsm

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"vcn/api"
)

// HostReport is a host's full account of what it holds.
type HostReport struct {
	Host    string
	Applied uint64
	Objects []Object
}

var _ = register[HostReport](TypeHostReport, "HostReport")

// Type is the command's number.
func (HostReport) Type() Type { return TypeHostReport }

// apply stores what differs from the last report, then settles every
// reservation that it may concern.
func (c HostReport) apply(t *tx) error {
	if _, err := t.host(c.Host); err != nil {
		return err
	}
	if c.Applied > t.index {
		return invalid("report of host %s has seen index %d, which is ahead of %d", c.Host, c.Applied, t.index)
	}
	if len(c.Objects) > ObjectsMax {
		return invalid("report of %d objects: at most %d", len(c.Objects), ObjectsMax)
	}
	for _, o := range c.Objects {
		if o.Kind == "" || o.ID == "" || o.State == "" {
			return invalid("report of host %s has an object of kind %q, id %q, state %q", c.Host, o.Kind, o.ID, o.State)
		}
	}
	t.put(tabReports, &reportRow{Host: c.Host, Applied: c.Applied, Time: t.now})
	s := &survey{t: t, host: c.Host, concerned: map[string]bool{}}
	s.merge(c.Objects)
	s.rest()
	for _, id := range slices.Sorted(maps.Keys(s.concerned)) {
		t.settle(id)
	}
	return nil
}

// survey is one report being taken in.
type survey struct {
	t         *tx
	host      string
	concerned map[string]bool // reservations to settle
	images    bool            // an image object changed
}

// merge replaces the host's objects; the last of two with one name counts.
func (s *survey) merge(objects []Object) {
	t := s.t
	fresh := map[string]*objectRow{}
	for _, o := range objects {
		o.Message = clip(o.Message)
		if o.Reservation == "" {
			o.Reservation = t.ownerOf(&o)
		}
		k := string(key(o.Kind, o.ID))
		if old := fresh[k]; old != nil && o.Kind == KindImage && t.prefers(&old.Object) {
			continue // two builds of one recipe: the one that clusters use counts
		}
		fresh[k] = &objectRow{Host: s.host, Object: o}
	}
	for _, o := range objects {
		s.made(fresh[string(key(o.Kind, o.ID))])
	}
	for _, old := range all(scan[objectRow](t.reader, tabObjects, "id", key(s.host))) {
		k := string(key(old.Kind, old.ID))
		now, kept := fresh[k]
		delete(fresh, k)
		switch {
		case !kept:
			t.del(tabObjects, old)
			s.changed(old, nil)
		case now.Object != old.Object:
			t.put(tabObjects, now)
			s.changed(old, now)
		}
	}
	rest := slices.SortedFunc(maps.Values(fresh), func(a, b *objectRow) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
	})
	for _, now := range rest {
		t.put(tabObjects, now)
		s.changed(nil, now)
	}
	for _, o := range objects {
		s.found(o)
	}
}

// made remembers that a volume has been made. It looks at what is there, not at
// what changed, so that no order of commands can leave it out.
func (s *survey) made(o *objectRow) {
	if o.Kind != KindVolume || o.State != ObjReady {
		return
	}
	v, ok := first[Volume](s.t.reader, tabVolumes, "id", key(o.ID))
	if !ok || v.Host != s.host || v.Made {
		return
	}
	now := *v
	now.Made = true
	if img, ok := first[Image](s.t.reader, tabImages, "id", key(v.Recipe)); ok {
		now.ImageDigest = img.Digest
	}
	s.t.put(tabVolumes, &now)
	s.t.touch(s.host)
}

// prefers says whether the object is the very image that the record names.
func (t *tx) prefers(o *Object) bool {
	img, ok := first[Image](t.reader, tabImages, "id", key(o.ID))
	return ok && img.Digest != "" && img.Digest == o.Digest
}

// found learns of an image that is wanted and is here already. Like made it
// looks at what is there: the host may have said the same before it was asked.
func (s *survey) found(o Object) {
	if o.Kind == KindImage && s.t.findImage(s.host, o.ID) {
		for _, r := range s.t.users(o.ID) {
			s.concerned[r] = true
		}
	}
}

// ownerOf finds whose an object is that does not say so.
func (t *tx) ownerOf(o *Object) string {
	switch o.Kind {
	case KindNode, KindDrain:
		id, _, _ := strings.Cut(o.ID, "/")
		return id
	case KindVolume:
		if v, ok := first[Volume](t.reader, tabVolumes, "id", key(o.ID)); ok {
			return v.Reservation
		}
	case KindNetwork:
		if l, ok := first[Lease](t.reader, tabLeases, "id", key(LeaseVLAN, o.ID)); ok {
			return l.Reservation
		}
	}
	return ""
}

// changed notes what the change of one object concerns; old or now may be nil.
func (s *survey) changed(old, now *objectRow) {
	t, o := s.t, now
	if o == nil {
		o = old
	}
	for _, x := range []*objectRow{old, now} {
		if x != nil && x.Reservation != "" {
			s.concerned[x.Reservation] = true
		}
	}
	moved := old == nil || now == nil || old.State != now.State || old.Generation != now.Generation
	switch o.Kind {
	case KindVolume:
		if v, ok := first[Volume](t.reader, tabVolumes, "id", key(o.ID)); ok && moved && v.Host == s.host {
			if r, err := t.reservation(v.Reservation); err == nil {
				if n, ok := nodeNamed(r, v.Node); ok {
					t.touch(n.Host)
				}
			}
		}
	case KindImage:
		s.images = true
		learned := t.learnImage(s.host, o.ID)
		if learned || old.whole("") != now.whole("") || old.whole("") && old.Digest != now.Digest {
			t.touchUsers(o.ID)
			for _, r := range t.users(o.ID) {
				s.concerned[r] = true
			}
		}
	}
	if now != nil && now.Kind == KindVolume && now.State == ObjReady && now.Message != "" && (old == nil || old.Message != now.Message) {
		t.event(o.Reservation, s.host, "volume.damaged", "volume %s on %s: %s", o.ID, t.hostName(s.host), now.Message)
	}
	if now != nil && now.State == ObjFailed && moved && (o.Kind == KindVolume || o.Kind == KindNetwork) {
		t.event(o.Reservation, s.host, o.Kind+".failed", "%s %s on %s: %s", o.Kind, o.ID, t.hostName(s.host), now.Message)
	}
}

// rest adds the reservations that the report as such concerns: those that wait
// for this host's word.
func (s *survey) rest() {
	for b := range scan[Booking](s.t.reader, tabBookings, "host", key(s.host)) {
		r, err := s.t.reservation(b.Owner)
		if err != nil || !r.Placed() {
			continue
		}
		waits := r.State == api.StateEnding || r.State == api.StateProvisioning && s.images
		for i := 0; i < len(r.Nodes) && !waits; i++ {
			n := &r.Nodes[i]
			waits = n.State == NodeLost && n.Host == s.host || n.LeftIndex != 0 && (n.Host == s.host || n.Storage == s.host) ||
				n.Leaving && n.LeftIndex == 0 && r.Nodes[0].Host == s.host
		}
		if waits {
			s.concerned[r.ID] = true
		}
	}
}
