package hosttest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"vcn/hostops"
)

// Patience is how long the suite waits for something that must come.
const Patience = 60 * time.Second

// DomainsEnv is what one case needs.
type DomainsEnv struct {
	Domains hostops.Domains
	// Spec returns a specification that can run here, of a reservation that is
	// the case's own.
	Spec func(node string, generation uint64) hostops.DomainSpec
	// Foreign puts somebody else's machine where that node's would be.
	Foreign func(t *testing.T, s hostops.DomainSpec)
	// Daemon restarts the hypervisor's daemon; nil if there is none.
	Daemon func(t *testing.T)
	// Readies says that guests of Spec become ready.
	Readies bool
}

// TestDomains checks the contract of hostops.Domains.
func TestDomains(t *testing.T, factory func(t *testing.T) DomainsEnv) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, context.Context, DomainsEnv)
	}{
		{"ensure starts, and again changes nothing", domainEnsure},
		{"a newer generation replaces, an older is refused", domainGenerations},
		{"stop keeps the definition", domainStop},
		{"remove forgets", domainRemove},
		{"what is absent can be stopped and removed", domainAbsent},
		{"foreign machines are left alone", domainForeign},
		{"nonsense is refused and changes nothing", domainInvalid},
		{"watch tells of changes, and ends", domainWatch},
		{"callers at once make one machine", domainConcurrent},
		{"an ended context ends the call", domainContext},
		{"a restarted daemon finds its machines", domainDaemon},
		{"a guest becomes ready, and not for ever", domainReady},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*Patience)
			defer cancel()
			c.run(t, ctx, factory(t))
		})
	}
}

// domain returns the node's domain, or nil.
func domain(t *testing.T, ctx context.Context, e DomainsEnv, s hostops.DomainSpec) *hostops.Domain {
	t.Helper()
	all, err := e.Domains.List(ctx)
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	var found *hostops.Domain
	for _, d := range all {
		if d.Reservation == s.Reservation && d.Node == s.Node {
			if found != nil {
				t.Fatalf("listed twice: %+v and %+v", *found, d)
			}
			found = &d
		}
	}
	return found
}

func ensureDomain(t *testing.T, ctx context.Context, e DomainsEnv, s hostops.DomainSpec) hostops.Domain {
	t.Helper()
	if err := e.Domains.Ensure(ctx, s); err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	d := domain(t, ctx, e, s)
	if d == nil {
		t.Fatal("List does not show what Ensure made")
	}
	if d.State != hostops.DomainRunning || d.Generation != s.Generation {
		t.Fatalf("after Ensure of generation %d: %+v", s.Generation, *d)
	}
	return *d
}

func domainEnsure(t *testing.T, ctx context.Context, e DomainsEnv) {
	s := e.Spec("frontend", 1)
	first := ensureDomain(t, ctx, e, s)
	if first.Started.IsZero() || time.Since(first.Started) > Patience {
		t.Errorf("Started is %v", first.Started)
	}
	s.MemoryBytes *= 2 // a running domain is left alone, whatever differs
	second := ensureDomain(t, ctx, e, s)
	if !second.Started.Equal(first.Started) {
		t.Errorf("a second Ensure started it anew: %v, then %v", first.Started, second.Started)
	}
}

func domainGenerations(t *testing.T, ctx context.Context, e DomainsEnv) {
	first := ensureDomain(t, ctx, e, e.Spec("compute-0", 3))
	newer := ensureDomain(t, ctx, e, e.Spec("compute-0", 4))
	if !newer.Started.After(first.Started) {
		t.Errorf("generation 4 is the process of generation 3: %v, then %v", first.Started, newer.Started)
	}
	s := e.Spec("compute-0", 3)
	if err := e.Domains.Ensure(ctx, s); !errors.Is(err, hostops.ErrStale) {
		t.Errorf("an older generation: %v, want ErrStale", err)
	}
	if d := domain(t, ctx, e, s); d == nil || d.Generation != 4 || d.State != hostops.DomainRunning || !d.Started.Equal(newer.Started) {
		t.Errorf("an older generation changed it: %+v", d)
	}
}

