package scsi

import (
	"bytes"
	"syscall"
	"testing"
)

// ExecNow answers what is in memory, and nothing that something stands in the
// way of.
func TestExecNow(t *testing.T) {
	u, f := newTestUnit(t)
	data := bytes.Repeat([]byte("now!"), 2048)
	want(t, u, cdb16(opWrite16, 0, 8, 16), data, 0, 0)
	now := func(c []byte, inMax int) ([]byte, bool) {
		r, ok := u.ExecNow("n", c, inMax)
		defer r.Free()
		return bytes.Clone(r.Data), ok
	}
	read := cdb16(opRead16, 0, 8, 16)
	for _, c := range [][]byte{read, cdb(opRead10, 0, 0, 0, 0, 8, 0, 0, 16), cdb(opRead12, 0, 0, 0, 0, 8, 0, 0, 0, 16), cdb(opRead6, 0, 0, 8, 16)} {
		if d, ok := now(c, 8192); !ok || !bytes.Equal(d, data) {
			t.Fatalf("command %x: %t, %d bytes", c, ok, len(d))
		}
	}
	for _, c := range [][]byte{
		cdb16(opRead16, 0, testBlocks, 1), cdb16(opRead16, 0x20, 8, 16), cdb16(opRead16, 0, 8, 0), // has errors, or no data
		cdb16(opRead16, 0, 0, NowBytes/blockBytes+1), cdb16(opWrite16, 0, 8, 16), cdb(opTestUnitReady), cdb(opReadCapacity10),
	} {
		if _, ok := now(c, 1<<20); ok {
			t.Errorf("command %x was answered", c)
		}
	}
	refused := func(why string) {
		t.Helper()
		if _, ok := now(read, 8192); ok {
			t.Fatalf("answered in spite of %s", why)
		}
	}
	if _, ok := now(read, 4096); ok {
		t.Fatal("answered more than the initiator takes")
	}
	u.Attach("away", "somebody else") // what is pending for others is no reason
	if _, ok := now(read, 8192); !ok {
		t.Fatal("not answered because of somebody else's attention")
	}
	u.Reset()
	refused("a unit attention")
	attentions(u, "n")
	attentions(u, "away")
	f.Inject(func(Op, int64, int64) error { return syscall.EIO })
	refused("a fault")
	f.Inject(nil)
	do(t, u, "away", cdb(opReserve6), nil, StatusGood)
	refused("RESERVE")
	do(t, u, "away", cdb(opRelease6), nil, StatusGood)
	pr(t, u, "away", saRegister, 0, 0, 1, StatusGood)
	pr(t, u, "away", saReserve, prExclusiveAccess, 1, 0, StatusGood)
	refused("a persistent reservation")
	pr(t, u, "away", saClear, 0, 1, 0, StatusGood)
	u.data.Lock()
	refused("COMPARE AND WRITE")
	u.data.Unlock()
	if _, ok := now(read, 8192); !ok {
		t.Fatal("not answered any more")
	}
}
