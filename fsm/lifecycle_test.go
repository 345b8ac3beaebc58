package fsm

import (
	"strings"
	"testing"
	"time"

	"vcn/api"
)

func TestReservationGoesThroughItsWholeLife(t *testing.T) {
	w := formed(t)
	c := w.create(want{name: "lab", front: "a", workers: []string{"b", "c"}, disks: []string{"a", "b"},
		in: time.Hour, lead: 10 * time.Minute, so: 8 * time.Hour})
	res := w.must(c)
	if res.Reservation == nil || res.Reservation.State != api.StateBooked {
		t.Fatalf("create answered %+v", res.Reservation)
	}
	if at, ok := w.f.View().NextBind(w.now); !ok || !at.Equal(c.Reservations[0].Provision) {
		t.Fatalf("to be provisioned at %s, want %s", at, c.Reservations[0].Provision)
	}
	if n := len(w.f.View().Leases()) + len(w.f.View().Volumes("")); n != 0 {
		t.Fatalf("a promise holds %d leases and volumes", n)
	}
	if a := w.f.View().AssignmentFor("c"); len(a.Nodes)+len(a.Networks) > 0 {
		t.Fatalf("a booked reservation is assigned already: %+v", a)
	}
	w.pass(50 * time.Minute)
	w.state("r1", api.StateProvisioning)
	a := w.f.View().AssignmentFor("c")
	if len(a.Nodes) != 1 || a.Nodes[0].Run || a.Nodes[0].Wait != "image of worker is wanted" {
		t.Fatalf("node of c: %+v", a.Nodes)
	}
	w.work(3, "a", "b", "c")
	r := w.state("r1", api.StateReady)
	for _, name := range []string{"images", "volumes", "networks", "boot", "ready"} {
		found := false
		for _, p := range r.Phases {
			found = found || p.Name == name && p.End != nil
		}
		if !found {
			t.Errorf("phase %s has no end in %+v", name, r.Phases)
		}
	}
	w.pass(10 * time.Minute)
	w.state("r1", api.StateActive)
	w.pass(8 * time.Hour)
	w.state("r1", api.StateEnding)
	a = w.f.View().AssignmentFor("b")
	if len(a.Nodes) != 0 || len(a.Networks) != 1 || len(a.Volumes) != 1 {
		t.Fatalf("the first stage of ending keeps disks and networks, drops nodes: %+v", a)
	}
	w.work(1, "a", "b")
	if w.state("r1", api.StateEnding).NodesGone {
		t.Fatal("nodes are gone before c has reported")
	}
	w.work(1, "c")
	if !w.state("r1", api.StateEnding).NodesGone {
		t.Fatal("all carriers are without nodes, and NodesGone is not set")
	}
	if a = w.f.View().AssignmentFor("b"); len(a.Networks)+len(a.Volumes) != 0 {
		t.Fatalf("the second stage drops everything: %+v", a)
	}
	w.work(1, "b", "c")
	w.state("r1", api.StateEnding)
	w.work(1, "a")
	w.state("r1", api.StateEnded)
	if n := len(w.f.View().Leases()); n != 0 {
		t.Fatalf("%d leases are left", n)
	}
	w.pass(ClosedLife)
	if _, ok := w.f.View().Reservation("r1"); ok {
		t.Fatal("an ended reservation is kept for ever")
	}
}

func TestStartNowProvisionsAtOnceAndBecomesActiveWhenReady(t *testing.T) {
	w := formed(t)
	if r := w.must(w.lab("lab")).Reservation; r.State != api.StateProvisioning {
		t.Fatalf("state %s", r.State)
	}
	w.work(3, "a", "b", "c")
	w.state("r1", api.StateActive)
}

