package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vcn/fsm"
	"vcn/hostops"
)

// draining is the rig's cluster with some workers to drain.
func (r *rig) draining(index uint64, workers ...string) fsm.Assignment {
	as := r.grown(index, 1, 3)
	c := as.Clusters[res]
	for _, w := range workers {
		c.Drain = append(c.Drain, fsm.DrainWork{Node: w, Reason: "vcn: leaves the cluster"})
	}
	as.Clusters[res] = c
	return as
}

// drained returns the last reported object of a worker's drain.
func (r *rig) drained(worker string) fsm.Object {
	r.peer.mu.Lock()
	defer r.peer.mu.Unlock()
	for _, o := range r.peer.reports[len(r.peer.reports)-1].Objects {
		if o.Kind == fsm.KindDrain && o.Node == worker {
			return o
		}
	}
	return fsm.Object{State: "absent"}
}

func drainRig(t *testing.T) *rig {
	t.Helper()
	r := readyRig(t)
	r.peer.set(r.draining(2))
	pass(time.Minute)
	return r
}

func TestDrainFollowsTheSchedulerAndGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := drainRig(t)
		defer r.end()
		before := r.calls("Guests.Run res-1/frontend " + drainProgram)
		pass(10 * time.Minute)
		if n := r.calls("Guests.Run res-1/frontend " + drainProgram); n != before || n != 1 {
			t.Errorf("asked %d times, then %d, with nothing to drain: want once, to give back what was left", before, n)
		}
		r.host.SetJobs(res, "frontend", "compute-1", "17 18")
		r.peer.set(r.draining(3, "compute-1", "compute-2"))
		r.await("answers", func() bool {
			return r.drained("compute-1").State == fsm.ObjWorking && r.drained("compute-2").State == fsm.ObjReady
		})
		o := r.drained("compute-1")
		if o.ID != "res-1/compute-1" || o.Reservation != res || o.Message != "17 18" {
			t.Errorf("%+v", o)
		}
		if d := r.host.Drained(res, "frontend"); len(d) != 2 || d["compute-1"] != "vcn: leaves the cluster" {
			t.Errorf("%v", d)
		}
		r.host.SetJobs(res, "frontend", "compute-1", "")
		r.await("the jobs' end", func() bool { return r.drained("compute-1").State == fsm.ObjReady })
		began := r.calls("Guests.Run")
		pass(time.Minute)
		if n := r.calls("Guests.Run") - began; n < 10 || n > 14 {
			t.Errorf("asked %d times in a minute", n)
		}
		if s := r.drained("compute-1").State; s != fsm.ObjReady {
			t.Errorf("%s while it is asked again", s)
		}
		r.peer.set(r.draining(4, "compute-2"))
		r.await("the give-back of one", func() bool { return len(r.host.Drained(res, "frontend")) == 1 })
		r.peer.set(r.draining(5))
		r.await("the give-back of all", func() bool { return len(r.host.Drained(res, "frontend")) == 0 })
		began = r.calls("Guests.Run")
		pass(10 * time.Minute)
		if n := r.calls("Guests.Run") - began; n != 0 {
			t.Errorf("asked %d times more", n)
		}
	})
}

func TestDrainIsNeverReadyWithoutAFreshAnswer(t *testing.T) {
	for name, spoil := range map[string]func(*rig){
		"the agent fails":     func(r *rig) { r.host.Fail("Guests.Run", -1, hostops.ErrNoAgent) },
		"the agent hangs":     func(r *rig) { r.host.Hang("Guests.Run", -1) },
		"the frontend goes":   func(r *rig) { r.host.Silence(res, "frontend", true) },
		"no controller":       func(r *rig) { r.host.SetJobs(res, "frontend", "compute-1", "?") },
		"the program fails":   func(r *rig) { r.says(1, "compute-1 idle\n") },
		"nothing is said":     func(r *rig) { r.says(0, "") },
		"another is named":    func(r *rig) { r.says(0, "compute-0 idle\n") },
		"it is named twice":   func(r *rig) { r.says(0, "compute-1 idle\ncompute-1 idle\n") },
		"two states":          func(r *rig) { r.says(0, "compute-1 busy\ncompute-1 idle\n") },
		"a strange state":     func(r *rig) { r.says(0, "compute-1 idlee\n") },
		"capitals":            func(r *rig) { r.says(0, "compute-1 IDLE\n") },
		"it is written else":  func(r *rig) { r.says(0, "compute-1  idle\n") },
		"binary":              func(r *rig) { r.says(0, "compute-1\x00idle\n\xff\xfe") },
		"a flood":             func(r *rig) { r.says(0, strings.Repeat("x", hostops.GuestBytesMax)) },
		"the program is gone": func(r *rig) { r.host.Handle(drainProgram, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := drainRig(t)
				defer r.end()
				r.peer.set(r.draining(3, "compute-1"))
				r.await("the answer", func() bool { return r.drained("compute-1").State == fsm.ObjReady })
				spoil(r)
				began := time.Now()
				r.await("the doubt", func() bool { return r.drained("compute-1").State == fsm.ObjWaiting })
				limit := 2 * drainEvery // a question that fails, or has no good answer
				if name == "the agent hangs" {
					limit = drainLife + time.Second
				}
				if took := time.Since(began); took > limit {
					t.Errorf("ready for %v more", took)
				}
				if o := r.drained("compute-1"); o.Message == "" || len(o.Message) > 4*wordsMax || strings.ContainsAny(o.Message, "\x00\n\x1b") {
					t.Errorf("message %q", o.Message)
				}
				for range 60 { // and it stays so
					pass(time.Second)
					if o := r.drained("compute-1"); o.State != fsm.ObjWaiting {
						t.Fatalf("%+v", o)
					}
				}
			})
		})
	}
}

