package fake

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"vcn/hostops"
)

// GuestHandler is a program in a fake guest. It may wait, in the time of package
// time, until ctx ends; what it returns then counts for nothing.
type GuestHandler func(ctx context.Context, reservation, node string, c hostops.GuestCommand) hostops.GuestResult

// guest is what a node's programs have left on its disk: it outlives the domain
// as a disk does, until ForgetGuest.
type guest struct {
	live    []byte            // the last configuration that was pushed
	notices []string          // identifiers of those shown now
	shown   []string          // of those ever shown, in order
	drained map[string]string // worker to reason
	jobs    map[string]string // worker to the jobs on it
}

// Guests is the host's driver for commands in nodes. Its guests have the programs
// of roll base that vcn calls (live, notices, drain), cat, and whatever Handle
// adds.
func (h *Host) Guests() hostops.Guests { return guests{h} }

type guests struct{ h *Host }

// Handle makes f the program at that path of every guest; nil removes it.
func (h *Host) Handle(path string, f GuestHandler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f == nil {
		delete(h.programs, path)
		return
	}
	h.programs[path] = f
}

// Silence closes (or opens again) the agent's channel of a running guest, as one
// that reboots does.
func (h *Host) Silence(reservation, node string, silent bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.domains[key(reservation, node)]; d != nil && d.seen.State == hostops.DomainRunning {
		d.halt()
		d.seen.Ready = !silent
		h.changed()
	}
}

// SetJobs says which jobs run on a worker, for the drain program of its
// cluster's frontend here; empty means none, and "?" that it cannot be known.
func (h *Host) SetJobs(reservation, frontend, worker, jobs string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.guest(key(reservation, frontend)).jobs[worker] = jobs
}

// Drained returns the workers that a frontend's scheduler gives no jobs, with
// the reason.
func (h *Host) Drained(reservation, frontend string) map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.guest(key(reservation, frontend)).drained)
}

// Live returns a live file as it was last pushed into a node; path has no leading
// slash. It is empty if none was.
func (h *Host) Live(reservation, node, path string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := tar.NewReader(bytes.NewReader(h.guest(key(reservation, node)).live))
	for {
		head, err := r.Next()
		if err != nil {
			return ""
		}
		if head.Name == path {
			b, _ := io.ReadAll(r)
			return string(b)
		}
	}
}

// Notices returns the notices that a node shows now, and those it has told its
// users of so far, by identifier.
func (h *Host) Notices(reservation, node string) (now, told []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.guest(key(reservation, node))
	return slices.Clone(g.notices), slices.Clone(g.shown)
}

// ForgetGuest is a new disk for a node.
func (h *Host) ForgetGuest(reservation, node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.guests, key(reservation, node))
}

// guest is made when it is first asked for; h.mu is held.
func (h *Host) guest(k string) *guest {
	if h.guests[k] == nil {
		h.guests[k] = &guest{drained: map[string]string{}, jobs: map[string]string{}}
	}
	return h.guests[k]
}

func (f guests) Run(ctx context.Context, reservation, node string, generation uint64, c hostops.GuestCommand) (hostops.GuestResult, error) {
	var none hostops.GuestResult
	err := hostops.CheckNode(reservation, node)
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return none, fmt.Errorf("run in guest: %w", err)
	}
	k := key(reservation, node)
	if err := f.h.enter(ctx, "Guests", "Run", k+" "+strings.Join(c.Args, " ")); err != nil {
		return none, err
	}
	d, err := f.answering(k, generation)
	if err != nil {
		return none, fmt.Errorf("run %s in %s: %w", c.Args[0], k, err)
	}
	f.h.mu.Lock()
	program := f.h.programs[c.Args[0]]
	f.h.mu.Unlock()
	if program == nil {
		return hostops.GuestResult{Exit: 127, Stderr: []byte(c.Args[0] + ": not found")}, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	gone := context.AfterFunc(d.life, func() {
		cancel(fmt.Errorf("%w: it went away", hostops.ErrNoAgent))
	})
	defer gone()
	res := program(ctx, reservation, node, c)
	if ctx.Err() != nil {
		return none, fmt.Errorf("run %s in %s: %w", c.Args[0], k, context.Cause(ctx))
	}
	if _, err := f.answering(k, generation); err != nil && !errors.Is(err, hostops.ErrNoAgent) {
		return none, fmt.Errorf("run %s in %s: %w", c.Args[0], k, err)
	}
	res.Stdout, res.Stderr = cut(res.Stdout), cut(res.Stderr)
	return res, nil
}

func (f guests) answering(k string, generation uint64) (*domain, error) {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	d := f.h.domains[k]
	switch {
	case d == nil, d.foreign, !d.up():
		return nil, fmt.Errorf("it does not run: %w", hostops.ErrNotFound)
	case d.seen.Generation != generation:
		return nil, fmt.Errorf("generation %d, here is %d: %w", generation, d.seen.Generation, hostops.ErrNotFound)
	case !d.seen.Ready:
		return nil, fmt.Errorf("%w: its channel is closed", hostops.ErrNoAgent)
	}
	return d, nil
}

func cut(b []byte) []byte { return b[:min(len(b), hostops.GuestBytesMax)] }

// builtinPrograms are those every guest has: what rolls/builtin/base ships, with
// the same words on their standard output.
func (h *Host) builtinPrograms() map[string]GuestHandler {
	return map[string]GuestHandler{
		"/bin/cat": func(_ context.Context, _, _ string, c hostops.GuestCommand) hostops.GuestResult {
			return hostops.GuestResult{Stdout: c.Stdin}
		},
		"/usr/lib/vcn/live":    h.live,
		"/usr/lib/vcn/notices": h.notices,
		"/usr/lib/vcn/drain":   h.drain,
	}
}

func (h *Host) live(_ context.Context, reservation, node string, c hostops.GuestCommand) hostops.GuestResult {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.guest(key(reservation, node)).live = slices.Clone(c.Stdin)
	return hostops.GuestResult{}
}

func (h *Host) notices(_ context.Context, reservation, node string, c hostops.GuestCommand) hostops.GuestResult {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.guest(key(reservation, node))
	before := g.notices
	g.notices = nil
	for line := range strings.Lines(string(c.Stdin)) {
		id, text, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if _, err := base64.StdEncoding.DecodeString(text); !ok || err != nil {
			return hostops.GuestResult{Exit: 2, Stderr: []byte("notices: a line is not as it should be")}
		}
		g.notices = append(g.notices, path.Base(id))
		if !slices.Contains(before, id) {
			g.shown = append(g.shown, id)
		}
	}
	return hostops.GuestResult{}
}

func (h *Host) drain(_ context.Context, reservation, node string, c hostops.GuestCommand) hostops.GuestResult {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(c.Args) < 3 || c.Args[1] != "sync" {
		return hostops.GuestResult{Exit: 2, Stderr: []byte("drain: want sync REASON worker...")}
	}
	g := h.guest(key(reservation, node))
	clear(g.drained)
	var out strings.Builder
	for _, w := range c.Args[3:] {
		g.drained[w] = c.Args[2]
		switch jobs := g.jobs[w]; jobs {
		case "":
			fmt.Fprintf(&out, "%s idle\n", w)
		case "?":
			fmt.Fprintf(&out, "%s unknown the scheduler does not answer\n", w)
		default:
			fmt.Fprintf(&out, "%s busy %s\n", w, jobs)
		}
	}
	return hostops.GuestResult{Stdout: []byte(out.String())}
}