func TestNodeWaitsForItsVolumeUnderItsGeneration(t *testing.T) {
	w := formed(t)
	w.must(w.lab("lab"))
	w.work(1, "a") // builds both images
	rep := w.obedient("a")
	for i := range rep.Objects {
		if rep.Objects[i].Kind == KindVolume {
			rep.Objects[i].Generation = 0
		}
	}
	w.must(rep)
	n := w.f.View().AssignmentFor("a").Nodes[0]
	if n.Run || !strings.Contains(n.Wait, "generation 1") {
		t.Fatalf("run %v, wait %q", n.Run, n.Wait)
	}
	w.work(1, "a")
	if n = w.f.View().AssignmentFor("a").Nodes[0]; !n.Run || n.Portal != "" {
		t.Fatalf("run %v, wait %q, portal %q", n.Run, n.Wait, n.Portal)
	}
}

// TestAVolumeOnceReadyIsMadeForEver: the storage host is told, also after it
// lost the volume, so that it does not clone an empty disk in its place.
func TestAVolumeOnceReadyIsMadeForEver(t *testing.T) {
	w := formed(t)
	c := w.lab("lab")
	for i := range c.Bind.Volumes {
		c.Bind.Volumes[i].Made = true // a leader that says so does not know
	}
	w.must(c)
	made := func(host string) (all, some bool) {
		all = true
		for _, v := range w.f.View().AssignmentFor(host).Volumes {
			vol, _ := w.f.View().Volume(v.ID)
			if vol.Made != v.Made {
				t.Fatalf("volume %s: made %v, its host is told %v", v.ID, vol.Made, v.Made)
			}
			all, some = all && v.Made, some || v.Made
		}
		return all, some
	}
	w.work(1, "a") // builds both images
	rep := w.obedient("a")
	for i := range rep.Objects {
		if rep.Objects[i].Kind == KindVolume {
			rep.Objects[i].State = ObjWorking
		}
	}
	w.must(rep)
	if _, some := made("a"); some {
		t.Fatal("a volume in work counts as made")
	}
	stray := w.obedient("a")
	stray.Host = "b" // not its storage host
	w.must(stray)
	if _, some := made("a"); some {
		t.Fatal("another host's word made a volume")
	}
	before := w.f.View().AssignmentFor("a").Version
	w.must(w.obedient("a"))
	if all, _ := made("a"); !all {
		t.Fatal("ready volumes are not made")
	}
	if now := w.f.View().AssignmentFor("a").Version; now <= before {
		t.Fatalf("the storage host is not woken: version %d, was %d", now, before)
	}
	w.must(HostReport{Host: "a", Applied: w.f.View().Index()}) // an empty store
	if all, _ := made("a"); !all {
		t.Fatal("a volume whose host lost it is to be made again")
	}
	if n := w.f.View().AssignmentFor("a").Nodes[0]; n.Run {
		t.Fatal("a node may start on a lost volume")
	}
}

func TestVolumeIsReachedOverTheNetworkOnlyFromAnotherHost(t *testing.T) {
	w := formed(t)
	w.must(w.lab("lab")) // volumes in turn on a, b, a; nodes on a, b, c
	w.work(2, "a", "b", "c")
	for host, want := range map[string]string{"a": "", "b": "", "c": "s-a:3260"} {
		if n := w.f.View().AssignmentFor(host).Nodes[0]; n.Portal != want || (want == "") != (n.Secret == "") {
			t.Errorf("node on %s: portal %q, secret %q, want portal %q", host, n.Portal, n.Secret, want)
		}
	}
	for _, v := range w.f.View().AssignmentFor("a").Volumes {
		switch {
		case v.Node == "frontend" && len(v.Access) != 0:
			t.Errorf("a local volume is exported: %+v", v)
		case v.Node == "compute-1" && (len(v.Access) != 1 || v.Access[0].Host != "c" || v.Access[0].Addr != "u-c"):
			t.Errorf("access to the volume of c: %+v", v.Access)
		}
	}
	if p := w.f.View().AssignmentFor("a").Networks[0].Peers; len(p) != 2 || p[0] != "u-b" || p[1] != "u-c" {
		t.Errorf("peers of a: %v", p)
	}
}

