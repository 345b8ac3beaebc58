package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"vcn/hostops"
)

// attachment is a unit of another host as a block device here. Its record
// outlives its session, as over a restart of the host.
type attachment struct {
	disk    hostops.ISCSIDisk
	foreign bool
	session bool
	device  int // another one for each session
}

type initiators struct{ h *Host }

// Initiators is the host's own initiator. What is attached stays so while the
// target is away; a guest that uses it waits and sees no error.
func (h *Host) Initiators() hostops.Initiators { return initiators{h} }

// devicePath is where a unit appears on this host.
func (h *Host) devicePath(iqn string) string { return "/fake/" + h.cfg.Name + "/disks/" + iqn }

func checkTarget(iqn string) error {
	volume, ours := strings.CutPrefix(iqn, hostops.TargetIQN(""))
	if !ours {
		return fmt.Errorf("target %q is none of ours: %w", iqn, hostops.ErrInvalid)
	}
	return hostops.CheckVolumeID(volume)
}

func (f initiators) Attach(ctx context.Context, d hostops.ISCSIDisk) (string, error) {
	if err := checkTarget(d.IQN); err != nil {
		return "", fmt.Errorf("attach: %w", err)
	}
	if !d.Portal.IsValid() || d.Portal.Port() == 0 || d.User == "" || len(d.Secret) < 12 || d.LUN < 0 || d.LUN > 255 {
		return "", fmt.Errorf("attach %s: portal %q, LUN %d, user %q: %w", d.IQN, d.Portal, d.LUN, d.User, hostops.ErrInvalid)
	}
	if err := f.h.enter(ctx, "Initiators", "Attach", d.IQN); err != nil {
		return "", err
	}
	h := f.h
	h.mu.Lock()
	old := h.attached[d.IQN]
	switch {
	case old != nil && old.foreign:
		h.mu.Unlock()
		return "", fmt.Errorf("attach %s: %w", d.IQN, hostops.ErrForeign)
	case old != nil && old.session && old.disk == d:
		h.mu.Unlock()
		return h.devicePath(d.IQN), nil
	case old != nil && old.session && h.inUse(d.IQN):
		h.mu.Unlock()
		return "", fmt.Errorf("attach %s: its session is in use: %w", d.IQN, hostops.ErrBusy)
	}
	delete(h.attached, d.IQN)
	h.mu.Unlock()
	if old != nil && old.session {
		h.logoutEverywhere(old.disk)
	}
	if err := h.reach(d); err != nil {
		return "", fmt.Errorf("attach %s: %w", d.IQN, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.attached == nil {
		h.attached = map[string]*attachment{}
	}
	h.devices++
	h.attached[d.IQN] = &attachment{disk: d, session: true, device: h.devices}
	return h.devicePath(d.IQN), nil
}

// reach logs in, or says why that fails now; h.mu must not be held.
func (h *Host) reach(d hostops.ISCSIDisk) error {
	h.mu.Lock()
	cut := h.storageCut
	h.mu.Unlock()
	if cut {
		return fmt.Errorf("the target at %s does not answer", d.Portal)
	}
	if h.cfg.Fabric == nil {
		return nil
	}
	return h.cfg.Fabric.login(d)
}

func (h *Host) logoutEverywhere(d hostops.ISCSIDisk) {
	for _, o := range h.cfg.Fabric.all() {
		o.logout(d)
	}
}

func (f initiators) Detach(ctx context.Context, iqn string) error {
	if err := checkTarget(iqn); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	if err := f.h.enter(ctx, "Initiators", "Detach", iqn); err != nil {
		return err
	}
	h := f.h
	h.mu.Lock()
	old := h.attached[iqn]
	switch {
	case old == nil || old.foreign:
		h.mu.Unlock()
		return nil
	case old.session && h.inUse(iqn):
		h.mu.Unlock()
		return fmt.Errorf("detach %s: %w", iqn, hostops.ErrBusy)
	}
	delete(h.attached, iqn)
	h.mu.Unlock()
	h.logoutEverywhere(old.disk)
	return nil
}

func (f initiators) List(ctx context.Context) ([]hostops.Attachment, error) {
	if err := f.h.enter(ctx, "Initiators", "List", ""); err != nil {
		return nil, err
	}
	h := f.h
	h.mu.Lock()
	var here []attachment
	for _, iqn := range slices.Sorted(maps.Keys(h.attached)) {
		if a := h.attached[iqn]; !a.foreign {
			here = append(here, *a)
		}
	}
	h.mu.Unlock()
	var out []hostops.Attachment
	for _, a := range here {
		s := hostops.Attachment{IQN: a.disk.IQN, Portal: a.disk.Portal}
		switch {
		case !a.session:
			s.Detail = "not logged in"
		default:
			s.Path = h.devicePath(a.disk.IQN)
			if err := h.reach(a.disk); err != nil { // a lost session tries by itself
				s.Detail = err.Error()
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// inUse says whether a guest or somebody else has the device open; h.mu is held.
func (h *Host) inUse(iqn string) bool {
	path := h.devicePath(iqn)
	for _, d := range h.domains {
		if d.up() && d.spec.Disk.Path == path {
			return true
		}
	}
	return h.opened[path] > 0
}

// deviceOf numbers the device behind a path: 0 is none, or no attachment; h.mu
// is held.
func (h *Host) deviceOf(path string) int {
	iqn, ok := strings.CutPrefix(path, h.devicePath(""))
	if a := h.attached[iqn]; ok && a != nil && a.session {
		return a.device
	}
	return 0
}

// noDevice says whether a path is that of a device which is not attached.
func (h *Host) noDevice(path string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.HasPrefix(path, h.devicePath("")) && h.deviceOf(path) == 0
}

// OpenDevice opens an attached device, as something on the host would.
func (h *Host) OpenDevice(path string) (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.opened == nil {
		h.opened = map[string]int{}
	}
	h.opened[path]++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.opened[path]--
	}
}

// CutStorage lets this host reach no target, or reach them again.
func (h *Host) CutStorage(cut bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.storageCut = cut
}

// AddForeignSession logs somebody else on this host in to that target.
func (h *Host) AddForeignSession(iqn string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.attached == nil {
		h.attached = map[string]*attachment{}
	}
	h.attached[iqn] = &attachment{disk: hostops.ISCSIDisk{IQN: iqn}, foreign: true, session: true}
}

// loseSessions ends every session, as a restart of the host does; records stay.
// h.mu is held.
func (h *Host) loseSessions() {
	for iqn, a := range h.attached {
		if a.foreign {
			delete(h.attached, iqn)
		}
		a.session = false
	}
}

// LoseSessions ends every session behind the daemon's back, as somebody's
// "iscsiadm --logoutall" does: guests that used one stop on an I/O error.
func (h *Host) LoseSessions() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for iqn, a := range h.attached {
		for _, d := range h.domains {
			if a.session && d.seen.State == hostops.DomainRunning && d.spec.Disk.Path == h.devicePath(iqn) {
				d.off(hostops.DomainPaused, "stopped on an I/O error")
				h.changed()
			}
		}
	}
	h.loseSessions()
}
