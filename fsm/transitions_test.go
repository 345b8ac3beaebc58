package fsm

import (
	"fmt"

	"vcn/api"
)

// checkTransition compares the states before and after one command: what must
// never happen between two states that are both possible.
func checkTransition(old, v *View, c Command) error {
	for _, before := range old.Reservations(ReservationFilter{Closed: true}) {
		after, ok := v.Reservation(before.ID)
		if !ok {
			if before.Live() {
				return fmt.Errorf("live reservation %s is gone", before.ID)
			}
			continue
		}
		if !before.Live() && after.Live() {
			return fmt.Errorf("reservation %s came back to life", before.ID)
		}
		if err := checkStopped(v, &before, &after); err != nil {
			return err
		}
		if err := checkKept(v, &before, &after, c); err != nil {
			return err
		}
	}
	for _, was := range old.Volumes("") {
		now, ok := v.Volume(was.ID)
		switch {
		case !ok:
		case now.Generation < was.Generation || was.Made && !now.Made:
			return fmt.Errorf("volume %s went from generation %d to %d, made %v to %v", was.ID, was.Generation, now.Generation, was.Made, now.Made)
		case now.Reservation != was.Reservation || now.Node != was.Node || now.Host != was.Host || now.SizeBytes != was.SizeBytes:
			return fmt.Errorf("volume %+v became %+v", was, now)
		}
	}
	if _, ok := c.(ClockAdvance); ok {
		if at, waits := v.NextDeadline(); waits && !at.After(v.Clock()) {
			return fmt.Errorf("the clock is at %s and is due again at %s", v.Clock(), at)
		}
	}
	return nil
}

// checkStopped: no worker that leaves is stopped unless its frontend, running
// and asked since, said that no job runs on it, or that jobs do and its time is over.
func checkStopped(v *View, before, after *Reservation) error {
	for _, n := range after.Nodes {
		o, had := nodeNamed(before, n.Name)
		if n.LeftIndex == 0 || had && o.LeftIndex != 0 {
			continue
		}
		front := after.Nodes[0]
		drain, said := v.Object(front.Host, KindDrain, nodeID(after.ID, n.Name))
		report, _ := v.HostStatus(front.Host)
		overdue := !n.LeaveBy.IsZero() && !n.LeaveBy.After(v.Clock())
		known := said && (drain.State == ObjReady || drain.State == ObjWorking && overdue)
		if !n.Leaving || !known || front.State != NodeReady || report.Applied < n.LeaveIndex {
			return fmt.Errorf("worker %s of %s was stopped: leaving %v, frontend %s says %+v", n.Name, after.ID, n.Leaving, front.State, drain)
		}
	}
	return nil
}

// checkKept: what is parked, or is to be, keeps its disks until its time is
// over, whatever fails meanwhile; only its owner may have them deleted.
func checkKept(v *View, before, after *Reservation, c Command) error {
	kept := before.Kept && (before.State == api.StateParked || before.State == api.StateBooked) ||
		before.State == api.StateEnding && before.Outcome == api.StateParked ||
		before.State == api.StateProvisioning && resumed(before)
	if x, ok := c.(ReservationRelease); !kept || ok && x.ID == before.ID {
		return nil
	}
	if x, ok := c.(ReservationChange); ok && x.ID == before.ID && x.Reinstall {
		return nil
	}
	if before.State == api.StateParked && !before.ParkedUntil.After(v.Clock()) {
		return nil
	}
	if before.State == api.StateBooked && after.State != before.State { // its slot passed, and perhaps its parking
		if after.State == api.StateEnding && !after.ParkedUntil.After(v.Clock()) {
			return nil
		}
	}
	for _, n := range before.Nodes {
		if n.Leaving {
			continue
		}
		if _, ok := v.Volume(n.Volume); !ok && n.Volume != "" {
			return fmt.Errorf("the disk of %s/%s, kept until %s, is gone after %T: it was %s and is %s", before.ID, n.Name,
				before.ParkedUntil, c, before.State, after.State)
		}
	}
	if !after.Live() || after.State == api.StateEnding && after.Outcome != api.StateParked {
		if before.State == api.StateEnding { // parked and over at once
			return nil
		}
		return fmt.Errorf("reservation %s, kept until %s, went from %s to %s", before.ID, before.ParkedUntil, before.State, after.State)
	}
	return nil
}
