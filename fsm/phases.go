package fsm

import (
	"slices"
	"time"

	"vcn/api"
)

// Phases of provisioning, as people see them. They overlap: networks are made
// while images travel and volumes are cloned.
//
//	images    begins with provisioning; ends when every host has the images it needs
//	networks  begins with provisioning; ends when every carrier reports the network
//	volumes   begins with the first volume in work; ends when all are served
//	boot      begins with the first node in work; ends when the first one is ready
//	ready     begins there; ends when all nodes are
const (
	phaseImages   = "images"
	phaseVolumes  = "volumes"
	phaseNetworks = "networks"
	phaseBoot     = "boot"
	phaseReady    = "ready"
)

func firstPhases(now time.Time) []api.Phase {
	return []api.Phase{{Name: phaseImages, Start: now}, {Name: phaseNetworks, Start: now}}
}

func (e *edit) phases() {
	begun, served := e.volumesProgress()
	if e.open(phaseImages) && (served || e.imagesHere()) {
		e.phaseEnd(phaseImages)
	}
	if e.open(phaseNetworks) && e.networksUp() {
		e.phaseEnd(phaseNetworks)
	}
	if begun {
		e.phaseStart(phaseVolumes)
	}
	if served {
		e.phaseEnd(phaseVolumes)
	}
	inWork := func(n Node) bool {
		return n.State == NodeBooting || n.State == NodeReady || n.State == NodeStarting && e.t.reported(e.r, &n)
	}
	if slices.ContainsFunc(e.r.Nodes, inWork) {
		e.phaseStart(phaseBoot)
	}
	if slices.ContainsFunc(e.r.Nodes, func(n Node) bool { return n.State == NodeReady }) {
		e.phaseEnd(phaseBoot)
		e.phaseStart(phaseReady)
	}
}

func (t *tx) reported(r *Reservation, n *Node) bool {
	_, ok := t.object(n.Host, KindNode, nodeID(r.ID, n.Name))
	return ok
}

func (e *edit) find(name string) *api.Phase {
	for i := range e.r.Phases {
		if e.r.Phases[i].Name == name {
			return &e.r.Phases[i]
		}
	}
	return nil
}

func (e *edit) open(name string) bool {
	p := e.find(name)
	return p != nil && p.End == nil
}

func (e *edit) phaseStart(name string) {
	if e.find(name) == nil {
		e.r.Phases = append(e.r.Phases, api.Phase{Name: name, Start: e.t.now})
		e.dirty = true
	}
}

func (e *edit) phaseEnd(name string) {
	if p := e.find(name); p != nil && p.End == nil {
		at := e.t.now
		p.End = &at
		e.dirty = true
	}
}

// volumesProgress: is any in work, are all served?
func (e *edit) volumesProgress() (begun, served bool) {
	if p := e.find(phaseVolumes); p != nil && p.End != nil {
		return true, true
	}
	served = true
	for i := range e.r.Nodes {
		n := &e.r.Nodes[i]
		ok, _ := e.t.volumeReady(n.Volume, n.Generation)
		served = served && ok
		if ok {
			begun = true
		} else if v, found := first[Volume](e.t.reader, tabVolumes, "id", key(n.Volume)); found {
			o, seen := e.t.object(v.Host, KindVolume, v.ID)
			begun = begun || seen && o.State != ObjWaiting
		}
	}
	return begun, served
}

// imagesHere: has every storage host what it clones and every carrier what it
// boots?
func (e *edit) imagesHere() bool {
	for i := range e.r.Nodes {
		n := &e.r.Nodes[i]
		v, ok := first[Volume](e.t.reader, tabVolumes, "id", key(n.Volume))
		if !ok {
			return false
		}
		if o, ok := e.t.object(n.Host, KindImage, v.Recipe); !ok || o.State != ObjReady {
			return false
		}
		if o, ok := e.t.object(v.Host, KindImage, v.Recipe); !ok || o.State != ObjReady || o.BootOnly {
			return false
		}
	}
	return true
}

// networksUp: does every carrier report the network?
func (e *edit) networksUp() bool {
	id := vlanID(e.r.VLAN)
	for i := range e.r.Nodes {
		if o, ok := e.t.object(e.r.Nodes[i].Host, KindNetwork, id); !ok || o.State != ObjReady {
			return false
		}
	}
	return true
}
