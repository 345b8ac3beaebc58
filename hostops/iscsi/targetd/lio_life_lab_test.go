//go:build lab

package targetd

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/hostops/iscsi/initiator"
	"vcn/hostops/iscsi/lio"
)

const kernelTargets = "/sys/kernel/config/target/iscsi"

// newKernelDaemon is a target process with LIO; its end leaves nothing.
func newKernelDaemon(t *testing.T) *daemon {
	t.Helper()
	d := newDaemonOf(t, EngineLIO)
	t.Cleanup(func() { withdrawAll(t, d.client) })
	return d
}

func (d *daemon) publish(e hostops.Export) hostops.Export {
	d.t.Helper()
	if err := d.client.Publish(d.t.Context(), e); err != nil {
		d.t.Fatal(err)
	}
	return e
}

func (d *daemon) login(e hostops.Export) *initiator.Conn {
	d.t.Helper()
	var k *initiator.Conn
	var err error
	eventually(d.t, "a login", func() bool { k, err = initiator.Login(loginConfig(d.portal, e)); return err == nil })
	d.t.Cleanup(func() { _ = k.Close() })
	return k
}

func (d *daemon) owner() string { return Config{StateDir: filepath.Join(d.dir, "state")}.owner() }

// The kernel serves on while the process is away, and the next one takes over
// what it finds if that is what the table says.
func TestLabProcessIsReplacedUnderSessions(t *testing.T) {
	d := newKernelDaemon(t)
	e := d.publish(testExport("kept", newVolume(t, 4<<20), 7))
	name, why, err := d.client.Engine(t.Context())
	if err != nil || name != EngineLIO || why == "" {
		t.Fatalf("engine: %q, %q, %v", name, why, err)
	}
	k := d.login(e)
	block := bytes.Repeat([]byte("kept"), 1024)
	write := func(when string) {
		t.Helper()
		if a, err := k.Write(0, block); err != nil || a.Status != 0 {
			t.Fatalf("%s: %+v, %v", when, a, err)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		_ = d.end(sig)
		write("while the process is away")
		d.start()
		l, err := d.client.List(t.Context())
		if err != nil || len(l) != 1 || l[0].Generation != 7 || l[0].Failed != "" || len(l[0].Sessions) != 1 || l[0].Sessions[0].Addr.Addr() != loopback {
			t.Fatalf("list after %v: %+v, %v", sig, l, err)
		}
		write("after the next has started")
	}
	d.publish(e)
	write("after the same was published again")
	low := e
	low.Generation = 6
	if err := d.client.Publish(t.Context(), low); !errors.Is(err, hostops.ErrStale) {
		t.Fatalf("lower generation: %v, want ErrStale", err)
	}
	// The table is ahead of the kernel when a process dies in between.
	_ = d.end(syscall.SIGKILL)
	state := filepath.Join(d.dir, "state")
	rows, err := loadTable(state)
	if err != nil {
		t.Fatal(err)
	}
	r := rows[e.Volume]
	r.Generation = 8
	rows[e.Volume] = r
	if err := saveTable(state, rows); err != nil {
		t.Fatal(err)
	}
	d.start()
	if _, err := d.client.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, err := k.Write(0, block); err == nil {
		t.Fatalf("a session of the generation before goes on: %+v", a)
	}
	e.Generation = 8
	a, err := d.login(e).Read(0, len(block)/512)
	wantStatus(t, a, err, 0, 0)
	if !bytes.Equal(a.Data, block) {
		t.Fatal("what was written is not there")
	}
}

// After a reboot the kernel has nothing; and an engine serves the table of the
// other, of which nothing is left.
func TestLabTableOutlivesKernelAndEngine(t *testing.T) {
	d := newKernelDaemon(t)
	e := d.publish(testExport("moved", newVolume(t, 1<<20), 3))
	a, err := d.login(e).Write(0, bytes.Repeat([]byte{9}, 512))
	wantStatus(t, a, err, 0, 0)
	check := func(when string) {
		t.Helper()
		l, err := d.client.List(t.Context())
		if err != nil || len(l) != 1 || l[0].Generation != 3 || l[0].Failed != "" {
			t.Fatalf("%s: %+v, %v", when, l, err)
		}
		a, err := d.login(e).Read(0, 1)
		wantStatus(t, a, err, 0, 0)
		if a.Data[0] != 9 {
			t.Fatalf("%s: the data is not there", when)
		}
	}
	_ = d.end(syscall.SIGKILL)
	if err := lio.Purge(t.Context(), lio.Config{Owner: d.owner(), Log: quiet()}); err != nil {
		t.Fatal(err)
	}
	wantNoTarget(t, e)
	d.start()
	check("after the kernel has lost all")
	_ = d.end(syscall.SIGTERM)
	d.engine = EngineEmbedded
	d.start()
	check("by the embedded engine")
	wantNoTarget(t, e)
	_ = d.end(syscall.SIGKILL)
	d.engine = EngineAuto
	d.start()
	check("by LIO again")
	if name, _, err := d.client.Engine(t.Context()); err != nil || name != EngineLIO {
		t.Fatalf("auto is %q, %v", name, err)
	}
}

func wantNoTarget(t *testing.T, e hostops.Export) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(kernelTargets, e.IQN)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the kernel still has the target: %v", err)
	}
}

