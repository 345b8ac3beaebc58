package api

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := LoadZone(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestLoadZoneTakesNamesAndNothingElse(t *testing.T) {
	for _, name := range []string{"UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "Asia/Kathmandu", "CET"} {
		if z, err := LoadZone(name); err != nil || z.String() != name {
			t.Errorf("%s: %v %v", name, z, err)
		}
	}
	for name, want := range map[string]string{
		"":                        "an IANA time zone, such as",
		"Local":                   "differs from machine to machine",
		"local":                   "differs from machine to machine",
		"+09:00":                  "an offset from UTC belongs to the time",
		"Z":                       "an offset from UTC belongs to the time",
		"/etc/localtime":          "an IANA time zone, such as",
		"../Europe/Berlin":        "an IANA time zone, such as",
		"Europe/../UTC":           "an IANA time zone, such as",
		"Europe":                  "an IANA time zone, such as",
		"Europe/Atlantis":         "an IANA time zone, such as",
		"europe/berlin":           `did you mean "Europe/Berlin"?`,
		"New York":                `did you mean "America/New_York"?`,
		"tokyo":                   `did you mean "Asia/Tokyo"?`,
		"Europe/Berlin\x00":       "an IANA time zone, such as",
		strings.Repeat("a", 1000): "an IANA time zone, such as",
	} {
		_, err := LoadZone(name)
		var f FieldError
		if !errors.As(err, &f) || !strings.Contains(f.Want, want) {
			t.Errorf("%.40q: got %v, want %q", name, err, want)
		}
	}
}

func TestEveryZoneOfTheDatabaseLoads(t *testing.T) {
	files, err := zoneFiles()
	if err != nil || len(files) < 500 {
		t.Fatalf("%d zones: %v", len(files), err)
	}
	for name := range files {
		if _, err := LoadZone(name); err != nil {
			t.Error(err)
		}
	}
}

func TestTimesWithoutOffsetAreOfTheZone(t *testing.T) {
	for name, c := range map[string]struct{ in, zone, want string }{
		"winter":                               {"2026-12-01T09:00", "Europe/Berlin", "2026-12-01T08:00:00Z"},
		"summer":                               {"2026-07-01T09:00:30", "Europe/Berlin", "2026-07-01T07:00:30Z"},
		"an offset wins":                       {"2026-07-01T09:00+09:00", "Europe/Berlin", "2026-07-01T00:00:00Z"},
		"Z wins":                               {"2026-07-01T09:00Z", "Europe/Berlin", "2026-07-01T09:00:00Z"},
		"twice: the first":                     {"2026-10-25T02:30", "Europe/Berlin", "2026-10-25T00:30:00Z"},
		"twice: the second by its offset":      {"2026-10-25T02:30+01:00", "Europe/Berlin", "2026-10-25T01:30:00Z"},
		"twice, west of UTC":                   {"2026-11-01T01:00", "America/New_York", "2026-11-01T05:00:00Z"},
		"the last minute before twice":         {"2026-10-25T01:59", "Europe/Berlin", "2026-10-24T23:59:00Z"},
		"the first minute after twice":         {"2026-10-25T03:00", "Europe/Berlin", "2026-10-25T02:00:00Z"},
		"half an hour of saving, put back":     {"2026-04-05T01:45", "Australia/Lord_Howe", "2026-04-04T14:45:00Z"},
		"the last minute before a gap":         {"2026-03-29T01:59", "Europe/Berlin", "2026-03-29T00:59:00Z"},
		"the first minute after a gap":         {"2026-03-29T03:00", "Europe/Berlin", "2026-03-29T01:00:00Z"},
		"the day before a day that was left":   {"2011-12-29T23:59", "Pacific/Apia", "2011-12-30T09:59:00Z"},
		"the day after it":                     {"2011-12-31T00:00", "Pacific/Apia", "2011-12-30T10:00:00Z"},
		"an odd offset":                        {"2026-07-01T09:00", "Asia/Kathmandu", "2026-07-01T03:15:00Z"},
		"many years on, by the zone's rule":    {"2080-07-01T09:00", "Europe/Berlin", "2080-07-01T07:00:00Z"},
		"the last day of a leap year":          {"2012-12-31T02:57", "America/New_York", "2012-12-31T07:57:00Z"},
		"the last day of one to come":          {"2032-12-31T23:59", "America/New_York", "2033-01-01T04:59:00Z"},
		"a zone without saving, far in future": {"2080-07-01T09:00", "Asia/Tokyo", "2080-07-01T00:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseTimeIn(c.in, zone(t, c.zone))
			if err != nil || got.UTC().Format(time.RFC3339) != c.want {
				t.Errorf("got %v %v, want %s", got, err, c.want)
			}
		})
	}
}

