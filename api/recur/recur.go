package recur

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/teambition/rrule-go"

	"vcn/api"
)

// Occurrence is one date of a series, in the slot's zone.
type Occurrence struct {
	Start  time.Time
	End    time.Time
	Suffix string // YYYYMMDD in the zone; -HHMM follows, for all, if any day has several
}

// Name is the name of this date's reservation.
func (o Occurrence) Name(series string) string { return series + "-" + o.Suffix }

// Expansion is what a rule gives.
type Expansion struct {
	Dates   []Occurrence
	Skipped []string // wall times that the rule gives and clocks never show, such as 2030-03-31T02:30
}

// Expand is the dates of ExpandAll.
func Expand(slot api.Slot, now time.Time, max int) ([]Occurrence, error) {
	e, err := ExpandAll(slot, now, max)
	return e.Dates, err
}

// ExpandAll is the dates of a slot that repeats, at the moment now, in order; at
// most max (and api.SeriesDatesMax) without those that are left out, from the
// first start to the last at most api.SeriesYearsMax. It returns at least one.
// Errors are FieldErrors of slot's fields: those of ResolveWindow; a first start
// that the rule does not give; too many dates, or too few before the limit;
// dates that overlap; an exception that leaves nothing out.
func ExpandAll(slot api.Slot, now time.Time, max int) (Expansion, error) {
	if slot.Repeat == "" {
		return Expansion{}, api.FieldError{Field: "slot.repeat", Want: "a recurrence rule, such as FREQ=WEEKLY;COUNT=20"}
	}
	w, err := api.Spec{Slot: slot}.ResolveWindow(now)
	if err != nil {
		return Expansion{}, err
	}
	s := &series{slot: slot, zone: w.Zone, first: w.Earliest.In(w.Zone), max: min(max, api.SeriesDatesMax)}
	s.length = w.EndOf(w.Earliest).Sub(w.Earliest)
	if err := s.readRule(); err != nil {
		return Expansion{}, err
	}
	if err := s.readExcept(); err != nil {
		return Expansion{}, err
	}
	if err := s.iterate(); err != nil {
		return Expansion{}, err
	}
	if err := s.check(); err != nil {
		return Expansion{}, err
	}
	s.name()
	return Expansion{Dates: s.dates, Skipped: s.skipped}, nil
}

// The Gregorian calendar is the same again after 400 years, days of the week
// included. The library is asked about the last years it knows (its MAXYEAR is
// 9999), so that it gives up a rule without dates 20 times sooner.
const (
	calendarYears = 400
	lastYear      = 9999 - 2*api.SeriesYearsMax
)

// series is an expansion at work.
type series struct {
	slot   api.Slot
	zone   *time.Location
	first  time.Time
	length time.Duration
	max    int

	count  int       // 0: until counts
	until  time.Time // first moment that is too late
	rule   *rrule.RRule
	shift  int // years that rule is ahead
	except []exception

	dates   []Occurrence
	all     []time.Time // left-out ones too
	skipped []string
}

type exception struct {
	at      time.Time
	isDate  bool
	matched bool
}

func bad(field, value, format string, args ...any) error {
	return api.FieldError{Field: "slot." + field, Value: value, Want: fmt.Sprintf(format, args...)}
}

// ofField says which field an error is about.
func ofField(field string, err error) error {
	var f api.FieldError
	if errors.As(err, &f) {
		f.Field = "slot." + field
		return f
	}
	return fmt.Errorf("read slot.%s: %w", field, err)
}

// floating is what clocks show at t, as if it were UTC.
func floating(t time.Time) time.Time {
	y, m, d := t.Date()
	return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
}

func (s *series) readRule() error {
	normal, err := api.NormalRepeat(s.slot.Repeat)
	if err != nil {
		return ofField("repeat", err)
	}
	option, err := rrule.StrToROptionInLocation(normal, s.zone)
	if err != nil {
		return bad("repeat", s.slot.Repeat, "a recurrence rule: %s", err)
	}
	s.count = option.Count
	if s.count == 0 {
		s.until = option.Until.Add(time.Second)
		if untilIsDate(normal) {
			y, m, d := option.Until.Date()
			s.until = time.Date(y, m, d+1, 0, 0, 0, 0, s.zone)
		}
		if !s.first.Before(s.until) {
			return bad("repeat", s.slot.Repeat, "UNTIL at or after the first start, %s", s.slot.Start)
		}
	}
	s.shift = (lastYear - s.first.Year()) / calendarYears * calendarYears
	option.Dtstart, option.Count, option.Until = floating(s.first).AddDate(s.shift, 0, 0), 0, time.Time{}
	if s.rule, err = rrule.NewRRule(*option); err != nil {
		return bad("repeat", s.slot.Repeat, "a recurrence rule: %s", err)
	}
	return nil
}

