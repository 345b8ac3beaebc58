package cli

import (
	"context"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit codes, as docs/cli.md states them.
const (
	ExitOK          = 0
	ExitError       = 1
	ExitUsage       = 2
	ExitNoFit       = 3
	ExitNotFound    = 4
	ExitUnavailable = 5
	ExitInterrupted = 130
)

// Version is set by the linker.
var Version = "dev"

// Main runs one command and returns its exit code. args has no program name.
// Ending ctx interrupts the command.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string, options ...Option) int {
	a := &app{
		stdin: stdin, stdout: stdout, stderr: stderr, getenv: getenv,
		now: time.Now, zone: readerZone(getenv), pollEvery: 2 * time.Second, beatEvery: 15 * time.Second,
		patienceAfter: 2 * time.Second,
	}
	for _, o := range options {
		o(a)
	}
	return a.main(ctx, args)
}

// app is one run of the command.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string

	// Tests set these; see Main for what they are otherwise.
	now           func() time.Time
	zone          *time.Location
	pollEvery     time.Duration // between looks at what has no long poll
	beatEvery     time.Duration // between plain lines when nothing changes
	patienceAfter time.Duration // silence before a request is said to be slow

	flags   globalFlags
	running bool // a command's own code has begun: errors are no longer usage errors

	operator bool // the token in use is an operator's

	simulator Simulator // nil: there is none
}

func (a *app) main(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	strictHelpers(root)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	if !a.running {
		err = asUsage(err)
		// A wrong flag may stand before the one that asks for a form.
		if form := wantedForm(args); form != "" {
			a.flags.output = form
		}
	}
	return a.fail(ctx, err)
}

// run is what every command's RunE is made with.
func (a *app) run(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := a.flags.check(); err != nil {
			return err
		}
		a.running = true
		return f(cmd.Context(), args)
	}
}

// terminal returns w's file descriptor if it is a terminal.
func terminal(w any) (fd int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	return int(f.Fd()), true
}

// wantedForm looks for -o json or -o yaml in a command line that could not be
// read; it is empty if neither is there.
func wantedForm(args []string) string {
	for i, arg := range args {
		value, found := "", true
		switch {
		case arg == "--":
			return ""
		case arg == "-o" || arg == "--output":
			if i+1 < len(args) {
				value = args[i+1]
			}
		case strings.HasPrefix(arg, "--output="):
			value = strings.TrimPrefix(arg, "--output=")
		case strings.HasPrefix(arg, "-o"):
			value = strings.TrimPrefix(strings.TrimPrefix(arg, "-o"), "=")
		default:
			found = false
		}
		if found && (value == outputJSON || value == outputYAML) {
			return value
		}
	}
	return ""
}
