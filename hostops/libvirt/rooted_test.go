//go:build rooted

package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"vcn/hostops"
	"vcn/hostops/hosttest"
	"vcn/hostops/hosttest/libvirtd"
)

// host is one private libvirtd with a bridge in a network namespace.
type host struct {
	dir, netns string
	daemon     *libvirtd.Instance
	serial     atomic.Int64
}

const bridge = "vcnb20"

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func newTestHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vcnlv")
	if err != nil {
		t.Fatal(err)
	}
	// Guests run as libvirt's user, who passes through to their disks.
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	ns := filepath.Base(dir)
	h := &host{dir: dir, netns: "/run/netns/" + ns}
	run(t, "ip", "netns", "add", ns)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if h.daemon != nil {
			h.daemon.Stop(ctx)
		}
		if _, err := libvirtd.KillGuests(ctx, dir); err != nil {
			t.Error(err)
		}
		run(t, "ip", "netns", "del", ns)
		os.RemoveAll(dir)
	})
	run(t, "ip", "-n", ns, "link", "set", "lo", "up")
	run(t, "ip", "-n", ns, "link", "add", bridge, "type", "bridge")
	run(t, "ip", "-n", ns, "link", "set", bridge, "up")
	h.start(t)
	return h
}

func (h *host) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	i, err := libvirtd.Start(ctx, libvirtd.Config{Netns: h.netns, Dir: h.dir})
	if err != nil {
		t.Fatal(err)
	}
	h.daemon = i
}

func (h *host) virsh(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, append([]string{"virsh", "-q", "-c", "qemu+unix:///system?socket=" + libvirtd.Socket(h.dir)}, args...)...)
}

func (h *host) driver(t *testing.T) *Driver {
	t.Helper()
	d, err := New(Config{Socket: libvirtd.Socket(h.dir), Cluster: "c-1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// specs makes specifications of a reservation of their own: machines without a
// disk, which stay in their firmware.
func (h *host) specs(t *testing.T, d *Driver) func(node string, generation uint64) hostops.DomainSpec {
	reservation := fmt.Sprintf("r-%d", h.serial.Add(1))
	t.Cleanup(func() {
		all, err := d.List(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, x := range all {
			if err := d.Remove(context.Background(), x.Reservation, x.Node); err != nil {
				t.Error(err)
			}
		}
	})
	return func(node string, generation uint64) hostops.DomainSpec {
		return hostops.DomainSpec{
			Reservation: reservation, Node: node, Generation: generation, CPUs: 1, MemoryBytes: 32 << 20,
			ConsolePath: filepath.Join(h.dir, "console", node+".log"),
			NICs:        []hostops.NIC{{MAC: "52:54:00:00:00:01", Bridge: bridge}},
		}
	}
}

func TestLibvirt(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) }) // after every other cleanup
	h := newTestHost(t)
	t.Run("conformance", func(t *testing.T) {
		hosttest.TestDomains(t, func(t *testing.T) hosttest.DomainsEnv {
			d := h.driver(t)
			return hosttest.DomainsEnv{
				Domains: d,
				Spec:    h.specs(t, d),
				Foreign: func(t *testing.T, s hostops.DomainSpec) { h.foreign(t, s) },
				Daemon: func(t *testing.T) {
					if err := h.daemon.Stop(t.Context()); err != nil {
						t.Fatal(err)
					}
					h.start(t)
				},
			}
		})
	})
	t.Run("another cluster's domain is foreign", func(t *testing.T) { otherCluster(t, h) })
	t.Run("tap held by another process", func(t *testing.T) { tapHeld(t, h) })
	t.Run("secret is set before the start and forgotten", func(t *testing.T) { secretLife(t, h) })
	t.Run("a silent libvirtd ends with the context", func(t *testing.T) { silent(t, h) })
	t.Run("a dead libvirtd is an error, the next call reconnects", func(t *testing.T) { dead(t, h) })
	t.Run("a killed guest has crashed", func(t *testing.T) { killed(t, h) })
	t.Run("every device starts", func(t *testing.T) { devices(t, h) })
	t.Run("times", func(t *testing.T) { times(t, h) })
}

// otherCluster: two clusters of hosts that use one libvirtd see and touch only
// their own machines.
func otherCluster(t *testing.T, h *host) {
	theirs, err := New(Config{Socket: libvirtd.Socket(h.dir), Cluster: "c-2"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	ours := h.driver(t)
	s := h.specs(t, theirs)("frontend", 1)
	ctx := t.Context()
	if err := theirs.Ensure(ctx, s); err != nil {
		t.Fatal(err)
	}
	if all, err := ours.List(ctx); err != nil || len(all) != 0 {
		t.Errorf("the other cluster's domains are listed: %+v, %v", all, err)
	}
	for verb, err := range map[string]error{
		"Ensure": ours.Ensure(ctx, s), "Stop": ours.Stop(ctx, s.Reservation, s.Node, 0), "Remove": ours.Remove(ctx, s.Reservation, s.Node),
	} {
		if !errors.Is(err, hostops.ErrForeign) {
			t.Errorf("%s: %v, want ErrForeign", verb, err)
		}
	}
	if all, err := theirs.List(ctx); err != nil || len(all) != 1 || all[0].State != hostops.DomainRunning {
		t.Errorf("their domains: %+v, %v", all, err)
	}
}

func (h *host) foreign(t *testing.T, s hostops.DomainSpec) {
	name := domainName(s.Reservation, s.Node)
	path := filepath.Join(t.TempDir(), "foreign.xml")
	text := fmt.Sprintf(`<domain type='qemu'><name>%s</name><memory unit='MiB'>16</memory><os><type arch='x86_64' machine='pc'>hvm</type></os></domain>`, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h.virsh(t, "define", path)
	h.virsh(t, "start", name)
	t.Cleanup(func() {
		if got := strings.TrimSpace(h.virsh(t, "domstate", name)); got != "running" {
			t.Errorf("the foreign machine is %s", got)
		}
		h.virsh(t, "destroy", name)
		h.virsh(t, "undefine", name)
	})
}

// holdTap opens a tap in the namespace, as a forgotten hypervisor process has it.
func (h *host) holdTap(t *testing.T, name string) {
	t.Helper()
	type answer struct {
		fd  int
		err error
	}
	c := make(chan answer)
	go func() {
		runtime.LockOSThread() // ends with its thread, which has changed its namespace
		fd, err := func() (int, error) {
			ns, err := os.Open(h.netns)
			if err != nil {
				return -1, err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return -1, err
			}
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return -1, err
			}
			req := struct {
				name  [unix.IFNAMSIZ]byte
				flags uint16
				_     [22]byte
			}{flags: unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR}
			copy(req.name[:], name)
			if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&req))); e != 0 {
				return -1, e
			}
			return fd, nil
		}()
		c <- answer{fd, err}
	}()
	a := <-c
	if a.err != nil {
		t.Fatal(a.err)
	}
	t.Cleanup(func() { unix.Close(a.fd) })
}

