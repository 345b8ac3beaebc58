package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"vcn/api"
)

// plainView writes a timestamped line for each change, and one now and then
// when nothing changes.
type plainView struct {
	a    *app
	out  io.Writer
	last api.Reservation
	seen bool
}

// nodeLinesMax is how many nodes' changes get lines of their own at once.
const nodeLinesMax = 8

func (v *plainView) every() time.Duration { return v.a.beatEvery }

func (v *plainView) line(now time.Time, format string, args ...any) {
	fmt.Fprintf(v.out, "%s %s\n", now.In(v.a.zone).Format("15:04:05"), strings.ReplaceAll(printable(fmt.Sprintf(format, args...)), "\n", " "))
}

func (v *plainView) update(r api.Reservation, now time.Time) {
	if !v.seen || stateLine(v.a, r) != stateLine(v.a, v.last) {
		v.line(now, "%s", stateLine(v.a, r))
	}
	if text := v.a.changeText(r.Change); text != "" && text != v.a.changeText(v.last.Change) {
		v.line(now, "change: %s", text)
	} else if text == "" && v.last.Change != nil {
		v.line(now, "change: done")
	}
	for _, c := range r.Conditions {
		if !slices.Contains(v.last.Conditions, c) {
			v.line(now, "%s: %s", c.Type, c.Message)
		}
	}
	for _, p := range r.Phases {
		old, known := phaseOf(v.last.Phases, p.Name)
		switch {
		case p.End != nil && (!known || old.End == nil):
			v.line(now, "phase %s: done in %s%s", p.Name, span(p.End.Sub(p.Start)), dash(p.Note))
		case p.End == nil && (!known || old.Note != p.Note):
			v.line(now, "phase %s: since %s%s", p.Name, p.Start.In(v.a.zone).Format("15:04:05"), dash(p.Note))
		}
	}
	v.nodes(r, now)
	v.last, v.seen = r, true
}

// nodes tells the nodes that changed: each, or how many are in which state.
func (v *plainView) nodes(r api.Reservation, now time.Time) {
	old := map[string]api.Node{}
	for _, n := range v.last.Nodes {
		old[n.Name] = n
	}
	var changed []api.Node
	for _, n := range r.Nodes {
		if o, ok := old[n.Name]; !ok || o.State != n.State || o.Message != n.Message || o.Host != n.Host {
			changed = append(changed, n)
		}
	}
	if len(changed) > nodeLinesMax {
		v.line(now, "nodes: %s", countStates(r.Nodes))
		return
	}
	for _, n := range changed {
		v.line(now, "%s: %s%s%s", n.Name, n.State, onHost(n.Host), dash(n.Message))
	}
}

func (v *plainView) tick(r api.Reservation, now time.Time) {
	if v.seen {
		v.line(now, "%s; %s", stateLine(v.a, r), doing(v.a, r, now))
	}
}

func (v *plainView) close(r api.Reservation, now time.Time) {
	if s := summary(r); v.seen && s != "" {
		fmt.Fprint(v.out, s)
	}
}

// onHost is empty for a node that has no place yet.
func onHost(host string) string {
	if host == "" {
		return ""
	}
	return " on " + host
}

func phaseOf(phases []api.Phase, name string) (api.Phase, bool) {
	i := slices.IndexFunc(phases, func(p api.Phase) bool { return p.Name == name })
	if i < 0 {
		return api.Phase{}, false
	}
	return phases[i], true
}

