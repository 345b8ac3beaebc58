//go:build lab

package lab_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"vcn/hostops"
	"vcn/test/lab"
)

const (
	fenceStorage = "10.79.0.1"
	fenceCompute = "10.79.0.2"
	fenceBytes   = 16 << 20
	fenceWrites  = 200 // of the old one, before it is fenced off
	// fenceWatch is how long the old one's host is watched trying: iscsid waits a
	// second or two between two tries.
	fenceWatch  = 8 * time.Second
	fenceMax    = time.Minute
	oldSecret   = "secret-of-the-old"
	newSecret   = "secret-of-the-new"
	laterSecret = "secret-of-later-on"
	newFill     = 0xbb
)

// scribble writes block after block, past the page cache, until a write fails;
// it says each that was acknowledged.
func scribble(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_DIRECT|syscall.O_SYNC, 0)
	if err != nil {
		return err
	}
	raw := make([]byte, 2*blockBytes)
	at := int(-uintptr(unsafe.Pointer(&raw[0])) & (blockBytes - 1)) // O_DIRECT wants whole pages
	b := raw[at : at+blockBytes]
	for i := 0; ; i++ {
		for n := range b {
			b[n] = byte(0x80|i)&^0x20 | 1 // never newFill, and not what was there before
		}
		if _, err := f.WriteAt(b, int64(i)%(fenceBytes/blockBytes)*blockBytes); err != nil {
			return err
		}
		fmt.Println(i + 1)
	}
}

// fence is one fight for one volume.
type fence struct {
	storage, compute *lab.Machine
	target           lifeTarget
	export           hostops.Export
	written          atomic.Int64 // by the old one, acknowledged
	ended            chan error   // of the old one's writer
}

// TestLabFence has two hosts fight for a volume: the old one by the kernel's
// initiator, the new one by QEMU's.
func TestLabFence(t *testing.T) {
	cable := lab.CableFor(t, 0)
	storage := lab.For(t, lab.Config{Name: "storage", NICs: []lab.NIC{{Cable: cable}}})
	compute := lab.For(t, lab.Config{Name: "compute", NICs: []lab.NIC{{Cable: cable}}})
	for m, addr := range map[*lab.Machine]string{storage: fenceStorage, compute: fenceCompute} {
		sh(t, m, "ip addr add "+addr+"/24 dev eth0 && ip link set eth0 up")
		giveHand(t, m)
	}
	if err := storage.PutFile(t.Context(), vcndPath(), "/srv/vcnd"); err != nil {
		t.Fatal(err)
	}
	for n, engine := range []string{"embedded", "lio"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel() // it mostly watches
			f := &fence{storage: storage, compute: compute, ended: make(chan error, 1),
				target: lifeTarget{name: "fence-" + engine, port: 3260 + n, engine: engine}}
			f.serve(t)
			f.fight(t)
		})
	}
}

func (f *fence) portal() string { return fmt.Sprintf("%s:%d", fenceStorage, f.target.port) }

// serve starts a target process and makes a volume.
func (f *fence) serve(t *testing.T) {
	t.Helper()
	conf := strings.ReplaceAll(f.target.conf(), lifeThere, fenceStorage)
	if err := f.storage.Put(t.Context(), strings.NewReader(conf), f.target.dir()+".yaml", 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, f.storage, "systemd-run -q --unit "+f.target.name+" /srv/vcnd target --config "+f.target.dir()+".yaml")
	id := "fought-" + f.target.engine
	path := hand[string](t, f.storage, "volume", handWork{Volume: &hostops.VolumeSpec{ID: id, SizeBytes: fenceBytes}, Dir: "/srv/volumes"})
	f.export = hostops.Export{Volume: id, Path: path, IQN: hostops.TargetIQN(id)}
	engine := hand[string](t, f.storage, "engine", handWork{Socket: f.target.socket()})
	if engine != f.target.engine {
		t.Fatalf("served by engine %s", engine)
	}
}

// publish gives the volume to one host, under a generation and a secret of its own.
func (f *fence) publish(t *testing.T, generation uint64, host, addr, secret string) {
	t.Helper()
	e := f.export
	e.Generation = generation
	e.Access = []hostops.Access{{Initiator: hostops.InitiatorIQN(host), Addr: netip.MustParseAddr(addr), User: lifeUser, Secret: secret}}
	hand[string](t, f.storage, "publish", handWork{Socket: f.target.socket(), Export: &e})
}

