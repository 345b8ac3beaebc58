package scsi

import (
	"encoding/binary"
	"testing"
	"time"
)

// do runs a command on a nexus.
func do(t *testing.T, u *Unit, nexus string, c, out []byte, status byte) Result {
	t.Helper()
	r := u.Exec(nexus, c, out, 4096)
	if r.Status != status {
		t.Fatalf("%s: command %x: status %#x sense %x, want %#x", nexus, c, r.Status, r.Sense, status)
	}
	return r
}

// attentions takes what is pending for a nexus.
func attentions(u *Unit, nexus string) (l []uint16) {
	for {
		asc, ok := u.takeAttention(nexus)
		if !ok {
			return l
		}
		l = append(l, uint16(asc))
	}
}

func heard(t *testing.T, u *Unit, nexus string, want ...uint16) {
	t.Helper()
	got := attentions(u, nexus)
	if len(got) != len(want) {
		t.Fatalf("%s heard %04x, want %04x", nexus, got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s heard %04x, want %04x", nexus, got, want)
		}
	}
}

func prOut(action, kind byte, key, key2 uint64) (c, out []byte) {
	c = cdb(opReserveOut, action, kind, 0, 0, 0, 0, 0, outListBytes)
	out = make([]byte, outListBytes)
	binary.BigEndian.PutUint64(out, key)
	binary.BigEndian.PutUint64(out[8:], key2)
	return c, out
}

func pr(t *testing.T, u *Unit, nexus string, action, kind byte, key, key2 uint64, status byte) {
	t.Helper()
	c, out := prOut(action, kind, key, key2)
	do(t, u, nexus, c, out, status)
}

// three makes a unit with three initiators a, b, c; a and b are registered with
// keys 1 and 2.
func three(t *testing.T) *Unit {
	t.Helper()
	u, _ := newTestUnit(t)
	for _, n := range []string{"a", "b", "c"} {
		u.Attach(n, "iqn."+n)
		heard(t, u, n, 0x2900)
	}
	pr(t, u, "a", saRegister, 0, 0, 1, StatusGood)
	pr(t, u, "b", saRegister, 0, 0, 2, StatusGood)
	return u
}

func TestReservationKindsGovernCommands(t *testing.T) {
	block := make([]byte, blockBytes)
	read, write := cdb16(opRead16, 0, 0, 1), cdb16(opWrite16, 0, 0, 1)
	mode, capacity := cdb(opModeSense6, 0, 0x3f, 0, 255), cdb(opReadCapacity10)
	const yes, no = StatusGood, StatusConflict
	for _, c := range []struct {
		kind             byte
		bRead, bWrite    byte // registered, not holding
		cRead, cWrite    byte // not registered
		bRelease, cClear byte
	}{
		{prWriteExclusive, yes, no, yes, no, yes, no},
		{prExclusiveAccess, no, no, no, no, yes, no},
		{prWriteRegistered, yes, yes, yes, no, yes, no},
		{prAccessRegister, yes, yes, no, no, yes, no},
		{prWriteAll, yes, yes, yes, no, yes, no},
		{prAccessAll, yes, yes, no, no, yes, no},
	} {
		u := three(t)
		pr(t, u, "c", saReserve, c.kind, 0, 0, no) // not registered
		pr(t, u, "a", saReserve, c.kind, 2, 0, no) // not its key
		pr(t, u, "a", saReserve, c.kind, 1, 0, yes)
		pr(t, u, "a", saReserve, c.kind, 1, 0, yes) // again
		other := byte(prWriteExclusive)
		if c.kind == other {
			other = prAccessAll
		}
		pr(t, u, "a", saReserve, other, 1, 0, no)
		do(t, u, "a", read, nil, yes)
		do(t, u, "a", write, block, yes)
		do(t, u, "b", read, nil, c.bRead)
		do(t, u, "b", write, block, c.bWrite)
		do(t, u, "c", read, nil, c.cRead)
		do(t, u, "c", write, block, c.cWrite)
		for _, w := range [][]byte{cdb(opSyncCache10), cdb16(opWriteSame16, 1, 0, 1), cdb16(opOrWrite16, 0, 0, 1), mode, cdb(opUnmap)} {
			do(t, u, "c", w, block, no)
		}
		for _, free := range [][]byte{cdb(opTestUnitReady), capacity, cdb(opInquiry, 0, 0, 0, 36), cdb16(opServiceIn16, saReadCapacity16, 0, 32)} {
			do(t, u, "c", free, nil, yes)
		}
		pr(t, u, "c", saClear, 0, 0, 0, c.cClear)
		pr(t, u, "b", saRelease, c.kind, 2, 0, c.bRelease) // whoever holds nothing releases nothing
		if all := allRegistrants(c.kind); (u.res.kind == prNone) != all {
			t.Fatalf("kind %d: after the release of b: %+v", c.kind, u.res)
		}
	}
}

