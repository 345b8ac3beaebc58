package fake

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"vcn/hostops"
)

type export struct {
	spec     hostops.Export
	sessions []hostops.Session
	failed   string
}

type targets struct{ h *Host }

func (f targets) Publish(ctx context.Context, e hostops.Export) error {
	if err := hostops.CheckVolumeID(e.Volume); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if err := f.h.enter(ctx, "Targets", "Publish", e.Volume); err != nil {
		return err
	}
	h := f.h
	h.mu.Lock()
	old := h.exports[e.Volume]
	if old != nil && old.spec.Generation > e.Generation {
		h.mu.Unlock()
		return fmt.Errorf("publish %s: generation %d, here is %d: %w", e.Volume, e.Generation, old.spec.Generation, hostops.ErrStale)
	}
	e.Access = slices.Clone(e.Access)
	if old == nil {
		old = &export{}
		h.exports[e.Volume] = old
	}
	fenced := old.spec.Generation != e.Generation
	old.spec = e
	kept, cut := old.sessions[:0], []hostops.Session(nil)
	for _, s := range old.sessions {
		allowed := slices.ContainsFunc(e.Access, func(a hostops.Access) bool { return a.Initiator == s.Initiator })
		if fenced || !allowed {
			cut = append(cut, s)
			continue
		}
		kept = append(kept, s)
	}
	old.sessions = kept
	h.mu.Unlock()
	h.cfg.Fabric.cutSessions(e.IQN, cut)
	return nil
}

func (f targets) Withdraw(ctx context.Context, volume string) error {
	if err := f.h.enter(ctx, "Targets", "Withdraw", volume); err != nil {
		return err
	}
	h := f.h
	h.mu.Lock()
	e := h.exports[volume]
	delete(h.exports, volume)
	h.mu.Unlock()
	if e != nil {
		h.cfg.Fabric.cutSessions(e.spec.IQN, e.sessions)
	}
	return nil
}

func (f targets) List(ctx context.Context) ([]hostops.ExportStatus, error) {
	if err := f.h.enter(ctx, "Targets", "List", ""); err != nil {
		return nil, err
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	var out []hostops.ExportStatus
	for _, volume := range slices.Sorted(maps.Keys(f.h.exports)) {
		e := f.h.exports[volume]
		out = append(out, hostops.ExportStatus{
			Volume: volume, IQN: e.spec.IQN, Generation: e.spec.Generation,
			Sessions: slices.Clone(e.sessions), Failed: e.failed,
		})
	}
	return out, nil
}

func (f targets) Resize(ctx context.Context, volume string) error {
	if err := f.h.enter(ctx, "Targets", "Resize", volume); err != nil {
		return err
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	if f.h.exports[volume] == nil {
		return fmt.Errorf("resize %s: %w", volume, hostops.ErrNotFound)
	}
	return nil
}

// FailExport lets an exported unit fail for good, as after an I/O error of the
// storage below it.
func (h *Host) FailExport(volume, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.exports[volume]; e != nil {
		e.failed = why
	}
}

// login admits an initiator, or says why not; h.mu must not be held.
func (h *Host) login(d hostops.ISCSIDisk) (found bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.exports {
		if e.spec.IQN != d.IQN {
			continue
		}
		if e.failed != "" {
			return true, fmt.Errorf("log in to %s: the unit has failed: %s", d.IQN, e.failed)
		}
		for _, a := range e.spec.Access {
			if a.Initiator != d.Initiator || a.User != d.User || a.Secret != d.Secret {
				continue
			}
			known := slices.ContainsFunc(e.sessions, func(s hostops.Session) bool { return s.Initiator == d.Initiator })
			if !known {
				e.sessions = append(e.sessions, hostops.Session{
					Initiator: d.Initiator, Addr: netip.AddrPortFrom(a.Addr, 3260), Since: time.Now(),
				})
			}
			return true, nil
		}
		return true, fmt.Errorf("log in to %s as %s: %w", d.IQN, d.Initiator, hostops.ErrDenied)
	}
	return false, nil
}

func (h *Host) logout(d hostops.ISCSIDisk) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.exports {
		if e.spec.IQN == d.IQN {
			e.sessions = slices.DeleteFunc(e.sessions, func(s hostops.Session) bool { return s.Initiator == d.Initiator })
		}
	}
}
