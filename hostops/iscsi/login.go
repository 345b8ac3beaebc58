package iscsi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

const (
	maxLoginBytes     = 64 << 10
	maxLoginExchanges = 32

	stageSecurity    = 0
	stageOperational = 1
	stageFullFeature = 3
)

// LoginError refuses a login with a status of RFC 7143 11.13.5.
type LoginError struct {
	Class, Detail byte
	Reason        string // for our log only
}

func (e *LoginError) Error() string {
	return fmt.Sprintf("login status %02x%02x: %s", e.Class, e.Detail, e.Reason)
}

func loginError(status uint16, reason string) *LoginError {
	return &LoginError{byte(status >> 8), byte(status), reason}
}

const (
	statusInitiatorError = 0x0200
	statusAuthFailed     = 0x0201
	statusForbidden      = 0x0202
	statusNotFound       = 0x0203
	statusMissing        = 0x0207
	statusNoSession      = 0x020a
	statusUnavailable    = 0x0301
	statusNoResources    = 0x0302
)

// negotiation is a login in progress.
type negotiation struct {
	c      *conn
	req    pdu
	text   []byte // of a request that comes in several PDUs
	cmdSN  uint32
	first  bool
	named  bool // initiator and target are known and have candidates
	grants []grant

	chapStep  int // 0 nothing, 1 method agreed, 2 challenge sent
	challenge challenge
	authed    bool

	declared, tagged bool // our MaxRecvDataSegmentLength, portal group tag sent
}

// login runs the login phase (RFC 7143 6.3). Afterwards the connection is a
// bound session.
func (c *conn) login() error {
	n := &negotiation{c: c, first: true}
	for range maxLoginExchanges {
		full, err := n.exchange()
		var le *LoginError
		if errors.As(err, &le) {
			n.refuse(le)
		}
		if err != nil || full {
			return err
		}
	}
	return fmt.Errorf("%w: login does not end", ErrProtocol)
}

func (n *negotiation) stages() (current, next byte) { return n.req.h[1] >> 2 & 3, n.req.h[1] & 3 }
func (n *negotiation) transit() bool                { return n.req.h[1]&0x80 != 0 }
func (n *negotiation) continued() bool              { return n.req.h[1]&0x40 != 0 }

// exchange reads one request and answers it; full means that the login is over.
func (n *negotiation) exchange() (full bool, err error) {
	if err := n.receive(); err != nil {
		return false, err
	}
	current, next := n.stages()
	flags := current << 2
	var out pairs
	if n.continued() {
		if n.transit() {
			return false, loginError(statusInitiatorError, "transit in a continued request")
		}
		return false, n.respond(flags, nil)
	}
	t, err := parseText(n.text)
	n.text = nil
	if err != nil {
		return false, loginError(statusInitiatorError, err.Error())
	}
	if !n.named {
		if err := n.identify(t); err != nil {
			return false, err
		}
	}
	done, err := n.stage(current, t, &out)
	if err != nil {
		return false, err
	}
	if !n.c.discovery && !n.tagged {
		n.tagged = true
		out.add("TargetPortalGroupTag", "1")
	}
	if n.transit() && done && next > current && next != 2 {
		flags |= 0x80 | next
		full = next == stageFullFeature
	}
	if full {
		if !n.authed {
			return false, loginError(statusAuthFailed, "no authentication")
		}
		if err := n.c.s.bind(n.c); errors.Is(err, errNoLonger) {
			return false, loginError(statusUnavailable, err.Error())
		} else if err != nil {
			return false, loginError(statusNoResources, err.Error())
		}
	}
	if err := n.respond(flags, out); err != nil {
		return false, err
	}
	if full {
		n.c.dig = n.c.p.digests // nobody else sends yet
	}
	return full, nil
}

func (n *negotiation) receive() error {
	c, p := n.c, &n.req
	if err := readHeader(c.r, p, digests{}); err != nil {
		return err
	}
	if p.op() != opLogin {
		return fmt.Errorf("%w: operation %#x before login", ErrProtocol, p.op())
	}
	if p.dataBytes()+len(n.text) > maxLoginBytes {
		return fmt.Errorf("%w: login text too long", ErrProtocol)
	}
	d := make([]byte, p.dataBytes())
	if err := readData(c.r, d, digests{}); err != nil {
		return err
	}
	if n.first {
		n.first = false
		copy(c.isid[:], p.h[8:14])
		c.statSN, n.cmdSN = p.u32(offExpStat), p.u32(offCmdSN)
		if binary.BigEndian.Uint16(p.h[14:]) != 0 { // no second connection, no recovery
			return loginError(statusNoSession, "TSIH of no session of ours")
		}
	}
	n.text = append(n.text, d...)
	return nil
}

