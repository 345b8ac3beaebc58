package scsi

import "encoding/binary"

// Operation codes (SPC-4, SBC-3).
const (
	opTestUnitReady  = 0x00
	opRequestSense   = 0x03
	opRead6          = 0x08
	opWrite6         = 0x0a
	opInquiry        = 0x12
	opReserve6       = 0x16
	opRelease6       = 0x17
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
	opReadDefects10  = 0x37
	opWriteSame10    = 0x41
	opUnmap          = 0x42
	opReserve10      = 0x56
	opRelease10      = 0x57
	opModeSense10    = 0x5a
	opReserveIn      = 0x5e
	opReserveOut     = 0x5f
	opExtendedCopy   = 0x83
	opReceiveCopy    = 0x84
	opRead16         = 0x88
	opCompareWrite   = 0x89
	opWrite16        = 0x8a
	opOrWrite16      = 0x8b
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
	opReadDefects12  = 0xb7

	saReadCapacity16 = 0x10
	saGetLBAStatus   = 0x12
	saReportOpcodes  = 0x0c

	noAction = -1

	maxListBytes = 64 << 10
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
	access           access
}

// access says how reservations of others govern a command (SPC-4 table 67,
// SBC-3 table 14).
type access byte

const (
	accessAlways   access = iota
	accessReserve         // the command looks for itself, and holds the lock
	accessCapacity        // beside every reservation
	accessUnit            // beside every persistent one
	accessRead            // beside the write exclusive kinds
	accessWrite           // beside none
)

// governed commands hold off changes of the reservations while they run.
func (a access) governed() bool { return a >= accessCapacity }

