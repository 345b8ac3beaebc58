package control_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"vcn/api"
	"vcn/daemon/control"
	"vcn/daemon/control/controltest"
	"vcn/fsm"
	"vcn/placement"
)

func on(r *fsm.Reservation, host string) bool {
	return slices.ContainsFunc(r.Nodes, func(n fsm.Node) bool { return n.Host == host || n.Storage == host })
}

func has(r *fsm.Reservation, condition string) bool {
	return slices.ContainsFunc(r.Conditions, func(c api.Condition) bool { return c.Type == condition })
}

// promise is a reservation for tomorrow, and a host of its workers.
func promise(t *testing.T, r *controltest.Rig) (*fsm.Reservation, string) {
	t.Helper()
	res := reserve(t, r, specAt("lab", 2, at(24*time.Hour, "4h")))
	return res, res.Nodes[1].Host
}

func TestPromisesLeaveADeadHostAfterAWhile(t *testing.T) {
	lead(t, controltest.Options{Hosts: 6}, func(t *testing.T, r *controltest.Rig) {
		res, dead := promise(t, r)
		r.Gossip.Set(dead, "dead")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		now := booked(t, r, res.ID)
		if !on(&now, dead) || !has(&now, "missing_resources") {
			t.Fatalf("after two minutes it is on %+v with %v; want where it was (it may be a restart), and flagged", now.Nodes, now.Conditions)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if now = booked(t, r, res.ID); on(&now, dead) || has(&now, "missing_resources") || !has(&now, "resources_changed") {
			t.Errorf("after seven minutes it is on %+v with %v", now.Nodes, now.Conditions)
		}
		if n := control.Flights(r.Control); n != 0 {
			t.Errorf("%d plans are in flight", n)
		}
	})
}

func TestPromiseOnAHostThatComesBackStays(t *testing.T) {
	lead(t, controltest.Options{Hosts: 6}, func(t *testing.T, r *controltest.Rig) {
		res, dead := promise(t, r)
		r.Gossip.Set(dead, "dead")
		time.Sleep(3 * time.Minute)
		r.Gossip.Set(dead, "alive")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if now := booked(t, r, res.ID); !on(&now, dead) || len(now.Conditions) != 0 {
			t.Errorf("it is on %+v with %v; want all as it was", now.Nodes, now.Conditions)
		}
	})
}

func TestPromiseThatBeginsSoonDoesNotWaitForADeadHost(t *testing.T) {
	lead(t, controltest.Options{Hosts: 6}, func(t *testing.T, r *controltest.Rig) {
		res := reserve(t, r, specAt("lab", 2, at(8*time.Minute, "4h")))
		r.Gossip.Set(res.Nodes[1].Host, "dead")
		time.Sleep(time.Minute)
		synctest.Wait()
		if now := booked(t, r, res.ID); on(&now, res.Nodes[1].Host) {
			t.Errorf("it is still on the dead host: %+v", now.Nodes)
		}
	})
}

func TestPromiseMovesOnlyAsManyAsAHostThatShrankCannotKeep(t *testing.T) {
	lead(t, controltest.Options{Hosts: 3, CPUs: 8}, func(t *testing.T, r *controltest.Rig) {
		for i := range 6 {
			reserve(t, r, specAt(fmt.Sprintf("c%d", i), 2, at(time.Duration(24+6*i)*time.Hour, "4h")))
		}
		was := map[string]string{}
		for _, x := range r.FSM.View().Reservations(fsm.ReservationFilter{}) {
			was[x.ID] = fmt.Sprint(seatsOf(&x))
		}
		h, _ := r.FSM.View().Host(controltest.HostID(0))
		h.CPUs = 1
		r.Apply(fsm.HostRegister{Host: h})
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		for _, x := range r.FSM.View().Reservations(fsm.ReservationFilter{}) {
			if has(&x, "missing_resources") {
				t.Errorf("%s is still in danger: %v", x.Name, x.Conditions)
			}
		}
	})
}

func seatsOf(r *fsm.Reservation) (out []string) {
	for _, n := range r.Nodes {
		out = append(out, n.Host+"/"+n.Storage)
	}
	return out
}

// TestOneThatCannotBeProvisionedHoldsNobodyUp: not even when there are as many of
// them as one look takes.
func TestOneThatCannotBeProvisionedHoldsNobodyUp(t *testing.T) {
	lead(t, controltest.Options{Hosts: 6, CPUs: 256, Pools: wide}, func(t *testing.T, r *controltest.Rig) {
		gate := controltest.HostID(0)
		slot := at(4*time.Hour, "4h")
		for i := range 70 {
			s := specAt(fmt.Sprintf("c%d", i), 1, slot)
			s.Frontend.CPUs = 3 + i%2 // of 2 × 256 cores of gateways, more than one has
			reserve(t, r, s)
		}
		fine := specAt("fine", 1, api.Slot{Start: at(4*time.Hour+10*time.Second, "").Start, For: "4h"})
		late := reserve(t, r, fine)
		if on(late, gate) {
			gate = controltest.HostID(3)
		}
		for i := range 120 { // the other gateway is full, so that nobody can move there
			s := specAt(fmt.Sprintf("full%d", i), 1, slot)
			s.Frontend.CPUs = 3
			if _, err := r.Control.Reserve(t.Context(), s, "", "op", ""); err != nil {
				break
			}
		}
		r.Gossip.Set(gate, "dead")
		time.Sleep(time.Until(late.Provision) + 2*time.Second)
		synctest.Wait()
		stuck := 0
		for _, x := range r.FSM.View().Reservations(fsm.ReservationFilter{}) {
			if x.State == api.StateBooked {
				stuck++
				if err := kept(&x, time.Now()); err != nil {
					t.Error(err)
				}
			}
		}
		if now := booked(t, r, late.ID); now.State != api.StateProvisioning || stuck == 0 {
			t.Errorf("it is %s, %d others are stuck; want it to be provisioned beside them", now.State, stuck)
		}
		r.Gossip.Set(gate, "alive")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		for _, x := range r.FSM.View().Reservations(fsm.ReservationFilter{}) {
			if x.State != api.StateProvisioning {
				t.Errorf("the host is back, and %s is %s", x.Name, x.State)
			}
		}
	})
}

func TestNextLeaderBindsWhatTheLastOneCouldNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, controltest.Options{})
		res := reserve(t, r, specAt("lab", 2, at(time.Hour, "4h")))
		ctx, cancel := context.WithCancel(t.Context())
		go r.Control.RunLeader(ctx)
		time.Sleep(time.Until(res.Provision) - time.Second)
		synctest.Wait()
		r.Applier.SetHook(func([]byte) error { return errors.New("leadership lost") })
		time.Sleep(3 * time.Second)
		cancel()
		synctest.Wait()
		r.Applier.SetHook(nil)
		if now := booked(t, r, res.ID); now.State != api.StateBooked {
			t.Fatalf("it is %s without a leader", now.State)
		}
		ctx, cancel = context.WithCancel(t.Context())
		go r.Control.RunLeader(ctx)
		time.Sleep(time.Second)
		synctest.Wait()
		if now := booked(t, r, res.ID); now.State != api.StateProvisioning {
			t.Errorf("under the next leader it is %s", now.State)
		}
		if err := control.CheckInventory(r.Control); err != nil {
			t.Error(err)
		}
		cancel()
		synctest.Wait()
	})
}