func TestWhatIsWrongWithAVolumeIsAnEventOnce(t *testing.T) {
	w := formed(t)
	w.must(w.lab("lab"))
	w.work(4, "a", "b", "c")
	for range 3 {
		r := w.obedient("a")
		for i, o := range r.Objects {
			if o.Kind == KindVolume {
				r.Objects[i].Message = "this host lost power"
			}
		}
		w.must(r)
	}
	volumes := map[string]int{}
	for _, e := range w.f.View().Events(0, 1000, "") {
		if e.Kind == "volume.damaged" {
			volumes[e.Message]++
		}
	}
	if len(volumes) != len(w.f.View().AssignmentFor("a").Volumes) {
		t.Errorf("events %v, want one for each volume of a", volumes)
	}
	for text, n := range volumes {
		if n != 1 || !strings.Contains(text, "this host lost power") {
			t.Errorf("event %q: %d times", text, n)
		}
	}
}

func TestImagesTravelWholeToDisksAndBootOnlyToCarriers(t *testing.T) {
	w := formed(t)
	w.must(w.lab("lab"))
	for _, i := range w.f.View().AssignmentFor("a").Images {
		if !i.Build || i.BootOnly {
			t.Errorf("builder's image: %+v", i)
		}
	}
	w.work(1, "a")
	b, c := w.f.View().AssignmentFor("b").Images, w.f.View().AssignmentFor("c").Images
	if len(b) != 1 || b[0].BootOnly || len(b[0].Sources) != 1 || b[0].Sources[0] != "a" {
		t.Errorf("storage host's image: %+v", b)
	}
	if len(c) != 1 || !c[0].BootOnly || c[0].Digest != "dig-rec-w" {
		t.Errorf("carrier's image: %+v", c)
	}
	w.must(HostStatusSet{"a", HostDead})
	if s := w.f.View().AssignmentFor("c").Images[0].Sources; len(s) != 0 {
		t.Errorf("a dead host is a source: %v", s)
	}
}

func TestDegradedWhileANodeIsNotReady(t *testing.T) {
	w := formed(t)
	w.must(w.lab("lab"))
	w.work(3, "a", "b", "c")
	rep := w.obedient("c")
	for i := range rep.Objects {
		if rep.Objects[i].Kind == KindNode {
			rep.Objects[i].State, rep.Objects[i].Message = ObjPaused, "I/O error"
		}
	}
	w.must(rep)
	r := w.state("r1", api.StateActive)
	if len(r.Conditions) != 1 || r.Conditions[0].Type != "degraded" || r.Nodes[2].Message != "paused: I/O error" {
		t.Fatalf("conditions %+v, node %+v", r.Conditions, r.Nodes[2])
	}
	w.work(1, "c")
	if r = w.state("r1", api.StateActive); len(r.Conditions) != 0 || r.Nodes[2].State != NodeReady {
		t.Fatalf("not cleared: %+v", r)
	}
}

func TestDeadHostLosesItsNodesUntilItReportsAgain(t *testing.T) {
	w := formed(t)
	w.must(w.lab("lab"))
	w.work(3, "a", "b", "c")
	w.must(HostStatusSet{"c", HostDead})
	r := w.state("r1", api.StateActive)
	if r.Nodes[2].State != NodeLost || len(r.Conditions) != 1 {
		t.Fatalf("node %+v, conditions %+v", r.Nodes[2], r.Conditions)
	}
	w.must(HostStatusSet{"c", HostAlive})
	if r = w.get("r1"); r.Nodes[2].State != NodeLost {
		t.Fatalf("alive is not enough, its word is needed: %+v", r.Nodes[2])
	}
	w.work(1, "c")
	if r = w.get("r1"); r.Nodes[2].State != NodeReady || len(r.Conditions) != 0 {
		t.Fatalf("node %+v, conditions %+v", r.Nodes[2], r.Conditions)
	}
}

func TestDeadHostHoldsTheVLANBackUntilItReports(t *testing.T) {
	w := formed(t)
	w.must(w.lab("lab"))
	w.work(3, "a", "b", "c")
	w.must(HostStatusSet{"c", HostDead})
	w.must(ReservationRelease{ID: "r1", By: "op"})
	w.work(3, "a", "b")
	r := w.state("r1", api.StateEnding)
	if !strings.Contains(r.Message, "VLAN 100 is held back") || len(r.Conditions) != 1 {
		t.Fatalf("message %q, conditions %+v", r.Message, r.Conditions)
	}
	if n := w.f.View().FreeVLANs(); n != 19 {
		t.Fatalf("%d VLANs are free", n)
	}
	w.must(HostStatusSet{"c", HostAlive})
	w.work(2, "c")
	w.work(1, "a", "b", "c")
	if r = w.state("r1", api.StateEnded); strings.Contains(r.Message, "held back") {
		t.Fatalf("message %q", r.Message)
	}
}