func TestPreempt(t *testing.T) {
	for _, action := range []byte{saPreempt, saPreemptAbort} {
		u := three(t)
		pr(t, u, "a", saReserve, prExclusiveAccess, 1, 0, StatusGood)
		generation := u.res.generation
		pr(t, u, "b", action, prWriteExclusive, 2, 9, StatusConflict) // nobody has key 9
		pr(t, u, "b", action, prWriteExclusive, 2, 0, StatusCheckCondition)
		pr(t, u, "b", action, prWriteExclusive, 2, 1, StatusGood)
		heard(t, u, "a", 0x2a05)
		heard(t, u, "b")
		if u.res.generation != generation+1 || u.res.kind != prWriteExclusive || u.res.holder != "iqn.b" || len(u.res.keys) != 1 {
			t.Fatalf("after the preempt: %+v", u.res)
		}
		pr(t, u, "a", saReserve, prWriteExclusive, 1, 0, StatusConflict)
		do(t, u, "a", cdb16(opWrite16, 0, 0, 1), make([]byte, blockBytes), StatusConflict)
		// Its own key: the reservation changes its kind, the holder stays.
		pr(t, u, "b", action, prExclusiveAccess, 2, 2, StatusGood)
		if u.res.kind != prExclusiveAccess || u.res.holder != "iqn.b" || len(u.res.keys) != 1 {
			t.Fatalf("after the preempt of itself: %+v", u.res)
		}
	}
	u := three(t)
	pr(t, u, "a", saReserve, prWriteAll, 1, 0, StatusGood)
	pr(t, u, "b", saPreempt, prExclusiveAccess, 2, 0, StatusGood) // everybody else
	heard(t, u, "a", 0x2a05)
	if u.res.kind != prExclusiveAccess || u.res.holder != "iqn.b" || len(u.res.keys) != 1 {
		t.Fatalf("after the preempt of all: %+v", u.res)
	}
}

// When a preempt is answered nothing of the preempted initiator runs any more.
func TestPreemptWaitsForWhatRuns(t *testing.T) {
	u := three(t)
	f := u.file.(*Faulty)
	hold, entered := make(chan struct{}), make(chan struct{})
	f.Inject(func(op Op, _, _ int64) error {
		if op == OpWrite {
			close(entered)
			<-hold
		}
		return nil
	})
	wrote := make(chan Result, 1)
	go func() { wrote <- u.Exec("a", cdb16(opWrite16, 0, 0, 1), make([]byte, blockBytes), 0) }()
	<-entered
	preempted := make(chan Result, 1)
	c, out := prOut(saPreemptAbort, prExclusiveAccess, 2, 1)
	go func() { preempted <- u.Exec("b", c, out, 0) }()
	select {
	case <-preempted:
		t.Fatal("preempted while a write of the victim runs")
	case <-time.After(100 * time.Millisecond):
	}
	close(hold)
	if a, b := <-wrote, <-preempted; a.Status != StatusGood || b.Status != StatusGood {
		t.Fatalf("write %+v, preempt %+v", a, b)
	}
}

func TestRegistrationRules(t *testing.T) {
	u := three(t)
	pr(t, u, "a", saRegister, 0, 7, 8, StatusConflict)    // wrong key
	pr(t, u, "c", saRegister, 0, 7, 8, StatusConflict)    // has none
	pr(t, u, "c", saRegister, 0, 0, 0, StatusGood)        // nothing to take back
	pr(t, u, "a", saRegisterIgnore, 0, 7, 11, StatusGood) // does not ask
	pr(t, u, "a", saReserve, prWriteRegistered, 11, 0, StatusGood)
	pr(t, u, "a", saRelease, prWriteExclusive, 11, 0, StatusCheckCondition) // another kind
	pr(t, u, "a", saRegister, 0, 11, 0, StatusGood)                         // ends the reservation too
	heard(t, u, "b", 0x2a04)
	if u.res.kind != prNone || len(u.res.keys) != 1 {
		t.Fatalf("%+v", u.res)
	}
	for _, bad := range [][]byte{{20, 0x01}, {20, 0x08}} { // APTPL, SPEC_I_PT
		c, out := prOut(saRegister, 0, 0, 5)
		out[bad[0]] = bad[1]
		if r := do(t, u, "c", c, out, StatusCheckCondition); be16(r.Sense[12:]) != 0x2600 {
			t.Fatalf("sense %x", r.Sense)
		}
	}
	c, out := prOut(saReserve, 0x10|prWriteExclusive, 2, 0) // an element, not the unit
	do(t, u, "b", c, out, StatusCheckCondition)
	c, out = prOut(saReserve, 2, 2, 0) // an obsolete kind
	do(t, u, "b", c, out, StatusCheckCondition)
	do(t, u, "b", c, out[:20], StatusCheckCondition)
	for i := len(u.res.keys); i < maxRegistrations; i++ {
		n := "x" + string(rune('A'+i))
		u.Attach(n, n)
		attentions(u, n)
		pr(t, u, n, saRegister, 0, 0, 5, StatusGood)
	}
	c, out = prOut(saRegister, 0, 0, 5)
	if r := do(t, u, "c", c, out, StatusCheckCondition); be16(r.Sense[12:]) != 0x5504 {
		t.Fatalf("sense %x", r.Sense)
	}
}

