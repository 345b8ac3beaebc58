//go:build lab

package volume

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"vcn/hostops"
	"vcn/hostops/iscsi/scsi"
)

// labFree waits until the pool uses at most that many bytes: dm-thin frees with
// its next commit, within a second or so.
func labFree(t testing.TB, l *LVM, most int64) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		st := labState(t, l)
		used := st.status.dataUsed * st.pool.chunkBytes
		if used <= most {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the pool still uses %d bytes, want at most %d", used, most)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// TestLabLVMTenants: nobody reads what another had, and space comes back.
func TestLabLVMTenants(t *testing.T) {
	l, _ := labStore(t, LVMConfig{VolumeGroup: labGroup(t, labDisk), PoolBytes: 64 * mib})
	spec := hostops.VolumeSpec{ID: "first", SizeBytes: 48 * mib}
	v := labEnsure(t, l, spec)
	if err := labWrite(v.Path, bytes.Repeat([]byte("secret! "), 48*mib/8), 0); err != nil {
		t.Fatal(err)
	}
	_, free, err := l.Capacity(t.Context())
	if err != nil || free > 13*mib {
		t.Fatalf("free: %d, %v", free, err)
	}
	// What a guest discards comes back while the volume lives.
	f, err := scsi.OpenFile(v.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Zero(8*mib, 32*mib, true); err != nil {
		t.Error(err)
	}
	labZero(t, v.Path, 8*mib, 32*mib)
	labFree(t, l, 16*mib)
	if got := labRead(t, v.Path, 40*mib, 8); string(got) != "secret! " {
		t.Errorf("behind what was discarded: %q", got)
	}
	// A volume in use is not removed.
	if err := l.Remove(t.Context(), "first"); !errors.Is(err, hostops.ErrBusy) {
		t.Errorf("Remove of what is open: %v, want ErrBusy", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Remove(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	labFree(t, l, 0)
	// The next tenant gets the same blocks and writes a little into each.
	v = labEnsure(t, l, hostops.VolumeSpec{ID: "second", SizeBytes: 48 * mib})
	labZero(t, v.Path, 0, v.SizeBytes)
	st := labState(t, l)
	w, err := os.OpenFile(v.Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for at := st.pool.chunkBytes / 2; at < v.SizeBytes; at += st.pool.chunkBytes {
		if _, err := w.WriteAt([]byte{1}, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Sync(); err != nil {
		t.Fatal(err)
	}
	got := labRead(t, v.Path, 0, v.SizeBytes)
	if bytes.Contains(got, []byte("secret")) || bytes.Count(got, []byte{0}) != int(v.SizeBytes-v.SizeBytes/st.pool.chunkBytes) {
		t.Error("what another tenant wrote can be read")
	}
	if used := labState(t, l).status.dataUsed * st.pool.chunkBytes; used != 48*mib {
		t.Errorf("%d bytes are in use: the blocks were not the same", used)
	}
}

// TestLabLVMFull fills a pool to the alarm, to the limit, and to the brim.
func TestLabLVMFull(t *testing.T) {
	l, log := labStore(t, LVMConfig{VolumeGroup: labGroup(t, labDisk), PoolBytes: 64 * mib})
	ctx := t.Context()
	base := filepath.Join(t.TempDir(), "base")
	if err := os.WriteFile(base, random(4*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	cloned := labEnsure(t, l, hostops.VolumeSpec{ID: "cloned", SizeBytes: 8 * mib, Base: base, Image: "abc"})
	if err := l.Remove(ctx, "cloned"); err != nil {
		t.Fatal(err)
	}
	v := labEnsure(t, l, hostops.VolumeSpec{ID: "a", SizeBytes: 60 * mib})
	w := labEnsure(t, l, hostops.VolumeSpec{ID: "b", SizeBytes: 32 * mib})
	fill := func(path string, off, n int64) error {
		t.Helper()
		return labWrite(path, bytes.Repeat([]byte{7}, int(n)), off)
	}
	if err := fill(v.Path, 0, 48*mib); err != nil {
		t.Fatal(err)
	}
	if h, err := l.Health(ctx); err != nil || h.Level != LevelWarn || h.DataPercent < 80 {
		t.Errorf("at 81 %%: %+v, %v", h, err)
	}
	if s := log.String(); strings.Count(s, "level=WARN") != 1 || !strings.Contains(s, l.poolPath()) {
		t.Errorf("logged at 81 %%: %s", s)
	}
	if _, err := l.Ensure(ctx, hostops.VolumeSpec{ID: "copy", SizeBytes: 32 * mib, Base: labFile(t, 14*mib)}); !errors.Is(err, hostops.ErrNoSpace) {
		t.Errorf("a copy of more than is free: %v", err)
	}
	if st := labState(t, l); st.lvs["vcn.i.abc"] != nil || st.lvs["vcn.v.copy"] != nil {
		t.Error("the unused image was kept while space was short, or a refused volume is there")
	}
	if err := fill(v.Path, 48*mib, 12*mib); err != nil {
		t.Fatal(err)
	}
	if err := fill(w.Path, 0, 2*mib); err != nil {
		t.Fatal(err)
	}
	_, err := l.Ensure(ctx, hostops.VolumeSpec{ID: "new", SizeBytes: 4 * mib})
	if !errors.Is(err, hostops.ErrNoSpace) || !strings.Contains(err.Error(), l.poolPath()) || !strings.Contains(err.Error(), "96.") || !strings.Contains(err.Error(), "lvextend") {
		t.Errorf("a new volume at 96 %%: %v", err)
	}
	if got, err := l.Ensure(ctx, hostops.VolumeSpec{ID: "a", SizeBytes: 60 * mib}); err != nil || got != v {
		t.Errorf("one that is there: %+v, %v", got, err)
	}
	if _, free, err := l.Capacity(ctx); err != nil || free != 0 {
		t.Errorf("free at 96 %%: %d, %v", free, err)
	}
	if s := log.String(); strings.Count(s, "level=ERROR") != 1 {
		t.Errorf("logged at 96 %%: %s", s)
	}
	// To the brim: an error at once, and nothing hangs.
	began := time.Now()
	err = fill(w.Path, 2*mib, 16*mib)
	if took := time.Since(began); !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EIO) || took > 30*time.Second {
		t.Errorf("writing to a full pool: %v after %v", err, took)
	}
	if h, err := l.Health(ctx); err != nil || h.Level != LevelFull || !strings.Contains(h.Text, "no block is free") {
		t.Errorf("at the brim: %+v, %v", h, err)
	}
	if _, err := l.Ensure(ctx, hostops.VolumeSpec{ID: "new", SizeBytes: 4 * mib}); !errors.Is(err, hostops.ErrNoSpace) {
		t.Errorf("a new volume: %v", err)
	}
	if got := labRead(t, v.Path, 59*mib, 4096); !bytes.Equal(got, bytes.Repeat([]byte{7}, 4096)) {
		t.Error("what was written before cannot be read")
	}
	// Removing helps by itself.
	if err := l.Remove(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	labFree(t, l, 10*mib)
	if h, err := l.Health(ctx); err != nil || h.Level != LevelOK {
		t.Errorf("after a volume was removed: %+v, %v", h, err)
	}
	if err := fill(w.Path, 0, 16*mib); err != nil {
		t.Errorf("after a volume was removed: %v", err)
	}
	if got := labEnsure(t, l, hostops.VolumeSpec{ID: "cloned", SizeBytes: 8 * mib, Base: base, Image: "abc"}); got != cloned {
		t.Errorf("%+v", got)
	}
}

// labFile makes a file of that many random bytes.
func labFile(t testing.TB, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), fmt.Sprintf("file-%d", n))
	if err := os.WriteFile(path, random(n), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestLabLVMMetadataFull fills the pool's metadata by what the kernel counts
// only there: thin devices that nothing was written to.
func TestLabLVMMetadataFull(t *testing.T) {
	l, log := labStore(t, LVMConfig{VolumeGroup: labGroup(t, labDisk), PoolBytes: 64 * mib, MetadataBytes: 4 * mib})
	ctx := t.Context()
	v := labEnsure(t, l, hostops.VolumeSpec{ID: "a", SizeBytes: 32 * mib})
	mark := random(4096)
	if err := labWrite(v.Path, mark, 0); err != nil {
		t.Fatal(err)
	}
	name := dmEscape(l.cfg.VolumeGroup) + "-vcn-tpool"
	next := 10_000
	fillTo := func(percent float64) {
		t.Helper()
		for {
			st, err := l.readStatus(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if st.metaPercent() >= percent || st.mode == "ro" {
				return
			}
			for range max(1, int(percent*float64(st.metaTotal)/100)-int(st.metaUsed)) {
				if err := labMessage(name, fmt.Sprintf("create_thin %d", next)); err != nil {
					break // the status says the rest
				}
				next++
			}
		}
	}
	fillTo(81)
	if h, err := l.Health(ctx); err != nil || h.Level != LevelWarn || !strings.Contains(h.Text, "metadata") {
		t.Errorf("at 81 %%: %+v, %v", h, err)
	}
	fillTo(95.2)
	_, err := l.Ensure(ctx, hostops.VolumeSpec{ID: "new", SizeBytes: 4 * mib})
	if !(errors.Is(err, hostops.ErrNoSpace) || errors.Is(err, ErrPool)) || !strings.Contains(err.Error(), "metadata is") || !strings.Contains(err.Error(), "poolmetadatasize") {
		t.Errorf("a new volume with 95 %% of the metadata: %v", err)
	}
	fillTo(101)
	began := time.Now()
	h, err := l.Health(ctx)
	if err != nil || h.Level != LevelBroken || !strings.Contains(h.Text, "metadata is full") {
		t.Errorf("metadata full: %+v, %v", h, err)
	}
	if _, _, err := l.Capacity(ctx); !errors.Is(err, ErrPool) {
		t.Errorf("Capacity: %v", err)
	}
	if _, err := l.Ensure(ctx, hostops.VolumeSpec{ID: "new", SizeBytes: 4 * mib}); !errors.Is(err, ErrPool) || !strings.Contains(err.Error(), "metadata is full") {
		t.Errorf("Ensure: %v", err)
	}
	if all, err := l.List(ctx); err != nil || len(all) != 1 || !bytes.Equal(labRead(t, v.Path, 0, 4096), mark) {
		t.Errorf("what is there cannot be read: %+v, %v", all, err)
	}
	bounded, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	// LVM forgets the volume, and may or may not tell the pool in time.
	if err := l.Remove(bounded, "a"); err != nil && !errors.Is(err, ErrPool) {
		t.Errorf("Remove: %v", err)
	}
	if took := time.Since(began); took > 40*time.Second {
		t.Errorf("a broken pool held us up for %v", took)
	}
	if s := log.String(); !strings.Contains(s, "level=ERROR") {
		t.Errorf("logged: %s", s)
	}
	if _, err := NewLVM(ctx, LVMConfig{VolumeGroup: l.cfg.VolumeGroup, Owner: testOwner, Known: true}); err != nil {
		t.Errorf("a store with a broken pool is not even opened: %v", err)
	}
}

// labMessage is dmsetup message <name> 0 <text>, hundreds of times faster in a
// machine without hardware's help (Linux: include/uapi/linux/dm-ioctl.h).
func labMessage(name, text string) error {
	const (
		headBytes = 312
		targetMsg = 3<<30 | headBytes<<16 | 0xfd<<8 | 14 // _IOWR(DM_IOCTL, DM_TARGET_MSG_CMD, struct dm_ioctl)
	)
	b := make([]byte, 16<<10)
	le := binary.LittleEndian
	le.PutUint32(b[0:], 4)               // version 4.0.0
	le.PutUint32(b[12:], uint32(len(b))) // data_size
	le.PutUint32(b[16:], headBytes)      // data_start
	copy(b[48:], name)
	copy(b[headBytes+8:], text) // after the sector
	f, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), targetMsg, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return errno
	}
	return nil
}
