package fake

import (
	"net/netip"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/hostops/hosttest"
)

// storage is a host that serves volumes to another one over a fabric.
func storage(t *testing.T, f *Fabric) func(t *testing.T, volume, secret string) hostops.ISCSIDisk {
	s := newHost(t, Config{Name: "storage", Fabric: f})
	generation := uint64(0)
	return func(t *testing.T, volume, secret string) hostops.ISCSIDisk {
		t.Helper()
		generation++
		d := hostops.ISCSIDisk{
			Portal: netip.MustParseAddrPort("192.0.2.5:3260"), IQN: hostops.TargetIQN(volume), LUN: 1,
			Initiator: hostops.InitiatorIQN("compute"), User: "compute", Secret: secret,
		}
		if err := s.Targets().Publish(t.Context(), hostops.Export{
			Volume: volume, Path: "/fake/" + volume, IQN: d.IQN, Generation: generation,
			Access: []hostops.Access{{Initiator: d.Initiator, Addr: netip.MustParseAddr("192.0.2.6"), User: d.User, Secret: secret}},
		}); err != nil {
			t.Fatal(err)
		}
		return d
	}
}

func TestInitiatorsConform(t *testing.T) {
	hosttest.TestInitiators(t, func(t *testing.T) hosttest.InitiatorsEnv {
		f := NewFabric()
		h := newHost(t, Config{Name: "compute", Fabric: f})
		return hosttest.InitiatorsEnv{
			Initiators: h.Initiators(), Serve: storage(t, f),
			Away:    func(_ *testing.T, away bool) { h.CutStorage(away) },
			Open:    func(_ *testing.T, path string) func() { return h.OpenDevice(path) },
			Foreign: func(_ *testing.T, d hostops.ISCSIDisk) { h.AddForeignSession(d.IQN) },
		}
	})
}

func TestGuestOnAnAttachedDisk(t *testing.T) {
	f := NewFabric()
	h := newHost(t, Config{Name: "compute", Fabric: f, ReadyAfter: time.Millisecond})
	d := storage(t, f)(t, "v-1", "0123456789abcdef")
	s := spec("node", 1)
	s.Disk.Path = "/fake/compute/disks/" + d.IQN
	if err := h.Domains().Ensure(t.Context(), s); err == nil {
		t.Error("a guest started on a device that is not there")
	}
	if _, err := h.Initiators().Attach(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := h.Domains().Ensure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := h.Initiators().Detach(t.Context(), d.IQN); err == nil {
		t.Error("the disk of a running guest was detached")
	}
	state := func() hostops.DomainState {
		l, err := h.Domains().List(t.Context())
		if err != nil || len(l) != 1 {
			t.Fatalf("%+v, %v", l, err)
		}
		return l[0].State
	}
	h.LoseSessions()
	if got := state(); got != hostops.DomainPaused {
		t.Errorf("the guest is %s after its device went", got)
	}
	if _, err := h.Initiators().Attach(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := h.Domains().Ensure(t.Context(), s); err != nil || state() != hostops.DomainPaused {
		t.Errorf("%v, %s: its hypervisor holds the old device", err, state())
	}
	if err := h.Domains().Stop(t.Context(), s.Reservation, s.Node, 0); err != nil {
		t.Fatal(err)
	}
	if err := h.Domains().Ensure(t.Context(), s); err != nil || state() != hostops.DomainRunning {
		t.Errorf("%v, %s after a restart", err, state())
	}
	h.Reboot()
	if l, err := h.Initiators().List(t.Context()); err != nil || len(l) != 1 || l[0].Path != "" {
		t.Errorf("after the host's restart: %+v, %v: want a record and no session", l, err)
	}
}
