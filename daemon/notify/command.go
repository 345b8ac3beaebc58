package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"
)

const (
	outputBytesMax = 4 << 10
	// outputWait is how long output is waited for after the command's end, when
	// something it started holds it open.
	outputWait = 2 * time.Second
)

// neverExits are the statuses of sysexits.h that trying again does not change:
// usage, data, no such user, no such host, no permission, configuration.
var neverExits = []int{64, 65, 67, 68, 77, 78}

// bounded keeps the first bytes written to it.
type bounded struct {
	kept bytes.Buffer
	max  int
}

func (b *bounded) Write(p []byte) (int, error) {
	b.kept.Write(p[:min(len(p), b.max-b.kept.Len())])
	return len(p), nil
}

// run runs a command with input until it ends or ctx does; then its process group
// is killed. Errors wrap ErrRefused or ErrLater and have the command's output in them.
func run(ctx context.Context, command []string, input []byte) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "LC_ALL=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = outputWait
	cmd.Stdin = bytes.NewReader(input)
	out := &bounded{max: outputBytesMax}
	cmd.Stdout, cmd.Stderr = out, out // one writer: os/exec then uses one pipe and no lock is needed
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil:
		return nil // the latter: it ended well, and left something running
	case ctx.Err() != nil:
		return fmt.Errorf("stopped: %w%s: %w", context.Cause(ctx), said(out), ErrLater)
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("start: %w: %w", err, ErrRefused)
	case errors.As(err, &exit) && slices.Contains(neverExits, exit.ExitCode()):
		return fmt.Errorf("%w%s: %w", err, said(out), ErrRefused)
	default:
		return fmt.Errorf("%w%s: %w", err, said(out), ErrLater)
	}
}

// said is a command's output on one line.
func said(b *bounded) string {
	s := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(b.kept.String(), "?"))
	if s = strings.Join(strings.Fields(s), " "); s == "" {
		return ""
	}
	return " (" + s + ")"
}
