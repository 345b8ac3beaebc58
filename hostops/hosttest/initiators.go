package hosttest

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vcn/hostops"
)

// InitiatorsEnv is what one case needs.
type InitiatorsEnv struct {
	Initiators hostops.Initiators
	// Serve publishes a volume of some mebibytes to the initiator with that CHAP
	// secret, under a new generation each time, and says how to attach it.
	Serve func(t *testing.T, volume, secret string) hostops.ISCSIDisk
	// Away takes the target off the network, or puts it back.
	Away func(t *testing.T, away bool)
	// Open opens a device as a hypervisor does.
	Open func(t *testing.T, path string) (release func())
	// Foreign logs somebody else on this host in to the target of a volume that
	// is served; the session ends with the case.
	Foreign func(t *testing.T, d hostops.ISCSIDisk)
}

const (
	firstSecret  = "correct-horse-battery"
	secondSecret = "another-horse-battery"
)

// TestInitiators checks the contract of hostops.Initiators.
func TestInitiators(t *testing.T, factory func(t *testing.T) InitiatorsEnv) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, context.Context, InitiatorsEnv)
	}{
		{"attach gives a device, and again changes nothing", attachTwice},
		{"detach, twice, and of what was never attached", detachTwice},
		{"a wrong secret is refused, and nothing is left", attachDenied},
		{"a target that is away is an error soon, and nothing is left", attachAway},
		{"another secret replaces", attachReplaces},
		{"a lost target is waited for", attachLost},
		{"detach of a lost target", detachLost},
		{"what is open is busy", attachBusy},
		{"somebody else's session is left alone", attachForeign},
		{"nonsense is refused", attachInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*Patience)
			defer cancel()
			c.run(t, ctx, factory(t))
		})
	}
}

func attach(t *testing.T, ctx context.Context, e InitiatorsEnv, d hostops.ISCSIDisk) string {
	t.Helper()
	path, err := e.Initiators.Attach(ctx, d)
	if err != nil {
		t.Fatalf("Attach: %v", err)
	}
	if a := attachmentOf(t, ctx, e, d.IQN); a == nil || a.Path != path || path == "" || a.Portal != d.Portal || a.Detail != "" {
		t.Fatalf("after Attach at %q: %+v", path, a)
	}
	return path
}

func attachmentOf(t *testing.T, ctx context.Context, e InitiatorsEnv, iqn string) *hostops.Attachment {
	t.Helper()
	all, err := e.Initiators.List(ctx)
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	for _, a := range all {
		if a.IQN == iqn {
			return &a
		}
	}
	return nil
}

func gone(t *testing.T, ctx context.Context, e InitiatorsEnv, iqn string) {
	t.Helper()
	if a := attachmentOf(t, ctx, e, iqn); a != nil {
		t.Fatalf("still here: %+v", *a)
	}
}

func detach(t *testing.T, ctx context.Context, e InitiatorsEnv, iqn string) {
	t.Helper()
	if err := e.Initiators.Detach(ctx, iqn); err != nil {
		t.Fatalf("Detach: %v", err)
	}
	gone(t, ctx, e, iqn)
}

func attachTwice(t *testing.T, ctx context.Context, e InitiatorsEnv) {
	one, two := e.Serve(t, "node-1", firstSecret), e.Serve(t, "node-2", firstSecret)
	path := attach(t, ctx, e, one)
	if again := attach(t, ctx, e, one); again != path {
		t.Errorf("the path is %s, and %s the second time", path, again)
	}
	if other := attach(t, ctx, e, two); other == path {
		t.Errorf("two units are both %s", path)
	}
	if all, err := e.Initiators.List(ctx); err != nil || len(all) != 2 {
		t.Errorf("List: %+v, %v", all, err)
	}
}

func detachTwice(t *testing.T, ctx context.Context, e InitiatorsEnv) {
	one, two := e.Serve(t, "node-1", firstSecret), e.Serve(t, "node-2", firstSecret)
	attach(t, ctx, e, one)
	attach(t, ctx, e, two)
	detach(t, ctx, e, one.IQN)
	detach(t, ctx, e, one.IQN)
	detach(t, ctx, e, hostops.TargetIQN("node-9"))
	if a := attachmentOf(t, ctx, e, two.IQN); a == nil || a.Path == "" {
		t.Errorf("Detach of one unit detached another: %+v", a)
	}
	attach(t, ctx, e, one)
}

func attachDenied(t *testing.T, ctx context.Context, e InitiatorsEnv) {
	d := e.Serve(t, "node-1", firstSecret)
	wrong := d
	wrong.Secret = secondSecret
	if path, err := e.Initiators.Attach(ctx, wrong); !errors.Is(err, hostops.ErrDenied) {
		t.Fatalf("Attach with a wrong secret: %q, %v, want ErrDenied", path, err)
	}
	gone(t, ctx, e, d.IQN)
	attach(t, ctx, e, d)
}

