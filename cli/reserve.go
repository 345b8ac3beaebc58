package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vcn/api"
	"vcn/api/client"
)

const reserveLong = `Reserves a virtual cluster: a frontend, workers, a private network and disks for
one slot. What it shall be comes from a specification (-f, YAML or JSON, - for
stdin) or from flags. With -f, NAME, --project, and the flags of the slot, its
end and notifications replace what the file says.

Times without an offset are times of your zone (TZ, or this machine's), or of
--zone; they keep their hour when clocks change. With --repeat each date of a
series is a reservation of its own, NAME-YYYYMMDD.

--offer takes what vcnctl when has held; the offer says what it is. --wait-for
puts it on the waitlist if it does not fit: it is booked by itself as soon as
something comes free, in order of arrival.

Without --wait it returns as soon as the reservation is booked. With --wait it
shows the progress until the cluster can be used; Ctrl-C then ends the waiting,
not the reservation.`

const reserveSpecExample = `  # A specification
  cat > spec.yaml <<END
  name: rendering
  slot: {start: 2030-12-01T09:00+09:00, for: 30d}
  frontend: {cpus: 2, memory: 4GiB, disk: 40GiB}
  workers:
    - {name: compute, count: 100, cpus: 4, memory: 8GiB, disk: 40GiB}
  rolls: [slurm]
  users:
    - {name: alice, keys: ["ssh-ed25519 AAAA… alice@studio"], admin: true}
  END
  vcnctl reserve -f spec.yaml --dry-run
  vcnctl reserve -f spec.yaml --wait
`

// reserveFlags are those of reserve.
type reserveFlags struct {
	specFlags
	offer, waitFor string
	partial        bool
	dryRun, wait   bool
	waitMax        spanValue
}

// offerFlags are the only ones that go with --offer: all else is the offer's.
var offerFlags = []string{"offer", "dry-run", "wait", "wait-timeout", "context", "config", "host", "token", "output"}

func (a *app) reserveCommand() *cobra.Command {
	var f reserveFlags
	c := &cobra.Command{
		Use:   "reserve [NAME]",
		Short: "Reserve a virtual cluster",
		Long:  reserveLong,
		Example: reserveSpecExample + examples(
			"Four workers with Slurm for eight hours, from now on", "vcnctl reserve mine --workers 4 --cpus 2 --memory 2GiB --for 8h --rolls slurm --key ~/.ssh/id_ed25519.pub --wait",
			"Each Monday morning in Berlin, summer and winter; those dates that fit", "vcnctl reserve course --workers 8 --start 2030-10-07T09:00 --for 4h --zone Europe/Berlin --repeat 'FREQ=WEEKLY;COUNT=12' --except 2030-12-23 --partial",
			"As soon as it fits within two days, and keep the disks at the end", "vcnctl reserve mine --workers 16 --for 8h --wait-for 2d --at-end park",
			"Take an offer", "vcnctl reserve --offer 0198c1f2 mine",
			"From stdin, for a script", "generate-spec | vcnctl reserve -f - -o json"),
		Args: atMost(1, "at most a NAME"),
	}
	c.RunE = a.run(func(ctx context.Context, args []string) error { return a.reserve(ctx, f, args, c.Flags()) })
	fl := c.Flags()
	f.register(c)
	f.slot.registerEnd(fl)
	f.slot.registerRepeat(fl)
	fl.IntVar(&f.workers, "workers", 1, "number of workers, 1-1000")
	fl.BoolVar(&f.partial, "partial", false, "of a series: book those dates that fit, and say which do not")
	fl.StringVar(&f.offer, "offer", "", "take this offer of vcnctl when")
	fl.StringVar(&f.waitFor, "wait-for", "", "wait for capacity: book it as soon as it fits, to start at most so long after its earliest start")
	fl.BoolVar(&f.dryRun, "dry-run", false, "say what would be booked, and book nothing")
	waitFlags(fl, &f.wait, &f.waitMax)
	return c
}

func waitFlags(fl *pflag.FlagSet, wait *bool, waitMax *spanValue) {
	fl.BoolVar(wait, "wait", false, "wait until the cluster can be used, with progress")
	fl.Var(waitMax, "wait-timeout", "stop waiting after this long, such as 30m (default: wait as long as it takes)")
}

// checkWait refuses what cannot be waited for.
func checkWait(set *pflag.FlagSet, wait, dryRun bool) error {
	switch {
	case wait && dryRun:
		return usage("--wait and --dry-run exclude each other", "A dry run books nothing that could be waited for")
	case set.Changed("wait-timeout") && !wait:
		return usage("--wait-timeout is for --wait", "Add --wait, or leave it out")
	}
	return nil
}