func TestTimesThatClocksNeverShowNameTheNearest(t *testing.T) {
	for _, c := range []struct{ in, zone, last, next string }{
		{"2026-03-29T02:00", "Europe/Berlin", "2026-03-29T01:59", "2026-03-29T03:00"},
		{"2026-03-29T02:59:59", "Europe/Berlin", "2026-03-29T01:59", "2026-03-29T03:00"},
		{"2026-03-08T02:30", "America/New_York", "2026-03-08T01:59", "2026-03-08T03:00"},
		{"2026-10-04T02:15", "Australia/Lord_Howe", "2026-10-04T01:59", "2026-10-04T02:30"},
		{"2011-12-30T12:00", "Pacific/Apia", "2011-12-29T23:59", "2011-12-31T00:00"},
	} {
		z := zone(t, c.zone)
		_, err := ParseTimeIn(c.in, z)
		var f FieldError
		if !errors.As(err, &f) || !strings.Contains(f.Want, c.last+" or "+c.next) {
			t.Errorf("%s in %s: %v", c.in, c.zone, err)
		}
		for _, near := range []string{c.last, c.next} {
			if _, err := ParseTimeIn(near, z); err != nil {
				t.Errorf("%s was named, but: %v", near, err)
			}
		}
	}
	if _, err := ParseTimeIn("2026-03-29T02:30", nil); err == nil || !strings.Contains(err.Error(), "a zone at its end") {
		t.Error(err)
	}
}

// A wall time is what clocks show at the moment it is read as; where Go's own
// reading of it is right, ours is the same or the earlier of two.
func TestWallTimesAreWhatClocksShow(t *testing.T) {
	zones := []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Tokyo", "Pacific/Apia", "America/St_Johns", "Africa/Casablanca", "Europe/Dublin", "America/Sao_Paulo"}
	rapid.Check(t, func(t *rapid.T) {
		z, err := LoadZone(rapid.SampledFrom(zones).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		wall := time.Unix(rapid.Int64Range(946_684_800, 4_102_444_800).Draw(t, "wall")/60*60, 0).UTC()
		if rapid.Bool().Draw(t, "near a new year") {
			wall = time.Date(rapid.IntRange(2001, 2099).Draw(t, "year"), 1, 1, 0, rapid.IntRange(-3000, 3000).Draw(t, "minute"), 0, 0, time.UTC)
		} else if rapid.Bool().Draw(t, "near a change") {
			if _, end := wall.In(z).ZoneBounds(); !end.IsZero() {
				end = end.In(z)
				wall = floatingTime(end).Add(time.Duration(rapid.IntRange(-180, 180).Draw(t, "minutes")) * time.Minute)
			}
		}
		if wall.Year() < 2000 {
			return
		}
		text := wall.Format("2006-01-02T15:04")
		std := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), 0, 0, z)
		got, err := ParseTimeIn(text, z)
		if err != nil {
			if std.Format("2006-01-02T15:04") == text {
				t.Fatalf("%s exists in %s: %v", text, z, std)
			}
			return
		}
		if got.Format("2006-01-02T15:04") != text || got.After(std) {
			t.Fatalf("%s in %s: got %v, Go has %v", text, z, got, std)
		}
		// No earlier moment shows the same: offsets differ by whole quarters here.
		for d := 15 * time.Minute; d <= 24*time.Hour; d += 15 * time.Minute {
			if got.Add(-d).Format("2006-01-02T15:04") == text {
				t.Fatalf("%s in %s: %v is earlier than %v", text, z, got.Add(-d), got)
			}
		}
		if again, ok := WallTime(got, z); !ok || !again.Equal(got) {
			t.Fatalf("WallTime: %v %v, want %v", again, ok, got)
		}
	})
}

