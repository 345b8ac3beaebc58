package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vcn/api"
)

// TestSlowAnswersCanBeInterrupted: whatever is asked, a slow answer is said to
// be slow, Ctrl-C ends the command with its code, and a program is told in the
// form it asked for.
func TestSlowAnswersCanBeInterrupted(t *testing.T) {
	for _, line := range []string{
		"reserve mine --for 8h --key KEY", "reserve mine --for 8h --dry-run --key KEY", "reserve mine --for 8h --wait-for 2h --key KEY",
		"reserve mine --for 8h --start 2026-12-01T09:00 --repeat FREQ=DAILY;COUNT=2 --key KEY", "reserve --offer o1", "reserve --offer o1 --dry-run",
		"when --for 8h --key KEY", "offer show o1", "offer release o1",
		"change mine --extend 1h", "change mine --extend 1h --dry-run", "change mine --workers 3", "extend mine 1h", "grow mine --workers 3", "shrink mine --remove compute-0",
		"park mine", "resume mine --for 8h", "resume mine --for 8h --dry-run", "explain mine",
		"series list", "series show s", "series cancel s", "series change s --extend 1h",
		"calendar", "calendar --slots", "calendar feed", "policy show", "policy set --wait-max 1",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			f := newFakeAPI(t, "c1")
			f.calendar.stall = true
			var stdout, stderr safeBuffer
			a := testApp(t, f, &stdout, &stderr)
			a.patienceAfter = time.Millisecond
			args := strings.Fields(line)
			for i := range args {
				if args[i] == "KEY" {
					args[i] = testKey
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			code := make(chan int, 1)
			go func() { code <- a.main(ctx, append(args, "-o", "json")) }()
			for deadline := time.Now().Add(20 * time.Second); !strings.Contains(stderr.String(), "vcnctl: waiting for "); {
				if time.Now().After(deadline) {
					t.Fatal("no sign of life:", stderr.String())
				}
				time.Sleep(time.Millisecond)
			}
			cancel()
			if got := <-code; got != ExitInterrupted || !strings.Contains(stderr.String(), `"code": "interrupted"`) || stdout.String() != "" {
				t.Errorf("exit code %d, stdout %q, stderr %s", got, stdout.String(), stderr.String())
			}
		})
	}
}

// TestEveryAnswerIsADocument: what a program asks for is one JSON document on
// stdout, in this order of commands.
func TestEveryAnswerIsADocument(t *testing.T) {
	f := newFakeAPI(t, "c1")
	for _, c := range []struct{ line, field string }{
		{"reserve mine --for 8h --workers 2 --key KEY", "id"}, {"reserve toobig --for 8h --wait-for 2h --key KEY", "wait"},
		{"reserve fits --for 8h --start 2026-12-01T09:00 --repeat FREQ=WEEKLY;COUNT=3 --key KEY --dry-run", "booked"},
		{"reserve fits --for 8h --start 2026-12-01T09:00 --repeat FREQ=WEEKLY;COUNT=3 --key KEY", "series"},
		{"when mine --for 8h --split --key KEY", "items"}, {"offer show o1", "parts"}, {"reserve --offer o1 --dry-run", "parts"}, {"reserve --offer o1 taken", "id"},
		{"when mine --for 8h --key KEY", "items"}, {"offer release o1", "released"},
		{"change mine --extend 1h --dry-run", "fields"}, {"change mine --extend 1h", "end"}, {"extend mine 1h", "end"},
		{"grow mine --workers 3", "change"}, {"shrink mine --workers 2 --wait", "spec"}, {"shrink mine --remove compute-0 --dry-run", "fields"},
		{"explain mine", "lines"}, {"series list", "items"}, {"series show fits", "reservations"}, {"series change fits --extend 1h --dry-run", "booked"},
		{"series change fits --extend 1h", "booked"}, {"series cancel fits", "reservations"},
		{"calendar", "hosts"}, {"calendar --slots", "slots"}, {"calendar feed", "url"}, {"policy show", "holdMax"}, {"park toobig", "parkedUntil"}, {"watch toobig", "state"},
		{"resume toobig --for 8h --dry-run", "lead"}, {"resume toobig --for 8h --wait", "readyAt"}, {"list", "items"}, {"show mine", "spec"},
	} {
		var stdout, stderr safeBuffer
		args := strings.Fields(c.line)
		for i := range args {
			if args[i] == "KEY" {
				args[i] = testKey
			}
		}
		code := testApp(t, f, &stdout, &stderr).main(t.Context(), append(args, "-o", "json"))
		text := stdout.String()
		if args[0] == "watch" { // a document for each change
			lines := strings.Split(strings.TrimSpace(text), "\n")
			text = lines[len(lines)-1]
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(text), &got); code != 0 || err != nil || got[c.field] == nil {
			t.Errorf("%s: exit code %d, %v, no %s in\n%s%s", c.line, code, err, c.field, stdout.String(), stderr.String())
		}
	}
}

