package fsm

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"vcn/api"
)

// history plays a random but plausible history: reservations come and go,
// hosts obey, lie, die, return and shrink, time passes, images fail.
type history struct {
	*world
	rt    *rapid.T
	hosts []string
	made  []string
}

func newHistory(rt *rapid.T) *history {
	return &history{world: formed(rt), rt: rt, hosts: []string{"a", "b", "c"}}
}

func (h *history) host() string { return rapid.SampledFrom(h.hosts).Draw(h.rt, "host") }

func (h *history) id() string {
	if len(h.made) == 0 {
		return "none"
	}
	return rapid.SampledFrom(h.made).Draw(h.rt, "id")
}

// draft is a command that books one reservation at random.
func (h *history) draft() ReservationBook {
	q := want{
		name:  fmt.Sprintf("n%d", rapid.IntRange(0, 6).Draw(h.rt, "name")),
		front: "a", disks: rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 1, 2).Draw(h.rt, "disks"),
		workers: rapid.SliceOfN(rapid.SampledFrom(h.hosts), 1, 3).Draw(h.rt, "workers"),
		in:      time.Duration(rapid.IntRange(0, 180).Draw(h.rt, "in")) * time.Minute,
		lead:    time.Duration(rapid.IntRange(0, 30).Draw(h.rt, "lead")) * time.Minute,
		so:      time.Duration(rapid.IntRange(1, 240).Draw(h.rt, "for")) * time.Minute,
		cpus:    rapid.IntRange(1, 4).Draw(h.rt, "cpus"),
	}
	c := h.create(q)
	r := &c.Reservations[0]
	r.Spec.AtEnd = h.atEnd()
	r.Grace = r.Spec.Grace()
	return c
}

func (h *history) reserve(*rapid.T) {
	c := h.draft()
	if rapid.Bool().Draw(h.rt, "keyed") {
		c.Key, c.RequestHash = c.Reservations[0].Name, []byte(c.Reservations[0].Name)
	}
	if res := h.do(c); res.Err == nil && res.Reservation.ID == c.Reservations[0].ID {
		h.made = append(h.made, c.Reservations[0].ID)
	}
}

func (h *history) obey(*rapid.T) {
	host := h.host()
	if rapid.Bool().Draw(h.rt, "later") {
		h.now = h.now.Add(time.Second)
	}
	h.do(h.obedient(host))
}

func (h *history) allObey(*rapid.T) { h.work(2, h.hosts...) }

// limp reports part of what an obedient host would, with states at random.
func (h *history) limp(*rapid.T) {
	rep := h.obedient(h.host())
	states := []string{ObjWaiting, ObjWorking, ObjReady, ObjBooting, ObjPaused, ObjOff, ObjStopping, ObjFailed}
	kept := rep.Objects[:0]
	for _, o := range rep.Objects {
		switch rapid.IntRange(0, 3).Draw(h.rt, "fate") {
		case 0:
			continue
		case 1:
			o.State, o.Message = rapid.SampledFrom(states).Draw(h.rt, "state"), rapid.SampledFrom([]string{"", "why"}).Draw(h.rt, "message")
		case 2:
			o.Generation = rapid.Uint64Range(0, 2).Draw(h.rt, "generation")
		}
		kept = append(kept, o)
	}
	rep.Objects = kept
	rep.Applied = rapid.Uint64Range(0, rep.Applied+2).Draw(h.rt, "applied")
	h.do(rep)
}

func (h *history) wait(*rapid.T) {
	h.now = h.now.Add(time.Duration(rapid.IntRange(0, 90*60).Draw(h.rt, "seconds")) * time.Second)
	h.must(ClockAdvance{})
	h.bind()
}

// skew has a leader whose clock is behind.
func (h *history) skew(*rapid.T) {
	now := h.now
	h.now = now.Add(-time.Hour)
	h.must(ClockAdvance{})
	h.now = now
}