// A reservation belongs to the initiator, not to its session, and ends with the
// generation.
func TestReservationsOutliveSessionsNotGenerations(t *testing.T) {
	u := three(t)
	pr(t, u, "a", saReserve, prExclusiveAccess, 1, 0, StatusGood)
	u.Detach("a")
	do(t, u, "b", cdb16(opRead16, 0, 0, 1), nil, StatusConflict)
	u.Attach("a2", "iqn.a")
	heard(t, u, "a2", 0x2907)
	do(t, u, "a2", cdb16(opWrite16, 0, 0, 1), make([]byte, blockBytes), StatusGood)
	u.Reset()
	attentions(u, "a2")
	do(t, u, "a2", cdb16(opWrite16, 0, 0, 1), make([]byte, blockBytes), StatusGood)
	for _, n := range []string{"a2", "b", "c"} {
		u.Detach(n)
	}
	generation := u.res.generation
	u.Renew()
	u.Attach("b", "iqn.b")
	heard(t, u, "b", 0x2900)
	do(t, u, "b", cdb16(opRead16, 0, 0, 1), nil, StatusGood)
	d := do(t, u, "b", cdb(opReserveIn, saReadKeys, 0, 0, 0, 0, 0, 0, 255), nil, StatusGood).Data
	if len(d) != 8 || be32(d) != generation+1 {
		t.Fatalf("keys after a new generation: %x", d)
	}
}

func TestReserve6(t *testing.T) {
	u, _ := newTestUnit(t)
	for _, n := range []string{"a", "b"} {
		u.Attach(n, "iqn."+n)
		attentions(u, n)
	}
	reserve, release := cdb(opReserve6), cdb(opRelease10)
	do(t, u, "a", reserve, nil, StatusGood)
	do(t, u, "b", cdb(opReserve10), nil, StatusConflict)
	do(t, u, "b", release, nil, StatusGood) // of nothing
	do(t, u, "b", cdb(opTestUnitReady), nil, StatusConflict)
	do(t, u, "b", cdb(opReadCapacity10), nil, StatusGood)
	pr(t, u, "a", saRegister, 0, 0, 1, StatusConflict)
	u.Detach("a")
	do(t, u, "b", reserve, nil, StatusGood)
	u.Reset()
	attentions(u, "b")
	pr(t, u, "b", saRegister, 0, 0, 1, StatusGood)
	do(t, u, "b", reserve, nil, StatusConflict)
	do(t, u, "b", cdb(opReserve6, 0x10), nil, StatusCheckCondition)
}

func TestReadFullStatus(t *testing.T) {
	u := three(t)
	pr(t, u, "b", saReserve, prAccessRegister, 2, 0, StatusGood)
	in := func(action byte) []byte {
		return do(t, u, "a", cdb(opReserveIn, action, 0, 0, 0, 0, 0, 4), nil, StatusGood).Data
	}
	if d := in(saReadReservation); len(d) != 24 || be64(d[8:]) != 2 || d[21] != prAccessRegister {
		t.Fatalf("reservation %x", d)
	}
	d := in(saReadFullStatus)
	if int(be32(d[4:])) != len(d)-8 {
		t.Fatalf("full status %x", d)
	}
	for i, x := range []struct {
		key  uint64
		name string
		held byte
	}{{1, "iqn.a", 0}, {2, "iqn.b", 1}} {
		p := d[8+i*48:]
		if be64(p) != x.key || p[12]&1 != x.held || be32(p[20:]) != 24 || p[24] != 0x05 || string(p[28:33]) != x.name {
			t.Fatalf("descriptor %d: %x", i, p[:48])
		}
	}
	if d := in(saReportCaps); len(d) != 8 || d[2]&0x01 != 0 {
		t.Fatalf("capabilities %x: reservations do not survive a loss of power", d)
	}
}

func TestPowerLossIsTold(t *testing.T) {
	u, _ := newTestUnit(t)
	u.cfg.PowerLost = true
	u.Attach("a", "iqn.a")
	r := do(t, u, "a", cdb(opTestUnitReady), nil, StatusCheckCondition)
	if r.Sense[2] != 6 || be16(r.Sense[12:]) != 0x2901 {
		t.Fatalf("sense %x, want POWER ON OCCURRED", r.Sense)
	}
	do(t, u, "a", cdb(opTestUnitReady), nil, StatusGood)
}

// What a unit remembers of initiators that never come back is bounded.
func TestPortsAreBounded(t *testing.T) {
	u, _ := newTestUnit(t)
	for i := range 10 * maxPorts {
		n := "iqn." + time.Duration(i).String()
		u.Attach(n, n)
		u.Detach(n)
	}
	if len(u.ports) > maxPorts+1 || len(u.nexus) > 1 || u.pending.Load() > maxPorts+1 {
		t.Fatalf("%d ports, %d sessions, %d attentions", len(u.ports), len(u.nexus), u.pending.Load())
	}
}
