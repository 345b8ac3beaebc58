package fsm

import (
	"errors"
	"strings"
	"testing"
	"time"

	"vcn/api"
)

var abc = []string{"a", "b", "c"}

// parkedLab is a cluster over all hosts that ran and is parked for 30 days.
func parkedLab(t *testing.T) (*world, Reservation) {
	w := formed(t)
	w.must(w.lab("lab"))
	w.work(3, abc...)
	w.must(ReservationPark{ID: "r1", By: "op", For: 30 * 24 * time.Hour})
	w.work(3, abc...)
	return w, w.state("r1", api.StateParked)
}

func resumeOf(r *Reservation, now time.Time, in, so time.Duration) ReservationResume {
	c := ReservationResume{ID: r.ID, Modified: r.Modified, Spec: r.Spec, Provision: now.Add(in), Start: now.Add(in), End: now.Add(in + so)}
	c.Spec.AtEnd = nil
	for i, n := range r.Nodes {
		c.Seats = append(c.Seats, Seat{Host: []string{"a", "c", "b"}[i], Storage: n.Storage})
	}
	return c
}

func TestParkedClusterHoldsItsDisksAndNothingElse(t *testing.T) {
	w, r := parkedLab(t)
	v := w.f.View()
	if len(v.Volumes("r1")) != 3 || len(v.Leases()) != 0 || r.VLAN != 0 || len(r.Secrets) == 0 {
		t.Fatalf("%d volumes, %d leases, VLAN %d, %d secrets", len(v.Volumes("r1")), len(v.Leases()), r.VLAN, len(r.Secrets))
	}
	for _, b := range v.BookingsOf("r1") {
		if b.CPUs != 0 || b.MemoryBytes != 0 || b.Clusters != 0 || !b.Until.Equal(r.ParkedUntil.Add(Turnaround)) {
			t.Errorf("holds %+v", b)
		}
	}
	for _, h := range abc {
		a := v.AssignmentFor(h)
		for _, vol := range a.Volumes {
			if len(vol.Access) > 0 {
				t.Errorf("%s serves %s to %v", h, vol.ID, vol.Access)
			}
		}
		if len(a.Nodes)+len(a.Networks) > 0 {
			t.Errorf("%s is told of %+v %+v", h, a.Nodes, a.Networks)
		}
	}
}

// TestNodesToBeParkedStopCleanly: a host may say of a node that is off that it
// is off, or nothing at all.
func TestNodesToBeParkedStopCleanly(t *testing.T) {
	for name, off := range map[string]bool{"says off": true, "says nothing": false} {
		t.Run(name, func(t *testing.T) {
			w := formed(t)
			w.must(w.lab("lab"))
			w.work(3, abc...)
			w.must(ReservationPark{ID: "r1", For: time.Hour})
			if n := w.f.View().AssignmentFor("a").Nodes[0]; n.Node != "frontend" || n.Stop {
				t.Fatalf("the frontend, whose home the workers write to, is to stop before them: %+v", n)
			}
			for _, h := range []string{"b", "c", "a"} {
				rep := w.obedient(h)
				for _, n := range w.f.View().AssignmentFor(h).Nodes {
					if !n.Stop {
						t.Errorf("%s is not told to stop %s", h, n.Node)
					}
					if off {
						rep.Objects = append(rep.Objects, Object{Kind: KindNode, ID: nodeID("r1", n.Node), Reservation: "r1", Node: n.Node, Generation: 1, State: ObjOff})
					}
				}
				w.must(rep)
			}
			if !w.get("r1").NodesGone {
				t.Fatal("all nodes are off, and are waited for")
			}
			w.work(1, "a", "b")
			w.state("r1", api.StateEnding)
			w.work(1, "c")
			w.state("r1", api.StateParked)
		})
	}
}

func TestResumedClusterHasItsDisksOneGenerationOn(t *testing.T) {
	for name, given := range map[string]bool{"new credentials": true, "old credentials": false} {
		t.Run(name, func(t *testing.T) {
			w, r := parkedLab(t)
			c := resumeOf(&r, w.now, 0, time.Hour)
			b := binding(&r)
			if !given {
				b.Volumes = nil
			}
			c.Bind = &b
			w.must(c)
			for _, n := range w.get("r1").Nodes {
				vol, _ := w.f.View().Volume(n.Volume)
				if n.Generation != 2 || vol.Generation != 2 || !vol.Made {
					t.Errorf("node %s is generation %d, its volume %d, made %v", n.Name, n.Generation, vol.Generation, vol.Made)
				}
			}
			w.work(3, abc...)
			w.state("r1", api.StateActive)
			w.must(ReservationPark{ID: "r1", For: 2 * time.Hour})
			w.work(3, abc...)
			if again := w.state("r1", api.StateParked); !again.ParkedUntil.After(w.now) || again.ParkedUntil.After(w.now.Add(2*time.Hour)) {
				t.Errorf("parked again until %s", again.ParkedUntil)
			}
			w.pass(3 * time.Hour)
			w.work(3, abc...)
			w.state("r1", api.StateEnded)
			if n := len(w.f.View().Volumes("")) + len(w.f.View().Bookings()); n != 0 {
				t.Errorf("%d volumes and bookings are left", n)
			}
		})
	}
}

