package fsm

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"vcn/api"
)

// settle is level-triggered: it looks at everything the state knows about one
// reservation and brings the record up to it. Whatever may have changed
// something calls it; calling it again changes nothing.
func (t *tx) settle(id string) {
	old, ok := first[Reservation](t.reader, tabReservations, "id", key(id))
	if !ok || !old.Live() {
		return
	}
	e := &edit{t: t, r: clone(old)}
	switch {
	case old.State == api.StateEnding:
		e.ending()
	case old.Running():
		e.up()
	case old.State == api.StateParked:
		e.storage()
	case old.State == api.StateBooked:
		e.resources()
	}
	if e.dirty {
		t.save(e.r)
	}
}

// clone copies the record as deep as anything here changes it.
func clone(r *Reservation) *Reservation {
	c := *r
	c.Nodes = slices.Clone(r.Nodes)
	c.Conditions = slices.Clone(r.Conditions)
	c.Phases = slices.Clone(r.Phases)
	c.Notices = slices.Clone(r.Notices)
	return &c
}

func (t *tx) save(r *Reservation) {
	r.Modified = t.index
	t.put(tabReservations, r)
}

// edit is a copy of a reservation being changed.
type edit struct {
	t     *tx
	r     *Reservation
	dirty bool
}

// up settles one that is provisioning, ready or active.
func (e *edit) up() {
	for i := range e.r.Nodes {
		if n := &e.r.Nodes[i]; n.LeftIndex == 0 && (!n.Leaving || n.State != NodeDraining) {
			e.node(i, e.t.nodeState)
		}
	}
	e.joined()
	e.leaving()
	if e.r.State == api.StateProvisioning {
		e.phases()
		if e.allReady() {
			e.ready()
		}
	}
	e.degraded()
}

func (e *edit) allReady() bool {
	return !slices.ContainsFunc(e.r.Nodes, func(n Node) bool { return n.State != NodeReady && !n.Leaving })
}

func (e *edit) ready() {
	t, r := e.t, e.r
	e.dirty = true
	r.State, r.ReadyAt, r.Message = api.StateReady, t.now, ""
	for i := range r.Phases {
		if r.Phases[i].End == nil {
			r.Phases[i].End = &t.now
		}
	}
	if !r.ParkedAt.IsZero() {
		t.rehold(r) // it is not to go back to being parked any more
	}
	t.event(r.ID, "", "reservation.ready", "%s is ready: %d nodes, %s after provisioning began",
		r.Name, len(r.Nodes), t.now.Sub(r.Phases[0].Start).Round(time.Second))
	if !r.Start.After(t.now) {
		t.activate(r)
	}
}

func (t *tx) activate(r *Reservation) {
	r.State = api.StateActive
	t.event(r.ID, "", "reservation.active", "%s is active until %s", r.Name, r.End.Format(time.RFC3339))
}

// node moves one node to the state that find says, with an event if it moved.
func (e *edit) node(i int, find func(*Reservation, *Node) (state, message string)) {
	n := &e.r.Nodes[i]
	state, message := find(e.r, n)
	message = clip(message)
	if state == n.State && message == n.Message {
		return
	}
	if state != n.State {
		text := fmt.Sprintf("%s on %s: %s → %s", n.Name, e.t.hostName(n.Host), n.State, state)
		if message != "" {
			text += " (" + message + ")"
		}
		e.t.event(e.r.ID, n.Host, "node."+state, "%s", text)
		n.State, n.Since = state, e.t.now
	}
	n.Message = message
	e.dirty = true
}

// nodeState is what the state knows about a node that is to run.
func (t *tx) nodeState(r *Reservation, n *Node) (state, message string) {
	if why := t.lost(n); why != "" {
		return NodeLost, why
	}
	if o, ok := t.object(n.Host, KindNode, nodeID(r.ID, n.Name)); ok && o.Generation == n.Generation {
		switch o.State {
		case ObjReady:
			return NodeReady, ""
		case ObjBooting:
			return NodeBooting, o.Message
		case ObjStopping:
			return NodeStopping, o.Message
		case ObjWorking:
			return NodeStarting, o.Message
		case ObjPaused, ObjOff, ObjFailed:
			return NodeStarting, strings.TrimSuffix(o.State+": "+o.Message, ": ")
		}
	}
	if ok, _ := t.volumeReady(n.Volume, n.Generation); ok {
		return NodeStarting, ""
	}
	if digest, why := t.imageFor(n.Volume); digest == "" {
		return NodeWaiting, why
	}
	v, ok := first[Volume](t.reader, tabVolumes, "id", key(n.Volume))
	if !ok {
		return NodeVolume, ""
	}
	if o, ok := t.object(v.Host, KindVolume, v.ID); ok {
		return NodeVolume, o.Message
	}
	return NodeVolume, ""
}

// lost says why a node's fate is unknown: its host is dead, or it came back
// and has not reported since. Empty if it is known.
func (t *tx) lost(n *Node) string {
	h, err := t.host(n.Host)
	if err != nil {
		return err.Error()
	}
	if h.Status != HostAlive {
		return "host " + h.Name + " is " + h.Status
	}
	if n.State != NodeLost {
		return ""
	}
	rep, ok := first[reportRow](t.reader, tabReports, "id", key(h.ID))
	if !ok || rep.Time.Before(h.StatusSince) {
		return "host " + h.Name + " is back and has not reported yet"
	}
	return ""
}

func nodeID(reservation, node string) string { return reservation + "/" + node }

