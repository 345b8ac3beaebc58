package openiscsi

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vcn/hostops"
)

func TestAttachWritesARecordThatOnlyRootReads(t *testing.T) {
	w := newWorld(t)
	i := w.disk("v-1")
	path := w.attach(w.driver, i)
	if want := w.path("dev/disk/by-path/ip-" + w.portal.String() + "-iscsi-" + i.IQN + "-lun-1"); path != want {
		t.Errorf("path %s, want %s", path, want)
	}
	rec := w.path("etc/nodes/" + i.IQN + "/" + strings.Replace(w.portal.String(), ":", ",", 1) + ",1/" + ifaceName(host))
	b, err := os.ReadFile(rec)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"node.name = " + i.IQN, "node.tpgt = 1", "node.startup = manual", "node.session.timeo.replacement_timeout = -1",
		"node.session.reopen_max = 0", "node.session.auth.password = " + secret, "iface.initiatorname = " + host,
	} {
		if !strings.Contains(string(b), line+"\n") {
			t.Errorf("the record lacks %q:\n%s", line, b)
		}
	}
	for p := rec; p != w.path("etc"); p = filepath.Dir(p) {
		if fi, err := os.Stat(p); err != nil || fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v, %v: want nothing for others", p, fi.Mode(), err)
		}
	}
	if w.called(secret) != 0 {
		t.Errorf("the secret is on a command line: %q", w.calls)
	}
}

func TestSameAccessIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	first := w.attach(w.driver, w.disk("v-1"))
	if again := w.attach(w.daemon(host), w.disk("v-1")); again != first { // by a daemon that has restarted
		t.Errorf("path %s, then %s", first, again)
	}
	if w.called("--login") != 1 || w.called("--logout") != 0 || w.called("--rescan") != 1 {
		t.Errorf("calls %q: want one login and a look at the size", w.calls)
	}
}

func TestLostSessionIsKept(t *testing.T) {
	w := newWorld(t)
	path := w.attach(w.driver, w.disk("v-1"))
	w.write("sys/class/iscsi_session/session1/state", "FAILED\n")
	if again := w.attach(w.driver, w.disk("v-1")); again != path {
		t.Errorf("path %s, then %s", path, again)
	}
	if w.called("--rescan") != 0 {
		t.Error("a lost session was rescanned: that hangs")
	}
	l, err := w.driver.List(t.Context())
	if err != nil || len(l) != 1 || l[0].Path != path || !strings.Contains(l[0].Detail, "I/O waits") {
		t.Errorf("list: %+v, %v", l, err)
	}
}

func TestShortenedWaitIsRepaired(t *testing.T) {
	w := newWorld(t)
	w.attach(w.driver, w.disk("v-1"))
	w.write("sys/class/iscsi_session/session1/recovery_tmo", "120\n")
	w.attach(w.driver, w.disk("v-1"))
	if b, err := os.ReadFile(w.path("sys/class/iscsi_session/session1/recovery_tmo")); err != nil || string(b) != "off" {
		t.Errorf("I/O waits %q s, %v: want for ever", b, err)
	}
}

func TestAnotherAccessReplaces(t *testing.T) {
	for name, change := range map[string]func(*world, *hostops.ISCSIDisk){
		"secret": func(_ *world, i *hostops.ISCSIDisk) { i.Secret = "fedcba9876543210" },
		"user":   func(_ *world, i *hostops.ISCSIDisk) { i.User = "h2" },
		"portal": func(w *world, i *hostops.ISCSIDisk) {
			w.session(i.IQN, netip.MustParseAddrPort("192.0.2.1:3260"), host, i.User, i.Secret)
		},
		"half-made session": func(w *world, i *hostops.ISCSIDisk) {
			n := w.session(i.IQN, i.Portal, "", "", "")
			w.write(fmt.Sprintf("sys/class/iscsi_session/session%d/ifacename", n), ifaceName(host)+"\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			i := w.disk("v-1")
			if name == "secret" || name == "user" {
				w.attach(w.driver, i)
			}
			change(w, &i)
			w.attach(w.driver, i)
			l, err := w.driver.List(t.Context())
			if err != nil || len(l) != 1 || l[0].Portal != i.Portal || w.called("--logout") != 1 {
				t.Errorf("list %+v, %v; calls %q", l, err, w.calls)
			}
			recs, err := w.driver.records.list(i.IQN)
			if err != nil || len(recs) != 1 || recs[0].secret != i.Secret || recs[0].user != i.User {
				t.Errorf("records %+v, %v", recs, err)
			}
		})
	}
}