// devices starts a machine with all that a node has, on a disk of this host.
func devices(t *testing.T, h *host) {
	d := h.driver(t)
	s := h.specs(t, d)("frontend", 1)
	for path, size := range map[*string]int64{&s.Disk.Path: 1 << 20, &s.SeedPath: 1 << 20} {
		*path = filepath.Join(h.dir, fmt.Sprintf("disk-%d", h.serial.Add(1)))
		if err := os.WriteFile(*path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.CPUs = 2
	s.NICs = append(s.NICs, hostops.NIC{MAC: "52:54:00:00:00:02", Bridge: bridge, MTU: 1450})
	if err := d.Ensure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.ConsolePath); err != nil {
		t.Errorf("console: %v", err)
	}
	links := run(t, "ip", "-n", filepath.Base(h.netns), "link", "show", "master", bridge)
	for i, mtu := range []string{"mtu 1500", "mtu 1450"} {
		tap := hostops.TapName(s.Reservation, s.Node, s.Generation, i, 0)
		_, rest, ok := strings.Cut(links, tap)
		if !ok || !strings.Contains(strings.SplitN(rest, "\n", 2)[0], mtu) {
			t.Errorf("want tap %s with %s on the bridge:\n%s", tap, mtu, links)
		}
	}
	pid := strings.TrimSpace(run(t, "cat", filepath.Join(h.dir, "run", "qemu", domainName(s.Reservation, s.Node)+".pid")))
	if who := strings.TrimSpace(run(t, "stat", "-c", "%U", "/proc/"+pid)); who != "libvirt-qemu" {
		t.Errorf("the guest runs as %s: then no test sees what a Debian host's guest cannot open", who)
	}
	// The disk of a running machine is locked: no second process can write it.
	other := h.specs(t, d)("frontend", 1)
	other.Disk = s.Disk
	if err := d.Ensure(t.Context(), other); err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("two machines write one disk: %v", err)
	}
}

func tapHeld(t *testing.T, h *host) {
	d := h.driver(t)
	s := h.specs(t, d)("compute-0", 1)
	first := hostops.TapName(s.Reservation, s.Node, s.Generation, 0, 0)
	h.holdTap(t, first)
	if err := d.Ensure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	links := run(t, "ip", "-n", filepath.Base(h.netns), "-br", "link", "show", "master", bridge)
	if second := hostops.TapName(s.Reservation, s.Node, s.Generation, 0, 1); !strings.Contains(links, second) || strings.Contains(links, first) {
		t.Errorf("want %s on the bridge:\n%s", second, links)
	}
	remote := h.specs(t, d)("compute-1", 1)
	remote.Disk.ISCSI = &hostops.ISCSIDisk{
		Portal: netip.MustParseAddrPort("127.0.0.1:9"), IQN: hostops.TargetIQN("v"), LUN: 1,
		Initiator: hostops.InitiatorIQN("host-1"), User: "u", Secret: "correct-horse-battery",
	}
	h.holdTap(t, hostops.TapName(remote.Reservation, remote.Node, remote.Generation, 0, 0))
	if err := d.Ensure(t.Context(), remote); !errors.Is(err, hostops.ErrBusy) {
		t.Errorf("a node whose tap is held starts on an export that the holder may use: %v", err)
	}
}

