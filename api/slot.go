package api

import (
	"fmt"
	"strconv"
	"time"
)

// Window is when a slot may be, at one moment. A slot has either a length or a
// fixed end.
type Window struct {
	Earliest time.Time      // earliest start
	Latest   time.Time      // latest start; Earliest if only that will do; zero with Asap and no limit
	Length   time.Duration  // zero: it ends at End
	End      time.Time      // zero: it ends Length after its start
	Asap     bool           // Earliest is now, to be moved by whoever plans
	Zone     *time.Location // the slot's; UTC if it names none
}

// EndOf is the end of a slot of this window that starts at start.
func (w Window) EndOf(start time.Time) time.Time {
	if w.Length == 0 {
		return w.End
	}
	return start.Add(w.Length)
}

// ResolveWindow turns the slot into times at the moment now. Of a series it is
// the first date. Times given are cut to whole seconds. Errors are FieldErrors:
// those of Validate, a start that is past or more than 10 years ahead, a latest
// start or an end that is past.
func (s Spec) ResolveWindow(now time.Time) (Window, error) {
	p, errs := s.Slot.parse()
	if len(errs) > 0 {
		return Window{}, errs[0]
	}
	w := Window{Earliest: p.start, Latest: p.latest, Length: p.length, End: p.end, Asap: p.asap, Zone: time.UTC}
	if p.zone != nil {
		w.Zone = p.zone
	}
	if p.asap {
		w.Earliest = now
	} else if w.Latest.IsZero() {
		w.Latest = w.Earliest
	}
	if err := w.check(s.Slot, now); err != nil {
		return Window{}, err
	}
	return w, nil
}

// check compares the window with now.
func (w Window) check(s Slot, now time.Time) error {
	length := w.EndOf(w.Earliest).Sub(w.Earliest)
	switch {
	case w.Earliest.Before(now.Add(-SlotPastGrace)):
		return FieldError{"slot.start", s.Start, "a time to come, or asap (it is " + now.UTC().Format(time.RFC3339) + " now)"}
	case w.Earliest.Sub(now) > SlotAheadMax:
		return FieldError{"slot.start", s.Start, "at most 10 years ahead"}
	case s.Latest != "" && w.Latest.Before(w.Earliest):
		return FieldError{"slot.latest", s.Latest, "a time to come (it is " + now.UTC().Format(time.RFC3339) + " now)"}
	case s.Latest != "" && w.Latest.Sub(now) > SlotAheadMax:
		return FieldError{"slot.latest", s.Latest, "at most 10 years ahead"}
	case length <= 0:
		return FieldError{"slot.end", s.End, "a time to come, after the start"}
	case length < SlotLengthMin:
		return FieldError{"slot.end", s.End, "at least 1m after the start"}
	case length > SlotLengthMax:
		return FieldError{"slot.end", s.End, "at most 5y after the start"}
	}
	return nil
}

// ResolveSlot is the earliest slot of ResolveWindow, with its errors. With
// start: asap, asap is true and start is now, to be moved by whoever plans: the
// length is what counts then, unless the slot has a fixed end.
func (s Spec) ResolveSlot(now time.Time) (start, end time.Time, asap bool, err error) {
	w, err := s.ResolveWindow(now)
	if err != nil {
		return time.Time{}, time.Time{}, false, err
	}
	return w.Earliest, w.EndOf(w.Earliest), w.Asap, nil
}

// parsedSlot is a slot's parts as values; end is zero if length is given.
type parsedSlot struct {
	asap               bool
	start, latest, end time.Time
	length             time.Duration
	zone               *time.Location // nil: none given
}

// slotParser collects what is wrong with a slot.
type slotParser struct {
	parsedSlot
	slot     Slot
	badZone  bool // then times without an offset are not what is wrong
	badStart bool
	errs     []FieldError
}

func (p *slotParser) bad(field, value, want string) {
	p.errs = append(p.errs, FieldError{Field: "slot." + field, Value: value, Want: want})
}

