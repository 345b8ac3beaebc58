package scsi

import "encoding/binary"

// Operation codes (SPC-4, SBC-3).
const (
	opTestUnitReady  = 0x00
	opRequestSense   = 0x03
	opRead6          = 0x08
	opWrite6         = 0x0a
	opInquiry        = 0x12
	opModeSense6     = 0x1a
	opStartStop      = 0x1b
	opSendDiagnostic = 0x1d
	opReadCapacity10 = 0x25
	opRead10         = 0x28
	opWrite10        = 0x2a
	opWriteVerify10  = 0x2e
	opVerify10       = 0x2f
	opPreFetch10     = 0x34
	opSyncCache10    = 0x35
	opWriteSame10    = 0x41
	opUnmap          = 0x42
	opModeSense10    = 0x5a
	opRead16         = 0x88
	opCompareWrite   = 0x89
	opWrite16        = 0x8a
	opWriteVerify16  = 0x8e
	opVerify16       = 0x8f
	opPreFetch16     = 0x90
	opSyncCache16    = 0x91
	opWriteSame16    = 0x93
	opServiceIn16    = 0x9e
	opReportLUNs     = 0xa0
	opMaintenanceIn  = 0xa3
	opRead12         = 0xa8
	opWrite12        = 0xaa
	opWriteVerify12  = 0xae
	opVerify12       = 0xaf

	saReadCapacity16 = 0x10
	saGetLBAStatus   = 0x12
	saReportOpcodes  = 0x0c

	noAction = -1
)

// command is one command of the unit.
type command struct {
	op     byte
	action int // service action, noAction without
	// usage marks the bits of the CDB that are looked at, byte 0 being the
	// operation code (SPC-4 6.35.3); its length is the CDB's.
	usage string
	// run is nil for what gotgt's model serves.
	run func(*Unit, *call) Result
	// out is how much data-out the CDB takes, nil for none.
	out func(cdb []byte) int
	// despiteAttention: a pending unit attention does not stop it (SAM-5 5.14).
	despiteAttention bool
}

