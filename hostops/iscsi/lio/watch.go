package lio

import (
	"context"
	"crypto/rand"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vcn/hostops"
)

const (
	watchEvery = time.Second
	watchMax   = 2 * time.Second // for one volume; the kernel goes on by itself
	// sessionsWait is how long a look at sessions waits for an operation.
	sessionsWait = 200 * time.Millisecond
	// discoveryUser marks the discovery guard as ours.
	discoveryUser = "vcn-nobody"
)

// session is what the kernel tells of an entry's latest session.
type session struct {
	initiator string
	id        string
	addr      netip.Addr
	active    bool
}

// parseInfo reads the info attribute of an entry; false without a session.
func parseInfo(s string) (session, bool) {
	var x session
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "InitiatorName: "); ok {
			x.initiator = strings.TrimSpace(v)
		}
		if v, ok := strings.CutPrefix(line, "LIO Session ID: "); ok {
			x.id = strings.Join(strings.Fields(v), " ")
		}
		if v, ok := strings.CutPrefix(line, "Session State: "); ok {
			x.active = strings.TrimSpace(v) == "TARG_SESS_STATE_LOGGED_IN"
		}
		if v, ok := strings.CutPrefix(line, "Address "); ok {
			if f := strings.Fields(v); len(f) > 0 {
				a, _ := netip.ParseAddr(strings.Trim(f[0], "[]"))
				x.addr = a.Unmap()
			}
		}
	}
	return x, x.initiator != ""
}

// Sessions lists the sessions of a volume, one for each initiator (the kernel
// shows the latest). Addr has no port. Since is when this process first saw the
// session. While a call waits in the kernel it is the last list known.
func (e *Engine) Sessions(id string) []hostops.Session {
	e.mu.Lock()
	v := e.volumes[id]
	e.mu.Unlock()
	if v == nil {
		return nil
	}
	if !e.busy(v) {
		t := time.NewTimer(sessionsWait)
		defer t.Stop()
		select {
		case v.op <- struct{}{}:
			if !e.busy(v) {
				e.refresh(v)
			}
			e.release(v)
		case <-t.C: // an operation is under way
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(v.sessions)
}

// refresh reads the sessions of a volume, whose op the caller holds, and
// returns the initiators that come from where they must not.
func (e *Engine) refresh(v *volume) (foreign []string) {
	if v.iqn == "" {
		return nil
	}
	names, err := list(filepath.Join(e.tpg(v.iqn), "acls"))
	if err != nil {
		e.cfg.Log.Error("sessions cannot be read", "volume", v.id, "err", err)
		return nil
	}
	e.mu.Lock()
	known, addrs := v.seen, v.addrs
	e.mu.Unlock()
	now := map[string]seen{}
	var l []hostops.Session
	for _, name := range names {
		info, err := get(filepath.Join(e.acl(v.iqn, name), "info"))
		if err != nil {
			e.cfg.Log.Error("session cannot be read", "volume", v.id, "err", err)
			return nil
		}
		s, ok := parseInfo(info)
		if !ok {
			continue
		}
		at := seen{id: s.id, since: time.Now()}
		if was, ok := known[name]; ok && was.id == s.id {
			at = was
		}
		now[name] = at
		l = append(l, hostops.Session{Initiator: name, Addr: netip.AddrPortFrom(s.addr, 0), Since: at.since})
		if allowed, ok := addrs[name]; ok && s.addr.IsValid() && !slices.Contains(allowed, s.addr) {
			foreign = append(foreign, name)
			e.cfg.Log.Warn("session from an address that has no access", "volume", v.id, "initiator", name, "addr", s.addr)
		}
	}
	slices.SortFunc(l, func(a, b hostops.Session) int { return a.Since.Compare(b.Since) })
	e.mu.Lock()
	v.seen, v.sessions = now, l
	e.mu.Unlock()
	return foreign
}

// watch cuts sessions from addresses that have no access: the kernel's own
// entries know names and secrets only.
func (e *Engine) watch(ctx context.Context) {
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for _, id := range e.Volumes() {
			e.mu.Lock()
			v := e.volumes[id]
			e.mu.Unlock()
			if v == nil || e.busy(v) {
				continue
			}
			select {
			case v.op <- struct{}{}:
			default:
				continue
			}
			e.expel(ctx, v)
			e.release(v)
		}
	}
}

func (e *Engine) expel(ctx context.Context, v *volume) {
	ctx, cancel := context.WithTimeout(ctx, watchMax)
	defer cancel()
	if e.busy(v) {
		return
	}
	for _, name := range e.refresh(v) {
		if err := e.cut(ctx, v, name); err != nil {
			e.cfg.Log.Error("foreign session is not cut", "volume", v.id, "initiator", name, "err", err)
		}
	}
}

// guardDiscovery makes the kernel refuse discovery, unless somebody else uses
// its target: by itself it tells anybody who says a name what that name may
// use. Our hosts know their targets and never ask.
func (e *Engine) guardDiscovery() {
	dir := filepath.Join(e.targets(), "discovery_auth")
	on, err := get(filepath.Join(dir, "enforce_discovery_auth"))
	if err != nil || on == "1" {
		return
	}
	if l, err := e.foreign(); err != nil || len(l) > 0 {
		e.cfg.Log.Warn("discovery is open: targets that are not ours use the kernel's target", "targets", l, "err", err)
		return
	}
	if err := putAll(dir, []attribute{
		{name: "userid", value: discoveryUser}, {name: "password", value: rand.Text()}, {name: "enforce_discovery_auth", value: "1"},
	}); err != nil {
		e.cfg.Log.Warn("discovery stays open", "err", err)
	}
}

// freeDiscovery ends the guard if it is ours.
func (e *Engine) freeDiscovery() {
	dir := filepath.Join(e.targets(), "discovery_auth")
	if user, err := get(filepath.Join(dir, "userid")); err != nil || user != discoveryUser {
		return
	}
	if err := putAll(dir, []attribute{
		{name: "enforce_discovery_auth", value: "0"}, {name: "userid", value: "NULL"}, {name: "password", value: "NULL"},
	}); err != nil {
		e.cfg.Log.Warn("discovery stays shut", "err", err)
	}
}
