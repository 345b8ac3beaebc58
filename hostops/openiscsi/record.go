package openiscsi

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"vcn/hostops"
	"vcn/internal/durable"
)

const (
	// portalGroup is the tag of every portal of ours.
	portalGroup = 1
	// tempPrefix begins the names of records being written. They lie beside
	// open-iscsi's directories: it takes every file within for a record.
	tempPrefix = ".vcn-record-"

	loginSeconds   = 10 // for the answer to a login
	loginTries     = 1  // times loginSeconds: for how long the first login is tried
	logoutSeconds  = 15
	noopEvery      = 5  // seconds between NOP-Outs
	noopAnswer     = 15 // seconds until an unanswered one ends the connection
	queueDepth     = 64 // commands: what our target's window takes
	sessionDepth   = 128
	recoverForEver = -1
)

// records is open-iscsi's database, as far as it is ours.
type records struct {
	root  string // /etc/iscsi or /var/lib/iscsi
	iface string // name of our interface record
}

// record is what is kept of one attachment.
type record struct {
	target string
	portal netip.AddrPort
	user   string
	secret string
	path   string
}

func (r records) ifacePath() string { return filepath.Join(r.root, "ifaces", r.iface) }
func (r records) nodesDir() string  { return filepath.Join(r.root, "nodes") }

func (r records) nodePath(target string, p netip.AddrPort) string {
	return filepath.Join(r.nodesDir(), target, fmt.Sprintf("%s,%d,%d", p.Addr(), p.Port(), portalGroup), r.iface)
}

// ifaceText is the interface record: it carries the initiator's name.
func ifaceText(name, initiator string) string {
	return "# made by vcn\niface.iscsi_ifacename = " + name + "\niface.transport_name = tcp\niface.initiatorname = " + initiator + "\n"
}

// nodeText is the node record. reopenMax is 0: try for ever.
func nodeText(iface, initiator string, d hostops.ISCSIDisk, reopenMax int) string {
	var b strings.Builder
	b.WriteString("# BEGIN RECORD 2.0\n# made by vcn\n")
	line := func(name string, value any) { fmt.Fprintf(&b, "%s = %v\n", name, value) }
	line("node.name", d.IQN)
	line("node.tpgt", portalGroup)
	line("node.startup", "manual")
	line("node.leading_login", "No")
	line("iface.iscsi_ifacename", iface)
	line("iface.transport_name", "tcp")
	line("iface.initiatorname", initiator)
	line("node.discovery_type", "static")
	line("node.session.nr_sessions", 1)
	line("node.session.scan", "auto")
	line("node.session.initial_login_retry_max", loginTries)
	line("node.session.reopen_max", reopenMax)
	line("node.session.cmds_max", sessionDepth)
	line("node.session.queue_depth", queueDepth)
	line("node.session.auth.authmethod", "CHAP")
	line("node.session.auth.username", d.User)
	line("node.session.auth.password", d.Secret)
	line("node.session.auth.chap_algs", "MD5")
	line("node.session.timeo.replacement_timeout", recoverForEver)
	line("node.session.iscsi.InitialR2T", "No")
	line("node.session.iscsi.ImmediateData", "Yes")
	line("node.session.iscsi.FirstBurstLength", 256<<10)
	line("node.session.iscsi.MaxBurstLength", 1<<20)
	line("node.conn[0].address", d.Portal.Addr())
	line("node.conn[0].port", d.Portal.Port())
	line("node.conn[0].startup", "manual")
	line("node.conn[0].timeo.login_timeout", loginSeconds)
	line("node.conn[0].timeo.logout_timeout", logoutSeconds)
	line("node.conn[0].timeo.noop_out_interval", noopEvery)
	line("node.conn[0].timeo.noop_out_timeout", noopAnswer)
	line("node.conn[0].iscsi.MaxRecvDataSegmentLength", 256<<10)
	line("node.conn[0].iscsi.HeaderDigest", "None")
	line("node.conn[0].iscsi.DataDigest", "None")
	b.WriteString("# END RECORD\n")
	return b.String()
}

// put replaces a record by rename, from outside the directories that
// open-iscsi reads.
func (r records) put(path, text string) (err error) {
	old, err := os.ReadFile(path)
	if err == nil && string(old) == text {
		return os.Chmod(path, 0o600)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	f, err := os.CreateTemp(r.root, tempPrefix+"*") // mode 0600
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
			err = fmt.Errorf("write record: %w", err)
		}
	}()
	if _, err = f.WriteString(text); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// sweep removes what a crash left half-written.
func (r records) sweep() error {
	left, err := filepath.Glob(filepath.Join(r.root, tempPrefix+"*"))
	if err != nil {
		return err
	}
	for _, p := range left {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove half-written record: %w", err)
		}
	}
	return nil
}

// list reads our records whose target begins with prefix. A record without a
// target or portal is one all the same: it has to go.
func (r records) list(prefix string) ([]record, error) {
	targets, err := os.ReadDir(r.nodesDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read node records: %w", err)
	}
	var out []record
	for _, t := range targets {
		if !strings.HasPrefix(t.Name(), prefix) || !t.IsDir() {
			continue
		}
		portals, err := os.ReadDir(filepath.Join(r.nodesDir(), t.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read node records: %w", err)
		}
		for _, p := range portals {
			rec, err := readRecord(filepath.Join(r.nodesDir(), t.Name(), p.Name(), r.iface))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDir) {
				continue // of another initiator, or in open-iscsi's older layout
			}
			if err != nil {
				return nil, err
			}
			rec.target = t.Name()
			out = append(out, rec)
		}
	}
	return out, nil
}

var errNotDir = errors.New("not a directory")

func readRecord(path string) (record, error) {
	if fi, err := os.Stat(filepath.Dir(path)); err == nil && !fi.IsDir() {
		return record{}, errNotDir
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return record{}, fmt.Errorf("read node record: %w", err)
	}
	rec := record{path: path}
	var addr netip.Addr
	var port uint64
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), " = ")
		switch name {
		case "node.conn[0].address":
			addr, _ = netip.ParseAddr(value)
		case "node.conn[0].port":
			port, _ = strconv.ParseUint(value, 10, 16)
		case "node.session.auth.username":
			rec.user = value
		case "node.session.auth.password":
			rec.secret = value
		}
	}
	rec.portal = netip.AddrPortFrom(addr, uint16(port))
	return rec, nil
}

// remove forgets our records of a target, and the directories they leave empty.
func (r records) remove(target string) error {
	all, err := r.list(target)
	if err != nil {
		return err
	}
	for _, rec := range all {
		if rec.target != target {
			continue
		}
		if err := os.Remove(rec.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove node record: %w", err)
		}
		_ = syscall.Rmdir(filepath.Dir(rec.path)) // not empty: somebody else's records are there
	}
	dir := filepath.Join(r.nodesDir(), target)
	portals, err := filepath.Glob(filepath.Join(dir, "*,*"))
	if err != nil {
		return err
	}
	for _, p := range portals {
		_ = syscall.Rmdir(p) // directories without a record in them, from a crash
	}
	_ = syscall.Rmdir(dir)
	return nil
}
