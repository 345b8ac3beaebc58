package control_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"vcn/api"
	"vcn/daemon/control/controltest"
	"vcn/fsm"
)

// small is one host of four cores: a frontend and three workers.
var small = controltest.Options{Hosts: 1, CPUs: 4}

// at is a slot from some time ahead.
func at(ahead time.Duration, length string) api.Slot {
	return api.Slot{Start: time.Now().UTC().Truncate(time.Minute).Add(ahead).Format(time.RFC3339), For: length}
}

func specAt(name string, workers int, slot api.Slot) api.Spec {
	s := controltest.Spec(name, workers)
	s.Slot = slot
	return s
}

func offers(t *testing.T, r *controltest.Rig, req api.OfferRequest) api.OfferList {
	t.Helper()
	list, err := r.Control.Offers(t.Context(), req, "", "op")
	if err != nil {
		t.Fatalf("ask for offers: %v", err)
	}
	return list
}

func kinds(list api.OfferList) string {
	var out []string
	for _, o := range list.Items {
		out = append(out, o.Kind)
	}
	return strings.Join(out, " ")
}

func booked(t *testing.T, r *controltest.Rig, id string) fsm.Reservation {
	t.Helper()
	now, ok := r.FSM.View().Reservation(id)
	if !ok {
		t.Fatalf("there is no reservation %s", id)
	}
	return now
}

func TestOffersComeBestFirstAndShareOneHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, small)
		reserve(t, r, specAt("busy", 1, at(4*time.Hour, "4h"))) // two of four cores
		want := specAt("lab", 3, at(3*time.Hour, "4h"))
		list := offers(t, r, api.OfferRequest{Spec: want, WorkersMin: 1, LengthMin: "30m", Split: true,
			Shapes: []api.NodeShape{{CPUs: 2}}, Hold: "5m"})
		if got := kinds(list); got != "later fewer shorter split" || len(list.Reasons) == 0 {
			t.Fatalf("offers are %q, reasons %v; want later fewer shorter split (nothing of 2 cores fits)", got, list.Reasons)
		}
		later, fewer, shorter, split := list.Items[0], list.Items[1], list.Items[2], list.Items[3]
		if later.Workers != 3 || fewer.Workers != 1 || shorter.Workers != 3 || len(split.Parts) != 2 {
			t.Errorf("offers are %+v", list.Items)
		}
		if both := split.Parts[0].End.Sub(split.Parts[0].Start) + split.Parts[1].End.Sub(split.Parts[1].Start); both != 4*time.Hour {
			t.Errorf("the two slots are %v long together, want 4h", both)
		}
		if v := r.FSM.View(); len(v.Holds()) != 1 || len(v.Holds()[0].Offers) != 4 {
			t.Errorf("holds are %+v, want one of all", v.Holds())
		}
		// What is held nobody else gets.
		if _, err := r.Control.Reserve(t.Context(), specAt("other", 3, api.Slot{Start: later.Parts[0].Start.Format(time.RFC3339), For: "4h"}), "", "op", ""); err == nil {
			t.Error("what an offer holds was booked by somebody else")
		}
		res, err := r.Control.TakeOffer(t.Context(), split.ID, "mine", "studio", "op", "k")
		if err != nil {
			t.Fatal(err)
		}
		again, err := r.Control.TakeOffer(t.Context(), split.ID, "mine", "studio", "op", "k")
		if err != nil || again.ID != res.ID {
			t.Errorf("a repeated call answers %v, %v; want the same reservation", again, err)
		}
		v := r.FSM.View()
		second, ok := v.ReservationByName("studio", "mine-2")
		if res.Name != "mine" || !ok || !second.Start.Equal(split.Parts[1].Start) || !res.End.Equal(split.Parts[0].End) {
			t.Errorf("taken are %s until %v and %+v", res.Name, res.End, second)
		}
		if len(v.Holds()) != 0 {
			t.Error("the hold is still there")
		}
		_, err = r.Control.TakeOffer(t.Context(), later.ID, "x", "studio", "op", "")
		problem(t, err, api.CodeExpired)
	})
}

func TestOfferExpires(t *testing.T) {
	lead(t, small, func(t *testing.T, r *controltest.Rig) {
		list := offers(t, r, api.OfferRequest{Spec: specAt("lab", 3, at(3*time.Hour, "4h")), Hold: "5m"})
		if kinds(list) != "exact" {
			t.Fatalf("offers are %q, want exact", kinds(list))
		}
		time.Sleep(6 * time.Minute)
		_, err := r.Control.TakeOffer(t.Context(), list.Items[0].ID, "", "studio", "op", "")
		problem(t, err, api.CodeExpired)
		if n := len(r.FSM.View().Bookings()); n != 0 {
			t.Errorf("%d bookings are left of an expired hold", n)
		}
	})
}

