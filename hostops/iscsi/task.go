package iscsi

import (
	"container/list"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

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
	waits    *list.Element // in conn.waiting
	held     int64         // bytes of the memory budgets

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
	if c.quick(p, n) {
		return nil
	}
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
	t.noLUN = otherLUN(p)
	c.reserve(t)
	if n > 0 && t.buf == nil {
		if err := c.skipData(n); err != nil {
			return err
		}
	} else if n > 0 {
		if err := c.readInTime(t.buf.B[:n]); err != nil {
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
		c.await(t)
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
	c.await(t)
	c.post(outgoing{p: r})
}

// dataOut takes n bytes for a task.
func (c *conn) dataOut(p *pdu, n int) error {
	c.taskMu.Lock()
	t := c.tasks[p.itt()]
	drop := t == nil || t.running || !t.write || t.buf == nil
	c.taskMu.Unlock()
	if drop { // aborted or refused meanwhile
		return c.skipData(n)
	}
	tagged := t.ttt
	if t.unsol {
		tagged = noTag
	}
	if p.u32(offTTT) != tagged || p.u32(offOffset) != uint32(t.got) || t.got+n > t.burstEnd {
		return fmt.Errorf("%w: Data-Out with wrong tag, offset or length", ErrProtocol)
	}
	if p.u32(offDataSN) != t.dataSN {
		return c.spoil(t, n)
	}
	t.dataSN++
	if err := c.readData(t.buf.B[t.got : t.got+n]); err != nil {
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
	c.arrived(t)
	c.advance(t)
	return nil
}

// spoil fails a task one of whose Data-Outs is missing, as its number says
// (RFC 7143 7.9); what still comes for it is dropped. The session goes on.
func (c *conn) spoil(t *task, n int) error {
	if err := c.skipData(n); err != nil {
		return err
	}
	c.arrived(t)
	r := scsi.DataLost()
	t.refused = &r
	c.start(t)
	return nil
}

// await notes that a burst of data-out is to come. Initiators send bursts in
// the order in which they are asked for, so the oldest one is watched: it must
// be complete DataTimeout after it became the oldest. Otherwise a session that
// stops sending would hold its buffers for ever.
func (c *conn) await(t *task) {
	t.waits = c.waiting.PushBack(t)
	if c.waiting.Len() == 1 {
		c.watch()
	}
}

// arrived: nothing more is to come for t at the moment.
func (c *conn) arrived(t *task) {
	if t.waits == nil {
		return
	}
	oldest := c.waiting.Front() == t.waits
	c.waiting.Remove(t.waits)
	t.waits = nil
	if oldest {
		c.watch()
	}
}

// watch gives the reader time until the oldest burst must be there.
func (c *conn) watch() {
	var end time.Time
	if c.waiting.Len() > 0 {
		end = time.Now().Add(c.s.cfg.DataTimeout)
	}
	_ = c.nc.SetReadDeadline(end)
}

// readInTime reads immediate data, for which a buffer is held already.
func (c *conn) readInTime(b []byte) error {
	timed := c.waiting.Len() == 0 && c.r.Buffered() < len(b)+headerBytes
	if timed {
		_ = c.nc.SetReadDeadline(time.Now().Add(c.s.cfg.DataTimeout))
	}
	err := c.readData(b)
	if timed {
		_ = c.nc.SetReadDeadline(time.Time{})
	}
	return err
}

// late names the error of a read that watch has ended.
func (c *conn) late(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("data-out did not come within %s", c.s.cfg.DataTimeout)
	}
	return err
}

// start runs a task beside the reader.
func (c *conn) start(t *task) {
	c.taskMu.Lock()
	t.running = true
	c.taskMu.Unlock()
	c.wg.Add(1)
	select {
	case c.work <- t:
	default:
		c.workers.Go(func() { c.worker(t) })
	}
}

const idleWorkers = 4 // of a session; more of them end when there is no work

// worker runs a task, and others while there are some: a goroutine that is kept
// has a stack of the right size already.
func (c *conn) worker(t *task) {
	for {
		c.run(t)
		if c.idle.Add(1) > idleWorkers {
			c.idle.Add(-1)
			return
		}
		select {
		case t = <-c.work:
			c.idle.Add(-1)
		case <-c.ctx.Done():
			c.idle.Add(-1)
			return
		}
	}
}

// run executes a task and answers it. After a cut it does not begin any more:
// nobody was promised anything. The answer is queued in the same moment in which
// the task leaves the table, so that it goes before the answer to an abort that
// does not find the task.
func (c *conn) run(t *task) {
	r, ok := c.execute(t)
	var o outgoing
	if ok {
		o = c.respond(t, &r)
	}
	o.r, o.t = r, t
	c.taskMu.Lock()
	if c.tasks[t.itt] == t {
		delete(c.tasks, t.itt)
		c.inflight.Add(-1)
	}
	send := ok && !t.aborted
	if send {
		c.post(o)
	}
	c.taskMu.Unlock()
	close(t.fin)
	if !send {
		c.free(&o)
		return
	}
	c.pump(true)
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
		c.arrived(t)
		c.release(t)
	}
	for _, t := range wait {
		<-t.fin
	}
	return n
}