func TestReportOlderThanTheEndDoesNotCountAsClean(t *testing.T) {
	w := formed(t)
	w.must(w.lab("lab"))
	w.must(ReservationRelease{ID: "r1"})
	end := w.get("r1").EndIndex
	for _, h := range []string{"a", "b", "c"} {
		w.must(HostReport{Host: h, Applied: end - 1})
	}
	if w.state("r1", api.StateEnding).NodesGone {
		t.Fatal("reports that had not seen the end were believed")
	}
	w.work(2, "a", "b", "c")
	w.state("r1", api.StateCancelled)
}

func TestForeignHostThatStillHoldsSomethingIsWaitedFor(t *testing.T) {
	w := formed(t)
	w.must(w.create(want{name: "lab", front: "a", workers: []string{"b"}, disks: []string{"a"}, so: time.Hour}))
	w.must(HostReport{Host: "c", Objects: []Object{{Kind: KindNetwork, ID: "100", State: ObjReady}}})
	w.must(ReservationRelease{ID: "r1"})
	w.work(3, "a", "b")
	w.state("r1", api.StateEnding)
	w.must(HostReport{Host: "c"})
	w.state("r1", api.StateCancelled)
}

func TestReleaseWinsOverEveryStateAndIsIdempotent(t *testing.T) {
	for name, tc := range map[string]struct {
		in, lead time.Duration
		prepare  func(*world)
		now      api.State
		at, then api.State
	}{
		"booked":       {time.Hour, 0, func(*world) {}, api.StateBooked, api.StateCancelled, api.StateCancelled},
		"provisioning": {0, 0, func(*world) {}, api.StateProvisioning, api.StateEnding, api.StateCancelled},
		"ready":        {time.Hour, time.Hour, func(w *world) { w.work(3, "a", "b", "c") }, api.StateReady, api.StateEnding, api.StateCancelled},
		"active":       {0, 0, func(w *world) { w.work(3, "a", "b", "c") }, api.StateActive, api.StateEnding, api.StateEnded},
		"failing": {0, 0, func(w *world) { w.must(ReservationFail{ID: "r1", Message: "no image"}) },
			api.StateEnding, api.StateEnding, api.StateFailed},
	} {
		t.Run(name, func(t *testing.T) {
			w := formed(t)
			w.must(w.create(want{name: "lab", front: "a", workers: []string{"b", "c"}, disks: []string{"b"},
				in: tc.in, lead: tc.lead, so: time.Hour}))
			tc.prepare(w)
			w.state("r1", tc.now)
			w.must(ReservationRelease{ID: "r1", By: "op"})
			r := w.state("r1", tc.at)
			w.must(ReservationRelease{ID: "r1", By: "op"})
			if again := w.state("r1", tc.at); again.EndIndex != r.EndIndex || again.Modified != r.Modified {
				t.Fatalf("a second release changed something: %+v", again)
			}
			w.work(3, "a", "b", "c")
			w.state("r1", tc.then)
			w.must(ReservationRelease{ID: "r1", By: "op"})
			w.state("r1", tc.then)
		})
	}
}

func TestSlotThatPassesUnusedFails(t *testing.T) {
	w := formed(t)
	w.must(w.create(want{name: "late", front: "a", workers: []string{"b"}, disks: []string{"b"}, in: time.Hour, so: time.Hour}))
	w.must(w.create(want{name: "slow", front: "a", workers: []string{"b"}, disks: []string{"b"}, so: time.Hour}))
	w.pass(3 * time.Hour)
	w.state("r1", api.StateFailed)
	w.state("r2", api.StateEnding)
	w.work(2, "a", "b")
	w.state("r2", api.StateFailed)
}
