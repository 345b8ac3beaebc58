package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"vcn/test/lab/wire"
)

const (
	dialWait     = time.Minute // for the agent's hello, on a loaded machine
	dialPause    = 50 * time.Millisecond
	helloWait    = 2 * time.Second // of the first try, then twice that
	helloWaitMax = 16 * time.Second
)

// ExitError is a command that ended with another code than 0.
type ExitError struct {
	Argv   []string
	Code   int // as a shell says it: 128 + signal if a signal ended it
	Signal syscall.Signal
	Stderr []byte // the end of it, where Output kept it
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit code %d", e.Code)
	if e.Signal != 0 {
		how = "ended by signal: " + e.Signal.String()
	}
	if s := bytes.TrimSpace(e.Stderr); len(s) > 0 {
		how += ": " + string(s)
	}
	return fmt.Sprintf("run %q in the lab machine: %s", e.Argv, how)
}

// Cmd is a command in a machine, after the manner of os/exec. It runs as root.
type Cmd struct {
	Argv   []string
	Env    []string // added to the machine's own, NAME=value
	Dir    string   // "/" if empty
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	m    *Machine
	ctx  context.Context
	conn net.Conn
	out  *wire.Writer
	done chan struct{}
	err  error
	// window is how much more input may be sent.
	mu     sync.Mutex
	more   *sync.Cond
	window int
	ended  bool
}

// Command prepares a command. When ctx ends, it is killed, with everything that it
// started and put into the background.
func (m *Machine) Command(ctx context.Context, argv ...string) *Cmd {
	c := &Cmd{Argv: argv, Dir: "/", m: m, ctx: ctx, window: wire.WindowBytes}
	c.more = sync.NewCond(&c.mu)
	return c
}

// Run starts it and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs it and returns what it printed; Stderr's end is in the error.
func (c *Cmd) Output() ([]byte, error) {
	var out bytes.Buffer
	var tail tailWriter
	c.Stdout = &out
	if c.Stderr == nil {
		c.Stderr = &tail
	}
	err := c.Run()
	var exit *ExitError
	if errors.As(err, &exit) {
		exit.Stderr = tail.b
	}
	return out.Bytes(), err
}

// CombinedOutput runs it and returns what it printed on both streams.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out syncBuffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.b.Bytes(), err
}

// Start sends the command to the machine and returns.
func (c *Cmd) Start() error {
	conn, err := c.m.open(c.ctx, wire.Request{Op: wire.OpRun, Argv: c.Argv, Env: c.Env, Dir: c.Dir})
	if err != nil {
		return fmt.Errorf("run %q: %w", c.Argv, err)
	}
	c.conn, c.out, c.done = conn, wire.NewWriter(conn), make(chan struct{})
	stop := context.AfterFunc(c.ctx, func() { _ = conn.Close() })
	if c.Stdin == nil {
		c.Stdin = bytes.NewReader(nil)
	}
	go c.send()
	go func() {
		defer close(c.done)
		c.err = c.receive()
		stop()
		_ = conn.Close()
		c.mu.Lock()
		c.ended = true
		c.more.Broadcast()
		c.mu.Unlock()
	}()
	return nil
}

// Wait waits for its end. A code other than 0 is an *ExitError. Like a terminal's,
// input that nobody reads is not waited for.
func (c *Cmd) Wait() error {
	<-c.done
	if c.ctx.Err() != nil && c.err != nil {
		return fmt.Errorf("run %q: %w", c.Argv, c.ctx.Err())
	}
	return c.err
}

// Signal sends it, and the processes of its group, a signal.
func (c *Cmd) Signal(s syscall.Signal) error { return c.out.Frame(wire.Signal, []byte{byte(s)}) }

// send feeds the input within the window.
func (c *Cmd) send() {
	buf := make([]byte, wire.FrameBytesMax/4)
	for {
		n, err := c.Stdin.Read(buf)
		c.mu.Lock()
		for c.window < n && !c.ended {
			c.more.Wait()
		}
		c.window -= n
		ended := c.ended
		c.mu.Unlock()
		if ended {
			return
		}
		if n > 0 && c.out.Frame(wire.Stdin, buf[:n]) != nil {
			return // receive says why
		}
		if err != nil {
			_ = c.out.Frame(wire.StdinEnd, nil)
			return
		}
	}
}

