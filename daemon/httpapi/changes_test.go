package httpapi_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vcn/api"
	"vcn/daemon/control/controltest"
	"vcn/fsm"
)

// advance carries the time into the state, as the leader does.
func (w *world) advance() {
	w.t.Helper()
	w.rig.Apply(fsm.ClockAdvance{})
}

// stopNodes lets every host say that it keeps what it shall keep, and that no
// node runs any more.
func (w *world) stopNodes() {
	w.t.Helper()
	for range 4 {
		for _, h := range w.rig.FSM.View().Hosts() {
			a := w.rig.FSM.View().AssignmentFor(h.ID)
			rep := fsm.HostReport{Host: h.ID, Applied: a.Index}
			for _, n := range a.Networks {
				rep.Objects = append(rep.Objects, fsm.Object{Kind: fsm.KindNetwork, ID: fmt.Sprint(n.VLAN), Reservation: n.Reservation, State: fsm.ObjReady})
			}
			for _, v := range a.Volumes {
				rep.Objects = append(rep.Objects, fsm.Object{Kind: fsm.KindVolume, ID: v.ID, Reservation: v.Reservation, Generation: v.Generation, State: fsm.ObjReady})
			}
			w.rig.Apply(rep)
		}
	}
}

func TestChangeIsPlannedAndThenMade(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	res := w.reserve(later("lab", "studio", 2, 48*time.Hour, "4h"))
	one := api.PathReservations + "/lab"
	w.unchanged(func() {
		a := w.op("PATCH", one+"?dryRun=true", `{"extend":"2h","workers":{"compute":3}}`)
		plan := decode[api.ChangePlan](t, a, 200)
		if plan.Name != "lab" || len(plan.Fields) != 2 || plan.Fields[0].How != api.HowInPlace || plan.LosesData || len(plan.Nodes) != 4 || plan.End.Sub(res.End) != 2*time.Hour {
			t.Errorf("the plan is %+v", plan)
		}
		if a.header.Get(api.HeaderIndex) == "" {
			t.Errorf("headers are %v, want the index", a.header)
		}
		if plan := decode[api.ChangePlan](t, w.op("PATCH", one+"?dryRun=true", `{}`), 200); len(plan.Fields) != 0 {
			t.Errorf("nothing changes %+v", plan.Fields)
		}
	})
	extend := func(body string) answer {
		return w.op("PATCH", one, body, api.HeaderIdempotencyKey, "k")
	}
	now := decode[api.Reservation](t, extend(`{"extend":"2h","workers":{"compute":3}}`), 200)
	if now.End.Sub(res.End) != 2*time.Hour || len(now.Nodes) != 4 {
		t.Errorf("changed, it is %+v", now)
	}
	w.unchanged(func() {
		if again := decode[api.Reservation](t, extend(`{"extend":"2h","workers":{"compute":3}}`), 200); !again.End.Equal(now.End) {
			t.Errorf("repeated under its key it ends at %v, want %v", again.End, now.End)
		}
		if p := extend(`{"extend":"3h"}`).problem(t); p.Code != api.CodeConflict {
			t.Errorf("another change under the same key: %+v", p)
		}
	})
	forge := w.token(api.TokenProject, "forge").Secret
	w.unchanged(func() {
		for _, c := range [][2]string{{"PATCH", ""}, {"PATCH", "?dryRun=true"}, {"POST", "/park"}, {"POST", "/resume"}, {"POST", "/resume?dryRun=true"}, {"GET", "/explain"}} {
			for _, ref := range []string{"lab", res.ID} {
				body := any(nil)
				switch {
				case c[0] == "PATCH":
					body = `{"extend":"1h"}`
				case strings.HasPrefix(c[1], "/resume"):
					body = `{"start":"asap","for":"1h"}`
				}
				if p := w.ask(controltest.HostID(0), forge, c[0], api.PathReservations+"/"+ref+c[1], body).problem(t); p.Status != 404 {
					t.Errorf("%v of a foreign one: %d, want 404", c, p.Status)
				}
			}
		}
	})
}

func TestChangeThatLosesDataWantsTheName(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	w.reserve(controltest.Spec("lab", 1))
	w.rig.Settle()
	one := api.PathReservations + "/lab"
	body := `{"rolls":["home"]}`
	plan := decode[api.ChangePlan](t, w.op("PATCH", one+"?dryRun=true", body), 200)
	if !plan.LosesData {
		t.Fatalf("the plan is %+v, want it to lose data", plan)
	}
	w.unchanged(func() {
		for _, path := range []string{one, one + "?allowDataLoss=lap"} {
			if p := w.op("PATCH", path, body).problem(t); p.Status != 409 || p.Code != api.CodeDataLoss || len(p.Reasons) == 0 {
				t.Errorf("%s: %+v, want 409 data_loss and what is lost", path, p)
			}
		}
	})
	if r := decode[api.Reservation](t, w.op("PATCH", one+"?allowDataLoss=lab", body), 200); slices.Contains(r.Spec.Rolls, "slurm") {
		t.Errorf("confirmed, its rolls are %v", r.Rolls)
	}
}