// A storage that hangs holds up its volume and nothing else: not the others,
// not the end of the process, not the next one.
func TestLabHangingVolumeHoldsUpNobody(t *testing.T) {
	d := newKernelDaemon(t)
	name := labDevice(t)
	t.Cleanup(func() { // after the rest, which must find it gone
		dm(t, "resume", name)
		withdrawAll(t, d.client)
		dm(t, "remove", "--retry", name)
	})
	bad := d.publish(testExport("hanging", "/dev/mapper/"+name, 1))
	good := d.publish(testExport("healthy", newVolume(t, 1<<20), 1))
	k := d.login(bad)
	before := commands(t, bad.Path)
	dm(t, "suspend", "--noflush", "--nolockfs", name)
	go func() { _, _ = k.Write(0, make([]byte, 4096)) }()
	eventually(t, "a command on the hanging device", func() bool { return commands(t, bad.Path) > before })
	fenced := bad
	fenced.Generation = 2
	fenced.Access = []hostops.Access{bad.Access[0]}
	fenced.Access[0].Secret = "of-the-next-generation"
	try := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := d.client.Publish(ctx, fenced); err == nil {
			t.Fatal("published while a command of the old generation is in the device")
		}
	}
	others := func(generation uint64) {
		t.Helper()
		start := time.Now()
		good.Generation = generation
		d.publish(good)
		a, err := d.login(good).Write(0, make([]byte, 512))
		wantStatus(t, a, err, 0, 0)
		x := d.publish(testExport("new", newVolume(t, 1<<20), 1))
		if err := d.client.Withdraw(t.Context(), x.Volume); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 15*time.Second {
			t.Errorf("the others took %v", took)
		}
	}
	try()
	others(2)
	start := time.Now()
	_ = d.end(syscall.SIGKILL)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the process took %v to end", took)
	}
	d.start()
	try()
	others(3)
	if err := d.client.Withdraw(t.Context(), "never-there"); err != nil {
		t.Error(err)
	}
	// A withdrawal that a process did not live to see is not over either.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := d.client.Withdraw(ctx, bad.Volume); err == nil {
		t.Fatal("withdrawn while a command is in the device")
	}
	_ = d.end(syscall.SIGKILL)
	d.start()
	l, err := d.client.List(t.Context())
	if err != nil || len(l) != 2 || l[0].Volume != bad.Volume || l[0].Failed == "" {
		t.Fatalf("list: %+v, %v; want what has not ended yet", l, err)
	}
	ctx, cancel2 := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel2()
	if err := d.client.Withdraw(ctx, bad.Volume); err == nil {
		t.Fatal("withdrawn by the next process while a command is in the device")
	}
	dm(t, "resume", name)
	if err := d.client.Withdraw(t.Context(), bad.Volume); err != nil {
		t.Fatal(err)
	}
	wantNoTarget(t, bad)
	d.publish(fenced)
	a, err := d.login(fenced).Write(0, make([]byte, 512))
	wantStatus(t, a, err, 0, 0)
}

// A login waits for the hanging session that it replaces, while the target is
// shut. When the storage comes back it becomes a session that the kernel does not
// cut by itself: the fence must not wait for it for ever, nor let it write.
func TestLabLoginUnderWayWhileFenced(t *testing.T) {
	r := newKernelRig(t)
	path := r.volume(1 << 20)
	e := r.publish(testExport("crossed", path, 1))
	old := r.login(e)
	release, entered := r.hold(path)
	defer release()
	go func() { _, _ = old.Write(0, make([]byte, 4096)) }()
	<-entered
	c := r.config(e) // the same port of the initiator: it reinstates
	c.KeepAttention = true
	again := make(chan *initiator.Conn, 1)
	go func() {
		k, err := initiator.Login(c)
		if err != nil {
			t.Logf("the login that was under way: %v", err)
		}
		again <- k
	}()
	time.Sleep(time.Second) // nothing tells that it waits
	next := e
	next.Generation = 2
	published := make(chan error, 1)
	go func() { published <- r.client.Publish(t.Context(), next) }()
	time.Sleep(3 * time.Second)
	release()
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	if k := <-again; k != nil {
		defer k.Close()
		if a, err := k.Write(0, bytes.Repeat([]byte{0xaa}, 512)); err == nil && a.Status == 0 {
			t.Fatal("a session of the old generation writes")
		}
	}
	a, err := r.login(next).Read(0, 1)
	wantStatus(t, a, err, 0, 0)
	if a.Data[0] == 0xaa {
		t.Fatal("a session of the old generation has written")
	}
}