// TestResumeThatFailsIsParkedAgain in each way that it can fail, with its disks.
func TestResumeThatFailsIsParkedAgain(t *testing.T) {
	for name, fail := range map[string]func(w *world){
		"given back":            func(w *world) { w.must(ReservationPark{ID: "r1", By: "op", For: time.Hour}) },
		"failed while booked":   func(w *world) { w.must(ReservationFail{ID: "r1", Message: "no host"}) },
		"its slot passed":       func(w *world) { w.now = w.now.Add(3 * time.Hour); w.must(ClockAdvance{}) },
		"failed while starting": func(w *world) { w.pass(time.Hour); w.must(ReservationFail{ID: "r1", Message: "no boot"}) },
		"never ready":           func(w *world) { w.pass(time.Hour); w.pass(2 * time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			w, r := parkedLab(t)
			w.must(resumeOf(&r, w.now, time.Hour, time.Hour))
			fail(w)
			w.work(3, abc...)
			if again := w.state("r1", api.StateParked); !again.ParkedUntil.Equal(r.ParkedUntil) || len(w.f.View().Volumes("r1")) != 3 {
				t.Fatalf("parked until %s, before until %s, %d volumes", again.ParkedUntil, r.ParkedUntil, len(w.f.View().Volumes("r1")))
			}
		})
	}
}

func TestResumeThatFailsAfterItsParkingKeepsTheDisksAsLongAsItsSlotWould(t *testing.T) {
	w, r := parkedLab(t)
	w.must(resumeOf(&r, w.now, 40*24*time.Hour, 24*time.Hour))
	w.pass(40 * 24 * time.Hour) // past the 30 days: provisioning begins
	w.must(ReservationFail{ID: "r1", Message: "no boot"})
	w.work(3, abc...)
	again := w.state("r1", api.StateParked)
	if want := w.get("r1").End; !again.ParkedUntil.Equal(want) {
		t.Errorf("kept until %s, want %s", again.ParkedUntil, want)
	}
	w.pass(25 * time.Hour)
	w.work(2, abc...)
	w.state("r1", api.StateEnded)
}

func TestReleaseWinsWhileParking(t *testing.T) {
	for name, at := range map[string]func(w *world){
		"nodes still stop": func(w *world) {},
		"nodes are gone":   func(w *world) { w.work(1, abc...) },
		"parked":           func(w *world) { w.work(3, abc...) },
		"booked again": func(w *world) {
			w.work(3, abc...)
			r := w.get("r1")
			w.must(resumeOf(&r, w.now, time.Hour, time.Hour))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := formed(t)
			w.must(w.lab("lab"))
			w.work(3, abc...)
			w.must(ReservationPark{ID: "r1", For: time.Hour})
			at(w)
			w.must(ReservationRelease{ID: "r1", By: "op"})
			w.work(3, abc...)
			w.state("r1", api.StateEnded)
		})
	}
}

// TestDeadComputeHostKeepsAClusterFromBeingParkedUntilItReports: what it still
// runs is not known; its disks are served to it no more, and nobody resumes.
func TestDeadHostKeepsAClusterFromBeingParkedUntilItReports(t *testing.T) {
	for _, dead := range []string{"b", "c"} { // b: also a storage host, c: compute only
		t.Run(dead, func(t *testing.T) {
			w := formed(t)
			w.must(w.lab("lab"))
			w.work(3, abc...)
			w.must(HostStatusSet{dead, HostDead})
			w.must(ReservationPark{ID: "r1", For: time.Hour})
			for _, h := range abc {
				if h != dead {
					w.work(3, h)
				}
			}
			w.work(2, "a") // the frontend's, which stops last
			r := w.state("r1", api.StateEnding)
			if !r.NodesGone || !strings.Contains(r.Message, "host-"+dead) {
				t.Errorf("nodes gone %v, message %q", r.NodesGone, r.Message)
			}
			for _, vol := range w.f.View().AssignmentFor("a").Volumes {
				if len(vol.Access) > 0 {
					t.Errorf("volume %s is served to %v", vol.ID, vol.Access)
				}
			}
			c := resumeOf(&r, w.now, time.Hour, time.Hour)
			if res := w.do(c); !errors.Is(res.Err, ErrState) {
				t.Errorf("resume: %v", res.Err)
			}
			w.pass(5 * time.Hour) // longer than it was to be parked
			w.state("r1", api.StateEnding)
			w.must(HostStatusSet{dead, HostAlive})
			w.work(3, abc...)
			w.state("r1", api.StateParked)
			w.pass(time.Minute)
			w.work(2, abc...)
			w.state("r1", api.StateEnded)
		})
	}
}

