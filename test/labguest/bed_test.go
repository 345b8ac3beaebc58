//go:build labguest

package labguest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/hostops/images"
	"vcn/rolls"
	"vcn/test/lab"
)

const (
	machineMemory = 2 << 30
	machineCPUs   = 2
	imagesDisk    = 3 << 30
	groupDisk     = 12 << 30
	groupName     = "vcn"
	imagesDir     = "/srv/images"
	tokenPath     = "/root/operator.token"
	joinPath      = "/root/join.token"

	trunkHere = "10.77.0.254"
	hostA     = "10.77.0.1"
	hostB     = "10.77.0.2"
	publicNet = "198.19.77"
	vlanFirst = 100
	vlanLast  = 109

	buildMax = 20 * time.Minute
	bedMax   = 6 * time.Minute
	askMax   = 2 * time.Minute
)

// bed is both hosts and what joins them.
type bed struct {
	trunk, public *lab.Cable
	a, b          *lab.Machine
	dir           string // of this run: capture, staging, keys, vcnctl's contexts
	bin           string // of vcnd, vcnctl and vcn-init
	began         time.Time
}

func root() string {
	wd, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	return filepath.Dir(filepath.Dir(wd))
}

// cacheDir is a directory below $VCN_CACHE.
func cacheDir(parts ...string) string {
	dir := os.Getenv("VCN_CACHE")
	if dir == "" {
		dir = filepath.Join(root(), ".cache")
	}
	return filepath.Join(append([]string{dir}, parts...)...)
}

// say tells what takes long at once: "go test" shows logs at the end only.
func (b *bed) say(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "%6.1fs "+format+"\n", append([]any{time.Since(b.began).Seconds()}, a...)...)
}

func bounded(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// newBed starts two machines and makes hosts of them, short of vcn's own part.
func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{dir: t.TempDir(), bin: filepath.Join(root(), "build"), began: time.Now()}
	store := b.buildImages(t)
	ctx := bounded(t, bedMax)
	b.trunk, b.public = lab.CableFor(t, 0), lab.CableFor(t, 0)
	if err := errors.Join(b.trunk.Address(ctx, trunkHere+"/24"), b.public.Address(ctx, publicNet+".1/24")); err != nil {
		t.Fatal(err)
	}
	b.a = b.start(t, lab.Config{
		Name: "host-a", MemoryBytes: machineMemory, CPUs: machineCPUs,
		Disks: []lab.Disk{{SizeBytes: imagesDisk}, {SizeBytes: groupDisk}},
		NICs:  []lab.NIC{{Cable: b.trunk, Capture: b.capture()}},
	})
	b.b = b.start(t, lab.Config{
		Name: "host-b", MemoryBytes: machineMemory, CPUs: machineCPUs,
		NICs: []lab.NIC{{Cable: b.trunk}, {Cable: b.public}},
	})
	b.giveImages(t, store)
	b.install(t)
	return b
}

// capture is where the frames of host-a's card are.
func (b *bed) capture() string { return filepath.Join(b.dir, "trunk.pcap") }

// start starts a machine, and keeps what its guests said if the test fails.
func (b *bed) start(t *testing.T, c lab.Config) *lab.Machine {
	t.Helper()
	c.Progress = func(s string) { b.say("%s", s) }
	m := lab.For(t, c)
	t.Cleanup(func() {
		if t.Failed() {
			b.keepGuests(t, m)
		}
	})
	return m
}

// keepGuests saves consoles and logs of the guests of a machine.
func (b *bed) keepGuests(t *testing.T, m *lab.Machine) {
	ctx, cancel := context.WithTimeout(context.Background(), askMax)
	defer cancel()
	var out bytes.Buffer
	c := m.Command(ctx, "tar", "-C", "/", "--ignore-failed-read", "-czf", "-", "var/lib/vcn/nodes", "var/log/libvirt")
	c.Stdout = &out
	path := filepath.Join(lab.LogsDir(), t.Name(), m.Name()+"-guests.tar.gz")
	if err := errors.Join(c.Run(), os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, out.Bytes(), 0o644)); err != nil {
		t.Logf("keep the guests' consoles: %v", err)
	}
	t.Logf("consoles of the guests of %s: %s", m.Name(), path)
}

