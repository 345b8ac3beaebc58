package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"vcn/hostops"
)

func TestLVNamesAreShortAndDifferent(t *testing.T) {
	seen := map[string]string{}
	long := "a" + strings.Repeat("-", 61) + "a"
	for _, id := range []string{"a", "a-b", "ab", "a--b", long, "a" + strings.Repeat("-", 60) + "aa", strings.Repeat("x", 63),
		"0192f0c1-7a5e-7bbb-8a4e-5d3c2b1a0f9e", "snapshot", "pvmove0", "lvol0"} {
		if err := hostops.CheckVolumeID(id); err != nil {
			t.Fatal(err)
		}
		name := lvName(volumePrefix, id)
		if other, ok := seen[name]; ok {
			t.Errorf("%s and %s are both called %s", id, other, name)
		}
		seen[name] = id
		if n := len(dmEscape(name)); n > lvNameBytesMax {
			t.Errorf("%s has %d bytes", name, n)
		}
		if err := checkLVMName("volume", name, lvNameBytesMax); err != nil {
			t.Error(err)
		}
	}
	if got := lvName(volumePrefix, "0192f0c1-7a5e-7bbb-8a4e-5d3c2b1a0f9e"); !strings.HasSuffix(got, "0192f0c1-7a5e-7bbb-8a4e-5d3c2b1a0f9e") {
		t.Errorf("an operator does not find a UUID in %s", got)
	}
	if n := vgNameBytesMax + 1 + lvNameBytesMax; n > 127 {
		t.Errorf("a device's name may have %d bytes", n)
	}
}

func TestOwnerTag(t *testing.T) {
	for _, owner := range []string{testOwner, "=3D", "a,b", strings.Repeat("ü", 127), "x=", "=", "a=4"} {
		tag := ownerTag(owner)
		if got := tagOwnerText(tag); got != owner {
			t.Errorf("%q came back as %q", owner, got)
		}
		if len(tag) > 1024 || strings.ContainsAny(tag, " ,'\"$") {
			t.Errorf("LVM does not take %q", tag)
		}
	}
	if tag := ownerTag(testOwner); tag != "vcn.owner:cluster=20c-1=20host=20h-1" {
		t.Errorf("%s: it is on disks by now", tag)
	}
	if ownedTag("a") == ownedTag("b") || len(ownedTag("a")) != len(tagOwned)+16 {
		t.Errorf("%s, %s", ownedTag("a"), ownedTag("b"))
	}
}