func TestCtrlCWhileWaitingLeavesTheChange(t *testing.T) {
	f := newFakeAPI(t, "c1")
	var stdout, stderr safeBuffer
	if code := testApp(t, f, &stdout, &stderr).main(t.Context(), reserveWaitArgs); code != 0 {
		t.Fatal(stderr.String())
	}
	for len(f.polled) > 0 {
		<-f.polled
	}
	f.mu.Lock()
	f.hold = true
	f.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	code := make(chan int)
	go func() {
		code <- testApp(t, f, &stdout, &stderr).main(ctx, []string{"grow", "mine", "--workers", "3", "--wait"})
	}()
	<-f.polled
	cancel()
	if got := <-code; got != ExitInterrupted || !strings.Contains(stderr.String(), "interrupted; the reservation mine goes on") {
		t.Errorf("exit code %d, %s", got, stderr.String())
	}
	if f.res[0].Change == nil || f.res[0].Spec.Workers[0].Count != 3 {
		t.Error("the change was touched:", f.res[0].Change)
	}
	got := testApp(t, f, &stdout, &stderr).main(t.Context(), []string{"grow", "mine", "--workers", "4", "--wait", "--wait-timeout", "1s"})
	if got != ExitError || !strings.Contains(stderr.String(), "mine is not changed after 1.0s; it is active") {
		t.Errorf("exit code %d, %s", got, stderr.String())
	}
}

func TestReaderZoneIsThatOfTZ(t *testing.T) {
	env := func(tz string) func(string) string {
		return func(k string) string { return map[string]string{"TZ": tz}[k] }
	}
	for tz, want := range map[string]string{"Europe/Berlin": "Europe/Berlin", ":Asia/Tokyo": "Asia/Tokyo", "UTC": "UTC", "CET-1CEST": "Local"} {
		if got := readerZone(env(tz)); got.String() != want {
			t.Errorf("%s: %s", tz, got)
		}
	}
	if readerZone(env("")) == nil {
		t.Error("no zone at all")
	}
}

func TestLocalTimesOfAZoneWithoutANameGetItsOffset(t *testing.T) {
	a := &app{zone: time.Local}
	s := api.Slot{Start: "2030-07-01T09:00", Latest: "asap", End: "2030-07-01T17:00+02:00"}
	if err := a.inZone(&s, ""); err != nil {
		t.Fatal(err)
	}
	want := time.Date(2030, 7, 1, 9, 0, 0, 0, time.Local).Format(time.RFC3339)
	if s.Start != want || s.Latest != "asap" || s.End != "2030-07-01T17:00+02:00" || s.Zone != "" {
		t.Errorf("%+v, want start %s", s, want)
	}
	s = api.Slot{Start: "2030-07-01T09:00", Repeat: "FREQ=DAILY;COUNT=2"}
	if err := a.inZone(&s, ""); err != nil || s.Zone != "" || s.Start != "2030-07-01T09:00" {
		t.Errorf("%+v, %v: a series needs a zone that somebody names", s, err)
	}
}

