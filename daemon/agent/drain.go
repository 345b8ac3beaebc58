package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"vcn/fsm"
)

const (
	// drainEvery is from one question to a scheduler to the next; drainEveryMax
	// while something remains unknown.
	drainEvery    = 5 * time.Second
	drainEveryMax = 15 * time.Second
	// drainLife is how long an answer counts, from when the question was put. What
	// is older may not be true any more, and a worker is stopped on its word.
	drainLife = 30 * time.Second

	// drainFile, among a frontend's files, says whether workers may be drained by
	// us: listed, or none. It is absent until that is known.
	drainFile   = "drain"
	drainListed = "listed"
	drainNone   = "none"
)

// drainState is what one cluster's scheduler said last.
type drainState struct {
	list     string    // digest of what was asked
	began    time.Time // when the question was put
	next     time.Time // when to ask again
	unknowns int       // questions in a row that left something unknown
	lines    map[string]drainLine
	failed   string // why there is no answer
}

type drainLine struct{ state, detail string }

// diffDrains makes one object of every worker that is to be drained, and asks the
// schedulers of the frontends here as long as there is one, and once more after.
func diffDrains(in diffInput) []action {
	var acts []action
	here := map[string]bool{}
	for _, n := range in.assign.Nodes {
		if !n.Frontend {
			continue
		}
		here[n.Reservation] = true
		drains := in.assign.Clusters[n.Reservation].Drain
		st := in.drains[n.Reservation]
		for _, w := range drains {
			acts = append(acts, drainAction(in, n, w, st))
		}
		if !in.answers(n) {
			continue
		}
		known := in.seen.drains[nodeKey(n.Reservation, n.Node)]
		if len(drains) == 0 && known == drainNone || givesBackTooEarly(in, n, drains, st) {
			continue
		}
		list := digest(drains)
		act := action{key: "drains/" + n.Reservation, what: "drain workers " + list, pool: askSteps, paced: true}
		if tidy := in.tidyAt(n); len(drains) == 0 && known == "" && tidy.After(in.now) {
			act.due = tidy
		} else if st != nil && st.list == list && st.next.After(in.now) {
			act.due = st.next
		} else {
			act.run = askDrains(n, drains, known)
		}
		acts = append(acts, act)
	}
	for reservation := range in.drains {
		if !here[reservation] {
			delete(in.drains, reservation)
		}
	}
	return acts
}

// drainAction is one worker's object. It is ready only on a fresh and positive
// answer.
func drainAction(in diffInput, n fsm.NodeWork, w fsm.DrainWork, st *drainState) action {
	id := nodeKey(n.Reservation, w.Node)
	o := fsm.Object{Kind: fsm.KindDrain, ID: id, Reservation: n.Reservation, Node: w.Node, State: fsm.ObjWaiting}
	act := action{key: fsm.KindDrain + "/" + id}
	switch {
	case !in.guests:
		o.Message = "this host cannot ask its nodes"
	case !in.answers(n):
		o.Message = "the frontend does not answer"
	case st == nil:
		o.Message = "the scheduler is being asked"
	case st.failed != "":
		o.Message = st.failed
	case in.now.Sub(st.began) > drainLife:
		o.Message = "the scheduler's last answer is too old"
	default:
		act.due = st.began.Add(drainLife + time.Millisecond)
		line, ok := st.lines[w.Node]
		o.Message = line.detail
		switch {
		case !ok:
			o.Message = "the scheduler is being asked"
		case line.state == "idle":
			o.State = fsm.ObjReady
		case line.state == "busy":
			o.State = fsm.ObjWorking
		}
	}
	act.object = o
	return act
}

// givesBackTooEarly: a worker that has left the cluster is gone from the list, too.
// Its scheduler must forget it, which the frontend's new configuration brings,
// before it would be given jobs again.
func givesBackTooEarly(in diffInput, n fsm.NodeWork, drains []fsm.DrainWork, st *drainState) bool {
	key := nodeKey(n.Reservation, n.Node)
	have := in.seen.lives[key]
	if have == nil || have.Cluster == in.sums[n.Reservation] || in.seen.drains[key] != drainListed {
		return false
	}
	if st == nil || st.failed != "" {
		return true // whom it had drained is not known
	}
	for w := range st.lines {
		if !slices.ContainsFunc(drains, func(d fsm.DrainWork) bool { return d.Node == w }) {
			return true
		}
	}
	return false
}

