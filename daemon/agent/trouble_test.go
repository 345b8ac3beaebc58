package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vcn/fsm"
	"vcn/hostops"
	"vcn/hostops/fake"
)

// readyRig is a rig whose one node is ready.
func readyRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, fake.Config{})
	r.start()
	r.peer.set(r.cluster(1, 1))
	r.await("the node to be ready", func() bool { return r.peer.stateOf(fsm.KindNode) == fsm.ObjReady })
	return r
}

func (r *rig) calls(name string) int {
	n := 0
	for _, c := range r.host.Calls() {
		if len(c) >= len(name) && c[:len(name)] == name {
			n++
		}
	}
	return n
}

func TestNodePausedOnAnIOErrorGoesOnByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		r.host.Pause("res-1", "frontend")
		r.await("the node to run again", func() bool {
			d, err := r.host.Domains().List(t.Context())
			return err == nil && len(d) == 1 && d[0].State == hostops.DomainRunning
		})
	})
}

func TestStepThatDoesNotHelpIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		before := r.calls("Networks.Ensure")
		// Ensure succeeds and the network stays unhealthy: a link below it is down.
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					r.host.BreakNetwork(100, "the underlay is down")
				}
			}
		}()
		time.Sleep(10 * time.Minute)
		close(stop)
		synctest.Wait()
		if n := r.calls("Networks.Ensure") - before; n < 10 || n > 60 {
			t.Errorf("ensured %d times in 10 minutes, want some 20 to 30", n)
		}
	})
}

func TestDriverThatHangsDoesNotFreezeTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		r.host.Hang("Domains.List", 1)
		r.peer.set(fsm.Assignment{Version: 2, Host: "h1"})
		r.await("everything to go", r.nothingLeft)
	})
}

func TestReportOfAHostThatCannotBeObservedIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		r.host.Fail("Domains.List", 1<<30, errors.New("connection refused"))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		r.peer.mu.Lock()
		before := len(r.peer.reports)
		r.peer.mu.Unlock()
		time.Sleep(time.Hour)
		synctest.Wait()
		r.peer.mu.Lock()
		defer r.peer.mu.Unlock()
		if n := len(r.peer.reports) - before; n != 0 {
			t.Errorf("%d reports in an hour in which the host was not seen, want none", n)
		}
	})
}

func TestVolumeWhoseDataIsGoneIsNeverClonedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		as := r.cluster(2, 1)
		as.Volumes[0].Made = true
		r.peer.set(as)
		if err := r.host.Volumes().Remove(t.Context(), volumeID); err != nil { // its file system is not mounted
			t.Fatal(err)
		}
		r.await("the loss to be reported", func() bool { return r.peer.stateOf(fsm.KindVolume) == fsm.ObjFailed })
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if v, err := r.host.Volumes().List(t.Context()); err != nil || len(v) != 0 {
			t.Fatalf("volumes %+v, %v: want none made", v, err)
		}
	})
}

func TestLossOfPowerIsSaidOfTheVolume(t *testing.T) {
	w := fsm.VolumeWork{ID: "v-1", SizeBytes: 1 << 30, Generation: 3, ImageDigest: "d", Access: []fsm.AccessWork{{Host: "h2"}}}
	status := hostops.ExportStatus{Volume: "v-1", Generation: 3, Lost: true}
	act := diffVolume(diffInput{
		seen: seen{
			volumes: map[string]hostops.Volume{"v-1": {ID: "v-1", SizeBytes: 1 << 30}},
			exports: map[string]hostops.ExportStatus{"v-1": status},
		},
		served: map[string]string{"v-1": digest(w.Access)},
	}, w)
	if act.run != nil || act.object.State != fsm.ObjReady || !strings.Contains(act.object.Message, "lost power") {
		t.Errorf("%+v: want nothing done, and the loss said", act.object)
	}
}

func TestBuildThatFailsSlowlyIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fake.Config{})
		if err := r.host.Images().Remove(t.Context(), r.image.Digest); err != nil {
			t.Fatal(err)
		}
		before := r.calls("Images.Build")
		r.host.Delay("Images.Build", -1, 2*time.Minute)
		r.host.Fail("Images.Build", -1, errors.New("the mirror does not answer"))
		r.start()
		defer r.end()
		as := r.cluster(1, 1)
		as.Images[0].Digest, as.Images[0].Build, as.Images[0].Sources = "", true, nil
		as.Volumes, as.Nodes = nil, nil
		r.peer.set(as)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := r.calls("Images.Build") - before; n < 20 || n > 26 {
			t.Errorf("built %d times in an hour, want some 24: two minutes each, and 30 s between them", n)
		}
	})
}

func TestHostThatCannotBeSeenSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		time.Sleep(10 * time.Minute)
		if r.agent.Blind() {
			t.Error("a host that is well calls itself blind")
		}
		r.host.Fail("Domains.List", -1, errors.New("no libvirtd"))
		time.Sleep(blindAfter + time.Minute)
		if !r.agent.Blind() {
			t.Error("a host without its hypervisor is not blind")
		}
		r.host.Heal("*")
		time.Sleep(time.Minute)
		if r.agent.Blind() {
			t.Error("it is still blind")
		}
	})
}

func TestGuestIsToldTheMTUOfItsPrivateNetworkOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		spec, ok := r.host.Spec("res-1", "frontend")
		if !ok || len(spec.NICs) != 2 || spec.NICs[0].MTU != 1450 || spec.NICs[1].MTU != 0 {
			t.Errorf("cards %+v", spec.NICs)
		}
	})
}

func TestSeedIsMadeOnceForEachGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		seeds, err := filepath.Glob(filepath.Join(r.agent.nodesDir(), "*", "*", "seed-1.iso"))
		if err != nil || len(seeds) != 1 {
			t.Fatalf("seeds %v, %v", seeds, err)
		}
		if err := os.WriteFile(seeds[0], []byte("of an older vcnd"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := r.host.Domains().Stop(t.Context(), "res-1", "frontend", 0); err != nil {
			t.Fatal(err)
		}
		r.await("the node to run again", func() bool {
			d, err := r.host.Domains().List(t.Context())
			return err == nil && len(d) == 1 && d[0].State == hostops.DomainRunning
		})
		if b, err := os.ReadFile(seeds[0]); err != nil || string(b) != "of an older vcnd" {
			t.Errorf("the seed was made again: %.20q, %v", b, err)
		}
	})
}

func TestDamagedKeptAssignmentIsSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		r.end()
		path := filepath.Join(r.dir, "assignment.json")
		if err := os.WriteFile(path, []byte("{\"Version\": 1, "), 0o600); err != nil {
			t.Fatal(err)
		}
		r.start()
		defer r.end()
		r.await("a report", func() bool { return r.peer.stateOf(fsm.KindNode) == fsm.ObjReady })
		if _, err := os.Stat(path + ".damaged"); err != nil {
			t.Errorf("the damaged file is gone: %v", err)
		}
		if d, err := r.host.Domains().List(t.Context()); err != nil || len(d) != 1 || d[0].State != hostops.DomainRunning {
			t.Errorf("domains %+v, %v: want the node still running", d, err)
		}
	})
}

func TestAssignmentThatCannotBeKeptIsNotActedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		// A directory in the file's place: renaming over it fails, as on a full disk.
		path := filepath.Join(r.dir, "assignment.json")
		if err := errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "in the way"), 0o700)); err != nil {
			t.Fatal(err)
		}
		r.peer.set(fsm.Assignment{Version: 2, Host: "h1"})
		time.Sleep(time.Minute)
		synctest.Wait()
		if r.nothingLeft() {
			t.Fatal("acted on an assignment that a restart would not know")
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		r.await("everything to go once it can be kept", r.nothingLeft)
	})
}
