package fsm

import (
	"errors"
	"slices"
	"testing"
	"time"

	"vcn/api"
)

// running is an active lab with a change to make of it.
func running(t *testing.T) (*world, ReservationChange) {
	w := formed(t)
	w.must(w.lab("lab"))
	w.work(3, abc...)
	r := w.state("r1", api.StateActive)
	return w, unchanged(&r)
}

// drains reports what the frontend's host says of the jobs on compute-1.
func (w *world) drains(state string) {
	rep := w.obedient("a")
	for i := range rep.Objects {
		if rep.Objects[i].Kind == KindDrain {
			rep.Objects[i].State = state
		}
	}
	w.must(rep)
}

func TestWorkerThatLeavesIsStoppedOnlyWhenItsJobsAreKnown(t *testing.T) {
	w, c := running(t)
	c.Leave = []Leave{{Node: "compute-1", By: w.now.Add(time.Hour)}}
	w.must(c)
	stopped := func() bool { return w.get("r1").Nodes[2].LeftIndex != 0 }
	w.drains(ObjWaiting)
	w.now = w.now.Add(2 * time.Hour)
	w.must(ClockAdvance{})
	w.drains(ObjWaiting)
	if stopped() {
		t.Fatal("its deadline is over and its jobs are not known: it is stopped")
	}
	w.must(HostStatusSet{"a", HostDead})
	if stopped() {
		t.Fatal("its frontend is lost: it is stopped")
	}
	w.must(HostStatusSet{"a", HostAlive})
	w.drains(ObjWorking)
	if !stopped() {
		t.Fatal("its deadline is over and jobs are known to run: it is not stopped")
	}
	w.work(3, abc...)
	if r := w.get("r1"); len(r.Nodes) != 2 || len(r.Conditions) > 0 {
		t.Fatalf("%+v", r)
	}
}

// TestWhatTheFrontendSaidBeforeDoesNotStopAWorker: idle was said when it was to
// leave before; since then it stayed, and may have jobs.
func TestWhatTheFrontendSaidBeforeDoesNotStopAWorker(t *testing.T) {
	w, c := running(t)
	c.Leave = []Leave{{Node: "compute-1"}}
	w.must(c)
	rep := w.obedient("a")
	for i := range rep.Objects {
		if rep.Objects[i].Kind == KindNode {
			rep.Objects[i].State = ObjBooting // so that its word does not count
		}
	}
	w.must(rep)
	r := w.get("r1")
	c = unchanged(&r)
	c.Leave = nil
	w.must(c)
	r = w.get("r1")
	c = unchanged(&r)
	c.Leave = []Leave{{Node: "compute-1"}}
	w.must(c)
	rep.Objects = slices.Clone(rep.Objects)
	for i := range rep.Objects {
		if rep.Objects[i].Kind == KindNode {
			rep.Objects[i].State = ObjReady
		}
	}
	w.must(rep) // it has not seen the new request
	if n := w.get("r1").Nodes[2]; n.LeftIndex != 0 {
		t.Fatalf("stopped by an old word: %+v", n)
	}
	w.work(3, abc...)
	if r := w.get("r1"); len(r.Nodes) != 2 {
		t.Fatalf("%d nodes", len(r.Nodes))
	}
}

func TestLeavingCanBeTakenBackUntilTheWorkerIsStopped(t *testing.T) {
	w, c := running(t)
	c.Leave = []Leave{{Node: "compute-1"}}
	w.must(c)
	w.drains(ObjWorking)
	r := w.get("r1")
	c = unchanged(&r)
	c.Leave = nil
	w.must(c)
	w.work(1, abc...)
	if n := w.get("r1").Nodes[2]; n.Leaving || n.State != NodeReady {
		t.Fatalf("%+v", n)
	}
	r = w.get("r1")
	c = unchanged(&r)
	c.Leave = []Leave{{Node: "compute-1"}}
	w.must(c)
	w.work(1, "a")
	r = w.get("r1")
	c = unchanged(&r)
	c.Leave = nil
	if res := w.do(c); !errors.Is(res.Err, ErrState) {
		t.Fatalf("taken back after it was stopped: %v", res.Err)
	}
}

