package targetd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"vcn/hostops/iscsi"
	"vcn/hostops/iscsi/scsi"
)

// Config of the target process.
type Config struct {
	Socket   string           // unix socket for control, made with mode 0600
	StateDir string           // export table; made with mode 0700 if absent
	Listen   []netip.AddrPort // portals; port 0 takes a free one
	Log      *slog.Logger
	// Open opens a volume; nil opens the file or block device at the path.
	// Tests put faults here (scsi.WithFaults).
	Open func(path string) (scsi.File, error)
}

// Server is the target process from inside. It implements hostops.Targets.
type Server struct {
	cfg     Config
	lock    *os.File
	portal  *iscsi.Server
	portals []net.Listener
	control *http.Server
	wg      sync.WaitGroup
	errs    chan error // a listener that ended by itself

	tableMu sync.Mutex // held while the table is written

	mu      sync.Mutex
	exports map[string]*export
	rows    map[string]row
}

// New reads the table, publishes what is in it, and then listens.
func New(c Config) (*Server, error) {
	if c.Socket == "" || c.StateDir == "" || len(c.Listen) == 0 || c.Log == nil {
		return nil, errors.New("start target: socket, state directory, portal and logger are needed")
	}
	if len(c.Socket) > maxSocketPath {
		return nil, fmt.Errorf("start target: socket path of %d bytes: want at most %d", len(c.Socket), maxSocketPath)
	}
	if c.Open == nil {
		c.Open = scsi.OpenFile
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("start target: %w", err)
	}
	lock, err := lockState(c.StateDir)
	if err != nil {
		return nil, fmt.Errorf("start target: %w", err)
	}
	s := &Server{
		cfg: c, lock: lock, portal: iscsi.NewServer(iscsi.Config{Log: c.Log}),
		exports: map[string]*export{}, errs: make(chan error, len(c.Listen)+1),
	}
	if err := s.start(); err != nil {
		s.Close()
		return nil, fmt.Errorf("start target: %w", err)
	}
	return s, nil
}

func (s *Server) start() (err error) {
	if s.rows, err = loadTable(s.cfg.StateDir); err != nil {
		return err
	}
	s.restore()
	for _, a := range s.cfg.Listen {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
		if err != nil {
			return fmt.Errorf("listen on portal: %w", err)
		}
		s.portals = append(s.portals, l)
	}
	l, err := listenSocket(s.cfg.Socket)
	if err != nil {
		return err
	}
	s.control = &http.Server{Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	for _, p := range s.portals {
		s.wg.Go(func() { s.ended("portal", s.portal.Serve(p)) })
	}
	s.wg.Go(func() { s.ended("control", s.control.Serve(l)) })
	s.cfg.Log.Info("target serves", "portals", s.Addrs(), "exports", len(s.rows))
	return nil
}

func (s *Server) ended(what string, err error) {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return
	}
	s.errs <- fmt.Errorf("serve %s: %w", what, err)
}

// Addrs are the portals, with the ports they got.
func (s *Server) Addrs() []netip.AddrPort {
	var l []netip.AddrPort
	for _, p := range s.portals {
		a := p.Addr().(*net.TCPAddr).AddrPort()
		l = append(l, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
	}
	return l
}

const controlGrace = 5 * time.Second

// Close ends control and sessions, drains their commands, flushes and closes
// the volumes. The table stays: the next start serves the same exports.
func (s *Server) Close() {
	if s.control != nil {
		ctx, cancel := context.WithTimeout(context.Background(), controlGrace)
		if s.control.Shutdown(ctx) != nil {
			_ = s.control.Close()
		}
		cancel()
		_ = os.Remove(s.cfg.Socket)
	}
	for _, p := range s.portals {
		_ = p.Close()
	}
	s.portal.Close()
	s.wg.Wait()
	s.mu.Lock()
	exports := s.exports
	s.exports = map[string]*export{}
	s.mu.Unlock() // a flush that fails is remembered, which locks
	for v, x := range exports {
		if x.unit == nil {
			continue
		}
		if err := errors.Join(x.unit.Sync(), x.unit.Close()); err != nil {
			s.cfg.Log.Error("volume closed with an error", "volume", v, "err", err)
		}
	}
	_ = s.lock.Close()
}

const lockPoll = 50 * time.Millisecond

// Run serves until ctx ends (SIGTERM), then flushes. While another process
// holds the state, one that still drains perhaps, it waits to take over. An
// error that ends it earlier is returned.
func Run(ctx context.Context, c Config) error {
	s, err := New(c)
	for told := false; errors.Is(err, ErrRunning); s, err = New(c) {
		if !told {
			c.Log.Info("another target process serves; waiting to take over from it", "state", c.StateDir)
			told = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lockPoll):
		}
	}
	if err != nil {
		return err
	}
	defer s.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.errs:
		return err
	}
}

// listenSocket makes the socket under another name first, so that nobody can
// connect before its mode is set, and so that a stale one is replaced.
func listenSocket(path string) (net.Listener, error) {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on control socket: %w", err), l.Close())
	}
	return l, nil
}
