package control_test

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

func change(t *testing.T, r *controltest.Rig, id string, ch api.Change) (*fsm.Reservation, error) {
	t.Helper()
	now := booked(t, r, id)
	return r.Control.Change(t.Context(), id, ch, "op", now.Name, everybody)
}

func mustChange(t *testing.T, r *controltest.Rig, id string, ch api.Change) *fsm.Reservation {
	t.Helper()
	now, err := change(t, r, id, ch)
	if err != nil {
		t.Fatalf("change: %v", err)
	}
	return now
}

func step(t *testing.T, r *controltest.Rig) {
	t.Helper()
	if _, err := r.Control.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// inState brings a reservation of two workers into a state.
func inState(t *testing.T, r *controltest.Rig, state string) string {
	t.Helper()
	spec := specAt("lab", 2, at(5*time.Hour, "4h"))
	switch state {
	case "waitlisted":
		block := reserve(t, r, specAt("block", 45, at(4*time.Hour, "7d")))
		spec.Workers[0].CPUs = 3
		res, err := r.Control.ReserveWait(t.Context(), spec, "1h", "", "op", "")
		if err != nil || res.State != api.StateWaitlisted || block == nil {
			t.Fatalf("wait: %+v, %v", res, err)
		}
		return res.ID
	case "booked":
		return reserve(t, r, spec).ID
	}
	id := reserve(t, r, controltest.Spec("lab", 2)).ID
	if state == "provisioning" {
		return id
	}
	r.Settle()
	step(t, r)
	if state == "active" {
		return id
	}
	if _, err := r.Control.Park(t.Context(), id, api.ParkRequest{For: "5d"}, "op"); err != nil {
		t.Fatal(err)
	}
	r.Settle()
	if state == "parked" {
		return id
	}
	if _, err := r.Control.Resume(t.Context(), id, at(5*time.Hour, "4h"), ""); err != nil { // kept: its disks exist
		t.Fatal(err)
	}
	return id
}

// TestWhatEachChangeDoesInEachState: how a field is changed, or the code of its refusal.
func TestWhatEachChangeDoesInEachState(t *testing.T) {
	changes := map[string]api.Change{
		"name":     {Name: new("renamed")},
		"start":    {Start: new("asap")},
		"extend":   {Extend: new("1h")},
		"shorten":  {Shorten: new("30m")},
		"grow":     {Workers: map[string]int{"compute": 3}},
		"shrink":   {Workers: map[string]int{"compute": 1}},
		"remove":   {Remove: []string{"compute-0"}},
		"frontend": {Frontend: &api.NodeShape{CPUs: 2}},
		"disk":     {Frontend: &api.NodeShape{Disk: 8 * api.GiB}},
		"rolls":    {Rolls: &[]string{"users"}},
		"atEnd":    {AtEnd: &api.AtEnd{Action: api.EndPark, ParkFor: "2d"}},
		"notify":   {Notify: &api.Notify{Mail: "alice@example.org"}},
		"nothing":  {Name: new("lab")},
	}
	order := []string{"name", "start", "extend", "shorten", "grow", "shrink", "remove", "frontend", "disk", "rolls", "atEnd", "notify", "nothing"}
	in, roll, no, lose, repl := api.HowInPlace, api.HowRolling, string(api.CodeConflict), api.HowLosesData, api.HowReplace
	want := map[string][]string{
		"waitlisted":   {in, in, in, in, in, in, no, in, in, in, in, in, ""},
		"booked":       {in, in, in, in, in, in, no, in, in, in, in, in, ""},
		"provisioning": {in, no, in, in, no, no, no, no, no, lose, in, in, ""},
		"active":       {in, no, in, in, roll, roll, roll, no, no, lose, in, in, ""},
		"parked":       {in, no, no, no, no, no, no, repl, no, no, in, in, ""},
		"kept":         {in, in, in, in, no, no, no, repl, no, no, in, in, ""},
	}
	for state, hows := range want {
		for i, field := range order {
			t.Run(state+"/"+field, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := controltest.New(t, controltest.Options{})
					id := inState(t, r, state)
					before := booked(t, r, id)
					got := ""
					plan, err := r.Control.PlanChange(id, changes[field], everybody)
					if err != nil {
						got = string(problem(t, err, api.CodeConflict).Code)
					} else if len(plan.Fields) > 0 {
						got = plan.Fields[0].How
					}
					if got != hows[i] {
						t.Fatalf("the dry run says %q (%+v, %v), want %q", got, plan.Fields, err, hows[i])
					}
					if now := booked(t, r, id); now.Modified != before.Modified {
						t.Error("a dry run changed it")
					}
					now, err := change(t, r, id, changes[field])
					if (err != nil) != (got == no) {
						t.Fatalf("the change says %v, its dry run %q", err, got)
					}
					if err == nil && got != "" && now.Modified == before.Modified || err != nil && booked(t, r, id).Modified != before.Modified {
						t.Errorf("changed or not: %v and %v", err, got)
					}
					if err := fsm.CheckInvariants(r.FSM.View()); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

func TestDataIsLostOnlyWhenItsNameIsTyped(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	id := inState(t, r, "active")
	ch := api.Change{Rolls: &[]string{"users"}}
	for _, typed := range []string{"", "lba"} {
		_, err := r.Control.Change(t.Context(), id, ch, "op", typed, everybody)
		if p := problem(t, err, api.CodeDataLoss); len(p.Reasons) == 0 || !strings.Contains(p.Next, "lab") {
			t.Errorf("the problem is %+v", p)
		}
	}
	if now, err := r.Control.Change(t.Context(), id, ch, "op", "lab", everybody); err != nil || now.State != api.StateProvisioning {
		t.Errorf("with the name typed: %+v, %v", now, err)
	}
}

func TestRenamedPromiseKeepsItsPlaceAndItsLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, small)
		res := reserve(t, r, specAt("lab", 3, at(5*time.Hour, "4h")))
		r.Settle() // images are there now: the lead would be another one
		now := mustChange(t, r, res.ID, api.Change{Name: new("renamed"), Shorten: new("1h")})
		if now.Name != "renamed" || !now.Provision.Equal(res.Provision) || now.Lead != res.Lead || now.End.Sub(now.Start) != 3*time.Hour {
			t.Errorf("it is %s, provisioned at %v (was %v), %v long", now.Name, now.Provision, res.Provision, now.End.Sub(now.Start))
		}
	})
}

func TestRunningOnADeadHostItCanStillBeRenamedAndShortened(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	id := inState(t, r, "active")
	r.Apply(fsm.HostStatusSet{Host: booked(t, r, id).Nodes[1].Host, Status: fsm.HostDead})
	mustChange(t, r, id, api.Change{Name: new("renamed")})
	mustChange(t, r, id, api.Change{Shorten: new("1h")})
	mustChange(t, r, id, api.Change{Extend: new("30m")})
}

// TestLongestPossibleEndIsPossibleAndAMinuteLaterIsNot, of one that runs and of a promise,
// which may move for it.
func TestLongestPossibleEndIsPossibleAndAMinuteLaterIsNot(t *testing.T) {
	for name, c := range map[string]struct {
		slot api.Slot
		park bool
	}{
		"running":            {slot: api.Slot{Start: api.StartAsap, For: "2h"}},
		"promised":           {slot: api.Slot{Start: "2000-01-01T02:00Z", For: "2h"}},
		"parked at its end":  {slot: api.Slot{Start: "2000-01-01T02:00Z", For: "2h"}, park: true},
		"running and parked": {slot: api.Slot{Start: api.StartAsap, For: "2h"}, park: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := controltest.New(t, small)
				spec := specAt("lab", 2, c.slot)
				if c.park {
					spec.AtEnd = &api.AtEnd{Action: api.EndPark, ParkFor: "1d"}
				}
				res := reserve(t, r, spec)
				other := specAt("secret", 2, api.Slot{Start: "2000-01-01T10:00Z", For: "2h"})
				other.Project, other.Frontend.Disk = "elsewhere", 2*api.TiB-24*api.GiB
				if !c.park {
					other.Frontend.Disk = 4 * api.GiB
				} else {
					other.Slot.Start = "2000-01-03T10:00Z"
				}
				reserve(t, r, other)
				mine := func(p string) bool { return p == "studio" }
				_, err := r.Control.PlanChange(res.ID, api.Change{Extend: new("4d")}, mine)
				p := problem(t, err, api.CodeNoFit)
				text := fmt.Sprint(p.Detail, p.Reasons, p.Next)
				if p.Until == "" || strings.Contains(text, "secret") || strings.Contains(text, "elsewhere") || !strings.Contains(text, "others") {
					t.Fatalf("the problem is %+v: want until when, who blocks it, and no other project's names", p)
				}
				_, err = r.Control.PlanChange(res.ID, api.Change{Extend: new("4d")}, everybody)
				if p := problem(t, err, api.CodeNoFit); !strings.Contains(fmt.Sprint(p.Reasons), "secret of project elsewhere") {
					t.Errorf("who may see it reads %v", p.Reasons)
				}
				until, err := time.Parse(time.RFC3339, p.Until)
				if err != nil || !until.After(res.End) {
					t.Fatalf("until %s, %v; it ends at %v", p.Until, err, res.End)
				}
				x, err := r.Control.Explain(res.ID, mine)
				if err != nil || x.Until == nil || !x.Until.Equal(until) || strings.Contains(fmt.Sprint(x.Blocked), "secret") || len(x.Blocked) == 0 {
					t.Errorf("explain says until %v, blocked by %v, %v; the refusal %v", x.Until, x.Blocked, err, until)
				}
				if _, err := r.Control.PlanChange(res.ID, api.Change{End: new(until.Add(time.Minute).Format(time.RFC3339))}, mine); err == nil {
					t.Error("a minute more is possible, too")
				}
				if now := mustChange(t, r, res.ID, api.Change{End: &p.Until}); !now.End.Equal(until) {
					t.Errorf("it ends at %v", now.End)
				}
			})
		})
	}
}

