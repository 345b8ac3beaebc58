package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vcn/api"
	"vcn/fsm"
	"vcn/hostops"
	"vcn/hostops/fake"
)

const res = "res-1"

// grown is the rig's cluster with n workers, which run on other hosts.
func (r *rig) grown(index, generation uint64, n int) fsm.Assignment {
	as := r.cluster(index, generation)
	c := as.Clusters[res]
	for i := range n {
		c.Nodes = append(c.Nodes, fsm.Node{Name: fmt.Sprintf("compute-%d", i), Role: api.RoleWorker, Appliance: "worker", CPUs: 1, MemoryBytes: 1 << 29,
			PrivateMAC: fmt.Sprintf("02:76:63:00:01:%02x", i), PrivateIP: fmt.Sprintf("10.64.0.%d", 10+i)})
	}
	as.Clusters[res] = c
	return as
}

func (r *rig) node() fsm.Object {
	if o := r.peer.last(fsm.KindNode); o != nil {
		return *o
	}
	return fsm.Object{}
}

func (r *rig) hosts() string { return strings.TrimSpace(r.host.Live(res, "frontend", "etc/hosts")) }

// pass lets virtual time pass.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestChangedClusterReachesARunningNodeWhichStaysReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		pass(time.Minute)
		if n := r.calls("Guests.Run res-1/frontend " + liveProgram); n != 0 {
			t.Errorf("pushed %d times what its seed gave it", n)
		}
		r.host.Delay("Guests.Run", 1, 10*time.Second)
		r.peer.set(r.grown(2, 1, 1))
		r.await("the update to be told", func() bool { return r.node().Message == "updating its configuration" })
		if s := r.node().State; s != fsm.ObjReady {
			t.Errorf("the node is %s meanwhile", s)
		}
		r.await("the update", func() bool { return r.hosts() == "frontend compute-0" && r.node().Message == "" })
		if script := r.host.Live(res, "frontend", "etc/vcn/reload.d/00-base"); !strings.Contains(script, "true frontend") {
			t.Errorf("reload: %q", script)
		}
		r.peer.set(r.grown(3, 1, 2))
		r.peer.set(r.grown(4, 1, 3))
		r.await("the last change", func() bool { return r.hosts() == "frontend compute-0 compute-1 compute-2" })
		pass(time.Second)
		r.end()
		before := r.calls("Guests.Run")
		r.start()
		pass(time.Minute)
		if n := r.calls("Guests.Run") - before; n != 0 {
			t.Errorf("%d commands after a restart without a change", n)
		}
		r.peer.set(r.grown(5, 1, 0)) // and back
		r.await("the shrink", func() bool { return r.hosts() == "frontend" })
		r.end()
	})
}

func TestChangeThatConcernsNoLiveFileIsNotPushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		pass(time.Minute)
		before := r.calls("Guests.Run")
		as := r.cluster(2, 1)
		c := as.Clusters[res]
		c.Users = append(c.Users, fsm.User{Name: "alice", UID: 2001})
		as.Clusters[res] = c
		r.peer.set(as)
		pass(time.Minute)
		if n := r.calls("Guests.Run") - before; n != 0 || r.node().Message != "" {
			t.Errorf("%d commands, message %q", n, r.node().Message)
		}
	})
}

func TestUpdateThatFailsIsToldAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		pass(time.Minute)
		var tries atomic.Int32
		r.host.Handle(liveProgram, func(_ context.Context, _, _ string, c hostops.GuestCommand) hostops.GuestResult {
			if tries.Add(1) < 4 {
				return hostops.GuestResult{Exit: 1, Stdout: []byte("saved /etc/x /etc/x.vcn-saved\nnonsense\n"), Stderr: []byte("first\n\x1b[31mthe disk is full\n")}
			}
			return hostops.GuestResult{}
		})
		r.peer.set(r.grown(2, 1, 1))
		r.await("the failure", func() bool {
			o := r.node()
			return o.State == fsm.ObjReady && strings.HasSuffix(o.Message, "the disk is full") && !strings.ContainsRune(o.Message, '\x1b')
		})
		// What the first try replaced is told although the last replaced nothing.
		r.await("the success", func() bool { return strings.Contains(r.node().Message, "kept as /etc/x.vcn-saved") })
		pass(10 * time.Minute)
		if n := tries.Load(); n != 4 {
			t.Errorf("%d tries", n)
		}
		r.peer.set(r.grown(3, 1, 2))
		r.await("the message to go with the next update", func() bool { return tries.Load() == 5 && r.node().Message == "" })
	})
}

