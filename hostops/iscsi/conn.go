package iscsi

import (
	"bufio"
	"container/list"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	loginBufferBytes   = 4 << 10 // a stranger gets no more
	sessionBufferBytes = 64 << 10
)

// conn is one connection, and the session on it once it is bound.
type conn struct {
	s      *Server
	nc     net.Conn
	remote netip.AddrPort
	r      *bufio.Reader
	log    *slog.Logger
	ctx    context.Context // ends when the connection is cut
	cancel context.CancelFunc
	done   chan struct{} // closed when no command runs any more

	// Written by the login, before bind.
	initiator, target string
	isid              [6]byte
	port              string // initiator port and target: one session each
	discovery         bool
	dev               Device
	epoch             uint64
	access            Access
	p                 params

	// Written by bind, under Server.mu.
	tsih  uint16
	nexus string // port and TSIH: names this session only
	since time.Time

	stranger, pending bool // what it counts as; under Server.mu

	wg      sync.WaitGroup // tasks from start until what they answered is sent
	workers sync.WaitGroup // goroutines that run tasks or send
	work    chan *task     // to workers that have nothing to do
	idle    atomic.Int32   // workers that wait for work
	memory  *semaphore.Weighted
	running *semaphore.Weighted

	out    sender
	dig    digests // in force; written once, after the login
	statSN uint32  // of whoever sends
	cold   warmth

	expCmdSN atomic.Uint32
	maxCmdSN atomic.Uint32
	inflight atomic.Int32

	taskMu  sync.Mutex
	tasks   map[uint32]*task
	nextTTT uint32    // reader only
	waiting list.List // tasks whose data-out is to come, oldest first; reader only

	answer    []byte // rest of a long text answer
	answerTTT uint32
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{
		s: s, nc: nc, done: make(chan struct{}), work: make(chan *task), tasks: map[uint32]*task{},
		p: defaultParams(), memory: semaphore.NewWeighted(sessionBytes), running: semaphore.NewWeighted(sessionRunning),
		log: s.cfg.Log.With("addr", nc.RemoteAddr().String()),
	}
	c.r = bufio.NewReaderSize(c.nc, loginBufferBytes)
	c.out.init(nc)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		ap := a.AddrPort()
		c.remote = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return c
}

// cut ends the connection. Commands in the device end by themselves; done tells.
func (c *conn) cut() {
	c.cancel()
	_ = c.nc.Close()
}

// serve is the life of a connection.
func (c *conn) serve() {
	defer c.s.wg.Done()
	defer c.end()
	if t, ok := c.nc.(*net.TCPConn); ok {
		_ = t.SetNoDelay(true)
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 6})
	}
	_ = c.nc.SetDeadline(time.Now().Add(c.s.cfg.LoginTimeout))
	if err := c.login(); err != nil {
		c.s.loginFailed(c, err)
		return
	}
	c.log = c.log.With("initiator", c.initiator, "target", c.target)
	c.log.Debug("session begins", "epoch", c.epoch)
	_ = c.nc.SetDeadline(time.Time{})
	c.r = bufio.NewReaderSize(c.r, sessionBufferBytes)
	err := c.fullFeature()
	switch {
	case c.ctx.Err() != nil:
		c.log.Info("session cut")
	case err == nil || err == io.EOF:
		c.log.Debug("session ends")
	case errors.Is(err, ErrProtocol):
		c.log.Warn("session ends", "err", err)
	default:
		c.log.Info("session ends", "err", err)
	}
}

// end waits for the running commands and forgets the connection. It also
// catches what the reader may have panicked with: one bad PDU must not end the
// disks of everybody else.
func (c *conn) end() {
	if e := recover(); e != nil {
		c.log.Error("connection panicked", "panic", e, "stack", string(debug.Stack()))
	}
	c.cut()
	c.wg.Wait()
	c.workers.Wait()
	c.discard()
	c.dropTasks()
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.slots.loggedIn(c)
	_, bound := c.s.sessions[c]
	delete(c.s.sessions, c)
	c.s.mu.Unlock()
	if bound && c.dev != nil {
		c.dev.Detach(c.nexus)
	}
	close(c.done)
}
