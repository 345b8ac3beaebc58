package targetd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/hostops/iscsi/initiator"
)

// daemon is a target process of its own.
type daemon struct {
	t      testing.TB
	dir    string
	portal netip.AddrPort
	engine string
	cmd    *exec.Cmd
	client *Client
}

func newDaemon(t testing.TB) *daemon {
	t.Helper()
	return newDaemonOf(t, EngineEmbedded)
}

func newDaemonOf(t testing.TB, engine string) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "vcnt") // short: a socket path has at most 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that stays the same over restarts
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, dir: dir, portal: l.Addr().(*net.TCPAddr).AddrPort(), engine: engine}
	_ = l.Close()
	if d.client, err = Dial(filepath.Join(dir, "s")); err != nil {
		t.Fatal(err)
	}
	d.start()
	t.Cleanup(func() { _ = d.end(syscall.SIGKILL); d.client.Close() })
	return d
}

func (d *daemon) start() {
	d.t.Helper()
	d.cmd = exec.Command(os.Args[0])
	d.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%s,%s,%s", processEnv, filepath.Join(d.dir, "s"), filepath.Join(d.dir, "state"), d.portal, d.engine))
	if testing.Verbose() {
		d.cmd.Stderr = os.Stderr
	}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
}

func (d *daemon) end(sig syscall.Signal) error {
	_ = d.cmd.Process.Signal(sig)
	return d.cmd.Wait()
}

func TestKilledProcessComesBack(t *testing.T) {
	t.Parallel()
	killedProcessComesBack(t, newDaemon(t))
}

// Sessions of the embedded engine end with the process; LIO's go on.
func killedProcessComesBack(t *testing.T, d *daemon) {
	path := newVolume(t, 4<<20)
	e, gone := testExport("killed", path, 7), testExport("withdrawn", newVolume(t, 1<<20), 1)
	for _, x := range []hostops.Export{e, gone} {
		if err := d.client.Publish(t.Context(), x); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.client.Withdraw(t.Context(), gone.Volume); err != nil {
		t.Fatal(err)
	}
	k, err := initiator.Login(loginConfig(d.portal, e))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	data := bytes.Repeat([]byte("flushed!"), 8192)
	a, err := k.Write(0, data)
	wantStatus(t, a, err, 0, 0)
	a, err = k.Flush()
	wantStatus(t, a, err, 0, 0)
	// Killed in the middle of writing, with QEMU connected as well.
	done := make(chan error, 1)
	go func() {
		b := make([]byte, 64<<10)
		for err = nil; err == nil; {
			_, err = k.Write(1024, b)
		}
		done <- nil
	}()
	_ = d.end(syscall.SIGKILL)
	<-done
	d.start()
	// The client rides it out; the export is there before the portal listens.
	l, err := d.client.List(t.Context())
	if err != nil || len(l) != 1 || l[0].Volume != e.Volume || l[0].Generation != 7 || l[0].Failed != "" {
		t.Fatalf("list after the restart: %+v, %v", l, err)
	}
	k2, err := initiator.Login(loginConfig(d.portal, e))
	if err != nil {
		t.Fatal(err)
	}
	defer k2.Close()
	a, err = k2.Read(0, len(data)/512)
	wantStatus(t, a, err, 0, 0)
	if !bytes.Equal(a.Data, data) {
		t.Fatal("flushed data is not there")
	}
	low := e
	low.Generation = 6
	if err := d.client.Publish(t.Context(), low); !errors.Is(err, hostops.ErrStale) {
		t.Fatalf("lower generation after the restart: %v, want ErrStale", err)
	}
	if err := d.end(syscall.SIGTERM); err != nil {
		t.Fatalf("SIGTERM: %v", err)
	}
	if _, err := os.Stat(filepath.Join(d.dir, "s")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("socket after SIGTERM: %v", err)
	}
	d.start()
	if l, err := d.client.List(t.Context()); err != nil || len(l) != 1 {
		t.Fatalf("list after SIGTERM and start: %+v, %v", l, err)
	}
}

// QEMU's initiator reconnects by itself: a restart is a pause, not an error.
func TestQEMURidesOutARestart(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	e := testExport("ridden", newVolume(t, 4<<20), 1)
	if err := d.client.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	type result struct {
		out string
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := qemuIO(t, d.portal, e, "write -P 5 0 64k", "flush", "sleep 1000", "read -P 5 0 64k", "write -P 6 64k 64k", "read -P 6 64k 64k", "flush")
		done <- result{out, err}
	}()
	eventually(t, "QEMU's first write", func() bool {
		l, err := d.client.List(t.Context())
		return err == nil && len(l) == 1 && len(l[0].Sessions) == 1
	})
	time.Sleep(300 * time.Millisecond) // into QEMU's pause
	_ = d.end(syscall.SIGKILL)
	time.Sleep(200 * time.Millisecond)
	d.start()
	if r := <-done; r.err != nil || bytes.Contains([]byte(r.out), []byte("failed")) {
		t.Fatalf("%v\n%s", r.err, r.out)
	}
}

func TestSocketAndTableAreForTheOwnerOnly(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	if err := d.client.Publish(t.Context(), testExport("private", newVolume(t, 1<<20), 1)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"s", "state/" + tableName} {
		fi, err := os.Stat(filepath.Join(d.dir, p))
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", p, fi.Mode(), err)
		}
	}
}

