package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vcn/api"
)

// slotFlags say when.
type slotFlags struct {
	start, latest, end, length, zone, repeat string
	except                                   []string
}

func (f *slotFlags) register(fl *pflag.FlagSet) {
	fl.StringVar(&f.start, "start", "", "asap, or a time, such as 2030-12-01T09:00+09:00, or 2030-12-01T09:00 in your zone (default asap)")
	fl.StringVar(&f.latest, "latest", "", "latest start: it starts as early as it fits, from --start to then")
	fl.StringVar(&f.zone, "zone", "", "IANA time zone of times without an offset, such as Europe/Berlin (default: TZ, or this machine's)")
}

// registerEnd is of commands that say when the slot ends.
func (f *slotFlags) registerEnd(fl *pflag.FlagSet) {
	fl.StringVar(&f.end, "end", "", "end of the slot, a time as for --start")
	fl.StringVar(&f.length, "for", "", "length of the slot, such as 90m, 8h, 30d, 2w")
}

func (f *slotFlags) registerRepeat(fl *pflag.FlagSet) {
	fl.StringVar(&f.repeat, "repeat", "", "repeat the slot by a rule of RFC 5545 with COUNT or UNTIL, such as 'FREQ=WEEKLY;BYDAY=MO,WE;COUNT=20'")
	fl.StringSliceVar(&f.except, "except", nil, "dates of the series that are left out, such as 2030-12-24, with commas")
}

// apply replaces what was given.
func (f *slotFlags) apply(a *app, s *api.Slot) error {
	if f.end != "" && f.length != "" {
		return usage("--end and --for exclude each other", "Give one of them")
	}
	for to, from := range map[*string]string{&s.Start: f.start, &s.Latest: f.latest, &s.Repeat: f.repeat} {
		if from != "" {
			*to = from
		}
	}
	if f.end != "" || f.length != "" {
		s.End, s.For = f.end, f.length
	}
	if len(f.except) > 0 {
		s.Except = f.except
	}
	return a.inZone(s, f.zone)
}

// endFlags say what happens at the end of the slot, and who is told.
type endFlags struct {
	action, grace, parkFor, webhook, mail string
	warn                                  []string
}

// register says what is so by default, where what is not given is so, and not
// as it was.
func (f *endFlags) register(c *cobra.Command, defaults bool) {
	fl := c.Flags()
	note := func(s string) string {
		if !defaults {
			return ""
		}
		return " (default " + s + ")"
	}
	fl.StringVar(&f.action, "at-end", "", "release (all is deleted) or park (volumes are kept)"+note("release"))
	fl.StringVar(&f.grace, "grace", "", "time after the end in which work can still be saved, up to 1h"+note("0s"))
	fl.StringVar(&f.parkFor, "park-for", "", "how long parked volumes are kept, 1h-1y"+note("30d"))
	fl.StringSliceVar(&f.warn, "warn", nil, "how long before the end to warn, with commas; 0s: never"+note("1d,1h,10m"))
	fl.StringVar(&f.webhook, "webhook", "", "https URL that gets a POST of each event")
	fl.StringVar(&f.mail, "mail", "", "address that gets a mail for each event")
	_ = c.RegisterFlagCompletionFunc("at-end", cobra.FixedCompletions([]string{api.EndRelease, api.EndPark}, cobra.ShellCompDirectiveNoFileComp))
}

// apply returns what was, with what was given; nil where nothing was given.
func (f *endFlags) apply(set *pflag.FlagSet, end *api.AtEnd, notify *api.Notify) (*api.AtEnd, *api.Notify) {
	var newEnd api.AtEnd
	var newNotify api.Notify
	if end != nil {
		newEnd = *end
	}
	if notify != nil {
		newNotify = *notify
	}
	endGiven, notifyGiven := false, false
	for name, to := range map[string]struct {
		to    *string
		from  string
		given *bool
	}{
		"at-end":   {&newEnd.Action, f.action, &endGiven},
		"grace":    {&newEnd.Grace, f.grace, &endGiven},
		"park-for": {&newEnd.ParkFor, f.parkFor, &endGiven},
		"webhook":  {&newNotify.Webhook, f.webhook, &notifyGiven},
		"mail":     {&newNotify.Mail, f.mail, &notifyGiven},
	} {
		if set.Changed(name) {
			*to.to, *to.given = to.from, true
		}
	}
	if set.Changed("warn") {
		newEnd.Warn, endGiven = f.warn, true
	}
	var outEnd *api.AtEnd
	var outNotify *api.Notify
	if endGiven {
		outEnd = &newEnd
	}
	if notifyGiven {
		outNotify = &newNotify
	}
	return outEnd, outNotify
}

// flagOfField is the flag that a wrong field of a slot, of its end, or of a
// notification came from; empty for other fields.
func flagOfField(field string) string {
	field, _, _ = strings.Cut(field, "[")
	return map[string]string{
		"slot.start": "--start", "slot.latest": "--latest", "slot.end": "--end", "slot.for": "--for", "slot.zone": "--zone",
		"slot.repeat": "--repeat", "slot.except": "--except", "slot": "--start",
		"atEnd.action": "--at-end", "atEnd.grace": "--grace", "atEnd.parkFor": "--park-for", "atEnd.warn": "--warn",
		"notify.webhook": "--webhook", "notify.mail": "--mail",
	}[field]
}

// rangeOf reads 8h or 4h..8h: what would do at least, and what is wanted.
func rangeOf(text string) (lo, hi string, err error) {
	lo, hi, ranged := strings.Cut(text, "..")
	if !ranged {
		return "", text, nil
	}
	a, errA := api.ParseDuration(lo)
	b, errB := api.ParseDuration(hi)
	if errA != nil || errB != nil || a > b {
		return "", "", api.FieldError{Field: "--for", Value: text, Want: "a length such as 8h, or the shortest and the wanted one, such as 4h..8h"}
	}
	return lo, hi, nil
}

// countRange is a flag: 16, or 8..16 for at least 8 and 16 wanted.
type countRange struct{ lo, hi int }

func (c *countRange) String() string {
	if c.lo != 0 {
		return fmt.Sprintf("%d..%d", c.lo, c.hi)
	}
	return fmt.Sprint(c.hi)
}
func (c *countRange) Type() string { return "count" }
func (c *countRange) Set(s string) error {
	lo, hi, ranged := strings.Cut(s, "..")
	if !ranged {
		lo, hi = "0", lo
	}
	var got countRange
	var rest string
	n, _ := fmt.Sscanf(lo+" "+hi+" .", "%d %d %s", &got.lo, &got.hi, &rest)
	if n != 3 || rest != "." || got.lo < 0 || ranged && got.lo < 1 || got.lo > got.hi {
		return api.FieldError{Value: s, Want: "a number such as 16, or the fewest and the wanted one, such as 8..16"}
	}
	*c = got
	return nil
}