func dash(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

// stateLine is the state in words, with what it waits for.
func stateLine(a *app, r api.Reservation) string {
	s := fmt.Sprintf("%s is %s", r.Name, r.State)
	switch r.State {
	case api.StateBooked:
		s += ", provisioning begins at " + a.clockTime(r.Provision)
	case api.StateWaitlisted:
		s += a.waitText(r.Wait)
	case api.StateParked:
		s += a.keptText(r)
	}
	return s + dash(r.Message)
}

// doing says which phases run, since when, and how the nodes are.
func doing(a *app, r api.Reservation, now time.Time) string {
	var parts []string
	for _, p := range r.Phases {
		if p.End == nil {
			parts = append(parts, fmt.Sprintf("%s for %s%s", p.Name, span(now.Sub(p.Start)), dash(p.Note)))
		}
	}
	if len(r.Nodes) > 0 {
		parts = append(parts, "nodes: "+countStates(r.Nodes))
	}
	if len(parts) == 0 {
		return "waiting"
	}
	return strings.Join(parts, "; ")
}

// countStates is such as "3 booting, 2 ready".
func countStates(nodes []api.Node) string {
	count := map[string]int{}
	var order []string
	for _, n := range nodes {
		if count[n.State]++; count[n.State] == 1 {
			order = append(order, n.State)
		}
	}
	slices.Sort(order)
	for i, s := range order {
		order[i] = fmt.Sprintf("%d %s", count[s], s)
	}
	return strings.Join(order, ", ")
}

// summary ends the progress of a reservation that became ready: the total and
// each phase's time.
func summary(r api.Reservation) string {
	if r.ReadyAt == nil || r.State != api.StateReady && r.State != api.StateActive {
		return ""
	}
	from := r.Created
	if r.Provision.After(from) {
		from = r.Provision
	}
	var b strings.Builder
	early := earlyText(r)
	if early != "" {
		early = ", " + early
	}
	fmt.Fprintf(&b, "%s: provisioned in %s%s\n", r.Name, span(r.ReadyAt.Sub(from)), early)
	for _, p := range r.Phases {
		if p.End != nil {
			fmt.Fprintf(&b, "  %-10s %8s%s\n", p.Name, span(p.End.Sub(p.Start)), dash(printable(p.Note)))
		}
	}
	return b.String()
}

// liveView redraws a few lines on a terminal.
type liveView struct {
	a     *app
	out   io.Writer
	fd    int
	drawn int // lines on the screen
}

func (v *liveView) every() time.Duration                    { return time.Second }
func (v *liveView) update(r api.Reservation, now time.Time) { v.draw(r, now) }
func (v *liveView) tick(r api.Reservation, now time.Time) {
	if r.ID != "" {
		v.draw(r, now)
	}
}

func (v *liveView) close(r api.Reservation, now time.Time) {
	if r.ID == "" {
		return
	}
	v.draw(r, now)
	fmt.Fprint(v.out, summary(r))
}

func (v *liveView) draw(r api.Reservation, now time.Time) {
	width, height, err := term.GetSize(v.fd)
	if err != nil || width < 20 || height < 5 {
		width, height = 80, 24
	}
	lines := v.a.liveLines(r, now, height-2)
	var b strings.Builder
	if v.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", v.drawn) // up to the first line
	}
	for _, l := range lines {
		b.WriteString(cut(l, width-1) + "\x1b[K\n")
	}
	b.WriteString("\x1b[J") // what an older, longer drawing left
	v.drawn = len(lines)
	io.WriteString(v.out, b.String())
}

func cut(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	return string(r[:width-1]) + "…"
}

var stateMarks = map[string]string{"ready": "✓", "failed": "✗", "lost": "✗", "gone": "·", "waiting": "·"}

// liveLines is the live view's text: at most height lines.
func (a *app) liveLines(r api.Reservation, now time.Time, height int) []string {
	lines := []string{stateLine(a, r)}
	for _, p := range r.Phases {
		mark, took := "✓", ""
		if p.End == nil {
			mark, took = "…", span(now.Sub(p.Start))
		} else {
			took = span(p.End.Sub(p.Start))
		}
		lines = append(lines, fmt.Sprintf("  %s %-10s since %s  %8s  %s", mark, p.Name, p.Start.In(a.zone).Format("15:04:05"), took, p.Note))
	}
	if text := a.changeText(r.Change); text != "" {
		lines = append(lines, "  … change: "+text)
	}
	for _, c := range r.Conditions {
		lines = append(lines, fmt.Sprintf("  ! %s: %s", c.Type, c.Message))
	}
	nodes := slices.Clone(r.Nodes)
	room := height - len(lines)
	if len(nodes) > room {
		// Those that are not ready are worth the space.
		slices.SortStableFunc(nodes, func(a, b api.Node) int { return boolInt(a.State == "ready") - boolInt(b.State == "ready") })
		nodes = nodes[:max(room-1, 0)]
	}
	width := 0
	for _, n := range nodes {
		width = max(width, len(n.Name))
	}
	for _, n := range nodes {
		mark, ok := stateMarks[n.State]
		if !ok {
			mark = "…"
		}
		lines = append(lines, fmt.Sprintf("  %s %-*s  %-9s%s for %s%s", mark, width, n.Name, n.State, onHost(n.Host), span(now.Sub(n.Since)), dash(n.Message)))
	}
	if hidden := len(r.Nodes) - len(nodes); hidden > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more; all nodes: %s", hidden, countStates(r.Nodes)))
	}
	for i := range lines {
		lines[i] = strings.ReplaceAll(printable(lines[i]), "\n", " ")
	}
	return lines
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
