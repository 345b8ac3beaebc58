package scsi

import (
	"encoding/binary"

	gotgt "github.com/gostor/gotgt/pkg/scsi"
)

// EXTENDED COPY(LID1) and RECEIVE COPY RESULTS (SPC-4 6.4, 6.17 to 6.20): copies
// within the unit, so that their data does not cross the network twice. The copy
// is done when the command is answered.

const (
	copyHeaderBytes   = 16
	copyTargetBytes   = 32 // identification descriptor
	copySegmentBytes  = 28 // block to block
	maxCopyTargets    = 2
	maxCopySegments   = 16
	maxCopyListBytes  = 1 << 10 // of both kinds of descriptors
	maxCopyResults    = 8       // of one session
	copyTargetIdent   = 0xe4
	copyBlockToBlock  = 0x02
	copyListIDDiscard = 0x10 // list id usage: no status will be asked for
	copyListIDNone    = 0x18

	saCopyStatus     = 0x00
	saCopyParameters = 0x03

	ascTooManyTargets     = 0x2606
	ascTargetDescriptor   = 0x2607
	ascTooManySegments    = 0x2608
	ascSegmentDescriptor  = 0x2609
	ascCopyTargetNotThere = 0x0d02
	senseCopyAborted      = 0x0a
)

func copyBytes(c []byte) int { return int(min(be32(c[10:]), maxListBytes)) }

// copyResult is how a copy ended, for who asks by its list id.
type copyResult struct {
	list     byte
	failed   bool
	segments int // carried out
	blocks   uint64
}

type copySegment struct {
	from, to uint64
	n        uint32
}

func parameterError(asc gotgt.SCSISubError) *Result {
	r := Check(gotgt.ILLEGAL_REQUEST, asc)
	return &r
}

// extendedCopy checks everything that can be before the first block is copied.
func (u *Unit) extendedCopy(k *call) Result {
	n := int(be32(k.cdb[10:]))
	if n == 0 {
		return Result{}
	}
	if n != len(k.out) || n < copyHeaderBytes {
		return *parameterError(gotgt.ASC_PARAMETER_LIST_LENGTH_ERR)
	}
	if u.Failed() != "" {
		return Check(gotgt.MEDIUM_ERROR, gotgt.ASC_WRITE_ERROR)
	}
	targets, segments, bad := copyLists(k.out)
	if bad != nil {
		return *bad
	}
	l, bad := u.copySegments(targets, segments)
	if bad != nil {
		return *bad
	}
	result := copyResult{list: k.out[0]}
	r := Result{}
	for _, s := range l {
		if r = u.copyBlocks(s); r.Status != StatusGood {
			result.failed = true
			break
		}
		result.segments++
		result.blocks += uint64(s.n)
	}
	if r.Status == StatusGood {
		r = u.settle(false)
	}
	if usage := k.out[1] & copyListIDNone; usage != copyListIDNone && usage != copyListIDDiscard {
		u.keepResult(k.nexus, result)
	}
	return r
}

// copyLists splits the parameter list into its two lists of descriptors.
func copyLists(b []byte) (targets, segments []byte, bad *Result) {
	t, s, inline := be16(b[2:]), be32(b[8:]), be32(b[12:])
	switch rest := len(b) - copyHeaderBytes; {
	case inline != 0:
		return nil, nil, parameterError(gotgt.ASC_INVALID_FIELD_IN_PARMS)
	case s > maxCopyListBytes || t+int(s) > maxCopyListBytes || t+int(s) != rest || t%copyTargetBytes != 0:
		return nil, nil, parameterError(gotgt.ASC_PARAMETER_LIST_LENGTH_ERR)
	case t/copyTargetBytes > maxCopyTargets:
		return nil, nil, parameterError(ascTooManyTargets)
	case int(s)/copySegmentBytes > maxCopySegments:
		return nil, nil, parameterError(ascTooManySegments)
	}
	b = b[copyHeaderBytes:]
	return b[:t], b[t:], nil
}

// copySegments reads the descriptors. Source and destination have to be this
// unit, named by its NAA.
func (u *Unit) copySegments(targets, segments []byte) (l []copySegment, bad *Result) {
	ours := make([]bool, 0, maxCopyTargets)
	for d := targets; len(d) > 0; d = d[copyTargetBytes:] {
		if d[0] != copyTargetIdent {
			return nil, parameterError(ascTargetDescriptor)
		}
		const naa = 3
		ours = append(ours, d[5]&0x0f == naa && d[7] == 8 && be64(d[8:]) == u.naa && be32(d[28:])&0xffffff == blockBytes)
	}
	t := u.blocks.Load()
	for d := segments; len(d) > 0; d = d[copySegmentBytes:] {
		if d[0] != copyBlockToBlock {
			return nil, parameterError(ascSegmentDescriptor)
		}
		if len(d) < copySegmentBytes || be16(d[2:]) != copySegmentBytes-4 {
			return nil, parameterError(gotgt.ASC_PARAMETER_LIST_LENGTH_ERR)
		}
		for _, i := range []int{be16(d[4:]), be16(d[6:])} {
			if i >= len(ours) || !ours[i] {
				r := Check(senseCopyAborted, ascCopyTargetNotThere)
				return nil, &r
			}
		}
		s := copySegment{from: be64(d[12:]), to: be64(d[20:]), n: uint32(be16(d[10:]))}
		if s.n > maxTransferBlocks || s.from > t || uint64(s.n) > t-s.from || s.to > t || uint64(s.n) > t-s.to {
			r := Check(senseCopyAborted, ascNoSense)
			return nil, &r
		}
		l = append(l, s)
	}
	return l, nil
}

