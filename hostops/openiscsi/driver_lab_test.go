//go:build lab

package openiscsi

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/hostops/hosttest"
)

func TestLabInitiatorsConform(t *testing.T) {
	l := newLab(t)
	hosttest.TestInitiators(t, func(t *testing.T) hosttest.InitiatorsEnv {
		t.Cleanup(func() { l.detachAll(t) })
		return hosttest.InitiatorsEnv{
			Initiators: l.driver, Serve: l.publish,
			Away: func(_ *testing.T, away bool) {
				if away {
					l.kill()
				} else {
					l.start()
				}
			},
			Open: func(t *testing.T, path string) func() {
				f, err := openDirect(path)
				if err != nil {
					t.Fatal(err)
				}
				return func() { _ = f.Close() }
			},
			Foreign: func(t *testing.T, d hostops.ISCSIDisk) { l.other(t, d) },
		}
	})
}

// other logs another initiator of this machine in.
func (l *lab) other(t *testing.T, d hostops.ISCSIDisk) {
	t.Helper()
	o, err := New(Config{Initiator: otherHost, Log: labLog()})
	if err != nil {
		t.Fatal(err)
	}
	d.Initiator, d.User, d.Secret = otherHost, "other", otherHosts
	if _, err := o.Attach(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Detach(context.Background(), d.IQN); err != nil {
			t.Error(err)
		}
	})
}

func TestLabOtherClustersInitiatorIsRefused(t *testing.T) {
	l := newLab(t)
	d := l.publish(t, l.volume, "0123456789abcdef")
	stranger, err := New(Config{Initiator: "iqn.2026-11.internal.vcn:host.stranger", Log: labLog()})
	if err != nil {
		t.Fatal(err)
	}
	d.Initiator = "" // its own, and the right secret
	if _, err := stranger.Attach(t.Context(), d); !errors.Is(err, hostops.ErrDenied) {
		t.Fatalf("%v, want ErrDenied", err)
	}
	if a, err := stranger.List(t.Context()); err != nil || len(a) != 0 {
		t.Errorf("left behind: %+v, %v", a, err)
	}
	if s, err := sessions("/sys", d.IQN); err != nil || len(s) != 0 {
		t.Errorf("left in the kernel: %+v, %v", s, err)
	}
}

func TestLabSecretIsShownToNobody(t *testing.T) {
	l := newLab(t)
	const secret = "seen-by-nobody-at-all"
	d := l.publish(t, l.volume, secret)
	stop := make(chan struct{})
	found := make(chan string, 1)
	go func() {
		defer close(found)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, pid := range processes() {
				for _, name := range []string{"cmdline", "environ"} {
					b, err := os.ReadFile("/proc/" + pid + "/" + name)
					if err == nil && bytes.Contains(b, []byte(secret)) {
						found <- string(b)
						return
					}
				}
			}
			time.Sleep(time.Millisecond)
		}
	}()
	l.attach(d)
	for _, pattern := range []string{"/sys/class/iscsi_session/*/password", "/etc/iscsi/nodes/*/*/*"} {
		nobody := exec.Command("sh", "-c", "cat "+pattern)
		nobody.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := nobody.CombinedOutput(); strings.Contains(string(out), secret) || err == nil {
			t.Errorf("anybody reads %s: %q, %v", pattern, out, err)
		}
	}
	if err := l.driver.Detach(t.Context(), d.IQN); err != nil {
		t.Fatal(err)
	}
	close(stop)
	if s := <-found; s != "" {
		t.Errorf("the secret is in the process list:\n%s", s)
	}
	if out, err := exec.Command("grep", "-rl", secret, "/etc/iscsi").Output(); err == nil {
		t.Errorf("the secret is still kept: %s", out)
	}
}

func processes() (pids []string) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, e.Name())
		}
	}
	return pids
}

