package scsi

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// copyList makes a command and its parameter list for copies within u.
func copyList(u *Unit, list byte, segments ...copySegment) (c, out []byte) {
	out = make([]byte, copyHeaderBytes)
	out[0] = list
	d := make([]byte, copyTargetBytes)
	d[0], d[4], d[5], d[7] = copyTargetIdent, 1, 3, 8
	binary.BigEndian.PutUint64(d[8:], u.naa)
	binary.BigEndian.PutUint32(d[28:], blockBytes)
	out = append(out, d...)
	binary.BigEndian.PutUint16(out[2:], copyTargetBytes)
	for _, s := range segments {
		d := make([]byte, copySegmentBytes)
		d[0], d[3] = copyBlockToBlock, copySegmentBytes-4
		binary.BigEndian.PutUint16(d[10:], uint16(s.n))
		binary.BigEndian.PutUint64(d[12:], s.from)
		binary.BigEndian.PutUint64(d[20:], s.to)
		out = append(out, d...)
	}
	binary.BigEndian.PutUint32(out[8:], uint32(len(segments)*copySegmentBytes))
	c = cdb(opExtendedCopy)
	binary.BigEndian.PutUint32(c[10:], uint32(len(out)))
	return c, out
}

func TestExtendedCopy(t *testing.T) {
	u, _ := newTestUnit(t)
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	want(t, u, cdb16(opWrite16, 0, 0, 2048), data, 0, 0)
	expect := make([]byte, 2<<20)
	copy(expect, data)
	var segments []copySegment
	for range 10 { // some of them overlap
		s := copySegment{from: rand.Uint64N(2000), to: rand.Uint64N(3000), n: 1 + rand.Uint32N(1000)}
		segments = append(segments, s)
		copy(expect[s.to*blockBytes:], bytes.Clone(expect[s.from*blockBytes:(s.from+uint64(s.n))*blockBytes]))
	}
	c, out := copyList(u, 7, segments...)
	want(t, u, c, out, 0, 0)
	for at := 0; at < len(expect); at += 1 << 20 {
		if d := want(t, u, cdb16(opRead16, 0, uint64(at)/blockBytes, 2048), nil, 0, 0); !bytes.Equal(d, expect[at:at+1<<20]) {
			t.Fatal("copied something else")
		}
	}
	status := cdb(opReceiveCopy, saCopyStatus, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64)
	u.Attach("other", "initiator-2")
	u.takeAttention("other")
	if r := u.Exec("other", status, nil, 64); r.Status == StatusGood {
		t.Fatal("another session sees the status")
	}
	d := want(t, u, status, nil, 0, 0)
	if len(d) != 12 || d[4] != 1 || be16(d[5:]) != len(segments) {
		t.Fatalf("status %x", d)
	}
	want(t, u, status, nil, 5, 0x2400) // told once
	for i := range byte(3 * maxCopyResults) {
		c, out = copyList(u, i)
		want(t, u, c, out, 0, 0)
	}
	if n := len(u.copies["n"]); n != maxCopyResults {
		t.Fatalf("%d results are kept", n)
	}
	u.Detach("n")
	if len(u.copies) != 0 {
		t.Fatal("results outlive their session")
	}
}

func TestExtendedCopyRefuses(t *testing.T) {
	u, _ := newTestUnit(t)
	one := copySegment{0, 8, 4}
	for name, x := range map[string]struct {
		set      func(c, out []byte) []byte
		segments int
		key      byte
		asc      uint16
	}{
		"another unit":       {func(_, o []byte) []byte { o[24]++; return o }, 1, 0xa, 0x0d02},
		"another block size": {func(_, o []byte) []byte { o[46] = 0x10; return o }, 1, 0xa, 0x0d02},
		"another index":      {func(_, o []byte) []byte { o[48+5] = 1; return o }, 1, 0xa, 0x0d02},
		"beyond the end":     {func(_, o []byte) []byte { o[48+20] = 1; return o }, 1, 0xa, 0},
		"from beyond":        {func(_, o []byte) []byte { o[48+12] = 0xff; return o }, 1, 0xa, 0},
		"strange target":     {func(_, o []byte) []byte { o[16] = 0xe0; return o }, 1, 5, 0x2607},
		"strange segment":    {func(_, o []byte) []byte { o[48] = 3; return o }, 1, 5, 0x2609},
		"many segments":      {func(_, o []byte) []byte { return o }, maxCopySegments + 1, 5, 0x2608},
		"list too long":      {func(_, o []byte) []byte { return o }, 50, 5, 0x1a00},
		"cut off":            {func(c, o []byte) []byte { c[13]--; return o[:len(o)-1] }, 1, 5, 0x1a00},
		"inline data":        {func(_, o []byte) []byte { o[15] = 1; return o }, 1, 5, 0x2600},
	} {
		t.Run(name, func(t *testing.T) {
			l := make([]copySegment, x.segments)
			for i := range l {
				l[i] = one
			}
			c, out := copyList(u, 1, l...)
			want(t, u, c, x.set(c, out), x.key, x.asc)
		})
	}
	want(t, u, cdb(opExtendedCopy), nil, 0, 0)
	p := want(t, u, cdb(opReceiveCopy, saCopyParameters, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1), nil, 0, 0)
	if int(be32(p)) != len(p)-4 || be16(p[8:]) != maxCopyTargets || be16(p[10:]) != maxCopySegments {
		t.Fatalf("parameters %x", p)
	}
}