func TestBeyondIsWhatIsWantedMoreAtEachInstant(t *testing.T) {
	hour := func(n int) time.Time { return time.Date(2030, 1, 1, n, 0, 0, 0, time.UTC) }
	held := []placement.Booking{{Host: "a", From: hour(1), Until: hour(5), CPUs: 4, StorageBytes: 10}, {Host: "b", From: hour(0), Until: hour(9), CPUs: 1}}
	wanted := []placement.Booking{{Host: "a", From: hour(2), Until: hour(7), CPUs: 6}, {Host: "a", From: hour(3), Until: hour(4), CPUs: 1, StorageBytes: 30}}
	want := []placement.Booking{
		{Host: "a", From: hour(2), Until: hour(3), CPUs: 2}, {Host: "a", From: hour(3), Until: hour(4), CPUs: 3, StorageBytes: 20},
		{Host: "a", From: hour(4), Until: hour(5), CPUs: 2}, {Host: "a", From: hour(5), Until: hour(7), CPUs: 6},
	}
	if got := control.Beyond(wanted, held); !slices.Equal(got, want) {
		t.Errorf("beyond what is held are\n%v, want\n%v", got, want)
	}
	if got := control.Beyond(held, held); len(got) != 0 {
		t.Errorf("beyond itself is %v", got)
	}
}