func TestRefusalLeavesNothing(t *testing.T) {
	for status, want := range map[int]error{exitAuthFailed: hostops.ErrDenied, exitFatalLogin: hostops.ErrDenied, exitTransportTimeout: nil, exitLogin: nil, exitNoDaemon: nil} {
		w := newWorld(t)
		w.refuse["login"] = status
		_, err := w.driver.Attach(t.Context(), w.disk("v-1"))
		if err == nil || want != nil && !errors.Is(err, want) || want == nil && errors.Is(err, hostops.ErrDenied) {
			t.Errorf("status %d: %v, want %v", status, err, want)
		}
		w.nothing()
	}
}

func TestAbsentTargetIsNotLoggedInTo(t *testing.T) {
	w := newWorld(t)
	i := w.disk("v-1")
	i.Portal = netip.MustParseAddrPort("127.0.0.1:1") // nobody listens there
	if _, err := w.driver.Attach(t.Context(), i); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Fatalf("%v", err)
	}
	if w.called("--login") != 0 {
		t.Error("iscsid was asked to log in")
	}
	w.nothing()
}

func TestUnitOfAnotherVolumeIsRefused(t *testing.T) {
	w := newWorld(t)
	w.volume = "v-2"
	if _, err := w.driver.Attach(t.Context(), w.disk("v-1")); err == nil || !strings.Contains(err.Error(), `"v-2"`) {
		t.Fatalf("%v", err)
	}
	w.nothing()
}

func TestDeviceThatDoesNotComeIsWaitedForWithinABound(t *testing.T) {
	w := newWorld(t)
	w.noLink = true
	if _, err := w.driver.Attach(t.Context(), w.disk("v-1")); err == nil || !strings.Contains(err.Error(), "no link") {
		t.Fatalf("%v", err)
	}
	w.nothing()
}

func TestStaleLinkOfAnotherDeviceIsNotReturned(t *testing.T) {
	w := newWorld(t)
	w.noLink = true
	w.link(hostops.TargetIQN("v-1"), w.portal, "sdz")
	if p, err := w.driver.Attach(t.Context(), w.disk("v-1")); err == nil {
		t.Fatalf("returned %s, which leads to another disk", p)
	}
}

func TestForeignSessionsAreLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.session("iqn.2001-01.com.example:disk", netip.MustParseAddrPort("192.0.2.9:3260"), "iqn.2001-01.com.example:me", "", "")
	i := w.disk("v-1")
	w.session(i.IQN, w.portal, "iqn.2026-11.internal.vcn:host.other", "other", secret)
	if _, err := w.driver.Attach(t.Context(), i); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("attach: %v, want ErrForeign", err)
	}
	if err := w.driver.Detach(t.Context(), i.IQN); err != nil {
		t.Errorf("detach of what is not ours: %v", err)
	}
	if l, err := w.driver.List(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("list: %+v, %v", l, err)
	}
	if w.called("iscsiadm") != 0 {
		t.Errorf("calls %q", w.calls)
	}
}

func TestDetachRefusesWhatIsUsed(t *testing.T) {
	for name, use := range map[string]func(w *world){
		"holder":    func(w *world) { w.mkdir("sys/class/block/sdb/holders/dm-0") },
		"partition": func(w *world) { w.partition(); w.mkdir("sys/class/block/sdb/sdb1/holders/md0") },
		"mount":     func(w *world) { w.write("proc/self/mountinfo", "99 22 8:16 / /mnt rw - ext4 /dev/sdb rw\n") },
		"swap":      func(w *world) { w.partition(); w.write("proc/swaps", "Filename\n/dev/sdb1 partition 1 0 -2\n") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			i := w.disk("v-1")
			w.attach(w.driver, i)
			use(w)
			if err := w.driver.Detach(t.Context(), i.IQN); !errors.Is(err, hostops.ErrBusy) {
				t.Fatalf("detach: %v, want ErrBusy", err)
			}
			i.Secret = "fedcba9876543210"
			if _, err := w.driver.Attach(t.Context(), i); !errors.Is(err, hostops.ErrBusy) {
				t.Fatalf("attach with another secret: %v, want ErrBusy", err)
			}
			if w.called("--logout") != 0 {
				t.Error("logged out")
			}
		})
	}
}

