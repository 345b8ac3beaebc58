package iscsi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"vcn/hostops/iscsi/scsi"
)

const (
	queueDepth          = 64             // command window of a session
	maxTasks            = 2 * queueDepth // immediate commands come on top of the window
	sessionRunning      = 32             // commands of a session in the device at once
	serverRunning       = 4096           // of all sessions; each may hold an OS thread
	sessionBytes        = 128 << 20
	defaultServerBytes  = 1 << 30
	defaultConnections  = 1024
	defaultLoginTimeout = 15 * time.Second
	defaultSendTimeout  = 60 * time.Second
	defaultDataTimeout  = 60 * time.Second
)

// Device executes SCSI commands. All methods may be called concurrently.
type Device interface {
	// OutBytes is how many bytes of data-out the CDB (16 bytes) takes.
	OutBytes(cdb []byte) int
	// Exec runs one command; out is what arrived, inMax what the initiator takes.
	Exec(nexus string, cdb, out []byte, inMax int) scsi.Result
	// Attach and Detach say that a session begins and has ended.
	Attach(nexus, initiator string)
	Detach(nexus string)
	// Reset is a logical unit or target reset that some nexus asked for.
	Reset()
	// Renew says that another epoch begins: reservations of the old one are
	// void. No session is attached.
	Renew()
}

// Access lets one initiator use a target.
type Access struct {
	Initiator string     // IQN
	Addr      netip.Addr // source address
	CHAP      CHAP
}

// Target is one device under one name.
type Target struct {
	Name   string // IQN
	Device Device
	// Epoch numbers who the target serves. A session belongs to the epoch it
	// logged in to, and is cut when the epoch changes.
	Epoch  uint64
	Access []Access
}

// SessionInfo is one logged-in initiator.
type SessionInfo struct {
	Initiator string
	Addr      netip.AddrPort
	Since     time.Time
	Epoch     uint64
}

// Config of a Server. Zero values take the defaults of the package doc.
type Config struct {
	Log            *slog.Logger
	MaxConnections int
	MaxBytes       int64 // data in memory, all sessions
	LoginTimeout   time.Duration
	SendTimeout    time.Duration
	DataTimeout    time.Duration // for one burst of data-out
}

// Server is an iSCSI target portal with any number of targets.
type Server struct {
	cfg     Config
	memory  *semaphore.Weighted // bytes
	running *semaphore.Weighted // commands
	wg      sync.WaitGroup

	mu        sync.Mutex
	targets   map[string]*target
	sessions  map[*conn]struct{} // bound ones
	conns     map[*conn]struct{} // all
	listeners map[net.Listener]struct{}
	slots     slots
	tsih      uint16
	closed    bool
}

// target is a Target and what is known of it.
type target struct {
	Target
	open  bool // admits logins at the moment
	renew bool // its device must hear of the epoch before it opens
}

// NewServer makes a server without listeners.
func NewServer(c Config) *Server {
	if c.MaxConnections == 0 {
		c.MaxConnections = defaultConnections
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultServerBytes
	}
	if c.LoginTimeout == 0 {
		c.LoginTimeout = defaultLoginTimeout
	}
	if c.SendTimeout == 0 {
		c.SendTimeout = defaultSendTimeout
	}
	if c.DataTimeout == 0 {
		c.DataTimeout = defaultDataTimeout
	}
	return &Server{
		cfg: c, slots: newSlots(c.MaxConnections), memory: semaphore.NewWeighted(c.MaxBytes), running: semaphore.NewWeighted(serverRunning),
		targets: map[string]*target{}, sessions: map[*conn]struct{}{}, conns: map[*conn]struct{}{},
		listeners: map[net.Listener]struct{}{},
	}
}

// Publish serves the target, or changes how it is served. Sessions that epoch
// and access list do not cover, and those of another device under this name,
// are cut and drained before anybody is admitted. If ctx ends first, the target
// stays shut; Publish again. Calls for one name must not overlap.
func (s *Server) Publish(ctx context.Context, t Target) error {
	t.Access = slices.Clone(t.Access)
	n := &target{Target: t}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("publish %s: %w", t.Name, net.ErrClosed)
	}
	old := s.targets[t.Name]
	n.renew = old == nil || old.Device != t.Device || old.Epoch != t.Epoch || old.renew
	s.replace(old, n)
	s.targets[t.Name] = n
	cut := s.bound(func(c *conn) bool { return c.target == t.Name && !n.covers(c) })
	s.mu.Unlock()
	if err := drain(ctx, cut); err != nil {
		return fmt.Errorf("publish %s: drain %d sessions: %w", t.Name, len(cut), err)
	}
	if n.renew {
		t.Device.Renew()
	}
	s.mu.Lock()
	n.open, n.renew = true, false
	s.mu.Unlock()
	return nil
}

// Announce makes a target known that nobody can be served from yet; its Device
// may be nil. Who is on its access list is told to try again, instead of that it
// does not exist. A target that is known already stays as it is.
func (s *Server) Announce(t Target) {
	t.Access = slices.Clone(t.Access)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.targets[t.Name] != nil {
		return
	}
	n := &target{Target: t}
	s.replace(nil, n)
	s.targets[t.Name] = n
}

