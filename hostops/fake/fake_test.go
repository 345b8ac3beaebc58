package fake

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vcn/hostops"
	"vcn/hostops/hosttest"
	"vcn/rolls"
)

func newHost(t *testing.T, c Config) *Host {
	t.Helper()
	h := New(c)
	t.Cleanup(func() { h.Close() })
	return h
}

func spec(node string, generation uint64) hostops.DomainSpec {
	return hostops.DomainSpec{Reservation: "r-1", Node: node, Generation: generation, CPUs: 1, MemoryBytes: 512 << 20}
}

func TestConformance(t *testing.T) {
	t.Run("Domains", func(t *testing.T) {
		hosttest.TestDomains(t, func(t *testing.T) hosttest.DomainsEnv {
			h := newHost(t, Config{ReadyAfter: 50 * time.Millisecond})
			return hosttest.DomainsEnv{
				Domains: h.Domains(), Spec: spec, Readies: true,
				Foreign: func(t *testing.T, s hostops.DomainSpec) { h.AddForeignDomain(s.Reservation, s.Node) },
			}
		})
	})
	t.Run("Networks", func(t *testing.T) {
		hosttest.TestNetworks(t, func(t *testing.T) hosttest.NetworksEnv {
			h := newHost(t, Config{})
			return hosttest.NetworksEnv{
				Networks: h.Networks(),
				Foreign:  func(t *testing.T, vlan int) { h.AddForeignNetwork(vlan) },
				Break:    func(t *testing.T, vlan int) { h.BreakNetwork(vlan, "the port is down") },
			}
		})
	})
	t.Run("Volumes", func(t *testing.T) {
		hosttest.TestVolumes(t, func(t *testing.T) hosttest.VolumesEnv {
			return hosttest.VolumesEnv{
				Volumes: newHost(t, Config{}).Volumes(),
				Base:    func(t *testing.T, size int64) string { return "/fake/base" },
			}
		})
	})
	t.Run("Targets", func(t *testing.T) {
		hosttest.TestTargets(t, func(t *testing.T) hosttest.TargetsEnv {
			return hosttest.TargetsEnv{
				Targets: newHost(t, Config{}).Targets(),
				Volume:  func(t *testing.T, id string, size int64) string { return "/fake/volumes/" + id },
			}
		})
	})
	t.Run("Images", func(t *testing.T) {
		hosttest.TestImages(t, func(t *testing.T) hosttest.ImagesEnv {
			return hosttest.ImagesEnv{
				Images: newHost(t, Config{Name: "a"}).Images(), Other: newHost(t, Config{Name: "b"}).Images(),
				Recipe: rolls.Recipe{Appliance: "worker", Rolls: []*rolls.Roll{{Name: "base", Version: "1"}}},
			}
		})
	})
}

func TestReadyInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Config{ReadyAfter: time.Hour, StopAfter: time.Minute})
		defer h.Close()
		d := h.Domains()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := d.Watch(ctx)
		if err := d.Ensure(ctx, spec("frontend", 1)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for {
			<-w
			all, err := d.List(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if all[0].Ready {
				break
			}
		}
		if took := time.Since(began); took != time.Hour {
			t.Errorf("ready after %v", took)
		}
		began = time.Now()
		if err := d.Stop(ctx, "r-1", "frontend", 5*time.Minute); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != time.Minute {
			t.Errorf("stopped after %v", took)
		}
	})
}

func TestAReplacedGuestsTimerReadiesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Config{ReadyAfter: time.Minute})
		defer h.Close()
		d := h.Domains()
		if err := d.Ensure(t.Context(), spec("frontend", 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if err := d.Ensure(t.Context(), spec("frontend", 2)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(45 * time.Second) // the first guest would be ready by now
		synctest.Wait()
		if all, err := d.List(t.Context()); err != nil || all[0].Ready {
			t.Errorf("%+v, %v", all, err)
		}
	})
}

