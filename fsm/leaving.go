package fsm

import (
	"slices"

	"vcn/api"
)

// A worker leaves its cluster in three stages:
//
//	draining   the scheduler gives it no more jobs (AssignmentFor: Drain)
//	stopping   LeftIndex: it is in no assignment any more; its host is waited for
//	gone       its volume is in none either; its storage host is waited for
//
// The first stage fails closed: only the frontend's own word that no job runs
// on the worker ends it, or, after the deadline, its word that jobs do run. A
// worker whose jobs are not known is never stopped.

func (e *edit) leaving() {
	t, r := e.t, e.r
	for i := 0; i < len(r.Nodes); i++ {
		n := &r.Nodes[i]
		if !n.Leaving {
			continue
		}
		switch {
		case n.LeftIndex == 0:
			e.drain(n)
		case n.State != NodeGone:
			if !t.holds(n.Host, KindNode, nodeID(r.ID, n.Name), n.LeftIndex) {
				e.nodeGone(n)
			}
		case !t.holds(n.Storage, KindVolume, n.Volume, n.LeftIndex):
			e.left(i)
			i--
		}
	}
}

// drain ends the first stage when it may.
func (e *edit) drain(n *Node) {
	idle, busy, why := e.t.jobs(e.r, n)
	if idle || busy && n.LeaveDue {
		text := "no job runs on it"
		if !idle {
			text = "its deadline is over; " + why
		}
		n.LeftIndex = e.t.index
		e.dirty = true
		e.t.touchAll(e.r.ID)
		e.t.event(e.r.ID, n.Host, "node.stopping", "%s leaves %s: %s", n.Name, e.r.Name, text)
		return
	}
	if n.LeaveDue && !busy {
		why += "; it is not stopped until that is known"
	}
	e.setNode(n, NodeDraining, why)
}

// jobs is what the frontend says of the jobs on a worker; neither if unknown.
func (t *tx) jobs(r *Reservation, n *Node) (idle, busy bool, why string) {
	front := &r.Nodes[0]
	if front.State != NodeReady {
		return false, false, "whether jobs run on it is not known: the frontend is " + front.State
	}
	if rep, ok := first[reportRow](t.reader, tabReports, "id", key(front.Host)); !ok || rep.Applied < n.LeaveIndex {
		return false, false, "asking the frontend whether jobs run on it" // what it said before was of another time
	}
	o, ok := t.object(front.Host, KindDrain, nodeID(r.ID, n.Name))
	switch {
	case ok && o.State == ObjReady:
		return true, false, ""
	case ok && o.State == ObjWorking:
		return false, true, "jobs run on it: " + o.Message
	case ok:
		return false, false, "whether jobs run on it is not known: " + o.Message
	}
	return false, false, "asking the frontend whether jobs run on it"
}

// holds is true until the host has said, in a report that had seen the index,
// that it holds the object no more.
func (t *tx) holds(host, kind, id string, index uint64) bool {
	if _, has := t.object(host, kind, id); has {
		return true
	}
	rep, ok := first[reportRow](t.reader, tabReports, "id", key(host))
	return !ok || rep.Applied < index
}

func (e *edit) nodeGone(n *Node) {
	t := e.t
	if v, ok := first[Volume](t.reader, tabVolumes, "id", key(n.Volume)); ok {
		t.del(tabVolumes, v)
	}
	n.LeftIndex = t.index
	t.touch(n.Storage)
	e.setNode(n, NodeGone, "")
}

// left takes the node out of the reservation with all that was held for it.
func (e *edit) left(i int) {
	t, r := e.t, e.r
	n := r.Nodes[i]
	t.touchAll(r.ID) // also the host that is about to be free of it
	t.unlease(r.ID, n.Name)
	r.Nodes = slices.Delete(r.Nodes, i, i+1)
	t.rehold(r)
	e.dirty = true
	t.event(r.ID, n.Host, "node.left", "%s has left %s", n.Name, r.Name)
	if !slices.ContainsFunc(r.Nodes, func(n Node) bool { return n.Leaving }) {
		t.event(r.ID, "", "reservation.shrunk", "%s has %d nodes now", r.Name, len(r.Nodes))
	}
}

// setNode moves a node to a state that was found out here.
func (e *edit) setNode(n *Node, state, message string) {
	e.node(slices.IndexFunc(e.r.Nodes, func(o Node) bool { return o.Name == n.Name }),
		func(*Reservation, *Node) (string, string) { return state, message })
}

// joined notes workers that have become ready for the first time.
func (e *edit) joined() {
	for i := range e.r.Nodes {
		n := &e.r.Nodes[i]
		if n.Joining && n.State == NodeReady {
			n.Joining = false
			e.dirty = true
			if e.r.State == api.StateActive || e.r.State == api.StateReady {
				e.t.event(e.r.ID, n.Host, "node.joined", "%s has joined %s", n.Name, e.r.Name)
			}
		}
	}
}
