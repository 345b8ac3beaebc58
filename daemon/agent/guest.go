package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"

	"vcn/fsm"
	"vcn/hostops"
	"vcn/internal/durable"
)

// The programs of roll base that are run in nodes. docs/rolls.md says what each
// does and prints.
const (
	liveProgram    = "/usr/lib/vcn/live"
	drainProgram   = "/usr/lib/vcn/drain"
	noticesProgram = "/usr/lib/vcn/notices"
)

// wordsMax bounds, in characters, what is passed on of a guest's words.
const wordsMax = 200

// exitError is a program in a guest that did not succeed.
type exitError struct {
	program string
	code    int
	words   string
}

func (e *exitError) Error() string {
	if e.code == 127 {
		return fmt.Sprintf("the node has no %s: its image was made by an older release", e.program)
	}
	if e.words == "" {
		return fmt.Sprintf("%s ended with %d", e.program, e.code)
	}
	return e.program + ": " + e.words
}

// runError is a program that could not be run; the reason may hold the guest's
// own words.
type runError struct{ err error }

func (e *runError) Error() string { return words(e.err.Error()) }
func (e *runError) Unwrap() error { return e.err }

// absent tells whether the guest has no such program.
func absent(err error) bool {
	var e *exitError
	return errors.As(err, &e) && e.code == 127
}

// inGuest runs a program in a node; one that does not succeed is an error, with
// the last line it said. What it printed comes in any case.
func (a *Agent) inGuest(ctx context.Context, n fsm.NodeWork, stdin []byte, args ...string) (string, error) {
	res, err := a.cfg.Guests.Run(ctx, n.Reservation, n.Node, n.Generation, hostops.GuestCommand{Args: args, Stdin: stdin})
	if err != nil {
		return "", &runError{err}
	}
	out := string(res.Stdout)
	if res.Exit != 0 {
		said := strings.TrimSpace(string(res.Stderr))
		return out, &exitError{args[0], res.Exit, words(said[strings.LastIndexByte(said, '\n')+1:])}
	}
	return out, nil
}

// words makes a guest's text fit to be shown to people: one line, no control
// characters, not long.
func words(s string) string {
	s = s[:min(len(s), 8*wordsMax)]
	clean := strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
	rs := []rune(strings.Join(strings.Fields(clean), " "))
	return string(rs[:min(len(rs), wordsMax)])
}

// answers tells whether a node of this assignment can be asked now.
func (in diffInput) answers(n fsm.NodeWork) bool {
	d, ok := in.seen.domains[nodeKey(n.Reservation, n.Node)]
	return in.guests && in.live && ok && !n.Stop && d.State == hostops.DomainRunning && d.Ready && d.Generation == n.Generation
}

// quietAfterReady is how long a frontend that has become ready is left alone, where
// nothing is wanted of it and only what an earlier time may have left in it is to
// be tidied up: its first job is to have the processor.
const quietAfterReady = 30 * time.Second

// tidyAt is when that may be done.
func (in diffInput) tidyAt(n fsm.NodeWork) time.Time {
	key := nodeKey(n.Reservation, n.Node)
	if _, ok := in.readyAt[key]; !ok {
		in.readyAt[key] = in.now
	}
	return in.readyAt[key].Add(quietAfterReady)
}

// readWord reads a small file among a node's files, which may be absent.
func readWord(dir, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read %s of node: %w", name, err)
	}
	return strings.TrimSpace(string(b)), nil
}

func writeWord(dir, name, word string) error {
	return durable.WriteFile(filepath.Join(dir, name), []byte(word+"\n"), 0o600)
}
