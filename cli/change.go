package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vcn/api"
	"vcn/api/client"
)

const changeLong = `Changes a reservation: its slot, its workers, their shape, its rolls, its name,
its end. All of it is changed, or nothing. What is left out stays.

--dry-run prints the plan, field by field: in_place (nothing restarts), rolling
(one node after another), replace (nodes are made anew) or LOSES_DATA (disks are
deleted). The last is only done with --allow-data-loss and the reservation's
name. If a longer slot does not fit, it says what blocks it and how long it
could be.

Workers that leave are drained in the scheduler first. One that still runs jobs
is waited for, for ever or until --deadline; one whose jobs are not known is
never stopped. --wait follows the change until it is done; Ctrl-C then ends the
waiting, not the change.`

// changeFlags are those of change and of its short forms.
type changeFlags struct {
	slot             slotFlags
	extend, shorten  string
	timeOfDay        string // a series' start
	workers          []string
	remove           []string
	deadline         string
	shape, frontend  api.NodeShape
	shapes           []string
	rolls            []string
	rename           string
	end              endFlags
	allow            string
	dryRun, wait     bool
	waitMax          spanValue
	grow, shrinkOnly bool // the short forms go in one direction
}

// changes are the flags that change something, as against how it is done.
var changes = []string{"start", "end", "for", "extend", "shorten", "workers", "remove", "cpus", "memory", "disk", "shape",
	"frontend-cpus", "frontend-memory", "frontend-disk", "rolls", "rename", "at-end", "grace", "park-for", "warn", "webhook", "mail"}

func (a *app) changeCommand() *cobra.Command {
	var f changeFlags
	c := &cobra.Command{
		Use: "change NAME", Short: "Change a reservation", Long: changeLong,
		Example: examples(
			"What would it do?", "vcnctl change mine --for 12h --workers 8 --dry-run",
			"Two hours more", "vcnctl change mine --extend 2h",
			"Move it, before it begins", "vcnctl change mine --start 2030-12-02T09:00",
			"Without these two workers, once their jobs are done, but in an hour at the latest", "vcnctl change mine --remove compute-3,compute-7 --deadline 1h --wait",
			"Larger workers", "vcnctl change mine --shape compute:cpus=8,memory=16GiB",
			"Other rolls", "vcnctl change mine --rolls slurm,openmpi",
			"Keep the disks at the end", "vcnctl change mine --at-end park --park-for 60d"),
		Args: exactly(1, "a NAME"), ValidArgsFunction: a.completeReservation,
	}
	fl := c.Flags()
	f.registerSlot(fl)
	f.registerNodes(fl)
	f.end.register(c, false)
	f.registerHow(fl)
	fl.StringVar(&f.rename, "rename", "", "its new name")
	c.RunE = a.run(func(ctx context.Context, args []string) error { return a.change(ctx, f, args[0], fl) })
	return c
}

func (f *changeFlags) registerSlot(fl *pflag.FlagSet) {
	fl.StringVar(&f.slot.start, "start", "", "move it to this start; before provisioning only")
	fl.StringVar(&f.slot.end, "end", "", "its new end")
	fl.StringVar(&f.slot.zone, "zone", "", "IANA time zone of times without an offset (default: TZ, or this machine's)")
	f.registerLength(fl)
}

func (f *changeFlags) registerLength(fl *pflag.FlagSet) {
	fl.StringVar(&f.slot.length, "for", "", "its new length, the whole of it")
	fl.StringVar(&f.extend, "extend", "", "how much longer, such as 2h")
	fl.StringVar(&f.shorten, "shorten", "", "how much shorter")
}

func (f *changeFlags) registerWorkers(fl *pflag.FlagSet) {
	fl.StringSliceVar(&f.workers, "workers", nil, "new number of workers: N, or GROUP=N, with commas")
}

func (f *changeFlags) registerLeaving(fl *pflag.FlagSet) {
	fl.StringSliceVar(&f.remove, "remove", nil, "workers that leave, by node name, with commas, instead of the last ones")
	fl.StringVar(&f.deadline, "deadline", "", "stop workers that leave after this long even if jobs run on them; never if that is not known (default: wait for ever)")
}

func (f *changeFlags) registerShapes(fl *pflag.FlagSet) {
	shapeFlagSet(fl, &f.shape, "", "each worker, where there is one group", false)
	fl.StringArrayVar(&f.shapes, "shape", nil, "new shape of the workers of a group, as GROUP:cpus=8,memory=16GiB,disk=40GiB; may be repeated")
	shapeFlagSet(fl, &f.frontend, "frontend-", "the frontend", false)
	fl.StringSliceVar(&f.rolls, "rolls", nil, "all rolls it shall have, with commas")
}