// Somebody who clears the kernel's configuration ends what we serve until the
// same is published again, as it is by whoever looks after it.
func TestLabClearedKernelIsRepaired(t *testing.T) {
	r := newKernelRig(t)
	e := r.publish(testExport("cleared", newVolume(t, 1<<20), 1))
	k := r.login(e)
	r.publish(e)
	a, err := k.Read(0, 1)
	wantStatus(t, a, err, 0, 0)
	if err := lio.Purge(t.Context(), lio.Config{Owner: r.srv.cfg.owner(), Log: quiet()}); err != nil {
		t.Fatal(err)
	}
	r.publish(e)
	a, err = r.login(e).Read(0, 1)
	wantStatus(t, a, err, 0, 0)
}

// What an operator has in the kernel stays as it is, and is not listed.
func TestLabForeignTargetsAreLeftAlone(t *testing.T) {
	foreign := newForeign(t, "127.0.0.1:3999")
	r := newKernelRig(t)
	e := r.publish(testExport("ours", newVolume(t, 1<<20), 1))
	if l, err := r.client.List(t.Context()); err != nil || len(l) != 1 {
		t.Fatalf("list: %+v, %v", l, err)
	}
	e.IQN = foreign
	if err := r.client.Publish(t.Context(), e); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("its name: %v, want ErrForeign", err)
	}
	if err := r.client.Withdraw(t.Context(), "ours"); err != nil {
		t.Fatal(err)
	}
	if err := lio.Purge(t.Context(), lio.Config{Owner: r.srv.cfg.owner(), Log: quiet()}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(kernelTargets, foreign, "tpgt_1/enable")); err != nil || strings.TrimSpace(string(b)) != "1" {
		t.Errorf("the operator's target: %q, %v", b, err)
	}
	dir := t.TempDir()
	_, err := New(Config{
		Socket: filepath.Join(dir, "s"), StateDir: dir, Log: slog.New(slog.DiscardHandler), Engine: EngineLIO,
		Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:3999")},
	})
	if !errors.Is(err, hostops.ErrForeign) || !strings.Contains(err.Error(), foreign) {
		t.Errorf("its portal: %v, want ErrForeign and its name", err)
	}
}

// newForeign makes a target as an operator would.
func newForeign(t *testing.T, portal string) (iqn string) {
	t.Helper()
	iqn = "iqn.2020-01.com.example:operators"
	store := filepath.Join(kernelStores, "fileio_77/theirs")
	tpg := filepath.Join(kernelTargets, iqn, "tpgt_1")
	dirs := []string{filepath.Dir(store), store, filepath.Dir(tpg), tpg, tpg + "/lun/lun_0", tpg + "/np/" + portal}
	for _, d := range dirs {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(d) })
	}
	for path, v := range map[string]string{store + "/control": "fd_dev_name=" + newVolume(t, 1<<20) + ",fd_dev_size=1048576"} {
		if err := os.WriteFile(path, []byte(v), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(store+"/enable", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	link := tpg + "/lun/lun_0/theirs"
	if err := os.Symlink(store, link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(link) })
	if err := os.WriteFile(tpg+"/enable", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	return iqn
}

// The kernel checks names and secrets; where a session comes from is checked
// by us, a moment later.
func TestLabForeignAddressIsCut(t *testing.T) {
	r := newKernelRig(t)
	e := testExport("places", newVolume(t, 1<<20), 1)
	e.Access = append(e.Access, hostops.Access{Initiator: testInitiator + "2", Addr: loopback, User: testUser, Secret: testSecret})
	r.publish(e)
	right := r.login(e)
	c := r.config(e)
	c.Initiator, c.LocalAddr = testInitiator+"2", "127.0.0.2"
	wrong, err := initiator.Login(c)
	if err != nil {
		t.Fatal(err)
	}
	defer wrong.Close()
	start := time.Now()
	eventually(t, "the end of the session", func() bool { _, err := wrong.Read(0, 1); return err != nil })
	t.Logf("cut after %v", time.Since(start))
	a, err := right.Read(0, 1)
	wantStatus(t, a, err, 0, 0)
}

func TestLabGenerationsFight(t *testing.T) {
	t.Run("device", func(t *testing.T) {
		r := newKernelRig(t)
		generationsFight(t, r, r.volume(1<<20), 4)
	})
	t.Run("file", func(t *testing.T) { generationsFight(t, newKernelRig(t), newVolume(t, 1<<20), 4) })
}