func floatingTime(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
}

func TestResolveWindow(t *testing.T) {
	now := time.Date(2026, 11, 23, 8, 0, 0, 500, time.UTC)
	at := func(s string) time.Time {
		if s == "" {
			return time.Time{}
		}
		x, err := ParseTime(s)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for name, c := range map[string]struct {
		slot                  Slot
		earliest, latest, end string // earliest "": now
		length                time.Duration
		field                 string
	}{
		"a fixed start":                    {Slot{Start: "2026-12-01T09:00Z", For: "8h"}, "2026-12-01T09:00Z", "2026-12-01T09:00Z", "", 8 * time.Hour, ""},
		"a local start":                    {Slot{Start: "2026-12-01T09:00", For: "8h", Zone: "Asia/Tokyo"}, "2026-12-01T00:00Z", "2026-12-01T00:00Z", "", 8 * time.Hour, ""},
		"a window":                         {Slot{Start: "2026-12-01T09:00", Latest: "2026-12-03T09:00", For: "8h", Zone: "Asia/Tokyo"}, "2026-12-01T00:00Z", "2026-12-03T00:00Z", "", 8 * time.Hour, ""},
		"a window of no width":             {Slot{Start: "2026-12-01T09:00Z", Latest: "2026-12-01T18:00+09:00", For: "8h"}, "2026-12-01T09:00Z", "2026-12-01T09:00Z", "", 8 * time.Hour, ""},
		"asap":                             {Slot{Start: "asap", For: "8h"}, "", "", "", 8 * time.Hour, ""},
		"asap, but not later than":         {Slot{Start: "asap", Latest: "2026-12-01T09:00Z", For: "8h"}, "", "2026-12-01T09:00Z", "", 8 * time.Hour, ""},
		"asap to a fixed end":              {Slot{Start: "asap", End: "2026-12-01T09:00", Zone: "Europe/Berlin"}, "", "", "2026-12-01T08:00Z", 0, ""},
		"a length over the change of hour": {Slot{Start: "2027-03-28T00:00", End: "2027-03-29T00:00", Zone: "Europe/Berlin"}, "2027-03-27T23:00Z", "2027-03-27T23:00Z", "2027-03-28T22:00Z", 0, ""},
		"parts of seconds are cut":         {Slot{Start: "2026-12-01T09:00:01.9Z", For: "8h"}, "2026-12-01T09:00:01Z", "2026-12-01T09:00:01Z", "", 8 * time.Hour, ""},
		"the first of a series":            {Slot{Start: "2026-12-01T09:00", For: "8h", Zone: "UTC", Repeat: "FREQ=DAILY;COUNT=2"}, "2026-12-01T09:00Z", "2026-12-01T09:00Z", "", 8 * time.Hour, ""},

		"a latest start in the past":     {Slot{Start: "asap", Latest: "2026-11-23T07:00Z", For: "8h"}, "", "", "", 0, "slot.latest"},
		"a latest start far off":         {Slot{Start: "asap", Latest: "2037-11-23T07:00Z", For: "8h"}, "", "", "", 0, "slot.latest"},
		"latest before start":            {Slot{Start: "2026-12-01T09:00Z", Latest: "2026-12-01T08:00Z", For: "8h"}, "", "", "", 0, "slot.latest"},
		"latest with a fixed end":        {Slot{Start: "2026-12-01T09:00Z", Latest: "2026-12-01T10:00Z", End: "2026-12-02T10:00Z"}, "", "", "", 0, "slot.latest"},
		"latest asap":                    {Slot{Start: "2026-12-01T09:00Z", Latest: "asap", For: "8h"}, "", "", "", 0, "slot.latest"},
		"a start that clocks never show": {Slot{Start: "2027-03-28T02:30", For: "8h", Zone: "Europe/Berlin"}, "", "", "", 0, "slot.start"},
		"an end that clocks never show":  {Slot{Start: "2027-03-28T01:30", End: "2027-03-28T02:30", Zone: "Europe/Berlin"}, "", "", "", 0, "slot.end"},
		"no such zone":                   {Slot{Start: "2027-03-28T02:30", For: "8h", Zone: "Local"}, "", "", "", 0, "slot.zone"},
		"no zone":                        {Slot{Start: "2027-03-28T02:30", For: "8h"}, "", "", "", 0, "slot.start"},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := Spec{Slot: c.slot}.ResolveWindow(now)
			if c.field != "" {
				var f FieldError
				if !errors.As(err, &f) || f.Field != c.field || f.Want == "" {
					t.Fatalf("got %v, want an error about %s", err, c.field)
				}
				return
			}
			earliest := at(c.earliest)
			if c.earliest == "" {
				earliest = now
			}
			if err != nil || !w.Earliest.Equal(earliest) || !w.Latest.Equal(at(c.latest)) || !w.End.Equal(at(c.end)) || w.Length != c.length ||
				w.Asap != (c.slot.Start == "asap") || w.Zone == nil || c.slot.Zone != "" && w.Zone.String() != c.slot.Zone {
				t.Fatalf("%+v %v", w, err)
			}
		})
	}
}

