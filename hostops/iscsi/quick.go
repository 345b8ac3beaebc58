package iscsi

import "vcn/hostops/iscsi/scsi"

// quickDevice is a Device that can answer some commands without ever waiting.
type quickDevice interface {
	// ExecNow runs one command if that takes no waiting; otherwise ok is false
	// and nothing has happened. The CDB has 16 bytes.
	ExecNow(nexus string, cdb []byte, inMax int) (r scsi.Result, ok bool)
}

// warmth says whether it is worth to ask for data in memory: after a miss some
// commands, ever more of them, are not asked for.
type warmth struct{ skip, left int }

const coldMax = 63

func (w *warmth) ask() bool {
	if w.left > 0 {
		w.left--
		return false
	}
	return true
}

func (w *warmth) learn(hit bool) {
	if hit {
		w.skip = 0
		return
	}
	w.skip = min(2*w.skip+1, coldMax)
	w.left = w.skip
}

// quick answers a read whose data is in memory within the reader: no goroutine
// is woken, and the answers to commands that came together leave together.
func (c *conn) quick(p *pdu, n int) bool {
	const flagRead, flagWrite = 0x40, 0x20
	dev, ok := c.dev.(quickDevice)
	if !ok || n > 0 || p.h[1]&(bitFinal|flagRead|flagWrite) != bitFinal|flagRead || otherLUN(p) {
		return false
	}
	inMax := p.u32(offTTT)
	if inMax == 0 || inMax > scsi.NowBytes || !p.immediate() && p.u32(offCmdSN) != c.expCmdSN.Load() || c.ctx.Err() != nil {
		return false
	}
	c.taskMu.Lock()
	_, dup := c.tasks[p.itt()]
	c.taskMu.Unlock()
	if dup || c.queued() >= maxTasks || !c.cold.ask() {
		return false
	}
	held := int64(inMax)
	if !c.memory.TryAcquire(held) {
		return false
	}
	if !c.s.memory.TryAcquire(held) {
		c.memory.Release(held)
		return false
	}
	r, ok := dev.ExecNow(c.nexus, p.h[32:48], int(inMax))
	c.cold.learn(ok)
	if !ok {
		c.memory.Release(held)
		c.s.memory.Release(held)
		return false
	}
	c.takeCmdSN(p)
	t := task{itt: p.itt(), edtl: int(inMax), read: true}
	o := c.respond(&t, &r)
	o.held = held
	c.post(o)
	return true
}

// otherLUN says whether a command is for a logical unit that is not there.
// Peripheral and flat addressing (SAM-5 4.7) name a small number alike.
func otherLUN(p *pdu) bool { return p.h[8]&^0x40 != 0 || p.h[9] != scsi.LUN }
