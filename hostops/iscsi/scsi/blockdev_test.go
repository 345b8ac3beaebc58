//go:build rooted || lab

package scsi

import (
	"bytes"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
)

func deviceUnit(t *testing.T, path string) *Unit {
	t.Helper()
	u := openDevice(t, path)
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	})
	return u
}

func openDevice(t *testing.T, path string) *Unit {
	t.Helper()
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	u, err := NewUnit(f, Config{VolumeID: "device", Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	u.Attach("n", "initiator")
	u.takeAttention("n")
	return u
}

// fill writes n bytes that are not zero.
func fill(t *testing.T, u *Unit, off, n int64) {
	t.Helper()
	for b := bytes.Repeat([]byte{0xa5}, 1<<20); n > 0; n -= int64(len(b)) {
		b = b[:min(n, int64(len(b)))]
		want(t, u, cdb16(opWrite16, 0, uint64(off)/blockBytes, uint32(len(b)/blockBytes)), b, 0, 0)
		off += int64(len(b))
	}
}

// checkDevice zeroes ranges of every alignment, by UNMAP and by WRITE SAME, and
// compares the first size bytes (whole MiB) with what should be there.
func checkDevice(t *testing.T, path string, size int) {
	t.Helper()
	u := deviceUnit(t, path)
	fill(t, u, 0, int64(size))
	want(t, u, cdb(opSyncCache10), nil, 0, 0)
	expect := bytes.Repeat([]byte{0xa5}, size)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 40 {
		n := 1 + r.Uint32N(uint32(size/blockBytes/8))
		if i%3 == 0 {
			n = 1 + r.Uint32N(20)
		}
		lba := r.Uint32N(uint32(size/blockBytes) - n)
		clear(expect[lba*blockBytes : (lba+n)*blockBytes])
		switch i % 4 {
		case 0:
			want(t, u, cdb16(opWriteSame16, 0x09, uint64(lba), n), nil, 0, 0)
		case 1:
			want(t, u, cdb16(opWriteSame16, 0, uint64(lba), n), make([]byte, blockBytes), 0, 0)
		default:
			c, out := unmapList(blockRange{uint64(lba), n})
			want(t, u, c, out, 0, 0)
		}
	}
	for round := range 2 {
		for off := 0; off < size; off += 1 << 20 {
			d := want(t, u, cdb16(opRead16, 0, uint64(off)/blockBytes, 1<<20/blockBytes), nil, 0, 0)
			if !bytes.Equal(d, expect[off:off+1<<20]) {
				t.Fatalf("round %d: MiB at %d is not what was written", round, off>>20)
			}
		}
		want(t, u, cdb(opSyncCache10), nil, 0, 0) // and read again
	}
	d := want(t, u, cdb16(opServiceIn16, saGetLBAStatus, 1, 24), nil, 0, 0)
	if be64(d[8:]) != 1 || d[20] != provisioningMapped {
		t.Fatalf("LBA status of a device: %x", d)
	}
	if b := want(t, u, cdb(opInquiry, 1, 0xb0, 0, 64), nil, 0, 0); int64(be32(b[28:])) < 8 || int64(be32(b[28:])) < granularity(u.file)>>blockShift {
		t.Fatalf("unmap granularity of %d blocks, the device has %d bytes", be32(b[28:]), granularity(u.file))
	}
}