func attachAway(t *testing.T, ctx context.Context, e InitiatorsEnv) {
	d := e.Serve(t, "node-1", firstSecret)
	e.Away(t, true)
	began := time.Now()
	path, err := e.Initiators.Attach(ctx, d)
	if err == nil || errors.Is(err, hostops.ErrDenied) || errors.Is(err, hostops.ErrInvalid) || time.Since(began) > Patience {
		t.Fatalf("Attach while the target is away: %q, %v after %v", path, err, time.Since(began))
	}
	gone(t, ctx, e, d.IQN)
	e.Away(t, false)
	attach(t, ctx, e, d)
}

func attachReplaces(t *testing.T, ctx context.Context, e InitiatorsEnv) {
	attach(t, ctx, e, e.Serve(t, "node-1", firstSecret))
	attach(t, ctx, e, e.Serve(t, "node-1", secondSecret))
	if all, err := e.Initiators.List(ctx); err != nil || len(all) != 1 {
		t.Errorf("List: %+v, %v", all, err)
	}
}

func attachLost(t *testing.T, ctx context.Context, e InitiatorsEnv) {
	d := e.Serve(t, "node-1", firstSecret)
	path := attach(t, ctx, e, d)
	e.Away(t, true)
	await(t, ctx, "List says that the target is lost", func() bool {
		a := attachmentOf(t, ctx, e, d.IQN)
		if a == nil || a.Path != path {
			t.Fatalf("the device went with the target: %+v", a)
		}
		return a.Detail != ""
	})
	if again, err := e.Initiators.Attach(ctx, d); err != nil || again != path {
		t.Errorf("Attach of what waits for its target: %q, %v; want %q", again, err, path)
	}
	e.Away(t, false)
	await(t, ctx, "the session to be back", func() bool {
		a := attachmentOf(t, ctx, e, d.IQN)
		return a != nil && a.Path == path && a.Detail == ""
	})
}

func detachLost(t *testing.T, ctx context.Context, e InitiatorsEnv) {
	d := e.Serve(t, "node-1", firstSecret)
	attach(t, ctx, e, d)
	e.Away(t, true)
	detach(t, ctx, e, d.IQN)
	e.Away(t, false)
	gone(t, ctx, e, d.IQN)
	attach(t, ctx, e, d)
}

func attachBusy(t *testing.T, ctx context.Context, e InitiatorsEnv) {
	d := e.Serve(t, "node-1", firstSecret)
	path := attach(t, ctx, e, d)
	release := e.Open(t, path)
	if err := e.Initiators.Detach(ctx, d.IQN); !errors.Is(err, hostops.ErrBusy) {
		t.Errorf("Detach of what is open: %v, want ErrBusy", err)
	}
	other := d
	other.Secret = secondSecret
	if _, err := e.Initiators.Attach(ctx, other); !errors.Is(err, hostops.ErrBusy) {
		t.Errorf("replacing what is open: %v, want ErrBusy", err)
	}
	if again := attach(t, ctx, e, d); again != path {
		t.Errorf("the path is %s, and %s while it is open", path, again)
	}
	release()
	detach(t, ctx, e, d.IQN)
}

func attachForeign(t *testing.T, ctx context.Context, e InitiatorsEnv) {
	d := e.Serve(t, "node-1", firstSecret)
	e.Foreign(t, d)
	if path, err := e.Initiators.Attach(ctx, d); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("Attach beside somebody else's session: %q, %v, want ErrForeign", path, err)
	}
	gone(t, ctx, e, d.IQN)
	if err := e.Initiators.Detach(ctx, d.IQN); err != nil {
		t.Errorf("Detach of what is not ours: %v", err)
	}
	if _, err := e.Initiators.Attach(ctx, d); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("Detach ended somebody else's session: Attach says %v", err)
	}
}

func attachInvalid(t *testing.T, ctx context.Context, e InitiatorsEnv) {
	good := e.Serve(t, "node-1", firstSecret)
	for name, spoil := range map[string]func(*hostops.ISCSIDisk){
		"a foreign target": func(d *hostops.ISCSIDisk) { d.IQN = "iqn.2001-01.com.example:disk" },
		"no volume":        func(d *hostops.ISCSIDisk) { d.IQN = hostops.TargetIQN("") },
		"a path":           func(d *hostops.ISCSIDisk) { d.IQN += "/../../x" },
		"no portal":        func(d *hostops.ISCSIDisk) { d.Portal = netip.AddrPortFrom(d.Portal.Addr(), 0) },
		"LUN":              func(d *hostops.ISCSIDisk) { d.LUN = 256 },
		"no user":          func(d *hostops.ISCSIDisk) { d.User = "" },
		"a short secret":   func(d *hostops.ISCSIDisk) { d.Secret = strings.Repeat("x", 11) },
	} {
		d := good
		spoil(&d)
		if _, err := e.Initiators.Attach(ctx, d); !errors.Is(err, hostops.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if err := e.Initiators.Detach(ctx, "iqn.2001-01.com.example:disk"); !errors.Is(err, hostops.ErrInvalid) {
		t.Errorf("Detach of a foreign target: %v, want ErrInvalid", err)
	}
	gone(t, ctx, e, good.IQN)
}

// await waits for what must come.
func await(t *testing.T, ctx context.Context, what string, f func() bool) {
	t.Helper()
	for !f() {
		select {
		case <-ctx.Done():
			t.Fatalf("did not happen: %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
