package iscsi

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
)

// Operation codes (RFC 7143 11.2.1.2).
const (
	opNopOut       = 0x00
	opCommand      = 0x01
	opTaskMgmt     = 0x02
	opLogin        = 0x03
	opText         = 0x04
	opDataOut      = 0x05
	opLogout       = 0x06
	opNopIn        = 0x20
	opResponse     = 0x21
	opTaskMgmtResp = 0x22
	opLoginResp    = 0x23
	opTextResp     = 0x24
	opDataIn       = 0x25
	opLogoutResp   = 0x26
	opR2T          = 0x31
	opReject       = 0x3f
)

const (
	headerBytes = 48
	noTag       = 0xffffffff // reserved task or transfer tag
	bitFinal    = 0x80
)

// Byte offsets in the basic header segment.
const (
	offITT      = 16
	offTTT      = 20
	offStatSN   = 24 // target to initiator; CmdSN the other way
	offCmdSN    = 24
	offExpCmdSN = 28 // target to initiator; ExpStatSN the other way
	offExpStat  = 28
	offMaxCmdSN = 32
	offDataSN   = 36
	offOffset   = 40
	offResidual = 44
)

// ErrProtocol: the peer broke RFC 7143; the connection ends.
var ErrProtocol = errors.New("protocol error")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// pdu is one basic header segment with its data.
type pdu struct {
	h    [headerBytes]byte
	data []byte
}

func (p *pdu) op() byte             { return p.h[0] & 0x3f }
func (p *pdu) immediate() bool      { return p.h[0]&0x40 != 0 }
func (p *pdu) final() bool          { return p.h[1]&bitFinal != 0 }
func (p *pdu) itt() uint32          { return p.u32(offITT) }
func (p *pdu) u32(o int) uint32     { return binary.BigEndian.Uint32(p.h[o:]) }
func (p *pdu) put(o int, v uint32)  { binary.BigEndian.PutUint32(p.h[o:], v) }
func (p *pdu) dataBytes() int       { return int(p.h[5])<<16 | int(p.h[6])<<8 | int(p.h[7]) }
func (p *pdu) setDataBytes(n int)   { p.h[5], p.h[6], p.h[7] = byte(n>>16), byte(n>>8), byte(n) }
func (p *pdu) copyITT(from *pdu)    { copy(p.h[offITT:offITT+4], from.h[offITT:]) }
func newPDU(op, flags byte) *pdu    { p := new(pdu); p.h[0], p.h[1] = op, flags; return p }
func padding(n int) int             { return -n & 3 }
func le32(b []byte) uint32          { return binary.LittleEndian.Uint32(b) }
func sum(c uint32, b []byte) uint32 { return crc32.Update(c, castagnoli, b) }

// digests says which CRC32C digests are in force.
type digests struct{ header, data bool }

// readHeader reads a header, drops additional header segments, and checks the
// digest over both.
func readHeader(r *bufio.Reader, p *pdu, d digests) error {
	if _, err := io.ReadFull(r, p.h[:]); err != nil {
		return err
	}
	c := sum(0, p.h[:])
	if n := int(p.h[4]) * 4; n > 0 { // at most 1020 bytes
		ahs := make([]byte, n)
		if _, err := io.ReadFull(r, ahs); err != nil {
			return noEOF(err)
		}
		c = sum(c, ahs)
	}
	if !d.header {
		return nil
	}
	var want [4]byte
	if _, err := io.ReadFull(r, want[:]); err != nil {
		return noEOF(err)
	}
	if c != le32(want[:]) {
		return fmt.Errorf("%w: header digest", ErrProtocol)
	}
	return nil
}

// readData reads a data segment into b, with its padding and digest.
func readData(r *bufio.Reader, b []byte, d digests) error {
	if len(b) == 0 {
		return nil
	}
	if _, err := io.ReadFull(r, b); err != nil {
		return noEOF(err)
	}
	var tail [8]byte
	pad := padding(len(b))
	n := pad
	if d.data {
		n += 4
	}
	if _, err := io.ReadFull(r, tail[:n]); err != nil {
		return noEOF(err)
	}
	if d.data && sum(sum(0, b), tail[:pad]) != le32(tail[pad:n]) {
		return fmt.Errorf("%w: data digest", ErrProtocol)
	}
	return nil
}

// skipData reads a data segment nobody wants.
func skipData(r *bufio.Reader, n int, d digests) error {
	if n == 0 {
		return nil
	}
	n += padding(n)
	if d.data {
		n += 4
	}
	_, err := r.Discard(n)
	return noEOF(err)
}

// noEOF: the end of the stream inside a PDU is no clean end.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

var zeroPad [4]byte

// appendPDU adds what goes on the wire for p.
func appendPDU(bufs net.Buffers, p *pdu, d digests) net.Buffers {
	n := len(p.data)
	p.setDataBytes(n)
	h := p.h[:]
	if d.header {
		h = binary.LittleEndian.AppendUint32(append(make([]byte, 0, headerBytes+4), h...), sum(0, h))
	}
	bufs = append(bufs, h)
	if n == 0 {
		return bufs
	}
	bufs = append(bufs, p.data)
	pad := zeroPad[:padding(n)]
	if d.data {
		c := sum(sum(0, p.data), pad)
		return append(bufs, binary.LittleEndian.AppendUint32(append(make([]byte, 0, 8), pad...), c))
	}
	if len(pad) > 0 {
		bufs = append(bufs, pad)
	}
	return bufs
}
