package openiscsi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Exit statuses of iscsiadm (include/iscsi_err.h of open-iscsi).
const (
	exitSessionNotFound  = 2
	exitTransport        = 4
	exitLogin            = 5 // not ready, as it says
	exitTransportTimeout = 8
	exitInternal         = 9 // also: a login of that session still runs
	exitPDUTimeout       = 11
	exitFatalLogin       = 19 // the target refuses: not found, or no agreement
	exitNoDaemon         = 20
	exitNothing          = 21 // no session, or no record
	exitAuthFailed       = 24
	exitBusy             = 28
	exitNotConnected     = 32 // iscsid was restarted and has not found the target yet
)

// outputMax bounds what of a tool's output goes into an error, in bytes.
const outputMax = 400

// toolError is a tool that ended with a status.
type toolError struct {
	tool   string
	status int
	output string
}

func (e *toolError) Error() string {
	return fmt.Sprintf("%s ended with status %d: %s", e.tool, e.status, e.output)
}

// status returns the exit status in err, 0 for nil, -1 for anything else.
func status(err error) int {
	var t *toolError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &t):
		return t.status
	}
	return -1
}

// killGrace is how long a killed tool may take to end. One that waits inside
// the kernel for a disk ends only when the kernel lets it, and is left behind.
const killGrace = 2 * time.Second

// run runs a tool, bounded by ctx in any case.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = killGrace
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		select {
		case err = <-ended:
		case <-time.After(2 * killGrace):
			return fmt.Errorf("run %s: it hangs: %w", name, ctx.Err())
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("run %s: %w", name, ctx.Err())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		text := strings.Join(strings.Fields(out.String()), " ")
		return &toolError{tool: name, status: exit.ExitCode(), output: text[max(0, len(text)-outputMax):]}
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	return nil
}
