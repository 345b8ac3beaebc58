package fake

import (
	"fmt"
	"slices"
	"sync"

	"vcn/hostops"
)

// Fabric is the storage network between fake hosts: a guest's iSCSI disk is
// checked against the exports of all hosts in it, and a guest whose session is
// cut stops on an I/O error, as a real one does. A nil Fabric is no network:
// every disk is taken as reachable.
type Fabric struct {
	mu    sync.Mutex
	hosts []*Host
}

// NewFabric makes an empty storage network.
func NewFabric() *Fabric { return &Fabric{} }

func (f *Fabric) join(h *Host) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hosts = append(f.hosts, h)
}

func (f *Fabric) leave(h *Host) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hosts = slices.DeleteFunc(f.hosts, func(o *Host) bool { return o == h })
}

func (f *Fabric) all() []*Host {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.hosts)
}

func (f *Fabric) login(d hostops.ISCSIDisk) error {
	for _, h := range f.all() {
		if found, err := h.login(d); found {
			return err
		}
	}
	return fmt.Errorf("log in to %s at %s: no such target", d.IQN, d.Portal)
}

func (f *Fabric) logout(s hostops.DomainSpec) {
	if s.Disk.ISCSI == nil {
		return
	}
	for _, h := range f.all() {
		h.logout(*s.Disk.ISCSI)
	}
}

// cutSessions pauses the guests behind sessions that were ended by the target.
func (f *Fabric) cutSessions(iqn string, cut []hostops.Session) {
	for _, s := range cut {
		for _, h := range f.all() {
			h.loseDisk(iqn, s.Initiator)
		}
	}
}

// settle pauses every guest whose disk nobody serves any more.
func (f *Fabric) settle() {
	for _, h := range f.all() {
		for iqn, initiator := range h.disks() {
			if !f.served(iqn) {
				h.loseDisk(iqn, initiator)
			}
		}
	}
}

func (f *Fabric) served(iqn string) bool {
	for _, h := range f.all() {
		h.mu.Lock()
		for _, e := range h.exports {
			if e.spec.IQN == iqn {
				h.mu.Unlock()
				return true
			}
		}
		h.mu.Unlock()
	}
	return false
}

func (h *Host) disks() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]string{}
	for _, d := range h.domains {
		if i := d.spec.Disk.ISCSI; i != nil && d.seen.State == hostops.DomainRunning {
			out[i.IQN] = i.Initiator
		}
	}
	return out
}

func (h *Host) loseDisk(iqn, initiator string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.domains {
		i := d.spec.Disk.ISCSI
		if i == nil || i.IQN != iqn || i.Initiator != initiator || d.seen.State != hostops.DomainRunning {
			continue
		}
		d.off(hostops.DomainPaused, "stopped on an I/O error")
		h.changed()
	}
}
