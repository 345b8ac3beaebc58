package cluster

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

// simNet is a network in memory for virtual time: nothing in it blocks on the
// kernel. A cut between two hosts is a black hole, as a pulled cable is: what
// was sent waits, and goes on when the cut heals; nobody is told.
type simNet struct {
	mu        sync.Mutex
	cond      *sync.Cond // everything that waits on the network waits here
	listeners map[string]*simListener
	gossips   map[string]*simGossip
	apart     func(a, b string) bool // by IP
}

func newSimNet() *simNet {
	s := &simNet{listeners: map[string]*simListener{}, gossips: map[string]*simGossip{}}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// cut sets who cannot talk to whom; nil heals.
func (s *simNet) cut(apart func(a, b string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apart = apart
	s.cond.Broadcast()
}

func (s *simNet) isCut(a, b string) bool { return a != b && s.apart != nil && s.apart(a, b) }

// simHost is one host's end of the network.
type simPort struct {
	net *simNet
	ip  string
}

type simListener struct {
	*queueListener
	net  *simNet
	addr netip.AddrPort
}

func (p simPort) Listen(addr netip.AddrPort) (net.Listener, error) {
	l := &simListener{newQueueListener(net.TCPAddrFromAddrPort(addr)), p.net, addr}
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if p.net.listeners[addr.String()] != nil {
		return nil, syscall.EADDRINUSE
	}
	p.net.listeners[addr.String()] = l
	return l, nil
}

func (l *simListener) Close() error {
	l.net.mu.Lock()
	if l.net.listeners[l.addr.String()] == l {
		delete(l.net.listeners, l.addr.String())
	}
	l.net.mu.Unlock()
	return l.queueListener.Close()
}

func (p simPort) Dial(ctx context.Context, addr string) (net.Conn, error) {
	to := netip.MustParseAddrPort(addr)
	if err := p.reach(ctx, to); err != nil {
		return nil, err
	}
	p.net.mu.Lock()
	l := p.net.listeners[addr]
	p.net.mu.Unlock()
	if l == nil {
		return nil, syscall.ECONNREFUSED
	}
	here, there := p.net.pipe(p.ip, to)
	if err := l.put(ctx, there); err != nil {
		return nil, err
	}
	return here, nil
}

// reach waits until there is a way.
func (p simPort) reach(ctx context.Context, to netip.AddrPort) error {
	stop := context.AfterFunc(ctx, func() {
		p.net.mu.Lock()
		defer p.net.mu.Unlock()
		p.net.cond.Broadcast()
	})
	defer stop()
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	for p.net.isCut(p.ip, to.Addr().String()) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.net.cond.Wait()
	}
	return ctx.Err()
}

// half is one direction of a connection.
type half struct {
	buf     []byte
	ended   bool // the writer has closed
	dropped bool // the reader has closed
}

const halfBytesMax = 256 << 10

type simConn struct {
	net        *simNet
	ip, peer   string
	in, out    *half
	rdl, wdl   time.Time
	rtmr, wtmr *time.Timer
	closed     bool
	remote     net.Addr
}

func (s *simNet) pipe(fromIP string, to netip.AddrPort) (here, there *simConn) {
	a, b := &half{}, &half{}
	toIP := to.Addr().String()
	here = &simConn{net: s, ip: fromIP, peer: toIP, in: a, out: b, remote: net.TCPAddrFromAddrPort(to)}
	there = &simConn{net: s, ip: toIP, peer: fromIP, in: b, out: a,
		remote: &net.TCPAddr{IP: net.ParseIP(fromIP), Port: 40000}}
	return here, there
}

func past(d time.Time) bool { return !d.IsZero() && !time.Now().Before(d) }

func (c *simConn) Read(p []byte) (int, error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	for {
		cut := c.net.isCut(c.ip, c.peer)
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case past(c.rdl):
			return 0, os.ErrDeadlineExceeded
		case len(c.in.buf) > 0 && !cut:
			n := copy(p, c.in.buf)
			c.in.buf = c.in.buf[n:]
			c.net.cond.Broadcast()
			return n, nil
		case c.in.ended && !cut:
			return 0, io.EOF
		}
		c.net.cond.Wait()
	}
}

