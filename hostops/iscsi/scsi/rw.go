package scsi

import (
	"bytes"
	"encoding/binary"

	gotgt "github.com/gostor/gotgt/pkg/scsi"
)

const (
	bitFUA    = 0x08
	protect   = 0xe0 // RDPROTECT, WRPROTECT, VRPROTECT: no protection information
	chunkSize = 1 << 20
)

// within decodes the blocks a CDB names and checks that they exist.
func (u *Unit) within(c []byte) (lba uint64, n uint32, bad *Result) {
	lba, n = extent(c)
	if c[0] != opRead6 && c[0] != opWrite6 && c[1]&protect != 0 {
		r := illegalField()
		return 0, 0, &r
	}
	t := u.blocks.Load()
	if lba > t || uint64(n) > t-lba || n == 0 && lba >= t {
		r := illegalRange()
		return 0, 0, &r
	}
	return lba, n, nil
}

// writable is within for commands that write.
func (u *Unit) writable(c []byte) (lba uint64, n uint32, bad *Result) {
	if lba, n, bad = u.within(c); bad != nil {
		return lba, n, bad
	}
	if u.Failed() != "" {
		r := Check(gotgt.MEDIUM_ERROR, gotgt.ASC_WRITE_ERROR)
		return 0, 0, &r
	}
	return lba, n, nil
}

func (u *Unit) read(k *call) Result {
	lba, n, bad := u.within(k.cdb)
	if bad != nil {
		return *bad
	}
	if n > maxTransferBlocks {
		return TooLarge()
	}
	total := int(n) << blockShift
	// No more than the initiator takes: the rest would be thrown away.
	want := min(total, (k.inMax+blockBytes-1)&^(blockBytes-1))
	if want == 0 {
		return Result{Total: total}
	}
	buf := NewBuffer(want)
	u.data.RLock()
	_, err := u.file.ReadAt(buf.B, int64(lba)<<blockShift)
	u.data.RUnlock()
	if err != nil {
		buf.Free()
		return readError(err)
	}
	return Result{Data: buf.B, Total: total, buf: buf}
}

// write is WRITE and WRITE AND VERIFY.
func (u *Unit) write(k *call) Result {
	lba, n, bad := u.writable(k.cdb)
	if bad != nil {
		return *bad
	}
	if n > maxTransferBlocks {
		return TooLarge()
	}
	op := k.cdb[0]
	verify := op == opWriteVerify10 || op == opWriteVerify12 || op == opWriteVerify16
	// An initiator may send less than the CDB says; whole blocks are written.
	d := cut(k.out, int(n)<<blockShift)
	d = d[:len(d)&^(blockBytes-1)]
	if len(d) == 0 {
		return Result{}
	}
	off := int64(lba) << blockShift
	if err := u.writeAt(d, off); err != nil {
		return writeError(err)
	}
	r := u.settle(verify || op != opWrite6 && k.cdb[1]&bitFUA != 0)
	if r.Status == StatusGood && verify && k.cdb[1]&0x02 != 0 {
		u.data.RLock()
		defer u.data.RUnlock()
		return u.compare(d, off)
	}
	return r
}

func (u *Unit) writeAt(d []byte, off int64) error {
	u.data.RLock()
	defer u.data.RUnlock()
	_, err := u.file.WriteAt(d, off)
	return err
}

// compare reads what is at off and compares; the caller holds data.
func (u *Unit) compare(want []byte, off int64) Result {
	buf := NewBuffer(len(want))
	defer buf.Free()
	if _, err := u.file.ReadAt(buf.B, off); err != nil {
		return readError(err)
	}
	if !bytes.Equal(buf.B, want) {
		return miscompare(buf.B, want)
	}
	return Result{}
}

// miscompare names the first byte that differs (SBC-3 5.2).
func miscompare(a, b []byte) Result {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	s := sense(gotgt.MISCOMPARE, gotgt.ASC_MISCOMPARE_DURING_VERIFY_OPERATION)
	s[0] |= 0x80
	binary.BigEndian.PutUint32(s[3:], uint32(i))
	return Result{Status: StatusCheckCondition, Sense: s}
}

