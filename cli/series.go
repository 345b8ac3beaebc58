package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vcn/api"
	"vcn/api/client"
)

func (a *app) seriesCommand() *cobra.Command {
	return group("series", "Look at series of reservations, and change them",
		`Looks at series: reservations booked by one recurrence rule with vcnctl reserve
--repeat. Each date is a reservation of its own, NAME-YYYYMMDD, that can also be
changed or released by itself.`,
		examples("All dates of one", "vcnctl series show course"),
		a.seriesListCommand(), a.seriesShowCommand(), a.seriesChangeCommand(), a.seriesCancelCommand())
}

func (a *app) seriesListCommand() *cobra.Command {
	return listOf(a, "List series", "Lists the series that the token may see.", "vcnctl series list",
		func(ctx context.Context, c *client.Client) ([]api.Series, error) { return c.ListSeries(ctx) },
		[]string{"NAME", "PROJECT", "REPEAT", "ZONE", "DATES", "NEXT", "ID"},
		func(s api.Series) []string {
			next := ""
			if r := a.nextOf(s); r != nil {
				next = a.clockTime(r.Start)
			}
			return []string{s.Name, s.Project, s.Repeat, s.Zone, strconv.Itoa(len(s.Reservations)), next, s.ID}
		})
}

// nextOf is the next date of a series that has not begun; nil if there is none.
func (a *app) nextOf(s api.Series) (next *api.Reservation) {
	for i := range s.Reservations {
		r := &s.Reservations[i]
		if r.Start.After(a.now()) && !over(r.State) && (next == nil || r.Start.Before(next.Start)) {
			next = r
		}
	}
	return next
}

// completeSeries offers the names of series to the shell.
func (a *app) completeSeries(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, args, func(ctx context.Context, c *client.Client) (names []string, err error) {
		list, err := c.ListSeries(ctx)
		for _, s := range list {
			names = append(names, s.Name)
		}
		return names, err
	})
}

func (a *app) seriesShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a series", Long: "Shows a series, by name or id, with its reservations.",
		Example: examples("All dates of one", "vcnctl series show course"),
		Args:    exactly(1, "a NAME"), ValidArgsFunction: a.completeSeries,
		RunE: a.run(func(ctx context.Context, args []string) error {
			s, err := asking(ctx, a, "the series", func(c *client.Client) (api.Series, error) { return c.Series(ctx, args[0]) })
			if err != nil {
				return seriesGone(err)
			}
			return a.print(s, func() { a.showSeries(s) })
		}),
	}
}

func (a *app) showSeries(s api.Series) {
	a.pairs("Name", s.Name, "ID", s.ID, "Project", s.Project, "Repeats", s.Repeat, "Zone", s.Zone,
		"Except", strings.Join(s.Except, " "), "Created", a.clockTime(s.Created))
	rows := make([][]string, len(s.Reservations))
	for i, r := range s.Reservations {
		r.Series = "" // known here
		rows[i] = []string{r.Name, stateText(r), a.clockTime(r.Start), a.clockTime(r.End), a.noteOf(r), r.ID}
	}
	fmt.Fprint(a.stdout, "\n"+renderTable([]string{"RESERVATION", "STATE", "START", "END", "NOTE", "ID"}, rows))
}

func (a *app) seriesCancelCommand() *cobra.Command {
	return &cobra.Command{
		Use: "cancel NAME", Short: "Cancel what has not begun of a series",
		Long:    "Cancels all reservations of a series, by name or id, that have not begun. One that runs goes on; end it with vcnctl release.",
		Example: examples("No more of it", "vcnctl series cancel course"),
		Args:    exactly(1, "a NAME"), ValidArgsFunction: a.completeSeries,
		RunE: a.run(func(ctx context.Context, args []string) error {
			s, err := asking(ctx, a, "the cancellation", func(c *client.Client) (api.Series, error) {
				s, err := c.Series(ctx, args[0])
				if err != nil {
					return s, err
				}
				return c.CancelSeries(ctx, s.ID)
			})
			if err != nil {
				return seriesGone(err)
			}
			return a.print(s, func() {
				going := 0
				for _, r := range s.Reservations {
					if !over(r.State) && r.State != api.StateParked {
						going++
					}
				}
				fmt.Fprintf(a.stdout, "Cancelled what had not begun of %s (%s); %d of %d reservations go on.\n", s.Name, s.ID, going, len(s.Reservations))
			})
		}),
	}
}

