package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"vcn/hostops"
)

// domain is a guest: a state and the timer that makes it ready.
type domain struct {
	spec    hostops.DomainSpec
	seen    hostops.Domain
	foreign bool
	ready   *time.Timer
	device  int // which attachment its disk was when it started; 0: none
	// life ends when the guest goes off: its programs end with it.
	life context.Context
	end  context.CancelFunc
}

func (d *domain) halt() {
	if d.ready != nil {
		d.ready.Stop()
		d.ready = nil
	}
}

func (d *domain) off(state hostops.DomainState, why string) {
	d.halt()
	if d.end != nil && state != hostops.DomainPaused {
		d.end()
	}
	d.seen.State, d.seen.Ready, d.seen.Detail = state, false, why
}

func (d *domain) up() bool {
	return d.seen.State == hostops.DomainRunning || d.seen.State == hostops.DomainPaused
}

func key(reservation, node string) string { return reservation + "/" + node }

// domains is one user's driver; its Close ends that user's watches, not the
// host.
type domains struct {
	h    *Host
	done chan struct{}
	once *sync.Once
}

func (f domains) Ensure(ctx context.Context, s hostops.DomainSpec) error {
	if err := s.Validate(); err != nil {
		return fmt.Errorf("ensure domain: %w", err)
	}
	k := key(s.Reservation, s.Node)
	if err := f.h.enter(ctx, "Domains", "Ensure", k); err != nil {
		return err
	}
	if err := f.login(s); err != nil {
		return fmt.Errorf("ensure domain %s: %w", k, err)
	}
	h := f.h
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[k]
	switch {
	case d != nil && d.foreign:
		return fmt.Errorf("ensure domain %s: %w", k, hostops.ErrForeign)
	case d != nil && d.spec.Generation > s.Generation:
		return fmt.Errorf("ensure domain %s: generation %d, here is %d: %w", k, s.Generation, d.spec.Generation, hostops.ErrStale)
	case d != nil && d.up() && d.spec.Generation == s.Generation:
		// Whose device is gone stays as it is: its hypervisor holds the old one.
		if d.seen.State == hostops.DomainPaused && d.device == h.deviceOf(d.spec.Disk.Path) {
			d.seen.State, d.seen.Detail = hostops.DomainRunning, ""
			h.bootTimer(k, d)
			h.changed()
		}
		return nil
	case d != nil:
		d.off(hostops.DomainOff, "replaced")
	}
	d = &domain{spec: s, seen: hostops.Domain{
		Reservation: s.Reservation, Node: s.Node, Generation: s.Generation,
		State: hostops.DomainRunning, Started: time.Now(),
	}, device: h.deviceOf(s.Disk.Path)}
	d.life, d.end = context.WithCancel(context.Background())
	h.domains[k] = d
	h.bootTimer(k, d)
	h.changed()
	return nil
}

// login is what the guest's initiator does before the start: a refusal keeps
// the guest from starting, unless it is already up in this generation.
func (f domains) login(s hostops.DomainSpec) error {
	if f.h.noDevice(s.Disk.Path) {
		return fmt.Errorf("open %s: %w", s.Disk.Path, hostops.ErrNotFound)
	}
	if s.Disk.ISCSI == nil || f.h.cfg.Fabric == nil {
		return nil
	}
	f.h.mu.Lock()
	d := f.h.domains[key(s.Reservation, s.Node)]
	running := d != nil && d.seen.State == hostops.DomainRunning && d.spec.Generation >= s.Generation
	f.h.mu.Unlock()
	if running || d != nil && d.foreign {
		return nil
	}
	return f.h.cfg.Fabric.login(*s.Disk.ISCSI)
}

// bootTimer makes d ready after the configured time, if it is still the guest
// of that name then; h.mu is held.
func (h *Host) bootTimer(k string, d *domain) {
	if h.cfg.ReadyAfter < 0 || h.closed {
		return
	}
	d.halt()
	var t *time.Timer
	t = time.AfterFunc(h.cfg.ReadyAfter, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.domains[k] != d || d.ready != t || d.seen.State != hostops.DomainRunning {
			return
		}
		d.seen.Ready = true
		h.changed()
	})
	d.ready = t
}