func TestOfferToStartAtOnceTakenLaterKeepsItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, small)
		list := offers(t, r, api.OfferRequest{Spec: controltest.Spec("lab", 3), Hold: "10m"})
		time.Sleep(5 * time.Minute)
		res, err := r.Control.TakeOffer(t.Context(), list.Items[0].ID, "", "studio", "op", "")
		if err != nil {
			t.Fatal(err)
		}
		if part := list.Items[0].Parts[0]; res.State != api.StateProvisioning || !res.End.Equal(part.End) || res.Start.Sub(part.Start) < 5*time.Minute-time.Second {
			t.Errorf("it is %s from %v to %v; offered was %v to %v", res.State, res.Start, res.End, part.Start, part.End)
		}
		if !res.Provision.Equal(res.Start) {
			t.Errorf("provisioning begins at %v, start at %v", res.Provision, res.Start)
		}
	})
}

func TestOfferWhoseLeadHasBegunIsProvisionedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, small)
		list := offers(t, r, api.OfferRequest{Spec: specAt("lab", 3, at(8*time.Minute, "4h")), Hold: "10m"})
		time.Sleep(5 * time.Minute)
		res, err := r.Control.TakeOffer(t.Context(), list.Items[0].ID, "", "studio", "op", "")
		if err != nil {
			t.Fatal(err)
		}
		if !res.Start.Equal(list.Items[0].Parts[0].Start) || res.State != api.StateProvisioning || res.Provision.Before(time.Now().Add(-time.Second)) {
			t.Errorf("it is %s, provisioned from %v, starts %v", res.State, res.Provision, res.Start)
		}
	})
}

func TestTakingAnOfferUnderATakenNameSaysSo(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	reserve(t, r, controltest.Spec("lab", 1))
	list := offers(t, r, api.OfferRequest{Spec: controltest.Spec("lab", 1), Hold: "10m"})
	_, err := r.Control.TakeOffer(t.Context(), list.Items[0].ID, "", "studio", "op", "")
	if p := problem(t, err, api.CodeConflict); !strings.Contains(p.Detail+p.Next, "name") {
		t.Errorf("the problem is %v", p)
	}
	if _, err := r.Control.TakeOffer(t.Context(), list.Items[0].ID, "lab2", "studio", "op", ""); err != nil {
		t.Errorf("with another name: %v; a refusal must not cost the hold", err)
	}
	_, err = r.Control.TakeOffer(t.Context(), list.Items[0].ID, "x", "elsewhere", "op", "")
	problem(t, err, api.CodeExpired)
}

func TestOfferWhoseHostDiesIsTakenOnAnother(t *testing.T) {
	r := controltest.New(t, controltest.Options{Hosts: 6})
	list := offers(t, r, api.OfferRequest{Spec: specAt("lab", 2, at(3*time.Hour, "4h")), Hold: "10m"})
	var dead string
	for _, b := range r.FSM.View().Bookings() {
		if b.StorageBytes > 0 {
			dead = b.Host
		}
	}
	r.Apply(fsm.HostStatusSet{Host: dead, Status: fsm.HostDead})
	res, err := r.Control.TakeOffer(t.Context(), list.Items[0].ID, "", "studio", "op", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range res.Nodes {
		if n.Host == dead || n.Storage == dead {
			t.Errorf("node %s is on %s, which is dead", n.Name, dead)
		}
	}
}

func TestRefusalNamesTheNearest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, small)
		reserve(t, r, specAt("busy", 1, at(3*time.Hour, "4h")))
		end := at(7*time.Hour, "1h").Start
		spec := specAt("lab", 3, api.Slot{Start: at(3*time.Hour, "").Start, End: end}) // with a fixed end
		_, err := r.Control.Reserve(t.Context(), spec, "", "op", "")
		p := problem(t, err, api.CodeNoFit)
		if len(p.Nearest) != 2 || p.Nearest[0].Kind != api.OfferLater || p.Nearest[1].Kind != api.OfferFewer || len(p.Reasons) == 0 {
			t.Fatalf("the problem is %+v, want reasons, later and fewer", p)
		}
		if got := p.Nearest[0].Parts[0]; got.End.Sub(got.Start) != 4*time.Hour {
			t.Errorf("the later one is %v long, want 4h as asked", got.End.Sub(got.Start))
		}
		if _, err := r.Control.DryRun(t.Context(), spec, ""); err == nil {
			t.Error("a dry run says that it fits")
		}
	})
}

func TestWindowStartsAsEarlyAsItFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, small)
		busy := reserve(t, r, specAt("busy", 3, at(3*time.Hour, "4h")))
		slot := at(3*time.Hour, "2h")
		slot.Latest = at(24*time.Hour, "").Start
		res := reserve(t, r, specAt("lab", 3, slot))
		free := busy.End.Add(fsm.Turnaround)
		if res.Provision.Before(free) || res.Provision.After(free.Add(time.Minute)) || res.Start.Second() != 0 {
			t.Errorf("it is provisioned at %v and starts at %v; hosts are free from %v", res.Provision, res.Start, free)
		}
	})
}