// says makes the frontend's drain program print that.
func (r *rig) says(exit int, out string) {
	r.host.Handle(drainProgram, func(context.Context, string, string, hostops.GuestCommand) hostops.GuestResult {
		return hostops.GuestResult{Exit: exit, Stdout: []byte(out)}
	})
}

// A worker that was given back may have jobs again, though the answer to that
// question never came.
func TestWorkerGivenBackAndListedAgainIsAskedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := drainRig(t)
		defer r.end()
		r.peer.set(r.draining(3, "compute-1"))
		r.await("the answer", func() bool { return r.drained("compute-1").State == fsm.ObjReady })
		asked := make(chan struct{}, 100)
		r.host.Handle(drainProgram, func(ctx context.Context, _, _ string, c hostops.GuestCommand) hostops.GuestResult {
			asked <- struct{}{}
			<-ctx.Done()
			return hostops.GuestResult{}
		})
		r.peer.set(r.draining(4))
		<-asked // to give it back
		r.peer.set(r.draining(5, "compute-1"))
		for range 40 {
			pass(time.Second)
			if o := r.drained("compute-1"); o.State == fsm.ObjReady {
				t.Fatalf("%+v", o)
			}
		}
	})
}

// Until the scheduler has forgotten a worker that left, it must not be given back.
func TestWorkerThatLeftIsForgottenBeforeAnythingIsGivenBack(t *testing.T) {
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := drainRig(t)
			r.peer.set(r.draining(3, "compute-1", "compute-2"))
			r.await("the answer", func() bool { return r.drained("compute-2").State == fsm.ObjReady })
			var broken atomic.Bool
			broken.Store(true)
			r.host.Handle(liveProgram, func(context.Context, string, string, hostops.GuestCommand) hostops.GuestResult {
				if broken.Load() {
					return hostops.GuestResult{Exit: 1}
				}
				return hostops.GuestResult{}
			})
			as := r.draining(4, "compute-1") // compute-2 is gone from both lists
			c := as.Clusters[res]
			c.Nodes = c.Nodes[:3]
			as.Clusters[res] = c
			r.peer.set(as)
			pass(time.Second)
			if restart {
				r.end()
				r.start()
			}
			pass(5 * time.Minute)
			if d := r.host.Drained(res, "frontend"); d["compute-2"] == "" {
				t.Error("given back while the scheduler still knows it")
			}
			if o := r.drained("compute-1"); o.State == fsm.ObjReady {
				t.Errorf("nobody was asked: %+v", o)
			}
			broken.Store(false)
			r.await("the rest", func() bool {
				return len(r.host.Drained(res, "frontend")) == 1 && r.drained("compute-1").State == fsm.ObjReady
			})
			r.end()
		})
	}
}

func TestAgentThatRestartsGivesBackWhatItHadDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := drainRig(t)
		r.peer.set(r.draining(3, "compute-1"))
		r.await("the answer", func() bool { return r.drained("compute-1").State == fsm.ObjReady })
		r.end()
		r.peer.set(r.draining(4))
		r.start()
		r.await("the give-back", func() bool { return len(r.host.Drained(res, "frontend")) == 0 })
		r.end()
		// With the list still there, nothing is known until it was asked again.
		r.peer.set(r.draining(5, "compute-1"))
		r.host.Delay("Guests.Run", 1, 10*time.Second)
		r.start()
		defer r.end()
		r.await("a report", func() bool { return r.drained("compute-1").State == fsm.ObjWaiting })
		r.await("the answer", func() bool { return r.drained("compute-1").State == fsm.ObjReady })
	})
}