func TestMessagesHoldNoMoreOfAGuestThanTheyShould(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		pass(time.Minute)
		r.host.Fail("Guests.Run", -1, fmt.Errorf("%w: %s", hostops.ErrNoAgent, strings.Repeat("\x1b[2J\n", 100_000)))
		r.peer.set(r.grown(2, 1, 1))
		r.await("the failure", func() bool { return strings.Contains(r.node().Message, "does not answer") })
		if m := r.node().Message; len(m) > 2*wordsMax || strings.ContainsAny(m, "\x1b\n") {
			t.Errorf("%d bytes: %.300q", len(m), m)
		}
	})
}

func TestClusterThatReturnsWhileAnUpdateIsUncertainIsPushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		pass(time.Minute)
		var mu sync.Mutex
		var pushed []string
		pushes := func(add ...string) int {
			mu.Lock()
			defer mu.Unlock()
			pushed = append(pushed, add...)
			return len(pushed)
		}
		r.host.Handle(liveProgram, func(ctx context.Context, _, _ string, c hostops.GuestCommand) hostops.GuestResult {
			if pushes(c.Args[1]) == 1 {
				<-ctx.Done() // it was done, and the answer never came
			}
			return hostops.GuestResult{}
		})
		r.peer.set(r.grown(2, 1, 1))
		r.await("the first push", func() bool { return pushes() == 1 })
		r.peer.set(r.grown(3, 1, 0))
		r.await("the way back", func() bool { return pushes() == 2 && r.node().Message == "" })
		if pushed[0] == pushed[1] {
			t.Error("the same was pushed twice")
		}
	})
}

func TestNodeThatIsNotReadyIsChangedWhenItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		pass(time.Minute)
		r.host.Silence(res, "frontend", true)
		before := r.calls("Guests.Run")
		r.peer.set(r.grown(2, 1, 1))
		pass(5 * time.Minute)
		if n := r.calls("Guests.Run") - before; n != 0 {
			t.Errorf("%d commands in a node whose agent is away", n)
		}
		r.host.Silence(res, "frontend", false)
		r.await("the update", func() bool { return r.hosts() == "frontend compute-0" })
	})
}

// A new generation boots with a seed of its own: that is its configuration.
func TestNewGenerationIsNotPushedWhatItsSeedGaveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		pass(time.Minute)
		r.peer.set(r.grown(2, 2, 3))
		r.await("generation 2", func() bool { o := r.node(); return o.Generation == 2 && o.State == fsm.ObjReady })
		pass(time.Minute)
		if n := r.calls("Guests.Run res-1/frontend " + liveProgram); n != 0 {
			t.Errorf("pushed %d times", n)
		}
	})
}

func TestNodeOfAnOlderReleaseIsLeftAloneUntilItsClusterChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		for _, p := range []string{liveProgram, drainProgram, noticesProgram} {
			r.host.Handle(p, nil)
		}
		dir, _ := r.agent.nodeFiles(res, "frontend")
		for _, f := range []string{liveFile, drainFile, noticesFile} {
			if err := os.Remove(filepath.Join(dir, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		pass(10 * time.Minute)
		if o := r.node(); o.State != fsm.ObjReady || o.Message != "" {
			t.Errorf("%+v", o)
		}
		if n := r.calls("Guests.Run"); n > 4 {
			t.Errorf("%d commands", n)
		}
		r.peer.set(r.grown(2, 1, 1))
		r.await("the reason", func() bool { return strings.Contains(r.node().Message, "older release") })
	})
}