// randomCalendar is a calendar of one host in minutes.
func randomCalendar(t *rapid.T) (api.Calendar, int) {
	minutes := rapid.IntRange(1, 6000).Draw(t, "minutes")
	from := fakeNow.Truncate(time.Minute)
	at := func(m int) time.Time { return from.Add(time.Duration(m) * time.Minute) }
	h := api.CalendarHost{Name: rapid.StringMatching(`[a-z]{1,30}`).Draw(t, "name"), CPUs: 8, Memory: 16 * api.GiB}
	for range rapid.IntRange(0, 40).Draw(t, "spans") {
		lo := rapid.IntRange(-100, minutes).Draw(t, "from")
		s := api.CalendarSpan{From: at(lo), Until: at(lo + rapid.IntRange(1, minutes+100).Draw(t, "length")), Kind: rapid.SampledFrom([]string{"reservation", "hold", "parked"}).Draw(t, "kind"),
			CPUs: rapid.IntRange(0, 8).Draw(t, "cpus"), Memory: api.Quantity(rapid.IntRange(0, 16).Draw(t, "memory")) * api.GiB}
		if rapid.Bool().Draw(t, "named") {
			s.Name, s.Project = rapid.StringMatching(`[a-z]{1,60}`).Draw(t, "reservation"), "p"
		}
		h.Spans = append(h.Spans, s)
	}
	cal := api.Calendar{From: from, Until: at(minutes), Hosts: []api.CalendarHost{h, {Name: "empty"}}, Free: []api.CalendarFree{{From: from, CPUs: 4}, {From: at(minutes / 2), CPUs: 8, Memory: 16 * api.GiB}}}
	return cal, minutes
}

// TestCellsAreThePeakOfEachColumn compares with a look at every minute.
func TestCellsAreThePeakOfEachColumn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cal, minutes := randomCalendar(t)
		c := newChart(cal, time.UTC, rapid.IntRange(widthMin, 200).Draw(t, "width"), false)
		h := cal.Hosts[0]
		cells := c.cells(h)
		if len(cells) != c.columns || c.at(c.columns) != cal.Until || !c.at(c.columns-1).Before(cal.Until) {
			t.Fatalf("%d columns of %s do not make %d minutes", c.columns, c.step, minutes)
		}
		want := make([]float64, c.columns)
		somebody := make([]bool, c.columns)
		for m := range minutes {
			now := cal.From.Add(time.Duration(m) * time.Minute)
			cpus, memory := 0, api.Quantity(0)
			i := int(now.Sub(cal.From) / c.step)
			for _, s := range h.Spans {
				if !s.From.After(now) && s.Until.After(now) {
					cpus, memory, somebody[i] = cpus+s.CPUs, memory+s.Memory, true
				}
			}
			want[i] = max(want[i], shareOf(cpus, memory, 0, h))
		}
		for i, x := range cells {
			if x.held != want[i] || (x.who != "") != somebody[i] {
				t.Fatalf("column %d: %+v, want %v held, %v", i, x, want[i], somebody[i])
			}
		}
	})
}

func TestChartFitsTheWidth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cal, _ := randomCalendar(t)
		width := rapid.IntRange(widthMin, 200).Draw(t, "width")
		colours := rapid.Bool().Draw(t, "colours")
		text := newChart(cal, time.UTC, width, colours).render((&app{zone: time.UTC}).clockTime)
		_, text, _ = strings.Cut(text, "\n") // the range, which is said whole
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(plainText(line), "\n")
			if n := len([]rune(line)); n > max(width, 45) {
				t.Fatalf("%d columns, want %d:\n%s", n, width, line)
			}
		}
	})
}

