package api

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// StartAsap is the text of a slot's start that means as soon as possible.
const StartAsap = "asap"

// Limits of a slot.
const (
	SlotLengthMin = time.Minute
	SlotLengthMax = 5 * 365 * 24 * time.Hour
	// SlotAheadMax is how far in the future a slot may start.
	SlotAheadMax = 10 * 365 * 24 * time.Hour
	// SlotPastGrace is how long ago a start may be and still be taken, as
	// clocks differ and requests travel.
	SlotPastGrace = time.Minute
)

const (
	day  = 24 * time.Hour
	week = 7 * day
	year = 365 * day

	wantDuration = "a length such as 90m, 8h, 30d or 2w"
	wantTime     = "a time with a zone, such as 2030-12-01T09:00+09:00 or 2030-12-01T00:00Z"
	wantStart    = "asap, or " + wantTime
)

var durationPart = regexp.MustCompile(`^([0-9]+)(s|m|h|d|w|y)`)

var durationUnits = map[string]time.Duration{
	"s": time.Second, "m": time.Minute, "h": time.Hour, "d": day, "w": week, "y": year,
}

// ParseDuration reads 90m, 8h, 30d, 2w, 1y (365 days), 45s, and larger before
// smaller units together, as in 1d12h. A day is 24 hours. The error is a
// FieldError without a field.
func ParseDuration(s string) (time.Duration, error) {
	bad := FieldError{Value: s, Want: wantDuration}
	if s == "" {
		return 0, bad
	}
	var total time.Duration
	last := time.Duration(math.MaxInt64)
	for rest := s; rest != ""; {
		m := durationPart.FindStringSubmatch(rest)
		if m == nil {
			return 0, bad
		}
		unit := durationUnits[m[2]]
		n, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil || n > int64((math.MaxInt64-total)/unit) {
			return 0, FieldError{Value: s, Want: "at most 290 years"}
		}
		if unit >= last {
			return 0, bad
		}
		total += time.Duration(n) * unit
		last, rest = unit, rest[len(m[0]):]
	}
	return total, nil
}

// FormatDuration is the text that ParseDuration reads back, cut to seconds, in
// at most two units where d is made of whole ones: 30d, 1d12h, 1m30s. Weeks
// and years are not used, as days are easier to compare.
func FormatDuration(d time.Duration) string {
	d = d.Truncate(time.Second)
	if d <= 0 {
		return "0s"
	}
	var b strings.Builder
	for _, u := range []struct {
		name string
		size time.Duration
	}{{"d", day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		if n := d / u.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d -= n * u.size
		}
	}
	return b.String()
}

var (
	timeNoZone = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?$`)
	timeSpaced = regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d`)
	timeDate   = regexp.MustCompile(`^\d{4}-\d\d-\d\d$`)
)

// ParseTime reads an RFC 3339 time with a zone; seconds may be left out. Years
// are 2000 to 9000. The error is a FieldError without a field.
func ParseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00"} {
		t, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		if y := t.UTC().Year(); y < 2000 || y > 9000 {
			return time.Time{}, FieldError{Value: s, Want: "a year from 2000 to 9000"}
		}
		return t, nil
	}
	want := wantTime
	switch {
	case timeNoZone.MatchString(s):
		want = fmt.Sprintf("a zone at its end, such as %sZ (UTC) or %s+09:00", s, s)
	case timeSpaced.MatchString(s):
		want = "a T between date and time, and a zone: 2030-12-01T09:00+09:00"
	case timeDate.MatchString(s):
		want = fmt.Sprintf("a time of day and a zone too: %sT09:00+09:00", s)
	}
	return time.Time{}, FieldError{Value: s, Want: want}
}

// ResolveSlot turns the slot into times at the moment now. With start: asap,
// asap is true and start is now, to be moved by whoever plans: the length is
// what counts then, unless the slot has a fixed end. Errors are FieldErrors:
// those of Validate, and a start that is past or too far ahead, or an end that
// is past.
func (s Spec) ResolveSlot(now time.Time) (start, end time.Time, asap bool, err error) {
	p, errs := s.Slot.parse()
	if len(errs) > 0 {
		return time.Time{}, time.Time{}, false, errs[0]
	}
	start = p.start
	if p.asap {
		start = now
	}
	end = p.end
	if end.IsZero() {
		end = start.Add(p.length)
	}
	switch length := end.Sub(start); {
	case start.Before(now.Add(-SlotPastGrace)):
		err = FieldError{"slot.start", s.Slot.Start, "a time to come, or asap (it is " + now.UTC().Format(time.RFC3339) + " now)"}
	case start.Sub(now) > SlotAheadMax:
		err = FieldError{"slot.start", s.Slot.Start, "at most 10 years ahead"}
	case !end.After(start):
		err = FieldError{"slot.end", s.Slot.End, "a time to come, after the start"}
	case length < SlotLengthMin:
		err = FieldError{"slot.end", s.Slot.End, "at least 1m after the start"}
	case length > SlotLengthMax:
		err = FieldError{"slot.end", s.Slot.End, "at most 5y after the start"}
	}
	if err != nil {
		return time.Time{}, time.Time{}, false, err
	}
	return start, end, p.asap, nil
}

// parsedSlot is a slot's parts as values; end is zero if length is given.
type parsedSlot struct {
	asap       bool
	start, end time.Time
	length     time.Duration
}

// parse checks everything that needs no clock.
func (s Slot) parse() (p parsedSlot, errs []FieldError) {
	bad := func(field, value, want string) {
		errs = append(errs, FieldError{Field: "slot." + field, Value: value, Want: want})
	}
	var err error
	switch s.Start {
	case "":
		bad("start", "", wantStart)
	case StartAsap:
		p.asap = true
	default:
		if p.start, err = ParseTime(s.Start); err != nil {
			bad("start", s.Start, "asap, or "+err.(FieldError).Want)
		}
	}
	switch {
	case s.End == "" && s.For == "":
		bad("for", "", wantDuration+" (or slot.end)")
	case s.End != "" && s.For != "":
		bad("end", s.End, "only one of end and for; for is "+strconv.Quote(s.For))
	case s.For != "":
		if p.length, err = ParseDuration(s.For); err != nil {
			bad("for", s.For, err.(FieldError).Want)
		} else if p.length < SlotLengthMin || p.length > SlotLengthMax {
			bad("for", s.For, "1m to 5y")
		}
	default:
		if p.end, err = ParseTime(s.End); err != nil {
			bad("end", s.End, err.(FieldError).Want)
		} else if !p.start.IsZero() && !p.end.After(p.start) {
			bad("end", s.End, "a time after the start, "+s.Start)
		} else if !p.start.IsZero() && p.end.Sub(p.start) < SlotLengthMin {
			bad("end", s.End, "at least 1m after the start, "+s.Start)
		} else if !p.start.IsZero() && p.end.Sub(p.start) > SlotLengthMax {
			bad("end", s.End, "at most 5y after the start, "+s.Start)
		}
	}
	return p, errs
}
