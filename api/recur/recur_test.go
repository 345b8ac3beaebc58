package recur

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vcn/api"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func berlin(start, length, rule string, except ...string) api.Slot {
	return api.Slot{Start: start, For: length, Zone: "Europe/Berlin", Repeat: rule, Except: except}
}

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := api.LoadZone(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// text is the dates as local and UTC starts.
func text(dates []Occurrence) string {
	var out []string
	for _, d := range dates {
		out = append(out, d.Start.Format("2006-01-02T15:04")+" "+d.Start.UTC().Format("15:04"))
	}
	return strings.Join(out, ", ")
}

func TestExpand(t *testing.T) {
	for name, c := range map[string]struct {
		slot    api.Slot
		want    string
		skipped string
	}{
		"nine stays nine when clocks are put forward": {
			berlin("2026-03-27T09:00", "8h", "FREQ=DAILY;COUNT=4"),
			"2026-03-27T09:00 08:00, 2026-03-28T09:00 08:00, 2026-03-29T09:00 07:00, 2026-03-30T09:00 07:00", ""},
		"and when they are put back": {
			berlin("2026-10-24T09:00", "8h", "FREQ=DAILY;COUNT=3"),
			"2026-10-24T09:00 07:00, 2026-10-25T09:00 08:00, 2026-10-26T09:00 08:00", ""},
		"a time that never is is skipped, named and not counted": {
			berlin("2026-03-28T02:30", "1h", "FREQ=DAILY;COUNT=3"),
			"2026-03-28T02:30 01:30, 2026-03-30T02:30 00:30, 2026-03-31T02:30 00:30", "2026-03-29T02:30"},
		"a time that is twice is the first": {
			berlin("2026-10-24T02:30", "1h", "FREQ=DAILY;COUNT=3"),
			"2026-10-24T02:30 00:30, 2026-10-25T02:30 00:30, 2026-10-26T02:30 01:30", ""},
		"unless an offset of the first start says the second": {
			berlin("2026-10-25T02:30+01:00", "1h", "FREQ=DAILY;COUNT=2"),
			"2026-10-25T02:30 01:30, 2026-10-26T02:30 01:30", ""},
		"hours in the night of one hour less": {
			berlin("2026-03-29T01:00", "1h", "FREQ=HOURLY;COUNT=3"),
			"2026-03-29T01:00 00:00, 2026-03-29T03:00 01:00, 2026-03-29T04:00 02:00", "2026-03-29T02:00"},
		"days of the week": {
			berlin("2026-12-07T09:00", "8h", "freq=weekly;byday=mo,we;count=3"),
			"2026-12-07T09:00 08:00, 2026-12-09T09:00 08:00, 2026-12-14T09:00 08:00", ""},
		"the last Friday": {
			berlin("2026-01-30T09:00", "8h", "FREQ=MONTHLY;BYDAY=-1FR;COUNT=2"),
			"2026-01-30T09:00 08:00, 2026-02-27T09:00 08:00", ""},
		"months without a 31st are left out": {
			berlin("2026-01-31T09:00", "8h", "FREQ=MONTHLY;COUNT=3"),
			"2026-01-31T09:00 08:00, 2026-03-31T09:00 07:00, 2026-05-31T09:00 07:00", ""},
		"until a moment, which is included": {
			berlin("2026-12-07T09:00", "8h", "FREQ=DAILY;UNTIL=20261208T080000Z"),
			"2026-12-07T09:00 08:00, 2026-12-08T09:00 08:00", ""},
		"until just before": {
			berlin("2026-12-07T09:00", "8h", "FREQ=DAILY;UNTIL=20261208T075959Z"),
			"2026-12-07T09:00 08:00", ""},
		"until a local time": {
			berlin("2026-12-07T09:00", "8h", "FREQ=DAILY;UNTIL=20261208T090000"),
			"2026-12-07T09:00 08:00, 2026-12-08T09:00 08:00", ""},
		"until a day, which is included": {
			berlin("2026-12-07T09:00", "8h", "FREQ=DAILY;UNTIL=20261208"),
			"2026-12-07T09:00 08:00, 2026-12-08T09:00 08:00", ""},
		"without a day, and without a start": {
			berlin("2026-12-07T09:00", "1h", "FREQ=DAILY;BYHOUR=9,21;COUNT=6", "2026-12-08", "2026-12-09T21:00", "2026-12-09T08:00Z"),
			"2026-12-07T09:00 08:00, 2026-12-07T21:00 20:00", ""},
		"without a day that is skipped anyway": {
			berlin("2026-03-28T02:30", "1h", "FREQ=DAILY;COUNT=2", "2026-03-29"),
			"2026-03-28T02:30 01:30, 2026-03-30T02:30 00:30", "2026-03-29T02:30"},
		"by its end": {
			api.Slot{Start: "2026-12-07T22:00", End: "2026-12-08T06:00", Zone: "Asia/Tokyo", Repeat: "FREQ=DAILY;COUNT=2"},
			"2026-12-07T22:00 13:00, 2026-12-08T22:00 13:00", ""},
		"a zone far from the offset that was written": {
			berlin("2026-12-07T00:30+09:00", "1h", "FREQ=DAILY;BYDAY=SU,MO;COUNT=2"),
			"2026-12-06T16:30 15:30, 2026-12-07T16:30 15:30", ""},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := ExpandAll(c.slot, now, 100)
			if err != nil || text(e.Dates) != c.want || strings.Join(e.Skipped, ", ") != c.skipped {
				t.Errorf("got %v, skipped %v, %v\nwant %s", text(e.Dates), e.Skipped, err, c.want)
			}
			dates, err := Expand(c.slot, now, 100)
			if err != nil || !slices.Equal(dates, e.Dates) {
				t.Error(dates, err)
			}
		})
	}
}