func (w *world) partition() {
	w.write("sys/class/block/sdb/sdb1/partition", "1\n")
	w.write("sys/class/block/sdb/sdb1/dev", "8:17\n")
}

func TestDetachForgets(t *testing.T) {
	w := newWorld(t)
	i := w.disk("v-1")
	w.attach(w.driver, i)
	w.write("etc/nodes/"+i.IQN+"/192.0.2.7,3260,1/theirs", "node.name = "+i.IQN+"\n")
	for range 2 {
		if err := w.driver.Detach(t.Context(), i.IQN); err != nil {
			t.Fatal(err)
		}
	}
	if w.called("--flushbufs") != 1 || w.called("--logout") != 1 {
		t.Errorf("calls %q", w.calls)
	}
	if _, err := os.Stat(w.path("etc/nodes/" + i.IQN + "/192.0.2.7,3260,1/theirs")); err != nil {
		t.Errorf("a record of somebody else: %v", err)
	}
	if err := os.RemoveAll(w.path("etc/nodes/" + i.IQN)); err != nil {
		t.Fatal(err)
	}
	w.nothing()
}

func TestDetachOfALostSessionDoesNotFlush(t *testing.T) {
	w := newWorld(t)
	i := w.disk("v-1")
	w.attach(w.driver, i)
	w.write("sys/class/iscsi_session/session1/state", "FAILED\n")
	if err := w.driver.Detach(t.Context(), i.IQN); err != nil {
		t.Fatal(err)
	}
	if w.called("--flushbufs") != 0 {
		t.Error("flushed a disk whose target is away: that hangs")
	}
	w.nothing()
}

func TestDetachThatIscsidRefusesIsPreparedForItsRestart(t *testing.T) {
	w := newWorld(t)
	i := w.disk("v-1")
	w.attach(w.driver, i)
	w.refuse["logout"] = exitNotConnected
	if err := w.driver.Detach(t.Context(), i.IQN); !errors.Is(err, hostops.ErrBusy) || !strings.Contains(err.Error(), "systemctl restart iscsid") {
		t.Fatalf("detach: %v", err)
	}
	recs, err := w.driver.records.list(i.IQN)
	if err != nil || len(recs) != 1 || recs[0].secret != secret {
		t.Fatalf("records %+v, %v", recs, err)
	}
	if b, err := os.ReadFile(recs[0].path); err != nil || !strings.Contains(string(b), "node.session.reopen_max = 1\n") {
		t.Errorf("record:\n%s%v", b, err)
	}
	w.attach(w.driver, i) // wanted again
	if b, err := os.ReadFile(recs[0].path); err != nil || !strings.Contains(string(b), "node.session.reopen_max = 0\n") {
		t.Errorf("record:\n%s%v", b, err)
	}
}

func TestRecordsOutliveTheirSessions(t *testing.T) {
	w := newWorld(t)
	i := w.disk("v-1")
	w.attach(w.driver, i)
	w.end("1") // the host has restarted
	l, err := w.driver.List(t.Context())
	if err != nil || len(l) != 1 || l[0].IQN != i.IQN || l[0].Portal != i.Portal || l[0].Path != "" || l[0].Detail == "" {
		t.Fatalf("list: %+v, %v", l, err)
	}
	w.attach(w.driver, i)
	if err := w.driver.Detach(t.Context(), i.IQN); err != nil {
		t.Fatal(err)
	}
	w.nothing()
}