func secretLife(t *testing.T, h *host) {
	d := h.driver(t)
	s := h.specs(t, d)("compute-0", 1)
	s.Disk.ISCSI = &hostops.ISCSIDisk{
		Portal: netip.MustParseAddrPort("127.0.0.1:9"), IQN: hostops.TargetIQN("v"), LUN: 1,
		Initiator: hostops.InitiatorIQN("host-1"), User: "u", Secret: "correct-horse-battery",
	}
	for range 2 { // again after libvirtd has lost it
		// Nobody listens there: everything up to QEMU's own login is tried.
		if err := d.Ensure(t.Context(), s); err == nil || !strings.Contains(err.Error(), "iSCSI") {
			t.Errorf("a guest started without its disk: %v", err)
		}
		if list := h.virsh(t, "secret-list"); !strings.Contains(list, secretUUID(s.Reservation, s.Node).String()) {
			t.Errorf("no secret:\n%s", list)
		}
		if out, err := exec.Command("grep", "-rl", s.Disk.ISCSI.Secret, h.dir).Output(); err == nil {
			t.Errorf("the secret is on the disk, in %s", out)
		}
		if err := h.daemon.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.start(t)
	}
	if err := d.Ensure(t.Context(), s); err == nil {
		t.Error("a guest started without its disk")
	}
	if err := d.Remove(t.Context(), s.Reservation, s.Node); err != nil {
		t.Fatal(err)
	}
	if list := h.virsh(t, "secret-list"); strings.Contains(list, secretUUID(s.Reservation, s.Node).String()) {
		t.Errorf("the secret is still there:\n%s", list)
	}
}

func silent(t *testing.T, h *host) {
	d := h.driver(t)
	if err := syscall.Kill(h.daemon.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := d.List(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 3*time.Second {
		t.Errorf("List: %v after %v", err, time.Since(began))
	}
	if err := syscall.Kill(h.daemon.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := d.List(t.Context()); err != nil {
		t.Errorf("List afterwards: %v", err)
	}
}

func dead(t *testing.T, h *host) {
	d := h.driver(t)
	s := h.specs(t, d)("compute-0", 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := d.Ensure(ctx, s); err != nil {
		t.Fatal(err)
	}
	w := d.Watch(ctx)
	<-w
	h.daemon.Kill()
	<-w // that it is gone is news
	if _, err := d.List(ctx); err == nil {
		t.Error("a dead libvirtd answered")
	}
	h.start(t)
	<-w // and that it is back
	all, err := d.List(ctx)
	if err != nil || len(all) != 1 || all[0].State != hostops.DomainRunning {
		t.Errorf("after the restart: %+v, %v", all, err)
	}
}

func killed(t *testing.T, h *host) {
	d := h.driver(t)
	s := h.specs(t, d)("compute-0", 1)
	if err := d.Ensure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	w := d.Watch(t.Context())
	<-w
	pid, err := os.ReadFile(filepath.Join(h.dir, "run", "qemu", domainName(s.Reservation, s.Node)+".pid"))
	if err != nil {
		t.Fatal(err)
	}
	run(t, "kill", "-KILL", string(bytes.TrimSpace(pid)))
	for {
		<-w
		all, err := d.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if all[0].State == hostops.DomainCrashed && all[0].Detail != "" {
			break
		}
	}
	if err := d.Ensure(t.Context(), s); err != nil {
		t.Errorf("Ensure after the crash: %v", err)
	}
}

func times(t *testing.T, h *host) {
	d := h.driver(t)
	spec := h.specs(t, d)
	began := time.Now()
	const nodes = 5
	for i := range nodes {
		if err := d.Ensure(t.Context(), spec(fmt.Sprintf("compute-%d", i), 1)); err != nil {
			t.Fatal(err)
		}
	}
	started := time.Since(began) / nodes
	began = time.Now()
	if all, err := d.List(t.Context()); err != nil || len(all) != nodes {
		t.Fatalf("%d domains, %v", len(all), err)
	}
	t.Logf("define and start %v each, list of %d %v", started, nodes, time.Since(began))
	if started > 10*time.Second {
		t.Errorf("define and start take %v", started)
	}
}
