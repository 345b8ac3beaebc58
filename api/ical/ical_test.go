package ical

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	ics "github.com/arran4/golang-ical"
	"pgregory.net/rapid"

	"vcn/api"
)

var stamp = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

func slot(change func(*api.CalendarSlot)) api.CalendarSlot {
	s := api.CalendarSlot{ID: "r1", Name: "rendering", Project: "studio", State: api.StateBooked, Start: stamp.Add(time.Hour), End: stamp.Add(9 * time.Hour), Workers: 4}
	if change != nil {
		change(&s)
	}
	return s
}

func write(t interface{ Fatal(...any) }, c Calendar) string {
	var b bytes.Buffer
	if err := Write(&b, c); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// line is one content line (RFC 5545 3.1), unfolded.
type line struct {
	name   string
	params string
	value  string
}

// read takes a calendar apart with nothing but the RFC in mind, and none of the
// library that wrote it.
func read(text string) ([]line, error) {
	var lines []line
	var unfolded []string
	if !strings.HasSuffix(text, "\r\n") {
		return nil, errors.New("does not end in CRLF")
	}
	for _, physical := range strings.Split(strings.TrimSuffix(text, "\r\n"), "\r\n") {
		switch {
		case len(physical) > 75:
			return nil, fmt.Errorf("%d octets in a line: %q", len(physical), physical)
		case strings.ContainsAny(physical, "\r\n"):
			return nil, fmt.Errorf("a bare line end in %q", physical)
		case !utf8.ValidString(physical):
			return nil, fmt.Errorf("a character is cut in %q", physical)
		case physical == "":
			return nil, errors.New("an empty line")
		case physical[0] == ' ' || physical[0] == '\t':
			if len(unfolded) == 0 {
				return nil, errors.New("begins with a folded line")
			}
			unfolded[len(unfolded)-1] += physical[1:]
		default:
			unfolded = append(unfolded, physical)
		}
	}
	for _, u := range unfolded {
		head, value, ok := strings.Cut(u, ":")
		if !ok {
			return nil, fmt.Errorf("no colon in %q", u)
		}
		name, params, _ := strings.Cut(head, ";")
		for _, r := range name {
			if (r < 'A' || r > 'Z') && r != '-' {
				return nil, fmt.Errorf("a strange name %q", name)
			}
		}
		for _, r := range value {
			if r < ' ' || r == 0x7f {
				return nil, fmt.Errorf("a control character in %q", u)
			}
		}
		lines = append(lines, line{name, params, value})
	}
	return lines, nil
}

// plain is a TEXT value (RFC 5545 3.3.11) without its escapes.
func plain(value string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == ';' || c == ',':
			return "", fmt.Errorf("%q is not escaped in %q", c, value)
		case c != '\\':
			b.WriteByte(c)
		case i+1 == len(value):
			return "", fmt.Errorf("%q ends in an escape", value)
		default:
			i++
			switch value[i] {
			case 'n', 'N':
				b.WriteByte('\n')
			case '\\', ';', ',':
				b.WriteByte(value[i])
			default:
				return "", fmt.Errorf("an unknown escape in %q", value)
			}
		}
	}
	return b.String(), nil
}

// events is each event's properties; each may be there once.
func events(text string) (calendar map[string]string, out []map[string]string, err error) {
	lines, err := read(text)
	if err != nil {
		return nil, nil, err
	}
	calendar = map[string]string{}
	var stack []string
	var into map[string]string
	for i, l := range lines {
		switch l.name {
		case "BEGIN":
			if l.value == "VEVENT" && len(stack) == 1 {
				into = map[string]string{}
			} else if l.value == "VCALENDAR" && i == 0 {
				into = calendar
			} else {
				return nil, nil, fmt.Errorf("a strange begin: %v", l)
			}
			stack = append(stack, l.value)
			continue
		case "END":
			if len(stack) == 0 || stack[len(stack)-1] != l.value {
				return nil, nil, fmt.Errorf("a strange end: %v", l)
			}
			if l.value == "VEVENT" {
				out = append(out, into)
				into = calendar
			}
			stack = stack[:len(stack)-1]
			continue
		}
		if len(stack) == 0 {
			return nil, nil, fmt.Errorf("outside of the calendar: %v", l)
		}
		if _, twice := into[l.name]; twice {
			return nil, nil, fmt.Errorf("twice: %v", l)
		}
		into[l.name] = l.value
	}
	if len(stack) != 0 {
		return nil, nil, errors.New("no end")
	}
	return calendar, out, nil
}