func TestGrownClusterTakesTheNewWorkersInAlsoWhileItsFrontendIsLost(t *testing.T) {
	w, c := running(t)
	w.must(HostStatusSet{"a", HostDead})
	r := w.get("r1")
	c = unchanged(&r)
	n := testNode(3, "c", "b", 1)
	c.Nodes = append(c.Nodes, n)
	c.Binding = binding(&Reservation{ID: "r1", Modified: c.Modified, Nodes: []Node{n}})
	w.must(c)
	w.must(HostStatusSet{"a", HostAlive})
	w.work(4, abc...)
	r = w.state("r1", api.StateActive)
	if got := r.Nodes[3]; got.State != NodeReady || got.Joining || got.PrivateIP == "" || len(r.Conditions) > 0 {
		t.Fatalf("%+v, conditions %+v", got, r.Conditions)
	}
}

func TestRefusedExtensionLeavesAllAsItWas(t *testing.T) {
	w, c := running(t)
	w.must(w.create(want{name: "next", front: "a", workers: []string{"c"}, disks: []string{"b"}, in: 9 * time.Hour, so: time.Hour, cpus: 8}))
	c.End = c.End.Add(time.Hour) // verify compares: a refusal leaves nothing
	if res := w.do(c); !errors.Is(res.Err, ErrNoCapacity) {
		t.Fatalf("extended: %v", res.Err)
	}
	c.End = c.End.Add(-15 * time.Minute)
	w.must(c)
}

// TestWhoRunsOnAHostThatShrankMayStillBeRenamedAndShortened, but not take more.
func TestWhoRunsOnAHostThatShrankMayStillBeRenamedAndShortened(t *testing.T) {
	w := formed(t)
	w.must(w.create(want{name: "lab", front: "a", workers: []string{"c"}, disks: []string{"b"}, so: 8 * time.Hour, cpus: 6}))
	w.work(3, abc...)
	h, _ := w.f.View().Host("c")
	h.CPUs = 4
	w.must(HostRegister{h})
	r := w.get("r1")
	c := unchanged(&r)
	c.Name, c.End = "other", c.End.Add(-time.Hour)
	w.must(c)
	r = w.get("r1")
	c = unchanged(&r)
	c.End = c.End.Add(2 * time.Hour)
	if res := w.do(c); !errors.Is(res.Err, ErrNoCapacity) {
		t.Fatalf("extended: %v", res.Err)
	}
	w.must(ReservationRelease{ID: "r1"})
	w.work(3, abc...)
	if h, _ := w.f.View().Host("c"); h.Short != "" {
		t.Fatalf("all is given back, and the host %s", h.Short)
	}
}

func TestChangedRollsReachNewDisksAndOldOnesKeepTheirImage(t *testing.T) {
	w, c := running(t)
	c.Recipes = map[string]string{"frontend": "rec-f", "worker": "rec-w2"}
	c.Images = []ImageWant{{Recipe: "rec-w2", Appliance: "worker", Builder: "a"}}
	n := testNode(3, "c", "b", 1)
	c.Nodes = append(c.Nodes, n)
	c.Binding = binding(&Reservation{ID: "r1", Modified: c.Modified, Nodes: []Node{n}})
	w.must(c)
	w.work(4, abc...)
	have := map[string]bool{}
	for _, i := range w.f.View().AssignmentFor("c").Images {
		have[i.Recipe] = true
	}
	for _, n := range w.f.View().AssignmentFor("c").Nodes {
		want := map[string]string{"compute-1": "dig-rec-w", "compute-2": "dig-rec-w2"}[n.Node]
		if n.ImageDigest != want || !n.Run {
			t.Errorf("%s boots %s, want %s", n.Node, n.ImageDigest, want)
		}
	}
	if !have["rec-w"] || !have["rec-w2"] {
		t.Errorf("c has images %v, and boots from both", have)
	}
}

func TestReinstalledClusterHasNewDisksAndComesBack(t *testing.T) {
	w, c := running(t)
	before := w.f.View().Volumes("r1")
	c.Reinstall = true
	blank := slices.Clone(c.Nodes)
	for i := range blank {
		blank[i].Volume = ""
	}
	c.Binding = binding(&Reservation{ID: "r1", Modified: c.Modified, Nodes: blank})
	w.must(c)
	w.state("r1", api.StateProvisioning)
	w.work(3, abc...)
	w.state("r1", api.StateActive)
	for _, v := range before {
		if _, ok := w.f.View().Volume(v.ID); ok {
			t.Errorf("volume %s is still there", v.ID)
		}
	}
}

func TestHoldOfAlternativesHoldsTheLargerOfThem(t *testing.T) {
	w := formed(t)
	w.bigHold("h1", 8, 6)
	if b := w.f.View().Used("c"); b.CPUs != 8 {
		t.Fatalf("%d cores of c are held, want the larger of 8 and 6", b.CPUs)
	}
	c := w.lab("lab")
	if res := w.do(c); !errors.Is(res.Err, ErrNoCapacity) {
		t.Fatalf("booked over a hold: %v", res.Err)
	}
	c.Hold = "h1"
	w.must(c)
	if res := w.do(HoldRelease{"h1"}); !errors.Is(res.Err, ErrNotFound) {
		t.Fatalf("a hold that was taken: %v", res.Err)
	}
}

