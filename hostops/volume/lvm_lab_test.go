//go:build lab

package volume

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/hostops/hosttest"
)

const labDisk = "/dev/disk/by-id/virtio-spare0"

// labRun runs a command of the machine; it fails the test unless it succeeds.
func labRun(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// labGroup makes a volume group of an empty disk, with hyphens in its name, and
// takes it away in the end. An earlier test that was killed may have left one.
func labGroup(t testing.TB, disk string) string {
	t.Helper()
	clean := func() {
		for _, vg := range strings.Fields(labRun(t, "vgs", "--noheadings", "-o", "vg_name", "-S", "pv_name="+labReal(t, disk))) {
			labRun(t, "vgremove", "-ff", "-y", vg)
		}
		labRun(t, "wipefs", "-qa", disk)
	}
	clean()
	vg := "vcn-t-" + strings.ToLower(rand.Text()[:6])
	labRun(t, "vgcreate", "-q", "-y", vg, disk)
	t.Cleanup(clean)
	return vg
}

func labReal(t testing.TB, path string) string {
	t.Helper()
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	return real
}

// labLog keeps what the driver logs.
type labLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *labLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *labLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func labStore(t testing.TB, c LVMConfig) (*LVM, *labLog) {
	t.Helper()
	if c.Owner == "" {
		c.Owner = testOwner
	}
	log := &labLog{}
	c.Log = slog.New(slog.NewTextHandler(log, nil))
	// Commands are what a test's time goes into.
	var commands, spent atomic.Int64
	l, err := newLVM(t.Context(), c, func(ctx context.Context, change bool, name string, args ...string) ([]byte, error) {
		began := time.Now()
		defer func() { commands.Add(1); spent.Add(int64(time.Since(began))) }()
		return runCommand(ctx, change, name, args...)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { t.Logf("%d commands took %v", commands.Load(), time.Duration(spent.Load()).Round(time.Second)) })
	return l, log
}

// labEmpty removes everything of ours from the pool, images too.
func labEmpty(t testing.TB, l *LVM) {
	t.Helper()
	labRun(t, "lvremove", "-q", "-y", "-S", `lv_tags={"`+ownedTag(l.cfg.Owner)+`"}`, l.cfg.VolumeGroup)
}

func labEnsure(t testing.TB, l *LVM, s hostops.VolumeSpec) hostops.Volume {
	t.Helper()
	v, err := l.Ensure(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// labState is a look at the group that must succeed.
func labState(t testing.TB, l *LVM) *lvmState {
	t.Helper()
	st, err := l.observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// labWrite writes n bytes at off and flushes them.
func labWrite(path string, b []byte, off int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, off)
	return errors.Join(err, f.Sync(), f.Close())
}

func labRead(t testing.TB, path string, off, n int64) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(f, off, n), b); err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return b
}

func labZero(t testing.TB, path string, off, n int64) {
	t.Helper()
	if len(bytes.Trim(labRead(t, path, off, n), "\x00")) != 0 {
		t.Errorf("%s is not zero at %d", path, off)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func TestLabLVMConformance(t *testing.T) {
	l, _ := labStore(t, LVMConfig{VolumeGroup: labGroup(t, labDisk), PoolBytes: 512 * mib})
	mark := []byte("written by the guest")
	hosttest.TestVolumes(t, func(t *testing.T) hosttest.VolumesEnv {
		t.Cleanup(func() { labEmpty(t, l) })
		return hosttest.VolumesEnv{
			Volumes: l,
			Base:    sparseBase,
			Content: func(t *testing.T, v hostops.Volume, base string) {
				got, want := labRead(t, v.Path, 0, v.SizeBytes), read(t, base)
				if !bytes.Equal(got[:len(want)], want) {
					t.Error("the clone differs from its base")
				}
				if len(bytes.Trim(got[len(want):], "\x00")) != 0 {
					t.Error("what was added is not zero")
				}
			},
			Write: func(t *testing.T, v hostops.Volume) {
				if err := labWrite(v.Path, mark, 4096); err != nil {
					t.Fatal(err)
				}
			},
			Written: func(t *testing.T, v hostops.Volume) {
				if !bytes.Equal(labRead(t, v.Path, 4096, int64(len(mark))), mark) {
					t.Error("the guest's data is gone")
				}
			},
		}
	})
}

// TestLabLVMImages is about what clones of one image share, and what they do not.
func TestLabLVMImages(t *testing.T) {
	l, log := labStore(t, LVMConfig{VolumeGroup: labGroup(t, labDisk), PoolBytes: 512 * mib})
	base := filepath.Join(t.TempDir(), "base")
	content := random(20 * mib)
	if err := os.WriteFile(base, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(base, 64*mib); err != nil {
		t.Fatal(err)
	}
	var imports sync.Map
	l.at = func(step string) {
		if step == "imported" {
			_, twice := imports.LoadOrStore(step, true)
			if twice {
				t.Error("one image was imported twice")
			}
		}
	}
	var wg sync.WaitGroup
	made := make([]hostops.Volume, 3)
	for i := range made {
		wg.Go(func() {
			v, err := l.Ensure(t.Context(), hostops.VolumeSpec{ID: fmt.Sprintf("node-%d", i), SizeBytes: 100*mib + 512, Base: base, Image: "abc"})
			if err != nil {
				t.Error(err)
			}
			made[i] = v
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	st := labState(t, l)
	if used := st.status.dataUsed * st.pool.chunkBytes; used < 20*mib || used > 22*mib {
		t.Errorf("three clones of an image with 20 MiB use %d bytes", used)
	}
	image := st.lvs["vcn.i.abc"]
	if image == nil || !image.readOnly || image.active || !image.skipActivation || image.dataBytes() != 20*mib || image.has(tagMaking) {
		t.Fatalf("the image volume: %+v", image)
	}
	for i, v := range made {
		if v.SizeBytes != 104*mib || v.Path == "" { // an extent has 4 MiB
			t.Errorf("%+v", v)
		}
		if err := labWrite(v.Path, random(100_000), int64(i)*mib); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := l.List(t.Context()); err != nil || len(all) != 3 {
		t.Errorf("%+v, %v", all, err)
	}
	// What one wrote no other sees, and a clone made later sees none of it.
	if err := os.Remove(base); err != nil {
		t.Fatal(err)
	}
	late := labEnsure(t, l, hostops.VolumeSpec{ID: "late", SizeBytes: 64 * mib, Base: base, Image: "abc"})
	if !bytes.Equal(labRead(t, late.Path, 0, 20*mib), content) {
		t.Error("a clone made later is not the image")
	}
	if !bytes.Equal(labRead(t, made[2].Path, 0, 2*mib), content[:2*mib]) {
		t.Error("what others wrote is in a clone")
	}
	labZero(t, late.Path, 20*mib, 44*mib)
	// Clones live without their image, which goes when nobody is left.
	for _, id := range []string{"node-0", "node-1", "node-2"} {
		if err := l.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if st := labState(t, l); len(st.unusedImages()) != 0 {
		t.Error("an image with a clone counts as unused")
	}
	if _, err := l.Ensure(t.Context(), hostops.VolumeSpec{ID: "small", SizeBytes: 32 * mib, Base: base, Image: "abc"}); !errors.Is(err, hostops.ErrInvalid) {
		t.Errorf("smaller than its image: %v", err)
	}
	if err := l.Remove(t.Context(), "late"); err != nil {
		t.Fatal(err)
	}
	st = labState(t, l)
	if len(st.unusedImages()) != 1 || !l.dropOldest(t.Context(), st.unusedImages(), "") {
		t.Error("an image without clones is not removed")
	}
	labFree(t, l, 0)
	if s := log.String(); strings.Contains(s, "level=WARN") || strings.Contains(s, "level=ERROR") {
		t.Errorf("logged: %s", s)
	}
}
