package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"vcn/hostops"
	"vcn/rolls"
)

// openStore makes a store in a directory of the test's own.
func openStore(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	initPath := filepath.Join(dir, "vcn-init")
	if err := os.WriteFile(initPath, []byte("init"), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Dir: filepath.Join(dir, "images"), CacheDir: filepath.Join(dir, "cache"), InitPath: initPath})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const testRootBytes = 64<<20 + 1234 // not a multiple of a block

// testRoot writes a sparse file: data at odd places, blocks of written zeros,
// a hole at the end.
func testRoot(t *testing.T, name string, seed uint64) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rnd := rand.New(rand.NewPCG(seed, 1))
	write := func(off int64, n int) {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 5000)
	write(3<<20+17, 3<<20)
	write(40<<20, blockBytes)
	if _, err := f.WriteAt(make([]byte, 1<<20), 50<<20); err != nil {
		t.Fatal(err)
	}
	write(testRootBytes-100, 100)
}

// addImage puts an image into the store as a build would.
func addImage(t *testing.T, s *Store, recipe string, seed uint64) hostops.Image {
	t.Helper()
	tmp, err := os.MkdirTemp(s.cfg.Dir, buildPrefix)
	if err != nil {
		t.Fatal(err)
	}
	testRoot(t, filepath.Join(tmp, rootName), seed)
	for _, n := range []string{kernelName, initrdName} {
		if err := os.WriteFile(filepath.Join(tmp, n), []byte(n+" content"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	init, err := fileDigest(s.cfg.InitPath)
	if err != nil {
		t.Fatal(err)
	}
	lock := Lock{Builder: builderVersion, Recipe: recipe, Init: init, Packages: []Package{{Name: "a", Version: "1", Arch: "all", SHA256: "x"}}}
	c, err := describeContents(t.Context(), tmp, []string{rootName, kernelName, initrdName})
	if err != nil {
		t.Fatal(err)
	}
	m := rolls.Manifest{Recipe: recipe, Digest: lock.Digest(), Appliance: "worker", Users: map[string]rolls.ID{"munge": {UID: 101, GID: 102}}}
	for name, v := range map[string]any{lockName: lock, contentsName: c, manifestName: m} {
		if err := writeJSON(filepath.Join(tmp, name), v); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.publish(tmp, lock.Digest()); err != nil {
		t.Fatal(err)
	}
	im, err := s.Get(t.Context(), lock.Digest())
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func exported(t *testing.T, s *Store, digest string, bootOnly bool) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := s.Export(t.Context(), digest, bootOnly, &buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func sameFile(t *testing.T, a, b string) {
	t.Helper()
	x, err1 := os.ReadFile(a)
	y, err2 := os.ReadFile(b)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Errorf("%s and %s differ", a, b)
	}
}

func empty(t *testing.T, s *Store) {
	t.Helper()
	es, err := os.ReadDir(s.cfg.Dir)
	if err != nil || len(es) > 0 {
		t.Errorf("left in the store: %v %v", es, err)
	}
}

func TestExportImportKeepsContentAndHoles(t *testing.T) {
	from, to := openStore(t), openStore(t)
	im := addImage(t, from, "r1", 1)
	stream := exported(t, from, im.Digest, false)
	if len(stream) > 5<<20 {
		t.Errorf("the stream of a sparse disk has %d bytes", len(stream))
	}
	got, err := to.Import(t.Context(), bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	sameFile(t, im.Root, got.Root)
	sameFile(t, im.Kernel, got.Kernel)
	sameFile(t, im.Initrd, got.Initrd)
	if got.Manifest.Users["munge"].GID != 102 || got.Recipe != "r1" {
		t.Errorf("manifest %+v", got.Manifest)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(got.Root, &st); err != nil {
		t.Fatal(err)
	}
	if n := st.Blocks * 512; n > 4<<20 || n != got.SizeBytes {
		t.Errorf("%d bytes allocated, %d reported", n, got.SizeBytes)
	}
	if !bytes.Equal(exported(t, to, im.Digest, false)[:64], stream[:64]) {
		t.Error("the copy exports another header")
	}
}

func TestBootOnlyIsCompletedAndNeverReplaced(t *testing.T) {
	from, to := openStore(t), openStore(t)
	im := addImage(t, from, "r1", 1)
	boot, err := to.Import(t.Context(), bytes.NewReader(exported(t, from, im.Digest, true)))
	if err != nil || boot.Root != "" || boot.Kernel == "" {
		t.Fatalf("%+v %v", boot, err)
	}
	if err := to.Export(t.Context(), im.Digest, false, io.Discard); !errors.Is(err, hostops.ErrNotFound) {
		t.Errorf("whole export of boot files: %v", err)
	}
	before, err := os.Stat(boot.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	stream := exported(t, from, im.Digest, false)
	for range 2 {
		whole, err := to.Import(t.Context(), bytes.NewReader(stream))
		if err != nil {
			t.Fatal(err)
		}
		sameFile(t, im.Root, whole.Root)
	}
	after, err := os.Stat(boot.Kernel)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the kernel was replaced: %v", err)
	}
	if got := exported(t, to, im.Digest, true); len(got) == 0 {
		t.Error("empty export")
	}
}

// repack decodes a stream, lets f change it, and encodes it again.
func repack(t *testing.T, stream []byte, f func([]byte) []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	plain, err := io.ReadAll(d)
	if err != nil {
		t.Fatal(err)
	}
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(f(plain), nil)
}

func TestImportRefusesWhatHasNotItsDigest(t *testing.T) {
	from := openStore(t)
	im := addImage(t, from, "r1", 1)
	stream := exported(t, from, im.Digest, false)
	header := func(change func(*streamHeader)) func([]byte) []byte {
		return func(b []byte) []byte {
			n := len(streamMagic)
			size := int(b[n])<<24 | int(b[n+1])<<16 | int(b[n+2])<<8 | int(b[n+3])
			var h streamHeader
			if err := json.Unmarshal(b[n+4:n+4+size], &h); err != nil {
				t.Fatal(err)
			}
			change(&h)
			j, err := json.Marshal(h)
			if err != nil {
				t.Fatal(err)
			}
			out := append([]byte(streamMagic), 0, byte(len(j)>>16), byte(len(j)>>8), byte(len(j)))
			return append(append(out, j...), b[n+4+size:]...)
		}
	}
	for name, f := range map[string]func([]byte) []byte{
		"a changed byte of the disk": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut short":                  func(b []byte) []byte { return b[:len(b)-len(streamEnd)-5] },
		"something after its end":    func(b []byte) []byte { return append(b, 0) },
		"another magic":              func(b []byte) []byte { b[0] = 'V'; return b },
		"a package added to the lock": header(func(h *streamHeader) {
			h.Lock.Packages = append(h.Lock.Packages, Package{Name: "b"})
		}),
		"another image's manifest": header(func(h *streamHeader) { h.Manifest.Digest = strings.Repeat("0", 64) }),
		"another recipe":           header(func(h *streamHeader) { h.Manifest.Recipe = "r2" }),
		"a path as digest":         header(func(h *streamHeader) { h.Digest = "../../etc" }),
		"a path as file":           header(func(h *streamHeader) { h.Files[0] = "../kernel" }),
		"no digest of a file":      header(func(h *streamHeader) { h.Contents.Files = h.Contents.Files[:1] }),
		"another size":             header(func(h *streamHeader) { h.Contents.Files[0].Size += 4096 }),
		"a negative size":          header(func(h *streamHeader) { h.Contents.Files[0].Size = -1 }),
	} {
		t.Run(name, func(t *testing.T) {
			to := openStore(t)
			_, err := to.Import(t.Context(), bytes.NewReader(repack(t, stream, f)))
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("error %v", err)
			}
			empty(t, to)
		})
	}
	t.Run("unchanged", func(t *testing.T) { // or the cases above prove nothing
		if _, err := openStore(t).Import(t.Context(), bytes.NewReader(repack(t, stream, header(func(*streamHeader) {})))); err != nil {
			t.Error(err)
		}
	})
	t.Run("no stream at all", func(t *testing.T) {
		to := openStore(t)
		if _, err := to.Import(t.Context(), strings.NewReader("hello")); err == nil {
			t.Error("accepted")
		}
		empty(t, to)
	})
}

func TestImportEndsWithItsContext(t *testing.T) {
	from, to := openStore(t), openStore(t)
	im := addImage(t, from, "r1", 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := to.Import(ctx, bytes.NewReader(exported(t, from, im.Digest, false))); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	empty(t, to)
}

func TestBlockDigestDoesNotDependOnHoles(t *testing.T) {
	dir := t.TempDir()
	sparse, dense := filepath.Join(dir, "sparse"), filepath.Join(dir, "dense")
	testRoot(t, sparse, 7)
	b, err := os.ReadFile(sparse)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dense, b, 0o644); err != nil {
		t.Fatal(err)
	}
	x, err1 := describeFile(t.Context(), sparse)
	y, err2 := describeFile(t.Context(), dense)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if x.SHA256 != y.SHA256 || x.Size != y.Size {
		t.Errorf("%+v and %+v", x, y)
	}
	b[45<<20] = 1
	if err := os.WriteFile(dense, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if z, err := describeFile(t.Context(), dense); err != nil || z.SHA256 == x.SHA256 {
		t.Errorf("a changed zero is not seen: %v", err)
	}
}
