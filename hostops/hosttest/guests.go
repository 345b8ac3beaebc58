package hosttest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"vcn/hostops"
)

// GuestsEnv is what one case needs: a node that is ready.
type GuestsEnv struct {
	Guests  hostops.Guests
	Domains hostops.Domains
	Node    hostops.DomainSpec // of the ready node; its generation is above 1
	Cat     []string           // gives its input back
	Fails   []string           // prints "out" and, to standard error, "err", and ends with 3
	Killed  []string           // is ended by a signal
	Long    []string           // never ends
	Floods  []string           // prints more than GuestBytesMax, but under 3 MiB
	Silence func(t *testing.T) // closes the agent's channel; nil if nothing here can
	Reopen  func(t *testing.T) // opens it again; with Silence
}

// TestGuests checks the contract of hostops.Guests. The factory may give the
// same node to every case.
func TestGuests(t *testing.T, factory func(t *testing.T) GuestsEnv) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, context.Context, GuestsEnv)
	}{
		{"input comes whole, and output", guestCat},
		{"exit code and both outputs", guestFails},
		{"a signal is -1", guestKilled},
		{"a program that is not there ends with 127", guestAbsent},
		{"what is beyond the bound is cut off", guestFloods},
		{"nonsense is refused", guestInvalid},
		{"another generation, and an unknown node, are not found", guestOthers},
		{"the end of the context ends the wait", guestContext},
		{"many at once", guestMany},
		{"a closed channel is no agent", guestSilent},
		{"a node that is off is not found", guestOff},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*Patience)
			defer cancel()
			c.run(t, ctx, factory(t))
		})
	}
}

func runGuest(ctx context.Context, e GuestsEnv, stdin []byte, args ...string) (hostops.GuestResult, error) {
	return e.Guests.Run(ctx, e.Node.Reservation, e.Node.Node, e.Node.Generation, hostops.GuestCommand{Args: args, Stdin: stdin})
}

func guestCat(t *testing.T, ctx context.Context, e GuestsEnv) {
	big := make([]byte, hostops.GuestBytesMax)
	for i := range big {
		big[i] = byte(i * 7)
	}
	for _, in := range [][]byte{nil, []byte("x"), []byte("a\x00b\xff\n"), big} {
		res, err := runGuest(ctx, e, in, e.Cat...)
		if err != nil || res.Exit != 0 || !bytes.Equal(res.Stdout, in) || len(res.Stderr) != 0 {
			t.Errorf("of %d bytes %d came back, exit %d, %q, %v", len(in), len(res.Stdout), res.Exit, res.Stderr, err)
		}
	}
}

func guestFails(t *testing.T, ctx context.Context, e GuestsEnv) {
	res, err := runGuest(ctx, e, nil, e.Fails...)
	if err != nil || res.Exit != 3 || strings.TrimSpace(string(res.Stdout)) != "out" || strings.TrimSpace(string(res.Stderr)) != "err" {
		t.Errorf("exit %d, %q, %q, %v", res.Exit, res.Stdout, res.Stderr, err)
	}
}

func guestKilled(t *testing.T, ctx context.Context, e GuestsEnv) {
	if res, err := runGuest(ctx, e, nil, e.Killed...); err != nil || res.Exit != -1 {
		t.Errorf("exit %d, %v, want -1", res.Exit, err)
	}
}

func guestAbsent(t *testing.T, ctx context.Context, e GuestsEnv) {
	if res, err := runGuest(ctx, e, nil, "/no/such/program"); err != nil || res.Exit != 127 || len(res.Stderr) == 0 {
		t.Errorf("exit %d, %q, %v, want 127 and why", res.Exit, res.Stderr, err)
	}
}

func guestFloods(t *testing.T, ctx context.Context, e GuestsEnv) {
	if res, err := runGuest(ctx, e, nil, e.Floods...); err != nil || len(res.Stdout) != hostops.GuestBytesMax {
		t.Errorf("%d bytes, %v, want %d", len(res.Stdout), err, hostops.GuestBytesMax)
	}
}

func guestInvalid(t *testing.T, ctx context.Context, e GuestsEnv) {
	for name, c := range map[string]hostops.GuestCommand{
		"no program":        {},
		"a relative path":   {Args: []string{"cat"}},
		"a zero byte":       {Args: []string{"/bin/cat", "a\x00b"}},
		"no text":           {Args: []string{"/bin/cat", "\xff"}},
		"too many words":    {Args: append([]string{"/bin/cat"}, make([]string, 10_000)...)},
		"too long a word":   {Args: []string{"/bin/cat", strings.Repeat("x", 1<<20)}},
		"too much of input": {Args: e.Cat, Stdin: make([]byte, hostops.GuestBytesMax+1)},
	} {
		if _, err := e.Guests.Run(ctx, e.Node.Reservation, e.Node.Node, e.Node.Generation, c); !errors.Is(err, hostops.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if _, err := e.Guests.Run(ctx, e.Node.Reservation, "../x", 1, hostops.GuestCommand{Args: e.Cat}); !errors.Is(err, hostops.ErrInvalid) {
		t.Errorf("a node called ../x: %v, want ErrInvalid", err)
	}
}

func guestOthers(t *testing.T, ctx context.Context, e GuestsEnv) {
	for name, spoil := range map[string]func(*hostops.DomainSpec){
		"an older generation": func(s *hostops.DomainSpec) { s.Generation-- },
		"a newer generation":  func(s *hostops.DomainSpec) { s.Generation++ },
		"another node":        func(s *hostops.DomainSpec) { s.Node = "compute-77" },
		"another reservation": func(s *hostops.DomainSpec) { s.Reservation = "r-none" },
	} {
		o := e
		spoil(&o.Node)
		if res, err := runGuest(ctx, o, nil, e.Cat...); !errors.Is(err, hostops.ErrNotFound) {
			t.Errorf("%s: %+v, %v, want ErrNotFound", name, res, err)
		}
	}
}

func guestContext(t *testing.T, ctx context.Context, e GuestsEnv) {
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := runGuest(short, e, nil, e.Long...); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the context's end", err)
	}
	if res, err := runGuest(ctx, e, []byte("x"), e.Cat...); err != nil || string(res.Stdout) != "x" {
		t.Errorf("afterwards: %q, %v", res.Stdout, err)
	}
}

func guestMany(t *testing.T, ctx context.Context, e GuestsEnv) {
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			in := bytes.Repeat([]byte{byte('a' + i)}, 1000)
			if res, err := runGuest(ctx, e, in, e.Cat...); err != nil || !bytes.Equal(res.Stdout, in) {
				t.Errorf("%c: %.10q, %v", 'a'+i, res.Stdout, err)
			}
		})
	}
	wg.Wait()
}

func guestSilent(t *testing.T, ctx context.Context, e GuestsEnv) {
	if e.Silence == nil {
		return // nothing here can close the channel of a guest that runs
	}
	e.Silence(t)
	if _, err := runGuest(ctx, e, nil, e.Cat...); !errors.Is(err, hostops.ErrNoAgent) {
		t.Errorf("%v, want ErrNoAgent", err)
	}
	e.Reopen(t)
	if _, err := runGuest(ctx, e, nil, e.Cat...); err != nil {
		t.Errorf("opened again: %v", err)
	}
}

func guestOff(t *testing.T, ctx context.Context, e GuestsEnv) {
	if err := e.Domains.Stop(ctx, e.Node.Reservation, e.Node.Node, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := runGuest(ctx, e, nil, e.Cat...); !errors.Is(err, hostops.ErrNotFound) {
		t.Errorf("%v, want ErrNotFound", err)
	}
}
