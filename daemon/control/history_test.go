package control_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vcn/api"
	"vcn/daemon/control"
	"vcn/daemon/control/controltest"
	"vcn/fsm"
)

// picker chooses; rapid's or a plain random one.
type picker interface {
	n(label string, below int) int
}

type rapidPicker struct{ *rapid.T }

func (p rapidPicker) n(label string, below int) int {
	return rapid.IntRange(0, below-1).Draw(p.T, label)
}

// history drives one control as owners, hosts and time do.
type history struct {
	tb     interface{ Fatalf(string, ...any) }
	r      *controltest.Rig
	ids    []string
	offers []string
	series []string
	log    []string
	count  int
	now    time.Time
	long   int  // how much longer slots are
	loose  bool // checks after some steps only
}

func everybody(string) bool { return true }

// live lists the live ones in the order in which they were made: ids are random.
func (h *history) live() []fsm.Reservation {
	all := h.r.FSM.View().Reservations(fsm.ReservationFilter{})
	slices.SortFunc(all, func(a, b fsm.Reservation) int { return a.Created.Compare(b.Created) })
	return all
}

// spec is a small one: starts on minutes, some with windows, some parked at their end.
func (h *history) spec(p picker) api.Spec {
	h.count++
	s := controltest.Spec(fmt.Sprintf("c%d", h.count), 1+p.n("workers", 5))
	s.Workers[0].CPUs = 1 + p.n("cpus", 3)
	s.Workers[0].Disk = api.Quantity(4+4*p.n("disk", 3)) * api.GiB
	s.Slot.For = fmt.Sprintf("%dm", (30+30*p.n("length", 8))*max(h.long, 1))
	if ahead := p.n("ahead", 8); ahead > 0 {
		start := h.now.UTC().Truncate(time.Minute).Add(time.Duration(ahead) * 47 * time.Minute)
		s.Slot.Start = start.Format(time.RFC3339)
		if p.n("window", 3) == 0 {
			s.Slot.Latest = start.Add(6 * time.Hour).Format(time.RFC3339)
		}
	}
	if p.n("park", 4) == 0 {
		s.AtEnd = &api.AtEnd{Action: api.EndPark, ParkFor: "12h", Grace: "10m"}
	}
	return s
}

// act does one thing. Refusals that name a problem of the owner's are fine; others are not.
func (h *history) act(ctx context.Context, p picker) {
	kind := p.n("act", 20)
	var err error
	what := ""
	switch {
	case kind < 5:
		err, what = h.reserve(ctx, p), "reserve"
	case kind < 9:
		err, what = h.change(ctx, p), "change"
	case kind < 11:
		err, what = h.lifecycle(ctx, p), "lifecycle"
	case kind < 13:
		err, what = h.ask(ctx, p), "offers"
	case kind < 15:
		h.host(p)
		what = "host"
	case kind < 17:
		h.r.SettleOnce()
		what = "settle"
	default:
		h.now = h.now.Add([]time.Duration{time.Second, 7 * time.Minute, time.Hour, 5 * time.Hour}[p.n("pass", 4)])
		what = "time"
	}
	h.log = append(h.log, fmt.Sprintf("%s: %s: %v", h.now.UTC().Format(time.TimeOnly), what, err))
	var prob *api.Problem
	if err != nil && (!errors.As(err, &prob) || prob.Status >= 500) {
		h.tb.Fatalf("%s: %v (%T)\n%s", what, err, err, strings.Join(h.log, "\n"))
	}
	if _, err := h.r.Control.Step(ctx); err != nil {
		h.tb.Fatalf("step after %s: %v\n%s", what, err, strings.Join(h.log, "\n"))
	}
	h.check(what)
}

func (h *history) reserve(ctx context.Context, p picker) error {
	s := h.spec(p)
	var r *fsm.Reservation
	var err error
	switch p.n("how", 6) {
	case 0:
		s.Slot.Latest = ""
		r, err = h.r.Control.ReserveWait(ctx, s, "3h", "", "op", "")
	case 1:
		if s.Slot.Start == api.StartAsap {
			return nil
		}
		s.Slot.Latest, s.Slot.Zone, s.Slot.Repeat = "", "Europe/Berlin", "FREQ=DAILY;COUNT=3"
		var row *fsm.Series
		if _, row, err = h.r.Control.ReserveSeries(ctx, s, p.n("partial", 2) == 0, false, "", "op", ""); row != nil {
			h.series = append(h.series, row.ID)
		}
	default:
		r, err = h.r.Control.Reserve(ctx, s, "", "op", "")
	}
	if r != nil {
		h.ids = append(h.ids, r.ID)
	}
	return err
}

