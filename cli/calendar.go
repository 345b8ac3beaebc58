package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vcn/api"
	"vcn/api/client"
)

const calendarLong = `Shows who holds what of the hosts, and what is free, over time: a row for each
host and one for what is free of all of them. On a terminal the colour of a cell
says who holds most of the host then, and its height how much of the host is
held in all, of whichever of cores, memory and storage is scarcest. Otherwise,
with --ascii or NO_COLOR, a letter says who; a capital one, that half of the
host or more is held. Others' reservations have no names. It fits the terminal's
width, or COLUMNS, or 100.

--slots lists the reservations instead. --ical writes the calendar as text for
other programs (RFC 5545); vcnctl calendar feed makes an address of it.`

// Bounds of the chart.
const (
	calendarDays    = 7
	calendarDaysMax = 3660
	widthDefault    = 100
	widthMin        = 40
	widthMax        = 500
)

// calendarFlags are those of calendar.
type calendarFlags struct {
	from, until, zone, project string
	days                       int
	hosts, slots, ascii, ical  bool
}

func (a *app) calendarCommand() *cobra.Command {
	var f calendarFlags
	c := &cobra.Command{
		Use: "calendar", Short: "Show who holds what, and what is free", Long: calendarLong,
		Example: examples(
			"The next seven days", "vcnctl calendar",
			"December, of one project", "vcnctl calendar --from 2030-12-01T00:00 --until 2031-01-01T00:00 --project studio",
			"The reservations by their start", "vcnctl calendar --slots --days 30",
			"For a program", "vcnctl calendar -o json | jq '.free[0]'"),
		Args: func(cmd *cobra.Command, args []string) error { return unknownCommand(cmd, args) },
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.calendar(ctx, f) }),
	}
	fl := c.Flags()
	fl.StringVar(&f.from, "from", "", "first moment, as 2030-12-01T09:00 in your zone (default: this hour)")
	fl.StringVar(&f.until, "until", "", "last moment, as for --from")
	fl.IntVar(&f.days, "days", calendarDays, "how many days, instead of --until")
	fl.StringVar(&f.zone, "zone", "", "IANA time zone of times without an offset (default: TZ, or this machine's)")
	fl.StringVar(&f.project, "project", "", "list this project's reservations only")
	fl.BoolVar(&f.hosts, "hosts", false, "show hosts by time (the default)")
	fl.BoolVar(&f.slots, "slots", false, "list reservations by their start instead")
	fl.BoolVar(&f.ascii, "ascii", false, "letters instead of blocks and colours")
	fl.BoolVar(&f.ical, "ical", false, "write the project's calendar as iCalendar text")
	c.MarkFlagsMutuallyExclusive("hosts", "slots", "ical")
	c.MarkFlagsMutuallyExclusive("until", "days")
	c.AddCommand(a.calendarFeedCommand())
	return c
}

func (a *app) calendar(ctx context.Context, f calendarFlags) error {
	if f.ical {
		if a.flags.output != outputTable {
			return usage("--ical has a form of its own", "Leave out --output")
		}
		text, err := asking(ctx, a, "the calendar", func(c *client.Client) (string, error) { return c.ICalendar(ctx, f.project) })
		if err == nil {
			fmt.Fprint(a.stdout, text)
		}
		return err
	}
	from, until, err := a.calendarRange(f)
	if err != nil {
		return err
	}
	cal, err := asking(ctx, a, "the calendar", func(c *client.Client) (api.Calendar, error) { return c.Calendar(ctx, from, until, f.project) })
	if err != nil {
		return err
	}
	return a.print(cal, func() {
		if f.slots {
			a.showSlots(cal)
			return
		}
		if cal.From.IsZero() || !cal.Until.After(cal.From) {
			cal.From, cal.Until = from, until
		}
		ch := newChart(cal, a.zone, a.width(), a.colours(f.ascii))
		fmt.Fprint(a.stdout, ch.render(a.clockTime))
	})
}