func (f *changeFlags) registerNodes(fl *pflag.FlagSet) {
	f.registerWorkers(fl)
	f.registerLeaving(fl)
	f.registerShapes(fl)
}

func (f *changeFlags) registerHow(fl *pflag.FlagSet) {
	fl.BoolVar(&f.dryRun, "dry-run", false, "say what would be done, field by field, and change nothing")
	fl.StringVar(&f.allow, "allow-data-loss", "", "the reservation's name: do it even if disks are deleted")
	fl.BoolVar(&f.wait, "wait", false, "wait until the change is done, with progress")
	fl.Var(&f.waitMax, "wait-timeout", "stop waiting after this long, such as 30m (default: wait as long as it takes)")
}

// registerSeries makes the flags of what all dates of a series can have in
// common.
func (f *changeFlags) registerSeries(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.timeOfDay, "start", "", "move each date to this time of day, such as 09:30, in the series' zone")
	f.registerLength(fl)
	f.registerWorkers(fl)
	f.registerShapes(fl)
	f.end.register(c, false)
	fl.BoolVar(&f.dryRun, "dry-run", false, "say which dates could be changed, and change nothing")
}

// check refuses what can be seen to be wrong without asking. A size of 0 would
// silently mean that it stays.
func (f *changeFlags) check(set *pflag.FlagSet) error {
	if err := checkWait(set, f.wait, f.dryRun); err != nil {
		return err
	}
	var lengths []string
	for _, name := range []string{"end", "for", "extend", "shorten"} {
		if set.Changed(name) {
			lengths = append(lengths, "--"+name)
		}
	}
	if len(lengths) > 1 {
		return usage(strings.Join(lengths, " and ")+" exclude each other", "Give one of them")
	}
	if !slices.ContainsFunc(changes, set.Changed) {
		return usage("nothing is to be changed", "Say what: --extend 2h, --workers 8, …")
	}
	var errs []api.FieldError
	for name, n := range map[string]int{"cpus": f.shape.CPUs, "frontend-cpus": f.frontend.CPUs} {
		if set.Changed(name) && (n < 1 || n > api.CPUsMax) {
			errs = append(errs, api.FieldError{Field: "--" + name, Value: strconv.Itoa(n), Want: fmt.Sprintf("1 to %d", api.CPUsMax)})
		}
	}
	for name, q := range map[string]api.Quantity{"memory": f.shape.Memory, "frontend-memory": f.frontend.Memory, "disk": f.shape.Disk, "frontend-disk": f.frontend.Disk} {
		lo, hi := api.MemoryMin, api.MemoryMax
		if strings.HasSuffix(name, "disk") {
			lo, hi = api.DiskMin, api.DiskMax
		}
		if set.Changed(name) && (q < lo || q > hi) {
			errs = append(errs, api.FieldError{Field: "--" + name, Value: q.String(), Want: fmt.Sprintf("%s to %s", lo, hi)})
		}
	}
	return usageIf("the change is not right", errs)
}

// usageIf is a usage problem if there are errors; they are sorted by flag.
func usageIf(detail string, errs []api.FieldError) error {
	if len(errs) == 0 {
		return nil
	}
	slices.SortFunc(errs, func(a, b api.FieldError) int { return strings.Compare(a.Field, b.Field) })
	return usage(detail, "Nothing was changed.", errs...)
}

// changeOf makes the change of flags; spec is what is there.
func (a *app) changeOf(f changeFlags, spec api.Spec, set *pflag.FlagSet) (ch api.Change, err error) {
	zone, err := a.namedZone(f.slot.zone)
	if err != nil {
		return ch, err
	}
	// A change has no zone of its own: its local times are made absolute here.
	start, err := absolute("--start", f.slot.start, zone)
	if err != nil {
		return ch, err
	}
	end, err := absolute("--end", f.slot.end, zone)
	if err != nil {
		return ch, err
	}
	for name, to := range map[string]struct {
		to   **string
		from string
	}{
		"start": {&ch.Start, start}, "end": {&ch.End, end}, "for": {&ch.For, f.slot.length}, "extend": {&ch.Extend, f.extend},
		"shorten": {&ch.Shorten, f.shorten}, "deadline": {&ch.Deadline, f.deadline}, "rename": {&ch.Name, f.rename},
	} {
		if set.Changed(name) && (name != "start" || f.timeOfDay == "") {
			*to.to = &to.from
		}
	}
	if set.Changed("rolls") {
		ch.Rolls = &f.rolls
	}
	ch.Remove = f.remove
	ch.AtEnd, ch.Notify = f.end.apply(set, spec.AtEnd, spec.Notify)
	if ch.Workers, err = f.counts(spec); err != nil {
		return ch, err
	}
	if ch.Shapes, err = f.newShapes(spec); err != nil {
		return ch, err
	}
	if f.frontend != (api.NodeShape{}) {
		ch.Frontend = &f.frontend
	}
	if ch.AtEnd != nil && ch.AtEnd.Action == api.EndRelease && !set.Changed("park-for") {
		ch.AtEnd.ParkFor = "" // what was said of parking says nothing now
	}
	errs := ch.Validate()
	for i, e := range errs {
		errs[i].Field = changeFlag(e.Field)
	}
	return ch, usageIf("the change is not right", errs)
}

