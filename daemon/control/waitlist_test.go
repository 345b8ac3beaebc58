package control_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"vcn/api"
	"vcn/daemon/control/controltest"
	"vcn/fsm"
)

func wait(t *testing.T, r *controltest.Rig, name string, workers int, waitFor string) *fsm.Reservation {
	t.Helper()
	res, err := r.Control.ReserveWait(t.Context(), controltest.Spec(name, workers), waitFor, "", "op", "")
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return res
}

func release(t *testing.T, r *controltest.Rig, id string) {
	t.Helper()
	if _, err := r.Control.Release(t.Context(), id, "op"); err != nil {
		t.Fatal(err)
	}
	r.Settle()
}

func TestWhoWaitsIsBookedWhenSomethingComesFree(t *testing.T) {
	lead(t, small, func(t *testing.T, r *controltest.Rig) {
		busy := reserve(t, r, controltest.Spec("busy", 3))
		first, second := wait(t, r, "first", 3, "2d"), wait(t, r, "second", 3, "2d")
		if first.State != api.StateBooked || second.State != api.StateBooked {
			t.Fatalf("first is %s, second %s: both fit after what is busy", first.State, second.State)
		}
		none := wait(t, r, "third", 3, "1h")
		if none.State != api.StateWaitlisted || none.Wait.Message == "" {
			t.Fatalf("third is %s, message %q; want waitlisted, with what is short", none.State, none.Wait.Message)
		}
		x, err := r.Control.Explain(none.ID, everybody)
		if text := strings.Join(x.Lines, "\n"); err != nil || !strings.Contains(text, "number 1 of 1") || !strings.Contains(text, "short now: ") {
			t.Errorf("explain says %q, %v", text, err)
		}
		release(t, r, busy.ID)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		now := booked(t, r, none.ID)
		if now.State == api.StateWaitlisted {
			t.Fatalf("third still waits: %+v", now.Wait)
		}
		if d := now.End.Sub(now.Start); d != 8*time.Hour || now.Start.After(none.Wait.Latest) {
			t.Errorf("third is %v long and starts at %v", d, now.Start)
		}
	})
}

func TestWhoWaitsForLongerThanItsLatestStartFails(t *testing.T) {
	lead(t, small, func(t *testing.T, r *controltest.Rig) {
		reserve(t, r, controltest.Spec("busy", 3))
		none := wait(t, r, "late", 3, "1h")
		time.Sleep(61 * time.Minute)
		synctest.Wait()
		if now := booked(t, r, none.ID); now.State != api.StateFailed {
			t.Errorf("it is %s (%s), want failed", now.State, now.Message)
		}
	})
}

func TestWhatCanNeverFitDoesNotWait(t *testing.T) {
	r := controltest.New(t, small)
	_, err := r.Control.ReserveWait(t.Context(), controltest.Spec("huge", 4), "30d", "", "op", "")
	if p := problem(t, err, api.CodeNoFit); len(p.Nearest) == 0 {
		t.Errorf("the problem is %+v, want what would fit", p)
	}
	// One host that is dead now comes back: that is worth waiting for.
	r.Apply(fsm.HostStatusSet{Host: controltest.HostID(0), Status: fsm.HostDead})
	if res := wait(t, r, "lab", 3, "2d"); res.State != api.StateWaitlisted {
		t.Errorf("it is %s", res.State)
	}
}

func TestAtMostSoManyPassAndThenNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, controltest.Options{Hosts: 1, CPUs: 16})
		hog := reserve(t, r, controltest.Spec("hog", 1)) // so that 15 workers do not fit for 8 hours
		giant := wait(t, r, "giant", 15, "4h")
		if giant.State != api.StateWaitlisted {
			t.Fatalf("the giant is %s", giant.State)
		}
		passed := 0
		for i := range 2 * fsm.PassedMax {
			spec := controltest.Spec(fmt.Sprintf("s%d", i), 1)
			spec.Slot.For = "10m"
			var res *fsm.Reservation
			var err error
			if i%2 == 0 {
				res, err = r.Control.Reserve(t.Context(), spec, "", "op", "")
			} else if res, err = r.Control.ReserveWait(t.Context(), spec, "30m", "", "op", ""); err == nil && res.State == api.StateWaitlisted {
				err = errors.New("it waits")
			}
			if err == nil {
				passed++
				release(t, r, res.ID)
			}
			step(t, r)
		}
		if got := booked(t, r, giant.ID).Wait.Passed; passed != fsm.PassedMax || got != fsm.PassedMax {
			t.Errorf("%d passed, counted %d; want %d", passed, got, fsm.PassedMax)
		}
		_, err := r.Control.Reserve(t.Context(), controltest.Spec("direct", 1), "", "op", "")
		if p := problem(t, err, api.CodeNoFit); !strings.Contains(p.Detail, "waited") || len(p.Nearest) == 0 || p.Nearest[0].Parts[0].Provision.Before(giant.Wait.Latest.Add(giant.Wait.Length)) {
			t.Errorf("the problem is %+v: want one that waited, and a time after its window", p)
		}
		if _, err := r.Control.DryRun(t.Context(), controltest.Spec("direct", 1), ""); err == nil {
			t.Error("a dry run says that it would be booked")
		}
		list := offers(t, r, api.OfferRequest{Spec: controltest.Spec("direct", 1), Split: true, LengthMin: "5m", WorkersMin: 1})
		for _, o := range list.Items {
			if o.Parts[0].Provision.Before(giant.Wait.Latest.Add(giant.Wait.Length)) {
				t.Errorf("offered is %s, which takes from who was passed too often", o.Summary)
			}
		}
		reserve(t, r, specAt("after", 1, at(20*time.Hour, "1h"))) // its window is not touched
		release(t, r, hog.ID)
		step(t, r)
		if now := booked(t, r, giant.ID); now.State != api.StateProvisioning {
			t.Errorf("all is free, and the giant is %s", now.State)
		}
		reserve(t, r, specAt("then", 1, at(12*time.Hour, "1h"))) // nobody waits any more
	})
}

// TestNobodyIsPassedMoreOftenThanIsFair whatever comes, and who came first is tried first.
func TestNobodyIsPassedMoreOftenThanIsFair(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := newHistory(t, rt, controltest.Options{Hosts: 2, CPUs: 8})
		h.loose = true
		behind := map[string]int{} // who came after one that waits, and was booked before it, in its window
		for i := range rapid.IntRange(10, 35).Draw(rt, "steps") {
			before := h.r.FSM.View().Waitlist()
			was := map[string]bool{}
			for _, r := range h.live() {
				was[r.ID] = r.State != api.StateWaitlisted
			}
			spec := controltest.Spec(fmt.Sprintf("c%d", i), rapid.IntRange(1, 9).Draw(rt, "workers"))
			spec.Slot.For = fmt.Sprintf("%dm", rapid.IntRange(10, 200).Draw(rt, "length"))
			switch rapid.IntRange(0, 5).Draw(rt, "act") {
			case 0, 1:
				_, _ = h.r.Control.Reserve(t.Context(), spec, "", "op", "")
			case 2, 3:
				_, _ = h.r.Control.ReserveWait(t.Context(), spec, "6h", "", "op", "")
			case 4:
				h.now = h.now.Add(15 * time.Minute)
			case 5:
				if all := h.live(); len(all) > 0 {
					_, _ = h.r.Control.Release(t.Context(), all[rapid.IntRange(0, len(all)-1).Draw(rt, "which")].ID, "op")
					h.r.SettleOnce()
				}
			}
			if _, err := h.r.Control.Step(t.Context()); err != nil {
				rt.Fatal(err)
			}
			h.r.SettleOnce()
			for _, w := range before {
				for _, r := range h.live() {
					took := r.Provision.Before(w.Wait.Latest.Add(w.Wait.Length)) && r.End.Add(fsm.Turnaround).After(w.Wait.Earliest)
					if now, ok := h.r.FSM.View().Reservation(w.ID); ok && now.State == api.StateWaitlisted && !was[r.ID] &&
						r.State != api.StateWaitlisted && r.Created.After(w.Created) && took {
						behind[w.ID]++
					}
				}
				if behind[w.ID] > fsm.PassedMax {
					rt.Fatalf("%s was passed by %d", w.Name, behind[w.ID])
				}
			}
			h.check("step")
		}
	})
}

func TestWaitlistIsServedOnByTheNextLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, small)
		busy := reserve(t, r, controltest.Spec("busy", 3))
		ctx, cancel := context.WithCancel(t.Context())
		go r.Control.RunLeader(ctx)
		synctest.Wait()
		one := wait(t, r, "one", 3, "1h")
		synctest.Wait()
		r.Applier.SetHook(func([]byte) error { return errors.New("not the leader any more") })
		if _, err := r.Control.Release(t.Context(), busy.ID, "op"); err == nil {
			t.Fatal("released without a leader")
		}
		cancel()
		synctest.Wait()
		r.Applier.SetHook(nil)
		release(t, r, busy.ID)
		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		go r.Control.RunLeader(ctx)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if now := booked(t, r, one.ID); now.State != api.StateProvisioning {
			t.Errorf("under the next leader it is %s, want provisioning", now.State)
		}
		cancel()
		synctest.Wait()
	})
}
