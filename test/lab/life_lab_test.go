//go:build lab

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/hostops/iscsi/initiator"
	"vcn/test/lab"
)

const (
	lifeHere   = "10.78.0.254" // this host on the cable
	lifeThere  = "10.78.0.1"
	lifeVolume = 32 << 20
	lifeLoad   = 30 // flushes of each writer before the power is cut
	readyMax   = 2 * time.Minute
	recoverMax = 3 * time.Minute
	lossBlocks = 256
	proberName = "prober"
	writerName = "writer"
	lifeUser   = "life"
	lifeSecret = "life-secret-0123"
	lifeUnit   = "vcnd-target"
)

// lifeTarget is a target process in the machine: a unit of its own with a
// configuration of its own.
type lifeTarget struct {
	name   string // of its unit and its directory
	port   int
	engine string
	more   string // further configuration of its storage
}

var lifeTargets = []lifeTarget{
	{name: lifeUnit, port: 3260, engine: "embedded"},
	{name: lifeUnit + "-through", port: 3261, engine: "embedded", more: ", writeThrough: true"},
	{name: lifeUnit + "-lio", port: 3262, engine: "lio"},
}

// lifeDisks are the volumes, each with a writer. The last has none: see lose.
var lifeDisks = []struct {
	id     string
	target int // index of lifeTargets
	lvm    bool
}{
	{"file", 0, false}, {"lvm", 0, true}, {"through", 1, false}, {"lio", 2, true}, {lossVolume, 0, false},
}

const lossVolume = "lost"

func (l lifeTarget) dir() string    { return "/srv/" + l.name }
func (l lifeTarget) socket() string { return l.dir() + "/target.sock" }
func (l lifeTarget) portal() string { return fmt.Sprintf("%s:%d", lifeThere, l.port) }

func (l lifeTarget) conf() string {
	return fmt.Sprintf("name: one\naddress: %s\ndataDir: %s\nclasses: [storage]\nstorage: {engine: %s, portal: %q%s}\n",
		lifeThere, l.dir(), l.engine, l.portal(), l.more)
}

// life is the machine that is going to die, and those who use it.
type life struct {
	m       *lab.Machine
	cable   *lab.Cable
	dir     string
	writers []*writer
}