func TestLabWriterRidesOutTheTargetsDeath(t *testing.T) {
	l := newLab(t)
	d := l.publish(t, l.volume, "0123456789abcdef")
	path := l.attach(d)
	w := l.writer(path)
	for round := range 2 {
		before := w.said(t, "wrote")
		eventually(t, "the writer writes", func() bool { return w.said(t, "wrote") > before+100 })
		l.kill()
		time.Sleep(time.Duration(round+1) * time.Second)
		l.start()
	}
	before := w.said(t, "wrote")
	eventually(t, "the writer goes on", func() bool { return w.said(t, "wrote") > before+100 })
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d blocks written, the longest in %d ms", w.said(t, "wrote")+1, w.said(t, "longest"))
	if w.said(t, "longest") < 1000 {
		t.Error("no pause: the target was not away")
	}
	if n := w.said(t, "wrote"); n >= labSize/blockBytes {
		t.Fatalf("%d blocks: the volume is too small for this check", n)
	}
	f, err := os.Open(l.file(l.volume))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, want := make([]byte, blockBytes), make([]byte, blockBytes)
	for n := range w.said(t, "wrote") + 1 {
		if _, err := f.ReadAt(got, int64(n)*blockBytes); err != nil {
			t.Fatal(err)
		}
		if pattern(want, n, 1); !bytes.Equal(got, want) {
			t.Fatalf("block %d has %.40q, want %.40q", n, got, want)
		}
	}
}

// An agent runs several steps at once.
func TestLabManyAtOnce(t *testing.T) {
	l := newLab(t)
	var disks []hostops.ISCSIDisk
	for _, letter := range "abcde" {
		disks = append(disks, l.publish(t, l.volume+string(letter), "0123456789abcdef"))
	}
	began := time.Now()
	at := make([]string, len(disks))
	each(t, disks, func(i int, d hostops.ISCSIDisk) (err error) {
		at[i], err = l.driver.Attach(t.Context(), d)
		return err
	})
	t.Logf("%d attached in %v", len(disks), time.Since(began).Round(time.Millisecond))
	slices.Sort(at)
	if all, err := l.driver.List(t.Context()); err != nil || len(all) != len(disks) || len(slices.Compact(at)) != len(disks) {
		t.Errorf("list: %+v, %v; paths %q", all, err, at)
	}
	each(t, disks, func(_ int, d hostops.ISCSIDisk) error { return l.driver.Detach(t.Context(), d.IQN) })
	if all, err := l.driver.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("left: %+v, %v", all, err)
	}
}

