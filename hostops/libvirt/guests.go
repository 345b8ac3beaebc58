package libvirt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"vcn/hostops"
)

const (
	// agentCallMax bounds one exchange with an agent.
	agentCallMax = 10 * time.Second
	// pieceBytesMax is how much input goes into one exchange, and commandBytesMax
	// how long its text may be: see doc.go, about long commands.
	pieceBytesMax   = 32 << 10
	commandBytesMax = 96 << 10
	// guestRunMax bounds a command whose caller has set no end.
	guestRunMax = 10 * time.Minute
	// Between two looks at a command that runs.
	guestPollMin = 20 * time.Millisecond
	guestPollMax = time.Second
	// agentMisses is how many looks in a row an agent may leave unanswered: an
	// emulated guest that boots or works hard is slow.
	agentMisses = 3
	// agentCallsMax bounds exchanges at once. Each holds one of libvirtd's 20
	// workers until its guest answers, and guests may stay silent on purpose.
	agentCallsMax = 6
)

var _ hostops.Guests = (*Driver)(nil)

// Run is hostops.Guests. A program that cannot be started ends with 127 and says
// why on its standard error, as in a shell.
func (d *Driver) Run(ctx context.Context, reservation, node string, generation uint64, c hostops.GuestCommand) (hostops.GuestResult, error) {
	var res hostops.GuestResult
	err := hostops.CheckNode(reservation, node)
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return res, fmt.Errorf("run in guest: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, guestRunMax)
	defer cancel()
	err = d.with(ctx, func(cn *conn) error {
		dom, err := cn.answering(reservation, node, generation)
		if err != nil {
			return err
		}
		res, err = d.exec(ctx, agentOf(cn, dom), c)
		if err != nil {
			return err
		}
		// What answered was this generation only if it is still there.
		_, err = cn.answering(reservation, node, generation)
		if errors.Is(err, hostops.ErrNoAgent) {
			err = nil // it ran to its end; the agent closed after it
		}
		return err
	})
	if err != nil {
		return hostops.GuestResult{}, fmt.Errorf("run %s in node %s of %s: %w", c.Args[0], node, reservation, err)
	}
	return res, nil
}

// answering finds the node's running domain of that generation whose agent's
// channel is open.
func (c *conn) answering(reservation, node string, generation uint64) (golibvirt.Domain, error) {
	have, err := c.find(reservation, node)
	switch {
	case errors.Is(err, hostops.ErrForeign), is(err, golibvirt.ErrNoDomain):
		return golibvirt.Domain{}, fmt.Errorf("%w: %w", hostops.ErrNotFound, err)
	case err != nil:
		return golibvirt.Domain{}, err
	case have == nil, !have.active:
		return golibvirt.Domain{}, fmt.Errorf("it does not run: %w", hostops.ErrNotFound)
	case have.seen.Generation != generation:
		return golibvirt.Domain{}, fmt.Errorf("generation %d, here is %d: %w", generation, have.seen.Generation, hostops.ErrNotFound)
	case !have.seen.Ready:
		return golibvirt.Domain{}, fmt.Errorf("%w: its channel is closed", hostops.ErrNoAgent)
	}
	return have.dom, nil
}

// agent sends one command to a guest's agent and returns its answer.
type agent func(ctx context.Context, command string, wait time.Duration) (string, error)

func agentOf(c *conn, dom golibvirt.Domain) agent {
	return func(_ context.Context, command string, wait time.Duration) (string, error) {
		// The connection ends with its context, and this call with it.
		out, err := c.QEMUDomainAgentCommand(dom, command, int32(wait/time.Second), 0)
		if err != nil {
			return "", err
		}
		if len(out) != 1 {
			return "", errors.New("the agent's answer is empty")
		}
		return out[0], nil
	}
}

// These carry input that is too long for one exchange to a command: into a file that
// root alone can read, which is removed before the command starts. Whatever an
// interrupted one has left is removed by a later one.
const (
	inputFirst = `umask 077 && mkdir -p /run/vcn-input && find /run/vcn-input -type f -mmin +30 -delete && exec cat >"$0"`
	inputMore  = `exec cat >>"$0"`
	inputUse   = `exec <"$0" && rm -f "$0" && exec "$@"`
	inputDir   = "/run/vcn-input/"
)

// exec runs a command in a guest and waits for its end.
func (d *Driver) exec(ctx context.Context, ask agent, c hostops.GuestCommand) (hostops.GuestResult, error) {
	ask = d.paced(ask)
	if len(c.Stdin) <= pieceBytesMax {
		return d.execOne(ctx, ask, c)
	}
	file := inputDir + rand.Text()
	script := inputFirst
	for piece := range slices.Chunk(c.Stdin, pieceBytesMax) {
		res, err := d.execOne(ctx, ask, hostops.GuestCommand{Args: []string{"/bin/sh", "-c", script, file}, Stdin: piece})
		if err != nil {
			return res, fmt.Errorf("send input: %w", err)
		}
		if res.Exit != 0 {
			return hostops.GuestResult{}, fmt.Errorf("send input: %w it: exit %d, %.200q", hostops.ErrNoAgent, res.Exit, res.Stderr)
		}
		script = inputMore
	}
	return d.execOne(ctx, ask, hostops.GuestCommand{Args: append([]string{"/bin/sh", "-c", inputUse, file}, c.Args...)})
}

// execOne runs a command whose input fits into one exchange.
func (d *Driver) execOne(ctx context.Context, ask agent, c hostops.GuestCommand) (hostops.GuestResult, error) {
	command := execCommand(c)
	if len(command) > commandBytesMax {
		return hostops.GuestResult{}, fmt.Errorf("%w: command: too many words", hostops.ErrInvalid)
	}
	answer, err := ask(ctx, command, agentCallMax)
	if why, ok := notStarted(err); ok {
		return hostops.GuestResult{Exit: 127, Stderr: cut([]byte(why))}, nil
	}
	if err != nil {
		return hostops.GuestResult{}, agentError(err)
	}
	pid, err := readPID(answer)
	if err != nil {
		return hostops.GuestResult{}, err
	}
	status := statusCommand(pid)
	misses, pause := 0, guestPollMin
	for {
		if err := rest(ctx, pause); err != nil {
			return hostops.GuestResult{}, err
		}
		pause = min(pause*3/2, guestPollMax)
		answer, err := ask(ctx, status, agentCallMax)
		if err != nil {
			err = agentError(err)
			if misses++; errors.Is(err, hostops.ErrNoAgent) && misses < agentMisses && ctx.Err() == nil {
				continue
			}
			return hostops.GuestResult{}, err
		}
		misses = 0
		res, ended, err := readStatus(answer)
		if err != nil || ended {
			return res, err
		}
	}
}

// paced bounds how many exchanges go on at once.
func (d *Driver) paced(ask agent) agent {
	return func(ctx context.Context, command string, wait time.Duration) (string, error) {
		select {
		case d.agents <- struct{}{}:
			defer func() { <-d.agents }()
		case <-ctx.Done():
			return "", ctx.Err()
		}
		return ask(ctx, command, wait)
	}
}

func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// notStarted tells whether the agent could not start the program at all. libvirt
// hands its words on with a code that says nothing; they are GLib's.
func notStarted(err error) (why string, ok bool) {
	if !is(err, golibvirt.ErrInternalError, golibvirt.ErrAgentCommandFailed) {
		return "", false
	}
	why = err.Error()
	return why, strings.Contains(why, "Failed to execute child process") || strings.Contains(why, "Failed to execve")
}

// agentError sorts what libvirtd says of an exchange that failed.
func agentError(err error) error {
	switch {
	case is(err, golibvirt.ErrNoDomain, golibvirt.ErrOperationInvalid):
		return fmt.Errorf("%w: %w", hostops.ErrNotFound, err)
	case is(err, golibvirt.ErrAgentUnresponsive, golibvirt.ErrAgentUnsynced, golibvirt.ErrAgentCommandTimeout,
		golibvirt.ErrInternalError, golibvirt.ErrAgentCommandFailed, golibvirt.ErrRPC, golibvirt.ErrOperationTimeout,
		golibvirt.ErrOperationFailed, golibvirt.ErrArgumentUnsupported):
		// Also an agent that refuses, or answers with more than libvirtd takes.
		return fmt.Errorf("%w: %s", hostops.ErrNoAgent, brief(err))
	}
	return err
}

// brief is an error's text as far as it may be shown: the guest has a part in it.
func brief(err error) string { return fmt.Sprintf("%.200q", err.Error()) }
