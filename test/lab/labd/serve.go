package main

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"vcn/test/lab/wire"
)

const (
	requestWait = 30 * time.Second // for a connection's request
	// outputWait is how long the output of a command is still read after its end,
	// when something it left in the background holds it open.
	outputWait  = 500 * time.Millisecond
	cgroupRoot  = "/sys/fs/cgroup"
	notStarted  = 127 // as a shell says "not found"
	signalShift = 128
)

// groups numbers the commands' control groups.
var groups atomic.Int64

func serve() error {
	conf, err := readConfig(agentConfig)
	if err != nil {
		return err
	}
	if err := os.Setenv("HOME", "/root"); err != nil {
		return err
	}
	// On the control card alone: the others are the tests'.
	ip, _, err := net.ParseCIDR(conf.Address)
	if err != nil {
		return fmt.Errorf("read control address: %w", err)
	}
	l, err := net.Listen("tcp4", net.JoinHostPort(ip.String(), strconv.Itoa(conf.Port)))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	say("agent listens")
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go func() {
			defer c.Close()
			if err := answer(c, conf.Token); err != nil {
				fmt.Fprintln(os.Stderr, "labd:", err)
			}
		}()
	}
}

// answer serves one connection.
func answer(c net.Conn, token string) error {
	if err := c.SetReadDeadline(time.Now().Add(requestWait)); err != nil {
		return err
	}
	out := wire.NewWriter(c)
	if err := out.Frame(wire.Hello, nil); err != nil {
		return err
	}
	req, err := wire.ReadRequest(c)
	if errors.Is(err, io.EOF) {
		return nil // the host no longer wanted it
	}
	if err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(req.Token), []byte(token)) != 1 {
		return out.Exit(wire.Exit{Error: wire.ErrDenied.Error()})
	}
	var exit wire.Exit
	switch req.Op {
	case wire.OpPing:
	case wire.OpRun:
		exit, err = run(req, wire.NewReader(c), out)
	case wire.OpPut:
		err = put(req, wire.NewReader(c))
	case wire.OpGet:
		err = get(req, out)
	default:
		err = fmt.Errorf("operation %q is unknown", req.Op)
	}
	if err != nil {
		exit = wire.Exit{Error: err.Error()}
	}
	return out.Exit(exit)
}

func put(req wire.Request, in *wire.Reader) (err error) {
	if err := os.MkdirAll(filepath.Dir(req.Path), 0o755); err != nil {
		return err
	}
	// Not onto a program that runs: a new file takes its name.
	f, err := os.CreateTemp(filepath.Dir(req.Path), ".put-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	for {
		typ, data, err := in.Next()
		if err == nil && typ == wire.Stdin {
			_, err = f.Write(data)
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
		if typ == wire.StdinEnd {
			break
		}
	}
	if err := errors.Join(f.Chmod(os.FileMode(req.Mode)), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), req.Path)
}

func get(req wire.Request, out *wire.Writer) error {
	f, err := os.Open(req.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.IsDir() {
		return errors.Join(err, fmt.Errorf("%s is not a file", req.Path))
	}
	_, err = io.CopyBuffer(out.Stream(wire.Stdout), onlyReader{f}, make([]byte, wire.FrameBytesMax))
	return err
}

// onlyReader hides WriteTo, which would write in pieces of its own size.
type onlyReader struct{ io.Reader }

// run executes a command, and kills all it started when the connection ends first.
func run(req wire.Request, in *wire.Reader, out *wire.Writer) (wire.Exit, error) {
	if len(req.Argv) == 0 {
		return wire.Exit{}, errors.New("no command")
	}
	group, err := newGroup()
	if err != nil {
		return wire.Exit{}, fmt.Errorf("make control group: %w", err)
	}
	defer group.close()
	cmd := exec.CommandContext(context.Background(), req.Argv[0], req.Argv[1:]...)
	cmd.Env, cmd.Dir = append(os.Environ(), req.Env...), req.Dir
	cmd.Stdout, cmd.Stderr = out.Stream(wire.Stdout), out.Stream(wire.Stderr)
	cmd.WaitDelay = outputWait
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.dir.Fd())}
	stdin, err := newInput(out)
	if err != nil {
		return wire.Exit{}, err
	}
	cmd.Stdin = stdin.read
	err = cmd.Start()
	_ = stdin.read.Close()
	if err != nil {
		stdin.end()
		return wire.Exit{Code: notStarted, Error: err.Error()}, nil
	}
	// The reader of frames ends with the connection, which answer's caller closes.
	var ended atomic.Bool
	go func() {
		why := receive(in, stdin, cmd.Process.Pid)
		if ended.Load() {
			return
		}
		fmt.Fprintf(os.Stderr, "labd: %q loses its host: %v\n", req.Argv, why)
		stdin.end()
		group.kill()
	}()
	err = cmd.Wait()
	ended.Store(true)
	stdin.end()
	return exitOf(cmd, err)
}

func exitOf(cmd *exec.Cmd, err error) (wire.Exit, error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return wire.Exit{}, err
	}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return wire.Exit{Code: signalShift + int(ws.Signal()), Signal: int(ws.Signal())}, nil
	}
	return wire.Exit{Code: cmd.ProcessState.ExitCode()}, nil
}

// receive passes input and signals on until the connection ends, and says why it did.
func receive(in *wire.Reader, stdin *input, pid int) error {
	for {
		typ, data, err := in.Next()
		if err != nil {
			return err
		}
		switch {
		case typ == wire.Stdin:
			if err := stdin.add(data); err != nil {
				return err
			}
		case typ == wire.StdinEnd:
			stdin.close()
		case typ == wire.Signal && len(data) == 1:
			if err := syscall.Kill(-pid, syscall.Signal(data[0])); err != nil {
				fmt.Fprintf(os.Stderr, "labd: send signal %d: %v\n", data[0], err)
			}
		default:
			return fmt.Errorf("%w: %q of %d bytes", wire.ErrFrame, typ, len(data))
		}
	}
}

// group is a command's control group (Linux, Documentation/admin-guide/cgroup-v2.rst).
type group struct {
	path string
	dir  *os.File
}

func newGroup() (*group, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	// "0::/system.slice/labd.service"
	path := ""
	if _, err := fmt.Sscanf(string(own), "0::%s", &path); err != nil {
		return nil, fmt.Errorf("read /proc/self/cgroup: %w", err)
	}
	g := &group{path: filepath.Join(cgroupRoot, path, "run-"+strconv.FormatInt(groups.Add(1), 10))}
	if err := os.Mkdir(g.path, 0o755); err != nil {
		return nil, err
	}
	if g.dir, err = os.Open(g.path); err != nil {
		return nil, err
	}
	return g, nil
}

func (g *group) kill() {
	if err := os.WriteFile(filepath.Join(g.path, "cgroup.kill"), []byte("1"), 0); err != nil {
		fmt.Fprintln(os.Stderr, "labd: kill what a command started:", err)
	}
}

// close forgets the group. It stays while something in the background is in it.
func (g *group) close() {
	_ = g.dir.Close()
	_ = os.Remove(g.path)
}
