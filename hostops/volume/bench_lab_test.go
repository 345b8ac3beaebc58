//go:build lab

package volume

import (
	"os"
	"path/filepath"
	"testing"

	"vcn/hostops"
)

const (
	benchImageBytes = 20 << 30
	benchDataBytes  = 400 * mib
	benchPieceBytes = 4 * mib
)

// benchMount makes an XFS on a spare disk, which shares blocks if reflink says so.
func benchMount(b *testing.B, disk, reflink string) string {
	b.Helper()
	dir := b.TempDir()
	labRun(b, "wipefs", "-qa", disk)
	labRun(b, "mkfs.xfs", "-q", "-f", "-m", "reflink="+reflink, disk)
	labRun(b, "mount", disk, dir)
	b.Cleanup(func() { labRun(b, "umount", dir); labRun(b, "wipefs", "-qa", disk) })
	return dir
}

// benchBase makes an image as they are: 20 GiB, 400 MB of data in pieces.
func benchBase(b *testing.B, dir string) string {
	b.Helper()
	f, err := os.Create(filepath.Join(dir, "base"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const pieces = benchDataBytes / benchPieceBytes
	for i := range int64(pieces) {
		if _, err := f.WriteAt(random(benchPieceBytes), i*(benchImageBytes/pieces)); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Truncate(benchImageBytes); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	return f.Name()
}

// BenchmarkLabClone times one clone of a 20 GiB image with 400 MB of data, which
// the page cache does not know, with each driver, beside bare copies by others'
// programs, flushed as ours are. Its machine wants larger disks than others:
//
//	vcn-lab up --disks 4,28GiB
func BenchmarkLabClone(b *testing.B) {
	shares := benchMount(b, "/dev/disk/by-id/virtio-spare2", "1")
	copies := benchMount(b, "/dev/disk/by-id/virtio-spare3", "0")
	base := benchBase(b, shares)
	l, _ := labStore(b, LVMConfig{VolumeGroup: labGroup(b, labDisk), PoolBytes: 24 << 30})
	once := func(b *testing.B, prepare, work, clear func() error) {
		for b.Loop() {
			b.StopTimer()
			if err := prepare(); err != nil {
				b.Fatal(err)
			}
			if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			err := work()
			b.StopTimer()
			if err == nil {
				err = clear()
			}
			if err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	}
	nothing := func() error { return nil }
	driver := func(v hostops.Volumes, image string, prepare func() error) func(*testing.B) {
		return func(b *testing.B) {
			once(b, prepare, func() error {
				_, err := v.Ensure(b.Context(), hostops.VolumeSpec{ID: "bench", SizeBytes: benchImageBytes, Base: base, Image: image})
				return err
			}, func() error { return v.Remove(b.Context(), "bench") })
		}
	}
	files := func(dir string) hostops.Volumes {
		f, err := NewFile(FileConfig{Dir: filepath.Join(dir, "volumes"), Owner: testOwner})
		if err != nil {
			b.Fatal(err)
		}
		return f
	}
	bare := func(path string, remove bool, script string) func(*testing.B) {
		return func(b *testing.B) {
			once(b, nothing, func() error {
				labRun(b, "sh", "-euc", script, "sh", base, path)
				return nil
			}, func() error {
				if remove {
					return os.Remove(path)
				}
				return nil
			})
		}
	}
	b.Run("lvm/import+snapshot", driver(l, "abc", func() error { labEmpty(b, l); return nil }))
	b.Run("lvm/snapshot", driver(l, "abc", nothing))
	b.Run("lvm/copy", driver(l, "", nothing))
	labEmpty(b, l)
	b.Run("file/reflink", driver(files(shares), "abc", nothing))
	b.Run("file/copy", driver(files(copies), "abc", nothing))
	b.Run("bare/cp-to-xfs", bare(filepath.Join(copies, "bare"), true, `cp --sparse=always --reflink=never "$1" "$2" && sync "$2"`))
	raw := labEnsure(b, l, hostops.VolumeSpec{ID: "raw", SizeBytes: benchImageBytes})
	b.Run("bare/qemu-img-to-lvm", bare(raw.Path, false, `blkdiscard "$2" && qemu-img convert -n --target-is-zero -t none -f raw -O raw "$1" "$2" && sync "$2"`))
}
