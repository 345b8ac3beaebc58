package fsm

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"vcn/api"
)

// Ending has two stages, each begun at EndIndex and over when every host it
// waits for has reported having seen it (Applied >= EndIndex) and holding
// nothing of it any more:
//
//	1 nodes      AssignmentFor names no node; networks and volumes stay
//	2 the rest   NodesGone: nothing is named; then close frees the leases
//
// Before it there may be a grace (StopAt), in which all goes on. What is to be
// parked stops its nodes by NodeWork.Stop, cleanly, and keeps its volumes in the
// second stage, served to nobody. Those of workers that were leaving go.
//
// The first stage does not wait for dead hosts: to withdraw the disks from the
// nodes they may still run harms nobody any more. A dead host holds the second
// stage, and with it the VLAN and the addresses, back until it reports: what it
// still runs is unknown. What was booked on the other hosts is free as soon as
// each of them is clean.

// heldBack begins the part of Message that says who is waited for.
const heldBack = "; held back: "

// end begins ending, with the outcome and reason, at once.
func (t *tx) end(r *Reservation, outcome api.State, why string) {
	t.endBy(r, outcome, why, time.Time{})
}

// endBy begins ending, with a grace until stop if that is still to come.
func (t *tx) endBy(r *Reservation, outcome api.State, why string, stop time.Time) {
	r.State, r.Outcome, r.Message = api.StateEnding, outcome, why
	r.EndIndex, r.NodesGone = t.index, false
	r.Conditions, r.StopAt, r.FrontendStops = nil, time.Time{}, false
	if stop.After(t.now) {
		r.StopAt = stop
		t.notice(r, fmt.Sprintf("%s: its slot is over; its nodes stop at %s", r.Name, stop.Format(time.RFC3339)))
	}
	t.touchAll(r.ID)
	if !r.Bound { // nothing of it runs: only volumes are there
		for i := range r.Nodes {
			r.Nodes[i].Host = ""
		}
	}
	t.rehold(r)
	closePhases(r, t)
	t.event(r.ID, "", "reservation.ending", "%s is ending: %s", r.Name, why)
	t.touchAll(r.ID)
	e := &edit{t: t, r: r}
	e.ending()
	t.save(r)
}

func closePhases(r *Reservation, t *tx) {
	for i := range r.Phases {
		if r.Phases[i].End == nil {
			at := t.now
			r.Phases[i].End, r.Phases[i].Note = &at, "not finished"
		}
	}
}

func (e *edit) ending() {
	t, r := e.t, e.r
	if !r.StopAt.IsZero() { // its nodes still run
		for i := range r.Nodes {
			e.node(i, e.t.nodeState)
		}
		return
	}
	e.workersOff()
	if !r.NodesGone {
		waiting := t.unclean(r, t.carriers(r), KindNode)
		for i := range r.Nodes {
			e.node(i, func(r *Reservation, n *Node) (string, string) { return t.endingState(n, waiting) })
		}
		e.holdBack(waiting)
		if slices.ContainsFunc(waiting, t.alive) {
			return
		}
		e.dirty = true
		r.NodesGone, r.EndIndex = true, t.index
		e.dropLeaving()
		which := "all nodes are gone"
		if len(waiting) > 0 {
			which = "all nodes but those of dead hosts are gone"
		}
		t.event(r.ID, "", "reservation.stopped", "%s: %s; removing disks and networks", r.Name, which)
		t.touchAll(r.ID)
	}
	waiting := t.unclean(r, t.involved(r.ID), "")
	e.holdBack(waiting)
	if len(waiting) == 0 {
		if r.Outcome == api.StateParked {
			t.parked(r)
		} else {
			t.close(r)
		}
		e.dirty = false // it is saved
		return
	}
	for i := range r.Nodes { // those of dead hosts are left
		e.node(i, func(r *Reservation, n *Node) (string, string) { return t.endingState(n, waiting) })
	}
	e.free(waiting)
}

// workersOff lets the frontend of what is to be parked stop once no worker on a
// living host runs.
func (e *edit) workersOff() {
	t, r := e.t, e.r
	if r.Outcome != api.StateParked || r.FrontendStops || len(r.Nodes) == 0 {
		return
	}
	for i := range r.Nodes[1:] {
		n := &r.Nodes[1+i]
		if n.Host == "" || !t.alive(n.Host) {
			continue
		}
		o, ok := t.object(n.Host, KindNode, nodeID(r.ID, n.Name))
		if ok && o.State != ObjOff {
			return
		}
		if rep, ok := first[reportRow](t.reader, tabReports, "id", key(n.Host)); !ok || rep.Applied < r.EndIndex {
			return
		}
	}
	r.FrontendStops = true
	e.dirty = true
	t.touch(r.Nodes[0].Host)
}

// dropLeaving deletes the disks of workers that were on their way out of what is
// to be parked.
func (e *edit) dropLeaving() {
	if e.r.Outcome != api.StateParked {
		return
	}
	for i := range e.r.Nodes {
		n := &e.r.Nodes[i]
		if v, ok := first[Volume](e.t.reader, tabVolumes, "id", key(n.Volume)); ok && n.Leaving {
			e.t.del(tabVolumes, v)
		}
	}
}

