package lio

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vcn/hostops"
)

const (
	// commandsMax is the command window of a session; commandsOther is another
	// value, since it is a change of it that cuts sessions.
	commandsMax   = "64"
	commandsOther = "63"
	authBytesMax  = 255
)

// grant is what one initiator may do.
type grant struct {
	user, secret string
	addrs        []netip.Addr
	tag          string // what its entry in the kernel is marked with
}

// Check tells whether the kernel can serve x.
func Check(x hostops.Export) error {
	if _, err := grants(x); err != nil {
		return err
	}
	_, err := look(x.Path)
	return err
}

// grants are the access entries by initiator, as the kernel knows them: it has
// one secret for each name, and reads names in lower case.
func grants(x hostops.Export) (map[string]grant, error) {
	invalid := func(format string, a ...any) error {
		return fmt.Errorf("volume %s: %w for LIO: %s", x.Volume, hostops.ErrInvalid, fmt.Sprintf(format, a...))
	}
	if len(x.Path) > pathBytesMax || strings.ContainsAny(x.Path, ",\n") {
		return nil, invalid("path %q", x.Path)
	}
	if strings.Contains(x.IQN, "/") || strings.ToLower(x.IQN) != x.IQN {
		return nil, invalid("target name %q", x.IQN)
	}
	m := map[string]grant{}
	for _, a := range x.Access {
		name := strings.ToLower(a.Initiator)
		g, again := m[name]
		switch {
		case strings.Contains(name, "/"):
			return nil, invalid("initiator name %q", a.Initiator)
		case again && (g.user != a.User || g.secret != a.Secret):
			return nil, invalid("two secrets for %s", a.Initiator)
		}
		for _, s := range []string{a.User, a.Secret} {
			if s == "" || len(s) > authBytesMax || strings.HasPrefix(s, "NULL") {
				return nil, invalid("CHAP user or secret of %s", a.Initiator)
			}
		}
		g.user, g.secret = a.User, a.Secret
		g.addrs = append(g.addrs, a.Addr.Unmap())
		m[name] = g
	}
	for name, g := range m {
		slices.SortFunc(g.addrs, netip.Addr.Compare)
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%v", name, g.user, g.secret, g.addrs))
		g.tag = fmt.Sprintf("vcn %d %x", x.Generation, sum[:8])
		m[name] = g
	}
	return m, nil
}

// generationOf reads the generation of a tag; false for any other text.
func generationOf(tag string) (uint64, bool) {
	f := strings.Fields(tag)
	if len(f) != 3 || f[0] != "vcn" {
		return 0, false
	}
	n, err := strconv.ParseUint(f[1], 10, 64)
	return n, err == nil
}

// publish makes the kernel's state that of x, whatever it is now.
func (e *Engine) publish(ctx context.Context, v *volume, x hostops.Export, want map[string]grant, protect bool) error {
	m, err := look(x.Path)
	if err != nil {
		return err
	}
	other := v.dev != "" && !e.sameStore(v, x.Path, m)
	if v.iqn != "" && (other || v.iqn != x.IQN) {
		if err := e.removeTarget(ctx, v); err != nil {
			return err
		}
	}
	if other {
		if err := e.removeStore(ctx, v); err != nil {
			return err
		}
	}
	if v.dev == "" {
		if err := e.makeStore(ctx, v, x.Path, m); err != nil {
			return err
		}
	}
	if v.iqn == "" {
		if err := e.makeTarget(v, x.IQN); err != nil {
			return err
		}
	}
	if err := e.fence(ctx, v, x.Generation, want); err != nil {
		return err
	}
	if err := e.furnish(v, want, protect); err != nil {
		return err
	}
	if e.isListening() {
		if err := e.addPortals(ctx, v); err != nil {
			return err
		}
	}
	return e.enable(v)
}

func (e *Engine) isListening() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.listening
}

// makeTarget makes the target, marks it and maps its unit. It stays shut.
func (e *Engine) makeTarget(v *volume, iqn string) error {
	if err := e.checkName(v, iqn); err != nil {
		return err
	}
	for _, d := range []string{e.target(iqn), e.tpg(iqn)} {
		if err := mkdir(d); err != nil {
			return fmt.Errorf("make target: %w", err)
		}
	}
	if err := put(filepath.Join(e.tpg(iqn), markName), e.alias(v.id)); err != nil {
		return fmt.Errorf("mark target: %w", err)
	}
	v.iqn = iqn
	return nil
}

// checkName refuses the name of a target that is not ours. One without units
// and access entries is what a crash leaves of ours.
func (e *Engine) checkName(v *volume, iqn string) error {
	groups, err := list(e.target(iqn))
	if err != nil {
		return fmt.Errorf("read target: %w", err)
	}
	for _, g := range groups {
		for _, sub := range []string{"lun", "acls", "np"} {
			l, err := list(filepath.Join(e.target(iqn), g, sub))
			if err != nil {
				return fmt.Errorf("read target: %w", err)
			}
			if g == tpgName && len(l) == 0 || g == "fabric_statistics" {
				continue
			}
			return fmt.Errorf("target %s of the kernel: %w", iqn, hostops.ErrForeign)
		}
	}
	return nil
}

