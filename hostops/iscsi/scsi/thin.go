package scsi

import (
	"bytes"
	"encoding/binary"

	gotgt "github.com/gostor/gotgt/pkg/scsi"
)

type blockRange struct {
	lba uint64
	n   uint32
}

// unmap is UNMAP (SBC-3 5.28). Every descriptor is checked before the first is
// carried out.
func (u *Unit) unmap(k *call) Result {
	if k.cdb[1]&0x01 != 0 { // ANCHOR
		return illegalField()
	}
	want := be16(k.cdb[7:])
	if want == 0 {
		return Result{}
	}
	if want < 8 || len(k.out) < 8 {
		return Check(gotgt.ILLEGAL_REQUEST, gotgt.ASC_PARAMETER_LIST_LENGTH_ERR)
	}
	if u.Failed() != "" {
		return Check(gotgt.MEDIUM_ERROR, gotgt.ASC_WRITE_ERROR)
	}
	list := cut(k.out, want)
	ranges, bad := u.unmapRanges(cut(list[8:], be16(list[2:])))
	if bad != nil {
		return *bad
	}
	for _, r := range ranges {
		if err := u.zero(int64(r.lba)<<blockShift, int64(r.n)<<blockShift, true); err != nil {
			return writeError(err)
		}
	}
	return u.settle(false)
}

func (u *Unit) zero(off, n int64, punch bool) error {
	u.data.RLock()
	defer u.data.RUnlock()
	return u.file.Zero(off, n, punch)
}

func (u *Unit) unmapRanges(d []byte) (rs []blockRange, bad *Result) {
	t := u.blocks.Load()
	if len(d)/16 > maxUnmapDescriptors {
		r := Check(gotgt.ILLEGAL_REQUEST, gotgt.ASC_INVALID_FIELD_IN_PARMS)
		return nil, &r
	}
	for ; len(d) >= 16; d = d[16:] {
		x := blockRange{be64(d), be32(d[8:])}
		if x.lba > t || uint64(x.n) > t-x.lba {
			r := illegalRange()
			return nil, &r
		}
		if x.n > maxUnmapBlocks {
			r := Check(gotgt.ILLEGAL_REQUEST, gotgt.ASC_INVALID_FIELD_IN_PARMS)
			return nil, &r
		}
		if x.n > 0 {
			rs = append(rs, x)
		}
	}
	return rs, nil
}

// writeSame is WRITE SAME(10) and (16) (SBC-3 5.49). A count of 0 means up to
// the end.
func (u *Unit) writeSame(k *call) Result {
	lba, n, bad := u.writable(k.cdb)
	if bad != nil {
		return *bad
	}
	c := k.cdb
	noData := c[0] == opWriteSame16 && c[1]&0x01 != 0
	// ANCHOR, PBDATA and LBDATA are not served; NDOB only by WRITE SAME(16).
	if c[1]&0x16 != 0 || c[0] == opWriteSame10 && c[1]&0x01 != 0 {
		return illegalField()
	}
	count := uint64(n)
	if n == 0 {
		count = u.blocks.Load() - lba
	}
	if count > maxWriteSameBlocks || !noData && len(k.out) != blockBytes {
		return illegalField()
	}
	off, length := int64(lba)<<blockShift, int64(count)<<blockShift
	if noData || bytes.Equal(k.out, zeroes[:blockBytes]) {
		// Without UNMAP the space stays allocated: the initiator asked for
		// zeroes, not for a thinner volume.
		if err := u.zero(off, length, c[1]&0x08 != 0); err != nil {
			return writeError(err)
		}
		return u.settle(false)
	}
	chunk := bytes.Repeat(k.out, int(min(length, chunkSize))/blockBytes)
	for length > 0 {
		b := chunk[:min(length, int64(len(chunk)))]
		if err := u.writeAt(b, off); err != nil {
			return writeError(err)
		}
		off, length = off+int64(len(b)), length-int64(len(b))
	}
	return u.settle(false)
}

const (
	lbaStatusHeaderBytes     = 8
	lbaStatusDescriptorBytes = 16
	maxLBAStatusDescriptors  = 256
	provisioningMapped       = 0
	provisioningDeallocated  = 1
)

// lbaStatus is GET LBA STATUS (SBC-3 5.4): which blocks have space behind them.
func (u *Unit) lbaStatus(k *call) Result {
	lba, alloc := be64(k.cdb[2:]), int(be32(k.cdb[10:]))
	t := u.blocks.Load()
	if lba >= t {
		return illegalRange()
	}
	b := make([]byte, lbaStatusHeaderBytes, lbaStatusHeaderBytes+lbaStatusDescriptorBytes)
	limit := max(1, min((alloc-lbaStatusHeaderBytes)/lbaStatusDescriptorBytes, maxLBAStatusDescriptors))
	var last []byte
	for n := 0; lba < t; {
		blocks, status, err := u.provisioning(lba, t)
		if err != nil {
			return readError(err)
		}
		if last != nil && last[12] == status && uint64(be32(last[8:]))+blocks <= 0xffffffff {
			binary.BigEndian.PutUint32(last[8:], be32(last[8:])+uint32(blocks))
		} else if n == limit {
			break
		} else {
			b = binary.BigEndian.AppendUint64(b, lba)
			b = binary.BigEndian.AppendUint32(b, uint32(blocks))
			b = append(b, status, 0, 0, 0)
			last, n = b[len(b)-lbaStatusDescriptorBytes:], n+1
		}
		lba += blocks
	}
	// The length counts what follows its own four bytes (SBC-3 table 47).
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return Result{Data: cut(b, alloc)}
}

// provisioning is the state of the blocks from lba on. A block counts as
// deallocated only if all of it is a hole.
func (u *Unit) provisioning(lba, end uint64) (blocks uint64, status byte, err error) {
	off := int64(lba) << blockShift
	n, mapped, err := u.file.Extent(off)
	if err != nil {
		return 0, 0, err
	}
	if mapped {
		blocks, status = uint64(n+blockBytes-1)>>blockShift, provisioningMapped
	} else if blocks, status = uint64(n)>>blockShift, provisioningDeallocated; blocks == 0 {
		blocks, status = 1, provisioningMapped
	}
	return min(blocks, end-lba, 0xffffffff), status, nil
}
