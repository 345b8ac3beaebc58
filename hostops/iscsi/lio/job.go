package lio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	leftoverPoll = 100 * time.Millisecond
	// nudgeAfter is how long the kernel may take to end sessions before we look
	// for one that slipped in; nudgeEvery is between further looks. In a target
	// that stays open, a look cuts the others too.
	nudgeAfter     = 2 * time.Second
	nudgeEvery     = 5 * time.Second
	nudgeOpenAfter = 20 * time.Second
	setScript      = `printf %s "$1" >"$2"`
	flipScript     = `printf %s "$1" >"$3"; printf %s "$2" >"$3"`
)

// job is a call into the kernel that may take as long as a command in flight.
// It runs in a process of its own: nothing ends a thread that waits there, and
// a target process with such a thread could neither end nor be followed by
// another, which would stop every other volume too.
type job struct {
	what string
	done chan struct{}
	err  error // when done is closed
}

func start(what string, argv ...string) *job {
	j := &job{what: what, done: make(chan struct{})}
	c := exec.Command(argv[0], argv[1:]...)
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	var out bytes.Buffer
	c.Stderr = &out
	if err := c.Start(); err != nil {
		j.err = fmt.Errorf("%s: %w", what, err)
		close(j.done)
		return j
	}
	// Not waited for by Close: the kernel decides when it ends.
	go func() {
		defer close(j.done)
		if err := c.Wait(); err != nil {
			j.err = fmt.Errorf("%s: %w: %s", what, err, strings.TrimSpace(out.String()))
		}
	}()
	return j
}

// settle waits for the call that runs in the kernel for this volume.
func (e *Engine) settle(ctx context.Context, v *volume) error {
	e.mu.Lock()
	j := v.job
	e.mu.Unlock()
	if j == nil {
		return nil
	}
	select {
	case <-j.done:
	case <-ctx.Done():
		return fmt.Errorf("%s: commands are still in flight: %w", j.what, ctx.Err())
	}
	e.mu.Lock()
	v.job = nil
	e.mu.Unlock()
	return j.err
}

// busy: a call for this volume has not come back.
func (e *Engine) busy(v *volume) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v.job == nil {
		return false
	}
	select {
	case <-v.job.done:
		return false
	default:
		return true
	}
}

func (e *Engine) apart(ctx context.Context, v *volume, what string, argv ...string) error {
	j := start(what, argv...)
	e.mu.Lock()
	v.job = j
	e.mu.Unlock()
	return e.settle(ctx, v)
}

// set writes an attribute whose effect may have to wait.
func (e *Engine) set(ctx context.Context, v *volume, path, value string) error {
	return e.apart(ctx, v, "set "+path, "sh", "-c", setScript, "sh", value, path)
}

// rmdir removes a directory of the kernel's; what is not there is removed.
func (e *Engine) rmdir(ctx context.Context, v *volume, path string) error {
	if is, err := exists(path); err != nil || !is {
		return err
	}
	return e.apart(ctx, v, "remove "+path, "rmdir", path)
}

// rmACL removes the directory of an access entry whose unit is unlinked. The
// call comes back when no session of it is left, which makes it the barrier of
// all fencing. A login that was under way when sessions were cut becomes one
// that nobody cuts; switching the group to and fro does. to is the state in
// which the group stays.
func (e *Engine) rmACL(ctx context.Context, v *volume, path, to string) error {
	j := start("remove "+path, "rmdir", path)
	e.mu.Lock()
	v.job = j
	e.mu.Unlock()
	enable := filepath.Join(e.tpg(v.iqn), "enable")
	from := map[string]string{"0": "1", "1": "0"}[to]
	var nudge *job
	first := nudgeAfter
	if to == "1" {
		first = nudgeOpenAfter
	}
	for wait := first; ; wait = max(first, nudgeEvery) {
		t := time.NewTimer(wait)
		select {
		case <-j.done:
			t.Stop()
			if nudge != nil {
				return e.after(ctx, v, nudge, j)
			}
			return e.settle(ctx, v)
		case <-ctx.Done():
			t.Stop()
			return e.settle(ctx, v)
		case <-t.C:
		}
		if nudge == nil || nudge.ended() {
			e.cfg.Log.Warn("sessions take long to end", "volume", v.id, "acl", filepath.Base(path))
			nudge = start("cut what slipped in", "sh", "-c", flipScript, "sh", from, to, enable)
		}
	}
}

// after waits for the nudge as well: the group must be in its final state.
func (e *Engine) after(ctx context.Context, v *volume, nudge, j *job) error {
	e.mu.Lock()
	v.job = nudge
	e.mu.Unlock()
	err := e.settle(ctx, v)
	if ctx.Err() != nil {
		return err
	}
	return j.err // the nudge may say that there was nothing to switch
}

func (j *job) ended() bool {
	select {
	case <-j.done:
		return true
	default:
		return false
	}
}

// leftovers finds calls of an earlier process that the kernel has not let go,
// by the directory of the target or backstore they are in.
func leftovers(root string) (map[string]int, error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for calls in the kernel: %w", err)
	}
	m := map[string]int{}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		for _, dir := range callsOf(pid, root) {
			m[dir] = pid
		}
	}
	return m, nil
}

// callsOf lists the directories of targets and backstores that a process of
// ours was started for.
func callsOf(pid int, root string) (dirs []string) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return nil
	}
	argv := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
	path := argv[len(argv)-1]
	ours := len(argv) == 2 && argv[0] == "rmdir" ||
		len(argv) > 3 && argv[0] == "sh" && (argv[2] == setScript || argv[2] == flipScript)
	rest, in := strings.CutPrefix(path, root+"/")
	if !ours || !in {
		return nil
	}
	parts := strings.SplitN(rest, "/", 4)
	switch {
	case len(parts) >= 2 && parts[0] == "iscsi":
		return []string{filepath.Join(root, parts[0], parts[1])}
	case len(parts) >= 3 && parts[0] == "core":
		return []string{filepath.Join(root, parts[0], parts[1], parts[2])}
	}
	return nil
}

// unwedge waits for calls of an earlier process in directories that are, or may
// be, those of a volume, and then looks there. Without names it waits for all.
func (e *Engine) unwedge(ctx context.Context, id, iqn string) error {
	for {
		dir, pid := e.held(id, iqn)
		if dir == "" {
			return nil
		}
		if err := e.awaitLeftover(ctx, dir, pid); err != nil {
			return err
		}
	}
}

func (e *Engine) held(id, iqn string) (string, int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.volumes[id]
	for d, pid := range e.wedged {
		target, in := strings.CutPrefix(d, e.targets()+"/")
		switch mine, _ := e.owned(filepath.Base(d)); {
		case id == "", !in && mine == id:
			return d, pid
		// A target goes before its backstore: a volume without one has none here.
		case in && (iqn == target || iqn == "" && v != nil && v.iqn == ""):
			return d, pid
		}
	}
	return "", 0
}

func (e *Engine) awaitLeftover(ctx context.Context, dir string, pid int) error {
	for len(callsOf(pid, e.root)) > 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is held by a call of an earlier process: commands are still in flight: %w", dir, ctx.Err())
		case <-time.After(leftoverPoll):
		}
	}
	var err error
	if iqn, in := strings.CutPrefix(dir, e.targets()+"/"); in {
		err = e.scanTarget(iqn)
	} else {
		err = e.scanStore(filepath.Dir(dir))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	e.mu.Lock()
	delete(e.wedged, dir)
	e.mu.Unlock()
	return nil
}