// each does all at once and fails the test on the first error.
func each(t *testing.T, disks []hostops.ISCSIDisk, do func(int, hostops.ISCSIDisk) error) {
	t.Helper()
	errs := make(chan error, len(disks))
	for i, d := range disks {
		go func() { errs <- do(i, d) }()
	}
	for range disks {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// A portal that takes connections and says nothing.
func TestLabSilentTargetIsGivenUp(t *testing.T) {
	l := newLab(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	d := l.publish(t, l.volume, "0123456789abcdef")
	d.Portal = silent.Addr().(*net.TCPAddr).AddrPort()
	began := time.Now()
	_, err = l.driver.Attach(t.Context(), d)
	t.Logf("given up after %v: %v", time.Since(began).Round(time.Millisecond), err)
	if err == nil || errors.Is(err, hostops.ErrDenied) || time.Since(began) > 45*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	if s, err := sessions("/sys", d.IQN); err != nil || len(s) != 0 {
		t.Errorf("left in the kernel: %+v, %v", s, err)
	}
	if a, err := l.driver.List(t.Context()); err != nil || len(a) != 0 {
		t.Errorf("left: %+v, %v", a, err)
	}
}

func TestLabGrowthIsSeen(t *testing.T) {
	l := newLab(t)
	d := l.publish(t, l.volume, "0123456789abcdef")
	path := l.attach(d)
	if n, err := deviceBytes(path); err != nil || n != labSize {
		t.Fatalf("%d bytes, %v", n, err)
	}
	for i, look := range []func() error{
		func() error { return l.driver.Rescan(t.Context(), d.IQN) },
		func() error { _, err := l.driver.Attach(t.Context(), d); return err },
	} {
		size := int64(labSize * (i + 2))
		if err := os.Truncate(l.file(l.volume), size); err != nil {
			t.Fatal(err)
		}
		if err := l.client.Resize(t.Context(), l.volume); err != nil {
			t.Fatal(err)
		}
		if err := look(); err != nil {
			t.Fatal(err)
		}
		if n, err := deviceBytes(path); err != nil || n != size {
			t.Errorf("%d bytes, %v; want %d", n, err, size)
		}
	}
}

func TestLabDiscardReachesTheFile(t *testing.T) {
	l := newLab(t)
	d := l.publish(t, l.volume, "0123456789abcdef")
	path := l.attach(d)
	f, err := openDirect(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const half = 4 << 20
	b := aligned(2 * half)
	for i := range b {
		b[i] = 0xa5
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := allocated(t, l.file(l.volume)); got < 2*half {
		t.Fatalf("%d bytes allocated after %d were written", got, 2*half)
	}
	if err := discard(f, 0, half); err != nil {
		t.Fatal(err)
	}
	if got := allocated(t, l.file(l.volume)); got < half || got > half+1<<20 {
		t.Errorf("%d bytes allocated after half of %d was discarded", got, 2*half)
	}
	if _, err := f.ReadAt(b, 0); err != nil || b[0] != 0 || b[half-1] != 0 || b[half] != 0xa5 {
		t.Errorf("read back %x %x %x, %v", b[0], b[half-1], b[half], err)
	}
	// The same by QEMU, with the options that libvirt gives it.
	before := allocated(t, l.file(l.volume))
	said := tool(t, "qemu-io", "--image-opts", "driver=raw,discard=unmap,cache.direct=on,file.driver=host_device,file.filename="+path,
		"-c", "write -P 0x3c 16M 4M", "-c", "flush", "-c", "discard 16M 4M", "-c", "read -P 0 16M 4M", "-c", "read -P 0xa5 4M 4M")
	if strings.Contains(said, "ailed") {
		t.Errorf("qemu-io:\n%s", said)
	}
	if got := allocated(t, l.file(l.volume)); got > before+1<<20 {
		t.Errorf("%d bytes allocated, before QEMU wrote and discarded %d", got, before)
	}
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// A volume is given to a new generation while the old one writes: nothing of
// the old lands any more, its I/O waits, and it can be got rid of.
func TestLabFencedWriterNeverLands(t *testing.T) {
	l := newLab(t)
	d := l.publish(t, l.volume, "0123456789abcdef")
	path := l.attach(d)
	w := l.writer(path)
	eventually(t, "the writer writes", func() bool { return w.said(t, "wrote") > 100 })
	next := l.publish(t, l.volume, "fedcba9876543210")
	f, err := os.OpenFile(l.file(l.volume), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	last := w.said(t, "wrote")
	// The new generation's: the old one's next block, and what it has written.
	mine := bytes.Repeat([]byte("new generation. "), blockBytes/16)
	for n := range last + 64 {
		if _, err := f.WriteAt(mine, int64(n)*blockBytes); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the loss is seen", func() bool {
		a, err := l.driver.List(t.Context())
		return err == nil && len(a) == 1 && a[0].Detail != ""
	})
	time.Sleep(8 * time.Second) // iscsid tries to come back meanwhile, with the old secret
	if n := w.said(t, "wrote"); n > last+1 {
		t.Errorf("the old generation wrote block %d after %d", n, last)
	}
	got := make([]byte, blockBytes)
	for n := range last + 64 {
		if _, err := f.ReadAt(got, int64(n)*blockBytes); err != nil || !bytes.Equal(got, mine) {
			t.Fatalf("block %d has %.40q, %v", n, got, err)
		}
	}
	if _, err := l.driver.Attach(t.Context(), next); !errors.Is(err, hostops.ErrBusy) {
		t.Fatalf("attach over a disk in use: %v, want ErrBusy", err)
	}
	// Killed, it waits in the kernel; that is no user any more.
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	l.attach(next)
	ended := make(chan error, 1)
	go func() { ended <- w.cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the killed writer does not end")
	}
	if _, err := f.ReadAt(got, int64(last+1)*blockBytes); err != nil || !bytes.Equal(got, mine) {
		t.Errorf("block %d has %.40q, %v after all", last+1, got, err)
	}
}

func TestLabStaleSessionsOfADeadDaemonAreFound(t *testing.T) {
	l := newLab(t)
	d := l.publish(t, l.volume, "0123456789abcdef")
	path := l.attach(d)
	again, err := New(Config{Initiator: host, Log: labLog()})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := again.List(t.Context()); err != nil || len(a) != 1 || a[0].IQN != d.IQN || a[0].Path != path || a[0].Portal != d.Portal {
		t.Fatalf("list: %+v, %v", a, err)
	}
	// A record whose target is gone, as after a crash between record and login.
	lost := d
	lost.IQN = hostops.TargetIQN("w-lost")
	if err := again.writeRecord(lost, 0); err != nil {
		t.Fatal(err)
	}
	a, err := again.List(t.Context())
	if err != nil || len(a) != 2 || a[1].IQN != lost.IQN || a[1].Path != "" {
		t.Fatalf("list: %+v, %v", a, err)
	}
	for _, x := range a {
		if err := again.Detach(t.Context(), x.IQN); err != nil {
			t.Fatal(err)
		}
	}
	if out := tool(t, "sh", "-c", "ls -A /etc/iscsi/nodes; ls -A /etc/iscsi | grep vcn-record || true"); out != "" {
		t.Errorf("left in the records: %s", out)
	}
}

func TestLabSessionsOutliveIscsid(t *testing.T) {
	l := newLab(t)
	d := l.publish(t, l.volume, "0123456789abcdef")
	path := l.attach(d)
	w := l.writer(path)
	eventually(t, "the writer writes", func() bool { return w.said(t, "wrote") > 50 })
	tool(t, "systemctl", "restart", "iscsid.service")
	l.kill()
	time.Sleep(time.Second)
	l.start()
	before := w.said(t, "wrote")
	eventually(t, "the writer goes on, by a new iscsid", func() bool { return w.said(t, "wrote") > before+50 })
	s, err := sessions("/sys", d.IQN)
	if err != nil || len(s) != 1 || s[0].recovery != recoveryOff || s[0].secret != d.Secret {
		t.Errorf("session %+v, %v", s, err)
	}
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	// Restarted while the target is away it ends no session: this is told, and
	// what is asked for in the record happens at its next restart.
	l.kill()
	eventually(t, "the loss is seen", func() bool {
		a, err := l.driver.List(t.Context())
		return err == nil && len(a) == 1 && a[0].Detail != ""
	})
	tool(t, "systemctl", "restart", "iscsid.service")
	if err := l.driver.Detach(t.Context(), d.IQN); !errors.Is(err, hostops.ErrBusy) || !strings.Contains(err.Error(), "systemctl restart iscsid") {
		t.Fatalf("detach: %v", err)
	}
	tool(t, "systemctl", "restart", "iscsid.service")
	eventually(t, "the session is gone", func() bool {
		s, err := sessions("/sys", d.IQN)
		return err == nil && len(s) == 0
	})
	if err := l.driver.Detach(t.Context(), d.IQN); err != nil {
		t.Fatal(err)
	}
}

// What a guest has put on its disk is not this host's business.
func TestLabHostKeepsItsHandsOff(t *testing.T) {
	l := newLab(t)
	d := l.publish(t, l.volume, "0123456789abcdef")
	loop := strings.TrimSpace(tool(t, "losetup", "--find", "--show", l.file(l.volume)))
	tool(t, "sh", "-c", "vgcreate --config 'devices{use_devicesfile=0}' guestvg "+loop+" && lvcreate -y -n trap -L 8M guestvg && vgchange -an guestvg")
	// The loop device is a disk of the host's own, which activates what is on it:
	// that is over before the same group appears on the guest's.
	tool(t, "sh", "-c", "udevadm settle; while [ \"$(systemctl show -P SubState lvm-activate-guestvg)\" = running ]; do sleep 0.1; done; vgchange -an guestvg")
	tool(t, "losetup", "-d", loop)
	path := l.attach(d)
	tool(t, "udevadm", "settle")
	props := tool(t, "udevadm", "info", "--query=property", "--name="+path)
	for _, want := range []string{"SYSTEMD_READY=0", "DM_MULTIPATH_DEVICE_PATH=0"} {
		if !strings.Contains(props, want) {
			t.Errorf("udev does not say %s:\n%s", want, props)
		}
	}
	if strings.Contains(props, "ID_FS_TYPE") {
		t.Errorf("udev looked for a file system:\n%s", props)
	}
	if _, err := os.Stat("/dev/guestvg/trap"); err == nil {
		t.Error("the host has activated the guest's volume group")
	}
	if err := l.driver.Detach(t.Context(), d.IQN); err != nil {
		t.Fatal(err)
	}
}