func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Config{})
		defer h.Close()
		v := h.Volumes()
		ctx := t.Context()
		s := hostops.VolumeSpec{ID: "a", SizeBytes: 512}
		broken := errors.New("the disk is broken")
		h.Fail("Volumes.Ensure", 2, broken)
		for range 2 {
			if _, err := v.Ensure(ctx, s); !errors.Is(err, broken) {
				t.Errorf("Ensure: %v", err)
			}
		}
		if all, err := v.List(ctx); err != nil || len(all) != 0 {
			t.Errorf("a failed call changed something: %+v, %v", all, err)
		}
		h.Delay("Volumes.*", 1, time.Hour)
		began := time.Now()
		if _, err := v.Ensure(ctx, s); err != nil || time.Since(began) != time.Hour {
			t.Errorf("a delayed call: %v after %v", err, time.Since(began))
		}
		h.Hang("*", -1)
		short, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := v.Remove(short, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a hanging call: %v", err)
		}
		h.Heal("*")
		if err := v.Remove(ctx, "a"); err != nil {
			t.Errorf("after Heal: %v", err)
		}
		if calls := strings.Join(h.Calls(), ", "); !strings.HasSuffix(calls, "Volumes.Remove a, Volumes.Remove a") {
			t.Errorf("calls: %s", calls)
		}
	})
}

// TestFencing walks what storage fencing promises: the guest of an old
// generation stops, and cannot come back.
func TestFencing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		fabric := NewFabric()
		storage := New(Config{Name: "s", Fabric: fabric})
		a, b := New(Config{Name: "a", Fabric: fabric}), New(Config{Name: "b", Fabric: fabric})
		for _, h := range []*Host{storage, a, b} {
			defer h.Close()
		}
		export := func(host string, generation uint64) hostops.Export {
			return hostops.Export{
				Volume: "v", Path: "/v", IQN: hostops.TargetIQN("v"), Generation: generation,
				Access: []hostops.Access{{Initiator: hostops.InitiatorIQN(host), User: host, Secret: "secret-of-" + host, Addr: netip.MustParseAddr("192.0.2.1")}},
			}
		}
		node := func(host string, generation uint64) hostops.DomainSpec {
			s := spec("compute-0", generation)
			s.Disk.ISCSI = &hostops.ISCSIDisk{
				Portal: netip.MustParseAddrPort("192.0.2.9:3260"), IQN: hostops.TargetIQN("v"), LUN: 1,
				Initiator: hostops.InitiatorIQN(host), User: host, Secret: "secret-of-" + host,
			}
			return s
		}
		if err := a.Domains().Ensure(ctx, node("a", 1)); err == nil {
			t.Error("a guest started without its disk")
		}
		if err := storage.Targets().Publish(ctx, export("a", 1)); err != nil {
			t.Fatal(err)
		}
		if err := a.Domains().Ensure(ctx, node("a", 1)); err != nil {
			t.Fatal(err)
		}
		if err := b.Domains().Ensure(ctx, node("b", 2)); err == nil {
			t.Error("two hosts have one disk")
		}
		if err := storage.Targets().Publish(ctx, export("b", 2)); err != nil {
			t.Fatal(err)
		}
		if all, _ := a.Domains().List(ctx); all[0].State != hostops.DomainPaused {
			t.Errorf("the fenced guest: %+v", all[0])
		}
		if err := b.Domains().Ensure(ctx, node("b", 2)); err != nil {
			t.Fatal(err)
		}
		if err := a.Domains().Ensure(ctx, node("a", 1)); err == nil {
			t.Error("the fenced guest went on")
		}
		exports, err := storage.Targets().List(ctx)
		if err != nil || len(exports) != 1 || len(exports[0].Sessions) != 1 || exports[0].Sessions[0].Initiator != hostops.InitiatorIQN("b") {
			t.Errorf("sessions: %+v, %v", exports, err)
		}
		storage.Reboot()
		if all, _ := b.Domains().List(ctx); all[0].State != hostops.DomainPaused {
			t.Errorf("after the storage host's restart: %+v", all[0])
		}
	})
}

func TestGuestKnobs(t *testing.T) {
	h := newHost(t, Config{})
	ctx := t.Context()
	if err := h.Domains().Ensure(ctx, spec("frontend", 1)); err != nil {
		t.Fatal(err)
	}
	for want, knob := range map[hostops.DomainState]func(string, string){
		hostops.DomainOff: h.PowerOff, hostops.DomainCrashed: h.Crash, hostops.DomainPaused: h.Pause,
	} {
		knob("r-1", "frontend")
		if all, err := h.Domains().List(ctx); err != nil || all[0].State != want {
			t.Errorf("want %s: %+v, %v", want, all, err)
		}
		if err := h.Domains().Ensure(ctx, spec("frontend", 1)); err != nil {
			t.Fatal(err)
		}
		if all, err := h.Domains().List(ctx); err != nil || all[0].State != hostops.DomainRunning {
			t.Errorf("after Ensure: %+v, %v", all, err)
		}
	}
}
