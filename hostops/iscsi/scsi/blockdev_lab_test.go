//go:build lab

package scsi

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

const labDisk = "/dev/disk/by-id/virtio-spare0"

const (
	sectorsMiB  = 1 << 20 / 512
	chunkSector = 256 // of the pool: 128 KiB
)

func dm(t *testing.T, a ...string) string {
	t.Helper()
	out, err := exec.Command("dmsetup", a...).CombinedOutput()
	if err != nil {
		t.Fatalf("dmsetup %v: %v\n%s", a, err, out)
	}
	return strings.TrimSpace(string(out))
}

// mapped makes a device-mapper device that is gone after the test.
func mapped(t *testing.T, name string, sectors int, table string) {
	t.Helper()
	dm(t, "create", name, "--table", fmt.Sprintf("0 %d %s", sectors, table))
	t.Cleanup(func() { dm(t, "remove", "--retry", name) })
}

// thinPool makes a dm-thin pool, as LVM does, that says when it is full instead
// of waiting (kernel, Documentation/admin-guide/device-mapper/thin-provisioning).
func thinPool(t *testing.T, mib int) {
	t.Helper()
	const metaMiB = 4
	disk, err := os.OpenFile(labDisk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(disk.Sync(), disk.Close()); err != nil {
		t.Fatal(err)
	}
	mapped(t, "vcnmeta", metaMiB*sectorsMiB, "linear "+labDisk+" 0")
	mapped(t, "vcndata", mib*sectorsMiB, fmt.Sprintf("linear %s %d", labDisk, metaMiB*sectorsMiB))
	mapped(t, "vcnpool", mib*sectorsMiB, fmt.Sprintf("thin-pool /dev/mapper/vcnmeta /dev/mapper/vcndata %d 0 1 error_if_no_space", chunkSector))
}

// poolChunks is how many chunks of the pool are taken.
func poolChunks(t *testing.T) int {
	t.Helper()
	f := strings.Fields(dm(t, "status", "vcnpool")) // start length target transaction metadata data …
	used, _, _ := strings.Cut(f[5], "/")
	n, err := strconv.Atoi(used)
	if err != nil {
		t.Fatalf("%v: %v", f, err)
	}
	return n
}

// A thin volume discards and promises nothing; a snapshot must not show its
// origin where it was unmapped.
func TestLabThinVolume(t *testing.T) {
	thinPool(t, 32)
	dm(t, "message", "vcnpool", "0", "create_thin 0")
	mapped(t, "vcnone", 8*sectorsMiB, "thin /dev/mapper/vcnpool 0")
	checkDevice(t, "/dev/mapper/vcnone", 4<<20)
	dm(t, "suspend", "vcnone")
	dm(t, "message", "vcnpool", "0", "create_snap 1 0")
	dm(t, "resume", "vcnone")
	mapped(t, "vcntwo", 8*sectorsMiB, "thin /dev/mapper/vcnpool 1")
	checkDevice(t, "/dev/mapper/vcntwo", 4<<20)

	u := deviceUnit(t, "/dev/mapper/vcnone")
	fill(t, u, 0, 8<<20)
	want(t, u, cdb(opSyncCache10), nil, 0, 0)
	before := poolChunks(t)
	c, out := unmapList(blockRange{0, 6 << 20 / blockBytes})
	want(t, u, c, out, 0, 0)
	if after := poolChunks(t); after > before-40 {
		t.Fatalf("UNMAP of 48 chunks took the pool from %d to %d", before, after)
	}
	if g := granularity(u.file); g != chunkSector*512 {
		t.Fatalf("granularity %d, the pool's chunk is 128 KiB", g)
	}
	dm(t, "reload", "vcnone", "--table", fmt.Sprintf("0 %d thin /dev/mapper/vcnpool 0", 12*sectorsMiB))
	dm(t, "suspend", "vcnone")
	dm(t, "resume", "vcnone")
	if err := u.Resize(); err != nil {
		t.Fatal(err)
	}
	if n := u.blocks.Load(); n != 12<<20/blockBytes {
		t.Fatalf("%d blocks after growth", n)
	}
}

// A pool that is full must not lose anything in silence: at the latest the flush
// says so, and the unit has failed from then on. With WriteThrough it is the
// write itself.
func TestLabFullPoolIsHeard(t *testing.T) {
	thinPool(t, 4)
	dm(t, "message", "vcnpool", "0", "create_thin 0")
	mapped(t, "vcnfull", 16*sectorsMiB, "thin /dev/mapper/vcnpool 0")
	block := make([]byte, 1<<20)
	block[0] = 1
	for _, through := range []bool{false, true} {
		u := deviceUnit(t, "/dev/mapper/vcnfull")
		u.cfg.WriteThrough = through
		said := ""
		for i := uint64(0); i < 8 && said == ""; i++ {
			if s, key, asc, _ := run(u, cdb16(opWrite16, 0, i<<20/blockBytes, uint32(len(block)/blockBytes)), block); s != StatusGood {
				said = fmt.Sprintf("%x/%04x", key, asc)
			}
		}
		if through && said == "" {
			t.Fatal("8 MiB were written through to a pool of 4")
		}
		if s, _, _, _ := run(u, cdb(opSyncCache10), nil); s == StatusGood {
			t.Fatal("a flush to a full pool says GOOD")
		}
		t.Logf("write through %t: write said %q, unit says %q", through, said, u.Failed())
		if u.Failed() == "" {
			t.Fatal("the unit goes on")
		}
	}
}