// groupAttributes shut a group against everybody without an entry of their own.
var groupAttributes = []attribute{
	{name: "attrib/authentication", value: "1"},
	{name: "attrib/generate_node_acls", value: "0"},
	{name: "attrib/cache_dynamic_acls", value: "0"},
	{name: "attrib/demo_mode_discovery", value: "0"},
	{name: "attrib/demo_mode_write_protect", value: "1"},
	{name: "attrib/prod_mode_write_protect", value: "0"},
	{name: "attrib/tpg_enabled_sendtargets", value: "1"},
	{name: "param/MaxConnections", value: "1"},
	{name: "param/ErrorRecoveryLevel", value: "0"},
	{name: "param/InitialR2T", value: "No"},
	{name: "param/ImmediateData", value: "Yes"},
	{name: "param/MaxRecvDataSegmentLength", value: "262144"},
	{name: "param/MaxXmitDataSegmentLength", value: "262144"},
	{name: "param/FirstBurstLength", value: "262144"},
	{name: "param/MaxBurstLength", value: "1048576"},
}

// fence removes the entries that want does not have as they are. Those of
// another generation shut the target first, so that all of it are cut and
// whoever comes meanwhile hears that the service is unavailable.
func (e *Engine) fence(ctx context.Context, v *volume, generation uint64, want map[string]grant) error {
	names, err := list(filepath.Join(e.tpg(v.iqn), "acls"))
	if err != nil {
		return fmt.Errorf("read access: %w", err)
	}
	var lost []string
	shut := false
	for _, name := range names {
		tag, same := e.unchanged(v, name, want)
		if g, ok := generationOf(tag); !ok || g != generation {
			shut = true
		}
		if !same {
			lost = append(lost, name)
		}
	}
	if shut {
		if err := e.disable(ctx, v); err != nil {
			return err
		}
	}
	for _, name := range lost {
		if err := e.removeACL(ctx, v, name); err != nil {
			return err
		}
	}
	return nil
}

// unchanged compares an entry with what it is to be; an error reading is a
// difference.
func (e *Engine) unchanged(v *volume, name string, want map[string]grant) (tag string, same bool) {
	dir := e.acl(v.iqn, name)
	tag, err := get(filepath.Join(dir, "tag"))
	if err != nil {
		return "", false
	}
	g, ok := want[name]
	if !ok || tag != g.tag {
		return tag, false
	}
	for attr, value := range map[string]string{"userid": g.user, "password": g.secret} {
		if is, err := get(filepath.Join(dir, "auth", attr)); err != nil || is != value {
			return tag, false
		}
	}
	l, err := links(filepath.Join(dir, lunName))
	return tag, err == nil && len(l) == 1
}

// furnish adds what is missing: attributes, unit and entries. An entry gets its
// secret when it is otherwise complete, so that nobody logs in to half of it.
func (e *Engine) furnish(v *volume, want map[string]grant, protect bool) error {
	tpg := e.tpg(v.iqn)
	for _, a := range groupAttributes {
		path := filepath.Join(tpg, a.name)
		if is, err := get(path); err == nil && is == a.value {
			continue
		}
		if err := put(path, a.value); err != nil {
			return fmt.Errorf("shut target to strangers: %w", err)
		}
	}
	lun := filepath.Join(tpg, "lun", lunName)
	if err := mkdir(lun); err != nil {
		return fmt.Errorf("make unit: %w", err)
	}
	if err := os.Symlink(v.dev, filepath.Join(lun, linkName)); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make unit: %w", err)
	}
	for name, g := range want {
		if err := e.addACL(v, name, g, protect); err != nil {
			return fmt.Errorf("give %s access: %w", name, err)
		}
	}
	return nil
}