func (f *fence) fight(t *testing.T) {
	f.publish(t, 1, "compute", fenceCompute, oldSecret)
	dev := hand[string](t, f.compute, "attach", handWork{Disk: &hostops.ISCSIDisk{
		Portal: netip.MustParseAddrPort(f.portal()), IQN: f.export.IQN, LUN: 1, Initiator: hostops.InitiatorIQN("compute"), User: lifeUser, Secret: oldSecret,
	}})
	f.startOld(t, dev)
	await(t, fenceMax, "the old one to write", func() (bool, error) { return f.written.Load() >= fenceWrites, nil })
	began := time.Now()
	f.publish(t, 2, "storage", fenceStorage, newSecret)
	sum := f.sum(t) // at once: nothing of the old one lands any more
	t.Logf("fenced off in %v, after %d writes", time.Since(began).Round(time.Millisecond), f.written.Load())
	f.checkOut(t, "compute")
	time.Sleep(time.Second)
	if now := f.sum(t); now != sum {
		t.Error("something was written after the fence had returned")
	}
	f.writeNew(t)
	sum, written, tries := f.sum(t), f.written.Load(), f.tries(t)
	for deadline := time.Now().Add(fenceWatch); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		f.checkOut(t, "compute")
	}
	if n := f.tries(t) - tries; n < 2 {
		t.Errorf("the old one's host tried %d times in %v: it was not watched trying", n, fenceWatch)
	}
	f.checkStale(t)
	// Given back to the old one's host, with another secret: what that host holds back
	// of the old generation still never lands.
	f.publish(t, 3, "compute", fenceCompute, laterSecret)
	for deadline := time.Now().Add(fenceWatch); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		f.checkOut(t, "compute")
	}
	if now := f.sum(t); now != sum {
		t.Error("something of the old one landed on what the new one had written")
	}
	if n := f.written.Load(); n != written {
		t.Errorf("the old one was told of %d more writes", n-written)
	}
	select {
	case err := <-f.ended:
		t.Errorf("the old one's writer has ended: %v; its I/O is to wait", err)
	default:
	}
}

// startOld has the old one write for as long as it can.
func (f *fence) startOld(t *testing.T, dev string) {
	t.Helper()
	in, err := json.Marshal(handWork{Dir: dev})
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	c := f.compute.Command(t.Context(), handPath, "hand", "scribble")
	var errb bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(in), w, &errb
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for s := bufio.NewScanner(r); s.Scan(); {
			f.written.Add(1)
		}
	}()
	go func() {
		err := c.Wait()
		f.ended <- fmt.Errorf("%w: %s", err, errb.String())
	}()
}

// sum is of the volume, as its host reads it.
func (f *fence) sum(t *testing.T) string {
	t.Helper()
	return sh(t, f.storage, "sha256sum <"+f.export.Path)
}

// checkOut: the host has no session.
func (f *fence) checkOut(t *testing.T, host string) {
	t.Helper()
	for _, e := range hand[[]hostops.ExportStatus](t, f.storage, "list", handWork{Socket: f.target.socket()}) {
		for _, s := range e.Sessions {
			if s.Initiator == hostops.InitiatorIQN(host) {
				t.Fatalf("%s has a session at generation %d: %+v", host, e.Generation, s)
			}
		}
	}
}

// tries counts what iscsid of the old one's host says of its logins.
func (f *fence) tries(t *testing.T) int {
	t.Helper()
	return strings.Count(sh(t, f.compute, "journalctl --no-pager -q -u iscsid"), "login rejected")
}

// writeNew has the new one write the whole volume and read it again.
func (f *fence) writeNew(t *testing.T) {
	t.Helper()
	opts := fmt.Sprintf("driver=raw,file.driver=iscsi,file.transport=tcp,file.portal=%s,file.target=%s,file.lun=1,file.user=%s,file.password=%s,file.initiator-name=%s",
		f.portal(), f.export.IQN, lifeUser, newSecret, hostops.InitiatorIQN("storage"))
	out := sh(t, f.storage, fmt.Sprintf("qemu-io --image-opts '%s' -c 'write -P %#x 0 %d' -c flush -c 'read -P %#x 0 %d'", opts, newFill, fenceBytes, newFill, fenceBytes))
	if strings.Contains(out, "rror") || strings.Contains(out, "failed") || !strings.Contains(out, fmt.Sprintf("read %d/%d", fenceBytes, fenceBytes)) {
		t.Fatalf("the new one: %s", out)
	}
}

// checkStale: an older generation is not published any more.
func (f *fence) checkStale(t *testing.T) {
	t.Helper()
	e := f.export
	e.Generation = 1
	if _, err := tryHand[string](t.Context(), f.storage, "publish", handWork{Socket: f.target.socket(), Export: &e}); err == nil || !strings.Contains(err.Error(), hostops.ErrStale.Error()) {
		t.Errorf("generation 1 after 2: %v", err)
	}
}
