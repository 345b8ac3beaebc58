package iscsi

import "fmt"

// takeCmdSN checks the command number of a PDU; false: ignore the PDU (RFC
// 7143 4.2.2.1). On one connection numbers come in order.
func (c *conn) takeCmdSN(p *pdu) bool {
	if p.immediate() {
		return true
	}
	if p.u32(offCmdSN) != c.expCmdSN.Load() {
		return false
	}
	c.expCmdSN.Add(1)
	return true
}

// fullFeature reads PDUs until the session ends; a logout ends it with nil.
func (c *conn) fullFeature() error {
	p := new(pdu) // nothing keeps it
	for {
		p.data = nil
		if c.r.Buffered() < headerBytes {
			c.pump(false)
		}
		if err := readHeader(c.r, p, c.p.digests); err != nil {
			return c.late(err)
		}
		n := p.dataBytes()
		if n > maxRecvBytes {
			return fmt.Errorf("%w: data segment of %d bytes", ErrProtocol, n)
		}
		var err error
		switch {
		case p.op() == opDataOut:
			err = c.dataOut(p, n)
		case p.op() == opCommand && !c.discovery:
			err = c.command(p, n)
		default:
			var over bool
			if over, err = c.other(p, n); over && err == nil {
				return nil
			}
		}
		if err != nil {
			return c.late(err)
		}
	}
}

// other handles everything but commands and their data.
func (c *conn) other(p *pdu, n int) (over bool, err error) {
	p.data = make([]byte, n)
	if err := c.readData(p.data); err != nil {
		return false, err
	}
	switch op := p.op(); {
	case op == opNopOut:
		c.nopOut(p)
	case op == opTaskMgmt && !c.discovery:
		if c.takeCmdSN(p) {
			c.taskManagement(p)
		}
	case op == opText:
		if c.takeCmdSN(p) {
			return false, c.textRequest(p)
		}
	case op == opLogout:
		if c.takeCmdSN(p) {
			c.logout(p)
			return true, nil
		}
	default:
		const reasonUnsupported = 0x05
		r := newPDU(opReject, bitFinal)
		r.h[2] = reasonUnsupported
		r.data = append([]byte(nil), p.h[:]...)
		r.put(offITT, noTag)
		c.say(r)
	}
	return false, nil
}

// readData reads a data segment; what is queued is sent before a wait.
func (c *conn) readData(b []byte) error {
	if c.r.Buffered() < len(b) {
		c.pump(false)
	}
	return readData(c.r, b, c.p.digests)
}

func (c *conn) skipData(n int) error {
	if c.r.Buffered() < n {
		c.pump(false)
	}
	return skipData(c.r, n, c.p.digests)
}

// nopOut answers a ping. A NOP-Out that is not immediate takes a command
// number like any other PDU.
func (c *conn) nopOut(p *pdu) {
	if !c.takeCmdSN(p) || p.itt() == noTag {
		return
	}
	r := newPDU(opNopIn, bitFinal)
	copy(r.h[8:16], p.h[8:16])
	r.copyITT(p)
	r.put(offTTT, noTag)
	r.data = p.data[:min(len(p.data), c.p.maxSend)]
	c.say(r)
}

func (c *conn) logout(p *pdu) {
	c.pump(false)
	c.wg.Wait()
	r := newPDU(opLogoutResp, bitFinal)
	if p.h[1]&0x7f == 2 { // remove the connection for recovery: not at level 0
		r.h[2] = 2
	}
	r.copyITT(p)
	c.reply(r)
	_ = c.flush() // the connection is closed next
}

// textRequest answers SendTargets (RFC 7143 appendix C); an answer longer than
// the initiator takes at once comes in pieces that it asks for.
func (c *conn) textRequest(p *pdu) error {
	if p.h[1]&0x40 != 0 {
		return fmt.Errorf("%w: continued text request", ErrProtocol)
	}
	if p.u32(offTTT) == noTag {
		t, err := parseText(p.data)
		if err != nil {
			return err
		}
		c.answer = c.answerText(t)
	} else if p.u32(offTTT) != c.answerTTT || len(c.answer) == 0 {
		return fmt.Errorf("%w: text request continues nothing", ErrProtocol)
	}
	r := newPDU(opTextResp, bitFinal)
	copy(r.h[8:20], p.h[8:20])
	r.put(offTTT, noTag)
	n := min(len(c.answer), c.p.maxSend)
	r.data, c.answer = c.answer[:n], c.answer[n:]
	if len(c.answer) > 0 {
		c.answerTTT = (c.answerTTT + 1) & 0x7fffffff
		r.h[1] = 0x40 // more to come
		r.put(offTTT, c.answerTTT)
	}
	c.say(r)
	return nil
}

func (c *conn) answerText(t text) []byte {
	var out pairs
	for _, k := range t.keys {
		if k != "SendTargets" {
			out.add(k, valueUnknown)
			continue
		}
		which := t.get(k)
		if !c.discovery && (which == "" || which == c.target) {
			c.describe(c.target, &out)
			continue
		}
		if !c.discovery {
			continue
		}
		for _, name := range c.s.visible(c) {
			if which == "All" || which == name {
				c.describe(name, &out)
			}
		}
	}
	return out
}

func (c *conn) describe(name string, out *pairs) {
	out.add(keyTarget, name)
	out.add("TargetAddress", c.nc.LocalAddr().String()+",1")
}

// Task management functions and responses (RFC 7143 11.5, 11.6).
const (
	tmAbortTask    = 1
	tmAbortTaskSet = 2
	tmClearTaskSet = 4
	tmUnitReset    = 5
	tmWarmReset    = 6
	tmColdReset    = 7
	tmReassign     = 8

	tmComplete     = 0
	tmNoTask       = 1
	tmNoReassign   = 4
	tmNotSupported = 5
)

func (c *conn) taskManagement(p *pdu) {
	c.pump(false)
	resp := byte(tmComplete)
	switch fn := p.h[1] & 0x7f; fn {
	case tmAbortTask:
		ref := p.u32(offTTT)
		if c.abort(func(t *task) bool { return t.itt == ref }) == 0 {
			resp = tmNoTask
		}
	case tmAbortTaskSet, tmClearTaskSet, tmUnitReset, tmWarmReset, tmColdReset:
		c.abort(func(*task) bool { return true })
		if fn >= tmUnitReset {
			c.dev.Reset()
		}
	case tmReassign:
		resp = tmNoReassign
	default:
		resp = tmNotSupported
	}
	r := newPDU(opTaskMgmtResp, bitFinal)
	r.h[2] = resp
	r.copyITT(p)
	c.say(r)
}
