package openiscsi

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"vcn/hostops"
)

const (
	host   = "iqn.2026-11.internal.vcn:host.h1"
	secret = "0123456789abcdef"
)

// world is a host made of files, with an iscsid that does as it is told: its
// tool makes and removes sessions in the tree, as the kernel would.
type world struct {
	t      *testing.T
	root   string
	driver *Driver
	portal netip.AddrPort

	mu     sync.Mutex
	next   int
	calls  []string
	refuse map[string]int // exit status by action: login, logout, rescan
	volume string         // what the next unit says it is; empty: what was asked for
	noLink bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, root: t.TempDir(), refuse: map[string]int{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	w.portal = l.Addr().(*net.TCPAddr).AddrPort()
	w.write("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
	w.write("proc/swaps", "Filename\tType\n")
	w.mkdir("etc")
	w.driver = w.daemon(host)
	return w
}

func (w *world) daemon(initiator string) *Driver {
	w.t.Helper()
	d, err := newDriver(Config{Initiator: initiator, Timeout: time.Second, Records: w.path("etc")}, paths{
		sys: w.path("sys"), proc: w.path("proc"), dev: w.path("dev"), rules: w.path("rules"),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	d.run = w.tool
	return d
}

func (w *world) path(name string) string { return filepath.Join(w.root, name) }

func (w *world) mkdir(name string) {
	if err := os.MkdirAll(w.path(name), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) write(name, text string) {
	w.t.Helper()
	w.mkdir(filepath.Dir(name))
	if err := os.WriteFile(w.path(name), []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) disk(volume string) hostops.ISCSIDisk {
	return hostops.ISCSIDisk{Portal: w.portal, IQN: hostops.TargetIQN(volume), LUN: 1, Initiator: host, User: "h1", Secret: secret}
}

// tool stands for iscsiadm, blockdev and udevadm.
func (w *world) tool(_ context.Context, name string, args ...string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	line := strings.Join(args, " ")
	w.calls = append(w.calls, name+" "+line)
	if name != "iscsiadm" {
		return nil
	}
	action := strings.TrimPrefix(args[len(args)-1], "--")
	if st := w.refuse[action]; st != 0 {
		return &toolError{tool: name, status: st, output: "refused"}
	}
	switch action {
	case "login":
		records, err := w.driver.records.list(args[3])
		if err != nil || len(records) != 1 {
			return fmt.Errorf("%d records, %v", len(records), err)
		}
		w.session(records[0].target, records[0].portal, host, records[0].user, records[0].secret)
	case "logout":
		w.end(args[3])
	}
	return nil
}

// session makes a session with one unit and returns its number.
func (w *world) session(target string, portal netip.AddrPort, initiator, user, secret string) int {
	w.next++
	n := w.next
	dev := "sd" + string(rune('a'+n))
	dir := fmt.Sprintf("sys/class/iscsi_session/session%d/", n)
	for name, v := range map[string]string{
		"targetname": target, "initiatorname": initiator, "ifacename": ifaceName(initiator), "username": user,
		"password": secret, "state": "LOGGED_IN", "recovery_tmo": "off",
	} {
		w.write(dir+name, v+"\n")
	}
	conn := fmt.Sprintf("sys/class/iscsi_connection/connection%d:0/", n)
	w.write(conn+"persistent_address", portal.Addr().String()+"\n")
	w.write(conn+"persistent_port", strconv.Itoa(int(portal.Port()))+"\n")
	lun := fmt.Sprintf("%sdevice/target%d:0:0/%d:0:0:1/", dir, n, n)
	w.write(lun+"state", "running\n")
	serial := w.volume
	if serial == "" {
		serial = strings.TrimPrefix(target, hostops.TargetIQN(""))
	}
	page := binary.BigEndian.AppendUint16([]byte{0, 0x80}, uint16(len(serial)))
	w.write(lun+"vpd_pg80", string(append(page, serial...)))
	w.mkdir(lun + "block/" + dev)
	w.write("sys/class/block/"+dev+"/dev", "8:"+strconv.Itoa(16*n)+"\n")
	if !w.noLink {
		w.link(target, portal, dev)
	}
	return n
}

func (w *world) link(target string, portal netip.AddrPort, dev string) {
	w.mkdir("dev/disk/by-path")
	link := w.path(fmt.Sprintf("dev/disk/by-path/ip-%s-iscsi-%s-lun-1", portal, target))
	_ = os.Remove(link)
	if err := os.Symlink("../../"+dev, link); err != nil {
		w.t.Fatal(err)
	}
}

// end ends a session: its unit first, then itself.
func (w *world) end(sid string) {
	dir := w.path("sys/class/iscsi_session/session" + sid)
	_ = os.RemoveAll(w.path("sys/class/iscsi_connection/connection" + sid + ":0"))
	_ = os.RemoveAll(dir)
}

func (w *world) called(part string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.calls {
		if strings.Contains(c, part) {
			n++
		}
	}
	return n
}

func (w *world) attach(d *Driver, i hostops.ISCSIDisk) string {
	w.t.Helper()
	p, err := d.Attach(w.t.Context(), i)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// nothing fails the test unless no session and no record of ours is left.
func (w *world) nothing() {
	w.t.Helper()
	l, err := w.driver.List(w.t.Context())
	if err != nil || len(l) != 0 {
		w.t.Fatalf("list: %+v, %v: want nothing", l, err)
	}
	left, err := os.ReadDir(w.path("etc/nodes"))
	if err != nil && !os.IsNotExist(err) || len(left) != 0 {
		w.t.Fatalf("records left: %v, %v", left, err)
	}
}