// buildImages builds what the cluster needs, or finds it in the cache, and
// returns the directory of a store that has it.
func (b *bed) buildImages(t *testing.T) string {
	t.Helper()
	dir := cacheDir("labguest", "images")
	store, err := images.New(images.Config{Dir: dir, CacheDir: cacheDir("cache"), InitPath: filepath.Join(b.bin, "vcn-init")})
	if err != nil {
		t.Fatal(err)
	}
	catalog, err := rolls.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	ctx := bounded(t, buildMax)
	keep := map[string]bool{}
	for _, appliance := range []string{rolls.ApplianceFrontend, rolls.ApplianceWorker} {
		recipe, err := catalog.Resolve(nil, appliance)
		if err != nil {
			t.Fatal(err)
		}
		im, err := store.Build(ctx, hostops.BuildSpec{Recipe: recipe}, func(s string) { b.say("image of the %s: %s", appliance, s) })
		if err != nil {
			t.Fatal(err)
		}
		keep[im.Digest] = true
		b.say("image of the %s: %d MiB", appliance, im.SizeBytes>>20)
	}
	list, err := store.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, im := range list { // of earlier rolls: the disk for host-a holds few
		if !keep[im.Digest] {
			if err := store.Remove(ctx, im.Digest); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// giveImages makes a file system of the store on host-a's first disk, from the
// outside: nothing in the machine has it open.
func (b *bed) giveImages(t *testing.T, store string) {
	t.Helper()
	ctx := bounded(t, askMax)
	cmd := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", "nodiscard,lazy_itable_init=1", "-O", "^has_journal", "-d", store, filepath.Join(b.a.Dir(), "spare0.img"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make a disk of images: %v: %s", err, out)
	}
	b.sh(t, b.a, "mkdir -p "+imagesDir+" && mount /dev/disk/by-id/virtio-spare0 "+imagesDir)
}

// install runs "make install" into a staging directory and unpacks that in both
// machines, which have neither make nor a clone.
func (b *bed) install(t *testing.T) {
	t.Helper()
	ctx := bounded(t, askMax)
	stage := filepath.Join(b.dir, "stage")
	cmd := exec.CommandContext(ctx, "make", "-C", root(), "install", "DESTDIR="+stage)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v: %s", err, out)
	}
	packed := filepath.Join(b.dir, "stage.tar")
	if out, err := exec.CommandContext(ctx, "tar", "-C", stage, "--owner=0", "--group=0", "-cf", packed, ".").CombinedOutput(); err != nil {
		t.Fatalf("pack what is installed: %v: %s", err, out)
	}
	for _, m := range []*lab.Machine{b.a, b.b} {
		if err := m.PutFile(ctx, packed, "/tmp/stage.tar"); err != nil {
			t.Fatal(err)
		}
		// Not over /'s own directories: their modes are the distribution's.
		b.sh(t, m, "tar -C / --no-overwrite-dir -xf /tmp/stage.tar && rm /tmp/stage.tar && systemctl daemon-reload")
	}
	b.say("vcn is installed on both hosts")
}

// sh runs a script in a machine; it must succeed.
func (b *bed) sh(t *testing.T, m *lab.Machine, script string) string {
	t.Helper()
	out, err := b.try(bounded(t, askMax), m, script)
	if err != nil {
		t.Fatalf("on %s: %s: %v: %s", m.Name(), script, err, out)
	}
	return out
}

func (b *bed) try(ctx context.Context, m *lab.Machine, script string) (string, error) {
	out, err := m.Command(ctx, "sh", "-euc", script).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// vcnctl runs here, with its end of the trunk.
func (b *bed) vcnctl(ctx context.Context, args ...string) (string, error) {
	cmd := b.trunk.Command(ctx, append([]string{"env", "VCN_CONFIG=" + filepath.Join(b.dir, "vcnctl.yaml"), filepath.Join(b.bin, "vcnctl")}, args...)...)
	var out, errb bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errb
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("run vcnctl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(errb.Bytes()))
	}
	return out.String(), nil
}

// ctl is vcnctl, which must succeed.
func (b *bed) ctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := b.vcnctl(bounded(t, askMax), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
