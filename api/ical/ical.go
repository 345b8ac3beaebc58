package ical

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	ics "github.com/arran4/golang-ical"

	"vcn/api"
)

// ContentType is the media type of what Write writes.
const ContentType = "text/calendar; charset=utf-8"

// textMax bounds one text, in bytes.
const textMax = 500

// refresh is how often programs may ask again, as an RFC 5545 duration.
const refresh = "PT15M"

// Calendar is what is written.
type Calendar struct {
	Name     string               // shown by calendar programs
	Stamp    time.Time            // DTSTAMP: as of when this is true
	Slots    []api.CalendarSlot   // one event each
	Modified map[string]time.Time // when a slot was changed last, by id; Stamp where it is missing
}

// Write writes the calendar. The error is the writer's.
func Write(w io.Writer, c Calendar) error {
	cal := ics.NewCalendar()
	cal.SetProductId("-//vcn//calendar//EN")
	cal.SetCalscale("GREGORIAN")
	cal.SetXWRCalName(clean(c.Name))
	cal.SetRefreshInterval(refresh, ics.WithValue(string(ics.ValueDataTypeDuration)))
	cal.SetXPublishedTTL(refresh)
	for _, s := range c.Slots {
		if s.Start.IsZero() || !s.End.After(s.Start) {
			continue
		}
		modified, ok := c.Modified[s.ID]
		if !ok {
			modified = c.Stamp
		}
		addEvent(cal, s, c.Stamp, modified)
	}
	counted := &errWriter{w: w}
	if err := cal.SerializeTo(counted, ics.WithNewLineWindows); err != nil {
		return fmt.Errorf("write calendar: %w", err)
	}
	if counted.err != nil {
		return fmt.Errorf("write calendar: %w", counted.err)
	}
	return nil
}

// errWriter keeps the first error: the library drops some.
type errWriter struct {
	w   io.Writer
	err error
}

func (e *errWriter) Write(p []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	n, err := e.w.Write(p)
	e.err = err
	return n, err
}

func addEvent(cal *ics.Calendar, s api.CalendarSlot, stamp, modified time.Time) {
	e := cal.AddEvent(clean(s.ID) + "@vcn")
	e.SetDtStampTime(stamp)
	e.SetModifiedAt(modified)
	e.SetStartAt(s.Start)
	e.SetEndAt(s.End)
	e.SetSummary(summary(s))
	e.SetStatus(status(s.State))
	e.SetDescription(describe(s))
	if s.Project != "" {
		e.AddCategory(clean(s.Project))
	}
	e.SetTimeTransparency(ics.TransparencyTransparent)
}

// summary is the name, with the state where it is not simply booked.
func summary(s api.CalendarSlot) string {
	name := clean(s.Name)
	switch s.State {
	case api.StateBooked, api.StateActive, api.StateEnded:
		return name
	}
	return name + " (" + clean(string(s.State)) + ")"
}

// status is the event's STATUS (RFC 5545 3.8.1.11).
func status(s api.State) ics.ObjectStatus {
	switch s {
	case api.StateWaitlisted:
		return ics.ObjectStatusTentative
	case api.StateCancelled, api.StateFailed:
		return ics.ObjectStatusCancelled
	}
	return ics.ObjectStatusConfirmed
}

// describe says what the event's own fields do not.
func describe(s api.CalendarSlot) string {
	lines := []string{"state: " + clean(string(s.State)), fmt.Sprintf("workers: %d", s.Workers)}
	if zone, err := api.LoadZone(s.Zone); err == nil {
		const layout = "2006-01-02 15:04"
		lines = append(lines, fmt.Sprintf("%s to %s, %s", s.Start.In(zone).Format(layout), s.End.In(zone).Format(layout), s.Zone))
	}
	if s.Provision.Before(s.Start) && !s.Provision.IsZero() {
		lines = append(lines, "provisioning from "+s.Provision.UTC().Format(time.RFC3339))
	}
	if s.Series != "" {
		lines = append(lines, "series: "+clean(s.Series))
	}
	return strings.Join(append(lines, "id: "+clean(s.ID)), "\n")
}

// clean makes one line of valid UTF-8 of a text, cut to textMax.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > textMax {
		s = strings.ToValidUTF8(s[:textMax], "")
	}
	return s
}