func (h *history) release(*rapid.T) {
	id := h.id()
	if r, ok := h.pick("released", any1); ok {
		id = r.ID
	}
	h.do(ReservationRelease{ID: id, By: "op"})
}

func (h *history) fail(*rapid.T) {
	id := h.id()
	if r, ok := h.pick("fails", func(r *Reservation) bool { return r.State != api.StateWaitlisted }); ok {
		id = r.ID
	}
	h.do(ReservationFail{ID: id, Message: "no"})
}

func (h *history) status(*rapid.T) {
	h.must(HostStatusSet{h.host(), rapid.SampledFrom([]string{HostAlive, HostAlive, HostDead, HostLeft}).Draw(h.rt, "status")})
}

func (h *history) register(*rapid.T) {
	host, _ := h.f.View().Host(h.host())
	host.CPUs = rapid.IntRange(2, 8).Draw(h.rt, "cpus")
	host.Underlay = rapid.SampledFrom([]string{"u1", "u2"}).Draw(h.rt, "underlay")
	h.must(HostRegister{host})
}

func (h *history) image(*rapid.T) {
	recipe := rapid.SampledFrom([]string{"rec-f", "rec-w"}).Draw(h.rt, "recipe")
	h.do(ImageAssign{Recipe: recipe, Builder: h.host()})
}

func (h *history) steps() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"reserve": h.reserve, "reserve too": h.reserve, "obey": h.obey, "obey too": h.obey, "obey again": h.obey, "obey more": h.obey,
		"limp": h.limp, "wait": h.wait, "skew": h.skew, "release": h.release, "fail": h.fail,
		"all obey": h.allObey, "all obey too": h.allObey, "resume too": h.resume, "park too": h.park,
		"change": h.change, "change too": h.change, "change again": h.change, "park": h.park, "resume": h.resume,
		"reseat": h.reseat, "hold": h.hold, "take": h.take, "enlist": h.enlist, "claim": h.claim, "series": h.series, "policy": h.policy,
		"status": h.status, "register": h.register, "image": h.image,
	}
}

// TestInvariantsHoldThroughAnyHistory checks all invariants, the clock, that
// refusals leave nothing, and that assignments change only with their version,
// after every apply (world.verify). Then everything gets well, and everything
// has to end clean.
func TestInvariantsHoldThroughAnyHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := newHistory(rt)
		rt.Repeat(h.steps())
		h.recover()
	})
}

// recover turns the faults off and demands an end.
func (h *history) recover() {
	for _, host := range h.hosts {
		h.must(HostStatusSet{host, HostAlive})
		now, _ := h.f.View().Host(host)
		now.CPUs = 8
		h.must(HostRegister{now})
	}
	for _, img := range h.f.View().Images() {
		if img.Digest == "" {
			h.do(ImageAssign{Recipe: img.Recipe, Builder: "a"})
		}
	}
	h.work(6, h.hosts...)
	h.lively()
	for _, r := range h.f.View().Reservations(ReservationFilter{}) {
		h.must(ReservationRelease{ID: r.ID})
	}
	for _, x := range h.f.View().Holds() {
		h.must(HoldRelease{x.ID})
	}
	h.work(4, h.hosts...)
	v := h.f.View()
	for _, r := range v.Reservations(ReservationFilter{}) {
		h.rt.Fatalf("reservation %s is still %s: %s; %+v holds %+v; objects %+v", r.ID, r.State, r.Message, r, v.BookingsOf(r.ID),
			list(scan[objectRow](v.reader, tabObjects, "reservation", key(r.ID))))
	}
	if n := len(v.Leases()) + len(v.Volumes("")) + len(v.Bookings()); n != 0 {
		h.rt.Fatalf("%d leases, volumes and bookings are left", n)
	}
	for row := range scan[timelineRow](v.reader, tabTimeline, "id", nil) {
		if len(row.parts) != 0 {
			h.rt.Fatalf("the timeline of %s has %d steps left", row.Host, len(row.steps()))
		}
	}
}

