package fake

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vcn/hostops"
	"vcn/hostops/hosttest"
)

// readyGuest is a host with one node, which is ready.
func readyGuest(t *testing.T) (*Host, hostops.DomainSpec) {
	t.Helper()
	h := newHost(t, Config{ReadyAfter: time.Millisecond})
	s := spec("frontend", 4)
	if err := h.Domains().Ensure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	w := h.Domains().Watch(t.Context())
	for {
		<-w
		if all, err := h.Domains().List(t.Context()); err != nil {
			t.Fatal(err)
		} else if all[0].Ready {
			return h, s
		}
	}
}

func TestGuestsConformance(t *testing.T) {
	hosttest.TestGuests(t, func(t *testing.T) hosttest.GuestsEnv {
		h, s := readyGuest(t)
		h.Handle("/bin/fails", func(context.Context, string, string, hostops.GuestCommand) hostops.GuestResult {
			return hostops.GuestResult{Exit: 3, Stdout: []byte("out\n"), Stderr: []byte("err\n")}
		})
		h.Handle("/bin/killed", func(context.Context, string, string, hostops.GuestCommand) hostops.GuestResult {
			return hostops.GuestResult{Exit: -1}
		})
		h.Handle("/bin/long", func(ctx context.Context, _, _ string, _ hostops.GuestCommand) hostops.GuestResult {
			<-ctx.Done()
			return hostops.GuestResult{}
		})
		h.Handle("/bin/floods", func(context.Context, string, string, hostops.GuestCommand) hostops.GuestResult {
			return hostops.GuestResult{Stdout: bytes.Repeat([]byte("x"), hostops.GuestBytesMax+9)}
		})
		return hosttest.GuestsEnv{
			Guests: h.Guests(), Domains: h.Domains(), Node: s,
			Cat: []string{"/bin/cat"}, Fails: []string{"/bin/fails"}, Killed: []string{"/bin/killed"},
			Long: []string{"/bin/long"}, Floods: []string{"/bin/floods"},
			Silence: func(*testing.T) { h.Silence(s.Reservation, s.Node, true) },
			Reopen:  func(*testing.T) { h.Silence(s.Reservation, s.Node, false) },
		}
	})
}

func TestProgramEndsWithItsGuestAndFaultsStrikeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := readyGuest(t)
		runs := 0
		h.Handle("/bin/slow", func(ctx context.Context, _, _ string, _ hostops.GuestCommand) hostops.GuestResult {
			runs++
			_ = sleep(ctx, time.Hour)
			return hostops.GuestResult{}
		})
		slow := func() error {
			_, err := h.Guests().Run(t.Context(), s.Reservation, s.Node, s.Generation, hostops.GuestCommand{Args: []string{"/bin/slow"}})
			return err
		}
		began := time.Now()
		time.AfterFunc(time.Minute, func() { h.Crash(s.Reservation, s.Node) })
		if err := slow(); !errors.Is(err, hostops.ErrNoAgent) || time.Since(began) != time.Minute {
			t.Errorf("the guest crashed: %v after %v", err, time.Since(began))
		}
		if err := h.Domains().Ensure(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		h.Fail("Guests.Run", 1, hostops.ErrNoAgent)
		if err := slow(); !errors.Is(err, hostops.ErrNoAgent) || runs != 1 {
			t.Errorf("%v, run %d times", err, runs)
		}
	})
}

func TestGuestKeepsWhatBasesProgramsDid(t *testing.T) {
	h, s := readyGuest(t)
	run := func(stdin string, args ...string) string {
		res, err := h.Guests().Run(t.Context(), s.Reservation, s.Node, s.Generation, hostops.GuestCommand{Args: args, Stdin: []byte(stdin)})
		if err != nil || res.Exit != 0 {
			t.Fatal(res, err)
		}
		return string(res.Stdout)
	}
	h.SetJobs(s.Reservation, s.Node, "compute-0", "17")
	h.SetJobs(s.Reservation, s.Node, "compute-1", "?")
	out := run("", "/usr/lib/vcn/drain", "sync", "vcn: leaves", "compute-0", "compute-1", "compute-2")
	if lines := strings.Split(out, "\n"); len(lines) != 4 || lines[0] != "compute-0 busy 17" || !strings.HasPrefix(lines[1], "compute-1 unknown") || lines[2] != "compute-2 idle" {
		t.Errorf("%q", out)
	}
	if d := h.Drained(s.Reservation, s.Node); len(d) != 3 || d["compute-2"] != "vcn: leaves" {
		t.Errorf("%v", d)
	}
	run("", "/usr/lib/vcn/drain", "sync", "vcn: leaves")
	if d := h.Drained(s.Reservation, s.Node); len(d) != 0 {
		t.Errorf("not given back: %v", d)
	}
	for range 2 {
		run("a aGVsbG8=\nb aGVsbG8=\n", "/usr/lib/vcn/notices", "sync")
	}
	run("b aGVsbG8=\n", "/usr/lib/vcn/notices", "sync")
	if now, told := h.Notices(s.Reservation, s.Node); len(now) != 1 || len(told) != 2 {
		t.Errorf("%v, told %v", now, told)
	}
}
