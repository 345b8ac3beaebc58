//go:build rooted

package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"vcn/api"
)

// release shows that a VLAN is free when all hosts are clean and not before:
// one host that carries a node is down meanwhile.
func (l *life) release(t *testing.T) {
	// Two clusters are all that the pool of VLANs allows at once: a third one
	// tomorrow is refused, one after them is not.
	tomorrow := time.Now().Add(24 * time.Hour).UTC()
	slot := func(at time.Time) string {
		return fmt.Sprintf("{start: %q, for: 1h}", at.Format(time.RFC3339))
	}
	for _, name := range []string{"gamma", "delta"} {
		if r := must[api.Reservation](t, "reserve", "-f", l.spec(t, name, slot(tomorrow), 1)); r.VLAN != 0 || r.Held {
			t.Errorf("%s, booked for tomorrow, holds VLAN %d already", name, r.VLAN)
		}
	}
	l.poolEmpty(t, l.spec(t, "epsilon", slot(tomorrow.Add(30*time.Minute)), 1))
	must[api.Reservation](t, "reserve", "-f", l.spec(t, "epsilon", slot(tomorrow.Add(2*time.Hour)), 1))

	down := host(t, nodeOf(t, l.alpha, "compute-0").Host)
	if err := down.Kill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	ctl(t, "release", "alpha")
	// All others come clean of guests; the one that is down still has its own.
	until(t, releaseMax, "the guests elsewhere to go", func(ctx context.Context) (bool, string) {
		r, err := query[api.Reservation](ctx, "show", l.alpha.ID)
		if err != nil {
			return false, err.Error()
		}
		for _, n := range r.Nodes {
			if n.Host != down.Name && n.State != "gone" {
				return false, nodeStates(r)
			}
		}
		return true, ""
	})
	if got := guests(t, down); len(got) != 1 {
		t.Errorf("%s, whose vcnd is down, has the guests %v, want the one it had", down.Name, got)
	}
	r := must[api.Reservation](t, "show", l.alpha.ID)
	holder, err := leased(t.Context(), l.alpha.VLAN)
	if r.State != api.StateEnding || err != nil || holder != l.alpha.ID {
		t.Errorf("while %s has not said that it is clean alpha is %s and VLAN %d is held by %q, %v", down.Name, r.State, l.alpha.VLAN, holder, err)
	}

	if err := down.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	restarted := time.Now()
	until(t, releaseMax, "the VLAN to come back", func(ctx context.Context) (bool, string) {
		holder, err := leased(ctx, l.alpha.VLAN)
		return err == nil && holder == "", fmt.Sprint(holder, err)
	})
	// At once: whoever is free to take the VLAN finds nothing of alpha.
	same(t, l.empty)
	t.Logf("alpha left nothing %v after its release, %v after the last host came back",
		time.Since(began).Round(time.Millisecond), time.Since(restarted).Round(time.Millisecond))
	l.alphaEvents(t)
	for _, name := range []string{"gamma", "delta", "epsilon"} {
		ctl(t, "release", name)
	}
	until(t, releaseMax, "all leases to be given back", func(ctx context.Context) (bool, string) {
		list, err := list[api.Lease](ctx, "lease", "list")
		return err == nil && len(list) == 0, fmt.Sprint(list, err)
	})
	same(t, l.empty)
	awaitHosts(t)
}

// poolEmpty: with both VLANs promised a reservation is refused, and told when
// it would fit.
func (l *life) poolEmpty(t *testing.T, spec string) {
	t.Helper()
	_, err := bed.Vcnctl(bounded(t, askMax), "reserve", "-f", spec)
	if exitOf(err) != 3 || !strings.Contains(err.Error(), "identifiers") || !strings.Contains(err.Error(), "later") {
		t.Errorf("with no VLAN free a reservation gives exit code %d: %v", exitOf(err), err)
	}
}

func (l *life) alphaEvents(t *testing.T) {
	t.Helper()
	ev := events(t, l.alpha.ID)
	for i, e := range ev { // it was parked before: that end is another
		if e.Kind == "reservation.parked" {
			ev = ev[i+1:]
			break
		}
	}
	ended := when(t, ev, "reservation.ended")
	inOrder(t, when(t, ev, "reservation.ending"), when(t, ev, "reservation.stopped"), ended)
	for _, e := range ev {
		if e.Kind == "node.gone" && e.Time.After(ended) {
			t.Errorf("a node went after its VLAN was free: %+v", e)
		}
		if e.Kind == "reservation.ended" && !strings.Contains(e.Message, "VLAN "+strconv.Itoa(l.alpha.VLAN)+" is free") {
			t.Errorf("the last event says %q", e.Message)
		}
	}
}
