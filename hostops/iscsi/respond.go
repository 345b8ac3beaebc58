package iscsi

import (
	"encoding/binary"

	"vcn/hostops/iscsi/scsi"
)

const (
	flagUnderflow = 0x02
	flagOverflow  = 0x04
	flagStatus    = 0x01
)

// residual compares what the command had to move with what the initiator
// expected (RFC 7143 11.4.5). It is not given with an error.
func (c *conn) residual(t *task, r *scsi.Result) (flag byte, n uint32) {
	if r.Status != scsi.StatusGood {
		return 0, 0
	}
	total := r.Total
	if total == 0 {
		total = len(r.Data)
	}
	if total == 0 {
		total = c.dev.OutBytes(t.cdb[:])
	}
	switch {
	case total < t.edtl:
		return flagUnderflow, uint32(t.edtl - total)
	case total > t.edtl:
		return flagOverflow, uint32(total - t.edtl)
	}
	return 0, 0
}

// respond renders data and status of a task.
func (c *conn) respond(t *task, r *scsi.Result) outgoing {
	o := outgoing{status: true, r: *r}
	flag, residual := c.residual(t, r)
	data := r.Data
	if !t.read || r.Status != scsi.StatusGood {
		data = nil
	}
	data = data[:min(len(data), t.edtl)]
	if len(data) > 0 {
		o.p, o.more = c.dataIn(t, data, flag, residual)
		return o
	}
	o.p = newPDU(opResponse, bitFinal|flag)
	o.p.h[3] = r.Status
	o.p.put(offITT, t.itt)
	o.p.put(offResidual, residual)
	if len(r.Sense) > 0 {
		o.p.data = append(binary.BigEndian.AppendUint16(nil, uint16(len(r.Sense))), r.Sense...)
	}
	return o
}

// dataIn cuts data into PDUs; the last one carries the status.
func (c *conn) dataIn(t *task, data []byte, flag byte, residual uint32) (first *pdu, more []*pdu) {
	burst, sn := 0, uint32(0)
	for off := 0; off < len(data); sn++ {
		n := min(len(data)-off, c.p.maxSend, c.p.maxBurst-burst)
		p := newPDU(opDataIn, 0)
		p.data = data[off : off+n]
		p.put(offITT, t.itt)
		p.put(offTTT, noTag)
		p.put(offDataSN, sn)
		p.put(offOffset, uint32(off))
		off, burst = off+n, burst+n
		switch {
		case off == len(data):
			p.h[1] = bitFinal | flagStatus | flag
			p.put(offResidual, residual)
		case burst == c.p.maxBurst:
			p.h[1], burst = bitFinal, 0
		}
		if first == nil {
			first = p
		} else {
			more = append(more, p)
		}
	}
	return first, more
}
