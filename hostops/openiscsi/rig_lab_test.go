//go:build lab

package openiscsi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"vcn/hostops"
	"vcn/hostops/iscsi/targetd"
)

// TestMain is also the target process, and the process that uses a disk.
func TestMain(m *testing.M) {
	if v := os.Getenv("VCN_TEST_TARGET"); v != "" {
		os.Exit(serve(strings.Split(v, ",")))
	}
	if v := os.Getenv("VCN_TEST_WRITER"); v != "" {
		os.Exit(write(v))
	}
	code := m.Run()
	shared.close()
	os.Exit(code)
}

func serve(a []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := targetd.Run(ctx, targetd.Config{
		Socket: a[0], StateDir: a[1], Listen: []netip.AddrPort{netip.MustParseAddrPort(a[2])},
		// The kernel's target would outlive its process, which is what these tests end.
		Engine: targetd.EngineEmbedded, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

const (
	labSize    = 64 << 20
	labUser    = "h1"
	otherHost  = "iqn.2026-11.internal.vcn:host.other"
	otherHosts = "the-secret-of-the-other-one"
	blockBytes = 4096
)

var loopback = netip.MustParseAddr("127.0.0.1")

// lab is this machine: a target process on its loopback, and a driver.
type lab struct {
	t      *testing.T
	dir    string
	portal netip.AddrPort
	target *exec.Cmd
	client *targetd.Client
	driver *Driver

	volume     string // of this test
	tests      int
	generation uint64
}

func labLog() *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

// shared is the one lab of this process: a target takes seconds to start here.
var shared *lab

// newLab gives a test the lab, its target running, nothing attached, and a
// volume of its own.
func newLab(t *testing.T) *lab {
	t.Helper()
	if shared == nil {
		shared = makeLab(t)
	}
	l := shared
	l.t, l.tests = t, l.tests+1
	l.volume = "v-" + strconv.Itoa(l.tests)
	if l.target == nil {
		l.start()
	}
	t.Cleanup(func() { l.detachAll(t) })
	return l
}

func makeLab(t *testing.T) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "vcni") // short: a socket path has at most 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, dir: dir, portal: netip.AddrPortFrom(loopback, freePort(t))}
	if l.driver, err = New(Config{Initiator: host, Log: labLog()}); err != nil {
		t.Fatal(err)
	}
	if l.client, err = targetd.Dial(filepath.Join(dir, "s")); err != nil {
		t.Fatal(err)
	}
	return l
}

// close ends what the lab's tests have left running.
func (l *lab) close() {
	if l != nil {
		l.kill()
		l.client.Close()
		_ = os.RemoveAll(l.dir)
	}
}

// detachAll leaves the machine as it was, also after a failed test.
func (l *lab) detachAll(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	all, err := l.driver.List(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, a := range all {
		if err := l.driver.Detach(ctx, a.IQN); err != nil {
			t.Errorf("leave the machine as it was: %v", err)
		}
	}
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	n, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	return n.Addr().(*net.TCPAddr).AddrPort().Port()
}

// start runs the target process.
func (l *lab) start() {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), fmt.Sprintf("VCN_TEST_TARGET=%s,%s,%s", filepath.Join(l.dir, "s"), filepath.Join(l.dir, "state"), l.portal))
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.target = c
	eventually(l.t, "the target listens", func() bool {
		k, err := net.DialTimeout("tcp", l.portal.String(), time.Second)
		if err == nil {
			_ = k.Close()
		}
		return err == nil
	})
}

// kill ends the target process without warning.
func (l *lab) kill() {
	if l.target != nil {
		_ = l.target.Process.Kill()
		_ = l.target.Wait()
		l.target = nil
	}
}

func (l *lab) file(volume string) string { return filepath.Join(l.dir, volume) }

