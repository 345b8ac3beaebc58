package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"vcn/api"
	"vcn/api/client"
)

// exitError ends the command with a code and no message of its own: what there
// was to say has been said.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// usage is a wrong command line.
func usage(detail, next string, errs ...api.FieldError) error {
	return &api.Problem{Title: "Usage", Status: 400, Code: api.CodeInvalid, Detail: detail, Errors: errs, Next: next}
}

// asUsage makes a usage problem of what cobra says about a command line.
func asUsage(err error) error {
	var p *api.Problem
	if errors.As(err, &p) {
		return err
	}
	return usage(strings.TrimSpace(err.Error()), "Try: vcnctl --help")
}

// flagError makes a usage problem that names the flag.
func flagError(path string, err error) error {
	next := "Try: " + path + " --help"
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return usage(err.Error(), next)
	}
	want := errors.Unwrap(invalid).Error()
	var f api.FieldError
	if errors.As(err, &f) {
		want = f.Want
	}
	return usage("a flag's value is not right", next,
		api.FieldError{Field: "--" + invalid.GetFlag().Name, Value: invalid.GetValue(), Want: want})
}

// problemOf makes every error a problem, and gives it a next step.
func problemOf(err error) *api.Problem {
	var p *api.Problem
	var f api.FieldError
	switch {
	case errors.As(err, &p):
		c := *p
		p = &c
	case errors.As(err, &f):
		p = api.Invalid("a value is not right", []api.FieldError{f})
	case errors.Is(err, client.ErrWrongCluster):
		p = &api.Problem{Status: 421, Code: api.CodeWrongCluster, Detail: err.Error()}
	case errors.Is(err, client.ErrUnavailable):
		p = &api.Problem{Status: 503, Code: api.CodeUnavailable, Detail: err.Error()}
	default:
		p = &api.Problem{Status: 500, Code: api.CodeInternal, Detail: err.Error()}
	}
	if p.Next == "" {
		p.Next = nextSteps[p.Code]
	}
	return p
}

var nextSteps = map[api.Code]string{
	api.CodeUnauthorized: "Ask the operator for a new token, then: vcnctl context add NAME --replace --host HOST --token TOKEN",
	api.CodeForbidden:    "Use a token that may do this: vcnctl context list",
	api.CodeNotFound:     "See what there is: vcnctl list --all",
	api.CodeNoFit:        "See what is free: vcnctl host list. Or ask for less, for later, or for shorter.",
	api.CodeForming:      "The cluster of hosts is still forming; look again with: vcnctl status",
	api.CodeNoLeader:     "Hosts are choosing a leader or are cut off; look again with: vcnctl status",
	api.CodeUnavailable:  "Check the addresses with: vcnctl context show. Give another host with --host.",
	api.CodeWrongCluster: "Use the token and the host of one cluster: vcnctl context add NAME --host HOST --token TOKEN",
}

// exitCode is the exit code of a problem.
func exitCode(p *api.Problem) int {
	switch p.Code {
	case api.CodeInvalid, api.CodeTooLarge:
		return ExitUsage
	case api.CodeNoFit:
		return ExitNoFit
	case api.CodeNotFound:
		return ExitNotFound
	case api.CodeForming, api.CodeNoLeader, api.CodeUnavailable:
		return ExitUnavailable
	}
	return ExitError
}

// fail tells the error and returns its exit code.
func (a *app) fail(ctx context.Context, err error) int {
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	if ctx.Err() != nil {
		fmt.Fprintln(a.stderr, "vcnctl: interrupted")
		return ExitInterrupted
	}
	p := problemOf(err)
	if a.flags.output == outputJSON {
		b, err := json.MarshalIndent(p, "", "  ")
		if err == nil {
			fmt.Fprintf(a.stderr, "%s\n", b)
			return exitCode(p)
		}
	}
	fmt.Fprintln(a.stderr, "vcnctl: "+printable(p.Error()))
	return exitCode(p)
}

// printable drops control characters but line ends from text that others
// wrote, so that it cannot drive the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (r < 0x20 || r >= 0x7f && r < 0xa0) {
			return -1
		}
		return r
	}, s)
}