func TestWorkersThatWereLeavingAreNotParked(t *testing.T) {
	w := formed(t)
	w.must(w.lab("lab"))
	w.work(3, abc...)
	r := w.get("r1")
	c := unchanged(&r)
	c.Leave = []Leave{{Node: "compute-1"}}
	w.must(c)
	w.must(ReservationPark{ID: "r1", For: time.Hour})
	w.work(3, abc...)
	r = w.state("r1", api.StateParked)
	if len(r.Nodes) != 2 || len(w.f.View().Volumes("r1")) != 2 {
		t.Fatalf("%d nodes and %d volumes are parked", len(r.Nodes), len(w.f.View().Volumes("r1")))
	}
}

func TestParkingIsBoundedByTheProjectsQuota(t *testing.T) {
	w := formed(t)
	p := DefaultPolicy
	p.ParkBytes = 8 * gib // a lab has three disks of 4 GiB
	w.must(PolicySet{p})
	c := w.lab("lab")
	c.Reservations[0].Spec.AtEnd = &api.AtEnd{Action: api.EndPark, ParkFor: "1h"}
	if res := w.do(c); !errors.Is(res.Err, ErrQuota) {
		t.Errorf("promised to be parked: %v", res.Err)
	}
	w.must(w.lab("lab"))
	w.work(3, abc...)
	if res := w.do(ReservationPark{ID: "r2", For: time.Hour}); !errors.Is(res.Err, ErrQuota) {
		t.Errorf("parked: %v", res.Err)
	}
	r := w.get("r2")
	x := unchanged(&r)
	x.Spec.AtEnd = &api.AtEnd{Action: api.EndPark, ParkFor: "1h"}
	if res := w.do(x); !errors.Is(res.Err, ErrQuota) {
		t.Errorf("changed so: %v", res.Err)
	}
}

func TestGraceKeepsNodesRunningUntilItIsOverAndReleaseCutsIt(t *testing.T) {
	start := func(t *testing.T) *world {
		w := formed(t)
		w.must(w.create(want{name: "lab", front: "a", workers: []string{"c"}, disks: []string{"b"}, so: time.Hour, grace: 10 * time.Minute, warn: []string{"30m", "5m"}}))
		w.work(3, abc...)
		w.pass(time.Hour)
		if r := w.state("r1", api.StateEnding); r.StopAt.IsZero() || len(w.f.View().AssignmentFor("c").Nodes) != 1 {
			t.Fatalf("stops at %s", r.StopAt)
		}
		return w
	}
	t.Run("over", func(t *testing.T) {
		w := start(t)
		w.must(HostStatusSet{"c", HostDead})
		if r := w.get("r1"); r.Nodes[1].State != NodeLost {
			t.Errorf("node %+v", r.Nodes[1])
		}
		w.must(HostStatusSet{"c", HostAlive})
		w.pass(10 * time.Minute)
		w.work(2, abc...)
		w.state("r1", api.StateEnded)
	})
	t.Run("released", func(t *testing.T) {
		w := start(t)
		w.must(ReservationRelease{ID: "r1"})
		w.work(2, abc...)
		w.state("r1", api.StateEnded)
	})
	t.Run("released before the clock knew of the end", func(t *testing.T) {
		w := formed(t)
		w.must(w.create(want{name: "lab", front: "a", workers: []string{"c"}, disks: []string{"b"}, so: time.Hour, grace: 10 * time.Minute}))
		w.work(3, abc...)
		w.now = w.now.Add(time.Hour)
		w.must(ReservationRelease{ID: "r1"})
		if r := w.state("r1", api.StateEnding); !r.StopAt.IsZero() {
			t.Errorf("released, and stops at %s", r.StopAt)
		}
	})
}