func (a *app) reserve(ctx context.Context, f reserveFlags, args []string, set *pflag.FlagSet) error {
	if err := checkWait(set, f.wait, f.dryRun); err != nil {
		return err
	}
	if set.Changed("offer") {
		return a.takeOffer(ctx, f, args, set)
	}
	spec, err := a.specOf(f.specFlags, args, set, "vcnctl reserve")
	if err != nil {
		return err
	}
	if err := f.checkWays(spec, set); err != nil {
		return err
	}
	if spec.Slot.Repeat != "" {
		return a.reserveSeries(ctx, f, spec)
	}
	if f.dryRun {
		plan, err := asking(ctx, a, "the plan", func(c *client.Client) (api.Plan, error) { return c.DryRun(ctx, spec) })
		if err != nil {
			return err
		}
		return a.print(plan, func() { a.showPlan(spec.Name, plan) })
	}
	return a.book(ctx, f, spec.Name, func(c *client.Client, key string) (api.Reservation, error) {
		if f.waitFor != "" {
			return c.ReserveWaiting(ctx, spec, f.waitFor, key)
		}
		return c.Reserve(ctx, spec, key)
	})
}

// checkWays refuses ways to book that exclude each other.
func (f reserveFlags) checkWays(spec api.Spec, set *pflag.FlagSet) error {
	series := spec.Slot.Repeat != ""
	switch {
	case series && f.waitFor != "":
		return usage("--wait-for is for one slot, not for a series", "Book those dates that fit with --partial")
	case series && f.wait:
		return usage("--wait is for one slot, not for a series", "Watch one of its dates: vcnctl watch NAME-YYYYMMDD")
	case !series && f.partial:
		return usage("--partial is for a series", "Add --repeat, or leave it out")
	case f.waitFor != "" && spec.Slot.Latest != "":
		return usage("--wait-for and a latest start exclude each other", "Both say until when it may start; leave one of them out")
	case f.waitFor != "" && f.dryRun:
		return usage("--wait-for and --dry-run exclude each other", "See when it fits: vcnctl when")
	}
	if set.Changed("wait-for") {
		if d, err := api.ParseDuration(f.waitFor); err != nil || d <= 0 {
			return usage("a flag's value is not right", "Try: vcnctl reserve --help", api.FieldError{Field: "--wait-for", Value: f.waitFor, Want: "a length such as 90m, 8h, 30d or 2w"})
		}
	}
	return nil
}

// book makes one reservation by some call, and follows it if asked to.
func (a *app) book(ctx context.Context, f reserveFlags, name string, call func(*client.Client, string) (api.Reservation, error)) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	began := a.now()
	done := a.patience("the reservation to be planned and booked")
	r, err := call(c, client.NewKey())
	done()
	if err != nil {
		if ctx.Err() != nil {
			a.note("whether %s was booked is not known; see: vcnctl list", name)
		}
		return err
	}
	if !f.wait {
		return a.print(r, func() { a.showBooked(r) })
	}
	a.note("%s", a.bookedLine(r))
	return a.waitReady(ctx, c, r, time.Duration(f.waitMax), began)
}

// takeOffer books a held offer, or, for a dry run, shows it.
func (a *app) takeOffer(ctx context.Context, f reserveFlags, args []string, set *pflag.FlagSet) error {
	var wrong []string
	set.Visit(func(fl *pflag.Flag) {
		if !slices.Contains(offerFlags, fl.Name) {
			wrong = append(wrong, "--"+fl.Name)
		}
	})
	if len(wrong) > 0 {
		return usage(fmt.Sprintf("%s and --offer exclude each other", wrong[0]), "The offer says what it is; only NAME may be given. Ask again with: vcnctl when")
	}
	if f.offer == "" {
		return usage("a flag's value is not right", "", api.FieldError{Field: "--offer", Want: "the ID of an offer, as vcnctl when shows it"})
	}
	o, err := asking(ctx, a, "the offer", func(c *client.Client) (api.Offer, error) { return c.Offer(ctx, f.offer) })
	if err != nil {
		return offerGone(err)
	}
	if f.dryRun {
		return a.print(o, func() { a.showOffers([]api.Offer{o}) })
	}
	name := ""
	if len(args) == 1 {
		name = args[0]
	}
	return a.book(ctx, f, "the offer", func(c *client.Client, key string) (api.Reservation, error) {
		r, err := c.TakeOffer(ctx, f.offer, name, key)
		if err == nil && len(o.Parts) > 1 {
			a.note("of the offer's two slots the second, from %s, is a reservation of its own: %s-2", a.clockTime(o.Parts[1].Start), r.Name)
		}
		return r, offerGone(err)
	})
}

