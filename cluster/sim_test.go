package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// simulate runs f in virtual time with a world on the simulated network.
func simulate(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true)
		f(t, w)
		w.stop()
		// memberlist's last probe ends by timeout after its Shutdown; time stands
		// still once this function returns.
		time.Sleep(time.Minute)
	})
}

func TestThreeHostsBecomeThreeVotersSoon(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.add()
		w.mustLead(2 * time.Second)
		w.add()
		w.add()
		took := w.wantRoles(3, 0, 4*time.Second)
		t.Logf("three voters %v after the third joined", took)
		w.commit("one", time.Second)
		w.same(time.Second)
	})
}

func TestLeaderLossElectsAnotherWithinElectionTime(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		for range 3 {
			w.add()
		}
		w.wantRoles(3, 0, 6*time.Second)
		w.commit("before", time.Second)
		old := w.leader()
		old.kill()
		took := w.eventually("another leader", 5*time.Second, func() bool { return w.leader() != nil })
		// Up to two heartbeat timeouts until somebody stands, then at most a few split votes.
		if took > 2*time.Second {
			t.Errorf("a new leader took %v", took)
		}
		t.Logf("new leader after %v", took)
		w.commit("after", 2*time.Second)
		old.restart()
		w.eventually("the old one to follow", 10*time.Second, func() bool { return old.Role() == RoleVoter })
		w.wantRoles(3, 0, 5*time.Second)
		w.same(5 * time.Second)
		if old.cfg.FSM.(*ledger).all()[0].Data != "before" {
			t.Error("the restarted host has lost its first entry")
		}
	})
}

func TestLeaderCutOffCommitsNothingAndFollowsWhenHealed(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		for range 3 {
			w.add()
		}
		w.wantRoles(3, 0, 6*time.Second)
		old := w.leader()
		termEnded := make(chan struct{})
		old.RunAsLeader("watch", func(ctx context.Context) { <-ctx.Done(); close(termEnded) })
		w.sim.cut(func(a, b string) bool { return (a == old.ip) != (b == old.ip) })
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, _, err := old.Apply(ctx, []byte("lost")); err == nil {
			t.Error("a leader without a quorum committed")
		} else if !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("got %v, want ErrOutcomeUnknown", err)
		}
		select {
		case <-termEnded:
		case <-time.After(time.Second):
			t.Error("the term of a leader that was cut off did not end")
		}
		if _, _, err := old.Apply(ctx, []byte("refused")); !errors.Is(err, ErrNoLeader) && !errors.Is(err, ErrNotLeader) {
			t.Errorf("after the lease: got %v", err)
		}
		w.commit("majority", 3*time.Second)
		time.Sleep(2 * time.Minute) // long enough for memberlist to forget
		if m, _ := w.leader().Member(old.cfg.HostID); m.Status != StatusDead {
			t.Errorf("cut host is %s, want dead", m.Status)
		}
		w.sim.cut(nil)
		w.eventually("gossip to heal", time.Minute, func() bool {
			for _, h := range w.up() {
				for _, m := range h.Members() {
					if m.Status != StatusAlive {
						return false
					}
				}
			}
			return true
		})
		w.wantRoles(3, 0, 20*time.Second)
		w.commit("healed", time.Second)
		w.same(10 * time.Second)
		for _, e := range w.leader().fsm.all() {
			if e.Data == "lost" || e.Data == "refused" {
				t.Errorf("entry %q of the minority was committed", e.Data)
			}
		}
	})
}

func TestDeadVoterIsReplacedByTheSpare(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		for range 5 {
			w.add()
		}
		w.wantRoles(3, 1, 10*time.Second)
		w.commit("one", time.Second)
		var dead *host
		for _, h := range w.hosts {
			if h.Role() == RoleVoter {
				dead = h
			}
		}
		dead.kill()
		if took := w.eventually("replacement", 2*time.Minute, func() bool {
			l := w.leader()
			return l != nil && l.configuredRoles()[dead.cfg.HostID] == ""
		}); took < 30*time.Second {
			t.Errorf("replaced after %v, before it counts as dead", took)
		}
		w.wantRoles(3, 1, 10*time.Second)
		w.commit("two", time.Second)
		// It comes back with old data, is told to stop, and is a follower.
		dead.restart()
		w.eventually("the old voter to be a follower", 30*time.Second, func() bool {
			return dead.Role() == RoleNone && dead.disk.timesAside() == 1
		})
		w.wantRoles(3, 1, 5*time.Second)
		w.same(5 * time.Second)
	})
}