func TestDatesAreNamedByDayAndByHourWhereADayHasSeveral(t *testing.T) {
	for rule, want := range map[string]string{
		"FREQ=DAILY;COUNT=2":                    "a-20261231, a-20270101",
		"FREQ=DAILY;BYHOUR=0,12;COUNT=3":        "a-20261231-0030, a-20261231-1230, a-20270101-0030",
		"FREQ=WEEKLY;BYDAY=TH;BYHOUR=0;COUNT=2": "a-20261231, a-20270107",
	} {
		dates, err := Expand(berlin("2026-12-31T00:30", "1h", rule), now, 100)
		var names []string
		for _, d := range dates {
			names = append(names, d.Name("a"))
		}
		if got := strings.Join(names, ", "); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", rule, got, err, want)
		}
	}
	// What the contract allows for a series' name leaves room for the longest.
	if n := len(Occurrence{Suffix: "20261231-0030"}.Name(strings.Repeat("a", api.SeriesNameMax))); n != 40 {
		t.Error(n)
	}
}

func TestExpandRefuses(t *testing.T) {
	daily := "FREQ=DAILY;COUNT=5"
	for name, c := range map[string]struct {
		slot  api.Slot
		max   int
		field string
		want  string
	}{
		"no rule":                             {api.Slot{Start: "2026-12-07T09:00Z", For: "1h"}, 100, "slot.repeat", "a recurrence rule"},
		"a wrong rule":                        {berlin("2026-12-07T09:00", "1h", "FREQ=DAILY"), 100, "slot.repeat", "COUNT and UNTIL"},
		"a start that is past":                {berlin("2025-12-07T09:00", "1h", daily), 100, "slot.start", "a time to come"},
		"a start that the rule does not give": {berlin("2026-12-07T09:00", "1h", "FREQ=WEEKLY;BYDAY=TU;COUNT=3"), 100, "slot.start", "the next is 2026-12-08T09:00 in Europe/Berlin"},
		"no such day, ever":                   {berlin("2026-12-07T09:00", "1h", "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30;COUNT=3"), 100, "slot.repeat", "no such day"},
		"until before the start":              {berlin("2026-12-07T09:00", "1h", "FREQ=DAILY;UNTIL=20261206"), 100, "slot.repeat", "UNTIL at or after"},
		"until ages ago":                      {berlin("2026-12-07T09:00", "1h", "FREQ=DAILY;UNTIL=19000101T000000Z"), 100, "slot.repeat", "UNTIL at or after"},
		"more dates than allowed":             {berlin("2026-12-07T09:00", "1h", daily), 4, "slot.repeat", "at most 4 dates"},
		"more dates than ever allowed":        {berlin("2026-12-07T09:00", "30m", "FREQ=HOURLY;UNTIL=20270101"), 10_000, "slot.repeat", "at most 400 dates"},
		"none allowed":                        {berlin("2026-12-07T09:00", "1h", daily), 0, "slot.repeat", "at most 0 dates"},
		"dates in six years":                  {berlin("2026-12-07T09:00", "1h", "FREQ=YEARLY;COUNT=7"), 100, "slot.repeat", "within 5 years of the first: 6 are"},
		"until in six years":                  {berlin("2026-12-07T09:00", "1h", "FREQ=MONTHLY;UNTIL=20321207"), 100, "slot.repeat", "within 5 years"},
		"dates that overlap":                  {berlin("2026-12-07T09:00", "25h", daily), 100, "slot.for", "dates that do not overlap: one starts at 2026-12-08T09:00:00+01:00, the one before ends at 2026-12-08T10:00:00+01:00"},
		"dates that overlap in one night":     {berlin("2026-03-27T09:00", "24h", daily), 100, "slot.for", "starts at 2026-03-29T09:00:00+02:00"},
		"dates that overlap, by their end":    {api.Slot{Start: "2026-12-07T09:00", End: "2026-12-09T09:00", Zone: "UTC", Repeat: daily}, 100, "slot.end", "do not overlap"},
		"an exception beside the series":      {berlin("2026-12-07T09:00", "1h", daily, "2026-12-08", "2027-12-24"), 100, "slot.except[1]", "the nearest is 2026-12-11"},
		"an exception at another hour":        {berlin("2026-12-07T09:00", "1h", daily, "2026-12-08T10:00"), 100, "slot.except[0]", "the nearest is 2026-12-08T09:00+01:00"},
		"nothing but exceptions":              {berlin("2026-12-07T09:00", "1h", "FREQ=DAILY;COUNT=2", "2026-12-07", "2026-12-08"), 100, "slot.except", "at least one date"},
		"a wrong zone":                        {api.Slot{Start: "2026-12-07T09:00", For: "1h", Zone: "Local", Repeat: daily}, 100, "slot.zone", "IANA"},
	} {
		t.Run(name, func(t *testing.T) {
			dates, err := Expand(c.slot, now, c.max)
			var f api.FieldError
			if !errors.As(err, &f) || f.Field != c.field || !strings.Contains(f.Want, c.want) || dates != nil {
				t.Errorf("got %v %v, want an error about %s: %s", dates, err, c.field, c.want)
			}
		})
	}
}