// changeFlag is the flag that a wrong field of a change came from.
func changeFlag(field string) string {
	if n := flagOfField(field); n != "" {
		return n
	}
	first, _, _ := strings.Cut(strings.ReplaceAll(field, "[", "."), ".")
	switch first {
	case "name":
		return "--rename"
	case "shapes":
		return "--shape"
	case "frontend":
		return "--" + strings.ReplaceAll(field, ".", "-")
	}
	return "--" + first
}

// groupNames are for messages.
func groupNames(spec api.Spec) string {
	var names []string
	for _, g := range spec.Workers {
		names = append(names, g.Name)
	}
	return strings.Join(names, ", ")
}

// onlyGroup is the group that is meant where none is named.
func onlyGroup(spec api.Spec, flag, value, form string) (string, error) {
	if len(spec.Workers) == 1 {
		return spec.Workers[0].Name, nil
	}
	return "", usage("it has more than one worker group", "Nothing was changed.",
		api.FieldError{Field: flag, Value: value, Want: form + "; the groups are " + groupNames(spec)})
}

// counts reads N and GROUP=N.
func (f *changeFlags) counts(spec api.Spec) (map[string]int, error) {
	var out map[string]int
	for _, text := range f.workers {
		group, number, named := strings.Cut(text, "=")
		if !named {
			group, number = "", text
		}
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 || n > api.WorkersMax || named && group == "" {
			return nil, usage("the change is not right", "Nothing was changed.",
				api.FieldError{Field: "--workers", Value: text, Want: "a number of workers, or GROUP=N, such as compute=8"})
		}
		if group == "" {
			if group, err = onlyGroup(spec, "--workers", text, "GROUP=N"); err != nil {
				return nil, err
			}
		}
		i := slices.IndexFunc(spec.Workers, func(g api.WorkerGroup) bool { return g.Name == group })
		if i < 0 && len(spec.Workers) > 0 {
			return nil, usage("the change is not right", "Nothing was changed.",
				api.FieldError{Field: "--workers", Value: text, Want: "one of its groups: " + groupNames(spec)})
		}
		if i >= 0 && (f.grow && n <= spec.Workers[i].Count || f.shrinkOnly && n >= spec.Workers[i].Count) {
			way := "more"
			if f.shrinkOnly {
				way = "less"
			}
			return nil, usage("the change is not right", "Nothing was changed.",
				api.FieldError{Field: "--workers", Value: text, Want: fmt.Sprintf("%s than the %d there are", way, spec.Workers[i].Count)})
		}
		if out == nil {
			out = map[string]int{}
		}
		out[group] = n
	}
	return out, nil
}

