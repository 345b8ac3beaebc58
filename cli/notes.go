package cli

import (
	"fmt"
	"strings"
	"time"

	"vcn/api"
)

// earlyText says how early or late a reservation was ready; empty if it has not
// been, or was ready just in time.
func earlyText(r api.Reservation) string {
	switch {
	case r.Early == nil:
		return ""
	case *r.Early < 0:
		return "ready " + span(time.Duration(-*r.Early)*time.Second) + " after its start"
	case *r.Early == 0:
		return "ready at its start"
	}
	return "ready " + span(time.Duration(*r.Early)*time.Second) + " before its start"
}

// usableLine says when it was usable, or is expected to be.
func (a *app) usableLine(r api.Reservation) string {
	switch {
	case r.ReadyAt != nil:
		if early := earlyText(r); early != "" {
			return a.clockTime(*r.ReadyAt) + " (" + early + ")"
		}
		return a.clockTime(*r.ReadyAt)
	case r.Expected != nil && !over(r.State):
		return "expected at " + a.clockTime(*r.Expected)
	}
	return ""
}

// planUsable says when a plan's cluster would be usable, where that is later
// than its start.
func (a *app) planUsable(p api.Plan) string {
	if !p.Expected.After(p.Start) {
		return ""
	}
	return fmt.Sprintf("expected at %s, in about %s", a.clockTime(p.Expected), span(p.Expected.Sub(a.now()).Round(time.Second)))
}

// heldText says what the hosts that are shown are worth.
func (a *app) heldText(r api.Reservation) string {
	switch {
	case r.Held:
		return "held"
	case r.State == api.StateBooked:
		return "promised by class and shape; those shown may change until provisioning begins"
	}
	return ""
}

// waitText is a place in the waitlist, to follow a word.
func (a *app) waitText(w *api.Wait) string {
	if w == nil {
		return ""
	}
	s := fmt.Sprintf(" at position %d, to start from %s to %s", w.Position, a.clockTime(w.Earliest), a.clockTime(w.Latest))
	if w.Message != "" {
		s += ": " + oneLine(w.Message)
	}
	return s
}

// waitLine is the same with how often others went before.
func (a *app) waitLine(r api.Reservation) string {
	if r.Wait == nil {
		return ""
	}
	s := strings.TrimPrefix(a.waitText(r.Wait), " at ")
	if r.Wait.Passed > 0 {
		s += fmt.Sprintf(" (passed by %d behind it)", r.Wait.Passed)
	}
	return s
}

// atEndText says what happens at the end, if it is not all deleted at once.
func atEndText(e *api.AtEnd) string {
	if e == nil || e.Action != api.EndPark && (e.Grace == "" || e.Grace == "0s") {
		return ""
	}
	s := "release"
	if e.Action == api.EndPark {
		s = "park"
		if e.ParkFor != "" {
			s += " for " + e.ParkFor
		}
	}
	if e.Grace != "" && e.Grace != "0s" {
		s += ", after a grace of " + e.Grace
	}
	return s
}

func (a *app) parkedUntil(r api.Reservation) string {
	if r.ParkedUntil == nil {
		return ""
	}
	return a.clockTime(*r.ParkedUntil)
}

// noteOf is what a list has no column for.
func (a *app) noteOf(r api.Reservation) string {
	var parts []string
	switch {
	case r.Wait != nil:
		parts = append(parts, fmt.Sprintf("waitlist position %d", r.Wait.Position))
	case r.ParkedUntil != nil:
		parts = append(parts, "kept until "+a.clockTime(*r.ParkedUntil))
	case r.State == api.StateProvisioning && r.Expected != nil:
		parts = append(parts, "usable at about "+a.clockTime(*r.Expected))
	}
	if early := earlyText(r); early != "" && (r.State == api.StateReady || r.State == api.StateActive) {
		parts = append(parts, early)
	}
	if r.Change != nil {
		parts = append(parts, "changing: "+a.changeText(r.Change))
	}
	if r.Series != "" {
		parts = append(parts, "series "+r.Series)
	}
	return strings.Join(parts, "; ")
}