func (h *history) change(ctx context.Context, p picker) error {
	all := h.live()
	if len(all) == 0 {
		return nil
	}
	r := all[p.n("which", len(all))]
	var ch api.Change
	switch p.n("field", 8) {
	case 0:
		ch.Name = new(fmt.Sprintf("n%d", h.count))
		h.count++
	case 1:
		ch.Extend = new(fmt.Sprintf("%dm", 10+20*p.n("by", 8)))
	case 2:
		ch.Shorten = new("10m")
	case 3:
		ch.Start = new(h.now.UTC().Truncate(time.Minute).Add(time.Duration(1+p.n("to", 20)) * 30 * time.Minute).Format(time.RFC3339))
	case 4, 5:
		ch.Workers = map[string]int{"compute": 1 + p.n("count", 6)}
		if p.n("deadline", 2) == 0 {
			ch.Deadline = new("1h")
		}
	case 6:
		ch.AtEnd = &api.AtEnd{Action: []string{api.EndPark, api.EndRelease}[p.n("end", 2)], ParkFor: "6h"}
	case 7:
		ch.Frontend = &api.NodeShape{CPUs: 1 + p.n("front", 3)}
	}
	plan, dry := h.r.Control.PlanChange(r.ID, ch, everybody)
	now, err := h.r.Control.Change(ctx, r.ID, ch, "op", r.Name, everybody)
	if (err == nil) != (dry == nil) {
		h.tb.Fatalf("the dry run says %v, the change %v\n%s", dry, err, strings.Join(h.log, "\n"))
	}
	if err == nil && (!plan.Start.Equal(now.Start) || !plan.End.Equal(now.End) || len(plan.Nodes) != len(now.Nodes)) {
		h.tb.Fatalf("the dry run says %v-%v, %d nodes; the change made %v-%v, %d", plan.Start, plan.End, len(plan.Nodes), now.Start, now.End, len(now.Nodes))
	}
	return err
}

func (h *history) lifecycle(ctx context.Context, p picker) error {
	all := h.live()
	if len(all) == 0 {
		return nil
	}
	r := all[p.n("which", len(all))]
	var err error
	switch {
	case r.State == api.StateParked && p.n("back", 3) > 0:
		_, err = h.r.Control.Resume(ctx, r.ID, api.Slot{Start: h.now.UTC().Add(time.Duration(1+p.n("in", 5)) * time.Hour).Format(time.RFC3339), For: "2h"}, "")
	case r.State == api.StateActive && p.n("park", 2) == 0:
		_, err = h.r.Control.Park(ctx, r.ID, api.ParkRequest{For: "10h"}, "op")
	default:
		_, err = h.r.Control.Release(ctx, r.ID, "op")
	}
	return err
}

func (h *history) ask(ctx context.Context, p picker) error {
	if len(h.offers) > 0 && p.n("take", 2) == 0 {
		k := p.n("offer", len(h.offers))
		id := h.offers[k]
		h.offers = slices.Delete(h.offers, k, k+1)
		h.count++
		_, err := h.r.Control.TakeOffer(ctx, id, fmt.Sprintf("o%d", h.count), "studio", "op", "")
		return err
	}
	req := api.OfferRequest{Spec: h.spec(p), WorkersMin: 1, LengthMin: "20m", Split: true, Hold: "20m"}
	req.Spec.Slot.Latest = ""
	list, err := h.r.Control.Offers(ctx, req, "", "op")
	for _, o := range list.Items {
		h.offers = append(h.offers, o.ID)
	}
	return err
}

func (h *history) host(p picker) {
	hosts := h.r.FSM.View().Hosts()
	x := hosts[p.n("host", len(hosts))]
	switch p.n("fate", 4) {
	case 0, 1:
		status := fsm.HostDead
		if x.Status != fsm.HostAlive {
			status = fsm.HostAlive
		}
		h.r.Apply(fsm.HostStatusSet{Host: x.ID, Status: status})
	case 2: // memory modules were taken out, or put in again
		x.CPUs = 8 + 4*p.n("cores", 3)
		h.r.Apply(fsm.HostRegister{Host: x})
	}
}

// check is what must be true after each step.
func (h *history) check(after string) {
	v := h.r.FSM.View()
	fail := func(err error) {
		if err != nil {
			h.tb.Fatalf("after %s: %v\n%s", after, err, strings.Join(h.log, "\n"))
		}
	}
	if !h.loose || h.count%8 == 0 {
		fail(fsm.CheckInvariants(v))
		fail(control.CheckInventory(h.r.Control))
	}
	if n := control.Flights(h.r.Control); n > 0 {
		fail(fmt.Errorf("%d plans are in flight, nothing is under way", n))
	}
	for _, r := range v.Reservations(fsm.ReservationFilter{}) {
		fail(kept(&r, v.Clock()))
	}
	for _, w := range v.Waitlist() {
		if w.Wait.Passed > fsm.PassedMax {
			fail(fmt.Errorf("%s was passed %d times", w.Name, w.Wait.Passed))
		}
	}
}

// kept is nil if a promise is kept, or says that it is in danger.
func kept(r *fsm.Reservation, now time.Time) error {
	flagged := slices.ContainsFunc(r.Conditions, func(c api.Condition) bool { return c.Type == "missing_resources" })
	if r.State == api.StateBooked && !r.Provision.After(now) && !flagged {
		return fmt.Errorf("%s was to be provisioned at %s, and is booked without a word", r.Name, r.Provision)
	}
	return nil
}

// newHistory begins in the night to a change to summer time.
func newHistory(t *testing.T, tb interface{ Fatalf(string, ...any) }, o controltest.Options) *history {
	h := &history{tb: tb, now: time.Date(2030, 3, 30, 22, 0, 0, 0, time.UTC)}
	o.Now = func() time.Time { return h.now }
	h.r = controltest.New(t, o)
	return h
}

func TestHistoriesKeepEveryPromiseOrSaySo(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := newHistory(t, rt, controltest.Options{Hosts: 4, CPUs: 12})
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			h.act(t.Context(), rapidPicker{rt})
		}
	})
}