// copyBlocks copies one segment, which fits into memory: so ranges may overlap.
func (u *Unit) copyBlocks(s copySegment) Result {
	if s.n == 0 {
		return Result{}
	}
	buf := NewBuffer(int(s.n) << blockShift)
	defer buf.Free()
	u.data.RLock()
	defer u.data.RUnlock()
	if _, err := u.file.ReadAt(buf.B, int64(s.from)<<blockShift); err != nil {
		return readError(err)
	}
	if _, err := u.file.WriteAt(buf.B, int64(s.to)<<blockShift); err != nil {
		return writeError(err)
	}
	return Result{}
}

// keepResult keeps the result of a session's list id until it is asked for.
func (u *Unit) keepResult(nexus string, r copyResult) {
	u.nexusMu.Lock()
	defer u.nexusMu.Unlock()
	l := u.copies[nexus]
	for i := range l {
		if l[i].list == r.list {
			l[i] = r
			return
		}
	}
	if len(l) == maxCopyResults {
		l = l[1:]
	}
	u.copies[nexus] = append(l, r)
}

func (u *Unit) takeResult(nexus string, list byte) (r copyResult, ok bool) {
	u.nexusMu.Lock()
	defer u.nexusMu.Unlock()
	l := u.copies[nexus]
	for i := range l {
		if l[i].list == list {
			r = l[i]
			u.copies[nexus] = append(l[:i:i], l[i+1:]...)
			return r, true
		}
	}
	return r, false
}

// copyStatus is RECEIVE COPY STATUS(LID1).
func (u *Unit) copyStatus(k *call) Result {
	c, ok := u.takeResult(k.nexus, k.cdb[2])
	if !ok {
		return illegalAt(2)
	}
	b := make([]byte, 12)
	b[3] = byte(len(b) - 4)
	b[4] = 0x01 // completed
	if c.failed {
		b[4] = 0x02
	}
	binary.BigEndian.PutUint16(b[5:], uint16(c.segments))
	b[7] = 0x01 // the count is of KiB
	binary.BigEndian.PutUint32(b[8:], uint32(c.blocks>>1))
	return Result{Data: cut(b, int(be32(k.cdb[10:])))}
}

// copyParameters is RECEIVE COPY OPERATING PARAMETERS.
func (u *Unit) copyParameters(k *call) Result {
	b := make([]byte, 44, 46)
	b = append(b, copyBlockToBlock, copyTargetIdent)
	b[3] = byte(len(b) - 4)
	b[4] = 0x01 // SNLID: no list id need be given
	binary.BigEndian.PutUint16(b[8:], maxCopyTargets)
	binary.BigEndian.PutUint16(b[10:], maxCopySegments)
	binary.BigEndian.PutUint32(b[12:], maxCopyListBytes)
	binary.BigEndian.PutUint32(b[16:], MaxTransferBytes)
	binary.BigEndian.PutUint16(b[34:], 1)
	b[36] = 1
	b[37] = blockShift
	b[43] = 2
	return Result{Data: cut(b, int(be32(k.cdb[10:])))}
}

// thirdPartyPage is VPD page 8Fh, which a unit with 3PC has (SPC-4 7.8.17).
func thirdPartyPage() []byte {
	descriptor := func(kind uint16, b ...byte) []byte {
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
		d := binary.BigEndian.AppendUint16(nil, kind)
		return append(binary.BigEndian.AppendUint16(d, uint16(len(b))), b...)
	}
	// Supported commands: a list of operation codes with their service actions.
	commands := []byte{opExtendedCopy, 1, 0x00, opReceiveCopy, 2, saCopyStatus, saCopyParameters}
	p := descriptor(0x0001, append([]byte{byte(len(commands))}, commands...)...)
	// Parameter data: the limits above, no timeouts.
	limits := make([]byte, 28)
	binary.BigEndian.PutUint16(limits[4:], maxCopyTargets)
	binary.BigEndian.PutUint16(limits[6:], maxCopySegments)
	binary.BigEndian.PutUint32(limits[8:], maxCopyListBytes)
	p = append(p, descriptor(0x0004, limits...)...)
	p = append(p, descriptor(0x0008, 2, copyBlockToBlock, copyTargetIdent)...)
	p = append(p, descriptor(0x000c, 0, 0)...)
	// General copy operations: one at a time, segments of whole blocks.
	general := make([]byte, 32)
	binary.BigEndian.PutUint32(general[0:], 1)
	binary.BigEndian.PutUint32(general[4:], 1)
	binary.BigEndian.PutUint32(general[8:], MaxTransferBytes)
	general[12] = blockShift
	return append(p, descriptor(0x8001, general...)...)
}
