package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"vcn/api"
	"vcn/api/client"
)

// pollWait is how long the server is asked to hold an answer.
const pollWait = 30 * time.Second

func (a *app) watchCommand() *cobra.Command {
	return &cobra.Command{
		Use: "watch NAME", Short: "Watch a reservation come up, or go",
		Long: `Shows state, phases and nodes of a reservation until it can be used, or, once it
is ending, until it is gone or parked. One on the waitlist is watched until it
is booked, and on. On a terminal the view is redrawn; otherwise each change is a
line. With -o json each change is one JSON object on a line, with -o yaml one
YAML document. Exits with 1 if the reservation failed, or ended instead of
coming up; not if it was ending or over already, or is parked.`,
		Example: examples("Watch it", "vcnctl watch mine", "Wait for it in a script", "vcnctl watch mine && vcnctl ssh mine -- srun -N2 hostname"),
		Args:    exactly(1, "a NAME"), ValidArgsFunction: a.completeReservation,
		RunE: a.run(func(ctx context.Context, args []string) error {
			return a.withClient(ctx, func(c *client.Client) error {
				r, first, err := a.follow(ctx, c, args[0], a.stdout, settled)
				if err != nil {
					return err
				}
				if a.flags.output == outputTable && (r.State == api.StateReady || r.State == api.StateActive) {
					a.showLogin(r)
				}
				return outcome(r, !over(first))
			})
		}),
	}
}

// settled: there is nothing to wait for.
func settled(r api.Reservation) bool {
	switch r.State {
	case api.StateReady, api.StateActive, api.StateParked, api.StateEnded, api.StateFailed, api.StateCancelled:
		return true
	}
	return false
}

// over: it cannot be used any more.
func over(s api.State) bool {
	switch s {
	case api.StateEnding, api.StateEnded, api.StateFailed, api.StateCancelled:
		return true
	}
	return false
}

// outcome is the error of a reservation that failed, and, if it was to be used,
// of one that cannot be used.
func outcome(r api.Reservation, toUse bool) error {
	if r.State != api.StateFailed && !(toUse && over(r.State)) {
		return nil
	}
	detail := fmt.Sprintf("%s is %s and cannot be used", r.Name, r.State)
	if r.State == api.StateFailed {
		detail = r.Name + " failed"
	}
	return &api.Problem{Status: 500, Code: api.CodeInternal, Detail: detail + dash(r.Message),
		Next: fmt.Sprintf("See what happened: vcnctl events %s", r.ID)}
}

// update is one answer of the long poll.
type update struct {
	r   api.Reservation
	err error
}

// follow shows a reservation until it is as done wants, and returns what it is last,
// which it also does when ctx ends or an error ends it, and the state that was
// seen first.
func (a *app) follow(ctx context.Context, c *client.Client, ref string, out io.Writer, done func(api.Reservation) bool) (last api.Reservation, first api.State, err error) {
	polling, stop := context.WithCancel(ctx)
	updates := make(chan update)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		pollReservation(polling, c, ref, updates, done)
	}()
	defer func() { stop(); <-ended }()

	view := a.newView(out)
	beat := time.NewTicker(view.every())
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			view.close(last, a.now())
			return last, first, context.Cause(ctx)
		case <-beat.C:
			view.tick(last, a.now())
		case u := <-updates:
			if u.err != nil {
				view.close(last, a.now())
				return last, first, u.err
			}
			last = u.r
			if first == "" {
				first = last.State
			}
			view.update(last, a.now())
			beat.Reset(view.every())
			if done(last) {
				view.close(last, a.now())
				return last, first, nil
			}
		}
	}
}

// pollReservation sends each change until ctx ends or a host says no. It rides
// out a time in which no host answers, of pollPatience.
func pollReservation(ctx context.Context, c *client.Client, ref string, updates chan<- update, done func(api.Reservation) bool) {
	var index uint64
	var failing time.Time
	for first := true; ; first = false {
		wait := pollWait
		if first {
			wait = 0
		}
		r, next, err := c.Reservation(ctx, ref, index, wait)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !first && isUnavailable(err) {
			if failing.IsZero() {
				failing = time.Now()
			}
			if time.Since(failing) < pollPatience {
				continue
			}
		}
		changed := first || err != nil || next == 0 || next != index
		if err == nil {
			failing, index, ref = time.Time{}, next, r.ID
		}
		if !changed {
			// Held for nothing, or a server that does not hold: do not spin.
			if !pause(ctx, 200*time.Millisecond) {
				return
			}
			continue
		}
		select {
		case updates <- update{r, err}:
		case <-ctx.Done():
			return
		}
		if err != nil || done(r) {
			return
		}
		if next == 0 && !pause(ctx, time.Second) { // a server without indexes
			return
		}
	}
}

// pollPatience bounds how long following goes on while no host answers.
const pollPatience = 2 * time.Minute

func isUnavailable(err error) bool {
	var p *api.Problem
	if errors.As(err, &p) {
		return exitCode(p) == ExitUnavailable
	}
	return errors.Is(err, client.ErrUnavailable)
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// view shows a reservation's progress.
type view interface {
	every() time.Duration // between ticks
	update(r api.Reservation, now time.Time)
	tick(r api.Reservation, now time.Time)
	close(r api.Reservation, now time.Time)
}

func (a *app) newView(out io.Writer) view {
	if a.flags.output != outputTable {
		if out == a.stdout {
			return &documentView{form: a.flags.output, out: out}
		}
		return &plainView{a: a, out: out}
	}
	if fd, ok := terminal(out); ok {
		return &liveView{a: a, out: out, fd: fd}
	}
	return &plainView{a: a, out: out}
}

// documentView writes one document per change.
type documentView struct {
	form string // outputJSON or outputYAML
	out  io.Writer
}

func (v *documentView) every() time.Duration                  { return time.Hour }
func (v *documentView) tick(api.Reservation, time.Time)       {}
func (v *documentView) close(api.Reservation, time.Time)      {}
func (v *documentView) update(r api.Reservation, _ time.Time) { v.write(r) }

func (v *documentView) write(x any) {
	if b, err := encodeNext(v.form, x); err == nil {
		fmt.Fprintf(v.out, "%s", b)
	}
}