// publish serves a volume under the next generation to this host and another.
func (l *lab) publish(t *testing.T, volume, secret string) hostops.ISCSIDisk {
	t.Helper()
	f, err := os.OpenFile(l.file(volume), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := f.Stat(); err == nil && fi.Size() == 0 {
		err = f.Truncate(labSize)
		if err != nil {
			t.Fatal(err)
		}
	}
	_ = f.Close()
	l.generation++
	d := hostops.ISCSIDisk{Portal: l.portal, IQN: hostops.TargetIQN(volume), LUN: 1, Initiator: host, User: labUser, Secret: secret}
	if err := l.client.Publish(t.Context(), hostops.Export{
		Volume: volume, Path: l.file(volume), IQN: d.IQN, Generation: l.generation,
		Access: []hostops.Access{
			{Initiator: host, Addr: loopback, User: labUser, Secret: secret},
			{Initiator: otherHost, Addr: loopback, User: "other", Secret: otherHosts},
		},
	}); err != nil {
		t.Fatal(err)
	}
	return d
}

func (l *lab) attach(d hostops.ISCSIDisk) string {
	l.t.Helper()
	began := time.Now()
	p, err := l.driver.Attach(l.t.Context(), d)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Logf("attached in %v", time.Since(began).Round(time.Millisecond))
	return p
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// openDirect opens a device as a hypervisor does that keeps no cache.
func openDirect(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|syscall.O_DIRECT|syscall.O_CLOEXEC, 0)
}

// aligned is memory for O_DIRECT.
func aligned(n int) []byte {
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	return b
}

// pattern fills a block with what only that block of that pass has.
func pattern(b []byte, n, pass int) {
	s := fmt.Sprintf("block %d pass %d|", n, pass)
	for i := range b {
		b[i] = s[i%len(s)]
	}
}

// write is a process that writes blocks until it is told to end, each one
// waited for; it prints the number of each block that is written, or the error.
func write(path string) int {
	f, err := openDirect(path)
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	b := aligned(blockBytes)
	var longest time.Duration
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	for n := 0; ; n++ {
		select {
		case <-stop:
			fmt.Println("longest", longest.Milliseconds())
			return 0
		default:
		}
		pattern(b, n, 1)
		began := time.Now()
		if _, err := f.WriteAt(b, int64(n%(labSize/blockBytes))*blockBytes); err != nil {
			fmt.Println("error", err)
			return 1
		}
		longest = max(longest, time.Since(began))
		fmt.Println("wrote", n)
	}
}

// writer is that process, seen from outside.
type writer struct {
	cmd *exec.Cmd
	out string // file with what it said
}

func (l *lab) writer(path string) *writer {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	w := &writer{cmd: exec.Command(self), out: filepath.Join(l.dir, "writer.log")}
	f, err := os.Create(w.out)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	w.cmd.Env = append(os.Environ(), "VCN_TEST_WRITER="+path)
	w.cmd.Stdout, w.cmd.Stderr = f, f
	if err := w.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = w.cmd.Process.Kill() })
	return w
}

// said returns the last number after a word, -1 if there is none, and fails on
// an error that the writer has met.
func (w *writer) said(t *testing.T, word string) int {
	t.Helper()
	b, err := os.ReadFile(w.out)
	if err != nil {
		t.Fatal(err)
	}
	last := -1
	for line := range strings.Lines(string(b)) {
		name, value, whole := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if name == "error" {
			t.Fatalf("the writer saw an error: %s", line)
		}
		if name == word && whole && strings.HasSuffix(line, "\n") {
			if last, err = strconv.Atoi(value); err != nil {
				t.Fatal(err)
			}
		}
	}
	return last
}

// discard is BLKDISCARD (linux/fs.h).
func discard(f *os.File, off, n uint64) error {
	r := [2]uint64{off, n}
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), 0x1277, uintptr(unsafe.Pointer(&r))); e != 0 {
		return fmt.Errorf("discard: %w", e)
	}
	return nil
}

// deviceBytes is BLKGETSIZE64 (linux/fs.h).
func deviceBytes(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var n uint64
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), 0x80081272, uintptr(unsafe.Pointer(&n))); e != 0 {
		return 0, errors.New("size: " + e.Error())
	}
	return int64(n), nil
}
