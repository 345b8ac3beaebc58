package control_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vcn/api"
	"vcn/daemon/control"
	"vcn/daemon/control/controltest"
)

// mailbox is a Notifier that delivers after a while.
type mailbox struct {
	mu      sync.Mutex
	busy    int // so many calls are refused for now
	refuse  map[string]bool
	after   time.Duration
	got     []control.Telling
	pending map[string]time.Time
}

func (m *mailbox) Tell(x control.Telling) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy > 0 {
		m.busy--
		return errors.New("busy")
	}
	if m.refuse[x.Kind] {
		return fmt.Errorf("an address like none: %w", control.ErrUntellable)
	}
	m.got = append(m.got, x)
	m.pending[x.ID] = time.Now().Add(m.after)
	return nil
}

func (m *mailbox) Pending(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Before(m.pending[id])
}

func (m *mailbox) kinds() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, x := range m.got {
		out = append(out, x.Kind)
	}
	return out
}

func newMailbox() *mailbox {
	return &mailbox{pending: map[string]time.Time{}, refuse: map[string]bool{}}
}

func wantsMail(name string) api.Spec {
	s := controltest.Spec(name, 1)
	s.Notify = &api.Notify{Mail: "alice@example.org"}
	return s
}

func TestOwnersAreToldEachEventOnce(t *testing.T) {
	m := newMailbox()
	m.after, m.busy = 3*time.Second, 2
	lead(t, controltest.Options{Notifier: m}, func(t *testing.T, r *controltest.Rig) {
		reserve(t, r, controltest.Spec("quiet", 1))
		res := reserve(t, r, wantsMail("lab"))
		time.Sleep(30 * time.Second)
		r.Settle()
		time.Sleep(30 * time.Second)
		release(t, r, res.ID)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		want := []string{"reservation.booked", "reservation.provisioning", "reservation.ready", "reservation.active", "reservation.ending", "reservation.ended"}
		if got := m.kinds(); !slices.Equal(got, want) {
			t.Errorf("told are %v, want %v", got, want)
		}
		for _, x := range m.got {
			if x.Name != "lab" || x.Mail == "" || x.Text == "" || x.Time.IsZero() {
				t.Errorf("told is %+v", x)
			}
		}
		if v := r.FSM.View(); v.Notified() == 0 {
			t.Error("the state does not say how far owners were told")
		}
	})
}

func TestMessageThatCannotBeSentHoldsNobodyUp(t *testing.T) {
	m := newMailbox()
	m.refuse["reservation.booked"] = true
	lead(t, controltest.Options{Notifier: m}, func(t *testing.T, r *controltest.Rig) {
		reserve(t, r, wantsMail("lab"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := m.kinds(); !slices.Equal(got, []string{"reservation.provisioning"}) {
			t.Errorf("told are %v", got)
		}
	})
}

func TestNewLeaderTellsOnAndRepeatsAtMostWhatWasUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMailbox()
		r := controltest.New(t, controltest.Options{Notifier: m})
		first := reserve(t, r, wantsMail("one"))
		ctx, cancel := context.WithCancel(t.Context())
		go r.Control.RunLeader(ctx)
		time.Sleep(5 * time.Second)
		m.mu.Lock()
		m.after = time.Hour // never delivered in this term
		m.mu.Unlock()
		reserve(t, r, wantsMail("two"))
		time.Sleep(5 * time.Second)
		cancel()
		synctest.Wait()
		reserve(t, r, wantsMail("three")) // while nobody leads
		m.mu.Lock()
		m.after, m.pending = 0, map[string]time.Time{}
		m.mu.Unlock()
		ctx, cancel = context.WithCancel(t.Context())
		go r.Control.RunLeader(ctx)
		time.Sleep(5 * time.Second)
		cancel()
		synctest.Wait()
		told := map[string]int{}
		for _, x := range m.got {
			told[x.Name+" "+x.Kind]++
		}
		for name, most := range map[string]int{"one": 1, "two": 2, "three": 1} {
			for _, kind := range []string{"reservation.booked", "reservation.provisioning"} {
				if n := told[name+" "+kind]; n < 1 || n > most {
					t.Errorf("%s of %s was told %d times, want 1 to %d", kind, name, n, most)
				}
			}
		}
		_ = first
	})
}

func TestLeaderIsQuietWhereNobodyWantsToBeTold(t *testing.T) {
	m := newMailbox()
	lead(t, controltest.Options{Notifier: m}, func(t *testing.T, r *controltest.Rig) {
		res := reserve(t, r, controltest.Spec("lab", 1))
		time.Sleep(time.Minute)
		release(t, r, res.ID)
		time.Sleep(time.Minute)
		before := r.Applier.Index()
		time.Sleep(20 * time.Hour)
		if got := r.Applier.Index(); got != before || len(m.got) != 0 {
			t.Errorf("%d commands in an idle time, %d messages", got-before, len(m.got))
		}
	})
}