var commands = []command{
	{op: opTestUnitReady, action: noAction, usage: "\x00\x00\x00\x00\x00\x00", access: accessUnit},
	{op: opRequestSense, action: noAction, usage: "\x03\x00\x00\x00\xff\x00", run: (*Unit).requestSense, despiteAttention: true},
	{op: opRead6, action: noAction, usage: "\x08\x1f\xff\xff\xff\x00", run: (*Unit).read, access: accessRead},
	{op: opWrite6, action: noAction, usage: "\x0a\x1f\xff\xff\xff\x00", run: (*Unit).write, out: transferBytes, access: accessWrite},
	{op: opInquiry, action: noAction, usage: "\x12\x01\xff\xff\xff\x00", run: (*Unit).inquiry, despiteAttention: true},
	{op: opModeSense6, action: noAction, usage: "\x1a\x08\xff\xff\xff\x00", run: (*Unit).modeSense, access: accessWrite},
	{op: opStartStop, action: noAction, usage: "\x1b\x01\x00\x00\x03\x00", run: (*Unit).startStop, access: accessWrite},
	{op: opSendDiagnostic, action: noAction, usage: "\x1d\x04\x00\x00\x00\x00", access: accessWrite},
	{op: opReadCapacity10, action: noAction, usage: "\x25\x00\xff\xff\xff\xff\x00\x00\x01\x00", access: accessCapacity},
	{op: opRead10, action: noAction, usage: "\x28\xf8\xff\xff\xff\xff\x00\xff\xff\x00", run: (*Unit).read, access: accessRead},
	{op: opWrite10, action: noAction, usage: "\x2a\xf8\xff\xff\xff\xff\x00\xff\xff\x00", run: (*Unit).write, out: transferBytes, access: accessWrite},
	{op: opWriteVerify10, action: noAction, usage: "\x2e\xf2\xff\xff\xff\xff\x00\xff\xff\x00", run: (*Unit).write, out: transferBytes, access: accessWrite},
	{op: opVerify10, action: noAction, usage: "\x2f\xf6\xff\xff\xff\xff\x00\xff\xff\x00", run: (*Unit).verify, out: verifyBytes, access: accessRead},
	{op: opPreFetch10, action: noAction, usage: "\x34\x02\xff\xff\xff\xff\x00\xff\xff\x00", run: (*Unit).preFetch, access: accessRead},
	{op: opSyncCache10, action: noAction, usage: "\x35\x06\xff\xff\xff\xff\x00\xff\xff\x00", run: (*Unit).syncCache, access: accessWrite},
	{op: opWriteSame10, action: noAction, usage: "\x41\xfe\xff\xff\xff\xff\x00\xff\xff\x00", run: (*Unit).writeSame, out: writeSameBytes, access: accessWrite},
	{op: opUnmap, action: noAction, usage: "\x42\x01\x00\x00\x00\x00\x00\xff\xff\x00", run: (*Unit).unmap, out: unmapBytes, access: accessWrite},
	{op: opModeSense10, action: noAction, usage: "\x5a\x08\xff\xff\x00\x00\x00\xff\xff\x00", run: (*Unit).modeSense, access: accessWrite},
	{op: opRead16, action: noAction, usage: "\x88\xf8\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).read, access: accessRead},
	{op: opCompareWrite, action: noAction, usage: "\x89\xf8\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\xff\x00\x00", run: (*Unit).compareAndWrite, out: compareBytes, access: accessWrite},
	{op: opWrite16, action: noAction, usage: "\x8a\xf8\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).write, out: transferBytes, access: accessWrite},
	{op: opWriteVerify16, action: noAction, usage: "\x8e\xf2\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).write, out: transferBytes, access: accessWrite},
	{op: opVerify16, action: noAction, usage: "\x8f\xf6\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).verify, out: verifyBytes, access: accessRead},
	{op: opPreFetch16, action: noAction, usage: "\x90\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).preFetch, access: accessRead},
	{op: opSyncCache16, action: noAction, usage: "\x91\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).syncCache, access: accessWrite},
	{op: opWriteSame16, action: noAction, usage: "\x93\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).writeSame, out: writeSameBytes, access: accessWrite},
	{op: opServiceIn16, action: saReadCapacity16, usage: "\x9e\x10\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00", run: (*Unit).readCapacity16, access: accessCapacity},
	{op: opServiceIn16, action: saGetLBAStatus, usage: "\x9e\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).lbaStatus, access: accessRead},
	{op: opReportLUNs, action: noAction, usage: "\xa0\x00\xff\x00\x00\x00\xff\xff\xff\xff\x00\x00", run: (*Unit).reportLUNs, despiteAttention: true},
	{op: opReserve6, action: noAction, usage: "\x16\x1f\x00\x00\x00\x00", run: (*Unit).reserve, access: accessReserve},
	{op: opRelease6, action: noAction, usage: "\x17\x1f\x00\x00\x00\x00", run: (*Unit).release, access: accessAlways},
	{op: opReserve10, action: noAction, usage: "\x56\x1f\x00\x00\x00\x00\x00\x00\x00\x00", run: (*Unit).reserve, access: accessReserve},
	{op: opRelease10, action: noAction, usage: "\x57\x1f\x00\x00\x00\x00\x00\x00\x00\x00", run: (*Unit).release, access: accessAlways},
	{op: opReadDefects10, action: noAction, usage: "\x37\x00\x1f\x00\x00\x00\x00\xff\xff\x00", run: (*Unit).readDefects, access: accessRead},
	{op: opReadDefects12, action: noAction, usage: "\xb7\x1f\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).readDefects, access: accessRead},
	{op: opOrWrite16, action: noAction, usage: "\x8b\xf8\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).orWrite, out: transferBytes, access: accessWrite},
	{op: opReserveIn, action: saReadKeys, usage: "\x5e\x00\x00\x00\x00\x00\x00\xff\xff\x00", run: (*Unit).reserveIn},
	{op: opReserveIn, action: saReadReservation, usage: "\x5e\x01\x00\x00\x00\x00\x00\xff\xff\x00", run: (*Unit).reserveIn},
	{op: opReserveIn, action: saReportCaps, usage: "\x5e\x02\x00\x00\x00\x00\x00\xff\xff\x00", run: (*Unit).reserveIn},
	{op: opReserveIn, action: saReadFullStatus, usage: "\x5e\x03\x00\x00\x00\x00\x00\xff\xff\x00", run: (*Unit).reserveIn},
	{op: opReserveOut, action: saRegister, usage: "\x5f\x00\x00\x00\x00\xff\xff\xff\xff\x00", run: (*Unit).reserveOut, out: listBytes, access: accessReserve},
	{op: opReserveOut, action: saReserve, usage: "\x5f\x01\xff\x00\x00\xff\xff\xff\xff\x00", run: (*Unit).reserveOut, out: listBytes, access: accessReserve},
	{op: opReserveOut, action: saRelease, usage: "\x5f\x02\xff\x00\x00\xff\xff\xff\xff\x00", run: (*Unit).reserveOut, out: listBytes, access: accessReserve},
	{op: opReserveOut, action: saClear, usage: "\x5f\x03\x00\x00\x00\xff\xff\xff\xff\x00", run: (*Unit).reserveOut, out: listBytes, access: accessReserve},
	{op: opReserveOut, action: saPreempt, usage: "\x5f\x04\xff\x00\x00\xff\xff\xff\xff\x00", run: (*Unit).reserveOut, out: listBytes, access: accessReserve},
	{op: opReserveOut, action: saPreemptAbort, usage: "\x5f\x05\xff\x00\x00\xff\xff\xff\xff\x00", run: (*Unit).reserveOut, out: listBytes, access: accessReserve},
	{op: opReserveOut, action: saRegisterIgnore, usage: "\x5f\x06\x00\x00\x00\xff\xff\xff\xff\x00", run: (*Unit).reserveOut, out: listBytes, access: accessReserve},
	{op: opExtendedCopy, action: 0, usage: "\x83\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00", run: (*Unit).extendedCopy, out: copyBytes, access: accessWrite},
	{op: opReceiveCopy, action: saCopyStatus, usage: "\x84\x00\xff\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00", run: (*Unit).copyStatus, access: accessWrite},
	{op: opReceiveCopy, action: saCopyParameters, usage: "\x84\x03\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00", run: (*Unit).copyParameters, access: accessWrite},
	// run is set by init: the list answers from itself.
	{op: opMaintenanceIn, action: saReportOpcodes, usage: "\xa3\x0c\x87\xff\xff\xff\xff\xff\xff\xff\x00\x00", access: accessWrite},
	{op: opRead12, action: noAction, usage: "\xa8\xf8\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).read, access: accessRead},
	{op: opWrite12, action: noAction, usage: "\xaa\xf8\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).write, out: transferBytes, access: accessWrite},
	{op: opWriteVerify12, action: noAction, usage: "\xae\xf2\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).write, out: transferBytes, access: accessWrite},
	{op: opVerify12, action: noAction, usage: "\xaf\xf6\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", run: (*Unit).verify, out: verifyBytes, access: accessRead},
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

// listBytes is the length of a short parameter list; a longer one is refused
// before its data is asked for.
func listBytes(c []byte) int { return int(min(be32(c[5:]), maxListBytes)) }

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
			return illegalAt(2)
		}
		b = r
	default:
		return illegalAt(2)
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
