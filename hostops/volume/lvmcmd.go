package volume

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	// readTimeMax bounds a command that only looks; changeTimeMax one that
	// changes something. A pool that is broken must not hold up its host.
	readTimeMax   = 60 * time.Second
	changeTimeMax = 3 * time.Minute
	// killGrace is how long a command that only looks may take to die.
	killGrace = 5 * time.Second
	// outputBytesMax is more than lvs writes for 10 000 volumes.
	outputBytesMax = 16 << 20
	stderrBytesMax = 8 << 10
)

// lvmOptions go with every command. An archive of the group's old metadata with
// each change would fill /etc/lvm/archive (a file of up to 0.5 MB each, kept
// 30 days); the newest copy in /etc/lvm/backup is still written. A pool is made
// so that it answers with errors when it is full.
var lvmOptions = []string{"--config", `backup{archive=0} activation{error_when_full=1} report{time_format="%s"}`}

// runner runs one command and returns what it wrote. change says that it
// changes something.
type runner func(ctx context.Context, change bool, name string, args ...string) ([]byte, error)

// commandError is a command that did not succeed.
type commandError struct {
	command string
	stderr  string
	err     error
}

func (e *commandError) Error() string {
	if e.stderr == "" {
		return fmt.Sprintf("%s: %v", e.command, e.err)
	}
	return fmt.Sprintf("%s: %v: %s", e.command, e.err, e.stderr)
}

func (e *commandError) Unwrap() error { return e.err }

// bounded keeps the first max bytes and remembers that there were more. It
// embeds no buffer: io.Copy would find its ReadFrom, and no bound.
type bounded struct {
	kept []byte
	max  int
	more bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := min(len(p), b.max-len(b.kept))
	b.kept = append(b.kept, p[:room]...)
	b.more = b.more || room < len(p)
	return len(p), nil
}

// runCommand is the runner of a real host. A command that only looks dies with
// the context. One that changes something is never killed: LVM has devices
// suspended in between, and they would stay so, and block every guest on the
// pool. It is told to end (SIGTERM, which LVM takes between its steps) and left
// behind, if it does not, with an error.
func runCommand(ctx context.Context, change bool, name string, args ...string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	limit := readTimeMax
	if change {
		ctx, limit = context.WithoutCancel(ctx), changeTimeMax
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.Command(findCommand(name), args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1"}
	// A terminal's interrupt is for us and not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, errs := &bounded{max: outputBytesMax}, &bounded{max: stderrBytesMax}
	cmd.Stdout, cmd.Stderr = out, errs
	failed := func(err error) error {
		return &commandError{command: name + " " + strings.Join(args, " "), stderr: oneLine(string(errs.kept)), err: err}
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (are the packages lvm2 and thin-provisioning-tools installed?)", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		_ = cmd.Process.Signal(syscall.SIGTERM)
		grace := time.NewTimer(killGrace)
		defer grace.Stop()
		select {
		case err = <-done:
		case <-grace.C:
			if !change {
				_ = cmd.Process.Kill() // in D state it stays, but we do not
			}
			return nil, &commandError{command: name + " " + strings.Join(args, " "),
				err: fmt.Errorf("process %d does not end: %w", cmd.Process.Pid, ctx.Err())}
		}
		if err != nil {
			err = errors.Join(ctx.Err(), err)
		}
	}
	if err != nil {
		return nil, failed(err)
	}
	if out.more {
		return nil, failed(fmt.Errorf("wrote more than %d bytes", outputBytesMax))
	}
	return out.kept, nil
}

// findCommand looks for a command of root's also where PATH does not.
func findCommand(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return "/usr/sbin/" + name
}

// oneLine makes what a command complained of fit into an error.
func oneLine(s string) string {
	var kept []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "; ")
}