func TestValidateRefusesSlotsOfBadParts(t *testing.T) {
	series := Slot{Start: "2026-12-01T09:00", For: "8h", Zone: "Europe/Berlin", Repeat: "FREQ=DAILY;COUNT=5"}
	for name, c := range map[string]struct {
		change func(*Spec)
		field  string
		want   string
	}{
		"an unknown zone, once, though the start needs it": {func(s *Spec) { s.Slot.Zone = "Mars" }, "slot.zone", "IANA"},
		"a series from asap":        {func(s *Spec) { s.Slot.Start = "asap" }, "slot.start", "first start"},
		"a series without zone":     {func(s *Spec) { s.Slot.Zone = ""; s.Slot.Start += "Z" }, "slot.zone", "daylight"},
		"a series with a window":    {func(s *Spec) { s.Slot.Latest = "2026-12-02T09:00" }, "slot.latest", "fixed start"},
		"a series with a long name": {func(s *Spec) { s.Name = strings.Repeat("a", 27) }, "name", "1-26"},
		"no rule":                   {func(s *Spec) { s.Slot.Repeat = "weekly" }, "slot.repeat", "such as FREQ=WEEKLY"},
		"an endless rule":           {func(s *Spec) { s.Slot.Repeat = "FREQ=DAILY" }, "slot.repeat", "COUNT and UNTIL"},
		"exceptions of nothing":     {func(s *Spec) { s.Slot.Repeat = ""; s.Slot.Except = []string{"2026-12-01"} }, "slot.except", "no dates"},
		"a wrong exception":         {func(s *Spec) { s.Slot.Except = []string{"2026-12-02", "christmas"} }, "slot.except[1]", "a date"},
		"no such day":               {func(s *Spec) { s.Slot.Except = []string{"2026-02-30"} }, "slot.except[0]", "a date"},
		"an exception twice":        {func(s *Spec) { s.Slot.Except = []string{"2026-12-02", "2026-12-02"} }, "slot.except[1]", "once"},
		"too many exceptions":       {func(s *Spec) { s.Slot.Except = make([]string, 401) }, "slot.except", "at most 400"},
	} {
		t.Run(name, func(t *testing.T) {
			s := good(t)
			s.Slot = series
			if errs := s.Validate(); errs != nil {
				t.Fatal(errs)
			}
			c.change(&s)
			errs := s.Validate()
			if len(errs) != 1 || errs[0].Field != c.field || !strings.Contains(errs[0].Want, c.want) {
				t.Errorf("got %v, want one about %s: %s", errs, c.field, c.want)
			}
		})
	}
}