func lvmConfig(t *testing.T) LVMConfig {
	t.Helper()
	c := LVMConfig{VolumeGroup: "data", Owner: testOwner}
	if err := c.fill(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLVMConfigRefusals(t *testing.T) {
	for name, spoil := range map[string]func(*LVMConfig){
		"no group":          func(c *LVMConfig) { c.VolumeGroup = "" },
		"group as option":   func(c *LVMConfig) { c.VolumeGroup = "-a" },
		"group as path":     func(c *LVMConfig) { c.VolumeGroup = "a/b" },
		"group dot dot":     func(c *LVMConfig) { c.VolumeGroup = ".." },
		"long group":        func(c *LVMConfig) { c.VolumeGroup = strings.Repeat("-", vgNameBytesMax/2+1) },
		"pool like volumes": func(c *LVMConfig) { c.Pool = "vcn.v.a" },
		"no owner":          func(c *LVMConfig) { c.Owner = "" },
		"two lines":         func(c *LVMConfig) { c.Owner = "a\nb" },
		"reserve":           func(c *LVMConfig) { c.ReserveBytes = -1 },
		"alarm after full":  func(c *LVMConfig) { c.WarnPercent, c.FullPercent = 90, 80 },
		"over full":         func(c *LVMConfig) { c.FullPercent = 101 },
	} {
		c := lvmConfig(t)
		spoil(&c)
		if err := c.fill(); err == nil {
			t.Errorf("%s: %+v was taken", name, c)
		}
	}
}

func TestSizePool(t *testing.T) {
	g := func(gib int64) group {
		return group{name: "data", extentBytes: 4 * mib, freeExtents: gib << 30 / (4 * mib)}
	}
	for _, c := range []struct {
		gib, pool          int64
		chunk, least, most int64 // least and most metadata in MiB
	}{
		{gib: 1, chunk: chunkBytes, least: 16, most: 16},
		{gib: 100, chunk: chunkBytes, least: 150, most: 160},
		{gib: 4 << 10, chunk: chunkBytes, least: 6144, most: 6200},
		{gib: 20 << 10, chunk: chunkBytesLarge, least: 7600, most: 7800},
		{gib: 200 << 10, chunk: chunkBytesLarge, least: 15 << 10, most: 15 << 10},
		{gib: 100, pool: 10 << 30, chunk: chunkBytes, least: 16, most: 16},
	} {
		cfg := lvmConfig(t)
		cfg.PoolBytes = c.pool
		data, meta, chunk, err := sizePool(cfg, g(c.gib))
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if chunk != c.chunk || meta < c.least*mib || meta > c.most*mib || data%(4*mib) != 0 || meta%(4*mib) != 0 {
			t.Errorf("%+v: %d of data, %d of metadata, blocks of %d", c, data, meta, chunk)
		}
		if left := c.gib<<30 - data - 2*meta; left < c.gib<<30/growthPart {
			t.Errorf("%+v: %d left to grow metadata by", c, left)
		}
	}
	cfg := lvmConfig(t)
	cfg.PoolBytes = 2 << 30
	if _, _, _, err := sizePool(cfg, g(2)); !errors.Is(err, hostops.ErrNoSpace) || !strings.Contains(err.Error(), "vgextend data") {
		t.Errorf("a pool as large as its group: %v", err)
	}
	if _, _, _, err := sizePool(lvmConfig(t), group{name: "data", extentBytes: 4 * mib}); !errors.Is(err, hostops.ErrNoSpace) {
		t.Errorf("a full group: %v", err)
	}
}

func TestPoolStatus(t *testing.T) {
	s, err := parsePoolStatus("0 2097152 thin-pool 7 122/4096 16/16384 - rw discard_passdown error_if_no_space - 1024\n")
	want := poolStatus{mode: "rw", dataUsed: 16, dataTotal: 16384, metaUsed: 122, metaTotal: 4096, errorsWhenFull: true, passing: true}
	if err != nil || s != want {
		t.Errorf("%+v, %v", s, err)
	}
	s, err = parsePoolStatus("0 2097152 thin-pool 7 4096/4096 16/16384 - ro no_discard_passdown queue_if_no_space needs_check 1024")
	want = poolStatus{mode: "ro", needsCheck: true, dataUsed: 16, dataTotal: 16384, metaUsed: 4096, metaTotal: 4096}
	if err != nil || s != want {
		t.Errorf("%+v, %v", s, err)
	}
	for _, line := range []string{"0 2097152 thin-pool Fail", "0 2097152 thin-pool Error"} {
		if s, err := parsePoolStatus(line); err != nil || !strings.HasSuffix(line, s.mode) {
			t.Errorf("%+v, %v", s, err)
		}
	}
	for _, line := range []string{"", "0 1 thin 0 -", "0 1 thin-pool 1 2/3", "0 1 thin-pool 1 2/0 1/2 - rw", "0 1 thin-pool 1 x/3 1/2 - rw", "0 1 thin-pool 1 4/3 1/2 - rw", "0 1 thin-pool 1 4 1/2 - rw"} {
		if s, err := parsePoolStatus(line); err == nil {
			t.Errorf("%q: %+v", line, s)
		}
	}
}

func TestJudge(t *testing.T) {
	well := poolStatus{mode: "rw", dataUsed: 1, dataTotal: 1000, metaUsed: 1, metaTotal: 1000, errorsWhenFull: true}
	for _, c := range []struct {
		name  string
		spoil func(*poolStatus, *group)
		level Level
		says  string
	}{
		{"well", func(*poolStatus, *group) {}, LevelOK, ""},
		{"data at the alarm", func(s *poolStatus, _ *group) { s.dataUsed = 800 }, LevelWarn, "80.0 %"},
		{"data below it", func(s *poolStatus, _ *group) { s.dataUsed = 799 }, LevelOK, ""},
		{"metadata at the alarm", func(s *poolStatus, _ *group) { s.metaUsed = 812 }, LevelWarn, "--poolmetadatasize"},
		{"data full", func(s *poolStatus, _ *group) { s.dataUsed = 950 }, LevelFull, "lvextend -L"},
		{"metadata full", func(s *poolStatus, _ *group) { s.metaUsed, s.dataUsed = 950, 950 }, LevelFull, "metadata is 95.0 %"},
		{"no block free", func(s *poolStatus, _ *group) { s.mode, s.dataUsed = "out_of_data_space", 1000 }, LevelFull, "fail"},
		{"read-only, metadata full", func(s *poolStatus, _ *group) { s.mode, s.metaUsed = "ro", 1000 }, LevelBroken, "metadata is full"},
		{"read-only", func(s *poolStatus, _ *group) { s.mode = "ro" }, LevelBroken, "lvconvert --repair data/vcn"},
		{"failed", func(s *poolStatus, _ *group) { *s = poolStatus{mode: "Fail"} }, LevelBroken, "lvconvert --repair data/vcn"},
		{"a disk is missing", func(_ *poolStatus, g *group) { g.missingPVs = 1 }, LevelBroken, "1 disks"},
		{"metadata area", func(_ *poolStatus, g *group) { g.mdaFree = 1000 }, LevelWarn, "--metadatasize"},
		{"would queue", func(s *poolStatus, _ *group) { s.errorsWhenFull = false }, LevelWarn, "errorwhenfull"},
		{"wants a check", func(s *poolStatus, _ *group) { s.needsCheck = true }, LevelWarn, "check"},
	} {
		s, g := well, group{name: "data", mdaBytes: 1 << 20, mdaFree: 500_000}
		c.spoil(&s, &g)
		h := judge(lvmConfig(t), g, s)
		if h.Level != c.level || !strings.Contains(h.Text, c.says) || (h.Level == LevelOK) != (h.Text == "") {
			t.Errorf("%s: %+v", c.name, h)
		}
		if err := h.err(); errors.Is(err, hostops.ErrNoSpace) != (c.level == LevelFull) || errors.Is(err, ErrPool) != (c.level == LevelBroken) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// thinState is a pool of 1000 blocks with the given number in use.
func thinState(used int64, lvs ...*lv) *lvmState {
	pool := &lv{name: "vcn", uuid: "pool", sizeBytes: 1000 * chunkBytes, chunkBytes: chunkBytes, layout: []string{"thin", "pool"}, tags: []string{tagOurs, ownerTag(testOwner)}, active: true}
	st := &lvmState{group: group{name: "data", extentBytes: 4 * mib}, lvs: map[string]*lv{"vcn": pool}, pool: pool,
		status: poolStatus{mode: "rw", dataUsed: used, dataTotal: 1000, metaUsed: 1, metaTotal: 1000, errorsWhenFull: true}}
	for _, v := range lvs {
		v.pool = "vcn"
		st.lvs[v.name] = v
	}
	return st
}

func imageLV(name string, blocks, made int64) *lv {
	return &lv{name: lvName(imagePrefix, name), uuid: name, madeUnix: made,
		tags: []string{tagOurs, ownedTag(testOwner), tagImage + name, fmt.Sprintf("%s%d", tagData, blocks*chunkBytes)}}
}

func TestSpaceCountsUnusedImagesAsFree(t *testing.T) {
	cfg := lvmConfig(t)
	cfg.ReserveBytes = 50 * chunkBytes
	clone := &lv{name: "vcn.v.a", origin: lvName(imagePrefix, "used")}
	making := imageLV("making", 500, 0)
	making.tags = append(making.tags, tagMaking)
	opened := imageLV("opened", 100, 0)
	opened.open = true
	st := thinState(400, imageLV("used", 100, 1), imageLV("new", 30, 9), imageLV("old", 20, 2), making, opened, clone)
	total, free := space(cfg, st)
	if total != (950-50)*chunkBytes || free != (900-350)*chunkBytes {
		t.Errorf("%d and %d blocks", total/chunkBytes, free/chunkBytes)
	}
	var names []string
	for _, v := range st.unusedImages() {
		names = append(names, v.name)
	}
	if got := strings.Join(names, " "); got != "vcn.i.old vcn.i.new" {
		t.Errorf("unused: %s", got)
	}
	if total, free := space(cfg, thinState(1000)); total <= 0 || free != 0 {
		t.Errorf("a full pool offers %d of %d", free, total)
	}
}

func TestOursAsksForEveryMark(t *testing.T) {
	l := &LVM{cfg: lvmConfig(t)}
	good := func() *lv {
		return &lv{name: "vcn.v.a-1", pool: "vcn", tags: []string{tagOurs, ownedTag(testOwner), tagVolume + "a-1"}}
	}
	if !l.ours(good()) {
		t.Fatal("our own volume is not ours")
	}
	for name, spoil := range map[string]func(*lv){
		"another pool":   func(v *lv) { v.pool = "other" },
		"no pool":        func(v *lv) { v.pool = "" },
		"no mark":        func(v *lv) { v.tags = v.tags[1:] },
		"another's":      func(v *lv) { v.tags[1] = ownedTag("somebody") },
		"no id":          func(v *lv) { v.tags = v.tags[:2] },
		"renamed":        func(v *lv) { v.name = "vcn.v.b" },
		"image's mark":   func(v *lv) { v.tags[2] = tagImage + "a-1" },
		"no marks":       func(v *lv) { v.tags = nil },
		"an older image": func(v *lv) { v.name, v.tags[2] = "vcn.i.x", tagImage+"y" },
	} {
		v := good()
		spoil(v)
		if l.ours(v) {
			t.Errorf("%s: %+v is ours", name, v)
		}
	}
}

func TestCopyDataLeavesOutWhatIsZero(t *testing.T) {
	dir := t.TempDir()
	src, err := os.Create(filepath.Join(dir, "src"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	content := make([]byte, 3*mib+12_345)
	copy(content[100:], "head")
	copy(content[mib-3:], "across two buffers")
	copy(content[2*mib+5*zeroPieceBytes-2:], "across two pieces")
	content[len(content)-1] = 1
	if _, err := src.Write(content); err != nil { // zeroes and all: no hole
		t.Fatal(err)
	}
	if err := src.Truncate(9 * mib); err != nil {
		t.Fatal(err)
	}
	dst, err := os.Create(filepath.Join(dir, "dst"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if err := dst.Truncate(12 * mib); err != nil {
		t.Fatal(err)
	}
	if err := copyData(t.Context(), dst, src, 1); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dst.Name()); !bytes.Equal(got[:9*mib], read(t, src.Name())) || len(bytes.Trim(got[9*mib:], "\x00")) != 0 {
		t.Error("the copy differs")
	}
	if got := blocks(t, dst.Name()); got > 6*zeroPieceBytes {
		t.Errorf("6 pieces with data take %d bytes", got)
	}
	// As to a block device: whole blocks of 4 KiB, past the end of the file too.
	if err := src.Truncate(9*mib - 100); err != nil {
		t.Fatal(err)
	}
	if _, err := src.WriteAt([]byte("tail"), 9*mib-104); err != nil {
		t.Fatal(err)
	}
	aligned := &alignedWriter{t: t, b: make([]byte, 12*mib)}
	if err := copyData(t.Context(), aligned, src, directAlign); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(aligned.b[:9*mib-100], read(t, src.Name())) || len(bytes.Trim(aligned.b[9*mib-100:], "\x00")) != 0 {
		t.Error("the aligned copy differs")
	}
	broken := errors.New("broken")
	aligned.fail = broken
	if err := copyData(t.Context(), aligned, src, directAlign); !errors.Is(err, broken) {
		t.Errorf("to a broken disk: %v", err)
	}
	need, err := dataBytes(t.Context(), src, mib)
	if err != nil || need != 5*mib {
		t.Errorf("%d bytes of data in blocks of 1 MiB, %v", need, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := copyData(ended, dst, src, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

// alignedWriter is a block device: it takes whole blocks from aligned memory.
type alignedWriter struct {
	t    *testing.T
	b    []byte
	fail error
}

func (w *alignedWriter) WriteAt(p []byte, off int64) (int, error) {
	if w.fail != nil {
		return 0, w.fail
	}
	if off%directAlign != 0 || len(p)%directAlign != 0 || uintptr(unsafe.Pointer(&p[0]))%directAlign != 0 {
		w.t.Errorf("write of %d at %d from %p", len(p), off, p)
	}
	return copy(w.b[off:], p), nil
}

func TestCommandsAreBounded(t *testing.T) {
	out, err := runCommand(t.Context(), false, "sh", "-c", "echo $LC_ALL; echo said >&2")
	if err != nil || strings.TrimSpace(string(out)) != "C" {
		t.Errorf("%q, %v", out, err)
	}
	_, err = runCommand(t.Context(), false, "sh", "-c", "echo one >&2; echo; echo two >&2; exit 5")
	if err == nil || !strings.Contains(err.Error(), "one; two") {
		t.Errorf("%v", err)
	}
	if _, err = runCommand(t.Context(), false, "sh", "-c", "head -c 17M /dev/zero"); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("17 MiB of output: %v", err)
	}
	_, err = runCommand(t.Context(), false, "sh", "-c", "head -c 1M /dev/zero | tr '\\0' x >&2; exit 1")
	if err == nil || len(err.Error()) > 2*stderrBytesMax {
		t.Errorf("1 MiB of complaints: %d bytes", len(err.Error()))
	}
	if _, err = runCommand(t.Context(), false, "no-such-command"); err == nil || !strings.Contains(err.Error(), "thin-provisioning-tools") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err = runCommand(ctx, false, "sleep", "30"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 3*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	// What changes something goes on to its end.
	made := filepath.Join(t.TempDir(), "made")
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := runCommand(ctx, true, "sh", "-c", "sleep 0.3; touch "+made); err != nil {
		t.Errorf("a change whose caller has gone: %v", err)
	}
	if _, err := os.Stat(made); err != nil {
		t.Error(err)
	}
}
