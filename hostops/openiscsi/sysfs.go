package openiscsi

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// session is one session of the kernel's initiator (transport class
// iscsi_session, drivers/scsi/scsi_transport_iscsi.c).
type session struct {
	sid       int
	target    string
	initiator string
	iface     string
	user      string
	secret    string // empty if the kernel does not say
	state     string // LOGGED_IN, FAILED, FREE
	portal    netip.AddrPort
	recovery  string // seconds of waiting while the target is away; off: for ever
	units     []unit
}

// unit is one logical unit of a session.
type unit struct {
	lun    int
	state  string // of the SCSI device: running, blocked, transport-offline, ...
	block  string // sda; empty while there is no block device
	serial string // VPD page 80h
	dir    string // of the SCSI device in sysfs
}

const (
	stateLoggedIn = "LOGGED_IN"
	recoveryOff   = "off" // of recovery_tmo: -1
)

// up says whether commands go through now.
func (s session) up() bool { return s.state == stateLoggedIn }

// unit returns the logical unit of that number.
func (s session) unit(lun int) (unit, bool) {
	i := slices.IndexFunc(s.units, func(u unit) bool { return u.lun == lun })
	if i < 0 {
		return unit{}, false
	}
	return s.units[i], true
}

// sessions reads every session whose target begins with prefix. A session that
// ends meanwhile is left out; anything else that cannot be read is an error.
func sessions(sys, prefix string) ([]session, error) {
	class := filepath.Join(sys, "class", "iscsi_session")
	entries, err := os.ReadDir(class)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the kernel's initiator is not loaded: nothing is logged in
	}
	if err != nil {
		return nil, fmt.Errorf("read iSCSI sessions: %w", err)
	}
	var out []session
	for _, e := range entries {
		sid, err := strconv.Atoi(strings.TrimPrefix(e.Name(), "session"))
		if err != nil {
			return nil, fmt.Errorf("read iSCSI sessions: %q is no session", e.Name())
		}
		dir := filepath.Join(class, e.Name())
		target, err := attr(dir, "targetname")
		if err == nil && !strings.HasPrefix(target, prefix) {
			continue
		}
		var s session
		if err == nil {
			s, err = readSession(sys, dir, sid)
		}
		if err != nil {
			if _, gone := os.Stat(dir); errors.Is(gone, fs.ErrNotExist) {
				continue
			}
			return nil, fmt.Errorf("read iSCSI session %d: %w", sid, err)
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b session) int { return a.sid - b.sid })
	return out, nil
}

func readSession(sys, dir string, sid int) (session, error) {
	s := session{sid: sid}
	for _, a := range []struct {
		name string
		into *string
	}{
		{"targetname", &s.target}, {"initiatorname", &s.initiator}, {"ifacename", &s.iface},
		{"username", &s.user}, {"password", &s.secret}, {"state", &s.state}, {"recovery_tmo", &s.recovery},
	} {
		v, err := attr(dir, a.name)
		if err != nil {
			return s, err
		}
		*a.into = v
	}
	var err error
	if s.portal, err = portalOf(sys, sid); err != nil {
		return s, err
	}
	s.units, err = unitsOf(filepath.Join(dir, "device"))
	return s, err
}

// portalOf is the portal the session was made for, also while it is lost. A
// session that has no connection yet has none.
func portalOf(sys string, sid int) (netip.AddrPort, error) {
	dir := filepath.Join(sys, "class", "iscsi_connection", fmt.Sprintf("connection%d:0", sid))
	addr, err := attr(dir, "persistent_address")
	if errors.Is(err, fs.ErrNotExist) || err == nil && addr == "" {
		return netip.AddrPort{}, nil
	}
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := attr(dir, "persistent_port")
	if err != nil {
		return netip.AddrPort{}, err
	}
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read portal: %w", err)
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read portal: %w", err)
	}
	return netip.AddrPortFrom(a, uint16(p)), nil
}

// unitsOf reads the units below a session's device: targetH:C:T/H:C:T:L.
func unitsOf(dir string) ([]unit, error) {
	found, err := filepath.Glob(filepath.Join(dir, "target*", "*:*:*:*"))
	if err != nil {
		return nil, fmt.Errorf("read units: %w", err)
	}
	var out []unit
	for _, d := range found {
		name := filepath.Base(d)
		lun, err := strconv.Atoi(name[strings.LastIndex(name, ":")+1:])
		if err != nil {
			return nil, fmt.Errorf("read units: %q is no SCSI address", name)
		}
		u := unit{lun: lun, dir: d}
		if u.state, err = attr(d, "state"); errors.Is(err, fs.ErrNotExist) {
			continue // it is just going away, or coming
		} else if err != nil {
			return nil, err
		}
		if blocks, err := filepath.Glob(filepath.Join(d, "block", "*")); err == nil && len(blocks) == 1 {
			u.block = filepath.Base(blocks[0])
		}
		u.serial = vpdSerial(d)
		out = append(out, u)
	}
	return out, nil
}

// vpdSerial is the unit serial number page (SPC-4 7.8.18) as the kernel has
// cached it; empty if there is none.
func vpdSerial(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "vpd_pg80"))
	if err != nil || len(b) < 4 {
		return ""
	}
	n := int(b[2])<<8 | int(b[3])
	return strings.Trim(string(b[4:min(len(b), 4+n)]), " \x00")
}

// attr reads one attribute; what the kernel prints for "not set" is empty.
func attr(dir, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return "", err
	}
	v := strings.TrimRight(string(b), "\n")
	if v == "(null)" || v == "<NULL>" {
		v = ""
	}
	return v, nil
}