func TestNormalRepeat(t *testing.T) {
	for in, want := range map[string]string{
		" rrule:freq=weekly;byday=mo,we;count=20 ":                "FREQ=WEEKLY;BYDAY=MO,WE;COUNT=20",
		"FREQ=MONTHLY;BYDAY=1MO,-1FR;UNTIL=20301224":              "FREQ=MONTHLY;BYDAY=1MO,-1FR;UNTIL=20301224",
		"FREQ=MONTHLY;BYDAY=MO,TU;BYSETPOS=-1;COUNT=400":          "FREQ=MONTHLY;BYDAY=MO,TU;BYSETPOS=-1;COUNT=400",
		"FREQ=YEARLY;BYWEEKNO=20;BYDAY=MO;COUNT=3":                "FREQ=YEARLY;BYWEEKNO=20;BYDAY=MO;COUNT=3",
		"FREQ=HOURLY;INTERVAL=6;UNTIL=20301224T090000Z;BYDAY=MO":  "FREQ=HOURLY;INTERVAL=6;UNTIL=20301224T090000Z;BYDAY=MO",
		"FREQ=DAILY;BYHOUR=9,21;BYMINUTE=30;COUNT=4;WKST=SU":      "FREQ=DAILY;BYHOUR=9,21;BYMINUTE=30;COUNT=4;WKST=SU",
		"FREQ=DAILY;UNTIL=20301224T090000":                        "FREQ=DAILY;UNTIL=20301224T090000",
		"FREQ=YEARLY;BYMONTH=12;BYMONTHDAY=-1;COUNT=2;INTERVAL=2": "FREQ=YEARLY;BYMONTH=12;BYMONTHDAY=-1;COUNT=2;INTERVAL=2",
	} {
		if got, err := NormalRepeat(in); err != nil || got != want {
			t.Errorf("%s: got %s, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{
		"":                      "such as FREQ=WEEKLY",
		"every week":            "such as FREQ=WEEKLY",
		"FREQ=FORTNIGHTLY":      "FREQ to be one of YEARLY",
		"FREQ=MINUTELY;COUNT=3": "nothing finer than FREQ=HOURLY",
		"FREQ=SECONDLY;COUNT=3": "nothing finer than FREQ=HOURLY",
		"FREQ=DAILY;BYSECOND=1": "no BYSECOND",
		"COUNT=3":               "FREQ, one of",
		"FREQ=DAILY;COUNT=0":    "COUNT to be",
		"FREQ=DAILY;COUNT=-1":   "COUNT to be",
		"FREQ=DAILY;COUNT=401":  "COUNT of at most 400",
		"FREQ=DAILY;COUNT=9999999999999999999999":       "COUNT to be",
		"FREQ=DAILY;COUNT=3;UNTIL=20301224":             "one of COUNT and UNTIL",
		"FREQ=DAILY;COUNT=3;COUNT=4":                    "COUNT only once",
		"FREQ=DAILY;COUNT=3;INTERVAL=0":                 "INTERVAL to be",
		"FREQ=DAILY;COUNT=3;INTERVAL=60000":             "INTERVAL of at most",
		"FREQ=DAILY;COUNT=3;EASTER=1":                   "it knows no EASTER",
		"FREQ=DAILY;COUNT=3;BYEASTER=1":                 "it knows no BYEASTER",
		"FREQ=DAILY;COUNT=3;DTSTART=20301224T000000Z":   "it knows no DTSTART",
		"DTSTART:20301224T000000Z\nFREQ=DAILY;COUNT=3":  "want ",
		"FREQ=DAILY;COUNT=3;":                           "want ",
		"FREQ=DAILY;UNTIL=2030-12-24":                   "UNTIL to be",
		"FREQ=DAILY;UNTIL=20301324":                     "want ",
		"FREQ=DAILY;COUNT=3;BYHOUR=24":                  "byhour must be between 0 and 23",
		"FREQ=DAILY;COUNT=3;BYHOUR=nine":                "BYHOUR to be hours",
		"FREQ=HOURLY;COUNT=3;BYHOUR=9":                  "FREQ=DAILY with BYHOUR",
		"FREQ=WEEKLY;COUNT=3;BYDAY=1MO":                 "only with FREQ=MONTHLY or YEARLY",
		"FREQ=YEARLY;COUNT=3;BYDAY=1MO;BYWEEKNO=2":      "without BYWEEKNO",
		"FREQ=MONTHLY;COUNT=3;BYDAY=0MO":                "BYDAY to be",
		"FREQ=MONTHLY;COUNT=3;BYDAY=60MO":               "byday must be between",
		"FREQ=MONTHLY;COUNT=3;BYWEEKNO=3":               "BYWEEKNO only",
		"FREQ=MONTHLY;COUNT=3;BYYEARDAY=3":              "BYYEARDAY only",
		"FREQ=WEEKLY;COUNT=3;BYMONTHDAY=3":              "BYMONTHDAY with another",
		"FREQ=MONTHLY;COUNT=3;BYSETPOS=1":               "BYSETPOS only beside",
		"FREQ=DAILY;COUNT=3" + strings.Repeat(" ", 500): "at most 512 bytes",
	} {
		if _, err := NormalRepeat(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want %q", in, err, want)
		}
	}
}

// What a slot means does not change by looking twice, nor by when one looks, as
// long as it is to come.
func TestResolveWindowIsStable(t *testing.T) {
	zones := []string{"", "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"}
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		minutes := func(name string, hi int) time.Duration {
			return time.Duration(rapid.IntRange(1, hi).Draw(t, name)) * time.Minute
		}
		s := Slot{Zone: rapid.SampledFrom(zones).Draw(t, "zone"), For: FormatDuration(minutes("for", 100_000))}
		layout := "2006-01-02T15:04"
		if s.Zone == "" {
			layout += "Z07:00"
		}
		start := base.Add(minutes("start", 1_000_000))
		s.Start = start.Format(layout)
		if rapid.Bool().Draw(t, "asap") {
			s.Start = StartAsap
		}
		if rapid.Bool().Draw(t, "window") {
			s.Latest = start.Add(minutes("latest", 100_000)).Format(layout)
		}
		if rapid.Bool().Draw(t, "end") {
			s.End, s.For = start.Add(minutes("end", 100_000)).Format(layout), ""
		}
		spec := Spec{Slot: s}
		w, err := spec.ResolveWindow(base)
		again, err2 := spec.ResolveWindow(base)
		if w != again && !sameWindow(w, again) || (err == nil) != (err2 == nil) {
			t.Fatalf("%+v %v, then %+v %v", w, err, again, err2)
		}
		if err != nil {
			var f FieldError
			if !errors.As(err, &f) || f.Field == "" || f.Want == "" {
				t.Fatal(err)
			}
			return
		}
		if (w.Length == 0) == w.End.IsZero() || !w.EndOf(w.Earliest).After(w.Earliest) || !w.Latest.IsZero() && w.Latest.Before(w.Earliest) || w.Latest.IsZero() && !w.Asap {
			t.Fatalf("%+v", w)
		}
		if from, end, asap, err := spec.ResolveSlot(base); err != nil || !from.Equal(w.Earliest) || !end.Equal(w.EndOf(from)) || asap != w.Asap {
			t.Fatal(from, end, asap, err)
		}
		if later, err := spec.ResolveWindow(base.Add(30 * time.Second)); !w.Asap && w.Earliest.After(base) && (err != nil || !sameWindow(w, later)) {
			t.Fatalf("%+v, half a minute later %+v %v", w, later, err)
		}
	})
}

func sameWindow(a, b Window) bool {
	return a.Earliest.Equal(b.Earliest) && a.Latest.Equal(b.Latest) && a.End.Equal(b.End) && a.Length == b.Length && a.Asap == b.Asap && a.Zone.String() == b.Zone.String()
}
