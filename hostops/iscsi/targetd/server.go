package targetd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"vcn/hostops/iscsi/scsi"
)

// Config of the target process.
type Config struct {
	Socket   string           // unix socket for control, made with mode 0600
	StateDir string           // export table; made with mode 0700 if absent
	Listen   []netip.AddrPort // portals; port 0 takes a free one
	Log      *slog.Logger
	// Engine is EngineAuto, EngineEmbedded or EngineLIO; empty is auto. A table
	// that one engine wrote is served by the other.
	Engine string
	// WriteThrough makes every write durable before it is acknowledged; the
	// embedded engine alone can.
	WriteThrough bool
	// Owner marks what is ours in the kernel's target: 1-32 of a-z 0-9. Empty
	// derives it from StateDir, so that two processes never touch each other's.
	Owner string
	// Open opens a volume for the embedded engine; nil opens the file or block
	// device at the path. Tests put faults here (scsi.WithFaults).
	Open func(path string) (scsi.File, error)
}

// owner is the mark of this process's volumes in the kernel.
func (c Config) owner() string {
	if c.Owner != "" {
		return c.Owner
	}
	dir, err := filepath.Abs(c.StateDir)
	if err != nil {
		dir = c.StateDir
	}
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:6])
}

// Server is the target process from inside. It implements hostops.Targets.
type Server struct {
	cfg     Config
	lock    *os.File
	engine  engine
	why     string // this engine
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
	if err := os.MkdirAll(filepath.Join(c.StateDir, marksName), 0o700); err != nil {
		return nil, fmt.Errorf("start target: %w", err)
	}
	lock, err := lockState(c.StateDir)
	if err != nil {
		return nil, fmt.Errorf("start target: %w", err)
	}
	s := &Server{
		cfg: c, lock: lock, exports: map[string]*export{}, errs: make(chan error, len(c.Listen)+1),
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
	if s.engine, s.why, err = s.choose(); err != nil {
		return err
	}
	s.restore()
	if err := s.engine.listen(); err != nil {
		return err
	}
	l, err := listenSocket(s.cfg.Socket)
	if err != nil {
		return err
	}
	s.control = &http.Server{Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	s.wg.Go(func() { s.ended("control", s.control.Serve(l)) })
	s.cfg.Log.Info("target serves", "engine", s.engineName(), "why", s.why, "portals", s.Addrs(), "exports", len(s.rows))
	return nil
}

func (s *Server) ended(what string, err error) {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return
	}
	s.errs <- fmt.Errorf("serve %s: %w", what, err)
}

// Addrs are the portals, with the ports they got.
func (s *Server) Addrs() []netip.AddrPort { return s.engine.addrs() }

// Engine names the engine in use and says why it is that one.
func (s *Server) Engine(context.Context) (name, why string, err error) {
	return s.engineName(), s.why, nil
}

func (s *Server) engineName() string {
	if _, ok := s.engine.(*kernelEngine); ok {
		return EngineLIO
	}
	return EngineEmbedded
}

const controlGrace = 5 * time.Second

// Close ends control. The embedded engine's sessions end too, their commands
// drained and the volumes flushed and closed; what LIO serves is served on by
// the kernel. The table stays: the next start serves the same exports.
func (s *Server) Close() {
	if s.control != nil {
		ctx, cancel := context.WithTimeout(context.Background(), controlGrace)
		if s.control.Shutdown(ctx) != nil {
			_ = s.control.Close()
		}
		cancel()
		_ = os.Remove(s.cfg.Socket)
	}
	if s.engine != nil {
		s.engine.close()
	}
	s.wg.Wait()
	s.mu.Lock()
	exports := s.exports
	s.exports = map[string]*export{}
	s.mu.Unlock() // a flush that fails is remembered, which locks
	for v, x := range exports {
		if x.unit == nil {
			continue
		}
		if err := errors.Join(x.unit.sync(), x.unit.close()); err != nil {
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
