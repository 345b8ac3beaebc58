package targetd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"vcn/hostops"
	"vcn/hostops/iscsi/initiator"
	"vcn/hostops/iscsi/scsi"
)

const processEnv = "VCN_TEST_TARGET" // socket, state directory, portal and engine, by commas

// TestMain is also the target process of the tests that kill one.
func TestMain(m *testing.M) {
	if v := os.Getenv(processEnv); v != "" {
		os.Exit(process(strings.Split(v, ",")))
	}
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func process(a []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c := Config{Socket: a[0], StateDir: a[1], Listen: []netip.AddrPort{netip.MustParseAddrPort(a[2])}, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Engine: a[3]}
	if err := Run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

const (
	testInitiator = "iqn.2026-01.net.example:host-a"
	testUser      = "host-a"
	testSecret    = "0123456789abcdef"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// rig is an in-process target, of either engine.
type rig struct {
	t      *testing.T
	srv    *Server
	client *Client
	mu     sync.Mutex
	files  map[string]*scsi.Faulty // by path; the one opened last
	portal netip.AddrPort
	kernel bool // LIO: some refusals have other numbers, and volumes may be devices
	// volume makes a volume whose commands hold can stop.
	volume func(size int64) (path string)
	// hold stops the writes of a volume until release is called; entered tells of
	// the first.
	hold func(path string) (release func(), entered <-chan struct{})
}

// newRig serves by the embedded engine, over files with faults.
func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{files: map[string]*scsi.Faulty{}}
	r.volume = func(size int64) string { return newVolume(t, size) }
	r.hold = func(path string) (func(), <-chan struct{}) { return block(r.faults(path)) }
	r.start(t, Config{Engine: EngineEmbedded, Open: func(p string) (scsi.File, error) {
		f, err := scsi.OpenFile(p)
		if err != nil {
			return nil, err
		}
		w := scsi.WithFaults(f)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.files[p] = w
		return w, nil
	}})
	return r
}

// start runs the target with the engine of c; directories, portal and log are
// the rig's.
func (r *rig) start(t testing.TB, c Config) {
	t.Helper()
	if x, ok := t.(*testing.T); ok {
		r.t = x
	}
	// Short: a socket path has at most 108 bytes.
	dir, err := os.MkdirTemp("", "vcnt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c.Socket, c.StateDir, c.Log = filepath.Join(dir, "s"), filepath.Join(dir, "state"), quiet()
	c.Listen = []netip.AddrPort{netip.AddrPortFrom(loopback, 0)}
	srv, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	r.srv, r.portal = srv, srv.Addrs()[0]
	if r.client, err = Dial(filepath.Join(dir, "s")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.Close)
}

// knock logs in as another port of the initiator, which reinstates no session,
// and out again.
func (r *rig) knock(e hostops.Export) error {
	c := r.config(e)
	c.ISID[5] ^= 0x80
	k, err := initiator.Login(c)
	if err == nil {
		_ = k.Close()
	}
	return err
}

// unknown is the refusal of a target that does not exist. LIO's is one that
// initiators try again after.
func (r *rig) unknown() uint16 {
	if r.kernel {
		return 0x0301
	}
	return 0x0203
}

func (r *rig) faults(path string) *scsi.Faulty {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.files[path]
}

func quiet() *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

func newVolume(t testing.TB, size int64) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vcnv") // the kernel's target takes no comma, which names of tests have
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := filepath.Join(dir, "volume.img")
	if err := os.WriteFile(p, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(p, size); err != nil {
		t.Fatal(err)
	}
	return p
}

func testExport(volume, path string, generation uint64) hostops.Export {
	return hostops.Export{
		Volume: volume, Path: path, IQN: "iqn.2026-01.net.example.vcn:" + volume, Generation: generation,
		Access: []hostops.Access{{Initiator: testInitiator, Addr: loopback, User: testUser, Secret: testSecret}},
	}
}

func (r *rig) publish(e hostops.Export) hostops.Export {
	r.t.Helper()
	if err := r.client.Publish(r.t.Context(), e); err != nil {
		r.t.Fatal(err)
	}
	return e
}

func (r *rig) config(e hostops.Export) initiator.Config {
	return loginConfig(r.portal, e)
}

func loginConfig(portal netip.AddrPort, e hostops.Export) initiator.Config {
	return initiator.Config{
		Addr: portal.String(), Initiator: testInitiator, Target: e.IQN, LUN: scsi.LUN,
		User: testUser, Secret: e.Access[0].Secret, ISID: [6]byte{0x80, 1, 2, 3, 4, 5},
	}
}

func (r *rig) login(e hostops.Export) *initiator.Conn {
	r.t.Helper()
	k, err := initiator.Login(r.config(e))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = k.Close() })
	return k
}

func wantRefused(t *testing.T, err error, status uint16) {
	t.Helper()
	var re *initiator.Refused
	if !errors.As(err, &re) || uint16(re.Class)<<8|uint16(re.Detail) != status {
		t.Fatalf("login: got %v, want status %04x", err, status)
	}
}

// wantStatus checks status and sense of an answer; key 0 means GOOD.
func wantStatus(t *testing.T, a *initiator.Answer, err error, key byte, asc uint16) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	k, c := a.Key()
	if (key == 0) != (a.Status == scsi.StatusGood) || k != key || c != asc {
		t.Fatalf("status %#x sense %x/%04x, want %x/%04x", a.Status, k, c, key, asc)
	}
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// qemuOpts names the unit for QEMU's own initiator.
func qemuOpts(portal netip.AddrPort, e hostops.Export, initiatorName, secret string) []string {
	return []string{
		"--object", "secret,id=s,data=" + secret, "--image-opts",
		fmt.Sprintf("driver=iscsi,transport=tcp,portal=%s,target=%s,lun=%d,user=%s,password-secret=s,initiator-name=%s",
			portal, e.IQN, scsi.LUN, testUser, initiatorName),
	}
}

// qemuIO runs commands in one qemu-io; the output has everything it said.
func qemuIO(t testing.TB, portal netip.AddrPort, e hostops.Export, cmds ...string) (string, error) {
	t.Helper()
	var a []string
	for _, c := range cmds {
		a = append(a, "-c", c)
	}
	// The image comes last; --image-opts turns it into options.
	o := qemuOpts(portal, e, testInitiator, e.Access[0].Secret)
	a = append(append(o[:3:3], a...), o[3])
	return tool(t, "qemu-io", a...)
}

const toolTimeout = 60 * time.Second

func tool(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), toolTimeout)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	var out strings.Builder
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%s is needed by this test: %v", name, err)
	}
	return out.String(), err
}
