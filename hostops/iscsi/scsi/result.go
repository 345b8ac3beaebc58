package scsi

import (
	"encoding/binary"
	"errors"
	"syscall"

	gotgt "github.com/gostor/gotgt/pkg/scsi"
)

// SAM-5 status codes.
const (
	StatusGood           byte = 0x00
	StatusCheckCondition byte = 0x02
	StatusConflict       byte = 0x18 // a reservation of another initiator
	StatusTaskSetFull    byte = 0x28
)

// Additional sense codes that gotgt does not name (SPC-4 annex E).
const (
	ascSpaceAllocation = 0x2707
	ascCapacityChanged = 0x2a09
	ascNoSense         = 0x0000
	ascPowerOn         = 0x2901

	ascRegistrationsPreempted = 0x2a05
	ascProtocolCRC            = 0x4705
)

// Result is the answer to one command.
type Result struct {
	Status byte
	Data   []byte  // data-in, cut to the allocation length
	Total  int     // bytes of data-in the command had to give; 0: len(Data)
	Sense  []byte  // fixed format, with StatusCheckCondition
	buf    *Buffer // behind Data, if it came from the pool
}

// Free gives back what Data lives in. Call it once, when Data has been sent.
func (r *Result) Free() {
	r.buf.Free()
	r.buf, r.Data = nil, nil
}

// Check is a CHECK CONDITION with fixed-format sense data (SPC-4 4.5.3); asc
// holds code and qualifier.
func Check(key byte, asc gotgt.SCSISubError) Result {
	return Result{Status: StatusCheckCondition, Sense: sense(key, asc)}
}

func sense(key byte, asc gotgt.SCSISubError) []byte {
	b := make([]byte, 18)
	b[0], b[2], b[7] = 0x70, key, 10
	binary.BigEndian.PutUint16(b[12:], uint16(asc))
	return b
}

func illegalField() Result { return Check(gotgt.ILLEGAL_REQUEST, gotgt.ASC_INVALID_FIELD_IN_CDB) }

// illegalAt is illegalField with the number of the byte (SPC-4 4.5.2.4.2).
func illegalAt(field int) Result {
	r := illegalField()
	r.Sense[15] = 0xc0 // SKSV, C/D
	binary.BigEndian.PutUint16(r.Sense[16:], uint16(field))
	return r
}

// DataLost answers a command whose data-out came incomplete or out of order
// (RFC 7143 11.4.7.2).
func DataLost() Result { return Check(gotgt.ABORTED_COMMAND, ascProtocolCRC) }

func illegalOp() Result    { return Check(gotgt.ILLEGAL_REQUEST, gotgt.ASC_INVALID_OP_CODE) }
func illegalRange() Result { return Check(gotgt.ILLEGAL_REQUEST, gotgt.ASC_LBA_OUT_OF_RANGE) }

// NoLUN answers a command for a logical unit that is not there. INQUIRY and
// REQUEST SENSE have answers of their own (SPC-4 6.4.1, 6.39).
func NoLUN(cdb []byte) Result {
	switch cdb[0] {
	case opInquiry:
		b := make([]byte, 36)
		b[0], b[2], b[3], b[4] = 0x7f, 6, 2, 31
		return Result{Data: cut(b, be16(cdb[3:]))}
	case opRequestSense:
		return Result{Data: cut(sense(gotgt.ILLEGAL_REQUEST, gotgt.ASC_LUN_NOT_SUPPORTED), int(cdb[4]))}
	}
	return Check(gotgt.ILLEGAL_REQUEST, gotgt.ASC_LUN_NOT_SUPPORTED)
}

// Broken answers a command whose handler panicked.
func Broken() Result { return Check(gotgt.HARDWARE_ERROR, gotgt.ASC_INTERNAL_TGT_FAILURE) }

// TooLarge answers a command that moves more than a unit takes at once.
func TooLarge() Result { return illegalField() }

func readError(err error) Result { return ioError(err, gotgt.ASC_READ_ERROR) }

func writeError(err error) Result { return ioError(err, gotgt.ASC_WRITE_ERROR) }

func ioError(err error, asc gotgt.SCSISubError) Result {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return Check(gotgt.DATA_PROTECT, ascSpaceAllocation)
	}
	return Check(gotgt.MEDIUM_ERROR, asc)
}

func cut(b []byte, n int) []byte {
	if n < len(b) {
		return b[:n]
	}
	return b
}

func be16(b []byte) int    { return int(binary.BigEndian.Uint16(b)) }
func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }
func be64(b []byte) uint64 { return binary.BigEndian.Uint64(b) }