func known(cordoned string) []KnownHost {
	var out []KnownHost
	for _, id := range []string{"h1", "h2", "h3"} {
		out = append(out, KnownHost{ID: id, NeverPeer: id == cordoned})
	}
	return out
}

func TestPeerThatComesBackAppliesNothingTwice(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		var cordoned atomic.Pointer[string]
		cordoned.Store(new(string))
		w.config = func(c *Config) {
			c.KnownHosts = func() []KnownHost { return known(*cordoned.Load()) }
		}
		for range 3 {
			w.add()
		}
		w.wantRoles(3, 0, 10*time.Second)
		w.commit("one", time.Second)
		var out *host
		for _, h := range w.hosts {
			if h.Role() == RoleVoter {
				out = h
			}
		}
		w.same(time.Second)
		// Cordoned: out of the group, its process and state machine live on.
		cordoned.Store(&out.cfg.HostID)
		w.eventually("it to be a follower", 30*time.Second, func() bool { return out.Role() == RoleNone })
		w.commit("two", time.Second)
		cordoned.Store(new(string))
		w.wantRoles(3, 0, 30*time.Second)
		w.commit("three", time.Second)
		w.same(5 * time.Second)
	})
}

func TestVoterThatLostItsDataComesBackAsNewcomer(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		for range 3 {
			w.add()
		}
		w.wantRoles(3, 0, 10*time.Second)
		w.commit("one", time.Second)
		var v *host
		for _, h := range w.hosts[1:] {
			if h.Role() == RoleVoter {
				v = h
			}
		}
		v.kill()
		v.disk.SetAside()
		v.restart()
		w.eventually("it to be out", 30*time.Second, func() bool {
			l := w.leader()
			return l != nil && l.configuredRoles()[v.cfg.HostID] == ""
		})
		w.wantRoles(3, 0, 30*time.Second)
		w.same(5 * time.Second)
	})
}

func TestFollowerOutsideRaftLearnsTheLeader(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		for range 6 {
			w.add()
		}
		w.wantRoles(3, 1, 10*time.Second)
		follower := w.hosts[5]
		if follower.Role() != RoleNone || follower.IsPeer() {
			t.Fatalf("role %q, want none", follower.Role())
		}
		knows := func() bool {
			l := w.leader()
			id, addr, ok := follower.Leader()
			return l != nil && ok && id == l.cfg.HostID && addr == l.Addr().String()
		}
		w.eventually("the follower to know the leader", 5*time.Second, knows)
		if _, _, err := follower.Apply(t.Context(), []byte("x")); !errors.Is(err, ErrNotLeader) {
			t.Errorf("apply at a follower: %v", err)
		}
		w.leader().kill()
		w.mustLead(3 * time.Second)
		t.Logf("follower knew the next leader %v after it led", w.eventually("the follower to know the next leader", 5*time.Second, knows))
	})
}

func TestLargeAdvertsSpread(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.config = func(c *Config) { c.Timing.PushPull = time.Hour } // by broadcast alone
		for range 4 {
			w.add()
		}
		rnd := rand.New(rand.NewPCG(1, 2))
		var images []string
		for range 120 {
			images = append(images, fmt.Sprintf("sha256:%016x%016x%016x%016x", rnd.Uint64(), rnd.Uint64(), rnd.Uint64(), rnd.Uint64()))
		}
		if err := w.hosts[3].SetAdvert(Advert{Images: images, CPUs: 7, Classes: []string{"compute"}}); err != nil {
			t.Fatal(err)
		}
		took := w.eventually("the advert everywhere", 10*time.Second, func() bool {
			for _, h := range w.hosts {
				m, _ := h.Member("h4")
				if len(m.Images) != 120 || m.Images[119] != images[119] || m.CPUs != 7 || m.Internal == "" {
					return false
				}
			}
			return true
		})
		t.Logf("an advert of %d images was everywhere after %v", len(images), took)
		for range 6000 {
			images = append(images, fmt.Sprintf("%016x%016x", rnd.Uint64(), rnd.Uint64()))
		}
		if err := w.hosts[3].SetAdvert(Advert{Images: images}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("an advert over the limit: %v", err)
		}
	})
}