// lively demands that with hosts that work everything has got on: what runs is
// ready, who left is gone, what ended is clean.
func (h *history) lively() {
	v := h.f.View()
	for _, r := range v.Reservations(ReservationFilter{}) {
		stuck := r.State == api.StateProvisioning || r.State == api.StateEnding && r.StopAt.IsZero()
		if r.State == api.StateReady || r.State == api.StateActive {
			for _, n := range r.Nodes {
				stuck = stuck || n.State != NodeReady || n.Leaving || n.Joining
			}
			stuck = stuck || len(r.Conditions) > 0
		}
		if r.State == api.StateBooked || r.State == api.StateParked {
			stuck = stuck || slices.ContainsFunc(r.Conditions, func(c api.Condition) bool { return c.Type != condChanged })
		}
		if stuck {
			h.rt.Fatalf("all hosts are well, and reservation %s is %s: %s, %+v, %+v", r.ID, r.State, r.Message, r.Conditions, r.Nodes)
		}
	}
}

// TestSameLogMakesTheSameState applies one history to three machines: entry by
// entry, in batches, and through a snapshot in the middle. Their snapshots are
// equal byte for byte.
func TestSameLogMakesTheSameState(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := newHistory(rt)
		h.check = false
		rt.Repeat(h.steps())
		want := h.bytes()

		batch := New(quiet())
		for i := 0; i < len(h.log); {
			n := rapid.IntRange(1, len(h.log)-i).Draw(rt, "batch")
			logs := append([]*raft.Log{{Type: raft.LogConfiguration}}, h.log[i:i+n]...)
			if out := batch.ApplyBatch(logs); len(out) != n+1 {
				rt.Fatalf("%d answers for %d entries", len(out), n+1)
			}
			i += n
		}
		if !bytes.Equal(want, (&world{t: rt, f: batch}).bytes()) {
			rt.Fatalf("batches made another state")
		}

		at := rapid.IntRange(1, len(h.log)).Draw(rt, "snapshot after")
		first, second := New(quiet()), New(quiet())
		for _, l := range h.log[:at] {
			first.Apply(l)
		}
		saved := (&world{t: rt, f: first}).bytes()
		if err := second.Restore(io.NopCloser(bytes.NewReader(saved))); err != nil {
			rt.Fatalf("restore: %v", err)
		}
		if !bytes.Equal(saved, (&world{t: rt, f: second}).bytes()) {
			rt.Fatalf("restore made another state")
		}
		for _, l := range h.log[at:] {
			second.Apply(l)
		}
		if !bytes.Equal(want, (&world{t: rt, f: second}).bytes()) {
			rt.Fatalf("a snapshot after %d of %d entries made another state", at, len(h.log))
		}
		if err := CheckInvariants(second.View()); err != nil {
			rt.Fatalf("after restore: %v", err)
		}
	})
}

// TestTimelineIsTheSumOfItsBookings books and unbooks at random; CheckInvariants
// compares each segment with a plain sum.
func TestTimelineIsTheSumOfItsBookings(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := formed(rt)
		var ids []string
		for i := range rapid.IntRange(1, 12).Draw(rt, "n") {
			c := w.create(want{name: fmt.Sprint("n", i), front: "a", workers: []string{"b"}, disks: []string{"b"}, cpus: 1,
				in: time.Duration(rapid.IntRange(1, 6).Draw(rt, "in")) * Turnaround,
				so: time.Duration(rapid.IntRange(1, 6).Draw(rt, "for")) * Turnaround})
			if w.do(c).Err == nil {
				ids = append(ids, c.Reservations[0].ID)
			}
		}
		for _, id := range rapid.Permutation(ids).Draw(rt, "order") {
			w.must(ReservationRelease{ID: id})
			w.state(id, api.StateCancelled)
		}
	})
}