func TestHalfReadSessionsAreAnError(t *testing.T) {
	w := newWorld(t)
	w.attach(w.driver, w.disk("v-1"))
	w.attach(w.driver, w.disk("v-2"))
	if err := os.Remove(w.path("sys/class/iscsi_session/session1/state")); err != nil {
		t.Fatal(err)
	}
	if l, err := w.driver.List(t.Context()); err == nil {
		t.Errorf("a short list %+v without an error", l)
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	w := newWorld(t)
	for name, spoil := range map[string]func(*hostops.ISCSIDisk){
		"foreign target":     func(i *hostops.ISCSIDisk) { i.IQN = "iqn.2001-01.com.example:disk" },
		"path in the target": func(i *hostops.ISCSIDisk) { i.IQN += "/../x" },
		"no volume":          func(i *hostops.ISCSIDisk) { i.IQN = hostops.TargetIQN("") },
		"no portal":          func(i *hostops.ISCSIDisk) { i.Portal = netip.AddrPort{} },
		"any portal":         func(i *hostops.ISCSIDisk) { i.Portal = netip.MustParseAddrPort("0.0.0.0:3260") },
		"another initiator":  func(i *hostops.ISCSIDisk) { i.Initiator = host + "x" },
		"LUN":                func(i *hostops.ISCSIDisk) { i.LUN = 256 },
		"no user":            func(i *hostops.ISCSIDisk) { i.User = "" },
		"short secret":       func(i *hostops.ISCSIDisk) { i.Secret = "short" },
		"a line of its own":  func(i *hostops.ISCSIDisk) { i.Secret += "\nnode.startup = automatic" },
		"blank":              func(i *hostops.ISCSIDisk) { i.Secret += " x" },
	} {
		i := w.disk("v-1")
		spoil(&i)
		if _, err := w.driver.Attach(t.Context(), i); !errors.Is(err, hostops.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if err := w.driver.Detach(t.Context(), "iqn.2001-01.com.example:disk"); !errors.Is(err, hostops.ErrInvalid) {
		t.Errorf("detach of a foreign target: %v", err)
	}
	if err := w.driver.Rescan(t.Context(), hostops.TargetIQN("v-9")); !errors.Is(err, hostops.ErrNotFound) {
		t.Errorf("rescan of what is not attached: %v", err)
	}
	for _, bad := range []string{"", "iqn.x", "iqn.2026-11.internal.vcn:host.a b", "iqn.2026-11.x:" + strings.Repeat("a", 230)} {
		if _, err := newDriver(Config{Initiator: bad}, hostPaths); !errors.Is(err, hostops.ErrInvalid) {
			t.Errorf("initiator %q: %v", bad, err)
		}
	}
}

func TestStartClearsWhatACrashLeftHalfWritten(t *testing.T) {
	w := newWorld(t)
	w.write("etc/"+tempPrefix+"123", "node.session.auth.password = x")
	if err := w.driver.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(w.path("etc/" + tempPrefix + "123")); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	for _, p := range []string{"etc/ifaces/" + ifaceName(host), "rules/" + ruleName} {
		if _, err := os.Stat(w.path(p)); err != nil {
			t.Error(err)
		}
	}
	if w.called("udevadm control --reload") != 1 {
		t.Errorf("calls %q", w.calls)
	}
}

func TestLVMThatKeepsOff(t *testing.T) {
	all := "filter=[\"a|.*|\"]\nglobal_filter=[\"a|.*|\"]\n"
	for config, want := range map[string]bool{
		"":                          false,
		"use_devicesfile=0\n" + all: false,
		"use_devicesfile=1\ndevicesfile=\"system.devices\"\n" + all:                          true,
		"use_devicesfile=1\ndevicesfile=\"missing\"\n" + all:                                 false,
		"use_devicesfile=0\nfilter=[\"a|/dev/vda|\",\"r|.*|\"]\n":                            true,
		"use_devicesfile=0\n" + strings.Replace(LVMFilter, "global_filter = ", "filter=", 1): true,
	} {
		if got := lvmKeepsOff(config, func(name string) bool { return name == "system.devices" }); got != want {
			t.Errorf("%q: %v, want %v", config, got, want)
		}
	}
}
