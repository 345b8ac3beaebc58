package volume

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vcn/hostops"
	"vcn/hostops/hosttest"
)

const mib = 1 << 20

const testOwner = "cluster c-1 host h-1"

// sparseBase writes data at the start, in the middle and at the end.
func sparseBase(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "base.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, 70_000)
	rand.Read(data)
	for _, at := range []int64{0, size/2 + 12_345, size - int64(len(data))} {
		if _, err := f.WriteAt(data, at); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func newStore(t *testing.T) *File {
	t.Helper()
	f, err := NewFile(FileConfig{Dir: filepath.Join(t.TempDir(), "volumes"), Owner: testOwner})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConformance(t *testing.T) {
	hosttest.TestVolumes(t, func(t *testing.T) hosttest.VolumesEnv {
		mark := []byte("written by the guest")
		return hosttest.VolumesEnv{
			Volumes: newStore(t),
			Base:    sparseBase,
			Content: func(t *testing.T, v hostops.Volume, base string) {
				want := read(t, base)
				got := read(t, v.Path)
				if !bytes.Equal(got[:len(want)], want) {
					t.Error("the clone differs from its base")
				}
				if len(bytes.Trim(got[len(want):], "\x00")) != 0 {
					t.Error("what was added is not zero")
				}
			},
			Write: func(t *testing.T, v hostops.Volume) {
				f, err := os.OpenFile(v.Path, os.O_WRONLY, 0)
				if err == nil {
					_, err = f.WriteAt(mark, 4096)
					f.Close()
				}
				if err != nil {
					t.Fatal(err)
				}
			},
			Written: func(t *testing.T, v hostops.Volume) {
				if !bytes.Equal(read(t, v.Path)[4096:4096+len(mark)], mark) {
					t.Error("the guest's data is gone")
				}
			},
		}
	})
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestCopySparse takes the way without reflink, whatever the file system can.
func TestCopySparse(t *testing.T) {
	base := sparseBase(t, 64*mib)
	src, err := os.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if err := copySparse(t.Context(), dst, src); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, dst.Name()), read(t, base)) {
		t.Error("the copy differs")
	}
	if got := blocks(t, dst.Name()); got > mib {
		t.Errorf("the copy of a sparse file takes %d bytes", got)
	}
}

func TestCopyOfAHoleOnly(t *testing.T) {
	base := filepath.Join(t.TempDir(), "hole")
	if err := os.WriteFile(base, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(base, 8*mib); err != nil {
		t.Fatal(err)
	}
	v, err := newStore(t).Ensure(t.Context(), hostops.VolumeSpec{ID: "a", SizeBytes: 16 * mib, Base: base})
	if err != nil || v.SizeBytes != 16*mib {
		t.Fatalf("%+v, %v", v, err)
	}
	if got := blocks(t, v.Path); got != 0 {
		t.Errorf("a hole takes %d bytes", got)
	}
}

// endAfter is a context that ends after it was asked n times.
type endAfter struct {
	context.Context
	left int
}

func (e *endAfter) Err() error {
	if e.left--; e.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestACancelledCopyLeavesNothing(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	if err := os.WriteFile(base, bytes.Repeat([]byte{7}, 40*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := os.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if err := copySparse(&endAfter{t.Context(), 2}, dst, src); !errors.Is(err, context.Canceled) {
		t.Errorf("copy: %v", err)
	}
	if got := blocks(t, dst.Name()); got >= 40*mib {
		t.Error("the copy was not stopped")
	}
	store := newStore(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := store.create(ended, hostops.VolumeSpec{ID: "a", SizeBytes: 40 * mib, Base: base}); !errors.Is(err, context.Canceled) {
		t.Errorf("create: %v", err)
	}
	if left, _ := os.ReadDir(store.dir); len(left) != 1 || left[0].Name() != MarkName {
		t.Errorf("left behind: %v", left)
	}
}

func TestNewRemovesHalfMadeVolumes(t *testing.T) {
	dir := newStore(t).dir
	dead, live := filepath.Join(dir, partPrefix+"a-XYZ"), filepath.Join(dir, partPrefix+"b-XYZ")
	for _, p := range []string{dead, live} {
		if err := os.WriteFile(p, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(live)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	store, err := NewFile(FileConfig{Dir: dir, Owner: testOwner, Known: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dead part is still there: %v", err)
	}
	if _, err := os.Stat(live); err != nil {
		t.Errorf("a part that is being written was removed: %v", err)
	}
	if all, err := store.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("half-made volumes are listed: %+v, %v", all, err)
	}
}

func TestRefusals(t *testing.T) {
	store := newStore(t)
	ctx := t.Context()
	base := sparseBase(t, 8*mib)
	if _, err := store.Ensure(ctx, hostops.VolumeSpec{ID: "a", SizeBytes: 4 * mib, Base: base}); !errors.Is(err, hostops.ErrInvalid) {
		t.Errorf("smaller than its base: %v", err)
	}
	if _, err := store.Ensure(ctx, hostops.VolumeSpec{ID: "a", SizeBytes: 4 * mib, Base: base + "-not"}); !errors.Is(err, hostops.ErrNotFound) {
		t.Errorf("no base: %v", err)
	}
	if err := os.Mkdir(store.path("dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Ensure(ctx, hostops.VolumeSpec{ID: "dir", SizeBytes: mib}); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("a directory in the way: %v", err)
	}
	if err := store.Remove(ctx, "dir"); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("Remove of a directory: %v", err)
	}
	for _, c := range []FileConfig{
		{Owner: testOwner}, {Dir: "relative", Owner: testOwner}, {Dir: t.TempDir(), Owner: testOwner, ReserveBytes: -1},
		{Dir: t.TempDir()}, {Dir: t.TempDir(), Owner: "two\nlines"}, {Dir: t.TempDir(), Owner: strings.Repeat("x", 256)},
	} {
		if _, err := NewFile(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	all, err := store.List(ctx)
	if err != nil || len(all) != 0 {
		t.Errorf("List: %+v, %v", all, err)
	}
}

func TestReserveIsNeverOffered(t *testing.T) {
	store := newStore(t)
	total, _, err := store.Capacity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	store.reserve = total - mib
	if _, free, err := store.Capacity(t.Context()); err != nil || free > mib {
		t.Errorf("free: %d, %v", free, err)
	}
	base := filepath.Join(t.TempDir(), "base")
	if err := os.WriteFile(base, bytes.Repeat([]byte{7}, 2*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	// The volume itself is not larger than the store, its data is.
	var st unix.Statfs_t
	if err := unix.Statfs(store.dir, &st); err != nil {
		t.Fatal(err)
	}
	store.reserve = int64(st.Bavail)*st.Bsize - mib
	_, err = store.Ensure(t.Context(), hostops.VolumeSpec{ID: "a", SizeBytes: 2 * mib, Base: base})
	if !errors.Is(err, hostops.ErrNoSpace) || !strings.Contains(err.Error(), "free are") {
		t.Errorf("Ensure: %v, want ErrNoSpace with both sizes", err)
	}
}

func BenchmarkClone415MB(b *testing.B) {
	dir := b.TempDir()
	base := filepath.Join(dir, "base")
	f, err := os.Create(base)
	if err != nil {
		b.Fatal(err)
	}
	chunk := make([]byte, mib)
	for i := range int64(415) { // data in 4 GiB, as an image has it
		rand.Read(chunk)
		if _, err := f.WriteAt(chunk, i*9*mib); err != nil {
			b.Fatal(err)
		}
	}
	f.Truncate(4 << 30)
	f.Sync()
	f.Close()
	store, err := NewFile(FileConfig{Dir: filepath.Join(dir, "volumes"), Owner: testOwner})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		began := time.Now()
		if _, err := store.Ensure(b.Context(), hostops.VolumeSpec{ID: "a", SizeBytes: 8 << 30, Base: base}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/clone")
		b.StopTimer()
		if err := store.Remove(b.Context(), "a"); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