// TestLabTargetLife cuts the power of a storage host under load.
func TestLabTargetLife(t *testing.T) {
	l := &life{cable: lab.CableFor(t, 0), dir: t.TempDir()}
	if err := l.cable.Address(t.Context(), lifeHere+"/24"); err != nil {
		t.Fatal(err)
	}
	disk := lab.Disk{SizeBytes: 2 << 30, Cache: "none"}
	l.m = lab.For(t, lab.Config{Name: "storage", Disks: []lab.Disk{disk, disk}, NICs: []lab.NIC{{Cable: l.cable}}})
	l.furnish(t)
	l.up(t)
	l.publish(t)
	for n, d := range lifeDisks {
		if d.id != lossVolume {
			l.attach(t, d.id, lifeTargets[d.target], uint64(n))
		}
	}
	stop, ended := make(chan struct{}), make(chan error, len(l.writers))
	for _, w := range l.writers {
		go func() { ended <- w.run(stop) }()
	}
	l.awaitWriters(t, ended, readyMax, "each to have flushed often", func(w *writer) bool { return w.Flushes.Load() >= lifeLoad })
	floor := l.writeUnflushed(t)
	if err := l.m.Kill(); err != nil {
		t.Fatal(err)
	}
	killed, prober := time.Now(), l.probe()
	if err := l.m.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.up(t)
	l.awaitWriters(t, ended, recoverMax, "each to have seen the pause and checked its volume", func(w *writer) bool { return len(w.paused) > 0 })
	t.Logf("all write again %.1f s after the power was cut", time.Since(killed).Seconds())
	l.checkProber(t, prober)
	lost := l.countLost(t, floor)
	more := map[*writer]int64{}
	for _, w := range l.writers {
		more[w] = w.Flushes.Load() + flushEvery
	}
	l.awaitWriters(t, ended, recoverMax, "each to go on", func(w *writer) bool { return w.Flushes.Load() >= more[w] })
	close(stop)
	for range l.writers {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	l.report(t, lost)
}

// furnish fills the machine's first disk, which outlives its death: targets with
// their configurations, vcnd and the hand, as an operator's root would have them.
func (l *life) furnish(t *testing.T) {
	t.Helper()
	sh(t, l.m, "mkfs.ext4 -q /dev/disk/by-id/virtio-spare0 && mkdir -p /srv && mount /dev/disk/by-id/virtio-spare0 /srv && vgcreate -q life /dev/disk/by-id/virtio-spare1")
	giveHand(t, l.m)
	if err := l.m.PutFile(t.Context(), vcndPath(), "/srv/bin/vcnd"); err != nil {
		t.Fatal(err)
	}
	unit, err := os.ReadFile(filepath.Join("..", "..", "deploy", "vcnd-target.service"))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range lifeTargets {
		text := strings.Replace(string(unit), "/usr/local/bin/vcnd target\n", "/srv/bin/vcnd target --config "+x.dir()+".yaml\n", 1)
		if text == string(unit) {
			t.Fatal("deploy/vcnd-target.service starts something else than before")
		}
		for path, text := range map[string]string{"/srv/units/" + x.name + ".service": text, x.dir() + ".yaml": x.conf()} {
			if err := l.m.Put(t.Context(), strings.NewReader(text), path, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	sh(t, l.m, "sync; umount /srv")
}

// vcndPath is the program under test.
func vcndPath() string {
	if dir := os.Getenv("VCN_BIN"); dir != "" {
		return filepath.Join(dir, "vcnd")
	}
	return filepath.Join("..", "..", "build", "vcnd")
}

// up is what a host's own root does at boot. The volume group comes late, as
// disks do that are slow to be found: initiators must not hear that their
// target does not exist.
func (l *life) up(t *testing.T) {
	t.Helper()
	sh(t, l.m, `ip addr add `+lifeThere+`/24 dev eth0
		ip link set eth0 up
		mkdir -p /srv
		mount /dev/disk/by-id/virtio-spare0 /srv
		cp /srv/units/* /etc/systemd/system/
		systemctl daemon-reload
		udevadm settle
		vgchange -q -an life
		systemctl start $(cd /srv/units && echo *.service)
		sleep 1
		vgchange -q -ay life`)
	for _, x := range lifeTargets {
		await(t, readyMax, x.name+" to answer", func() (bool, error) {
			name, err := tryHand[string](t.Context(), l.m, "engine", handWork{Socket: x.socket()})
			if err == nil && name != x.engine {
				t.Fatalf("%s is served by engine %s", x.name, name)
			}
			return err == nil, err
		})
	}
}

// publish makes the volumes with the drivers and publishes them.
func (l *life) publish(t *testing.T) {
	t.Helper()
	for _, d := range lifeDisks {
		w := handWork{Volume: &hostops.VolumeSpec{ID: d.id, SizeBytes: lifeVolume}, Dir: "/srv/volumes"}
		if d.lvm {
			w.Dir, w.Group = "", "life"
		}
		path := hand[string](t, l.m, "volume", w)
		e := hostops.Export{Volume: d.id, Path: path, IQN: hostops.TargetIQN(d.id), Generation: 1}
		for _, who := range []string{writerName, proberName} {
			e.Access = append(e.Access, hostops.Access{
				Initiator: hostops.InitiatorIQN(who), Addr: netip.MustParseAddr(lifeHere), User: lifeUser, Secret: lifeSecret,
			})
		}
		hand[string](t, l.m, "publish", handWork{Socket: lifeTargets[d.target].socket(), Export: &e})
	}
}

// startTied starts a process that ends with this one, however that ends. The kernel
// ties it to the thread that started it, so that one waits with it.
func startTied(t *testing.T, cmd *exec.Cmd) (ended <-chan struct{}) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	return done
}

// attach starts a process with QEMU's block layer and initiator on the cable, as
// it is within a guest's QEMU, and a writer that uses it.
func (l *life) attach(t *testing.T, id string, x lifeTarget, seed uint64) {
	t.Helper()
	socket := filepath.Join(l.dir, id+".sock")
	opts := fmt.Sprintf("driver=raw,file.driver=iscsi,file.transport=tcp,file.portal=%s,file.target=%s,file.lun=1,file.user=%s,file.password=%s,file.initiator-name=%s",
		x.portal(), hostops.TargetIQN(id), lifeUser, lifeSecret, hostops.InitiatorIQN(writerName))
	cmd := l.cable.Command(context.WithoutCancel(t.Context()), "qemu-nbd", "--socket", socket, "--persistent", "--cache=none", "--image-opts", opts)
	said := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = said, said
	ended := startTied(t, cmd)
	var disk *nbd
	t.Cleanup(func() {
		if disk != nil {
			_ = disk.Close()
		}
		_ = cmd.Process.Kill()
		<-ended
		t.Logf("qemu-nbd of %s says: %s", id, said)
	})
	await(t, readyMax, "QEMU to have logged in to "+id, func() (ok bool, err error) {
		disk, err = dialNBD(socket)
		return err == nil, err
	})
	if disk.Size != lifeVolume {
		t.Fatalf("volume %s has %d bytes, want %d", id, disk.Size, lifeVolume)
	}
	l.writers = append(l.writers, newWriter(id, disk, strings.Contains(x.more, "writeThrough: true"), seed))
}

// awaitWriters waits for all writers, none of which may end.
func (l *life) awaitWriters(t *testing.T, ended <-chan error, limit time.Duration, what string, ok func(*writer) bool) {
	t.Helper()
	deadline := time.After(limit)
	for _, w := range l.writers {
		for !ok(w) {
			select {
			case err := <-ended:
				t.Fatalf("a writer has ended: %v", err)
			case <-deadline:
				t.Fatalf("waited %v in vain for %s: not %s, after %d writes and %d flushes", limit, what, w.name, w.Ops.Load(), w.Flushes.Load())
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

func (l *life) config(id string, x lifeTarget, who string) initiator.Config {
	return initiator.Config{Addr: x.portal(), Initiator: hostops.InitiatorIQN(who), Target: hostops.TargetIQN(id), User: lifeUser, Secret: lifeSecret, LUN: 1}
}

// writeUnflushed writes a volume, flushes it, and writes it again without a
// flush: if none of that is lost, the power was not really cut.
func (l *life) writeUnflushed(t *testing.T) (flushed byte) {
	t.Helper()
	err := l.cable.Do(func() error {
		k, err := initiator.Login(l.config(lossVolume, lifeTargets[0], writerName))
		if err != nil {
			return err
		}
		defer k.Close()
		for _, fill := range []byte{1, 2} {
			for i := range lossBlocks {
				a, err := k.Write(uint64(i)*blockBytes/512, []byte(strings.Repeat(string(fill), blockBytes)))
				if err != nil || a.Status != 0 {
					return fmt.Errorf("write: %w, %+v", err, a)
				}
			}
			if fill == 1 {
				if a, err := k.Flush(); err != nil || a.Status != 0 {
					return fmt.Errorf("flush: %w, %+v", err, a)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return 1
}

// countLost counts the blocks that are as they were flushed.
func (l *life) countLost(t *testing.T, flushed byte) (lost int) {
	t.Helper()
	err := l.cable.Do(func() error {
		k, err := initiator.Login(l.config(lossVolume, lifeTargets[0], writerName))
		if err != nil {
			return err
		}
		defer k.Close()
		for i := range lossBlocks {
			a, err := k.Read(uint64(i)*blockBytes/512, blockBytes/512)
			if err != nil || a.Status != 0 || len(a.Data) != blockBytes {
				return fmt.Errorf("read: %w, %+v", err, a)
			}
			switch {
			case a.Data[0] == flushed:
				lost++
			case a.Data[0] != flushed+1:
				return fmt.Errorf("block %d was flushed and is %x", i, a.Data[:16])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lost
}

// report says what was seen.
func (l *life) report(t *testing.T, lost int) {
	t.Helper()
	for _, w := range l.writers {
		t.Logf("%s: %d blocks written, %d flushes, pauses %v, %d blocks acknowledged and not there after the cut", w.name, w.Ops.Load(), w.Flushes.Load(), w.Pauses, w.Lost)
		if w.through && w.Lost > 0 {
			t.Errorf("%s: acknowledged in write-through mode and lost: %d", w.name, w.Lost)
		}
	}
	t.Logf("of %d blocks that were written and not flushed, %d were lost", lossBlocks, lost)
	if lost == 0 {
		t.Error("nothing was lost that was not flushed: this test could not tell a flush that does nothing")
	}
}

// probes are what a prober's logins came to.
type probes struct {
	stop  chan struct{}
	done  sync.WaitGroup
	mu    sync.Mutex
	count map[string]int // by volume and outcome
	bad   []string
}

// probe logs in to each volume, again and again.
func (l *life) probe() *probes {
	p := &probes{stop: make(chan struct{}), count: map[string]int{}}
	for _, d := range lifeDisks {
		p.done.Go(func() {
			for {
				select {
				case <-p.stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
				_ = l.cable.Do(func() error {
					c := l.config(d.id, lifeTargets[d.target], proberName)
					c.Timeout = time.Second
					k, err := initiator.Login(c)
					if err == nil {
						err = k.Close()
					}
					p.note(d.id, err)
					return nil
				})
			}
		})
	}
	return p
}

// note sorts an outcome. An initiator gives up at a class 2 (RFC 7143 11.13.5);
// class 3 and silence it repeats.
func (p *probes) note(id string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var refused *initiator.Refused
	switch {
	case err == nil:
		p.count[id+" let in"]++
	case errors.As(err, &refused):
		p.count[fmt.Sprintf("%s refused %02x%02x", id, refused.Class, refused.Detail)]++
		if refused.Class != 3 {
			p.bad = append(p.bad, fmt.Sprintf("%s: %v", id, err))
		}
	default:
		p.count[id+" not reached"]++
	}
}

func (l *life) checkProber(t *testing.T, p *probes) {
	t.Helper()
	for _, d := range lifeDisks {
		await(t, recoverMax, "the prober to be let in to "+d.id, func() (bool, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.count[d.id+" let in"] > 0 && p.count[d.id+" not reached"] > 0, fmt.Errorf("%v", p.count)
		})
	}
	close(p.stop)
	p.done.Wait()
	t.Logf("the prober: %v", p.count)
	if len(p.bad) > 0 {
		t.Errorf("%d logins were refused for good, the first: %s", len(p.bad), p.bad[0])
	}
}