func (u *Unit) verify(k *call) Result {
	lba, n, bad := u.within(k.cdb)
	if bad != nil {
		return *bad
	}
	off, left := int64(lba)<<blockShift, int64(n)<<blockShift
	mode := k.cdb[1] & 0x06
	switch mode {
	case 0x04:
		return illegalField()
	case 0x02:
		if n > maxTransferBlocks {
			return TooLarge()
		}
		d := cut(k.out, int(left))
		if len(d) == 0 {
			return Result{}
		}
		u.data.RLock()
		defer u.data.RUnlock()
		return u.compare(d, off)
	case 0x06:
		if left > 0 && len(k.out) < blockBytes {
			return illegalField()
		}
	}
	buf := NewBuffer(chunkSize)
	defer buf.Free()
	var same []byte
	if mode == 0x06 && left > 0 {
		same = bytes.Repeat(k.out[:blockBytes], chunkSize/blockBytes)
	}
	for left > 0 {
		b := buf.B[:min(left, chunkSize)]
		if _, err := u.file.ReadAt(b, off); err != nil {
			return readError(err)
		}
		if same != nil && !bytes.Equal(b, same[:len(b)]) {
			return miscompare(b, same[:len(b)])
		}
		off, left = off+int64(len(b)), left-int64(len(b))
	}
	return Result{}
}

func (u *Unit) compareAndWrite(k *call) Result {
	lba, n, bad := u.writable(k.cdb)
	if bad != nil {
		return *bad
	}
	size := int(n) << blockShift
	if len(k.out) != 2*size {
		return illegalField()
	}
	if size == 0 {
		return Result{}
	}
	if r := u.swap(k.out[:size], k.out[size:], int64(lba)<<blockShift); r.Status != StatusGood {
		return r
	}
	return u.settle(k.cdb[1]&bitFUA != 0)
}

// swap writes what is to be if what is there is what was expected.
func (u *Unit) swap(was, is []byte, off int64) Result {
	u.data.Lock()
	defer u.data.Unlock()
	if r := u.compare(was, off); r.Status != StatusGood {
		return r
	}
	if _, err := u.file.WriteAt(is, off); err != nil {
		return writeError(err)
	}
	return Result{}
}

// orWrite is ORWRITE(16) (SBC-3 5.9): what is there or'ed with what comes, in
// one step.
func (u *Unit) orWrite(k *call) Result {
	lba, n, bad := u.writable(k.cdb)
	if bad != nil {
		return *bad
	}
	if n > maxTransferBlocks {
		return TooLarge()
	}
	d := cut(k.out, int(n)<<blockShift)
	d = d[:len(d)&^(blockBytes-1)]
	if len(d) == 0 {
		return Result{}
	}
	if r := u.or(d, int64(lba)<<blockShift); r.Status != StatusGood {
		return r
	}
	return u.settle(k.cdb[1]&bitFUA != 0)
}

func (u *Unit) or(d []byte, off int64) Result {
	buf := NewBuffer(len(d))
	defer buf.Free()
	u.data.Lock()
	defer u.data.Unlock()
	if _, err := u.file.ReadAt(buf.B, off); err != nil {
		return readError(err)
	}
	for i, b := range d {
		buf.B[i] |= b
	}
	if _, err := u.file.WriteAt(buf.B, off); err != nil {
		return writeError(err)
	}
	return Result{}
}

// readDefects is READ DEFECT DATA(10) and (12): a volume has none. What is
// under it repairs its own.
func (u *Unit) readDefects(k *call) Result {
	if k.cdb[0] == opReadDefects10 {
		return Result{Data: cut([]byte{0, k.cdb[2] & 0x1f, 0, 0}, be16(k.cdb[7:]))}
	}
	return Result{Data: cut([]byte{0, k.cdb[1] & 0x1f, 0, 0, 0, 0, 0, 0}, int(be32(k.cdb[6:])))}
}

// preFetch only checks its range: the kernel reads ahead by itself.
func (u *Unit) preFetch(k *call) Result {
	if _, _, bad := u.within(k.cdb); bad != nil {
		return *bad
	}
	return Result{}
}

func (u *Unit) syncCache(k *call) Result {
	if _, _, bad := u.within(k.cdb); bad != nil {
		return *bad
	}
	if err := u.Sync(); err != nil {
		return writeError(err)
	}
	return Result{}
}