// Exceptions are what makes a long rule fit: those left out do not count
// against the limit.
func TestLeftOutDatesDoNotCountAgainstTheLimit(t *testing.T) {
	dates, err := Expand(berlin("2026-12-07T09:00", "1h", "FREQ=DAILY;COUNT=5", "2026-12-08"), now, 4)
	if err != nil || len(dates) != 4 {
		t.Error(dates, err)
	}
}

// A daily or weekly rule gives what walking over the days gives.
func TestExpandKeepsTheWallClock(t *testing.T) {
	zones := []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC", "America/St_Johns", "Africa/Casablanca"}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom(zones).Draw(t, "zone")
		z, err := api.LoadZone(name)
		if err != nil {
			t.Fatal(err)
		}
		day := rapid.IntRange(1, 700).Draw(t, "day")
		hour, minute := rapid.IntRange(0, 23).Draw(t, "hour"), rapid.IntRange(0, 59).Draw(t, "minute")
		step := rapid.IntRange(1, 14).Draw(t, "interval")
		count := rapid.IntRange(1, 60).Draw(t, "count")
		wall := time.Date(2026, 1, 1+day, hour, minute, 0, 0, time.UTC)
		if _, ok := api.WallTime(wall, z); !ok {
			return // a first start that never is: refused, as tested elsewhere
		}
		option := api.Slot{Start: wall.Format("2006-01-02T15:04"), For: "30m", Zone: name,
			Repeat: "FREQ=DAILY;INTERVAL=" + strconv.Itoa(step) + ";COUNT=" + strconv.Itoa(count)}
		e, err := ExpandAll(option, now, 400)
		if err != nil {
			t.Fatalf("%+v: %v", option, err)
		}
		if len(e.Dates) != count {
			t.Fatalf("%d dates, want %d", len(e.Dates), count)
		}
		i, skipped := 0, 0
		for d := wall; i < count; d = d.AddDate(0, 0, step) {
			at, ok := api.WallTime(d, z)
			if !ok {
				if skipped >= len(e.Skipped) || e.Skipped[skipped] != d.Format("2006-01-02T15:04") {
					t.Fatalf("%v is not among %v", d, e.Skipped)
				}
				skipped++
				continue
			}
			o := e.Dates[i]
			if !o.Start.Equal(at) || o.Start.Hour() != hour || o.Start.Minute() != minute || o.End.Sub(o.Start) != 30*time.Minute ||
				o.Suffix != d.Format("20060102") {
				t.Fatalf("date %d: %+v, want %v", i, o, at)
			}
			i++
		}
		if skipped != len(e.Skipped) {
			t.Fatalf("skipped %v", e.Skipped)
		}
	})
}

