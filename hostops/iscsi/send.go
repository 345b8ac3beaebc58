package iscsi

import (
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vcn/hostops/iscsi/scsi"
)

// sender is the queue of what a connection has to send. Whoever finds it not
// being sent sends it, all of it in one system call; the others go on with their
// work. So answers that become ready at the same time leave together.
type sender struct {
	raw syscall.RawConn // nil: the connection is no socket

	mu      sync.Mutex
	ready   sync.Cond // sending has become false
	queue   []outgoing
	spare   []outgoing // of the sender
	sending bool
	err     error

	iov net.Buffers // of whoever sends
}

// outgoing is PDUs in their order, and what is given back when they are sent.
type outgoing struct {
	p      *pdu
	more   []*pdu
	status bool // the last one takes a status number
	r      scsi.Result
	t      *task // nil for what is no task's answer
	held   int64 // bytes of the memory budgets, without a task
}

func (s *sender) init(nc net.Conn) {
	s.ready.L = &s.mu
	if c, ok := nc.(syscall.Conn); ok {
		s.raw, _ = c.SyscallConn()
	}
}

// free gives back what o holds; it has been sent, or never will be.
func (c *conn) free(o *outgoing) {
	o.r.Free()
	if o.held > 0 {
		c.memory.Release(o.held)
		c.s.memory.Release(o.held)
	}
	if o.t != nil {
		c.release(o.t)
		c.wg.Done()
	}
	*o = outgoing{}
}

// post queues; pump sends.
func (c *conn) post(o outgoing) {
	c.out.mu.Lock()
	c.out.queue = append(c.out.queue, o)
	c.out.mu.Unlock()
}

func (c *conn) queued() int {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return len(c.out.queue)
}

// maxSaid is how many answers of the reader's own may be unsent; then it waits.
// Otherwise an initiator that asks and never listens could have any amount of
// memory. Answers of tasks are bounded by the tasks.
const maxSaid = 16

// say queues an answer of the reader, which the next pump sends.
func (c *conn) say(p *pdu) {
	c.post(outgoing{p: p, status: true})
	if c.queued() > maxSaid {
		_ = c.flush()
	}
}

// reply sends one PDU that takes a status number, and waits for it.
func (c *conn) reply(p *pdu) {
	c.post(outgoing{p: p, status: true})
	c.pump(true)
}

// pump sends what is queued, unless somebody else is at it. The reader does not
// wait: what the initiator does not take at once goes on in the background.
func (c *conn) pump(wait bool) {
	s := &c.out
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.sending && len(s.queue) > 0 {
		batch := s.queue
		s.queue, s.spare = s.spare[:0], nil
		s.sending = true
		failed := s.err
		s.mu.Unlock()
		done := true
		if failed == nil {
			bufs := c.wire(batch)
			_ = c.nc.SetWriteDeadline(time.Now().Add(c.s.cfg.SendTimeout))
			if wait {
				failed = c.write(bufs)
			} else if bufs, failed = c.writeNow(bufs); len(bufs) > 0 && failed == nil {
				done = false
				c.workers.Go(func() {
					c.sent(batch, c.write(bufs))
					c.pump(true)
				})
			}
		}
		if done {
			c.sent(batch, failed)
		}
		s.mu.Lock()
	}
}

// sent ends the sending of a batch.
func (c *conn) sent(batch []outgoing, err error) {
	for i := range batch {
		c.free(&batch[i])
	}
	s := &c.out
	s.mu.Lock()
	first := err != nil && s.err == nil
	if first {
		s.err = err
	}
	s.spare, s.sending = batch[:0], false
	s.ready.Broadcast()
	s.mu.Unlock()
	if first {
		c.cut()
	}
}

// wire numbers the PDUs of a batch and renders them; the caller sends.
func (c *conn) wire(batch []outgoing) net.Buffers {
	bufs := c.out.iov[:0]
	for i := range batch {
		o := &batch[i]
		last := o.p
		if len(o.more) > 0 {
			c.window(o.p)
			bufs = appendPDU(bufs, o.p, c.dig)
			last = o.more[len(o.more)-1]
			for _, p := range o.more[:len(o.more)-1] {
				c.window(p)
				bufs = appendPDU(bufs, p, c.dig)
			}
		}
		c.window(last)
		last.put(offStatSN, c.statSN)
		if o.status {
			c.statSN++
		}
		bufs = appendPDU(bufs, last, c.dig)
	}
	c.out.iov = bufs
	return bufs
}

func (c *conn) write(bufs net.Buffers) error {
	_, err := bufs.WriteTo(c.nc)
	return err
}

// writeNow writes what the socket takes without waiting, and returns the rest.
func (c *conn) writeNow(bufs net.Buffers) (rest net.Buffers, err error) {
	if c.out.raw == nil {
		return bufs, nil
	}
	const iovMax = 1024 // of one writev
	n := 0
	e := c.out.raw.Write(func(fd uintptr) bool {
		for {
			n, err = unix.Writev(int(fd), bufs[:min(len(bufs), iovMax)])
			if err != unix.EINTR {
				return true
			}
		}
	})
	switch {
	case e != nil:
		return nil, e
	case err == unix.EAGAIN:
		return bufs, nil
	case err != nil:
		return nil, err
	case n == 0:
		return nil, io.ErrShortWrite
	}
	for n > 0 {
		k := min(n, len(bufs[0]))
		bufs[0] = bufs[0][k:]
		n -= k
		if len(bufs[0]) == 0 {
			bufs = bufs[1:]
		}
	}
	return bufs, nil
}

// flush waits until everything queued is sent, or cannot be.
func (c *conn) flush() error {
	c.pump(true)
	s := &c.out
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.sending {
		s.ready.Wait()
	}
	return s.err
}

// discard frees what nobody will send; no task runs, nobody sends.
func (c *conn) discard() {
	c.out.mu.Lock()
	l := c.out.queue
	c.out.queue = nil
	c.out.mu.Unlock()
	for i := range l {
		c.free(&l[i])
	}
}

// window fills ExpCmdSN and MaxCmdSN; MaxCmdSN never goes back.
func (c *conn) window(p *pdu) {
	exp := c.expCmdSN.Load()
	m := exp + queueDepth - uint32(c.inflight.Load()) - 1
	for {
		old := c.maxCmdSN.Load()
		if int32(m-old) <= 0 {
			m = old
			break
		}
		if c.maxCmdSN.CompareAndSwap(old, m) {
			break
		}
	}
	p.put(offExpCmdSN, exp)
	p.put(offMaxCmdSN, m)
}
