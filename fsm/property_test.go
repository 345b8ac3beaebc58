package fsm

import (
	"bytes"
	"fmt"
	"io"
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

func (h *history) reserve(*rapid.T) {
	v := h.f.View()
	if v.FreeVLANs() == 0 {
		return
	}
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
	if rapid.Bool().Draw(h.rt, "keyed") {
		c.Key, c.RequestHash = q.name, []byte(q.name)
	}
	if res := h.do(c); res.Err == nil && res.Reservation.ID == c.Reservation.ID {
		h.made = append(h.made, c.Reservation.ID)
	}
}

func (h *history) obey(*rapid.T) {
	host := h.host()
	if rapid.Bool().Draw(h.rt, "later") {
		h.now = h.now.Add(time.Second)
	}
	h.do(h.obedient(host))
}

// drop reports part of what an obedient host would, with states at random.
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
}

// skew has a leader whose clock is behind.
func (h *history) skew(*rapid.T) {
	now := h.now
	h.now = now.Add(-time.Hour)
	h.must(ClockAdvance{})
	h.now = now
}

func (h *history) release(*rapid.T) { h.do(ReservationRelease{ID: h.id(), By: "op"}) }
func (h *history) fail(*rapid.T)    { h.do(ReservationFail{ID: h.id(), Message: "no"}) }

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
	}
	for _, id := range h.made {
		if _, ok := h.f.View().Reservation(id); ok {
			h.must(ReservationRelease{ID: id})
		}
	}
	h.work(4, h.hosts...)
	v := h.f.View()
	for _, id := range h.made {
		if r, ok := v.Reservation(id); ok && r.Live() {
			h.rt.Fatalf("reservation %s is still %s: %s", id, r.State, r.Message)
		}
	}
	if n := len(v.Leases()) + len(v.Volumes("")) + len(v.Bookings()) + len(list(scan[segment](v.reader, tabTimeline, "id", nil))); n != 0 {
		h.rt.Fatalf("%d leases, volumes, bookings and segments are left", n)
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
				ids = append(ids, c.Reservation.ID)
			}
		}
		for _, id := range rapid.Permutation(ids).Draw(rt, "order") {
			w.must(ReservationRelease{ID: id})
			w.state(id, api.StateCancelled)
		}
	})
}
