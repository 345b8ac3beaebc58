package iscsi

import (
	"fmt"
	"runtime/debug"

	"vcn/hostops/iscsi/scsi"
)

// task is one SCSI command from its PDU to its answer.
type task struct {
	itt   uint32
	cdb   [16]byte
	edtl  int // bytes the initiator expects to move
	read  bool
	write bool
	noLUN bool // addressed to a logical unit that is not there

	// Data-Out, used by the reader until the task runs.
	buf      *scsi.Buffer // of edtl bytes, nil without data
	got      int          // bytes that came
	unsol    bool         // unsolicited data is still to come
	ttt      uint32
	r2tSN    uint32
	dataSN   uint32
	burstEnd int
	held     int64 // bytes of the memory budgets

	refused *scsi.Result // the answer without running

	// Under conn.taskMu.
	running bool
	aborted bool
	fin     chan struct{} // closed when the device is done with it
}

func (t *task) out() []byte {
	if t.buf == nil {
		return nil
	}
	return t.buf.B[:t.got]
}

// command takes a command PDU with n bytes of immediate data.
func (c *conn) command(p *pdu, n int) error {
	t := &task{itt: p.itt(), read: p.h[1]&0x40 != 0, write: p.h[1]&0x20 != 0, fin: make(chan struct{})}
	copy(t.cdb[:], p.h[32:48])
	edtl := p.u32(offTTT)
	if edtl > 1<<31-1 || t.read && t.write {
		return fmt.Errorf("%w: command %#x: transfer of %d bytes, read %t, write %t", ErrProtocol, t.cdb[0], edtl, t.read, t.write)
	}
	t.edtl = int(edtl)
	if n > 0 && (!t.write || !c.p.immediate || n > t.edtl || n > c.p.firstBurst) {
		return fmt.Errorf("%w: command %#x: %d bytes of immediate data", ErrProtocol, t.cdb[0], n)
	}
	if t.write && !p.final() && c.p.initialR2T {
		return fmt.Errorf("%w: command %#x: unsolicited data", ErrProtocol, t.cdb[0])
	}
	// Peripheral and flat addressing (SAM-5 4.7) name a small number alike.
	t.noLUN = p.h[8]&^0x40 != 0 || p.h[9] != scsi.LUN
	c.reserve(t)
	if n > 0 && t.buf == nil {
		if err := skipData(c.r, n, c.p.digests); err != nil {
			return err
		}
	} else if n > 0 {
		if err := readData(c.r, t.buf.B[:n], c.p.digests); err != nil {
			c.release(t)
			return err
		}
		t.got = n
	}
	if !c.takeCmdSN(p) {
		c.release(t)
		return nil
	}
	if err := c.register(t); err != nil {
		c.release(t)
		return err
	}
	if t.refused != nil {
		// Its unsolicited data finds no task, and is dropped.
		c.start(t)
		return nil
	}
	if t.write && !p.final() {
		t.unsol, t.burstEnd = true, min(c.p.firstBurst, t.edtl)
		return nil
	}
	c.advance(t)
	return nil
}

// reserve takes memory for the data-out of a task, or settles its refusal. The
// reader must not wait here: the data of other tasks comes behind.
func (c *conn) reserve(t *task) {
	if !t.write || t.edtl == 0 {
		return
	}
	if t.edtl > 2*scsi.MaxTransferBytes {
		r := scsi.TooLarge()
		t.refused = &r
		return
	}
	held := int64(t.edtl)
	if !c.memory.TryAcquire(held) {
		t.refused = &scsi.Result{Status: scsi.StatusTaskSetFull}
		return
	}
	if !c.s.memory.TryAcquire(held) {
		c.memory.Release(held)
		t.refused = &scsi.Result{Status: scsi.StatusTaskSetFull}
		return
	}
	t.held, t.buf = held, scsi.NewBuffer(t.edtl)
}

// release gives back what a task holds. Call it once, when nothing uses it.
func (c *conn) release(t *task) {
	if t.held > 0 {
		c.memory.Release(t.held)
		c.s.memory.Release(t.held)
		t.held = 0
	}
	t.buf.Free()
	t.buf = nil
}

func (c *conn) register(t *task) error {
	c.taskMu.Lock()
	defer c.taskMu.Unlock()
	if _, dup := c.tasks[t.itt]; dup || len(c.tasks) >= maxTasks {
		return fmt.Errorf("%w: task tag %#x in use, or more than %d tasks", ErrProtocol, t.itt, maxTasks)
	}
	c.tasks[t.itt] = t
	c.inflight.Add(1)
	return nil
}

// forget drops a task from the table; false if it was not there any more.
func (c *conn) forget(t *task) bool {
	c.taskMu.Lock()
	defer c.taskMu.Unlock()
	if c.tasks[t.itt] != t {
		return false
	}
	delete(c.tasks, t.itt)
	c.inflight.Add(-1)
	return true
}

// dropTasks ends what never ran; the reader has ended and no task runs.
func (c *conn) dropTasks() {
	for _, t := range c.tasks {
		c.release(t)
	}
	clear(c.tasks)
}