func (f domains) Stop(ctx context.Context, reservation, node string, grace time.Duration) error {
	k := key(reservation, node)
	if err := f.h.enter(ctx, "Domains", "Stop", k); err != nil {
		return err
	}
	h := f.h
	h.mu.Lock()
	d := h.domains[k]
	if d == nil || !d.up() {
		h.mu.Unlock()
		return nil
	}
	if d.foreign {
		h.mu.Unlock()
		return fmt.Errorf("stop domain %s: %w", k, hostops.ErrForeign)
	}
	wait, why := h.cfg.StopAfter, "powered off"
	if wait < 0 || wait > grace || d.seen.State == hostops.DomainPaused {
		wait, why = grace, "destroyed"
	}
	h.mu.Unlock()
	if err := sleep(ctx, wait); err != nil {
		return fmt.Errorf("stop domain %s: %w", k, err)
	}
	h.mu.Lock()
	if h.domains[k] == d && d.up() {
		d.off(hostops.DomainOff, why)
		h.changed()
	}
	h.mu.Unlock()
	h.cfg.Fabric.logout(d.spec)
	return nil
}

func (f domains) Remove(ctx context.Context, reservation, node string) error {
	k := key(reservation, node)
	if err := f.h.enter(ctx, "Domains", "Remove", k); err != nil {
		return err
	}
	h := f.h
	h.mu.Lock()
	d := h.domains[k]
	if d == nil {
		h.mu.Unlock()
		return nil
	}
	if d.foreign {
		h.mu.Unlock()
		return fmt.Errorf("remove domain %s: %w", k, hostops.ErrForeign)
	}
	d.off(hostops.DomainOff, "removed")
	delete(h.domains, k)
	h.changed()
	h.mu.Unlock()
	h.cfg.Fabric.logout(d.spec)
	return nil
}

func (f domains) List(ctx context.Context) ([]hostops.Domain, error) {
	if err := f.h.enter(ctx, "Domains", "List", ""); err != nil {
		return nil, err
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	var out []hostops.Domain
	for _, k := range slices.Sorted(maps.Keys(f.h.domains)) {
		if d := f.h.domains[k]; !d.foreign {
			out = append(out, d.seen)
		}
	}
	return out, nil
}

func (f domains) Watch(ctx context.Context) <-chan struct{} {
	h := f.h
	in, out := make(chan struct{}, 1), make(chan struct{}, 1)
	in <- struct{}{} // the first look is always due
	h.mu.Lock()
	h.watchers[in] = struct{}{}
	h.mu.Unlock()
	go func() {
		defer close(out)
		defer func() {
			h.mu.Lock()
			delete(h.watchers, in)
			h.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-f.done:
				return
			case <-h.done:
				return
			case <-in:
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out
}

func (f domains) Close() error {
	f.once.Do(func() { close(f.done) })
	return nil
}

// PowerOff lets a guest switch itself off.
func (h *Host) PowerOff(reservation, node string) {
	h.end(reservation, node, hostops.DomainOff, "powered off by the guest")
}

// Crash lets a guest's hypervisor process die.
func (h *Host) Crash(reservation, node string) {
	h.end(reservation, node, hostops.DomainCrashed, "crashed")
}

// Pause stops a guest as an I/O error on its disk does.
func (h *Host) Pause(reservation, node string) {
	h.end(reservation, node, hostops.DomainPaused, "stopped on an I/O error")
}

func (h *Host) end(reservation, node string, state hostops.DomainState, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.domains[key(reservation, node)]; d != nil {
		d.off(state, why)
		h.changed()
	}
}

// AddForeignDomain puts a virtual machine of somebody else where that node
// would be.
func (h *Host) AddForeignDomain(reservation, node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.domains[key(reservation, node)] = &domain{foreign: true, seen: hostops.Domain{State: hostops.DomainRunning}}
}

// Spec returns what a domain was last started with.
func (h *Host) Spec(reservation, node string) (hostops.DomainSpec, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[key(reservation, node)]
	if d == nil || d.foreign {
		return hostops.DomainSpec{}, false
	}
	return d.spec, true
}

// Reboot is a power failure: guests, networks and exports are gone, volumes
// and images stay.
func (h *Host) Reboot() {
	h.mu.Lock()
	for _, d := range h.domains {
		d.off(hostops.DomainOff, "the host restarted")
	}
	clear(h.networks)
	clear(h.exports)
	h.loseSessions()
	h.changed()
	h.mu.Unlock()
	h.cfg.Fabric.settle()
}