func (c *simConn) Write(p []byte) (n int, err error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	for {
		switch {
		case c.closed:
			return n, net.ErrClosed
		case past(c.wdl):
			return n, os.ErrDeadlineExceeded
		case c.out.dropped && !c.net.isCut(c.ip, c.peer):
			return n, syscall.EPIPE
		}
		if room := halfBytesMax - len(c.out.buf); room > 0 {
			take := min(room, len(p)-n)
			c.out.buf = append(c.out.buf, p[n:n+take]...)
			n += take
			c.net.cond.Broadcast()
		}
		if n == len(p) {
			return n, nil
		}
		c.net.cond.Wait()
	}
}

func (c *simConn) Close() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if !c.closed {
		c.closed, c.out.ended, c.in.dropped = true, true, true
		for _, t := range []*time.Timer{c.rtmr, c.wtmr} {
			if t != nil {
				t.Stop()
			}
		}
		c.net.cond.Broadcast()
	}
	return nil
}

func (c *simConn) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.ParseIP(c.ip), Port: 1} }
func (c *simConn) RemoteAddr() net.Addr { return c.remote }

func (c *simConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *simConn) SetReadDeadline(t time.Time) error  { return c.arm(&c.rdl, &c.rtmr, t) }
func (c *simConn) SetWriteDeadline(t time.Time) error { return c.arm(&c.wdl, &c.wtmr, t) }

func (c *simConn) arm(dl *time.Time, tmr **time.Timer, t time.Time) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	*dl = t
	if *tmr != nil {
		(*tmr).Stop()
		*tmr = nil
	}
	if !t.IsZero() && !c.closed {
		*tmr = time.AfterFunc(time.Until(t), func() {
			c.net.mu.Lock()
			defer c.net.mu.Unlock()
			c.net.cond.Broadcast()
		})
	}
	c.net.cond.Broadcast()
	return nil
}

// simGossip is memberlist's transport over simNet.
type simGossip struct {
	port    simPort
	addr    netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn
}

func (p simPort) Gossip(addr netip.AddrPort) (memberlist.Transport, error) {
	g := &simGossip{p, addr, make(chan *memberlist.Packet, 4096), make(chan net.Conn, 256)}
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if p.net.gossips[addr.String()] != nil {
		return nil, syscall.EADDRINUSE
	}
	p.net.gossips[addr.String()] = g
	return g, nil
}

func (g *simGossip) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return g.addr.Addr().AsSlice(), int(g.addr.Port()), nil
}

func (g *simGossip) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	g.port.net.mu.Lock()
	defer g.port.net.mu.Unlock()
	to := g.port.net.gossips[addr]
	if to == nil || g.port.net.isCut(g.port.ip, to.port.ip) {
		return now, nil // as UDP does
	}
	p := &memberlist.Packet{Buf: append([]byte{}, b...), From: net.UDPAddrFromAddrPort(g.addr), Timestamp: now}
	select {
	case to.packets <- p:
	default:
	}
	return now, nil
}

func (g *simGossip) PacketCh() <-chan *memberlist.Packet { return g.packets }
func (g *simGossip) StreamCh() <-chan net.Conn           { return g.streams }

func (g *simGossip) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	dst := netip.MustParseAddrPort(addr)
	if err := g.port.reach(ctx, dst); err != nil {
		return nil, err
	}
	g.port.net.mu.Lock()
	defer g.port.net.mu.Unlock()
	to := g.port.net.gossips[addr]
	if to == nil {
		return nil, syscall.ECONNREFUSED
	}
	here, there := g.port.net.pipe(g.port.ip, dst)
	select {
	case to.streams <- there:
		return here, nil
	default:
		return nil, syscall.ECONNREFUSED
	}
}

func (g *simGossip) Shutdown() error {
	g.port.net.mu.Lock()
	defer g.port.net.mu.Unlock()
	if g.port.net.gossips[g.addr.String()] == g {
		delete(g.port.net.gossips, g.addr.String())
	}
	return nil
}