// volumeReady says whether the volume is served under the generation and, if
// not, how far it is. It leaves out messages, which change often.
func (r reader) volumeReady(id string, generation uint64) (bool, string) {
	v, ok := first[Volume](r, tabVolumes, "id", key(id))
	if !ok {
		return false, "volume " + id + " does not exist"
	}
	what := "volume " + id + " on " + r.hostName(v.Host)
	o, ok := r.object(v.Host, KindVolume, id)
	switch {
	case !ok:
		return false, what + " has not been reported yet"
	case o.Generation != generation || v.Generation != generation:
		return false, fmt.Sprintf("%s is not served to generation %d yet", what, generation)
	case o.State != ObjReady:
		return false, what + " is " + o.State
	}
	return true, ""
}

// imageFor returns the digest of the image that a volume is, or is to be, cloned
// from or, while there is none, how far it is.
func (r reader) imageFor(volume string) (digest, why string) {
	v, ok := first[Volume](r, tabVolumes, "id", key(volume))
	if !ok {
		return "", "volume " + volume + " does not exist"
	}
	if v.ImageDigest != "" {
		return v.ImageDigest, ""
	}
	i, ok := first[Image](r, tabImages, "id", key(v.Recipe))
	if !ok {
		return "", "the image is unknown"
	}
	if i.Digest == "" {
		return "", "image of " + i.Appliance + " is " + i.State
	}
	return i.Digest, ""
}

// condition sets a condition, or clears it with an empty message.
func (e *edit) condition(kind, message string) {
	r := e.r
	message = clip(message)
	i := slices.IndexFunc(r.Conditions, func(c api.Condition) bool { return c.Type == kind })
	switch {
	case i < 0 && message == "":
	case i < 0:
		r.Conditions = append(r.Conditions, api.Condition{Type: kind, Message: message, Since: e.t.now})
		e.t.event(r.ID, "", "reservation."+kind, "%s: %s", r.Name, message)
		e.dirty = true
	case message == "":
		r.Conditions = slices.Delete(r.Conditions, i, i+1)
		if len(r.Conditions) == 0 {
			r.Conditions = nil
		}
		e.t.event(r.ID, "", "reservation."+kind+".cleared", "%s: no longer %s", r.Name, strings.ReplaceAll(kind, "_", " "))
		e.dirty = true
	case r.Conditions[i].Message != message:
		r.Conditions[i].Message = message
		e.dirty = true
	}
}

const (
	condDegraded = "degraded"
	condMissing  = "missing_resources"
	condChanged  = "resources_changed"
)

// degraded looks at nodes and at the hosts of their disks. While provisioning
// only what is lost counts.
func (e *edit) degraded() {
	var bad []string
	for i := range e.r.Nodes {
		n := &e.r.Nodes[i]
		switch {
		case n.Leaving || n.Joining:
		case n.State == NodeLost:
			bad = append(bad, n.Name+": "+n.Message)
		case n.State != NodeReady && e.r.State != api.StateProvisioning:
			bad = append(bad, n.Name+" is "+n.State)
		default:
			if why := e.t.storageDead(n); why != "" {
				bad = append(bad, why)
			}
		}
	}
	e.condition(condDegraded, fewOf(bad))
}

func (t *tx) storageDead(n *Node) string {
	v, ok := first[Volume](t.reader, tabVolumes, "id", key(n.Volume))
	if !ok {
		return ""
	}
	if h, err := t.host(v.Host); err == nil && h.Status != HostAlive {
		return "disk of " + n.Name + ": host " + h.Name + " is " + h.Status
	}
	return ""
}

// resources settles one that is booked: are its hosts still there?
func (e *edit) resources() {
	var bad []string
	for _, id := range e.t.involved(e.r.ID) {
		h, err := e.t.host(id)
		switch {
		case err != nil:
			bad = append(bad, err.Error())
		case h.Status != HostAlive:
			bad = append(bad, "host "+h.Name+" is "+h.Status)
		case h.Cordoned != "":
			bad = append(bad, "host "+h.Name+" is cordoned: "+h.Cordoned)
		case h.Short != "" && e.t.shortFor(e.r.ID, h):
			bad = append(bad, "host "+h.Name+" "+h.Short)
		}
	}
	e.condition(condMissing, fewOf(bad))
}

// shortFor is true if a host that has shrunk is overbooked at some instant at
// which the owner holds what there is too little of.
func (t *tx) shortFor(owner string, h *Host) bool {
	for b := range scan[Booking](t.reader, tabBookings, "id", key(owner, h.ID)) {
		for s := range within(t.stepsAround(h.ID, b.From.UnixNano(), b.Until.UnixNano()), max(b.From.UnixNano(), t.now.UnixNano()), b.Until.UnixNano()) {
			if b.CPUs > 0 && s.CPUs > h.CPUs || b.MemoryBytes > 0 && s.MemoryBytes > h.MemoryBytes ||
				b.StorageBytes > 0 && s.StorageBytes > h.StorageBytes {
				return true
			}
		}
	}
	return false
}

// storage settles one that is parked: are its volumes' hosts still there?
func (e *edit) storage() {
	var bad []string
	for i := range e.r.Nodes {
		if why := e.t.storageDead(&e.r.Nodes[i]); why != "" {
			bad = append(bad, why)
		}
	}
	e.condition(condDegraded, fewOf(bad))
}

// fewOf joins the first few.
func fewOf(list []string) string {
	const few = 4
	if len(list) > few {
		return strings.Join(list[:few], "; ") + fmt.Sprintf("; and %d more", len(list)-few)
	}
	return strings.Join(list, "; ")
}

// provision turns a booked reservation to provisioning.
func (t *tx) provision(r *Reservation) {
	r.State, r.Message, r.Conditions = api.StateProvisioning, "", nil
	r.Phases = firstPhases(t.now)
	t.event(r.ID, "", "reservation.provisioning", "%s: provisioning %d nodes begins", r.Name, len(r.Nodes))
	t.save(r)
	t.touchAll(r.ID)
	t.settle(r.ID)
}