func (a *app) reserveSeries(ctx context.Context, f reserveFlags, spec api.Spec) error {
	result, err := asking(ctx, a, "the series to be planned", func(c *client.Client) (api.SeriesResult, error) {
		if f.dryRun {
			return c.PlanSeries(ctx, spec, f.partial)
		}
		return c.ReserveSeries(ctx, spec, f.partial, client.NewKey())
	})
	if err != nil {
		if ctx.Err() != nil && !f.dryRun {
			a.note("whether %s was booked is not known; see: vcnctl series list", spec.Name)
		}
		return err
	}
	did := "Booked"
	if f.dryRun {
		did = "Would book"
	}
	if err := a.print(result, func() { a.showSeriesResult(result, did) }); err != nil {
		return err
	}
	if len(result.Booked) == 0 || f.dryRun && !f.partial && len(result.Missing) > 0 {
		return &exitError{ExitNoFit}
	}
	return nil
}

// waitReady follows a reservation until it can be used.
func (a *app) waitReady(ctx context.Context, c *client.Client, r api.Reservation, waitMax time.Duration, began time.Time) error {
	r, err := a.waitUntil(ctx, c, r, waitMax, settled, "ready")
	if err != nil {
		return err
	}
	if err := outcome(r, true); err != nil {
		return err
	}
	if r.State == api.StateParked {
		return &api.Problem{Status: 500, Code: api.CodeInternal, Detail: r.Name + " was parked and cannot be used" + dash(r.Message),
			Next: "Bring it back with: vcnctl resume " + r.Name + " --for 8h"}
	}
	return a.print(r, func() {
		a.showLogin(r)
		fmt.Fprintf(a.stdout, "Total time: %s\n", span(a.now().Sub(began)))
	})
}

// waitUntil follows a reservation until it is what done wants; that is called
// what in messages. Ctrl-C and waitMax, if it is not 0, end the waiting, and
// nothing else.
func (a *app) waitUntil(ctx context.Context, c *client.Client, r api.Reservation, waitMax time.Duration, done func(api.Reservation) bool, what string) (api.Reservation, error) {
	waiting, cancel := ctx, context.CancelFunc(func() {})
	if waitMax > 0 {
		waiting, cancel = context.WithTimeout(ctx, waitMax)
	}
	defer cancel()
	last, _, err := a.follow(waiting, c, r.ID, a.stderr, done)
	if last.ID == "" { // not seen even once
		last = r
	}
	switch {
	case ctx.Err() != nil:
		return last, interrupted(fmt.Sprintf("interrupted; the reservation %s goes on", last.Name), goesOn(last.Name))
	case waiting.Err() != nil:
		return last, &api.Problem{Status: 504, Code: api.CodeInternal,
			Detail: fmt.Sprintf("%s is not %s after %s; it is %s, and the reservation goes on", last.Name, what, span(waitMax), last.State), Next: goesOn(last.Name)}
	}
	return last, err
}

func goesOn(name string) string {
	return fmt.Sprintf("  watch it:   vcnctl watch %s\n  release it: vcnctl release %s", name, name)
}

// bookedLine says what became of a request, in a line.
func (a *app) bookedLine(r api.Reservation) string {
	if r.State == api.StateWaitlisted {
		return fmt.Sprintf("%s (%s) is on the waitlist%s.", r.Name, r.ID, a.waitText(r.Wait))
	}
	return fmt.Sprintf("Reserved %s (%s): %s to %s, %s. %s", r.Name, r.ID, a.clockTime(r.Start), a.clockTime(r.End), r.State, a.usableText(r))
}

func (a *app) showBooked(r api.Reservation) {
	fmt.Fprintln(a.stdout, strings.TrimSpace(printable(a.bookedLine(r))))
	if r.State == api.StateWaitlisted {
		fmt.Fprintf(a.stdout, "It is booked by itself as soon as it fits. Watch it: vcnctl watch %s\n", r.Name)
		return
	}
	fmt.Fprintf(a.stdout, "Watch it come up: vcnctl watch %s\n", r.Name)
}

// usableText says how long it will take, if it starts at once, and when
// provisioning begins otherwise.
func (a *app) usableText(r api.Reservation) string {
	now := a.now()
	if r.Provision.After(now) {
		return a.beginsText(r.Provision, r.Lead)
	}
	if r.Expected == nil || r.ReadyAt != nil {
		return ""
	}
	return a.expectedText(*r.Expected)
}

func (a *app) beginsText(provision time.Time, lead string) string {
	s := "Provisioning begins at " + a.clockTime(provision)
	if d, err := api.ParseDuration(lead); err == nil && d > 0 {
		s += ", " + lead + " before the start"
	}
	return s + "."
}

// expectedText rounds to what is worth knowing.
func (a *app) expectedText(at time.Time) string {
	d := at.Sub(a.now())
	switch {
	case d <= 0:
		return "Usable any moment."
	case d > time.Hour:
		return "Usable in about " + span(d.Round(time.Minute)) + "."
	}
	return "Usable in about " + api.FormatDuration(max(d.Round(time.Second), time.Second)) + "."
}