// TestAxisFollowsDaylightSaving: days begin at midnight of the reader's clocks.
func TestAxisFollowsDaylightSaving(t *testing.T) {
	berlin, err := api.LoadZone("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	from := time.Date(2026, 3, 28, 0, 0, 0, 0, berlin)
	c := newChart(api.Calendar{From: from, Until: from.AddDate(0, 0, 3)}, berlin, 100, false)
	labels, ticks := c.axis()
	if c.step != time.Hour || labels != "Sat 28 Mar              Sun 29 Mar             Mon 30 Mar" || strings.Count(ticks, "|") != 3 || ticks[24] != '|' || ticks[47] != '|' {
		t.Errorf("%s\n%s\n%s", c.step, labels, ticks)
	}
}

func TestMoreHoldersThanLettersAreCounted(t *testing.T) {
	cal := api.Calendar{From: fakeNow, Until: fakeNow.Add(30 * time.Hour), Hosts: []api.CalendarHost{{Name: "h1", CPUs: 4}}}
	for i := range 30 {
		cal.Hosts[0].Spans = append(cal.Hosts[0].Spans, api.CalendarSpan{From: fakeNow.Add(time.Duration(i) * time.Hour), Until: fakeNow.Add(time.Duration(i+1) * time.Hour),
			Kind: "reservation", Name: fmt.Sprintf("r%d\x1b[2J", i), CPUs: 1})
	}
	text := newChart(cal, time.UTC, 100, false).render((&app{zone: time.UTC}).clockTime)
	for _, want := range []string{"  aabb", "zz@@@@@@@@\n", "Z r25", "@ 4 more"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Errorf("a name drives the terminal: %q", text)
	}
}

// TestCalendarIsColouredOnATerminal: blocks and colours where they can be seen,
// and letters where somebody minds or they cannot.
func TestCalendarIsColouredOnATerminal(t *testing.T) {
	f := newFakeAPI(t, "c1")
	f.calendar.silent = true
	for _, c := range []struct {
		name   string
		args   []string
		env    map[string]string
		colour bool
	}{
		{"UTF-8", []string{"calendar"}, map[string]string{"LANG": "C.UTF-8"}, true},
		{"LC_ALL goes first", []string{"calendar"}, map[string]string{"LANG": "C.UTF-8", "LC_ALL": "C"}, false},
		{"no locale", []string{"calendar"}, nil, false},
		{"NO_COLOR", []string{"calendar"}, map[string]string{"LANG": "C.UTF-8", "NO_COLOR": "1"}, false},
		{"dumb", []string{"calendar"}, map[string]string{"LANG": "C.UTF-8", "TERM": "dumb"}, false},
		{"--ascii", []string{"calendar", "--ascii"}, map[string]string{"LANG": "C.UTF-8"}, false},
	} {
		master, slave := openPTY(t, 24, 70)
		read := make(chan string)
		go func() {
			var b bytes.Buffer
			io.Copy(&b, master)
			read <- b.String()
		}()
		var stderr safeBuffer
		a := testApp(t, f, slave, &stderr)
		env := a.getenv
		a.getenv = func(k string) string {
			if v, ok := c.env[k]; ok {
				return v
			}
			return env(k)
		}
		if code := a.main(t.Context(), c.args); code != 0 {
			t.Fatal(c.name, stderr.String())
		}
		slave.Close()
		text := strings.ReplaceAll(<-read, "\r", "")
		if strings.Contains(text, "\x1b[38;5;") != c.colour || strings.Contains(text, "▅") != c.colour || strings.Contains(text, "aa") == c.colour {
			t.Errorf("%s:\n%s", c.name, text)
		}
		if got := strings.Split(plainText(text), "\n")[3]; len([]rune(got)) > 70 || !strings.Contains(got, "|") || !strings.Contains(text, "mine (studio)") {
			t.Errorf("%s: %d columns\n%s", c.name, len([]rune(got)), text)
		}
	}
}