func domainStop(t *testing.T, ctx context.Context, e DomainsEnv) {
	s := e.Spec("compute-0", 1)
	first := ensureDomain(t, ctx, e, s)
	if err := e.Domains.Stop(ctx, s.Reservation, s.Node, 300*time.Millisecond); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	d := domain(t, ctx, e, s)
	if d == nil || d.State != hostops.DomainOff || d.Ready || d.Detail == "" {
		t.Fatalf("after Stop: %+v", d)
	}
	if err := e.Domains.Stop(ctx, s.Reservation, s.Node, 0); err != nil {
		t.Fatalf("second Stop: %v", err)
	}
	if again := ensureDomain(t, ctx, e, s); !again.Started.After(first.Started) {
		t.Errorf("started again at %v, first at %v", again.Started, first.Started)
	}
}

func domainRemove(t *testing.T, ctx context.Context, e DomainsEnv) {
	s, other := e.Spec("compute-0", 1), e.Spec("compute-1", 1)
	ensureDomain(t, ctx, e, s)
	ensureDomain(t, ctx, e, other)
	for range 2 {
		if err := e.Domains.Remove(ctx, s.Reservation, s.Node); err != nil {
			t.Fatalf("Remove: %v", err)
		}
		if d := domain(t, ctx, e, s); d != nil {
			t.Fatalf("after Remove: %+v", *d)
		}
	}
	if d := domain(t, ctx, e, other); d == nil || d.State != hostops.DomainRunning {
		t.Errorf("Remove of one node touched another: %+v", d)
	}
	// A removed node has no past: any generation may follow.
	ensureDomain(t, ctx, e, s)
}

func domainAbsent(t *testing.T, ctx context.Context, e DomainsEnv) {
	s := e.Spec("compute-7", 1)
	if err := e.Domains.Stop(ctx, s.Reservation, s.Node, time.Second); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if err := e.Domains.Remove(ctx, s.Reservation, s.Node); err != nil {
		t.Errorf("Remove: %v", err)
	}
}

func domainForeign(t *testing.T, ctx context.Context, e DomainsEnv) {
	s := e.Spec("compute-0", 1)
	e.Foreign(t, s)
	if err := e.Domains.Ensure(ctx, s); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("Ensure: %v, want ErrForeign", err)
	}
	if err := e.Domains.Stop(ctx, s.Reservation, s.Node, 0); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("Stop: %v, want ErrForeign", err)
	}
	if err := e.Domains.Remove(ctx, s.Reservation, s.Node); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("Remove: %v, want ErrForeign", err)
	}
	if d := domain(t, ctx, e, s); d != nil {
		t.Errorf("List shows it: %+v", *d)
	}
}