var commands = []command{
	{op: opTestUnitReady, action: noAction, usage: "\x00\x00\x00\x00\x00\x00"},
	{op: opRequestSense, action: noAction, usage: "\x03\x00\x00\x00\xff\x00", run: (*Unit).requestSense, despiteAttention: true},
	{op: opRead6, action: noAction, usage: "\x08\x1f\xff\xff\xff\x00", run: (*Unit).read},
	{op: opWrite6, action: noAction, usage: "\x0a\x1f\xff\xff\xff\x00", run: (*Unit).write, out: transferBytes},
	{op: opInquiry, action: noAction, usage: "\x12\x01\xff\xff\xff\x00", run: (*Unit).inquiry, despiteAttention: true},
	{op: opModeSense6, action: noAction, usage: "\x1a\x08\xff\xff\xff\x00", run: (*Unit).modeSense},
	{op: opStartStop, action: noAction, usage: "\x1b\x01\x00\x00\x03\x00", run: (*Unit).startStop},
	{op: opSendDiagnostic, action: noAction, usage: "\x1d\x04\x00\x00\x00\x00"},
	{op: opReadCapacity10, action: noAction, usage: "\x25\x00\xff\xff\xff\xff\x00\x00\x01\x00"},
	{op: opRead10, action: noAction, usage: "\x28\xf8\xff\xff\xff\xff\x00\xff\xff\x00", run: (*Unit).read},
	{op: opWrite10, action: noAction, usage: "\x2a\xf8\xff\xff\xff\xff\x00\xff\xff\x00", run: (*Unit).write, out: transferBytes},
	{op: opWriteVerify10, action: noAction, usage: "\x2e\xf2\xff\xff\xff\xff\x00\xff\xff\x00", run: (*Unit).write, out: transferBytes},
	{op: opVerify10, action: noAction, usage: "\x2f\xf6\xff\xff\xff\xff\x00\xff\xff\x00", run: (*Unit).verify, out: verifyBytes},
	{op: opPreFetch10, action: noAction, usage: "\x34\x02\xff\xff\xff\xff\x00\xff\xff\x00", run: (*Unit).preFetch},
	{op: opSyncCache10, action: noAction, usage: "\x35\x06\xff\xff\xff\xff\x00\xff\xff\x00", run: (*Unit).syncCache},
	{op: opWriteSame10, action: noAction, usage: "\x41\xfe\xff\xff\xff\xff\x00\xff\xff\x00", run: (*Unit).writeSame, out: writeSameBytes},
	{op: opUnmap, action: noAction, usage: "\x42\x01\x00\x00\x00\x00\x00\xff\xff\x00", run: (*Unit).unmap, out: unmapBytes},
	{op: opModeSense10, action: noAction, usage: "\x5a\x08\xff\xff\x00\x00\x00\xff\xff\x00", run: (*Unit).modeSense},
	{op: opRead16, action: noAction, usage: "\x88\xf8\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).read},
	{op: opCompareWrite, action: noAction, usage: "\x89\xf8\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\xff\x00\x00", run: (*Unit).compareAndWrite, out: compareBytes},
	{op: opWrite16, action: noAction, usage: "\x8a\xf8\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).write, out: transferBytes},
	{op: opWriteVerify16, action: noAction, usage: "\x8e\xf2\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).write, out: transferBytes},
	{op: opVerify16, action: noAction, usage: "\x8f\xf6\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).verify, out: verifyBytes},
	{op: opPreFetch16, action: noAction, usage: "\x90\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).preFetch},
	{op: opSyncCache16, action: noAction, usage: "\x91\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).syncCache},
	{op: opWriteSame16, action: noAction, usage: "\x93\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).writeSame, out: writeSameBytes},
	{op: opServiceIn16, action: saReadCapacity16, usage: "\x9e\x10\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00", run: (*Unit).readCapacity16},
	{op: opServiceIn16, action: saGetLBAStatus, usage: "\x9e\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).lbaStatus},
	{op: opReportLUNs, action: noAction, usage: "\xa0\x00\xff\x00\x00\x00\xff\xff\xff\xff\x00\x00", run: (*Unit).reportLUNs, despiteAttention: true},
	// run is set by init: the list answers from itself.
	{op: opMaintenanceIn, action: saReportOpcodes, usage: "\xa3\x0c\x87\xff\xff\xff\xff\xff\xff\xff\x00\x00"},
	{op: opRead12, action: noAction, usage: "\xa8\xf8\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).read},
	{op: opWrite12, action: noAction, usage: "\xaa\xf8\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).write, out: transferBytes},
	{op: opWriteVerify12, action: noAction, usage: "\xae\xf2\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).write, out: transferBytes},
	{op: opVerify12, action: noAction, usage: "\xaf\xf6\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).verify, out: verifyBytes},
}

// byOp finds commands by operation code; service actions follow each other.
var byOp [256][]*command

func init() {
	for i := range commands {
		c := &commands[i]
		if c.op == opMaintenanceIn {
			c.run = (*Unit).reportOpcodes
		}
		byOp[c.op] = append(byOp[c.op], c)
	}
}

func isServiceAction(op byte) bool { return len(byOp[op]) > 0 && byOp[op][0].action != noAction }

func find(cdb []byte) *command {
	for _, c := range byOp[cdb[0]] {
		if c.action == noAction || c.action == int(cdb[1]&0x1f) {
			return c
		}
	}
	return nil
}

// extent decodes logical block address and count of a CDB.
func extent(c []byte) (lba uint64, n uint32) {
	switch {
	case c[0] == opRead6 || c[0] == opWrite6:
		lba = uint64(c[1]&0x1f)<<16 | uint64(c[2])<<8 | uint64(c[3])
		if n = uint32(c[4]); n == 0 {
			n = 256
		}
	case c[0] == opCompareWrite:
		lba, n = be64(c[2:]), uint32(c[13])
	case c[0]>>5 == 4: // 16 bytes
		lba, n = be64(c[2:]), be32(c[10:])
	case c[0]>>5 == 5: // 12 bytes
		lba, n = uint64(be32(c[2:])), be32(c[6:])
	default: // 10 bytes
		lba, n = uint64(be32(c[2:])), uint32(be16(c[7:]))
	}
	return lba, n
}

func transferBytes(c []byte) int {
	_, n := extent(c)
	return int(n) << blockShift
}

func compareBytes(c []byte) int { return 2 * transferBytes(c) }

func unmapBytes(c []byte) int { return be16(c[7:]) }

// verifyBytes follows BYTCHK: nothing, the blocks, or one block for all.
func verifyBytes(c []byte) int {
	switch c[1] & 0x06 {
	case 0x02:
		return transferBytes(c)
	case 0x06:
		return blockBytes
	}
	return 0
}

func writeSameBytes(c []byte) int {
	if c[0] == opWriteSame16 && c[1]&0x01 != 0 { // NDOB
		return 0
	}
	return blockBytes
}

// reportOpcodes is REPORT SUPPORTED OPERATION CODES (SPC-4 6.35).
func (u *Unit) reportOpcodes(k *call) Result {
	timeouts := k.cdb[2]&0x80 != 0
	var b []byte
	switch option := k.cdb[2] & 0x07; option {
	case 0:
		b = reportAll(timeouts)
	case 1, 2, 3:
		r, ok := reportOne(option, k.cdb[3], be16(k.cdb[4:]), timeouts)
		if !ok {
			return illegalField()
		}
		b = r
	default:
		return illegalField()
	}
	return Result{Data: cut(b, int(be32(k.cdb[6:])))}
}

const timeoutDescriptorBytes = 12

func timeoutDescriptor() []byte {
	b := make([]byte, timeoutDescriptorBytes)
	b[1] = timeoutDescriptorBytes - 2 // no timeouts are named
	return b
}

func reportAll(timeouts bool) []byte {
	b := make([]byte, 4)
	for _, c := range commands {
		d := make([]byte, 8)
		d[0] = c.op
		if c.action != noAction {
			binary.BigEndian.PutUint16(d[2:], uint16(c.action))
			d[5] |= 0x01
		}
		binary.BigEndian.PutUint16(d[6:], uint16(len(c.usage)))
		if timeouts {
			d[5] |= 0x02
			d = append(d, timeoutDescriptor()...)
		}
		b = append(b, d...)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// reportOne answers options 1 (no service action may exist), 2 (one must) and
// 3 (as it is). The second result is false when the option does not fit.
func reportOne(option, op byte, action int, timeouts bool) ([]byte, bool) {
	list := byOp[op]
	has := isServiceAction(op)
	if len(list) > 0 && (option == 1 && has || option == 2 && !has) {
		return nil, false
	}
	var c *command
	for _, x := range list {
		if !has || x.action == action {
			c = x
		}
	}
	b := make([]byte, 4)
	if c == nil {
		b[1] = 0x01 // not supported
		return b, true
	}
	b[1] = 0x03 // supported as the standard says
	binary.BigEndian.PutUint16(b[2:], uint16(len(c.usage)))
	b = append(b, c.usage...)
	if timeouts {
		b[1] |= 0x80
		b = append(b, timeoutDescriptor()...)
	}
	return b, true
}
