package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"vcn/test/lab"
)

// graceWait is what a program has to end by itself after the first signal.
const graceWait = 5 * time.Second

// attached runs a command of the machine on this process's own streams and passes
// signals on. After a second one, or when its grace is over, its connection is cut, which
// kills it and all that it started. SIGQUIT only asks a Go program for its stacks.
func attached(ctx context.Context, m *lab.Machine, argv []string, dir string, env []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// The first signal must not cut it already.
	ctx, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	cmd := m.Command(ctx, argv...)
	cmd.Dir, cmd.Env = dir, env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var grace <-chan time.Time
	var last syscall.Signal
	for {
		select {
		case err := <-done:
			if ctx.Err() != nil {
				return &lab.ExitError{Argv: argv, Code: 128 + int(last), Signal: last}
			}
			return err
		case <-grace:
			cut()
		case s := <-signals:
			n := s.(syscall.Signal)
			if n != syscall.SIGQUIT && grace != nil {
				cut()
				continue
			}
			if err := cmd.Signal(n); err != nil {
				cut()
			}
			if n != syscall.SIGQUIT {
				last, grace = n, time.After(graceWait)
			}
		}
	}
}
