package scsi

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gostor/gotgt/pkg/api"
)

const (
	testBytes  = 4 << 20
	testBlocks = testBytes / blockBytes
)

func newTestUnit(t *testing.T) (*Unit, *Faulty) {
	t.Helper()
	p := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(p, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(p, testBytes); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(p)
	if err != nil {
		t.Fatal(err)
	}
	w := WithFaults(f)
	u, err := NewUnit(w, Config{VolumeID: "unit-test", Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	})
	u.Attach("n", "initiator")
	for { // power on
		if _, more := u.takeAttention("n"); !more {
			break
		}
	}
	return u, w
}

// cdb pads to 16 bytes.
func cdb(b ...byte) []byte { return append(b, make([]byte, 16-len(b))...) }

func cdb16(op, flags byte, lba uint64, n uint32) []byte {
	c := make([]byte, 16)
	c[0], c[1] = op, flags
	binary.BigEndian.PutUint64(c[2:], lba)
	binary.BigEndian.PutUint32(c[10:], n)
	return c
}

// run executes a command and copies its data.
func run(u *Unit, c, out []byte) (status byte, key byte, asc uint16, data []byte) {
	r := u.Exec("n", c, out, 1<<20)
	defer r.Free()
	if len(r.Sense) > 13 {
		key, asc = r.Sense[2]&0x0f, binary.BigEndian.Uint16(r.Sense[12:])
	}
	return r.Status, key, asc, bytes.Clone(r.Data)
}

func want(t *testing.T, u *Unit, c, out []byte, key byte, asc uint16) []byte {
	t.Helper()
	s, k, a, d := run(u, c, out)
	if (s == StatusGood) != (key == 0) || k != key || a != asc {
		t.Fatalf("command %x: status %#x sense %x/%04x, want %x/%04x", c, s, k, a, key, asc)
	}
	return d
}

func TestRanges(t *testing.T) {
	u, _ := newTestUnit(t)
	block := make([]byte, blockBytes)
	want(t, u, cdb16(opRead16, 0, testBlocks-1, 1), nil, 0, 0)
	want(t, u, cdb16(opRead16, 0, testBlocks, 1), nil, 5, 0x2100)
	want(t, u, cdb16(opRead16, 0, testBlocks-1, 2), nil, 5, 0x2100)
	want(t, u, cdb16(opRead16, 0, 1<<63, 1), nil, 5, 0x2100)
	want(t, u, cdb16(opRead16, 0, ^uint64(0), 2), nil, 5, 0x2100)
	want(t, u, cdb16(opRead16, 0, testBlocks, 0), nil, 5, 0x2100)
	want(t, u, cdb16(opRead16, 0, 0, 0), nil, 0, 0)
	want(t, u, cdb16(opRead16, 0x20, 0, 1), nil, 5, 0x2400)
	want(t, u, cdb16(opWrite16, 0, testBlocks, 1), block, 5, 0x2100)
	want(t, u, cdb16(opSyncCache16, 0, testBlocks+1, 0), nil, 5, 0x2100)
	want(t, u, cdb16(opWriteSame16, 0x08, testBlocks-1, 2), block, 5, 0x2100)
	want(t, u, cdb(0xee), nil, 5, 0x2000)
	want(t, u, cdb(opServiceIn16, 0x1f), nil, 5, 0x2400)
}

func TestReadIsNotMoreThanTheInitiatorTakes(t *testing.T) {
	u, _ := newTestUnit(t)
	r := u.Exec("n", cdb16(opRead16, 0, 0, 8), nil, 700)
	defer r.Free()
	if len(r.Data) != 1024 || r.Total != 4096 {
		t.Fatalf("%d bytes of %d, want 1024 of 4096", len(r.Data), r.Total)
	}
}

func unmapList(rs ...blockRange) (c, out []byte) {
	out = make([]byte, 8)
	for _, r := range rs {
		out = binary.BigEndian.AppendUint64(out, r.lba)
		out = binary.BigEndian.AppendUint32(out, r.n)
		out = append(out, 0, 0, 0, 0)
	}
	binary.BigEndian.PutUint16(out, uint16(len(out)-2))
	binary.BigEndian.PutUint16(out[2:], uint16(len(out)-8))
	c = cdb(opUnmap, 0, 0, 0, 0, 0, 0, byte(len(out)>>8), byte(len(out)))
	return c, out
}

func TestUnmapGivesSpaceBackAndChecksFirst(t *testing.T) {
	u, _ := newTestUnit(t)
	ones := bytes.Repeat([]byte{1}, 64<<10)
	want(t, u, cdb16(opWrite16, 0, 0, 128), ones, 0, 0)
	want(t, u, cdb(opSyncCache10), nil, 0, 0)
	// The second range is wrong: the first must not be carried out.
	c, out := unmapList(blockRange{0, 8}, blockRange{testBlocks, 1})
	want(t, u, c, out, 5, 0x2100)
	if d := want(t, u, cdb16(opRead16, 0, 0, 128), nil, 0, 0); !bytes.Equal(d, ones) {
		t.Fatal("a refused UNMAP changed the volume")
	}
	c, out = unmapList(blockRange{8, 16}, blockRange{64, 3}, blockRange{0, 0})
	want(t, u, c, out, 0, 0)
	expect := bytes.Clone(ones)
	clear(expect[8*512 : 24*512])
	clear(expect[64*512 : 67*512])
	if d := want(t, u, cdb16(opRead16, 0, 0, 128), nil, 0, 0); !bytes.Equal(d, expect) {
		t.Fatal("UNMAP zeroed something else")
	}
	d := want(t, u, cdb16(opServiceIn16, saGetLBAStatus, 8, 64), nil, 0, 0)
	if len(d) < 24 || be64(d[8:]) != 8 || be32(d[16:]) != 16 || d[20] != provisioningDeallocated {
		t.Fatalf("LBA status %x: want a hole of 16 blocks at 8", d)
	}
	c, out = unmapList(blockRange{0, maxUnmapBlocks + 1})
	u.blocks.Store(1 << 40)
	want(t, u, c, out, 5, 0x2600)
	u.blocks.Store(testBlocks)
	want(t, u, cdb(opUnmap, 0, 0, 0, 0, 0, 0, 0, 4), []byte{0, 2, 0, 0}, 5, 0x1a00)
	want(t, u, cdb(opUnmap, 1, 0, 0, 0, 0, 0, 0, 24), nil, 5, 0x2400)
}

func TestLBAStatus(t *testing.T) {
	u, _ := newTestUnit(t)
	status := func(lba uint64, alloc uint32) []byte {
		return want(t, u, cdb16(opServiceIn16, saGetLBAStatus, lba, alloc), nil, 0, 0)
	}
	d := status(0, 4096)
	if len(d) != 24 || be32(d) != 20 || be32(d[16:]) != testBlocks || d[20] != provisioningDeallocated {
		t.Fatalf("empty volume: %x", d)
	}
	want(t, u, cdb16(opWrite16, 0, 1024, 8), make([]byte, 4096), 0, 0)
	d = status(0, 4096)
	if len(d) != 8+3*16 {
		t.Fatalf("hole, data, hole: %x", d)
	}
	lba := uint64(0)
	for i, mapped := range []byte{provisioningDeallocated, provisioningMapped, provisioningDeallocated} {
		x := d[8+16*i:]
		if be64(x) != lba || x[12] != mapped {
			t.Fatalf("descriptor %d of %x", i, d)
		}
		lba += uint64(be32(x[8:]))
	}
	if lba != testBlocks {
		t.Fatalf("descriptors end at %d", lba)
	}
	if d = status(1024, 24); len(d) != 24 || be64(d[8:]) != 1024 || d[20] != provisioningMapped {
		t.Fatalf("one descriptor: %x", d)
	}
	if d = status(0, 10); len(d) != 10 {
		t.Fatalf("allocation length of 10: %x", d)
	}
	want(t, u, cdb16(opServiceIn16, saGetLBAStatus, testBlocks, 24), nil, 5, 0x2100)
}

func TestWriteSame(t *testing.T) {
	u, f := newTestUnit(t)
	pattern := bytes.Repeat([]byte("sixteen bytes..."), 32)
	want(t, u, cdb16(opWriteSame16, 0, 3, 5000), pattern, 0, 0)
	if d := want(t, u, cdb16(opRead16, 0, 3, 2000), nil, 0, 0); !bytes.Equal(d, bytes.Repeat(pattern, 2000)) {
		t.Fatal("pattern is not there")
	}
	// With UNMAP but data that is not zero, the data counts.
	want(t, u, cdb16(opWriteSame16, 0x08, 0, 8), pattern, 0, 0)
	if d := want(t, u, cdb16(opRead16, 0, 0, 8), nil, 0, 0); !bytes.Equal(d, bytes.Repeat(pattern, 8)) {
		t.Fatal("UNMAP dropped data")
	}
	var punched []bool
	u.file = zeroSpy{f, &punched}
	zero := make([]byte, blockBytes)
	want(t, u, cdb16(opWriteSame16, 0, 16, 8), zero, 0, 0)
	want(t, u, cdb16(opWriteSame16, 0x08, 24, 8), zero, 0, 0)
	want(t, u, cdb16(opWriteSame16, 0x09, 32, 8), nil, 0, 0) // NDOB
	want(t, u, cdb(opWriteSame10, 0x08, 0, 0, 0, 40, 0, 0, 8, 0), zero, 0, 0)
	if d := want(t, u, cdb16(opRead16, 0, 16, 32), nil, 0, 0); !bytes.Equal(d, make([]byte, 32*512)) {
		t.Fatal("zeroes are not there")
	}
	if len(punched) != 4 || punched[0] || !punched[1] || !punched[2] || !punched[3] {
		t.Fatalf("holes punched: %v", punched)
	}
	u.file = f
	want(t, u, cdb16(opWriteSame16, 0x10, 0, 8), zero, 5, 0x2400)
	want(t, u, cdb16(opWriteSame16, 0, 0, 8), nil, 5, 0x2400)
	want(t, u, cdb(opWriteSame10, 0, 0, 0, 0, 0, 0, 0, 0, 0), pattern, 0, 0) // to the end
	if d := want(t, u, cdb16(opRead16, 0, testBlocks-1, 1), nil, 0, 0); !bytes.Equal(d, pattern) {
		t.Fatal("count 0 does not reach the end")
	}
}

type zeroSpy struct {
	File
	punched *[]bool
}

func (z zeroSpy) Zero(off, n int64, punch bool) error {
	*z.punched = append(*z.punched, punch)
	return z.File.Zero(off, n, punch)
}

func TestCompareAndWrite(t *testing.T) {
	u, _ := newTestUnit(t)
	c := cdb(opCompareWrite, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1)
	a := bytes.Repeat([]byte{'a'}, blockBytes)
	want(t, u, c, append(make([]byte, blockBytes), a...), 0, 0)
	want(t, u, c, append(make([]byte, blockBytes), a...), 0xe, 0x1d00)
	if d := want(t, u, cdb16(opRead16, 0, 5, 1), nil, 0, 0); !bytes.Equal(d, a) {
		t.Fatal("not written")
	}
	want(t, u, c, a, 5, 0x2400)
}

func TestReportOpcodes(t *testing.T) {
	u, _ := newTestUnit(t)
	all := want(t, u, cdb(opMaintenanceIn, saReportOpcodes, 0, 0, 0, 0, 0, 0, 0x10, 0), nil, 0, 0)
	if int(be32(all)) != len(all)-4 || len(all) != 4+8*len(commands) {
		t.Fatalf("list of %d bytes says %d", len(all), be32(all))
	}
	for i := 4; i < len(all); i += 8 {
		option, sa := byte(1), all[i+2:i+4]
		if all[i+5]&1 != 0 {
			option = 2
		}
		one := want(t, u, cdb(opMaintenanceIn, saReportOpcodes, option, all[i], sa[0], sa[1], 0, 0, 1, 0), nil, 0, 0)
		if one[1]&7 != 3 || be16(one[2:]) != be16(all[i+6:]) || one[4] != all[i] {
			t.Fatalf("opcode %#x: %x", all[i], one)
		}
		// What is reported is what there is.
		if find(append([]byte{all[i], sa[1]}, make([]byte, 14)...)) == nil {
			t.Fatalf("opcode %#x is reported and not there", all[i])
		}
	}
	if one := want(t, u, cdb(opMaintenanceIn, saReportOpcodes, 1, 0x48, 0, 0, 0, 0, 1, 0), nil, 0, 0); one[1]&7 != 1 {
		t.Fatalf("SANITIZE: %x", one)
	}
	want(t, u, cdb(opMaintenanceIn, saReportOpcodes, 1, opServiceIn16, 0, 0, 0, 0, 1, 0), nil, 5, 0x2400)
	timed := want(t, u, cdb(opMaintenanceIn, saReportOpcodes, 0x80, 0, 0, 0, 0, 0, 0x10, 0), nil, 0, 0)
	if len(timed) != 4+20*len(commands) {
		t.Fatalf("with timeouts: %d bytes", len(timed))
	}
}

func TestIdentityComesFromTheVolume(t *testing.T) {
	u, _ := newTestUnit(t)
	v, _ := newTestUnit(t)
	for _, page := range []byte{0x00, 0x80, 0x83, 0x8f, 0xb0, 0xb1, 0xb2} {
		c := cdb(opInquiry, 1, page, 1, 0)
		a, b := want(t, u, c, nil, 0, 0), want(t, v, c, nil, 0, 0)
		if !bytes.Equal(a, b) || a[1] != page || be16(a[2:]) != len(a)-4 {
			t.Fatalf("page %#x: %x and %x", page, a, b)
		}
		if page == 0x80 && string(a[4:]) != "unit-test" {
			t.Fatalf("serial %q", a[4:])
		}
	}
	w, err := NewUnit(u.file, Config{VolumeID: "another", Log: u.cfg.Log})
	if err != nil {
		t.Fatal(err)
	}
	if w.naa == u.naa || w.naa>>60 != 3 {
		t.Fatalf("NAA %x and %x", w.naa, u.naa)
	}
	d := want(t, u, cdb16(opServiceIn16, saReadCapacity16, 0, 32), nil, 0, 0)
	if be64(d) != testBlocks-1 || be32(d[8:]) != 512 || d[13] != 3 || d[14]&0xc0 != 0xc0 {
		t.Fatalf("capacity %x", d)
	}
}

func TestKeptCommands(t *testing.T) {
	u, _ := newTestUnit(t)
	want(t, u, cdb(opTestUnitReady), nil, 0, 0)
	want(t, u, cdb(opSendDiagnostic, 4), nil, 0, 0)
	want(t, u, cdb(opSendDiagnostic, 0), nil, 5, 0x2400)
	d := want(t, u, cdb(opReadCapacity10), nil, 0, 0)
	if !bytes.Equal(d, []byte{0, 0, 0x1f, 0xff, 0, 0, 2, 0}) {
		t.Fatalf("capacity %x", d)
	}
	want(t, u, cdb(opReadCapacity10, 0, 0, 0, 0, 1), nil, 5, 0x2400)
}

// The model's own PerformCommand runs our commands, so nobody who gets hold of
// it reaches one that was measured wrong.
func TestModelIsWrapped(t *testing.T) {
	u, f := newTestUnit(t)
	f.Inject(func(op Op, _, _ int64) error {
		if op == OpRead {
			return syscall.EIO
		}
		return nil
	})
	cmd := &api.SCSICommand{Device: u.lu, SCB: cdb(opRead10, 0, 0, 0, 0, 0, 0, 0, 1), InSDBBuffer: &api.SCSIDataBuffer{Buffer: make([]byte, 512)}}
	if st := u.lu.PerformCommand(0, cmd); st.Stat != StatusCheckCondition || cmd.SenseBuffer.Buffer[2] != 3 {
		t.Fatalf("read through the model: %+v %x", st, cmd.SenseBuffer)
	}
}

func TestModeSense(t *testing.T) {
	u, _ := newTestUnit(t)
	d := want(t, u, cdb(opModeSense6, 0, 0x3f, 0, 255), nil, 0, 0)
	if int(d[0]) != len(d)-1 || d[3] != 8 {
		t.Fatalf("mode sense %x", d)
	}
	d = want(t, u, cdb(opModeSense6, 8, 0x08, 0, 255), nil, 0, 0)
	if d[4] != 0x08 || d[6]&0x04 == 0 {
		t.Fatalf("caching page %x: the write cache is on", d)
	}
	for n := range byte(8) { // gotgt wrote past short buffers
		if d := want(t, u, cdb(opModeSense6, 0, 0x3f, 0, n), nil, 0, 0); len(d) != int(n) {
			t.Fatalf("%d bytes for %d", len(d), n)
		}
	}
	want(t, u, cdb(opModeSense6, 0, 0xc8, 0, 255), nil, 5, 0x3900)
	want(t, u, cdb(opModeSense10, 0, 0x19, 0, 0, 0, 0, 0, 255), nil, 5, 0x2400)
}

func TestPanicIsAHardwareError(t *testing.T) {
	u, f := newTestUnit(t)
	f.Inject(func(Op, int64, int64) error { panic("hook") })
	want(t, u, cdb16(opRead16, 0, 0, 1), nil, 4, 0x4400)
	f.Inject(nil)
	want(t, u, cdb16(opRead16, 0, 0, 1), nil, 0, 0)
	want(t, u, cdb16(opWrite16, 0, 0, 1), make([]byte, 512), 0, 0)
}

func TestOnFailComesFirst(t *testing.T) {
	u, f := newTestUnit(t)
	told := 0
	u.cfg.OnFail = func(error) { told++ }
	f.Inject(func(op Op, _, _ int64) error {
		if op == OpSync {
			return syscall.ENOSPC
		}
		return nil
	})
	want(t, u, cdb16(opWrite16, bitFUA, 0, 1), make([]byte, 512), 7, 0x2707)
	want(t, u, cdb(opSyncCache10), nil, 3, 0x0c00)
	if told != 1 || !strings.Contains(u.Failed(), "no space") {
		t.Fatalf("told %d times, failed %q", told, u.Failed())
	}
}

// Every opcode with every second byte and odd data: no panic reaches us, and
// what is not GOOD says why.
func TestEveryOpcode(t *testing.T) {
	u, _ := newTestUnit(t)
	for op := range 256 {
		for _, flags := range []byte{0, 0x01, 0x02, 0x08, 0x0c, 0x10, 0x12, 0x1f, 0xff} {
			for _, fill := range []byte{0, 1, 0xff} {
				c := bytes.Repeat([]byte{fill}, 16)
				c[0], c[1] = byte(op), flags
				if n := u.OutBytes(c); n < 0 {
					t.Fatalf("%x takes %d bytes", c, n)
				}
				for _, out := range [][]byte{nil, {1}, make([]byte, 512), make([]byte, 1024)} {
					r := u.Exec("n", c, out, 4096)
					if r.Status == StatusCheckCondition && (len(r.Sense) < 14 || r.Sense[2] == 4) || r.Status != StatusGood && r.Status != StatusCheckCondition {
						t.Fatalf("%x with %d bytes: %+v", c, len(out), r)
					}
					r.Free()
				}
			}
		}
	}
}
