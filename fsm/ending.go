package fsm

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vcn/api"
)

// Ending has two stages, each begun at EndIndex and over when every host it
// waits for has reported having seen it (Applied >= EndIndex) and holding
// nothing of it any more:
//
//	1 nodes      AssignmentFor names no node; networks and volumes stay
//	2 the rest   NodesGone: nothing is named; then close frees the leases
//
// The first stage does not wait for dead hosts: to withdraw the disks from the
// nodes they may still run harms nobody any more. A dead host holds the second
// stage, and with it the VLAN and the addresses, back until it reports: what it
// still runs is unknown. What was booked on the other hosts is free as soon as
// each of them is clean.

// heldBack begins the part of Message that says who is waited for.
const heldBack = "; held back: "

// end begins ending, with the outcome and reason.
func (t *tx) end(r *Reservation, outcome api.State, why string) {
	r.State, r.Outcome, r.Message = api.StateEnding, outcome, why
	r.EndIndex, r.NodesGone = t.index, false
	r.Conditions = nil
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
		t.close(r)
		e.dirty = false // close has saved it
		return
	}
	for i := range r.Nodes { // those of dead hosts are left
		e.node(i, func(r *Reservation, n *Node) (string, string) { return t.endingState(n, waiting) })
	}
	e.free(waiting)
}

func (t *tx) alive(host string) bool {
	h, err := t.host(host)
	return err == nil && h.Status == HostAlive
}

// free gives back what is booked on hosts that are clean.
func (e *edit) free(waiting []string) {
	freed := slices.Clone(e.r.Freed) // the old one is another state's
	for _, b := range all(scan[Booking](e.t.reader, tabBookings, "id", key(e.r.ID))) {
		if slices.Contains(waiting, b.Host) {
			continue
		}
		e.t.unbook(b)
		freed = append(freed, b.Host)
		e.dirty = true
	}
	slices.Sort(freed)
	e.r.Freed = freed
}

func (t *tx) endingState(n *Node, waiting []string) (state, message string) {
	if !slices.Contains(waiting, n.Host) {
		return NodeGone, ""
	}
	if h, err := t.host(n.Host); err == nil && h.Status != HostAlive {
		return NodeLost, "host " + h.Name + " is " + h.Status
	}
	if n.State == NodeGone {
		return NodeGone, ""
	}
	return NodeStopping, ""
}

// carriers returns the hosts of the nodes, sorted.
func (t *tx) carriers(r *Reservation) []string {
	var hosts []string
	for _, n := range r.Nodes {
		hosts = append(hosts, n.Host)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// unclean returns which of the hosts, and of any others that hold something of
// the kind (or, with "", anything), are still to be waited for.
func (t *tx) unclean(r *Reservation, hosts []string, kind string) []string {
	bad := map[string]bool{}
	for o := range scan[objectRow](t.reader, tabObjects, "reservation", key(r.ID)) {
		if o.Kind != KindImage && (kind == "" || o.Kind == kind) {
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
		cond = fmt.Sprintf("VLAN %d is held back until a report: %s", e.r.VLAN, fewOf(dead))
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
	for _, l := range all(scan[Lease](t.reader, tabLeases, "reservation", key(r.ID))) {
		t.del(tabLeases, l)
	}
	for _, v := range all(scan[Volume](t.reader, tabVolumes, "reservation", key(r.ID))) {
		t.del(tabVolumes, v)
	}
	for _, b := range all(scan[Booking](t.reader, tabBookings, "id", key(r.ID))) {
		t.unbook(b)
	}
	r.State, r.Closed, r.Conditions, r.Secrets = r.Outcome, t.now, nil, nil
	for i := range r.Nodes {
		if n := &r.Nodes[i]; n.State != NodeGone {
			n.State, n.Since, n.Message = NodeGone, t.now, ""
		}
	}
	closePhases(r, t)
	t.event(r.ID, "", "reservation."+string(r.State), "%s: %s; VLAN %d is free", r.Name, r.Message, r.VLAN)
	t.save(r)
}

func vlanID(vlan int) string { return strconv.Itoa(vlan) }
