package lio

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"vcn/hostops"
)

const (
	tpgName  = "tpgt_1"
	lunName  = "lun_1" // as in the embedded engine
	linkName = "unit"
	// markName is the CHAP user of initiators without an entry, which are never
	// let in: room for our mark. (TargetAlias would go over the wire, and beyond
	// 10 bytes it leaves text in the padding of a later login response, which
	// libiscsi takes for an error.)
	markName = "auth/userid"
)

func (e *Engine) targets() string             { return filepath.Join(e.root, "iscsi") }
func (e *Engine) target(iqn string) string    { return filepath.Join(e.targets(), iqn) }
func (e *Engine) tpg(iqn string) string       { return filepath.Join(e.target(iqn), tpgName) }
func (e *Engine) acl(iqn, name string) string { return filepath.Join(e.tpg(iqn), "acls", name) }

// put writes an attribute. The kernel takes a value as one write, and keeps a
// newline in some.
func put(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// putIfThere writes an attribute that not every kernel has.
func putIfThere(path, value string) error {
	if err := put(path, value); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// get reads an attribute without its newline.
func get(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimRight(string(b), "\n"), err
}

// mkdir makes a directory if it is not there.
func mkdir(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// remove removes what nothing waits for; what is not there is removed.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// list names the directories in a directory; none if it is absent.
func list(path string) ([]string, error) {
	l, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, d := range l {
		if d.IsDir() {
			names = append(names, d.Name())
		}
	}
	return names, err
}

// links are the symbolic links in a directory, with where they lead.
func links(path string) (map[string]string, error) {
	l, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	m := map[string]string{}
	for _, d := range l {
		if d.Type()&fs.ModeSymlink == 0 {
			continue
		}
		to, err := os.Readlink(filepath.Join(path, d.Name()))
		if err != nil {
			return nil, err
		}
		m[d.Name()] = to
	}
	return m, err
}

// inventory finds what carries our mark, but for directories in which a call
// of an earlier process still runs: whoever touches those waits with it.
func (e *Engine) inventory() error {
	running, err := leftovers(e.root)
	if err != nil {
		return err
	}
	held := map[string]bool{}
	for dir, pid := range running {
		e.wedged[dir] = pid
		held[dir], held[filepath.Dir(dir)] = true, true
	}
	hbas, err := os.ReadDir(filepath.Join(e.root, "core"))
	if err != nil {
		return fmt.Errorf("read the kernel's target: %w", err)
	}
	for _, h := range hbas {
		dir := filepath.Join(e.root, "core", h.Name())
		if !h.IsDir() || h.Name() == "alua" || held[dir] {
			continue
		}
		if err := e.scanStore(dir); err != nil {
			return err
		}
	}
	iqns, err := list(e.targets())
	if err != nil {
		return fmt.Errorf("read the kernel's target: %w", err)
	}
	for _, iqn := range iqns {
		if held[e.target(iqn)] {
			continue
		}
		if err := e.scanTarget(iqn); err != nil {
			return err
		}
	}
	return nil
}

// found returns the record of a volume, for what a scan has found of it.
func (e *Engine) found(id string) *volume {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.volumes[id] == nil {
		e.volumes[id] = newVolume(id)
	}
	return e.volumes[id]
}

func (e *Engine) scanStore(hba string) error {
	devs, err := list(hba)
	if err != nil {
		return fmt.Errorf("read backstores: %w", err)
	}
	for _, d := range devs {
		if id, ok := e.owned(d); ok {
			e.found(id).dev = filepath.Join(hba, d)
		}
	}
	return nil
}

func (e *Engine) scanTarget(iqn string) error {
	mark, err := get(filepath.Join(e.tpg(iqn), markName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no group of that number: not ours, or hardly begun
	} else if err != nil {
		return fmt.Errorf("read target %s: %w", iqn, err)
	}
	if id, ok := e.owned(mark); ok {
		e.found(id).iqn = iqn
	}
	return nil
}

// foreign lists the targets that are not ours.
func (e *Engine) foreign() ([]string, error) {
	iqns, err := list(e.targets())
	if err != nil {
		return nil, err
	}
	var l []string
	for _, iqn := range iqns {
		if iqn == "discovery_auth" || e.ours(iqn) {
			continue
		}
		l = append(l, iqn)
	}
	return l, nil
}

func (e *Engine) ours(iqn string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.wedged[e.target(iqn)] != 0 {
		return true // nobody else makes calls that we find
	}
	for _, v := range e.volumes {
		if v.iqn == iqn {
			return true
		}
	}
	return false
}

// checkPortals refuses to share a portal with a target that is not ours.
func (e *Engine) checkPortals() error {
	iqns, err := e.foreign()
	if err != nil {
		return fmt.Errorf("read targets: %w", err)
	}
	for _, iqn := range iqns {
		groups, err := list(e.target(iqn))
		if err != nil {
			return fmt.Errorf("read target %s: %w", iqn, err)
		}
		for _, g := range groups {
			nps, err := list(filepath.Join(e.target(iqn), g, "np"))
			if err != nil {
				return fmt.Errorf("read portals of %s: %w", iqn, err)
			}
			for _, np := range nps {
				if p, clash := e.clash(np); clash {
					return fmt.Errorf("portal %s: target %s uses %s: %w", p, iqn, np, hostops.ErrForeign)
				}
			}
		}
	}
	return nil
}

// clash tells which of our portals another's portal is in the way of.
func (e *Engine) clash(np string) (netip.AddrPort, bool) {
	other, err := netip.ParseAddrPort(np)
	if err != nil {
		return netip.AddrPort{}, false
	}
	for _, p := range e.portals {
		same := p.Addr().Unmap() == other.Addr().Unmap()
		if p.Port() == other.Port() && (same || p.Addr().IsUnspecified() || other.Addr().IsUnspecified()) {
			return p, true
		}
	}
	return netip.AddrPort{}, false
}
