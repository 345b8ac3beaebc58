package hosttest

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"vcn/hostops"
)

// TargetsEnv is what one case needs.
type TargetsEnv struct {
	Targets hostops.Targets
	// Volume makes a volume's file of that size.
	Volume func(t *testing.T, id string, sizeBytes int64) (path string)
}

// TestTargets checks the contract of hostops.Targets, as far as it shows
// without an initiator; what goes over the wire is tested beside the engine.
func TestTargets(t *testing.T, factory func(t *testing.T) TargetsEnv) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, context.Context, TargetsEnv)
	}{
		{"publish serves, and again changes nothing", targetPublish},
		{"a newer generation replaces, an older is refused", targetGenerations},
		{"withdraw, twice", targetWithdraw},
		{"resize of what is served, and of what is not", targetResize},
		{"nonsense is refused", targetInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), Patience)
			defer cancel()
			c.run(t, ctx, factory(t))
		})
	}
}

func exportOf(t *testing.T, e TargetsEnv, id string, generation uint64) hostops.Export {
	t.Helper()
	return hostops.Export{
		Volume: id, Path: e.Volume(t, id, 4*mib), IQN: hostops.TargetIQN(id), Generation: generation,
		Access: []hostops.Access{{
			Initiator: hostops.InitiatorIQN("host-1"), Addr: netip.MustParseAddr("127.0.0.1"),
			User: "host-1", Secret: "correct-horse-battery",
		}},
	}
}

func target(t *testing.T, ctx context.Context, e TargetsEnv, id string) *hostops.ExportStatus {
	t.Helper()
	all, err := e.Targets.List(ctx)
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	for _, s := range all {
		if s.Volume == id {
			return &s
		}
	}
	return nil
}

func publish(t *testing.T, ctx context.Context, e TargetsEnv, x hostops.Export) {
	t.Helper()
	if err := e.Targets.Publish(ctx, x); err != nil {
		t.Fatalf("Publish: %v", err)
	}
	s := target(t, ctx, e, x.Volume)
	if s == nil || s.IQN != x.IQN || s.Generation != x.Generation || s.Failed != "" || len(s.Sessions) != 0 {
		t.Fatalf("after Publish: %+v", s)
	}
}

func targetPublish(t *testing.T, ctx context.Context, e TargetsEnv) {
	x := exportOf(t, e, "node-1", 1)
	publish(t, ctx, e, x)
	publish(t, ctx, e, x)
	publish(t, ctx, e, exportOf(t, e, "node-2", 9))
	if all, err := e.Targets.List(ctx); err != nil || len(all) != 2 {
		t.Errorf("List: %+v, %v", all, err)
	}
}

func targetGenerations(t *testing.T, ctx context.Context, e TargetsEnv) {
	x := exportOf(t, e, "node-1", 3)
	publish(t, ctx, e, x)
	x.Generation = 4
	x.Access[0].Secret = "another-horse-battery"
	publish(t, ctx, e, x)
	x.Generation = 3
	if err := e.Targets.Publish(ctx, x); !errors.Is(err, hostops.ErrStale) {
		t.Errorf("an older generation: %v, want ErrStale", err)
	}
	if s := target(t, ctx, e, "node-1"); s == nil || s.Generation != 4 {
		t.Errorf("an older generation changed it: %+v", s)
	}
}

func targetWithdraw(t *testing.T, ctx context.Context, e TargetsEnv) {
	publish(t, ctx, e, exportOf(t, e, "node-1", 1))
	publish(t, ctx, e, exportOf(t, e, "node-2", 1))
	for range 2 {
		if err := e.Targets.Withdraw(ctx, "node-1"); err != nil {
			t.Fatalf("Withdraw: %v", err)
		}
		if s := target(t, ctx, e, "node-1"); s != nil {
			t.Fatalf("after Withdraw: %+v", *s)
		}
	}
	if target(t, ctx, e, "node-2") == nil {
		t.Error("Withdraw of one volume withdrew another")
	}
}

func targetResize(t *testing.T, ctx context.Context, e TargetsEnv) {
	publish(t, ctx, e, exportOf(t, e, "node-1", 1))
	if err := e.Targets.Resize(ctx, "node-1"); err != nil {
		t.Errorf("Resize: %v", err)
	}
	if err := e.Targets.Resize(ctx, "node-2"); !errors.Is(err, hostops.ErrNotFound) {
		t.Errorf("Resize of what is not served: %v, want ErrNotFound", err)
	}
}

func targetInvalid(t *testing.T, ctx context.Context, e TargetsEnv) {
	x := exportOf(t, e, "node-1", 1)
	x.Volume = "../etc"
	if err := e.Targets.Publish(ctx, x); err == nil {
		t.Error("a bad volume id was published")
	}
	if all, err := e.Targets.List(ctx); err != nil || len(all) != 0 {
		t.Errorf("List: %+v, %v", all, err)
	}
}