// advance asks for the next burst of data, or runs the task.
func (c *conn) advance(t *task) {
	if !t.write || t.got >= t.edtl {
		c.start(t)
		return
	}
	if c.nextTTT++; c.nextTTT == noTag {
		c.nextTTT = 1
	}
	t.ttt, t.dataSN = c.nextTTT, 0
	n := min(t.edtl-t.got, c.p.maxBurst)
	t.burstEnd = t.got + n
	r := newPDU(opR2T, bitFinal)
	r.put(offITT, t.itt)
	r.put(offTTT, t.ttt)
	r.put(offDataSN, t.r2tSN)
	r.put(offOffset, uint32(t.got))
	r.put(offResidual, uint32(n)) // desired length, in an R2T
	t.r2tSN++
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.window(r)
	r.put(offStatSN, c.statSN)
	c.send(r)
}

// dataOut takes n bytes for a task.
func (c *conn) dataOut(p *pdu, n int) error {
	c.taskMu.Lock()
	t := c.tasks[p.itt()]
	drop := t == nil || t.running || !t.write || t.buf == nil
	c.taskMu.Unlock()
	if drop { // aborted or refused meanwhile
		return skipData(c.r, n, c.p.digests)
	}
	tagged := t.ttt
	if t.unsol {
		tagged = noTag
	}
	if p.u32(offTTT) != tagged || p.u32(offOffset) != uint32(t.got) || t.got+n > t.burstEnd || p.u32(offDataSN) != t.dataSN {
		return fmt.Errorf("%w: Data-Out with wrong tag, offset, length or number", ErrProtocol)
	}
	t.dataSN++
	if err := readData(c.r, t.buf.B[t.got:t.got+n], c.p.digests); err != nil {
		return err
	}
	t.got += n
	if !p.final() {
		return nil
	}
	if !t.unsol && t.got != t.burstEnd {
		return fmt.Errorf("%w: Data-Out burst too short", ErrProtocol)
	}
	t.unsol = false
	c.advance(t)
	return nil
}

// start runs a task beside the reader.
func (c *conn) start(t *task) {
	c.taskMu.Lock()
	t.running = true
	c.taskMu.Unlock()
	c.wg.Add(1)
	go c.run(t)
}

// run executes a task and answers it. After a cut it does not begin any more:
// nobody was promised anything.
func (c *conn) run(t *task) {
	defer c.wg.Done()
	defer c.release(t)
	r, ok := c.execute(t)
	defer r.Free()
	c.forget(t)
	c.taskMu.Lock()
	aborted := t.aborted
	c.taskMu.Unlock()
	close(t.fin)
	if ok && !aborted {
		c.respond(t, &r)
	}
}

// execute waits for its turn and runs the command; false after a cut.
func (c *conn) execute(t *task) (r scsi.Result, ok bool) {
	switch {
	case t.refused != nil:
		return *t.refused, true
	case t.noLUN && t.cdb[0] == 0xa0:
		return scsi.ReportLUNs(t.cdb[:]), true
	case t.noLUN:
		return scsi.NoLUN(t.cdb[:]), true
	}
	if c.running.Acquire(c.ctx, 1) != nil {
		return r, false
	}
	defer c.running.Release(1)
	if c.s.running.Acquire(c.ctx, 1) != nil {
		return r, false
	}
	defer c.s.running.Release(1)
	inMax := 0
	if t.read {
		inMax = min(t.edtl, scsi.MaxTransferBytes)
		if !c.reserveRead(t, int64(inMax)) {
			return r, false
		}
	}
	defer func() {
		if e := recover(); e != nil {
			c.log.Error("device panicked", "cdb", fmt.Sprintf("%x", t.cdb), "panic", e, "stack", string(debug.Stack()))
			r, ok = scsi.Broken(), true
		}
	}()
	if c.ctx.Err() != nil {
		return r, false
	}
	return c.dev.Exec(c.nexus, t.cdb[:], t.out(), inMax), true
}

// reserveRead waits for memory; the reader does not depend on this task.
func (c *conn) reserveRead(t *task, n int64) bool {
	if c.memory.Acquire(c.ctx, n) != nil {
		return false
	}
	if c.s.memory.Acquire(c.ctx, n) != nil {
		c.memory.Release(n)
		return false
	}
	t.held = n
	return true
}

// abort ends the tasks that f picks, waits for those in the device, and counts
// them. None of them is answered.
func (c *conn) abort(f func(*task) bool) (n int) {
	var wait, drop []*task
	c.taskMu.Lock()
	for _, t := range c.tasks {
		if !f(t) {
			continue
		}
		t.aborted = true
		n++
		if t.running {
			wait = append(wait, t)
			continue
		}
		delete(c.tasks, t.itt)
		c.inflight.Add(-1)
		drop = append(drop, t)
	}
	c.taskMu.Unlock()
	for _, t := range drop {
		c.release(t)
	}
	for _, t := range wait {
		<-t.fin
	}
	return n
}