func (e *Engine) addACL(v *volume, name string, g grant, protect bool) error {
	dir := e.acl(v.iqn, name)
	unit := filepath.Join(dir, lunName)
	if err := mkdir(dir); err != nil {
		return err
	}
	if err := mkdir(unit); err != nil {
		return err
	}
	if err := os.Symlink(filepath.Join(e.tpg(v.iqn), "lun", lunName), filepath.Join(unit, linkName)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	ro := "0"
	if protect {
		ro = "1"
	}
	if err := put(filepath.Join(unit, "write_protect"), ro); err != nil {
		return err
	}
	if tag, err := get(filepath.Join(dir, "tag")); err == nil && tag == g.tag {
		return nil
	}
	return putAll(dir, []attribute{{name: "auth/userid", value: g.user}, {name: "auth/password", value: g.secret}, {name: "tag", value: g.tag}})
}

// removeACL cuts an initiator's sessions and removes its entry. When it returns
// nil, none of its commands runs any more. Its secret goes first, so that it
// does not come back meanwhile, and its unit after its sessions, so that it sees
// a lost connection and not a lost disk.
func (e *Engine) removeACL(ctx context.Context, v *volume, name string) error {
	dir := e.acl(v.iqn, name)
	fail := func(err error) error { return fmt.Errorf("end access of %s: %w", name, err) }
	open, err := get(filepath.Join(e.tpg(v.iqn), "enable"))
	if err != nil {
		return fail(err)
	}
	if open == "1" {
		if err := put(filepath.Join(dir, "auth/password"), rand.Text()); err != nil {
			return fail(err)
		}
		if err := e.cut(ctx, v, name); err != nil {
			return fail(err)
		}
	}
	if err := removeUnit(filepath.Join(dir, lunName)); err != nil {
		return fail(err)
	}
	if err := e.rmACL(ctx, v, dir, open); err != nil {
		return fail(err)
	}
	return nil
}

// cut ends the sessions of an initiator: the kernel does so when their command
// window changes.
func (e *Engine) cut(ctx context.Context, v *volume, name string) error {
	path := filepath.Join(e.acl(v.iqn, name), "cmdsn_depth")
	is, err := get(path)
	if err != nil {
		return err
	}
	next := commandsMax
	if is == next {
		next = commandsOther
	}
	return e.set(ctx, v, path, next)
}

func (e *Engine) enable(v *volume) error {
	path := filepath.Join(e.tpg(v.iqn), "enable")
	if is, err := get(path); err != nil || is == "1" {
		return err
	}
	if err := put(path, "1"); err != nil {
		return fmt.Errorf("open target: %w", err)
	}
	return nil
}

// disable shuts a target and cuts its sessions.
func (e *Engine) disable(ctx context.Context, v *volume) error {
	path := filepath.Join(e.tpg(v.iqn), "enable")
	if is, err := get(path); err != nil || is == "0" {
		return err
	}
	if err := e.set(ctx, v, path, "0"); err != nil {
		return fmt.Errorf("shut target: %w", err)
	}
	return nil
}

// addPortals makes the target's portals ours, and only those.
func (e *Engine) addPortals(ctx context.Context, v *volume) error {
	dir := filepath.Join(e.tpg(v.iqn), "np")
	have, err := list(dir)
	if err != nil {
		return fmt.Errorf("read portals: %w", err)
	}
	var want []string
	for _, p := range e.portals {
		want = append(want, p.String())
	}
	for _, np := range have {
		if slices.Contains(want, np) {
			continue
		}
		if err := e.rmdir(ctx, v, filepath.Join(dir, np)); err != nil {
			return fmt.Errorf("remove portal: %w", err)
		}
	}
	for _, np := range want {
		if err := mkdir(filepath.Join(dir, np)); err != nil {
			return fmt.Errorf("listen on portal %s: %w", np, err)
		}
	}
	return nil
}

// removeTarget ends a volume's target, its sessions drained.
func (e *Engine) removeTarget(ctx context.Context, v *volume) error {
	if v.iqn == "" {
		return nil
	}
	if err := e.emptyTarget(ctx, v); err != nil {
		return fmt.Errorf("end target %s: %w", v.iqn, err)
	}
	v.iqn = ""
	e.mu.Lock()
	v.sessions, v.seen = nil, map[string]seen{}
	e.mu.Unlock()
	return nil
}

func (e *Engine) emptyTarget(ctx context.Context, v *volume) error {
	tpg := e.tpg(v.iqn)
	if is, err := exists(tpg); err != nil || !is {
		return errors.Join(err, remove(e.target(v.iqn)))
	}
	if err := e.disable(ctx, v); err != nil {
		return err
	}
	names, err := list(filepath.Join(tpg, "acls"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := e.removeACL(ctx, v, name); err != nil {
			return err
		}
	}
	nps, err := list(filepath.Join(tpg, "np"))
	if err != nil {
		return err
	}
	for _, np := range nps {
		if err := e.rmdir(ctx, v, filepath.Join(tpg, "np", np)); err != nil {
			return err
		}
	}
	// No session is left: nothing of this waits.
	if err := removeUnit(filepath.Join(tpg, "lun", lunName)); err != nil {
		return err
	}
	return errors.Join(remove(tpg), remove(e.target(v.iqn)))
}

// removeUnit removes a unit's directory and the link in it.
func removeUnit(dir string) error {
	l, err := links(dir)
	if err != nil {
		return err
	}
	for link := range l {
		if err := remove(filepath.Join(dir, link)); err != nil {
			return err
		}
	}
	return remove(dir)
}