// askDrains has the scheduler's hooks drain exactly the listed workers, and keeps
// what they say.
func askDrains(n fsm.NodeWork, drains []fsm.DrainWork, known string) runFunc {
	return func(ctx context.Context, a *Agent, _ func(string)) error {
		dir, _ := a.nodeFiles(n.Reservation, n.Node)
		if len(drains) > 0 && known != drainListed {
			// First: whoever comes after has to know that it may have happened.
			if err := writeWord(dir, drainFile, drainListed); err != nil {
				return err
			}
		}
		asked := a.drainBegins(n.Reservation, drains)
		out, err := a.inGuest(ctx, n, nil, append([]string{drainProgram, "sync", drainReason(drains)}, asked.workers...)...)
		if len(drains) == 0 && (err == nil || absent(err) && known != drainListed) {
			a.drainEnds(n.Reservation, nil)
			return writeWord(dir, drainFile, drainNone)
		}
		if err != nil {
			err = fmt.Errorf("ask the scheduler of %s: %w", n.Node, err)
			a.drainEnds(n.Reservation, &drainState{failed: words(err.Error())})
			return err
		}
		st := &drainState{list: digest(drains), began: asked.began, lines: readDrains(asked.workers, out), unknowns: asked.unknowns}
		every := drainEvery
		if st.uncertain() {
			st.unknowns++
			every = min(drainEvery<<min(st.unknowns, 4), drainEveryMax)
		} else {
			st.unknowns = 0
		}
		st.next = asked.began.Add(every)
		a.drainEnds(n.Reservation, st)
		return nil
	}
}

// asking is one question to a scheduler.
type asking struct {
	workers  []string
	began    time.Time
	unknowns int
}

// drainBegins forgets what was known of workers that this question does not name:
// it gives them back, whether or not its answer arrives, so that what was said of
// them before is no longer true.
func (a *Agent) drainBegins(reservation string, drains []fsm.DrainWork) asking {
	asked := asking{began: time.Now()}
	for _, w := range drains {
		asked.workers = append(asked.workers, w.Node)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if st := a.drains[reservation]; st != nil {
		asked.unknowns = st.unknowns
		for w := range st.lines {
			if !slices.Contains(asked.workers, w) {
				delete(st.lines, w)
			}
		}
	}
	return asked
}

func (a *Agent) drainEnds(reservation string, st *drainState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if st == nil {
		delete(a.drains, reservation)
		return
	}
	a.drains[reservation] = st
}

func (st *drainState) uncertain() bool {
	for _, l := range st.lines {
		if l.state == "unknown" {
			return true
		}
	}
	return false
}

// drainReason is one reason for all; hooks take but one.
func drainReason(drains []fsm.DrainWork) string {
	var all []string
	for _, w := range drains {
		if !slices.Contains(all, w.Reason) {
			all = append(all, w.Reason)
		}
	}
	reason := words(strings.Join(all, "; "))
	if !strings.HasPrefix(reason, "vcn: ") {
		reason = "vcn: " + reason
	}
	return strings.TrimSpace(reason)
}

// readDrains reads "NAME idle|busy|unknown [detail]" of each worker asked about.
// Whoever is not named, or twice, or otherwise, is unknown.
func readDrains(workers []string, out string) map[string]drainLine {
	lines := make(map[string]drainLine, len(workers))
	for line := range strings.Lines(out) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		state, detail, _ := strings.Cut(rest, " ")
		if _, twice := lines[name]; twice || state != "idle" && state != "busy" && state != "unknown" {
			state, detail = "unknown", "its answer is not understood"
		}
		if slices.Contains(workers, name) {
			lines[name] = drainLine{state, words(detail)}
		}
	}
	for _, w := range workers {
		if _, ok := lines[w]; !ok {
			lines[w] = drainLine{"unknown", "the scheduler says nothing of it"}
		}
	}
	return lines
}