// Guests that stay silent must not keep others from their work.
func TestSilentGuestsDelayNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		const silent = 20
		build := func(index uint64, users int, more bool) fsm.Assignment {
			as := r.cluster(index, 1)
			add := func(name string, n int) {
				c, node := as.Clusters[res], as.Nodes[0]
				c.ID, node.Reservation, node.VLAN, node.Volume = name, name, 200+n, "v-"+name
				if users > 0 {
					c.Nodes = append(c.Nodes[:1:1], r.grown(index, 1, users).Clusters[res].Nodes[1:]...)
				}
				as.Clusters[name], as.Nodes = c, append(as.Nodes, node)
				as.Networks = append(as.Networks, fsm.NetworkWork{Reservation: name, VLAN: node.VLAN})
				v := as.Volumes[0]
				v.ID, v.Reservation = node.Volume, name
				as.Volumes = append(as.Volumes, v)
			}
			for i := range silent {
				add(fmt.Sprintf("silent-%d", i), i)
			}
			if more {
				add("new", silent)
			}
			return as
		}
		r.peer.set(build(2, 0, false))
		running := func() int {
			d, err := r.host.Domains().List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, x := range d {
				if x.Ready {
					n++
				}
			}
			return n
		}
		r.await("all to be ready", func() bool { return running() == silent+1 })
		pass(time.Minute)
		r.host.Handle(liveProgram, func(ctx context.Context, _, _ string, _ hostops.GuestCommand) hostops.GuestResult {
			<-ctx.Done()
			return hostops.GuestResult{}
		})
		r.peer.set(build(3, 1, false))
		pass(5 * time.Second)
		began := time.Now()
		r.peer.set(build(4, 1, true))
		r.await("another node to start", func() bool { return running() == silent+2 })
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestStopPowersOffCleanlyAndLeavesTheVolume(t *testing.T) {
	for name, c := range map[string]struct {
		config  fake.Config
		atLeast time.Duration
		atMost  time.Duration
	}{
		"a guest that obeys":      {fake.Config{StopAfter: 7 * time.Second}, 7 * time.Second, 10 * time.Second},
		"a guest that never does": {fake.Config{StopAfter: -1}, stopGrace, stopGrace + 3*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, c.config)
				r.start()
				defer r.end()
				r.peer.set(r.cluster(1, 1))
				r.await("the node to be ready", func() bool { return r.node().State == fsm.ObjReady })
				began := time.Now()
				as := r.cluster(2, 1)
				as.Nodes[0].Stop = true
				r.peer.set(as)
				r.await("the node to stop", func() bool { return r.node().State == fsm.ObjStopping })
				r.await("the node to be off", func() bool { return r.node().State == fsm.ObjOff })
				if took := time.Since(began); took < c.atLeast || took > c.atMost {
					t.Errorf("off after %v", took)
				}
				d, err1 := r.host.Domains().List(t.Context())
				v, err2 := r.host.Volumes().List(t.Context())
				if err := errors.Join(err1, err2); err != nil || len(d) != 0 || len(v) != 1 {
					t.Errorf("domains %+v, volumes %+v, %v", d, v, err)
				}
				if left, _ := filepath.Glob(filepath.Join(r.dir, "nodes", "*")); len(left) != 0 {
					t.Errorf("files of nodes are left: %v", left)
				}
				pass(10 * time.Minute)
				if o := r.node(); o.State != fsm.ObjOff || r.calls("Domains.Stop") != 1 {
					t.Errorf("later: %+v, stopped %d times", o, r.calls("Domains.Stop"))
				}
				r.peer.set(r.cluster(3, 2)) // it comes back
				r.await("the node to be ready", func() bool { o := r.node(); return o.State == fsm.ObjReady && o.Generation == 2 })
			})
		})
	}
}

func TestNodeThatIsStartingIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fake.Config{})
		r.host.Delay("Domains.Ensure", 1, time.Hour)
		r.start()
		defer r.end()
		r.peer.set(r.cluster(1, 1))
		r.await("the start", func() bool { return r.calls("Domains.Ensure") == 1 })
		as := r.cluster(2, 1)
		as.Nodes[0].Stop = true
		r.peer.set(as)
		r.await("the node to be off", func() bool { return r.node().State == fsm.ObjOff })
	})
}