// parse checks everything that needs no clock.
func (s Slot) parse() (parsedSlot, []FieldError) {
	p := slotParser{slot: s}
	if s.Zone != "" {
		var err error
		if p.zone, err = LoadZone(s.Zone); err != nil {
			p.badZone = true
			p.bad("zone", s.Zone, wantOf(err))
		}
	}
	switch s.Start {
	case "":
		p.bad("start", "", wantStart)
	case StartAsap:
		p.asap = true
	default:
		p.start = p.time("start", s.Start, "asap, or ")
	}
	p.badStart = p.start.IsZero() && !p.asap
	p.lengthOrEnd()
	p.window()
	p.repeat()
	return p.parsedSlot, p.errs
}

// time reads one of the slot's times; it is zero if that is wrong.
func (p *slotParser) time(field, value, orElse string) time.Time {
	t, err := ParseTimeIn(value, p.zone)
	if err != nil {
		if !p.badZone || !timeNoZone.MatchString(value) {
			p.bad(field, value, orElse+wantOf(err))
		}
		return time.Time{}
	}
	return t.Truncate(time.Second)
}

// lengthOrEnd reads the length or the end.
func (p *slotParser) lengthOrEnd() {
	s := p.slot
	switch {
	case s.End == "" && s.For == "":
		p.bad("for", "", wantDuration+" (or slot.end)")
	case s.End != "" && s.For != "":
		p.bad("end", s.End, "only one of end and for; for is "+strconv.Quote(s.For))
	case s.For != "":
		var err error
		if p.length, err = ParseDuration(s.For); err != nil {
			p.bad("for", s.For, wantOf(err))
		} else if p.length < SlotLengthMin || p.length > SlotLengthMax {
			p.bad("for", s.For, "1m to 5y")
		}
	default:
		p.end = p.time("end", s.End, "")
		if p.end.IsZero() || p.start.IsZero() {
			return
		}
		switch length := p.end.Sub(p.start); {
		case length <= 0:
			p.bad("end", s.End, "a time after the start, "+s.Start)
		case length < SlotLengthMin:
			p.bad("end", s.End, "at least 1m after the start, "+s.Start)
		case length > SlotLengthMax:
			p.bad("end", s.End, "at most 5y after the start, "+s.Start)
		}
	}
}

// window reads the latest start.
func (p *slotParser) window() {
	s := p.slot
	switch {
	case s.Latest == "":
	case s.Repeat != "":
		p.bad("latest", s.Latest, "nothing: each date of a series has a fixed start")
	case s.End != "":
		p.bad("latest", s.Latest, "slot.for instead of slot.end: with a fixed end nobody knows how long a slot that starts later shall be")
	default:
		p.latest = p.time("latest", s.Latest, "")
		if !p.latest.IsZero() && p.latest.Before(p.start) {
			p.bad("latest", s.Latest, "a time that is not before the start, "+s.Start)
		}
	}
}

// repeat checks what can be checked of a series without its dates.
func (p *slotParser) repeat() {
	s := p.slot
	if s.Repeat == "" {
		if len(s.Except) > 0 {
			p.bad("except", s.Except[0], "nothing: slot.repeat is not given, so there are no dates to leave out")
		}
		return
	}
	if _, err := NormalRepeat(s.Repeat); err != nil {
		p.bad("repeat", s.Repeat, wantOf(err))
	}
	if s.Zone == "" {
		p.bad("zone", "", wantZone+": that of the series' daylight saving")
	}
	if p.asap {
		p.bad("start", s.Start, "the first start of the series, such as 2030-12-01T09:00")
	}
	if len(s.Except) > ExceptMax {
		p.bad("except", fmt.Sprintf("%d dates", len(s.Except)), fmt.Sprintf("at most %d", ExceptMax))
		return
	}
	seen := map[string]bool{}
	for i, e := range s.Except {
		at := fmt.Sprintf("except[%d]", i)
		if seen[e] {
			p.bad(at, e, "each once")
		} else if _, _, err := ParseExcept(e, p.zone); err != nil && !p.badZone && s.Zone != "" {
			p.bad(at, e, wantOf(err))
		}
		seen[e] = true
	}
}

// wantOf is what a FieldError wants, or the text of any other error.
func wantOf(err error) string {
	if f, ok := err.(FieldError); ok {
		return f.Want
	}
	return "something else: " + err.Error()
}