// Whatever rule is given, the answer is an error with words or dates in order
// that keep all bounds.
func FuzzExpand(f *testing.F) {
	for _, s := range []string{"FREQ=WEEKLY;BYDAY=MO,WE;COUNT=20", "FREQ=HOURLY;INTERVAL=7;COUNT=400", "FREQ=YEARLY;BYWEEKNO=53;COUNT=2",
		"FREQ=MONTHLY;BYDAY=MO,TU,WE;BYSETPOS=-1;UNTIL=20300101", "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30;COUNT=1", "FREQ=YEARLY;BYYEARDAY=-366;COUNT=3",
		"FREQ=HOURLY;BYMINUTE=0,30;BYDAY=SU;COUNT=9", "FREQ=MONTHLY;BYDAY=5SU;BYHOUR=2;BYMINUTE=30;COUNT=9"} {
		f.Add(s, "2026-10-25T02:30", uint16(60))
	}
	f.Fuzz(func(t *testing.T, rule, start string, minutes uint16) {
		slot := api.Slot{Start: start, For: api.FormatDuration(time.Duration(minutes) * time.Minute), Zone: "Europe/Berlin", Repeat: rule}
		e, err := ExpandAll(slot, now, 100)
		if err != nil {
			var f api.FieldError
			if !errors.As(err, &f) || f.Field == "" || f.Want == "" {
				t.Fatal(err)
			}
			return
		}
		if len(e.Dates) == 0 || len(e.Dates) > 100 {
			t.Fatalf("%d dates", len(e.Dates))
		}
		seen := map[string]bool{}
		for i, d := range e.Dates {
			if i > 0 && d.Start.Before(e.Dates[i-1].End) || seen[d.Suffix] || d.Start.After(e.Dates[0].Start.AddDate(api.SeriesYearsMax, 0, 1)) {
				t.Fatalf("date %d: %+v of %s", i, d, text(e.Dates))
			}
			seen[d.Suffix] = true
		}
	})
}

// The library looks until the year 9999 for a date. What that costs bounds how
// long a wrong rule keeps a host busy: ns/op is what matters.
func BenchmarkRuleThatNeverGivesADate(b *testing.B) {
	for _, rule := range []string{
		"FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30;COUNT=1", "FREQ=MONTHLY;BYMONTH=2;BYMONTHDAY=30;COUNT=1",
		"FREQ=WEEKLY;BYMONTH=2;BYDAY=MO;BYSETPOS=300;COUNT=1", "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30;COUNT=1",
		"FREQ=HOURLY;BYMONTH=2;BYMONTHDAY=30;COUNT=1", "FREQ=HOURLY;BYDAY=MO;BYSETPOS=300;COUNT=1",
		"FREQ=DAILY;BYDAY=MO;BYHOUR=1,2,3,4,5,6;BYSETPOS=300;COUNT=1",
	} {
		b.Run(rule, func(b *testing.B) {
			for b.Loop() {
				if _, err := Expand(berlin("2026-12-07T09:00", "1h", rule), now, 100); err == nil {
					b.Fatal("dates of a rule that gives none")
				}
			}
		})
	}
}

func TestZoneOfDatesIsTheSlots(t *testing.T) {
	dates, err := Expand(berlin("2026-12-07T09:00+09:00", "1h", "FREQ=DAILY;COUNT=1"), now, 1)
	if err != nil || dates[0].Start.Location().String() != "Europe/Berlin" || dates[0].End.Location().String() != "Europe/Berlin" {
		t.Error(dates, err)
	}
	if want := time.Date(2026, 12, 7, 1, 0, 0, 0, zone(t, "Europe/Berlin")); !dates[0].Start.Equal(want) {
		t.Error(dates[0].Start)
	}
}