func TestWorkersThatLeaveComeBackWhenTheyAreWantedAgain(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	id := reserve(t, r, controltest.Spec("lab", 4)).ID
	r.Settle()
	step(t, r)
	names := func(leaving bool) string {
		var out []string
		for _, n := range booked(t, r, id).Nodes[1:] {
			if n.Leaving == leaving {
				out = append(out, n.Name)
			}
		}
		return strings.Join(out, " ")
	}
	mustChange(t, r, id, api.Change{Workers: map[string]int{"compute": 2}, Deadline: new("2h")})
	if got := names(true); got != "compute-2 compute-3" {
		t.Errorf("%s leave, want the last two", got)
	}
	mustChange(t, r, id, api.Change{Remove: []string{"compute-0"}})
	if got := names(true); got != "compute-0 compute-2 compute-3" {
		t.Errorf("%s leave", got)
	}
	if _, err := change(t, r, id, api.Change{Remove: []string{"compute-0"}}); err != nil {
		t.Errorf("asked again: %v", err)
	}
	if _, err := change(t, r, id, api.Change{Remove: []string{"compute-1"}}); err == nil {
		t.Error("the last worker may leave")
	}
	plan, err := r.Control.PlanChange(id, api.Change{Workers: map[string]int{"compute": 3}}, everybody)
	if err != nil || !slices.ContainsFunc(plan.Fields, func(f api.FieldChange) bool { return f.Field == "workers stay" && f.How == api.HowInPlace }) {
		t.Errorf("the dry run says %+v, %v", plan.Fields, err)
	}
	mustChange(t, r, id, api.Change{Workers: map[string]int{"compute": 5}})
	if got := names(false); got != "compute-0 compute-1 compute-2 compute-3 compute-4" || names(true) != "" {
		t.Errorf("%s stay, %s leave; want all four and a fifth", got, names(true))
	}
	if got := booked(t, r, id).Spec.Workers[0].Count; got != 5 {
		t.Errorf("the specification says %d workers, want 5", got)
	}
}

func TestDeadlineAloneIsForThoseThatLeave(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	id := inState(t, r, "active")
	mustChange(t, r, id, api.Change{Workers: map[string]int{"compute": 1}})
	if n := booked(t, r, id).Nodes[2]; !n.Leaving || !n.LeaveBy.IsZero() {
		t.Fatalf("node is %+v, want it to leave without a deadline", n)
	}
	mustChange(t, r, id, api.Change{Deadline: new("30m")})
	if n := booked(t, r, id).Nodes[2]; !n.Leaving || n.LeaveBy.IsZero() {
		t.Errorf("node is %+v, want a deadline", n)
	}
}

func TestChangesMadeAtOnceBothHappen(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	id := inState(t, r, "booked")
	r.Applier.SetHook(func([]byte) error { // between planning and applying
		r.Applier.SetHook(nil)
		_, err := r.Control.Change(t.Context(), id, api.Change{Name: new("first")}, "op", "", everybody)
		return err
	})
	if now := mustChange(t, r, id, api.Change{Extend: new("1h")}); now.Name != "first" || now.End.Sub(now.Start) != 5*time.Hour {
		t.Errorf("it is %s, %v long", now.Name, now.End.Sub(now.Start))
	}
}
