package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/rolls"
)

func testRecipe() rolls.Recipe {
	return rolls.Recipe{Appliance: "worker", Rolls: []*rolls.Roll{
		{Name: "base", Version: "1.0", Apply: map[string]rolls.Apply{"*": {Packages: []string{"openssh-server"}}}},
		{Name: "slurm", Version: "1.0", Apply: map[string]rolls.Apply{"worker": {Packages: []string{"slurmd"}}}},
	}}
}

func TestStoreGetListRemove(t *testing.T) {
	s := openStore(t)
	a, b := addImage(t, s, "r1", 1), addImage(t, s, "r2", 2)
	for _, stray := range []string{".build-x", ".import-y", "notes"} { // not finished, or not ours
		if err := os.Mkdir(filepath.Join(s.cfg.Dir, stray), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ims, err := s.List(t.Context())
	if err != nil || len(ims) != 2 {
		t.Fatal(ims, err)
	}
	for range 2 { // removing what is absent succeeds
		if err := s.Remove(t.Context(), a.Digest); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Get(t.Context(), a.Digest); !errors.Is(err, hostops.ErrNotFound) {
		t.Errorf("get after remove: %v", err)
	}
	if got, err := s.Get(t.Context(), b.Digest); err != nil || got.Recipe != "r2" {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []string{"", "..", strings.Repeat("g", 64), "../" + b.Digest} {
		if _, err := s.Get(t.Context(), bad); err == nil {
			t.Errorf("get %q: no error", bad)
		}
		if err := s.Remove(t.Context(), bad); err == nil {
			t.Errorf("remove %q: no error", bad)
		}
	}
}

// TestADamagedImageIsLeftOutAndReplaced: one bad image must not make a host
// blind for the others, and a good copy takes its place.
func TestADamagedImageIsLeftOutAndReplaced(t *testing.T) {
	for name, damage := range map[string]func(im hostops.Image) error{
		"no kernel": func(im hostops.Image) error { return os.Remove(im.Kernel) },
		"half a manifest": func(im hostops.Image) error {
			return os.WriteFile(filepath.Join(im.Dir, manifestName), []byte("{"), 0o644)
		},
		"another's digest": func(im hostops.Image) error {
			return os.WriteFile(filepath.Join(im.Dir, manifestName), []byte("{}"), 0o644)
		},
		"no manifest": func(im hostops.Image) error { return os.Remove(filepath.Join(im.Dir, manifestName)) },
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			s := openStore(t)
			s.log = slog.New(slog.NewTextHandler(&log, nil))
			good, bad := addImage(t, s, "r1", 1), addImage(t, s, "r2", 2)
			copied := exported(t, s, bad.Digest, false)
			if err := damage(bad); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				ims, err := s.List(t.Context())
				if err != nil || len(ims) != 1 || ims[0].Digest != good.Digest {
					t.Fatalf("%+v, %v; want the good one", ims, err)
				}
			}
			if n := strings.Count(log.String(), "digest="+bad.Digest); n != 1 && name != "no manifest" {
				t.Errorf("it was logged %d times, want once: %s", n, log.String())
			}
			if im, err := s.Import(t.Context(), bytes.NewReader(copied)); err != nil || im.Recipe != "r2" || im.Root == "" {
				t.Fatalf("a good copy: %+v, %v", im, err)
			}
			if ims, err := s.List(t.Context()); err != nil || len(ims) != 2 {
				t.Errorf("%+v, %v; want both", ims, err)
			}
			if left, _ := filepath.Glob(filepath.Join(s.cfg.Dir, ".*")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestLeftoversAreCleaned(t *testing.T) {
	s := openStore(t)
	im := addImage(t, s, "r1", 1)
	mk := func(parts ...string) string {
		dir := filepath.Join(parts...)
		if err := os.MkdirAll(filepath.Join(dir, "deep/er"), 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	build, work := mk(s.cfg.Dir, ".build-1"), mk(s.cfg.CacheDir, "work-1")
	kept := []string{mk(s.cfg.CacheDir, "base-1"), mk(s.cfg.CacheDir, "apt"), im.Dir}
	imported := mk(s.cfg.Dir, ".import-1")
	if err := s.clean(); err != nil {
		t.Fatal(err)
	}
	if _, err := New(s.cfg); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{build, work, imported} {
		if _, err := os.Stat(d); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", d, err)
		}
	}
	for _, d := range kept {
		if _, err := os.Stat(d); err != nil {
			t.Errorf("%s is gone: %v", d, err)
		}
	}
}

func TestBuildReturnsTheImageThatIsHere(t *testing.T) {
	s := openStore(t)
	r := testRecipe()
	im := addImage(t, s, r.Digest(), 1)
	got, err := s.Build(t.Context(), hostops.BuildSpec{Recipe: r}, nil)
	if err != nil || got.Digest != im.Digest {
		t.Fatalf("%+v %v", got, err)
	}
	// Another init program makes another image, so this one does not count.
	if err := os.WriteFile(s.cfg.InitPath, []byte("newer"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.present(t.Context(), r); ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
}

func TestBuildWaitsForAnotherAndEndsWithItsContext(t *testing.T) {
	s := openStore(t)
	s.building <- struct{}{} // another build is running
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Build(ctx, hostops.BuildSpec{Recipe: testRecipe()}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestCacheIsLockedAcrossProcesses(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockDir(t.Context(), dir, func() { t.Error("waited for nobody") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	waited := false
	if _, err := lockDir(ctx, dir, func() { waited = true }); !errors.Is(err, context.DeadlineExceeded) || !waited {
		t.Errorf("waited %v, error %v", waited, err)
	}
	unlock()
	again, err := lockDir(t.Context(), dir, func() {})
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestMissingToolsAreNamedWithTheirPackages(t *testing.T) {
	err := checkTools(func(p string) (string, error) {
		if p == "mmdebstrap" || p == "mke2fs" {
			return "", exec.ErrNotFound
		}
		return "/bin/" + p, nil
	})
	if !errors.Is(err, ErrTool) || !strings.Contains(err.Error(), "package mmdebstrap") || !strings.Contains(err.Error(), "package e2fsprogs") {
		t.Errorf("error %v", err)
	}
}

func TestNewRefusesPathsThatMountWouldMisread(t *testing.T) {
	for _, dir := range []string{"a:b", "a,b", "a b", `a\b`, ""} {
		if dir != "" {
			dir = filepath.Join(t.TempDir(), dir)
		}
		if _, err := New(Config{Dir: dir, CacheDir: t.TempDir()}); err == nil {
			t.Errorf("%q: accepted", dir)
		}
	}
}

func TestLockDigest(t *testing.T) {
	a := Package{Name: "a", Version: "1:2", Arch: "amd64", SHA256: "aa", Size: 1}
	b := Package{Name: "b", Version: "3", Arch: "all", SHA256: "bb", Size: 2}
	base := Lock{Builder: 1, Release: "bookworm", Recipe: "r", Init: "i", Packages: []Package{a, b}}
	// Pinned: a change of this digest makes every image of every host another one.
	const golden = "e438ab47b064"
	if got := base.Digest(); len(got) != 64 || !strings.HasPrefix(got, golden) {
		t.Errorf("digest %s", got)
	}
	turned := base
	turned.Packages = []Package{b, a}
	if turned.Digest() != base.Digest() {
		t.Error("the order of packages changes the digest")
	}
	if turned.Packages[0].Name != "b" {
		t.Error("computing a digest changed the lock")
	}
	seen := map[string]string{base.Digest(): "base"}
	for name, change := range map[string]func(*Lock){
		"builder": func(l *Lock) { l.Builder++ }, "release": func(l *Lock) { l.Release = "trixie" },
		"recipe": func(l *Lock) { l.Recipe = "s" }, "init": func(l *Lock) { l.Init = "j" },
		"version": func(l *Lock) { l.Packages[0].Version = "2" }, "sha256": func(l *Lock) { l.Packages[0].SHA256 = "ab" },
		"less": func(l *Lock) { l.Packages = l.Packages[:1] },
	} {
		l := base
		l.Packages = slices.Clone(base.Packages)
		change(&l)
		if other := seen[l.Digest()]; other != "" {
			t.Errorf("%s has the digest of %s", name, other)
		}
		seen[l.Digest()] = name
	}
	if got := a.file(); got != "a_1%3a2_amd64.deb" {
		t.Errorf("file %s", got)
	}
}

func TestFetchOptionsTakesHowAndNotWhat(t *testing.T) {
	got := fetchOptions(`APT "";
Acquire "";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::https::Verify-Peer "false";
Acquire::Check-Valid-Until "false";
Acquire::IndexTargets::deb::Packages::Optional "0";
Acquire::GzipIndexes "true";
DPkg::Post-Invoke:: "rm -rf /var/cache/apt";
`)
	want := `Acquire::http::Proxy "http://proxy.example:3128";
Acquire::https::Verify-Peer "false";
Acquire::Check-Valid-Until "false";
`
	if got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestParseInst(t *testing.T) {
	got := parseInst(`NOTE: This is only a simulation!
Inst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64]) []
Inst qemu-guest-agent [1:7.0] (1:7.2+dfsg-7 Debian:12.15/oldstable, Debian-Security:12/oldstable-security [amd64])
Inst ca-certificates (20230311 Debian:12.15/oldstable [all])
Conf libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64])
`)
	want := []Package{{Name: "libc6", Version: "2.36-9+deb12u14", Arch: "amd64"},
		{Name: "qemu-guest-agent", Version: "1:7.2+dfsg-7", Arch: "amd64"}, {Name: "ca-certificates", Version: "20230311", Arch: "all"}}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestFlatIndex(t *testing.T) {
	recs := `Package: a
Version: 1:2
Architecture: amd64
Description: words
 Filename: not this
Filename: pool/main/a/a_2_amd64.deb
Size: 42
SHA256: aa

Package: a
Version: 1:2
Architecture: amd64
Filename: elsewhere/a_2_amd64.deb
Size: 43
SHA256: ab

Package: z
Version: 1
Architecture: all
Size: 1
SHA256: zz
`
	ps := []Package{{Name: "a", Version: "1:2", Arch: "amd64"}}
	got, err := flatIndex(recs, ps)
	if err != nil || ps[0].SHA256 != "aa" || ps[0].Size != 42 {
		t.Fatalf("%v %+v", err, ps)
	}
	want := "Package: a\nVersion: 1:2\nArchitecture: amd64\nDescription: words\n Filename: not this\nFilename: ./a_1%3a2_amd64.deb\nSize: 42\nSHA256: aa\n\n"
	if got != want {
		t.Errorf("got\n%s", got)
	}
	if _, err := flatIndex(recs, []Package{{Name: "absent", Version: "1", Arch: "all"}}); err == nil {
		t.Error("a package without record is no error")
	}
}

func TestBlameNamesTheRoll(t *testing.T) {
	for out, want := range map[string]string{
		"E: Unable to locate package slurmd":                                               "roll slurm@1.0: package slurmd",
		"E: Package 'openssh-server' has no installation candidate":                        "roll base@1.0: package openssh-server",
		"dpkg: error processing package slurmd (--configure):\n installed slurmd":          "roll slurm@1.0: package slurmd",
		"dpkg: error processing archive /x/libc6.deb (--unpack)":                           "",
		"dpkg: error processing package libhwloc15 (--configure):\n dependency problems -": "package libhwloc15, which the rolls' packages need",
	} {
		err := blame(fmt.Errorf("%w: apt-get: exit status 100\n%s", ErrBuild, out), testRecipe())
		if !errors.Is(err, ErrBuild) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), out) {
			t.Errorf("%q: %v", out, err)
		}
	}
	if err := blame(context.Canceled, testRecipe()); err != context.Canceled {
		t.Errorf("error %v", err)
	}
}

func TestPruneBasesKeepsThoseUsedLast(t *testing.T) {
	dir := t.TempDir()
	for i := range 5 {
		d := filepath.Join(dir, fmt.Sprintf("%s%d", basePrefix, i))
		at := time.Unix(int64(1000+i), 0)
		if err := errors.Join(os.Mkdir(d, 0o755), os.Chtimes(d, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := pruneBases(dir); err != nil {
		t.Fatal(err)
	}
	got, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(got) != baseTreesMax || filepath.Base(got[0]) != "base-2" {
		t.Errorf("%v %v", got, err)
	}
}

func TestParseManifest(t *testing.T) {
	m, err := parseManifest("apt 2.6\nbash 5.2\n\nroot:x:0:0:root:/root:/bin/bash\nmunge:x:101:102::/:/bin/false\n\nroot:x:0:\nmunge:x:102:\n\n6.1.0-56-cloud-amd64\n")
	if err != nil {
		t.Fatal(err)
	}
	if m.Packages["bash"] != "5.2" || m.Users["munge"] != (rolls.ID{UID: 101, GID: 102}) || m.Groups["munge"] != 102 || m.Kernel != "6.1.0-56-cloud-amd64" {
		t.Errorf("%+v", m)
	}
	for _, bad := range []string{"", "apt 1\n\nroot:x:0\n\nroot:x:0:\n\nk", "apt 1\n\nroot:x:0:0:r:/:/s\n\nroot:x:0:\n\nk1\nk2", "apt 1\n\nroot:x:no:0:r:/:/s\n\nroot:x:0:\n\nk"} {
		if _, err := parseManifest(bad); !errors.Is(err, ErrBuild) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestCpio(t *testing.T) {
	var buf bytes.Buffer
	w := newCpioWriter(&buf)
	w.dir("m", 0o755)
	w.file("init", 0o755, []byte("hello"))
	w.file("m/empty.ko", 0o644, nil)
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	if buf.Len()%4 != 0 {
		t.Errorf("%d bytes: not a multiple of 4", buf.Len())
	}
	got := readCpio(t, buf.Bytes())
	want := []string{"m 040755 ", "init 100755 hello", "m/empty.ko 100644 "}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// readCpio reads an archive by the format's own description.
func readCpio(t *testing.T, b []byte) (entries []string) {
	t.Helper()
	round := func(n int) int { return (n + 3) / 4 * 4 }
	inos := map[int]bool{}
	for pos := 0; ; {
		if string(b[pos:pos+6]) != "070701" {
			t.Fatalf("no magic at %d", pos)
		}
		var f [13]int
		for i := range f {
			if _, err := fmt.Sscanf(string(b[pos+6+8*i:pos+14+8*i]), "%08X", &f[i]); err != nil {
				t.Fatal(err)
			}
		}
		name := string(b[pos+110 : pos+110+f[11]-1])
		data := round(pos + 110 + f[11])
		if name == "TRAILER!!!" {
			return entries
		}
		if inos[f[0]] {
			t.Errorf("inode %d twice: the kernel would link the two files", f[0])
		}
		inos[f[0]] = true
		entries = append(entries, fmt.Sprintf("%s %06o %s", name, f[1], b[data:data+f[6]]))
		pos = round(data + f[6])
	}
}

func TestModuleOrder(t *testing.T) {
	dep := `kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/net/net_failover.ko:
kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio.ko
`
	m, err := parseModules(dep, "kernel/fs/ext4/ext4.ko\n")
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.order([]string{"virtio_pci", "ext4", "virtio_rng", "virtio_net"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range got {
		names = append(names, moduleName(p))
	}
	if s := strings.Join(names, " "); s != "virtio_ring virtio virtio_pci virtio_rng net_failover virtio_net" {
		t.Errorf("order %s", s)
	}
	if _, err := m.order([]string{"absent"}); err == nil {
		t.Error("an unknown module is no error")
	}
	loop, err := parseModules("a.ko: b.ko\nb.ko: a.ko\n", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := loop.order([]string{"a"}); err == nil {
		t.Error("a circle is no error")
	}
}

func TestDigestUUID(t *testing.T) {
	if got := digestUUID(strings.Repeat("f", 64)); got != "ffffffff-ffff-8fff-bfff-ffffffffffff" {
		t.Errorf("%s", got)
	}
}

func TestTailKeepsTheLastLines(t *testing.T) {
	var b tailBuffer
	for i := range 20_000 {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	got := strings.Split(b.String(), "\n")
	if len(got) != tailLinesMax || got[len(got)-1] != "line 19999" {
		t.Errorf("%d lines, last %q", len(got), got[len(got)-1])
	}
}