func TestRefusedExtensionSaysHowFarItCouldGoAndNothingOfOthers(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	mine := w.reserve(full("mine", "forge", 2*time.Hour, "2h"))
	hidden := w.reserve(full("secret-lab", "studio", 6*time.Hour, "2h"))
	forge, h := w.token(api.TokenProject, "forge").Secret, controltest.HostID(0)
	one := api.PathReservations + "/mine"
	for _, dry := range []string{"", "?dryRun=true"} {
		w.unchanged(func() {
			a := w.ask(h, forge, "PATCH", one+dry, `{"extend":"5h"}`)
			p := a.problem(t)
			until, err := api.ParseTime(p.Until)
			if p.Code != api.CodeNoFit || len(p.Reasons) == 0 || err != nil || !until.After(mine.End) || until.After(hidden.Start) {
				t.Errorf("it is %+v (%v), want no_fit, why, and an end between %v and %v", p, err, mine.End, hidden.Start)
			}
			hides(t, a, hidden)
			if op := w.op("PATCH", one+dry, `{"extend":"5h"}`); !strings.Contains(string(op.body), "secret-lab") {
				t.Errorf("an operator is not told who blocks it: %s", op.body)
			}
		})
	}
	a := w.ask(h, forge, "GET", one+"/explain", nil)
	e := decode[api.Explanation](t, a, 200)
	if e.ID != mine.ID || len(e.Nodes) != len(mine.Nodes) || e.Nodes[0].Why == "" || e.Until == nil || len(e.Blocked) == 0 || a.header.Get(api.HeaderIndex) == "" {
		t.Errorf("the explanation is %+v", e)
	}
	hides(t, a, hidden)
	if op := w.op("GET", one+"/explain", nil); !strings.Contains(string(op.body), "secret-lab") {
		t.Errorf("an operator is not told who blocks it: %s", op.body)
	}
	refused := w.ask(h, forge, "POST", api.PathReservations, full("more", "forge", 6*time.Hour, "1h"))
	p := refused.problem(t)
	if p.Code != api.CodeNoFit || len(p.Nearest) == 0 || p.Nearest[0].ID != "" || len(p.Nearest[0].Parts) == 0 {
		t.Errorf("a refusal is %+v, want the nearest that would fit, not held", p)
	}
	hides(t, refused, hidden)
}

func TestParkAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 1)
		res := w.reserve(controltest.Spec("lab", 1))
		one := api.PathReservations + "/lab"
		if p := w.op("POST", one+"/park", nil).problem(t); p.Code != api.CodeConflict {
			t.Errorf("parking what is not ready yet: %+v", p)
		}
		w.rig.Settle()
		time.Sleep(time.Hour)
		w.advance()
		if r := decode[api.Reservation](t, w.op("POST", one+"/park", nil), 202); r.State != api.StateEnding { // no body: the default time
			t.Errorf("parked, it is %s, want ending", r.State)
		}
		w.stopNodes()
		got := decode[api.Reservation](t, w.op("GET", one, nil), 200)
		if got.State != api.StateParked || got.ParkedUntil == nil || time.Until(*got.ParkedUntil) < 29*24*time.Hour || got.Held {
			t.Fatalf("it is %+v, want parked for 30 days", got)
		}
		if r := decode[api.Reservation](t, w.op("POST", one+"/park", `{"for":"1d"}`), 202); r.State != api.StateParked {
			t.Errorf("parked again, it is %s", r.State)
		}
		slot := api.Slot{Start: time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339), For: "2h"}
		w.unchanged(func() {
			plan := decode[api.Plan](t, w.op("POST", one+"/resume?dryRun=true", slot), 200)
			if len(plan.Nodes) != 2 || plan.End.Sub(plan.Start) != 2*time.Hour || plan.Lead == "" {
				t.Errorf("the plan is %+v", plan)
			}
		})
		resume := func() api.Reservation {
			return decode[api.Reservation](t, w.op("POST", one+"/resume", slot, api.HeaderIdempotencyKey, "k"), 200)
		}
		r := resume()
		if r.State != api.StateBooked || r.ID != res.ID {
			t.Errorf("resumed, it is %+v", r)
		}
		w.unchanged(func() {
			if again := resume(); again.Start != r.Start {
				t.Errorf("repeated, it starts at %v, want %v", again.Start, r.Start)
			}
			if p := w.op("POST", one+"/resume", slot).problem(t); p.Code != api.CodeConflict {
				t.Errorf("resumed twice: %+v", p)
			}
		})
	})
}

func TestWaitlisted(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	hidden := w.reserve(full("secret-lab", "studio", 0, "8h"))
	forge, h := w.token(api.TokenProject, "forge").Secret, controltest.HostID(0)
	spec := full("mine", "forge", 0, "2h")
	spec.Slot.Start = api.StartAsap
	a := w.ask(h, forge, "POST", api.PathReservations+"?waitFor=2h", spec, api.HeaderIdempotencyKey, "k")
	r := decode[api.Reservation](t, a, 201)
	if r.State != api.StateWaitlisted || r.Wait == nil || r.Wait.Position != 1 {
		t.Fatalf("it is %+v, want the first in the waitlist", r)
	}
	second := spec
	second.Name = "second"
	if r := decode[api.Reservation](t, w.ask(h, forge, "POST", api.PathReservations+"?waitFor=2h", second), 201); r.Wait == nil || r.Wait.Position != 2 {
		t.Errorf("the second is %+v", r.Wait)
	}
	for _, x := range []answer{a, w.ask(h, forge, "GET", api.PathReservations, nil), w.ask(h, forge, "GET", api.PathReservations+"/mine/explain", nil),
		w.ask(h, forge, "GET", api.PathEvents, nil)} {
		if x.status > 201 {
			t.Errorf("status %d: %s", x.status, x.body)
		}
		hides(t, x, hidden)
	}
	list := decode[api.List[api.Reservation]](t, w.ask(h, forge, "GET", api.PathReservations+"?state=waitlisted", nil), 200)
	if len(list.Items) != 2 || list.Items[0].Wait.Position+list.Items[1].Wait.Position != 3 {
		t.Errorf("the waitlist is %+v", list.Items)
	}
}