func TestRestartKeepsAdvertsMovingWhenTheClockWentBack(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.add()
		b := w.add()
		w.eventually("advert", 5*time.Second, func() bool { m, _ := w.hosts[0].Member("h2"); return m.HasAdvert })
		b.gossip.mu.Lock()
		b.gossip.own.Seq += uint64(time.Hour) // its clock was an hour ahead
		b.gossip.mu.Unlock()
		b.SetAdvert(Advert{CPUs: 1})
		w.eventually("the advert from the future", 5*time.Second, func() bool { m, _ := w.hosts[0].Member("h2"); return m.CPUs == 1 })
		b.kill()
		b.restart()
		b.join(w.hosts[0])
		b.SetAdvert(Advert{CPUs: 2})
		w.eventually("the advert after the restart", 5*time.Second, func() bool { m, _ := w.hosts[0].Member("h2"); return m.CPUs == 2 })
	})
}

func TestNoSecondBootstrap(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		a := w.add()
		w.mustLead(2 * time.Second)
		id := a.group.Load().id
		a.kill()
		a.restart() // Bootstrap is still set: it resumes
		w.mustLead(2 * time.Second)
		if a.group.Load().id != id {
			t.Fatal("a restart made another group")
		}
		a.kill()
		a.disk.SetAside() // its disk is lost, the marker is not
		if _, err := New(a.cfg); !errors.Is(err, ErrBootstrapped) {
			t.Fatalf("bootstrap with lost data: %v", err)
		}
	})
}

func TestSecondGroupUnderTheSameCAStaysApart(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.add()
		w.mustLead(2 * time.Second)
		rogue := w.add(func(c *Config) { c.Bootstrap = true })
		time.Sleep(30 * time.Second)
		if roles := w.hosts[0].configuredRoles(); len(roles) != 1 {
			t.Errorf("a host of another group was taken in: %v", roles)
		}
		if roles := rogue.configuredRoles(); len(roles) != 1 {
			t.Errorf("a host of another group was taken in: %v", roles)
		}
		layer := w.hosts[0].group.Load().layer
		conn, err := layer.Dial(pinned{"h2", rogue.Addr().String()}.server(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the other group kept a raft connection open: %v", err)
		}
	})
}

func TestLeaveIsNotDeath(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		for range 4 {
			w.add()
		}
		w.wantRoles(3, 1, 10*time.Second)
		w.commit("one", time.Second)
		l := w.leader()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := l.Leave(ctx); err != nil {
			t.Fatal(err)
		}
		n := l.Node
		l.Node = nil
		if err := n.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		took := w.wantRoles(3, 0, 5*time.Second)
		t.Logf("three voters again %v after the leader left", took)
		for _, h := range w.up() {
			if m, _ := h.Member(l.cfg.HostID); m.Status != StatusLeft {
				t.Errorf("%s sees the host that left as %s", h.cfg.HostID, m.Status)
			}
		}
		w.commit("two", time.Second)
		l.cfg.Bootstrap = false
		l.restart()
		l.join(w.up()[0])
		w.wantRoles(3, 1, 20*time.Second)
		w.same(5 * time.Second)
	})
}

func TestWholeClusterRestartFindsItselfAgain(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		for range 4 {
			w.add()
		}
		w.wantRoles(3, 1, 10*time.Second)
		w.commit("one", time.Second)
		time.Sleep(2 * time.Second) // peers are remembered every second
		for _, h := range w.hosts {
			h.kill()
		}
		for _, h := range w.hosts {
			h.restart()
		}
		w.mustLead(5 * time.Second)
		w.eventually("gossip whole again", time.Minute, func() bool {
			for _, h := range w.hosts {
				for _, m := range h.Members() {
					if m.Status != StatusAlive {
						return false
					}
				}
				if len(h.Members()) != 4 {
					return false
				}
			}
			return true
		})
		w.wantRoles(3, 1, 10*time.Second)
		w.commit("two", time.Second)
		w.same(5 * time.Second)
	})
}