// Withdraw removes a target. When it returns nil, no command of its sessions
// is running any more. What is not there is withdrawn.
func (s *Server) Withdraw(ctx context.Context, name string) error {
	s.mu.Lock()
	s.replace(s.targets[name], nil)
	delete(s.targets, name)
	cut := s.bound(func(c *conn) bool { return c.target == name })
	s.mu.Unlock()
	if err := drain(ctx, cut); err != nil {
		return fmt.Errorf("withdraw %s: drain %d sessions: %w", name, len(cut), err)
	}
	return nil
}

// covers says whether a bound session may go on.
func (t *target) covers(c *conn) bool {
	return c.dev == t.Device && c.epoch == t.Epoch && slices.Contains(t.Access, c.access)
}

// bound lists the bound sessions that f picks; the caller holds mu.
func (s *Server) bound(f func(*conn) bool) (l []*conn) {
	for c := range s.sessions {
		if f(c) {
			l = append(l, c)
		}
	}
	return l
}

func drain(ctx context.Context, l []*conn) error {
	for _, c := range l {
		c.cut()
	}
	for _, c := range l {
		select {
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Sessions lists who is logged in to a target, oldest first.
func (s *Server) Sessions(name string) []SessionInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	var l []SessionInfo
	for _, c := range s.bound(func(c *conn) bool { return c.target == name }) {
		l = append(l, SessionInfo{Initiator: c.initiator, Addr: c.remote, Since: c.since, Epoch: c.epoch})
	}
	slices.SortFunc(l, func(a, b SessionInfo) int { return a.Since.Compare(b.Since) })
	return l
}

// Serve accepts connections until the listener or the server is closed.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.Join(net.ErrClosed, l.Close())
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	for {
		nc, err := l.Accept()
		if err == nil {
			s.admit(nc)
			continue
		}
		s.mu.Lock()
		closed := s.closed
		s.mu.Unlock()
		if closed || errors.Is(err, net.ErrClosed) {
			return net.ErrClosed
		}
		// Out of descriptors, or a connection reset before it was accepted:
		// the others must go on.
		s.cfg.Log.Warn("accept failed", "err", err)
		time.Sleep(acceptPause)
	}
}

const acceptPause = 50 * time.Millisecond

// Close ends all listeners and connections, and waits for their commands.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for l := range s.listeners {
		_ = l.Close()
	}
	for c := range s.conns {
		c.cut()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// candidates are the access entries of an initiator at an address: those of one
// target, or for a discovery session (empty name) those of all. shut tells that
// there are some, but the target admits nobody at the moment.
func (s *Server) candidates(initiator string, addr netip.Addr, name string) (l []grant, shut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, t := range s.targets {
		if name != "" && n != name {
			continue
		}
		for _, a := range t.Access {
			if a.Initiator != initiator || a.Addr != addr {
				continue
			}
			if name != "" && !t.open {
				return nil, true
			}
			l = append(l, grant{target: n, dev: t.Device, epoch: t.Epoch, access: a})
		}
	}
	return l, false
}

// grant is one access entry of one target at one epoch.
type grant struct {
	target string
	dev    Device
	epoch  uint64
	access Access
}

// errNoLonger: between login and session the access was taken away.
var errNoLonger = errors.New("access was withdrawn during login")

// bind turns a login into a session if what it was granted is still in force.
// An older session of the same initiator is cut and drained first, so that none
// of its commands runs after ours. RFC 7143 6.3.5 asks that of the same initiator
// port; libiscsi reconnects with another ISID, which is another port, and sends
// again what the old session may still have in work. So a target has one session
// of each initiator name.
func (s *Server) bind(c *conn) error {
	for {
		s.mu.Lock()
		t := s.targets[c.target]
		if s.closed || c.ctx.Err() != nil || !c.discovery && (t == nil || !t.open || !t.covers(c)) {
			s.mu.Unlock()
			return errNoLonger
		}
		var old []*conn
		if !c.discovery {
			old = s.bound(func(x *conn) bool { return x.target == c.target && x.initiator == c.initiator })
		}
		if len(old) == 0 {
			if s.tsih++; s.tsih == 0 {
				s.tsih = 1
			}
			c.tsih, c.since = s.tsih, time.Now()
			c.nexus = fmt.Sprintf("%s,t,%d", c.port, c.tsih)
			s.sessions[c] = struct{}{}
			if c.dev != nil {
				c.dev.Attach(c.nexus, c.initiator)
				s.slots.loggedIn(c)
			}
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		ctx, cancel := context.WithTimeout(c.ctx, s.cfg.LoginTimeout)
		err := drain(ctx, old)
		cancel()
		if err != nil {
			return fmt.Errorf("reinstate session: %w", err)
		}
	}
}

// visible are the targets a discovery session may be told of: those that know
// this initiator, address, user and secret.
func (s *Server) visible(c *conn) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var l []string
	for n, t := range s.targets {
		if slices.ContainsFunc(t.Access, func(a Access) bool {
			return a.Initiator == c.initiator && a.Addr == c.remote.Addr() &&
				a.CHAP.User == c.access.CHAP.User && a.CHAP.Secret == c.access.CHAP.Secret
		}) {
			l = append(l, n)
		}
	}
	slices.Sort(l)
	return l
}