// newShapes is what was given of shapes; the rest of them stays.
func (f *changeFlags) newShapes(spec api.Spec) (map[string]api.NodeShape, error) {
	out := map[string]api.NodeShape{}
	if f.shape != (api.NodeShape{}) {
		group, err := onlyGroup(spec, "--cpus, --memory, --disk", "", "--shape GROUP:cpus=…")
		if err != nil {
			return nil, err
		}
		out[group] = f.shape
	}
	for _, text := range f.shapes {
		group, shape, named := strings.Cut(text, ":")
		n, err := out[group], error(nil)
		switch {
		case !named:
			err = api.FieldError{Field: "--shape", Value: text, Want: "GROUP:cpus=N,memory=SIZE,disk=SIZE, such as compute:cpus=8"}
		case !slices.ContainsFunc(spec.Workers, func(g api.WorkerGroup) bool { return g.Name == group }):
			err = api.FieldError{Field: "--shape", Value: text, Want: "one of its groups: " + groupNames(spec)}
		default:
			err = parseShape("--shape", shape, &n)
		}
		if err != nil {
			return nil, usage("the change is not right", "Nothing was changed.", err.(api.FieldError))
		}
		out[group] = n
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

func (a *app) change(ctx context.Context, f changeFlags, ref string, set *pflag.FlagSet) error {
	if err := f.check(set); err != nil {
		return err
	}
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	done := a.patience("the change to be planned")
	defer done()
	ch, err := a.readAndChange(ctx, c, f, ref, set)
	if err != nil {
		return err
	}
	if f.dryRun {
		plan, err := c.PlanChange(ctx, ref, ch)
		done()
		if err != nil {
			return a.asFarAsItGoes(err, ref)
		}
		return a.print(plan, func() { a.showChangePlan(plan) })
	}
	r, err := c.Change(ctx, ref, ch, f.allow)
	done()
	if err != nil {
		if ctx.Err() != nil {
			a.note("whether %s was changed is not known; see: vcnctl show %s", ref, ref)
		}
		return a.asFarAsItGoes(err, ref)
	}
	if !f.wait || r.Change == nil {
		return a.print(r, func() { a.showChanged(r) })
	}
	a.note("changing %s (%s): %s", r.Name, r.ID, a.changeText(r.Change))
	r, err = a.waitUntil(ctx, c, r, time.Duration(f.waitMax), changed, "changed")
	if err != nil {
		return err
	}
	if err := outcome(r, true); err != nil {
		return err
	}
	return a.print(r, func() { a.showChanged(r) })
}

// asFarAsItGoes adds to a refused extension how to have what there is.
func (a *app) asFarAsItGoes(err error, ref string) error {
	var p *api.Problem
	if errors.As(err, &p) && p.Until != "" && p.Next == "" {
		p.Next = fmt.Sprintf("Extend it as far as it goes: vcnctl change %s --end %s", ref, a.zoned(p.Until))
	}
	return err
}

// zoned is a time in the reader's zone, and any other text as it is.
func (a *app) zoned(text string) string {
	if t, err := api.ParseTime(text); err == nil {
		return a.clockTime(t)
	}
	return text
}

// changed: nothing of a change is left to do.
func changed(r api.Reservation) bool { return r.Change == nil || over(r.State) }

// readAndChange reads what is there only if the change builds on it.
func (a *app) readAndChange(ctx context.Context, c *client.Client, f changeFlags, ref string, set *pflag.FlagSet) (api.Change, error) {
	var spec api.Spec
	for _, name := range []string{"workers", "cpus", "memory", "disk", "shape", "at-end", "grace", "park-for", "warn", "webhook", "mail"} {
		if set.Changed(name) {
			r, _, err := c.Reservation(ctx, ref, 0, 0)
			if err != nil {
				return api.Change{}, err
			}
			spec = r.Spec
			break
		}
	}
	return a.changeOf(f, spec, set)
}

func (a *app) showChangePlan(p api.ChangePlan) {
	if len(p.Fields) == 0 {
		fmt.Fprintf(a.stdout, "Nothing of %s would change.\n", oneLine(p.Name))
		return
	}
	rows := make([][]string, len(p.Fields))
	for i, c := range p.Fields {
		how := c.How
		if how == api.HowLosesData {
			how = strings.ToUpper(how)
		}
		rows[i] = []string{c.Field, a.zoned(c.From), a.zoned(c.To), how, c.Note}
	}
	fmt.Fprint(a.stdout, renderTable([]string{"FIELD", "FROM", "TO", "HOW", "NOTE"}, rows))
	fmt.Fprintf(a.stdout, "\nSlot: %s to %s. Nothing was changed.\n", a.clockTime(p.Start), a.clockTime(p.End))
	if p.LosesData {
		fmt.Fprintf(a.stdout, "It LOSES DATA. To do it all the same, add: --allow-data-loss %s\n", oneLine(p.Name))
	}
}

func (a *app) showChanged(r api.Reservation) {
	fmt.Fprintf(a.stdout, "Changed %s (%s): %s to %s, %s.\n", r.Name, r.ID, a.clockTime(r.Start), a.clockTime(r.End), r.State)
	if r.Change != nil {
		fmt.Fprintf(a.stdout, "Going on: %s\nFollow it with: vcnctl show %s\n", a.changeText(r.Change), r.Name)
	}
}

// changeText is a pending change in a line.
func (a *app) changeText(p *api.PendingChange) string {
	if p == nil {
		return ""
	}
	var parts []string
	if len(p.Leaving) > 0 {
		parts = append(parts, "leaving: "+someOf(p.Leaving))
	}
	if len(p.Joining) > 0 {
		parts = append(parts, "joining: "+someOf(p.Joining))
	}
	if p.Deadline != nil {
		parts = append(parts, "until "+a.clockTime(*p.Deadline)+" at the latest")
	}
	if p.Message != "" {
		parts = append(parts, p.Message)
	}
	if len(parts) == 0 {
		return "under way"
	}
	return oneLine(strings.Join(parts, "; "))
}

// someOf names at most a few.
func someOf(names []string) string {
	const few = 8
	if len(names) <= few {
		return strings.Join(names, " ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], " "), len(names)-few)
}