// identify takes the names from the first complete request and looks for
// access entries. Unknown and not allowed look the same from outside.
func (n *negotiation) identify(t text) error {
	c := n.c
	c.initiator, c.target = t.get(keyInitiator), t.get(keyTarget)
	c.discovery = t.get(keySessionType) == valueDiscovery
	if c.discovery {
		c.target = ""
	}
	if c.initiator == "" || !c.discovery && c.target == "" {
		return loginError(statusMissing, "names are missing")
	}
	if len(c.initiator) > maxIQNBytes || len(c.target) > maxIQNBytes {
		return loginError(statusInitiatorError, "name too long")
	}
	l, shut := c.s.candidates(c.initiator, c.remote.Addr(), c.target)
	switch {
	case shut:
		return loginError(statusUnavailable, "target is being changed")
	case len(l) == 0 && c.discovery:
		return loginError(statusForbidden, "nothing for this initiator and address")
	case len(l) == 0:
		return loginError(statusNotFound, "no such target for this initiator and address")
	}
	n.grants, n.named = l, true
	c.port = fmt.Sprintf("%s,i,0x%x,%s", c.initiator, c.isid, c.target)
	return nil
}

// stage handles the keys of one stage; done means that it may be left.
func (n *negotiation) stage(current byte, t text, out *pairs) (done bool, err error) {
	switch current {
	case stageSecurity:
		return n.security(t, out)
	case stageOperational:
		if !n.authed {
			return false, loginError(statusAuthFailed, "security stage skipped")
		}
		n.c.p.negotiate(t, out)
		if !n.declared && !n.c.discovery {
			n.declared = true
			out.add(keyMaxRecv, strconv.Itoa(maxRecvBytes))
		}
		return true, nil
	}
	return false, loginError(statusInitiatorError, "no such stage")
}

// security is one step of CHAP.
func (n *negotiation) security(t text, out *pairs) (done bool, err error) {
	switch {
	case n.authed:
		return true, nil
	case n.chapStep == 0:
		if !t.has(keyAuthMethod) {
			return false, nil // names only; the method comes next
		}
		if !offers(t.get(keyAuthMethod), "CHAP") {
			return false, loginError(statusAuthFailed, "initiator offers no CHAP")
		}
		out.add(keyAuthMethod, "CHAP")
		n.chapStep = 1
	case n.chapStep == 1:
		if !offers(t.get("CHAP_A"), chapMD5) {
			return false, loginError(statusAuthFailed, "initiator offers no MD5")
		}
		n.challenge = newChallenge()
		out.add("CHAP_A", chapMD5)
		out.add("CHAP_I", strconv.Itoa(int(n.challenge.id)))
		out.add("CHAP_C", fmt.Sprintf("0x%x", n.challenge.value))
		n.chapStep = 2
	default:
		return true, n.prove(t, out)
	}
	return false, nil
}

// prove checks the response and settles which access entry the session has.
func (n *negotiation) prove(t text, out *pairs) error {
	r, err := binaryValue(t.get("CHAP_R"))
	if err != nil {
		return loginError(statusAuthFailed, "no CHAP response")
	}
	for _, g := range n.grants {
		if !n.challenge.proves(&g.access.CHAP, t.get("CHAP_N"), r) {
			continue
		}
		if err := n.challenge.answer(&g.access.CHAP, t, out); err != nil {
			return loginError(statusAuthFailed, err.Error())
		}
		c := n.c
		c.access, n.authed = g.access, true
		if !c.discovery {
			c.dev, c.epoch = g.dev, g.epoch
		}
		return nil
	}
	return loginError(statusAuthFailed, "wrong user or secret")
}

// respond answers a request.
func (n *negotiation) respond(flags byte, out pairs) error {
	c := n.c
	if len(out) > loginDataBytes {
		return fmt.Errorf("%w: answer of %d bytes", ErrProtocol, len(out))
	}
	r := newPDU(opLoginResp, flags)
	copy(r.h[8:14], c.isid[:])
	if flags&0x83 == 0x80|stageFullFeature {
		binary.BigEndian.PutUint16(r.h[14:], c.tsih)
	}
	r.copyITT(&n.req)
	r.data = out
	c.expCmdSN.Store(n.cmdSN)
	c.maxCmdSN.Store(n.cmdSN)
	c.reply(r)
	return c.flush()
}

func (n *negotiation) refuse(e *LoginError) {
	c := n.c
	r := newPDU(opLoginResp, n.req.h[1]&0x0c)
	copy(r.h[8:16], n.req.h[8:16])
	r.copyITT(&n.req)
	r.h[36], r.h[37] = e.Class, e.Detail
	c.expCmdSN.Store(n.cmdSN)
	c.maxCmdSN.Store(n.cmdSN)
	c.reply(r)
}
