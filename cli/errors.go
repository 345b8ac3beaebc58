package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
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
	cause := errors.Unwrap(invalid)
	want := cause.Error()
	var f api.FieldError
	var number *strconv.NumError
	switch {
	case errors.As(cause, &f):
		want = f.Want
	case errors.As(cause, &number):
		want = wantOfType[invalid.GetFlag().Value.Type()]
	}
	return usage("a flag's value is not right", next,
		api.FieldError{Field: "--" + invalid.GetFlag().Name, Value: invalid.GetValue(), Want: want})
}

// wantOfType is what is right for a flag whose value strconv could not read.
var wantOfType = map[string]string{
	"int":    "a whole number",
	"uint64": "a whole number, 0 or more",
	"bool":   "true or false",
}

// problemOf makes every error a problem, and gives it a next step.
func (a *app) problemOf(err error) *api.Problem {
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
	if more := operatorSteps[p.Code]; a.operator && more != "" {
		p.Next = strings.TrimSpace(p.Next + "\n" + more)
	}
	return p
}

var nextSteps = map[api.Code]string{
	api.CodeUnauthorized: "Ask the operator for a new token, then: vcnctl context add NAME --replace --host HOST --token TOKEN",
	api.CodeForbidden:    "Use a token that may do this: vcnctl context list",
	api.CodeNotFound:     "See what there is: vcnctl list --all",
	api.CodeNoFit:        "Ask for less, for later, or for shorter; see: vcnctl when",
	api.CodeExpired:      "Ask again with: vcnctl when",
	api.CodeDataLoss:     "See what would be lost with --dry-run. To do it all the same, add: --allow-data-loss NAME",
	api.CodeForming:      "The cluster of hosts is still forming; look again with: vcnctl status",
	api.CodeNoLeader:     "Hosts are choosing a leader or are cut off; look again with: vcnctl status",
	api.CodeUnavailable:  "Check the addresses with: vcnctl context show. Give another host with --host.",
	api.CodeWrongCluster: "Use the token and the host of one cluster: vcnctl context add NAME --host HOST --token TOKEN",
}

// operatorSteps are for whom the hosts answer them: an operator's token.
var operatorSteps = map[api.Code]string{
	api.CodeNoFit:    "See what is free: vcnctl host list",
	api.CodeForming:  "See which hosts are there: vcnctl host list",
	api.CodeNoLeader: "See which hosts live: vcnctl host list",
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
	case api.CodeInterrupted:
		return ExitInterrupted
	}
	return ExitError
}

// fail tells the error and returns its exit code.
func (a *app) fail(ctx context.Context, err error) int {
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	p := a.problemOf(err)
	if ctx.Err() != nil && p.Code != api.CodeInterrupted {
		p = interrupted("interrupted", "")
	}
	if b, err := encode(a.flags.output, p); err == nil && b != nil {
		fmt.Fprintf(a.stderr, "%s", b)
		return exitCode(p)
	}
	fmt.Fprintln(a.stderr, "vcnctl: "+printable(a.problemText(p)))
	return exitCode(p)
}

// problemText is the problem for people, its times in their zone: what is
// wrong, what would fit, and what to do.
func (a *app) problemText(p *api.Problem) string {
	plain := *p
	plain.Nearest, plain.Next = nil, ""
	var b strings.Builder
	b.WriteString(plain.Error())
	if p.Until != "" {
		b.WriteString("\nThe longest possible end: " + a.zoned(p.Until))
	}
	for i, line := range a.offersText(p.Nearest) {
		if i == 0 {
			b.WriteString("\nWhat would fit (nothing is held):")
		}
		b.WriteString("\n  " + line)
	}
	if p.Next != "" {
		b.WriteString("\n" + p.Next)
	}
	return b.String()
}

// interrupted is the problem of who was told to stop.
func interrupted(detail, next string) *api.Problem {
	return &api.Problem{Status: 499, Code: api.CodeInterrupted, Detail: detail, Next: next}
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
