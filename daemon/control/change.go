package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"vcn/api"
	"vcn/fsm"
)

// changer works one change out.
type changer struct {
	c    *Control
	v    *fsm.View
	r    fsm.Reservation
	ch   api.Change
	now  time.Time
	sees func(project string) bool

	cmd    fsm.ReservationChange
	times  slotTimes
	grown  []fsm.Node // nodes that are new to a running cluster
	fields []api.FieldChange
	flight *flight
}

// Change changes a reservation, all of it or nothing. by is the token's id, sees
// says which projects' names may be told in a refusal, and lossOf is the name of
// the reservation where its owner confirms that data is lost.
func (c *Control) Change(ctx context.Context, id string, ch api.Change, by, lossOf string, sees func(string) bool) (*fsm.Reservation, error) {
	var why error
	for range replanTriesMax {
		w, err := c.workOut(id, ch, sees, true)
		if errors.Is(err, fsm.ErrChanged) {
			why = err
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(w.fields) == 0 {
			return &w.r, nil
		}
		if w.losesData() && lossOf != w.r.Name {
			w.land(false)
			return nil, &api.Problem{Status: http.StatusConflict, Code: api.CodeDataLoss, Detail: "this change deletes what is on the disks of " + w.r.Name,
				Reasons: w.losses(), Next: fmt.Sprintf("confirm it with --allow-data-loss %s (or ?allowDataLoss=%s); --dry-run shows the whole plan", w.r.Name, w.r.Name)}
		}
		w.cmd.By = by
		res, err := c.apply(ctx, w.cmd)
		w.land(err == nil)
		if err == nil {
			return res.Reservation, nil
		}
		if why = err; !moved(err) && !errors.Is(err, fsm.ErrChanged) {
			break
		}
	}
	return nil, stateProblem(why)
}

// PlanChange says what Change would do, and does nothing.
func (c *Control) PlanChange(id string, ch api.Change, sees func(string) bool) (api.ChangePlan, error) {
	w, err := c.workOut(id, ch, sees, false)
	for try := 1; errors.Is(err, fsm.ErrChanged) && try < replanTriesMax; try++ {
		w, err = c.workOut(id, ch, sees, false)
	}
	if errors.Is(err, fsm.ErrChanged) {
		err = stateProblem(err)
	}
	if err != nil {
		return api.ChangePlan{}, err
	}
	p := api.ChangePlan{Name: w.r.Name, Fields: w.fields, LosesData: w.losesData(), Start: w.times.start, End: w.times.end, Nodes: []api.Node{}}
	if p.Fields == nil {
		p.Fields = []api.FieldChange{}
	}
	for i := range w.cmd.Nodes {
		n := showNode(w.v, &w.cmd.Nodes[i], w.now)
		if w.r.Running() && i < len(w.r.Nodes) {
			n.State, n.Since = w.r.Nodes[i].State, w.r.Nodes[i].Since
		}
		if slices.ContainsFunc(w.cmd.Leave, func(l fsm.Leave) bool { return l.Node == n.Name }) {
			n.State = fsm.NodeDraining
		}
		p.Nodes = append(p.Nodes, n)
	}
	return p, nil
}

func (w *changer) land(ok bool) {
	if w.flight != nil {
		w.c.planner.land(w.flight, ok)
	}
}

func (w *changer) losesData() bool {
	return slices.ContainsFunc(w.fields, func(f api.FieldChange) bool { return f.How == api.HowLosesData })
}

func (w *changer) losses() []string {
	var out []string
	for _, f := range w.fields {
		if f.How == api.HowLosesData {
			out = append(out, strings.TrimSuffix(fmt.Sprintf("%s: %s → %s: %s", f.Field, f.From, f.To, f.Note), ": "))
		}
	}
	return out
}

// workOut checks and plans a change.
func (c *Control) workOut(id string, ch api.Change, sees func(string) bool, keep bool) (*changer, error) {
	if errs := ch.Validate(); len(errs) > 0 {
		return nil, api.Invalid(countFields(errs), errs)
	}
	v, now := c.cfg.State.View(), c.now()
	r, ok := v.Reservation(id)
	if !ok {
		return nil, noReservation(id)
	}
	w := &changer{c: c, v: v, r: r, ch: ch.Defaults(), now: now, sees: sees, times: timesOf(&r)}
	if !r.Live() || r.State == api.StateEnding {
		return nil, w.conflict("it is "+string(r.State), "only what has not ended can be changed")
	}
	w.cmd = fsm.ReservationChange{ID: r.ID, Modified: r.Modified, Name: r.Name, Start: r.Start, End: r.End, Provision: r.Provision,
		Lead: r.Lead, Grace: r.Grace, Zone: r.Zone, Spec: r.Spec, Nodes: slices.Clone(r.Nodes), Rolls: r.Rolls, Recipes: r.Recipes}
	again := w.ch // who leaves already is not counted any more
	again.Remove = slices.DeleteFunc(slices.Clone(again.Remove), func(name string) bool {
		return slices.ContainsFunc(r.Nodes, func(n fsm.Node) bool { return n.Name == name && n.Leaving })
	})
	spec, errs := again.Apply(r.Spec)
	if len(errs) > 0 {
		return nil, api.Invalid(countFields(errs), errs)
	}
	w.cmd.Spec = spec
	for _, step := range []func() error{w.slot, w.naming, w.atEnd, w.content, w.place(keep)} {
		if err := step(); err != nil {
			w.land(false)
			return nil, err
		}
	}
	return w, nil
}

func (w *changer) conflict(why, next string) error {
	return &api.Problem{Status: http.StatusConflict, Code: api.CodeConflict, Detail: fmt.Sprintf("%s cannot be changed so: %s", w.r.Name, why), Next: next}
}

func (w *changer) note(field, from, to, how, text string) {
	if from != to {
		w.fields = append(w.fields, api.FieldChange{Field: field, From: from, To: to, How: how, Note: text})
	}
}

func (w *changer) zone() *time.Location {
	if z, err := api.LoadZone(w.r.Zone); err == nil && w.r.Zone != "" {
		return z
	}
	return time.UTC
}

func (w *changer) clock(t time.Time) string {
	return t.In(w.zone()).Format("2006-01-02T15:04:05Z07:00")
}

// slot works out the new start and end.
func (w *changer) slot() error {
	if w.ch.Start != nil && w.r.State != api.StateBooked && w.r.State != api.StateWaitlisted {
		return w.conflict("it is "+string(w.r.State)+", its start is over", "extend or shorten it instead (--extend, --shorten, --end)")
	}
	if w.r.State == api.StateParked && w.ch.MovesSlot() {
		return w.conflict("it is parked and has no slot", "give it one with vcnctl resume; how long its disks are kept is --park-for")
	}
	start, end := w.r.Start, w.r.End
	if w.ch.MovesSlot() {
		var err error
		base := start
		if w.r.State == api.StateWaitlisted { // its earliest start may be over
			base = latest(start, w.now)
		}
		from, to, _, err := w.ch.ResolveSlot(w.now, base, base.Add(end.Sub(start)), w.zone())
		if err != nil {
			return slotProblem(err)
		}
		if w.ch.Start == nil {
			from, to = start, start.Add(to.Sub(from))
		}
		start, end = from, to
		w.cmd.Spec.Slot = api.Slot{Start: w.clock(start), End: w.clock(end), Zone: w.r.Zone}
	}
	if w.r.State != api.StateWaitlisted && w.r.State != api.StateParked && !end.After(w.now) {
		return w.conflict("its slot is over", "reserve another one")
	}
	w.note("start", w.clock(w.r.Start), w.clock(start), api.HowInPlace, "")
	w.note("end", w.clock(w.r.End), w.clock(end), api.HowInPlace, "")
	w.times.start, w.times.end = start, end
	w.cmd.Start, w.cmd.End = start, end
	return nil
}

func duration(s string) time.Duration {
	d, _ := api.ParseDuration(s) // it was validated
	return d
}

func (w *changer) naming() error {
	if w.ch.Name == nil {
		return nil
	}
	w.cmd.Name = *w.ch.Name
	w.note("name", w.r.Name, *w.ch.Name, api.HowInPlace, "nodes keep the cluster's name that they booted with")
	return nil
}

func (w *changer) atEnd() error {
	old, now := w.r.Spec, w.cmd.Spec
	action := func(s api.Spec) string {
		if s.AtEnd == nil || s.AtEnd.Action == "" {
			return api.EndRelease
		}
		return s.AtEnd.Action
	}
	w.note("atEnd.action", action(old), action(now), api.HowInPlace, "")
	w.note("atEnd.grace", api.FormatDuration(old.Grace()), api.FormatDuration(now.Grace()), api.HowInPlace, "")
	if action(now) == api.EndPark || w.r.State == api.StateParked {
		w.note("atEnd.parkFor", api.FormatDuration(old.ParkFor()), api.FormatDuration(now.ParkFor()), api.HowInPlace, "")
	}
	w.note("atEnd.warn", warnText(old), warnText(now), api.HowInPlace, "")
	text := func(n *api.Notify) string {
		if n == nil {
			return ""
		}
		return strings.TrimSpace(n.Webhook + " " + n.Mail)
	}
	w.note("notify", text(old.Notify), text(now.Notify), api.HowInPlace, "")
	w.cmd.Grace = now.Grace()
	w.times.grace, w.times.parkFor = w.cmd.Grace, 0
	if action(now) == api.EndPark {
		w.times.parkFor = now.ParkFor()
	}
	return nil
}

func warnText(s api.Spec) string {
	var out []string
	for _, d := range s.Warnings() {
		out = append(out, api.FormatDuration(d))
	}
	return strings.Join(out, ", ")
}

// content works out rolls and nodes.
func (w *changer) content() error {
	spec := w.cmd.Spec
	if errs := spec.Validate(); len(errs) > 0 {
		return api.Invalid(countFields(errs), errs)
	}
	d := &draft{spec: spec, rolls: w.r.Rolls, recipes: map[string]resolved{}}
	if w.ch.Rolls != nil {
		if err := d.resolveRolls(w.c.recipes); err != nil {
			return err
		}
	} else { // what it is made of stays, though there may be newer versions, or these no more
		for a, digest := range w.r.Recipes {
			d.recipes[a] = resolved{digest: digest, names: w.r.Rolls}
			if img, ok := w.v.Image(digest); ok {
				d.recipes[a] = resolved{digest: digest, names: img.Rolls}
			}
		}
	}
	recipes := map[string]string{}
	for a, rec := range d.recipes {
		recipes[a] = rec.digest
	}
	changed := w.ch.Rolls != nil && !slices.Equal(d.rolls, w.r.Rolls)
	w.cmd.Rolls, w.cmd.Recipes = d.rolls, recipes
	if changed {
		how, note := api.HowInPlace, "images are built before the start"
		switch {
		case w.r.Running():
			how, note = api.HowLosesData, "every node gets a new disk of the new image: homes and everything else on the disks is deleted"
			w.cmd.Reinstall = true
		case w.r.Kept:
			return w.conflict("its disks are kept and hold the rolls "+strings.Join(w.r.Rolls, " "), "reserve a new cluster with the other rolls")
		}
		w.note("rolls", strings.Join(w.r.Rolls, " "), strings.Join(d.rolls, " "), how, note)
	}
	if w.r.State != api.StateParked && !w.r.Kept { // disks that exist need no image
		w.c.planner.mu.Lock()
		w.cmd.Images = w.c.planner.images(w.v, []*draft{d})
		w.c.planner.mu.Unlock()
	}
	switch {
	case w.r.Running():
		return w.runningNodes()
	case w.r.Kept:
		return w.keptNodes()
	}
	return w.promisedNodes()
}

// promisedNodes: nothing exists yet, so that everything changes in place.
func (w *changer) promisedNodes() error {
	if len(w.ch.Remove) > 0 {
		return w.conflict("its workers do not exist yet", "give a new count instead (--workers)")
	}
	seats := map[string]fsm.Node{}
	for _, n := range w.r.Nodes {
		seats[n.Name] = n
	}
	w.cmd.Nodes = layOut(w.cmd.Spec)
	for i := range w.cmd.Nodes {
		n := &w.cmd.Nodes[i]
		n.Host, n.Storage = seats[n.Name].Host, seats[n.Name].Storage
	}
	w.noteShapes(api.HowInPlace, "")
	return nil
}

// noteShapes compares the specifications' groups and shapes.
func (w *changer) noteShapes(how, text string) {
	shape := func(s api.NodeShape) string { return fmt.Sprintf("%d cores, %s, %s disk", s.CPUs, s.Memory, s.Disk) }
	w.note("frontend", shape(w.r.Spec.Frontend), shape(w.cmd.Spec.Frontend), how, text)
	groups := map[string][2]*api.WorkerGroup{}
	for i := range w.r.Spec.Workers {
		g := &w.r.Spec.Workers[i]
		groups[g.Name] = [2]*api.WorkerGroup{g, nil}
	}
	for i := range w.cmd.Spec.Workers {
		g := &w.cmd.Spec.Workers[i]
		groups[g.Name] = [2]*api.WorkerGroup{groups[g.Name][0], g}
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		var count, size [2]string
		for i, g := range groups[name] {
			if count[i] = "0"; g != nil {
				count[i], size[i] = fmt.Sprint(g.Count), shape(g.NodeShape)
			}
		}
		w.note("workers."+name+".count", count[0], count[1], how, text)
		if size[0] != "" && size[1] != "" {
			w.note("workers."+name+".shape", size[0], size[1], how, text)
		}
	}
}

// keptNodes: disks exist, nodes do not run: cores and memory may change.
func (w *changer) keptNodes() error {
	if len(w.ch.Workers) > 0 || len(w.ch.Remove) > 0 {
		return w.conflict("its disks are kept, one of each node", "resume it first, then add or remove workers")
	}
	shapes := map[string]fsm.Node{}
	for _, n := range layOut(w.cmd.Spec) {
		shapes[n.Group] = n // all of a group are alike
	}
	for i := range w.cmd.Nodes {
		n := &w.cmd.Nodes[i]
		s, ok := shapes[n.Group]
		if !ok {
			continue
		}
		if s.DiskBytes != n.DiskBytes {
			return w.conflict("the disk of "+n.Name+" is kept as it is", "leave its size out")
		}
		n.CPUs, n.MemoryBytes = s.CPUs, s.MemoryBytes
	}
	w.noteShapes(api.HowReplace, "the nodes boot with it when it is resumed; their disks stay")
	return nil
}