// Its first job is to have the processor.
func TestFrontendThatHasBecomeReadyIsLeftAloneAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		pass(quietAfterReady - 3*time.Second)
		if n := r.calls("Guests.Run"); n != 0 {
			t.Errorf("%d commands", n)
		}
		pass(10 * time.Second)
		if n := r.calls("Guests.Run"); n != 2 {
			t.Errorf("%d commands, want one to give back and one for notices", n)
		}
		r.end()
		r.start()
		pass(time.Minute)
		if n := r.calls("Guests.Run"); n != 2 {
			t.Errorf("%d commands after a restart", n)
		}
	})
}

func TestReasonsAreOneAndBeginWithOurName(t *testing.T) {
	for _, c := range []struct {
		in   []string
		want string
	}{
		{nil, "vcn:"},
		{[]string{"vcn: a", "vcn: a"}, "vcn: a"},
		{[]string{"leaves\nnow", "vcn: b"}, "vcn: leaves now; vcn: b"},
	} {
		var ws []fsm.DrainWork
		for i, s := range c.in {
			ws = append(ws, fsm.DrainWork{Node: fmt.Sprint("w-", i), Reason: s})
		}
		if got := drainReason(ws); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

func (r *rig) telling(index uint64, ids ...string) fsm.Assignment {
	as := r.cluster(index, 1)
	c := as.Clusters[res]
	for _, id := range ids {
		c.Notices = append(c.Notices, fsm.NoticeWork{ID: id, Text: "it ends soon: " + id})
	}
	as.Clusters[res] = c
	return as
}

func TestNoticesAreToldOnceAndTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		shows := func(ids ...string) func() bool {
			return func() bool { now, _ := r.host.Notices(res, "frontend"); return slices.Equal(now, ids) }
		}
		r.host.Fail("Guests.Run", 3, hostops.ErrNoAgent)
		r.peer.set(r.telling(2, "end-1h"))
		r.await("the notice", shows("end-1h"))
		r.peer.set(r.telling(3, "end-1h", "end-10m"))
		r.await("the second", shows("end-1h", "end-10m"))
		pass(time.Minute)
		r.end()
		before := r.calls("Guests.Run")
		r.start()
		defer r.end()
		pass(10 * time.Minute)
		if n := r.calls("Guests.Run") - before; n != 0 {
			t.Errorf("%d commands after a restart", n)
		}
		r.peer.set(r.telling(4))
		r.await("them to go", shows())
		if _, told := r.host.Notices(res, "frontend"); !slices.Equal(told, []string{"end-1h", "end-10m"}) {
			t.Errorf("told %v", told)
		}
	})
}

func TestNoticesGoToFrontendsThatAreReadyOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		pass(time.Minute)
		r.host.Silence(res, "frontend", true)
		before := r.calls("Guests.Run")
		r.peer.set(r.telling(2, "a"))
		pass(5 * time.Minute)
		if n := r.calls("Guests.Run") - before; n != 0 {
			t.Errorf("%d commands", n)
		}
		r.host.Silence(res, "frontend", false)
		r.await("the notice", func() bool { now, _ := r.host.Notices(res, "frontend"); return len(now) == 1 })
	})
}

func TestNoticeLinesAreOfTheFormTheProgramReads(t *testing.T) {
	got := string(noticeLines([]fsm.NoticeWork{{ID: "a.b-1", Text: "x\x1b[2J\ny"}, {ID: "../etc", Text: strings.Repeat("z", 2*noticeBytesMax)}}))
	lines := strings.Split(got, "\n")
	if lines[0] != "a.b-1 eCBbMkoKeQ==" || strings.Contains(lines[1], "/etc") || len(lines[1]) > 2*noticeBytesMax || len(lines) != 3 {
		t.Errorf("%q", got)
	}
	if len(noticeLines(make([]fsm.NoticeWork, 1000))) > noticesMax*100 {
		t.Error("no bound")
	}
}

func TestWordsOfAGuestAreMadeFit(t *testing.T) {
	for in, want := range map[string]string{
		"a\x1b[31m b\n\tc": "a [31m b c", "\xff\xfe": "", strings.Repeat("é", 1000): strings.Repeat("é", wordsMax), "": "",
	} {
		if got := words(in); got != want {
			t.Errorf("%.20q: %q", in, got)
		}
	}
	var e *exitError
	if err := error(&exitError{"/x", 127, ""}); !errors.As(err, &e) || !absent(err) {
		t.Error(err)
	}
}
