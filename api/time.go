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

// ParseTime is ParseTimeIn without a zone: the time must carry one.
func ParseTime(s string) (time.Time, error) { return ParseTimeIn(s, nil) }

// ParseTimeIn reads an RFC 3339 time, whose seconds may be left out. A time
// without an offset is what clocks show in zone; where zone is nil, it is an
// error. Such a time may exist twice, when clocks are put back: it is the first
// of the two then (RFC 5545 3.3.5), and an offset says which one is meant. A
// time that clocks never show, as they are put forward, is an error that names
// the nearest ones. Years are 2000 to 9000. The error is a FieldError without a
// field.
func ParseTimeIn(s string, zone *time.Location) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00"} {
		if t, err := time.Parse(layout, s); err == nil {
			return checkYear(s, t)
		}
	}
	want := wantTime
	switch {
	case zone != nil && timeNoZone.MatchString(s):
		for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04"} {
			if wall, err := time.Parse(layout, s); err == nil {
				return localTime(s, wall, zone)
			}
		}
	case timeNoZone.MatchString(s):
		want = fmt.Sprintf("a zone at its end, such as %sZ (UTC) or %s+09:00, or slot.zone, such as Europe/Berlin", s, s)
	case timeSpaced.MatchString(s):
		want = "a T between date and time, and a zone: 2030-12-01T09:00+09:00"
	case timeDate.MatchString(s):
		want = fmt.Sprintf("a time of day and a zone too: %sT09:00+09:00", s)
	}
	return time.Time{}, FieldError{Value: s, Want: want}
}

func checkYear(s string, t time.Time) (time.Time, error) {
	if y := t.UTC().Year(); y < 2000 || y > 9000 {
		return time.Time{}, FieldError{Value: s, Want: "a year from 2000 to 9000"}
	}
	return t, nil
}

// localTime is the moment of a wall time s in a zone.
func localTime(s string, wall time.Time, zone *time.Location) (time.Time, error) {
	if _, err := checkYear(s, wall); err != nil {
		return time.Time{}, err
	}
	at, last, next, ok := inZone(wall, zone)
	if !ok {
		const layout = "2006-01-02T15:04"
		return time.Time{}, FieldError{Value: s, Want: fmt.Sprintf("a time that exists in %s, where clocks are put forward then: %s or %s",
			zone, last.Format(layout), next.Format(layout))}
	}
	return at, nil
}

// WallTime is the moment at which clocks in zone show the given date and time
// of day (whatever the location of wall), the first of two as in [ParseTimeIn].
// It is false where they never show it.
func WallTime(wall time.Time, zone *time.Location) (time.Time, bool) {
	y, m, d := wall.Date()
	at, _, _, ok := inZone(time.Date(y, m, d, wall.Hour(), wall.Minute(), wall.Second(), 0, time.UTC), zone)
	return at, ok
}