func (c *Cmd) receive() error {
	in := wire.NewReader(c.conn)
	for {
		typ, data, err := in.Next()
		if err != nil {
			return fmt.Errorf("run %q: connection to the machine: %w", c.Argv, err)
		}
		switch typ {
		case wire.Stdout:
			err = writeTo(c.Stdout, data)
		case wire.Stderr:
			err = writeTo(c.Stderr, data)
		case wire.Ack:
			if len(data) == 4 {
				c.mu.Lock()
				c.window += int(binary.BigEndian.Uint32(data))
				c.more.Broadcast()
				c.mu.Unlock()
			}
		case wire.Exited:
			return c.exit(data)
		default:
			err = fmt.Errorf("%w: %q", wire.ErrFrame, typ)
		}
		if err != nil {
			return fmt.Errorf("run %q: %w", c.Argv, err)
		}
	}
}

func writeTo(w io.Writer, data []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(data)
	return err
}

func (c *Cmd) exit(data []byte) error {
	var e wire.Exit
	if err := json.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("run %q: read exit: %w", c.Argv, err)
	}
	switch {
	case e.Error != "":
		return fmt.Errorf("run %q: %s", c.Argv, e.Error)
	case e.Code != 0:
		return &ExitError{Argv: c.Argv, Code: e.Code, Signal: syscall.Signal(e.Signal)}
	}
	return nil
}

// open connects to the agent and makes a request. Until the agent has said hello
// nothing was asked of it, so what fails or is lost before is tried again.
func (m *Machine) open(ctx context.Context, req wire.Request) (net.Conn, error) {
	deadline := time.Now().Add(dialWait)
	for wait := helloWait; ; wait = min(2*wait, helloWaitMax) {
		m.mu.Lock()
		on, port, token := m.vm != nil && m.vm.alive(), m.st.Port, m.st.Token
		m.mu.Unlock()
		if !on {
			return nil, ErrOff
		}
		// One at a time: see wire about bursts.
		m.dialing.Lock()
		conn, err := dial(ctx, port, wait)
		m.dialing.Unlock()
		if err == nil {
			req.Token = token
			if err = wire.WriteRequest(conn, req); err == nil {
				return conn, nil
			}
			return nil, errors.Join(fmt.Errorf("reach machine %s: %w", m.st.Name, err), conn.Close())
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("reach machine %s: %w", m.st.Name, err)
		}
		time.Sleep(dialPause)
	}
}

// dial connects and waits for the agent's hello.
func dial(ctx context.Context, port int, wait time.Duration) (net.Conn, error) {
	deadline := time.Now().Add(wait)
	d := net.Dialer{Deadline: deadline}
	conn, err := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.SetReadDeadline(deadline); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	typ, _, err := wire.NewReader(conn).Next()
	if err == nil && typ != wire.Hello {
		err = fmt.Errorf("%w: %q, want hello", wire.ErrFrame, typ)
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Ping asks the agent whether it is there.
func (m *Machine) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingWait)
	defer cancel()
	return m.transfer(ctx, wire.Request{Op: wire.OpPing}, nil, nil)
}

// Put writes a file in the machine, whole or not at all, with its directories.
func (m *Machine) Put(ctx context.Context, r io.Reader, path string, mode os.FileMode) error {
	if err := m.transfer(ctx, wire.Request{Op: wire.OpPut, Path: path, Mode: uint32(mode.Perm())}, r, nil); err != nil {
		return fmt.Errorf("put %s: %w", path, err)
	}
	return nil
}

// PutFile writes a host's file into the machine, with its permissions.
func (m *Machine) PutFile(ctx context.Context, from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	return m.Put(ctx, f, to, fi.Mode())
}

// Get reads a file of the machine.
func (m *Machine) Get(ctx context.Context, path string, w io.Writer) error {
	if err := m.transfer(ctx, wire.Request{Op: wire.OpGet, Path: path}, nil, w); err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	return nil
}

// transfer makes a request that is no command.
func (m *Machine) transfer(ctx context.Context, req wire.Request, r io.Reader, w io.Writer) error {
	conn, err := m.open(ctx, req)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	out, in := wire.NewWriter(conn), wire.NewReader(conn)
	if r != nil {
		if _, err := io.CopyBuffer(struct{ io.Writer }{out.Stream(wire.Stdin)}, struct{ io.Reader }{r}, make([]byte, wire.FrameBytesMax)); err != nil {
			return errors.Join(ctx.Err(), err)
		}
		if err := out.Frame(wire.StdinEnd, nil); err != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
	for {
		typ, data, err := in.Next()
		if err != nil {
			return errors.Join(ctx.Err(), err)
		}
		switch typ {
		case wire.Stdout:
			if err := writeTo(w, data); err != nil {
				return err
			}
		case wire.Exited:
			var e wire.Exit
			if err := json.Unmarshal(data, &e); err != nil {
				return err
			}
			if e.Error != "" {
				return errors.New(e.Error)
			}
			return nil
		default:
			return fmt.Errorf("%w: %q", wire.ErrFrame, typ)
		}
	}
}
