package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vcn/api"
	"vcn/api/client"
)

func (a *app) parkCommand() *cobra.Command {
	var req api.ParkRequest
	c := &cobra.Command{
		Use: "park NAME", Short: "End a slot now and keep its disks",
		Long: `Ends a reservation's slot now: its nodes stop, and its volumes are kept for a
while. Nothing else is held. vcnctl resume brings the same cluster back in a new
slot; vcnctl release deletes the volumes before their time.`,
		Example: examples("Until next month", "vcnctl park mine --for 30d", "And see it go", "vcnctl park mine && vcnctl watch mine"),
		Args:    exactly(1, "a NAME"), ValidArgsFunction: a.completeReservation,
		RunE: a.run(func(ctx context.Context, args []string) error {
			if errs := req.Defaults().Validate(); len(errs) > 0 {
				errs[0].Field = "--for"
				return usage("the request is not right", "Try: vcnctl park --help", errs...)
			}
			r, err := asking(ctx, a, "the parking", func(c *client.Client) (api.Reservation, error) { return c.Park(ctx, args[0], req) })
			if err != nil {
				if ctx.Err() != nil {
					a.note("whether %s was parked is not known; see: vcnctl show %s", args[0], args[0])
				}
				return err
			}
			return a.print(r, func() {
				fmt.Fprintf(a.stdout, "Parked %s (%s): %s%s.\n", r.Name, r.ID, r.State, a.keptText(r))
				fmt.Fprintf(a.stdout, "Bring it back: vcnctl resume %s --for 8h\n", r.Name)
			})
		}),
	}
	c.Flags().StringVar(&req.For, "for", "", "how long its volumes are kept, 1h-1y (default 30d)")
	return c
}

// keptText says until when parked volumes are kept, if that is known.
func (a *app) keptText(r api.Reservation) string {
	if r.ParkedUntil == nil {
		return ""
	}
	return ", volumes kept until " + a.clockTime(*r.ParkedUntil)
}

// resumeFlags are those of resume.
type resumeFlags struct {
	slot         slotFlags
	dryRun, wait bool
	waitMax      spanValue
}

func (a *app) resumeCommand() *cobra.Command {
	var f resumeFlags
	c := &cobra.Command{
		Use: "resume NAME", Short: "Bring a parked cluster back",
		Long: `Brings a parked reservation back in a new slot: the same cluster, with the data
on its disks, on hosts and addresses that may be others. With --wait it shows
the progress until the cluster can be used; Ctrl-C then ends the waiting, not
the reservation.`,
		Example: examples("For eight hours, from now on", "vcnctl resume mine --for 8h --wait", "Would it fit on Monday?", "vcnctl resume mine --start 2030-12-02T09:00 --for 8h --dry-run"),
		Args:    exactly(1, "a NAME"), ValidArgsFunction: a.completeReservation,
	}
	fl := c.Flags()
	f.slot.register(fl)
	f.slot.registerEnd(fl)
	fl.BoolVar(&f.dryRun, "dry-run", false, "say what would be booked, and book nothing")
	waitFlags(fl, &f.wait, &f.waitMax)
	c.RunE = a.run(func(ctx context.Context, args []string) error { return a.resume(ctx, f, args[0], fl) })
	return c
}

func (a *app) resume(ctx context.Context, f resumeFlags, ref string, set *pflag.FlagSet) error {
	if err := checkWait(set, f.wait, f.dryRun); err != nil {
		return err
	}
	slot := api.Slot{Start: api.StartAsap}
	if err := f.slot.apply(a, &slot); err != nil {
		return err
	}
	var wrong []api.FieldError
	for _, e := range toFlags((api.Spec{Slot: slot}).Validate()) {
		// Of a specification that is nothing but a slot, only that is looked at.
		if strings.HasPrefix(e.Field, "--") && flagIsOfSlot(e.Field) {
			wrong = append(wrong, e)
		}
	}
	if len(wrong) > 0 {
		return usage("the slot is not right", "Try: vcnctl resume --help", wrong...)
	}
	if f.dryRun {
		plan, err := asking(ctx, a, "the plan", func(c *client.Client) (api.Plan, error) { return c.PlanResume(ctx, ref, slot) })
		if err != nil {
			return err
		}
		return a.print(plan, func() { a.showPlan(ref, plan) })
	}
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	began := a.now()
	done := a.patience("the new slot to be planned and booked")
	r, err := c.Resume(ctx, ref, slot, client.NewKey())
	done()
	if err != nil {
		if ctx.Err() != nil {
			a.note("whether %s was resumed is not known; see: vcnctl show %s", ref, ref)
		}
		return err
	}
	if !f.wait {
		return a.print(r, func() { a.showBooked(r) })
	}
	a.note("%s", a.bookedLine(r))
	return a.waitReady(ctx, c, r, time.Duration(f.waitMax), began)
}

func flagIsOfSlot(flag string) bool {
	switch flag {
	case "--start", "--latest", "--end", "--for", "--zone":
		return true
	}
	return false
}
