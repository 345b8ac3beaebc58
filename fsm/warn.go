package fsm

import (
	"fmt"
	"slices"
	"time"

	"vcn/api"
)

// Warnings before the end of a slot: an event, for whoever is to be told, and a
// notice inside the cluster.

// passedWarnings counts the warnings whose time is over: they are not given.
func passedWarnings(r *Reservation, now time.Time) int {
	n := 0
	for _, w := range r.Spec.Warnings() {
		if !r.End.Add(-w).After(now) {
			n++
		}
	}
	return n
}

// nextWarning is when the next one is due.
func nextWarning(r *Reservation) (time.Time, bool) {
	list := r.Spec.Warnings()
	if r.Warned >= len(list) {
		return time.Time{}, false
	}
	return r.End.Add(-list[r.Warned]), true
}

// warn gives the warnings that are due, as one.
func (t *tx) warn(r *Reservation) {
	r.Warned = passedWarnings(r, t.now)
	left := api.FormatDuration(r.End.Sub(t.now).Round(time.Minute))
	what := "it is released, with all that is on its disks"
	if parks(r) {
		what = "it is parked: its disks are kept"
	}
	text := fmt.Sprintf("%s ends in %s, at %s: then %s", r.Name, left, r.End.Format(time.RFC3339), what)
	t.event(r.ID, "", "reservation.ends_soon", "%s", text)
	t.notice(r, text)
}

// notice shows a text inside the cluster, in place of those before it.
func (t *tx) notice(r *Reservation, text string) {
	r.Notices = []NoticeWork{{ID: fmt.Sprintf("%s-%d", r.ID, t.index), Text: clip(text)}}
	if len(r.Nodes) > 0 && r.Nodes[0].Host != "" {
		t.touch(r.Nodes[0].Host)
	}
}

// rewarn follows a change of the end: the warnings of the new one are to come,
// and who was warned of the old one is told.
func (t *tx) rewarn(r *Reservation, old time.Time) {
	r.Warned = passedWarnings(r, t.now)
	t.event(r.ID, "", "reservation.end_moved", "%s ends at %s, not at %s", r.Name, r.End.Format(time.RFC3339), old.Format(time.RFC3339))
	if len(r.Notices) > 0 {
		t.notice(r, fmt.Sprintf("%s ends at %s, not at %s", r.Name, r.End.Format(time.RFC3339), old.Format(time.RFC3339)))
	}
}

// due is when time will next change the reservation.
func due(r *Reservation) (time.Time, bool) {
	switch r.State {
	case api.StateWaitlisted:
		return r.Wait.Latest, true
	case api.StateBooked:
		return r.End, true
	case api.StateReady:
		return earliest(r.Start, runningDue(r)), true
	case api.StateProvisioning, api.StateActive:
		return runningDue(r), true
	case api.StateEnding:
		return r.StopAt, !r.StopAt.IsZero()
	case api.StateParked:
		return r.ParkedUntil, true
	}
	return r.Closed.Add(ClosedLife), true
}

func runningDue(r *Reservation) time.Time {
	at := r.End
	if w, ok := nextWarning(r); ok {
		at = earliest(at, w)
	}
	for i := range r.Nodes {
		if n := &r.Nodes[i]; n.Leaving && !n.LeaveDue && !n.LeaveBy.IsZero() {
			at = earliest(at, n.LeaveBy)
		}
	}
	return at
}

func earliest(list ...time.Time) time.Time { return slices.MinFunc(list, time.Time.Compare) }