func TestWriteSaysWhatTheSlotIs(t *testing.T) {
	text := write(t, Calendar{Name: "studio: all, slots", Stamp: stamp, Modified: map[string]time.Time{"r1": stamp.Add(-time.Hour)},
		Slots: []api.CalendarSlot{slot(func(s *api.CalendarSlot) {
			s.Zone, s.Provision, s.Series = "Europe/Berlin", s.Start.Add(-10*time.Minute), "s1"
			s.Start = s.Start.In(time.FixedZone("", 9*3600))
		})}})
	cal, evs, err := events(text)
	if err != nil || len(evs) != 1 {
		t.Fatal(err, text)
	}
	for name, want := range map[string]string{"VERSION": "2.0", "PRODID": "-//vcn//calendar//EN", "X-WR-CALNAME": `studio: all\, slots`, "REFRESH-INTERVAL": "PT15M", "CALSCALE": "GREGORIAN"} {
		if cal[name] != want {
			t.Errorf("%s: %q, want %q", name, cal[name], want)
		}
	}
	for name, want := range map[string]string{
		"UID": "r1@vcn", "DTSTAMP": "20261123T080000Z", "LAST-MODIFIED": "20261123T070000Z", "DTSTART": "20261123T090000Z", "DTEND": "20261123T170000Z",
		"SUMMARY": "rendering", "STATUS": "CONFIRMED", "CATEGORIES": "studio", "TRANSP": "TRANSPARENT",
		"DESCRIPTION": `state: booked\nworkers: 4\n2026-11-23 10:00 to 2026-11-23 18:00\, Europe/Berlin\nprovisioning from 2026-11-23T08:50:00Z\nseries: s1\nid: r1`,
	} {
		if evs[0][name] != want {
			t.Errorf("%s: %q, want %q", name, evs[0][name], want)
		}
	}
}

func TestStatesAreToldAsTheFormatKnowsThem(t *testing.T) {
	for state, want := range map[api.State]string{
		api.StateWaitlisted: "TENTATIVE rendering (waitlisted)", api.StateBooked: "CONFIRMED rendering", api.StateProvisioning: "CONFIRMED rendering (provisioning)",
		api.StateReady: "CONFIRMED rendering (ready)", api.StateActive: "CONFIRMED rendering", api.StateEnding: "CONFIRMED rendering (ending)",
		api.StateParked: "CONFIRMED rendering (parked)", api.StateEnded: "CONFIRMED rendering", api.StateFailed: "CANCELLED rendering (failed)",
		api.StateCancelled: "CANCELLED rendering (cancelled)",
	} {
		_, evs, err := events(write(t, Calendar{Stamp: stamp, Slots: []api.CalendarSlot{slot(func(s *api.CalendarSlot) { s.State = state })}}))
		if err != nil || len(evs) != 1 || evs[0]["STATUS"]+" "+evs[0]["SUMMARY"] != want {
			t.Errorf("%s: %v %v, want %s", state, evs, err, want)
		}
	}
}

func TestOddSlotsDoNotCostTheOthers(t *testing.T) {
	_, evs, err := events(write(t, Calendar{Stamp: stamp, Slots: []api.CalendarSlot{
		slot(func(s *api.CalendarSlot) { s.Start = time.Time{} }), slot(func(s *api.CalendarSlot) { s.End = s.Start }), slot(nil)}}))
	if err != nil || len(evs) != 1 {
		t.Error(evs, err)
	}
	if cal, evs, err := events(write(t, Calendar{Name: "empty", Stamp: stamp})); err != nil || len(evs) != 0 || cal["X-WR-CALNAME"] != "empty" {
		t.Error(cal, evs, err)
	}
}