// TestEarliestOfferIsTheEarliest compares with a scan of every quarter of a minute.
func TestEarliestOfferIsTheEarliest(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := newHistory(t, rt, controltest.Options{Hosts: 2, CPUs: 6})
		begin := h.now.Truncate(time.Minute).Add(time.Hour)
		slot := func(minutes, length int) api.Slot {
			return api.Slot{Start: begin.Add(time.Duration(minutes) * time.Minute).Format(time.RFC3339), For: fmt.Sprintf("%dm", length)}
		}
		for i := range rapid.IntRange(1, 9).Draw(rt, "bookings") {
			s := specAt(fmt.Sprintf("b%d", i), rapid.IntRange(1, 4).Draw(rt, "workers"),
				slot(rapid.IntRange(0, 200).Draw(rt, "start"), rapid.IntRange(5, 120).Draw(rt, "length")))
			s.Workers[0].CPUs = rapid.IntRange(1, 3).Draw(rt, "cpus")
			_, _ = h.r.Control.Reserve(t.Context(), s, "", "op", "") // what does not fit is not there
		}
		want := specAt("lab", rapid.IntRange(1, 5).Draw(rt, "want"), slot(rapid.IntRange(-60, 120).Draw(rt, "from"), rapid.IntRange(5, 120).Draw(rt, "long")))
		want.Workers[0].CPUs = rapid.IntRange(1, 2).Draw(rt, "each")
		list, err := h.r.Control.Offers(t.Context(), api.OfferRequest{Spec: want, Hold: "0s", Latest: begin.Add(5 * time.Hour).Format(time.RFC3339)}, "", "op")
		if err != nil {
			rt.Fatalf("ask: %v", err)
		}
		first, _ := time.Parse(time.RFC3339, want.Slot.Start)
		last := begin.Add(5 * time.Hour)
		if len(list.Items) > 0 {
			last = list.Items[0].Parts[0].Start
		}
		fits := func(start time.Time) bool {
			s := want
			s.Slot.Start = start.Format(time.RFC3339)
			_, err := h.r.Control.DryRun(t.Context(), s, "")
			return err == nil
		}
		// One that is on the minute may have been rounded up to it.
		until := last
		if len(list.Items) > 0 && !last.Equal(first) && last.Second() == 0 {
			until = last.Add(-time.Minute)
		}
		for start := first; start.Before(until); start = start.Add(15 * time.Second) {
			if fits(start) {
				rt.Fatalf("it fits at %v; offered is %v", start, list.Items)
			}
		}
		if len(list.Items) > 0 && last.Nanosecond() == 0 && !fits(last) {
			rt.Fatalf("offered is %v, and it does not fit", last)
		}
		if len(list.Items) > 0 && last.Second() != 0 && fits(last.Truncate(time.Minute).Add(time.Minute)) {
			rt.Fatalf("%v is not on the minute, and the next minute fits", last)
		}
	})
}

func TestTheSameInputsGiveTheSamePlan(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := newHistory(t, rt, controltest.Options{Hosts: 5, CPUs: 12}), newHistory(t, rt, controltest.Options{Hosts: 5, CPUs: 12})
		a.loose, b.loose = true, true
		tape := &tape{rapidPicker: rapidPicker{rt}}
		for range rapid.IntRange(3, 20).Draw(rt, "steps") {
			a.act(t.Context(), tape)
			b.act(t.Context(), tape.replay())
		}
		if x, y := seating(a.r), seating(b.r); !slices.Equal(x, y) {
			rt.Fatalf("the same history gave\n%v\n%v", x, y)
		}
	})
}

// tape remembers what was picked, to pick it again.
type tape struct {
	rapidPicker
	picked []int
}

func (p *tape) n(label string, below int) int {
	k := p.rapidPicker.n(label, below)
	p.picked = append(p.picked, k)
	return k
}

type player struct{ picked []int }

func (p *tape) replay() *player {
	out := &player{p.picked}
	p.picked = nil
	return out
}

func (p *player) n(_ string, below int) int {
	k := p.picked[0]
	p.picked = p.picked[1:]
	return min(k, below-1)
}

func seating(r *controltest.Rig) []string {
	var out []string
	for _, x := range r.FSM.View().Reservations(fsm.ReservationFilter{Closed: true}) {
		for _, n := range x.Nodes {
			out = append(out, fmt.Sprintf("%s %s %v %v %s %s %s", x.Name, x.State, x.Provision.Truncate(time.Second), x.End.Truncate(time.Second), n.Name, n.Host, n.Storage))
		}
	}
	slices.Sort(out)
	return out
}