func untilIsDate(rule string) bool {
	_, after, _ := strings.Cut(rule, "UNTIL=")
	value, _, _ := strings.Cut(after, ";")
	return len(value) == len("20301224")
}

func (s *series) readExcept() error {
	for i, e := range s.slot.Except {
		t, isDate, err := api.ParseExcept(e, s.zone)
		if err != nil {
			return ofField(fmt.Sprintf("except[%d]", i), err)
		}
		s.except = append(s.except, exception{at: t, isDate: isDate})
	}
	return nil
}

// iterate collects the dates.
func (s *series) iterate() error {
	last := s.first.AddDate(api.SeriesYearsMax, 0, 0)
	next := s.rule.Iterator()
	back := func(t time.Time, ok bool) (time.Time, bool) { return t.AddDate(-s.shift, 0, 0), ok }
	for n := 0; s.count == 0 || n < s.count; {
		wall, ok := back(next())
		if len(s.all) == 0 && (!ok || !wall.Equal(floating(s.first))) {
			return s.firstIsNone(wall, ok)
		}
		if !ok || wall.After(floating(last)) {
			if s.count == 0 && (!ok || !wall.Before(floating(s.until))) {
				return nil
			}
			return bad("repeat", s.slot.Repeat, "all dates within %d years of the first: %d are", api.SeriesYearsMax, n)
		}
		start, exists := api.WallTime(wall, s.zone)
		if len(s.all) == 0 {
			start = s.first // the second of two, if an offset said so
		}
		if exists && s.count == 0 && !start.Before(s.until) || !exists && s.count == 0 && wall.After(floating(s.until.In(s.zone))) {
			return nil
		}
		if !exists {
			s.leaveOut(wall, time.Time{})
			s.skipped = append(s.skipped, wall.Format("2006-01-02T15:04"))
			continue
		}
		n++
		s.all = append(s.all, start)
		if s.leaveOut(wall, start) {
			continue
		}
		if len(s.dates) >= s.max {
			return bad("repeat", s.slot.Repeat, "at most %d dates", s.max)
		}
		s.dates = append(s.dates, Occurrence{Start: start, End: start.Add(s.length).In(s.zone)})
	}
	return nil
}

// firstIsNone is the error of a first start that the rule does not give.
func (s *series) firstIsNone(wall time.Time, ok bool) error {
	if !ok {
		return bad("repeat", s.slot.Repeat, "a rule that gives dates: there is no such day")
	}
	return bad("start", s.slot.Start, "a first start that the rule gives; the next is %s in %s", wall.Format("2006-01-02T15:04"), s.zone)
}

// leaveOut marks the exceptions that a date matches.
func (s *series) leaveOut(wall, start time.Time) (left bool) {
	for i := range s.except {
		e := &s.except[i]
		if e.isDate && e.at.Equal(wall.Truncate(24*time.Hour)) || !e.isDate && !start.IsZero() && e.at.Equal(start) {
			e.matched, left = true, true
		}
	}
	return left
}

// check looks at the dates together.
func (s *series) check() error {
	for i, e := range s.except {
		if !e.matched {
			return bad(fmt.Sprintf("except[%d]", i), s.slot.Except[i], "a date or start of the series; the nearest is %s", s.nearest(e))
		}
	}
	if len(s.dates) == 0 {
		return bad("except", fmt.Sprintf("%d dates", len(s.except)), "at least one date that is not left out")
	}
	for i := 1; i < len(s.dates); i++ {
		a, b := s.dates[i-1], s.dates[i]
		if b.Start.Before(a.End) {
			field, value := "for", s.slot.For
			if value == "" {
				field, value = "end", s.slot.End
			}
			return bad(field, value, "dates that do not overlap: one starts at %s, the one before ends at %s",
				b.Start.Format(time.RFC3339), a.End.Format(time.RFC3339))
		}
	}
	return nil
}

// nearest is the date of the series that is closest to an exception.
func (s *series) nearest(e exception) string {
	best, distance := "", time.Duration(math.MaxInt64)
	for _, t := range s.all {
		d, text := t.Sub(e.at).Abs(), t.Format("2006-01-02T15:04Z07:00")
		if e.isDate {
			d, text = floating(t).Truncate(24*time.Hour).Sub(e.at).Abs(), t.Format(time.DateOnly)
		}
		if d < distance {
			best, distance = text, d
		}
	}
	return best
}

// name gives the dates their suffixes.
func (s *series) name() {
	layout := "20060102"
	for i := 1; i < len(s.dates); i++ {
		if s.dates[i].Start.Format(layout) == s.dates[i-1].Start.Format(layout) {
			layout = "20060102-1504"
			break
		}
	}
	for i := range s.dates {
		s.dates[i].Suffix = s.dates[i].Start.Format(layout)
	}
}