func domainInvalid(t *testing.T, ctx context.Context, e DomainsEnv) {
	for name, spoil := range map[string]func(*hostops.DomainSpec){
		"no CPU":        func(s *hostops.DomainSpec) { s.CPUs = 0 },
		"no memory":     func(s *hostops.DomainSpec) { s.MemoryBytes = 0 },
		"bad name":      func(s *hostops.DomainSpec) { s.Node = "../x" },
		"bad MAC":       func(s *hostops.DomainSpec) { s.NICs = []hostops.NIC{{MAC: "nonsense", Bridge: "b"}} },
		"multicast MAC": func(s *hostops.DomainSpec) { s.NICs = []hostops.NIC{{MAC: "01:00:5e:00:00:01", Bridge: "b"}} },
		"relative path": func(s *hostops.DomainSpec) { s.SeedPath = "seed.iso" },
		"half CHAP": func(s *hostops.DomainSpec) {
			s.Disk = hostops.Disk{ISCSI: &hostops.ISCSIDisk{IQN: "iqn.2026-11.internal.vcn:volume.x", User: "u"}}
		},
	} {
		s := e.Spec("compute-0", 1)
		spoil(&s)
		if err := e.Domains.Ensure(ctx, s); !errors.Is(err, hostops.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
		if d := domain(t, ctx, e, s); d != nil {
			t.Errorf("%s: made %+v", name, *d)
		}
	}
}

// told waits for a value of a watch.
func told(t *testing.T, ctx context.Context, w <-chan struct{}, what string) {
	t.Helper()
	select {
	case _, ok := <-w:
		if !ok {
			t.Fatalf("the watch ended: %s", what)
		}
	case <-ctx.Done():
		t.Fatalf("the watch did not tell: %s", what)
	}
}

func domainWatch(t *testing.T, ctx context.Context, e DomainsEnv) {
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := e.Domains.Watch(wctx)
	told(t, ctx, w, "the first look")
	s := e.Spec("compute-0", 1)
	ensureDomain(t, ctx, e, s)
	told(t, ctx, w, "a start")
	for len(w) > 0 {
		<-w
	}
	if err := e.Domains.Remove(ctx, s.Reservation, s.Node); err != nil {
		t.Fatal(err)
	}
	told(t, ctx, w, "a removal")
	cancel()
	for {
		select {
		case _, ok := <-w:
			if !ok {
				return
			}
		case <-ctx.Done():
			t.Fatal("the watch did not end with its context")
		}
	}
}

func domainConcurrent(t *testing.T, ctx context.Context, e DomainsEnv) {
	s := e.Spec("compute-0", 1)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if err := e.Domains.Ensure(ctx, s); err != nil {
				t.Errorf("Ensure: %v", err)
			}
		})
	}
	wg.Wait()
	if d := domain(t, ctx, e, s); d == nil || d.State != hostops.DomainRunning {
		t.Errorf("%+v", d)
	}
}

func domainContext(t *testing.T, ctx context.Context, e DomainsEnv) {
	ended, cancel := context.WithCancel(ctx)
	cancel()
	s := e.Spec("compute-0", 1)
	if err := e.Domains.Ensure(ended, s); !errors.Is(err, context.Canceled) {
		t.Errorf("Ensure: %v", err)
	}
	if _, err := e.Domains.List(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("List: %v", err)
	}
	ensureDomain(t, ctx, e, s)
}

func domainDaemon(t *testing.T, ctx context.Context, e DomainsEnv) {
	s := e.Spec("compute-0", 1)
	before := ensureDomain(t, ctx, e, s)
	if e.Daemon == nil {
		return // no daemon: nothing between us and the machines can restart
	}
	w := e.Domains.Watch(ctx)
	told(t, ctx, w, "the first look")
	e.Daemon(t)
	told(t, ctx, w, "the restart")
	after := ensureDomain(t, ctx, e, s)
	if !after.Started.Equal(before.Started) {
		t.Errorf("the machine was started anew: %v, then %v", before.Started, after.Started)
	}
}

func domainReady(t *testing.T, ctx context.Context, e DomainsEnv) {
	s := e.Spec("compute-0", 1)
	if d := ensureDomain(t, ctx, e, s); d.Ready {
		t.Fatal("ready at once")
	}
	if !e.Readies {
		return // the guests here have nothing that could open the channel
	}
	w := e.Domains.Watch(ctx)
	for d := domain(t, ctx, e, s); d == nil || !d.Ready; d = domain(t, ctx, e, s) {
		told(t, ctx, w, "readiness")
	}
	if err := e.Domains.Stop(ctx, s.Reservation, s.Node, 0); err != nil {
		t.Fatal(err)
	}
	if d := domain(t, ctx, e, s); d == nil || d.Ready {
		t.Errorf("after Stop: %+v", d)
	}
}
