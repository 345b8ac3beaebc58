package scsi

import (
	"encoding/binary"
	"fmt"

	gotgt "github.com/gostor/gotgt/pkg/scsi"
)

const (
	vendor   = "VCN"
	product  = "VOLUME"
	revision = "1"
	// LUN is the only logical unit of a target.
	LUN = 1
)

// inquiry is INQUIRY with the pages a disk has (SPC-4 6.4, 7.8; SBC-3 6.5).
func (u *Unit) inquiry(k *call) Result {
	alloc := be16(k.cdb[3:])
	if k.cdb[1]&0x01 == 0 {
		if k.cdb[2] != 0 {
			return illegalField()
		}
		return Result{Data: cut(standardInquiry(), alloc)}
	}
	var p []byte
	switch k.cdb[2] {
	case 0x00:
		p = []byte{0x00, 0x80, 0x83, 0x8f, 0xb0, 0xb1, 0xb2}
	case 0x80:
		p = []byte(u.cfg.VolumeID)
	case 0x83:
		p = u.identification()
	case 0x8f:
		p = thirdPartyPage()
	case 0xb0:
		p = u.blockLimits()
	case 0xb1:
		p = make([]byte, 60)
		p[1] = 1 // not rotating
	case 0xb2:
		// LBPU LBPWS LBPWS10 LBPRZ, thin provisioned.
		p = []byte{0, 0xe4, 2, 0}
	default:
		return illegalField()
	}
	b := append([]byte{0, k.cdb[2], byte(len(p) >> 8), byte(len(p))}, p...)
	return Result{Data: cut(b, alloc)}
}

func standardInquiry() []byte {
	b := make([]byte, 96)
	b[2] = 6    // SPC-4
	b[3] = 0x12 // HISUP, standard format
	b[4] = byte(len(b) - 5)
	b[5] = 0x08 // 3PC
	b[7] = 0x02 // CMDQUE
	copy(b[8:], fmt.Sprintf("%-8.8s%-16.16s%-4.4s", vendor, product, revision))
	for i, v := range []uint16{0x00a0, 0x0960, 0x0460, 0x04c0} { // SAM-5, iSCSI, SPC-4, SBC-3
		binary.BigEndian.PutUint16(b[58+2*i:], v)
	}
	return b
}

// identification is VPD page 83h: T10 vendor identification and NAA.
func (u *Unit) identification() []byte {
	t10 := fmt.Sprintf("%-8.8s%s", vendor, u.cfg.VolumeID)
	t10 = t10[:min(len(t10), 252)]
	p := append([]byte{0x02, 0x01, 0, byte(len(t10))}, t10...)
	p = append(p, 0x01, 0x03, 0, 8)
	return binary.BigEndian.AppendUint64(p, u.naa)
}

// granularity is how many bytes discards of a file should be aligned to, 0
// where it does not say.
func granularity(f File) int64 {
	if g, ok := f.(interface{ Granularity() int64 }); ok {
		return g.Granularity()
	}
	return 0
}

func (u *Unit) blockLimits() []byte {
	p := make([]byte, 60)
	unmap := uint32(max(1<<physicalShift, min(granularity(u.file)>>blockShift, maxUnmapBlocks)))
	p[1] = maxCompareBlocks
	binary.BigEndian.PutUint16(p[2:], 1<<physicalShift) // optimal granularity
	binary.BigEndian.PutUint32(p[4:], maxTransferBlocks)
	binary.BigEndian.PutUint32(p[8:], 1<<20/blockBytes) // optimal length
	binary.BigEndian.PutUint32(p[16:], maxUnmapBlocks)
	binary.BigEndian.PutUint32(p[20:], maxUnmapDescriptors)
	binary.BigEndian.PutUint32(p[24:], unmap)
	binary.BigEndian.PutUint64(p[32:], maxWriteSameBlocks)
	return p
}

func (u *Unit) readCapacity16(k *call) Result {
	b := make([]byte, 32)
	binary.BigEndian.PutUint64(b, u.blocks.Load()-1)
	binary.BigEndian.PutUint32(b[8:], blockBytes)
	b[13] = physicalShift
	b[14] = 0xc0 // LBPME, LBPRZ
	return Result{Data: cut(b, int(be32(k.cdb[10:])))}
}

// reportLUNs lists the one unit there is (SPC-4 6.33).
func (u *Unit) reportLUNs(k *call) Result { return ReportLUNs(k.cdb) }

// ReportLUNs answers REPORT LUNS, which every logical unit number must.
func ReportLUNs(cdb []byte) Result {
	alloc := int(be32(cdb[6:]))
	if alloc < 16 {
		return illegalField()
	}
	b := make([]byte, 16)
	b[3], b[9] = 8, LUN
	if cdb[2] == 0x01 { // well known units only: none
		b[3] = 0
		b = b[:8]
	}
	return Result{Data: cut(b, alloc)}
}

func (u *Unit) requestSense(k *call) Result {
	return Result{Data: cut(sense(gotgt.NO_SENSE, ascNoSense), int(k.cdb[4]))}
}

// startStop accepts every power condition and keeps the disk as it is.
func (u *Unit) startStop(*call) Result { return Result{} }

// modeSense is MODE SENSE(6) and (10): caching, control and informational
// exceptions (SPC-4 7.5, SBC-3 6.4). No value can be changed.
func (u *Unit) modeSense(k *call) Result {
	c := k.cdb
	control, page, sub := c[2]>>6, c[2]&0x3f, c[3]
	if control == 3 {
		return Check(gotgt.ILLEGAL_REQUEST, gotgt.ASC_SAVING_PARMS_UNSUP)
	}
	pages := u.modePages(page, sub, control == 1)
	if pages == nil {
		return illegalField()
	}
	var descriptor []byte
	if c[1]&0x08 == 0 {
		descriptor = make([]byte, 8)
		binary.BigEndian.PutUint32(descriptor, uint32(min(u.blocks.Load(), 0xffffffff)))
		binary.BigEndian.PutUint32(descriptor[4:], blockBytes)
	}
	const deviceSpecific = 0x10 // DPOFUA
	if c[0] == opModeSense6 {
		b := []byte{byte(3 + len(descriptor) + len(pages)), 0, deviceSpecific, byte(len(descriptor))}
		b = append(append(b, descriptor...), pages...)
		return Result{Data: cut(b, int(c[4]))}
	}
	n := 6 + len(descriptor) + len(pages)
	b := []byte{byte(n >> 8), byte(n), 0, deviceSpecific, 0, 0, 0, byte(len(descriptor))}
	b = append(append(b, descriptor...), pages...)
	return Result{Data: cut(b, be16(c[7:]))}
}

// modePages renders one page, or all of them for 3fh; nil if there is none.
func (u *Unit) modePages(page, sub byte, changeable bool) []byte {
	caching := make([]byte, 18)
	if !u.cfg.WriteThrough {
		caching[0] = 0x04 // WCE
	}
	control := make([]byte, 10)
	control[0], control[6], control[7] = 0x02, 0xff, 0xff // GLTSD, busy timeout unlimited
	exceptions := make([]byte, 10)
	exceptions[0] = 0x08 // DEXCPT
	var b []byte
	for _, p := range []struct {
		code byte
		body []byte
	}{{0x08, caching}, {0x0a, control}, {0x1c, exceptions}} {
		if page != p.code && page != 0x3f || page == p.code && sub != 0 && sub != 0xff {
			continue
		}
		if changeable {
			clear(p.body)
		}
		b = append(append(b, p.code, byte(len(p.body))), p.body...)
	}
	return b
}