func (a *app) seriesChangeCommand() *cobra.Command {
	var f changeFlags
	c := &cobra.Command{
		Use: "change NAME", Short: "Change what has not begun of a series",
		Long: `Changes all reservations of a series, by name or id, that have not begun. With
--dry-run it says which dates could be changed, and changes nothing. To change
one date only: vcnctl change NAME-YYYYMMDD.`,
		Example: examples("An hour longer from now on", "vcnctl series change course --extend 1h --dry-run", "More workers", "vcnctl series change course --workers compute=12"),
		Args:    exactly(1, "a NAME"), ValidArgsFunction: a.completeSeries,
	}
	f.registerSeries(c)
	c.RunE = a.run(func(ctx context.Context, args []string) error { return a.seriesChange(ctx, f, args[0], c.Flags()) })
	return c
}

func (a *app) seriesChange(ctx context.Context, f changeFlags, ref string, set *pflag.FlagSet) error {
	if err := f.check(set); err != nil {
		return err
	}
	if _, err := time.Parse("15:04", f.timeOfDay); set.Changed("start") && err != nil {
		return usage("the change is not right", "Nothing was changed.",
			api.FieldError{Field: "--start", Value: f.timeOfDay, Want: "a time of day, such as 09:30, in the series' zone"})
	}
	result, err := asking(ctx, a, "the change", func(c *client.Client) (api.SeriesResult, error) {
		s, err := c.Series(ctx, ref)
		if err != nil {
			return api.SeriesResult{}, seriesGone(err)
		}
		spec := api.Spec{}
		if r := a.nextOf(s); r != nil {
			spec = r.Spec
		} else if len(s.Reservations) > 0 {
			spec = s.Reservations[len(s.Reservations)-1].Spec
		}
		ch, err := a.changeOf(f, spec, set)
		if err != nil {
			return api.SeriesResult{}, err
		}
		if set.Changed("start") {
			ch.Start = &f.timeOfDay
		}
		return c.ChangeSeries(ctx, s.ID, ch, f.dryRun)
	})
	if err != nil {
		if ctx.Err() != nil && !f.dryRun {
			a.note("whether %s was changed is not known; see: vcnctl series show %s", ref, ref)
		}
		return err
	}
	did := "Changed"
	if f.dryRun {
		did = "Would change"
	}
	if err := a.print(result, func() { a.showSeriesResult(result, did) }); err != nil {
		return err
	}
	if len(result.Booked) == 0 && len(result.Missing) > 0 {
		return &exitError{ExitNoFit}
	}
	return nil
}

// showSeriesResult says what became of each date.
func (a *app) showSeriesResult(r api.SeriesResult, did string) {
	all := len(r.Booked) + len(r.Missing)
	of := ""
	if r.Series != nil {
		of = fmt.Sprintf(" of %s (%s)", r.Series.Name, r.Series.ID)
	}
	fmt.Fprintf(a.stdout, "%s %d of %d dates%s.\n", did, len(r.Booked), all, printable(of))
	var rows [][]string
	for _, d := range r.Booked {
		rows = append(rows, []string{d.Name, a.clockTime(d.Start), a.clockTime(d.End), strings.Join(d.Reasons, "; ")})
	}
	for _, d := range r.Missing {
		why := strings.Join(d.Reasons, "; ")
		if why == "" {
			why = "no reason was given"
		}
		rows = append(rows, []string{d.Name, a.clockTime(d.Start), a.clockTime(d.End), "MISSING: " + why})
	}
	if len(rows) > 0 {
		fmt.Fprint(a.stdout, renderTable([]string{"RESERVATION", "START", "END", "NOTE"}, rows))
	}
}

// seriesGone says where to look for a series, instead of for a reservation.
func seriesGone(err error) error {
	if p, ok := err.(*api.Problem); ok && p.Code == api.CodeNotFound && p.Next == "" {
		p.Next = "See what there is: vcnctl series list"
	}
	return err
}
