package agent

import (
	"errors"
	"net/netip"
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

// remoteRig is a rig whose node's disk is on another host, attached by this
// host's kernel.
type remoteRig struct {
	*rig
	storage *fake.Host
}

func newRemoteRig(t *testing.T) *remoteRig {
	t.Helper()
	f := fake.NewFabric()
	r := &remoteRig{rig: newRig(t, fake.Config{Name: "h1", Fabric: f}), storage: fake.New(fake.Config{Name: "storage", Fabric: f})}
	t.Cleanup(func() { r.storage.Close() })
	r.initiators = r.host.Initiators()
	return r
}

func secretOf(generation uint64) string { return "0123456789abcde" + string(rune('0'+generation)) }

// remote is the rig's cluster with its volume elsewhere, served to this host
// under that generation.
func (r *remoteRig) remote(version, generation uint64) fsm.Assignment {
	r.t.Helper()
	if err := r.storage.Targets().Publish(r.t.Context(), hostops.Export{
		Volume: volumeID, Path: "/fake/storage/" + volumeID, IQN: hostops.TargetIQN(volumeID), Generation: generation,
		Access: []hostops.Access{{Initiator: hostops.InitiatorIQN("h1"), Addr: netip.MustParseAddr("192.0.2.1"), User: "h1", Secret: secretOf(generation)}},
	}); err != nil {
		r.t.Fatal(err)
	}
	as := r.cluster(version, generation)
	as.Volumes = nil
	as.Nodes[0].Portal, as.Nodes[0].User, as.Nodes[0].Secret = "192.0.2.5:3260", "h1", secretOf(generation)
	return as
}

// attached lists what is attached.
func (r *remoteRig) attached() []hostops.Attachment {
	r.t.Helper()
	l, err := r.host.Initiators().List(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

func (r *remoteRig) running(generation uint64) func() bool {
	return func() bool {
		d, err := r.host.Domains().List(r.t.Context())
		return err == nil && len(d) == 1 && d[0].State == hostops.DomainRunning && d[0].Generation == generation
	}
}

func (r *remoteRig) ready() bool { return r.peer.stateOf(fsm.KindNode) == fsm.ObjReady }

func (r *remoteRig) clean() bool { return r.nothingLeft() && len(r.attached()) == 0 }

// up starts the agent and waits for its node.
func (r *remoteRig) up() {
	r.t.Helper()
	r.start()
	r.peer.set(r.remote(1, 1))
	r.await("the node to be ready", r.ready)
}

func TestRemoteDiskIsAttachedBeforeItsNodeStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemoteRig(t)
		r.host.Delay("Initiators.Attach", 1, time.Minute)
		r.start()
		defer r.end()
		r.peer.set(r.remote(1, 1))
		r.await("the report of it", func() bool {
			o := r.peer.last(fsm.KindNode)
			return o != nil && o.State == fsm.ObjWorking && o.Message == "attaching its disk"
		})
		r.await("the node to be ready", r.ready)
		s, ok := r.host.Spec("res-1", "frontend")
		if at := r.attached(); !ok || len(at) != 1 || s.Disk.Path != at[0].Path || s.Disk.ISCSI != nil {
			t.Errorf("disk %+v, attached %+v", s.Disk, at)
		}
		r.peer.set(fsm.Assignment{Version: 2, Host: "h1"})
		r.await("everything to go", r.clean)
	})
}

func TestWithoutInitiatorsTheHypervisorLogsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemoteRig(t)
		r.initiators = nil
		r.up()
		defer r.end()
		if s, ok := r.host.Spec("res-1", "frontend"); !ok || s.Disk.ISCSI == nil || r.calls("Initiators.") != 0 {
			t.Errorf("disk %+v, %d calls", s.Disk, r.calls("Initiators."))
		}
	})
}

func TestRefusedDiskIsReportedAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemoteRig(t)
		r.start()
		defer r.end()
		as := r.remote(1, 1)
		as.Nodes[0].Secret = secretOf(2) // the storage host has not heard of it yet
		r.peer.set(as)
		r.await("the refusal's report", func() bool {
			o := r.peer.last(fsm.KindNode)
			return o != nil && o.State == fsm.ObjFailed && strings.Contains(o.Message, "attach disk of node frontend") && strings.Contains(o.Message, "access denied")
		})
		if at := r.attached(); len(at) != 0 {
			t.Errorf("attached %+v", at)
		}
		again := r.remote(2, 2)
		again.Nodes[0].Generation = 1 // the same node: only its disk was not let in
		r.peer.set(again)
		r.await("the node to be ready", r.ready)
	})
}

func TestNewGenerationReattaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemoteRig(t)
		r.up()
		defer r.end()
		r.peer.set(r.remote(2, 2))
		r.await("generation 2 to run", r.running(2))
		r.await("it to be ready", func() bool { o := r.peer.last(fsm.KindNode); return r.ready() && o.Generation == 2 })
		if at := r.attached(); len(at) != 1 || at[0].Detail != "" {
			t.Errorf("attached %+v: want the new generation's, and let in", at)
		}
	})
}

func TestAgentKilledBetweenAttachAndStartGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemoteRig(t)
		r.host.Hang("Domains.Ensure", 1)
		r.start()
		as := r.remote(1, 1)
		r.peer.set(as)
		r.await("the disk to be attached", func() bool { return len(r.attached()) == 1 })
		r.end()
		r.start()
		r.await("the node to be ready", r.ready)
		r.end()
		if n := len(r.attached()); n != 1 {
			t.Errorf("%d attached", n)
		}
	})
}

func TestNodeUnassignedBetweenAttachAndStartLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemoteRig(t)
		r.host.Hang("Domains.Ensure", 1)
		r.start()
		r.peer.set(r.remote(1, 1))
		r.await("the disk to be attached", func() bool { return len(r.attached()) == 1 })
		r.end()
		r.peer.set(fsm.Assignment{Version: 2, Host: "h1"})
		r.start()
		defer r.end()
		r.await("everything to go", r.clean)
	})
}

func TestAgentKilledBetweenDomainAndDetachGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemoteRig(t)
		r.up()
		r.host.Hang("Initiators.Detach", 1)
		r.peer.set(fsm.Assignment{Version: 2, Host: "h1"})
		r.await("the domain to go", func() bool {
			d, err := r.host.Domains().List(t.Context())
			return err == nil && len(d) == 0
		})
		if o := r.peer.last(fsm.KindNode); o == nil {
			t.Error("the node counts as gone while its disk is attached")
		}
		r.end()
		if len(r.attached()) != 1 {
			t.Fatal("the disk is detached already: nothing is tested")
		}
		r.start()
		defer r.end()
		r.await("everything to go", r.clean)
		r.await("the node's report to go", func() bool { return r.peer.stateOf(fsm.KindNode) == "absent" })
	})
}

func TestDiskInUseIsDetachedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemoteRig(t)
		r.up()
		defer r.end()
		release := r.host.OpenDevice(r.attached()[0].Path)
		r.peer.set(fsm.Assignment{Version: 2, Host: "h1"})
		r.await("the report of it", func() bool {
			o := r.peer.last(fsm.KindNode)
			return o != nil && strings.Contains(o.Message, "busy")
		})
		release()
		r.await("everything to go", r.clean)
	})
}

func TestStrayAttachmentIsDetachedOnlyOnAPeersWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemoteRig(t)
		as := r.remote(1, 1)
		if _, err := r.host.Initiators().Attach(t.Context(), hostops.ISCSIDisk{
			Portal: netip.MustParseAddrPort("192.0.2.5:3260"), IQN: hostops.TargetIQN(volumeID), LUN: 1,
			Initiator: hostops.InitiatorIQN("h1"), User: "h1", Secret: secretOf(1),
		}); err != nil {
			t.Fatal(err)
		}
		r.host.AddForeignSession(hostops.TargetIQN("theirs"))
		r.peer.down = errors.New("no peer answers")
		r.start()
		defer r.end()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(r.attached()) != 1 {
			t.Fatal("detached on nobody's word")
		}
		r.peer.mu.Lock()
		r.peer.down = nil
		r.peer.mu.Unlock()
		as.Nodes, as.Networks = nil, nil
		r.host.Delay("Initiators.Detach", 1, time.Minute)
		r.peer.set(as)
		r.await("the report of it", func() bool {
			o := r.peer.last(fsm.KindVolume)
			return o != nil && o.ID == volumeID && o.State == fsm.ObjStopping
		})
		r.await("it to go", func() bool { return len(r.attached()) == 0 })
		r.await("its report to go", func() bool { return r.peer.stateOf(fsm.KindVolume) == "absent" })
	})
}

func TestLostTargetPausesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemoteRig(t)
		r.up()
		defer r.end()
		r.host.CutStorage(true)
		before := r.calls("Domains.Ensure")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if !r.ready() || r.calls("Domains.Ensure") != before {
			t.Errorf("the node is %s: want it left alone", r.peer.stateOf(fsm.KindNode))
		}
		// And it can be removed meanwhile.
		r.peer.set(fsm.Assignment{Version: 2, Host: "h1"})
		r.await("everything to go", r.clean)
	})
}

func TestNodeWhoseDeviceIsGoneStartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemoteRig(t)
		r.up()
		defer r.end()
		r.host.LoseSessions() // somebody's iscsiadm --logoutall
		r.await("the node to run again", func() bool { return r.running(1)() && r.ready() })
	})
}

func TestHostThatRestartsLogsInAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemoteRig(t)
		r.up()
		r.end()
		r.host.Reboot()
		r.peer.down = errors.New("no peer answers")
		r.start()
		defer r.end()
		r.await("the node to run", r.running(1))
	})
}

func TestHungHypervisorIsFreedByTheEndOfItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemoteRig(t)
		r.up()
		defer r.end()
		r.host.Crash("res-1", "frontend") // it is killed; libvirt does not see it end
		r.host.Fail("Domains.Remove", 1, errors.New("failed to terminate process: device or resource busy"))
		r.peer.set(fsm.Assignment{Version: 2, Host: "h1"})
		r.await("everything to go", r.clean)
	})
}

func TestDamagedVolumeFileStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemoteRig(t)
		r.up()
		defer r.end()
		path := filepath.Join(r.agent.nodesDir(), "res-1", "frontend", volumeFile)
		if err := os.WriteFile(path, []byte("../../etc\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.peer.set(fsm.Assignment{Version: 2, Host: "h1"})
		r.await("everything to go", r.clean)
	})
}