// calendarRange is from when until when to look.
func (a *app) calendarRange(f calendarFlags) (from, until time.Time, err error) {
	zone, err := a.namedZone(f.zone)
	if err != nil {
		return from, until, err
	}
	if from, err = moment("--from", f.from, zone); err != nil {
		return from, until, err
	}
	if from.IsZero() {
		now := a.now().In(a.zone)
		from = now.Add(-time.Duration(now.Minute())*time.Minute - time.Duration(now.Second())*time.Second).Truncate(time.Second)
	}
	if until, err = moment("--until", f.until, zone); err != nil {
		return from, until, err
	}
	if f.days < 1 || f.days > calendarDaysMax {
		return from, until, usage("a flag's value is not right", "", api.FieldError{Field: "--days", Value: strconv.Itoa(f.days), Want: fmt.Sprintf("1 to %d", calendarDaysMax)})
	}
	if until.IsZero() {
		until = from.In(zone).AddDate(0, 0, f.days)
	}
	if !until.After(from) {
		return from, until, usage("a flag's value is not right", "", api.FieldError{Field: "--until", Value: f.until, Want: "a time after " + a.clockTime(from)})
	}
	return from, until, nil
}

// width is how many columns there are.
func (a *app) width() int {
	n, err := strconv.Atoi(a.getenv("COLUMNS"))
	if err != nil || n <= 0 {
		n = widthDefault
		if fd, ok := terminal(a.stdout); ok {
			if w, _, err := term.GetSize(fd); err == nil && w > 0 {
				n = w
			}
		}
	}
	return min(max(n, widthMin), widthMax)
}

// colours are for a terminal that shows UTF-8, if nobody minds.
func (a *app) colours(ascii bool) bool {
	if ascii || a.getenv("NO_COLOR") != "" || a.getenv("TERM") == "dumb" {
		return false
	}
	if _, ok := terminal(a.stdout); !ok {
		return false
	}
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToUpper(a.getenv(name)); v != "" {
			return strings.Contains(v, "UTF-8") || strings.Contains(v, "UTF8")
		}
	}
	return false
}

func (a *app) showSlots(cal api.Calendar) {
	slots := slices.Clone(cal.Slots)
	slices.SortStableFunc(slots, func(x, y api.CalendarSlot) int { return x.Start.Compare(y.Start) })
	rows := make([][]string, len(slots))
	for i, s := range slots {
		rows[i] = []string{a.clockTime(s.Start), a.clockTime(s.End), a.clockTime(s.Provision), string(s.State), s.Name, s.Project, strconv.Itoa(s.Workers), s.Zone, s.Series}
	}
	fmt.Fprint(a.stdout, renderTable([]string{"START", "END", "PROVISION", "STATE", "NAME", "PROJECT", "WORKERS", "ZONE", "SERIES"}, rows))
}

func (a *app) calendarFeedCommand() *cobra.Command {
	var req api.FeedRequest
	c := &cobra.Command{
		Use: "feed", Short: "Make the address of a calendar feed",
		Long: `Makes an address that shows a project's calendar, and nothing else, to calendar
programs. It needs no token and is a secret by itself: whoever has it sees the
names, times and states of the project's reservations. It is shown this once;
vcnctl token revoke ID makes it worthless. The program has to trust the
certificate of the hosts.`,
		Example: examples("For a calendar program", "vcnctl calendar feed --project studio --for 1y"),
		Args:    exactly(0, "no arguments"),
		RunE: a.run(func(ctx context.Context, _ []string) error {
			if errs := req.Defaults().Validate(); len(errs) > 0 {
				for i := range errs {
					errs[i].Field = "--" + errs[i].Field
				}
				return usage("the request is not right", "Try: vcnctl calendar feed --help", errs...)
			}
			feed, err := asking(ctx, a, "the feed", func(c *client.Client) (api.Feed, error) {
				feed, err := c.CreateFeed(ctx, req)
				feed.URL = c.Current() + "/" + strings.TrimPrefix(feed.URL, "/")
				return feed, err
			})
			if err != nil {
				return err
			}
			return a.print(feed, func() {
				a.note("feed %s of project %s, until %s; its address is a secret and is shown this once:", feed.ID, oneLine(feed.Project), a.clockTime(feed.Expires))
				fmt.Fprintln(a.stdout, oneLine(feed.URL))
			})
		}),
	}
	c.Flags().StringVar(&req.Project, "project", "", "project (default: the token's)")
	c.Flags().StringVar(&req.For, "for", "", "its life, 1d-10y (default 1y)")
	return c
}