type fullDisk struct{ left int }

func (f *fullDisk) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errors.New("full")
	}
	return len(p), nil
}

func TestWriteTellsTheWritersError(t *testing.T) {
	c := Calendar{Name: "a", Stamp: stamp, Slots: []api.CalendarSlot{slot(nil)}}
	n := len(write(t, c))
	for left := range n {
		if err := Write(&fullDisk{left}, c); err == nil {
			t.Fatalf("no error with room for %d of %d bytes", left, n)
		}
	}
	if err := Write(&fullDisk{n}, c); err != nil {
		t.Error(err)
	}
}

// Whatever names and texts hold, two readers that know nothing of each other
// find what was written.
func TestAnyTextComesBack(t *testing.T) {
	odd := rapid.OneOf(rapid.String(), rapid.StringOf(rapid.SampledFrom([]rune("a ;,:\\\"'\n\r\t\x00<>äß漢字🙂\u2028nN"))),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 300), func(b []byte) string { return string(b) }))
	states := []api.State{api.StateWaitlisted, api.StateActive, api.StateFailed}
	rapid.Check(t, func(t *rapid.T) {
		c := Calendar{Name: odd.Draw(t, "calendar"), Stamp: stamp}
		for i := range rapid.IntRange(0, 4).Draw(t, "slots") {
			start := time.Unix(rapid.Int64Range(0, 4_000_000_000).Draw(t, "start"), 0)
			c.Slots = append(c.Slots, api.CalendarSlot{ID: fmt.Sprintf("id-%d", i), Name: odd.Draw(t, "name"), Project: odd.Draw(t, "project"), Series: odd.Draw(t, "series"),
				State: rapid.SampledFrom(states).Draw(t, "state"), Start: start, End: start.Add(time.Duration(rapid.IntRange(1, 1_000_000).Draw(t, "length")) * time.Second)})
		}
		text := write(t, c)
		cal, evs, err := events(text)
		if err != nil || len(evs) != len(c.Slots) {
			t.Fatalf("%v in\n%s", err, text)
		}
		if name, err := plain(cal["X-WR-CALNAME"]); err != nil || name != clean(c.Name) {
			t.Fatalf("calendar %q, want %q: %v", name, clean(c.Name), err)
		}
		other, err := ics.ParseCalendar(strings.NewReader(text))
		if err != nil || len(other.Events()) != len(c.Slots) {
			t.Fatalf("the library cannot read it: %v\n%s", err, text)
		}
		for i, s := range c.Slots {
			sum, err1 := plain(evs[i]["SUMMARY"])
			desc, err2 := plain(evs[i]["DESCRIPTION"])
			if err1 != nil || err2 != nil || sum != summary(s) || desc != describe(s) {
				t.Fatalf("%q %q, want %q %q: %v %v", sum, desc, summary(s), describe(s), err1, err2)
			}
			if project, err := plain(evs[i]["CATEGORIES"]); err != nil || project != clean(s.Project) {
				t.Fatalf("%q, want %q: %v", project, clean(s.Project), err)
			}
			start, err1 := time.Parse("20060102T150405Z", evs[i]["DTSTART"])
			end, err2 := time.Parse("20060102T150405Z", evs[i]["DTEND"])
			if err1 != nil || err2 != nil || !start.Equal(s.Start) || !end.Equal(s.End) {
				t.Fatal(start, end, err1, err2)
			}
			if at, err := other.Events()[i].GetStartAt(); err != nil || !at.Equal(s.Start) || other.Events()[i].Id() != s.ID+"@vcn" {
				t.Fatal(at, err)
			}
		}
	})
}

func TestCleanKeepsTextShortAndWhole(t *testing.T) {
	for in, want := range map[string]string{"a\r\nb\tc\x00": "a  b c ", "\xff": "\uFFFD", strings.Repeat("漢", 200): strings.Repeat("漢", 166), "äöü": "äöü"} {
		if got := clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