func TestTableThatIsNotOursStopsTheStart(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"cut": `{"Format":1,"Exp`, "future": `{"Format":2}`, "open": `{"Format":1,"Exports":[{"Volume":"a","Path":"/a","IQN":"iqn.a:b","Access":[{"Initiator":"iqn.a:c"}]}]}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, tableName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := New(Config{Socket: filepath.Join(dir, "s"), StateDir: dir, Listen: []netip.AddrPort{netip.AddrPortFrom(loopback, 0)}, Log: quiet()})
		if err == nil {
			t.Errorf("%s: started", name)
		}
	}
}

func TestMissingFileHoldsUpNobody(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := newVolume(t, 1<<20)
	bad, good := testExport("bad", path+"-later", 3), testExport("good", path, 1)
	if err := saveTable(dir, map[string]row{"bad": {Export: bad}, "good": {Export: good}}); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Socket: filepath.Join(dir, "s"), StateDir: dir, Listen: []netip.AddrPort{netip.AddrPortFrom(loopback, 0)}, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := s.List(t.Context())
	if err != nil || len(l) != 2 || l[0].Failed == "" || l[1].Failed != "" {
		t.Fatalf("list: %+v, %v", l, err)
	}
	k, err := initiator.Login(loginConfig(s.Addrs()[0], good))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	// It is to come: who may have it tries again, others learn nothing.
	_, err = initiator.Login(loginConfig(s.Addrs()[0], bad))
	wantRefused(t, err, 0x0301)
	stranger := loginConfig(s.Addrs()[0], bad)
	stranger.Initiator += "x"
	_, err = initiator.Login(stranger)
	wantRefused(t, err, 0x0203)
	if err := os.WriteFile(bad.Path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	k2, err := initiator.Login(loginConfig(s.Addrs()[0], bad))
	if err != nil {
		t.Fatal(err)
	}
	defer k2.Close()
}

// A mark of another boot is what a loss of power under unflushed writes leaves;
// the test of the lab takes the power away.
func TestLossOfPowerIsListedUntilItsUsersBeginAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mark := filepath.Join(dir, marksName, "v")
	e := testExport("v", newVolume(t, 1<<20), 3)
	if err := saveTable(dir, map[string]row{"v": {Export: e}}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Dir(mark), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mark, []byte("00000000-0000-0000-0000-000000000000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var s *Server
	start := func() {
		t.Helper()
		var err error
		s, err = New(Config{
			Socket: filepath.Join(dir, "s"), StateDir: dir, Listen: []netip.AddrPort{netip.AddrPortFrom(loopback, 0)},
			Engine: EngineEmbedded, Log: quiet(),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	lost := func() bool {
		t.Helper()
		l, err := s.List(t.Context())
		if err != nil || len(l) != 1 {
			t.Fatalf("list: %+v, %v", l, err)
		}
		return l[0].Lost
	}
	for range 2 {
		start()
		if !lost() {
			t.Fatal("the loss is not listed")
		}
		if err := s.Publish(t.Context(), e); err != nil || !lost() {
			t.Fatalf("publishing the same generation: %v; the loss is forgotten", err)
		}
		s.Close()
	}
	start()
	defer s.Close()
	e.Generation++
	if err := s.Publish(t.Context(), e); err != nil || lost() {
		t.Fatalf("a raised generation: %v; want the loss forgotten", err)
	}
	k, err := initiator.Login(loginConfig(s.Addrs()[0], e))
	if err != nil {
		t.Fatal(err)
	}
	a, err := k.Write(0, make([]byte, 512))
	wantStatus(t, a, err, 0, 0)
	k.Close()
	if _, err := os.Stat(mark); err != nil {
		t.Fatalf("a write that is not flushed leaves no mark: %v", err)
	}
	if err := s.Withdraw(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mark); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a withdrawn volume keeps its mark: %v", err)
	}
}

// Two owners start a target each, systemd and vcnd: the second serves nothing
// while the first lives, and takes over when it has drained.
func TestSecondProcessWaitsAndTakesOver(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	e := testExport("handed", newVolume(t, 1<<20), 3)
	if err := d.client.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(d.dir, "state")
	if held, err := Held(state); err != nil || !held {
		t.Fatalf("held: %v, %v, want true", held, err)
	}
	if held, err := Held(filepath.Join(d.dir, "absent")); err != nil || held {
		t.Fatalf("held without a state: %v, %v", held, err)
	}
	second := &daemon{t: t, dir: d.dir, portal: d.portal, engine: d.engine}
	second.start()
	ended := make(chan error, 1)
	go func() { ended <- second.cmd.Wait() }()
	t.Cleanup(func() { _ = second.cmd.Process.Kill() })
	select {
	case err := <-ended:
		t.Fatalf("the second process ended beside the first: %v", err)
	case <-time.After(10 * lockPoll):
	}
	if err := d.end(syscall.SIGTERM); err != nil {
		t.Fatalf("end of the first: %v", err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		l, err := d.client.List(t.Context())
		if err == nil && len(l) == 1 && l[0].Volume == e.Volume {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the second process did not take over: %+v, %v", l, err)
		}
		time.Sleep(lockPoll)
	}
	if err := second.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("SIGTERM of the second: %v", err)
	}
	if held, err := Held(state); err != nil || held {
		t.Errorf("held after both ended: %v, %v", held, err)
	}
}
