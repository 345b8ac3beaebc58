package control

import (
	"fmt"
	"strings"
	"time"

	"vcn/api"
	"vcn/fsm"
	"vcn/placement"
)

// refused completes the refusal of an extension with what would be possible. inv
// is without what is held.
func (w *changer) refused(inv *placement.Inventory, held []placement.Booking, err error) error {
	no, ok := err.(*noFitError)
	if !ok || !w.times.end.After(w.r.End) || w.nodesDiffer() {
		return err
	}
	longest, blocks := w.longest(inv, held, w.times.end)
	p := *no.Problem
	p.Detail = fmt.Sprintf("%s cannot be extended to %s", w.r.Name, w.clock(w.times.end))
	p.Until = w.clock(longest)
	p.Reasons = append(w.blockers(blocks), p.Reasons...)
	p.Next = "the longest possible end is " + p.Until + "; what stands in its way is named above"
	if !longest.After(w.r.End) {
		p.Next = "it cannot be any longer; what stands in its way is named above"
	}
	return &noFitError{Problem: &p, why: no.why}
}

// longest is the longest end that is possible, at most to and in whole seconds, and what
// stands in the way of more. A promise may go to other hosts for it. inv is
// without what is held, and so it is when this returns.
func (w *changer) longest(inv *placement.Inventory, held []placement.Booking, to time.Time) (time.Time, []placement.Block) {
	around := w.times.grace + fsm.Turnaround
	inv.Add(held...)
	end, blocks := w.prolong(inv, held, to)
	inv.Remove(held...)
	if w.r.State == api.StateBooked && end.Before(to) && w.r.End.After(w.now) {
		times := w.times
		times.end = to
		q := placeRequest(request(w.r.Nodes, w.r.Kept), times)
		for i := range q.Nodes {
			q.Nodes[i].Host = ""
		}
		until, _, err := inv.Longest(q, latest(end, w.r.End).Add(around).Sub(q.From))
		if err == nil {
			end = latest(end, until.Add(-around))
		}
	}
	return latest(w.r.End, end.Truncate(time.Second)), blocks
}

// prolong is the longest end on the hosts that are held. Disks that are parked after
// it are held for longer, and prolonged as much.
func (w *changer) prolong(inv *placement.Inventory, held []placement.Booking, to time.Time) (time.Time, []placement.Block) {
	around := w.times.grace + fsm.Turnaround
	var nodes, disks []placement.Booking
	for _, b := range held {
		n, d := b, b
		n.StorageBytes = 0
		d.CPUs, d.MemoryBytes, d.Clusters = 0, 0, 0
		nodes, disks = append(nodes, n), append(disks, d)
	}
	until, blocks := inv.Extend(nodes, to.Add(around))
	end := until.Add(-around)
	kept, more := inv.Extend(disks, to.Add(around+w.times.parkFor))
	switch kept = kept.Add(-around - w.times.parkFor); {
	case kept.Before(end):
		end, blocks = kept, more
	case kept.Equal(end):
		blocks = append(blocks, more...)
	}
	return end, blocks
}

// blockersMax bounds how many blockers one refusal names.
const blockersMax = 5

// blockers names who or what stands in the way, and until when. Of other
// projects only times and amounts are told.
func (w *changer) blockers(blocks []placement.Block) []string {
	var out []string
	for _, b := range blocks {
		if len(out) == blockersMax {
			return append(out, fmt.Sprintf("and %d more", len(blocks)-blockersMax))
		}
		name := hostName(w.v, b.Host)
		if b.Host == fsm.Identifiers {
			name = "the pools of identifiers"
		}
		out = append(out, fmt.Sprintf("%s: short of %s from %s: %s", name, amount(b), w.clock(b.At), w.holders(b)))
	}
	return out
}

func amount(b placement.Block) string {
	switch b.Resource {
	case placement.Memory, placement.Storage:
		return api.Quantity(b.Short).Short() + " of " + b.Resource
	}
	return fmt.Sprintf("%d %s", b.Short, b.Resource)
}

// holders says who holds a host at an instant.
func (w *changer) holders(b placement.Block) string {
	var out []string
	others := 0
	var last time.Time
	for _, id := range w.v.OwnersOn(b.Host) {
		if id == w.r.ID {
			continue
		}
		for _, k := range w.v.BookingsOf(id) {
			if k.Host != b.Host || k.From.After(b.At) || !k.Until.After(b.At) {
				continue
			}
			if r, ok := w.v.Reservation(id); ok && w.sees(r.Project) {
				out = append(out, fmt.Sprintf("%s of project %s holds it until %s, shorten or move that", r.Name, r.Project, w.clock(k.Until)))
			} else {
				others++
				last = latest(last, k.Until)
			}
			break
		}
	}
	if others > 0 {
		out = append(out, fmt.Sprintf("%d reservations or offers of others hold it, the last until %s", others, w.clock(last)))
	}
	if len(out) == 0 {
		return "it cannot be used"
	}
	return strings.Join(out[:min(len(out), blockersMax)], "; ")
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