func (t *tx) alive(host string) bool {
	h, err := t.host(host)
	return err == nil && h.Status == HostAlive
}

// hurry ends a grace, and deletes what was to be parked.
func (t *tx) hurry(r *Reservation, why string) {
	if r.StopAt.IsZero() && r.Outcome != api.StateParked {
		return
	}
	r.Message = why
	if r.Outcome == api.StateParked {
		r.Outcome = api.StateEnded
		t.rehold(r)
	}
	r.StopAt, r.EndIndex = time.Time{}, t.index
	t.touchAll(r.ID)
	t.save(r)
	t.settle(r.ID)
	t.result, _ = t.reservation(r.ID)
}

// free gives back what is booked on hosts that are clean. What is to be parked
// keeps its volumes, and the identifiers are held until all is over.
func (e *edit) free(waiting []string) {
	if e.r.Outcome == api.StateParked {
		return
	}
	freed := slices.Clone(e.r.Freed) // the old one is another state's
	for _, b := range all(scan[Booking](e.t.reader, tabBookings, "id", key(e.r.ID))) {
		if slices.Contains(waiting, b.Host) || b.Host == Identifiers {
			continue
		}
		e.t.unbook(b)
		freed = append(freed, b.Host)
		e.dirty = true
	}
	slices.Sort(freed)
	e.r.Freed = slices.Compact(freed)
}

func (t *tx) endingState(n *Node, waiting []string) (state, message string) {
	if n.State == NodeGone || !slices.Contains(waiting, n.Host) {
		return NodeGone, ""
	}
	if h, err := t.host(n.Host); err == nil && h.Status != HostAlive {
		return NodeLost, "host " + h.Name + " is " + h.Status
	}
	return NodeStopping, ""
}

// carriers returns the hosts of the nodes, sorted.
func (t *tx) carriers(r *Reservation) []string {
	var hosts []string
	for _, n := range r.Nodes {
		if n.Host != "" {
			hosts = append(hosts, n.Host)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// unclean returns which of the hosts, and of any others that hold something of
// the kind (or, with "", anything), are still to be waited for.
func (t *tx) unclean(r *Reservation, hosts []string, kind string) []string {
	bad := map[string]bool{}
	for o := range scan[objectRow](t.reader, tabObjects, "reservation", key(r.ID)) {
		keeps := o.Kind == KindImage || o.Kind == KindDrain
		if r.Outcome == api.StateParked {
			switch o.Kind {
			case KindVolume:
				_, keeps = first[Volume](t.reader, tabVolumes, "id", key(o.ID))
			case KindNode: // powered off, as NodeWork.Stop says
				keeps = o.State == ObjOff && !r.NodesGone
			}
		}
		if !keeps && (kind == "" || o.Kind == kind) {
			bad[o.Host] = true
		}
	}
	for _, id := range hosts {
		rep, ok := first[reportRow](t.reader, tabReports, "id", key(id))
		if !ok || rep.Applied < r.EndIndex {
			bad[id] = true
		}
	}
	var out []string
	for id := range bad { // sorted below
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// holdBack says which dead hosts are waited for, in Message and condition.
func (e *edit) holdBack(waiting []string) {
	var dead []string
	for _, id := range waiting {
		if h, err := e.t.host(id); err == nil && h.Status != HostAlive {
			dead = append(dead, "host "+h.Name+" is "+h.Status)
		}
	}
	reason, _, _ := strings.Cut(e.r.Message, heldBack)
	message, cond := reason, ""
	if len(dead) > 0 {
		what := "deleting its volumes"
		if e.r.VLAN != 0 {
			what = fmt.Sprintf("VLAN %d", e.r.VLAN)
		}
		cond = fmt.Sprintf("%s is held back until a report: %s", what, fewOf(dead))
		message = reason + heldBack + cond
	}
	if message != e.r.Message {
		e.r.Message = message
		e.dirty = true
	}
	e.condition(condDegraded, cond)
}

// close ends the reservation for good and frees everything it held. Nothing of
// it may be left on any host, and none is assigned anything of it, so that no
// assignment changes here.
func (t *tx) close(r *Reservation) {
	t.unlease(r.ID, "")
	for _, v := range all(scan[Volume](t.reader, tabVolumes, "reservation", key(r.ID))) {
		t.del(tabVolumes, v)
	}
	t.unbookAll(r.ID)
	r.State, r.Closed, r.Conditions, r.Secrets = r.Outcome, t.now, nil, nil
	r.Notices, r.Kept, r.Wait, r.StopAt = nil, false, nil, time.Time{}
	for i := range r.Nodes {
		if n := &r.Nodes[i]; n.State != NodeGone {
			n.State, n.Since, n.Message = NodeGone, t.now, ""
		}
	}
	closePhases(r, t)
	text := r.Name + ": " + r.Message
	if r.VLAN != 0 {
		text += fmt.Sprintf("; VLAN %d is free", r.VLAN)
	}
	t.event(r.ID, "", "reservation."+string(r.State), "%s", text)
	t.save(r)
}

func vlanID(vlan int) string { return strconv.Itoa(vlan) }