func TestExpiredHoldIsNotTakenAlsoBeforeTheClockHasRemovedIt(t *testing.T) {
	w := formed(t)
	w.bigHold("h1", 4)
	w.now = w.now.Add(time.Hour)
	c := w.lab("lab")
	c.Hold = "h1"
	if res := w.do(c); !errors.Is(res.Err, ErrNoHold) {
		t.Fatalf("taken: %v", res.Err)
	}
	w.pass(time.Second)
	if n := len(w.f.View().Holds()) + len(w.f.View().Bookings()); n != 0 {
		t.Fatalf("%d holds and bookings are left", n)
	}
}

// bigHold holds offers of a lab with so many cores each, for half an hour.
func (w *world) bigHold(id string, cpus ...int) {
	h := Hold{ID: id, Project: "studio", Expires: w.now.Add(30 * time.Minute)}
	for i, n := range cpus {
		r := w.create(want{name: "x", front: "a", workers: []string{"b", "c"}, disks: []string{"a", "b"}, so: 8 * time.Hour, cpus: n}).Reservations[0]
		h.Offers = append(h.Offers, HeldOffer{ID: id + string(rune('a'+i)), Spec: r.Spec,
			Parts: []Promise{{Start: r.Start, End: r.End, Provision: r.Provision, Nodes: r.Nodes}}})
	}
	w.must(HoldPlace{h})
}

func TestWhoWasPassedTooOftenInTheWaitlistLetsNobodyBy(t *testing.T) {
	w := formed(t)
	wait := func(name string) Reservation {
		c := w.lab(name)
		c.Bind, c.Reservations[0].State = nil, api.StateWaitlisted
		c.Reservations[0].Wait = &Wait{Earliest: w.now, Latest: w.now.Add(24 * time.Hour), Length: time.Hour}
		return *w.must(c).Reservation
	}
	claim := func(r Reservation, in time.Duration) error {
		start := w.now.Add(in)
		return w.do(ReservationClaim{ID: r.ID, Modified: r.Modified, Start: start, End: start.Add(time.Hour), Provision: start,
			Seats: []Seat{{"a", "a"}, {"b", "b"}, {"c", "b"}}, Passed: []string{"r1"}}).Err
	}
	first := wait("first")
	for i := range PassedMax {
		r := wait("n" + string(rune('a'+i)))
		if err := claim(r, time.Minute); err != nil {
			t.Fatalf("%d were let by, then: %v", i, err)
		}
		w.must(ReservationRelease{ID: r.ID})
	}
	r := wait("last")
	if err := claim(r, time.Minute); !errors.Is(err, ErrTurn) {
		t.Fatalf("passed once more: %v", err)
	}
	if got := w.get(first.ID); got.Wait.Passed != PassedMax {
		t.Fatalf("passed %d times", got.Wait.Passed)
	}
	if res := w.do(ReservationClaim{ID: r.ID, Modified: r.Modified, Start: w.now.Add(25 * time.Hour), End: w.now.Add(26 * time.Hour), Provision: w.now.Add(25 * time.Hour),
		Seats: []Seat{{"a", "a"}, {"b", "b"}, {"c", "b"}}}); !errors.Is(res.Err, ErrInvalid) {
		t.Fatalf("claimed outside its window: %v", res.Err)
	}
}

func TestPromiseOnADeadHostSaysSoUntilItIsReseated(t *testing.T) {
	w := formed(t)
	w.must(w.create(want{name: "lab", front: "a", workers: []string{"c"}, disks: []string{"b"}, in: 5 * time.Hour, so: time.Hour}))
	w.must(HostStatusSet{"c", HostDead})
	r := w.get("r1")
	if len(r.Conditions) != 1 || r.Conditions[0].Type != condMissing {
		t.Fatalf("conditions %+v", r.Conditions)
	}
	w.must(ReservationReseat{Moves: []Move{{"r1", r.Modified, []Seat{{"a", "b"}, {"b", "b"}}}}, Why: "host-c is dead"})
	r = w.get("r1")
	if len(r.Conditions) != 1 || r.Conditions[0].Type != condChanged || r.Nodes[1].Host != "b" {
		t.Fatalf("conditions %+v, nodes %+v", r.Conditions, r.Nodes)
	}
}
