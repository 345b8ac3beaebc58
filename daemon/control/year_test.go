package control_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"vcn/api"
	"vcn/daemon/control"
	"vcn/daemon/control/controltest"
	"vcn/fsm"
)

// TestAYearOfABusyCentre drives a control through a year: reservations, series, a
// waitlist, parking, offers, changes, and hosts that die and come back. What was
// accepted is kept or flagged.
func TestAYearOfABusyCentre(t *testing.T) {
	y := &year{history: newHistory(t, t, controltest.Options{Hosts: 4, CPUs: 6}), rng: rand.New(rand.NewPCG(2030, 1)),
		seen: map[string]uint64{}, last: map[string]api.State{}, states: map[api.State]int{}}
	y.loose, y.long = true, 10
	for end := y.now.AddDate(1, 0, 0); y.now.Before(end); y.steps++ {
		y.owners(t)
		y.hosts()
		y.pass(t, y.now.Add(time.Duration(1+y.rng.IntN(14))*time.Hour))
		y.look(t)
	}
	y.count = 0
	y.check("the year")
	last, states := y.last, y.states
	if len(last) < 300 || states[api.StateEnded] < 200 || states[api.StateParked] < 20 || states[api.StateWaitlisted] < 5 {
		t.Errorf("%d reservations, seen in states %v: that was no busy year", len(last), states)
	}
	t.Log(fmt.Sprint(len(last), " reservations, seen in states ", states))
}

// year is a history that time drives.
type year struct {
	*history
	rng    *rand.Rand
	steps  int
	dead   string
	seen   map[string]uint64    // index of the last report, by host
	last   map[string]api.State // by reservation
	states map[api.State]int    // how often one was seen to come to it
}

// owners do one thing; a centre that is busy refuses much.
func (y *year) owners(t *testing.T) {
	p := randomPicker{y.rng}
	switch {
	case y.steps%5 == 0:
		_ = y.change(t.Context(), p)
	case y.steps%7 == 0:
		_ = y.ask(t.Context(), p)
	case y.steps%11 == 0:
		_ = y.lifecycle(t.Context(), p)
	default:
		_ = y.reserve(t.Context(), p)
	}
}

// hosts die, and come back some days later.
func (y *year) hosts() {
	switch y.steps % 40 {
	case 20:
		y.dead = controltest.HostID(y.rng.IntN(4))
		y.r.Apply(fsm.HostStatusSet{Host: y.dead, Status: fsm.HostDead})
	case 35:
		y.r.Apply(fsm.HostStatusSet{Host: y.dead, Status: fsm.HostAlive})
		y.r.SettleOnce()
	}
}

// pass lets time go on, from one thing that is due to the next.
func (y *year) pass(t *testing.T, until time.Time) {
	for y.now.Before(until) {
		due, err := y.r.Control.Step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range y.r.FSM.View().Hosts() { // those that have something to do
			if v := y.r.FSM.View(); x.Status == fsm.HostAlive && v.AssignmentFor(x.ID).Index != y.seen[x.ID] {
				y.seen[x.ID] = y.r.Report(x.ID)
			}
		}
		if due.After(until) || due.IsZero() {
			due = until
		}
		y.now = latestOf(due, y.now.Add(time.Second))
	}
}

func (y *year) look(t *testing.T) {
	v := y.r.FSM.View()
	for _, r := range v.Reservations(fsm.ReservationFilter{Closed: true}) {
		if err := kept(&r, y.now.Add(-time.Minute)); err != nil {
			t.Fatal(err)
		}
		if y.last[r.ID] != r.State {
			y.last[r.ID] = r.State
			y.states[r.State]++
		}
	}
	if y.steps%50 == 0 {
		if err := errors.Join(fsm.CheckInvariants(v), control.CheckInventory(y.r.Control)); err != nil {
			t.Fatal(err)
		}
	}
}

func latestOf(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

type randomPicker struct{ *rand.Rand }

func (p randomPicker) n(_ string, below int) int { return p.IntN(below) }
