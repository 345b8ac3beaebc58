package placement

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// amountMax bounds every single amount (1 PiB, or as many cores), so that sums
// of up to 8 000 of them do not overflow.
const amountMax = 1 << 50

// amounts is what a booking holds, or a host has.
type amounts struct {
	cpus, memory, storage int64
}

func (a amounts) plus(b amounts) amounts {
	return amounts{a.cpus + b.cpus, a.memory + b.memory, a.storage + b.storage}
}

func (a amounts) minus(b amounts) amounts {
	return amounts{a.cpus - b.cpus, a.memory - b.memory, a.storage - b.storage}
}

func (a *amounts) raise(b amounts) {
	a.cpus, a.memory, a.storage = max(a.cpus, b.cpus), max(a.memory, b.memory), max(a.storage, b.storage)
}

func clamp(n int64) int64 { return min(max(n, 0), amountMax) }

// nanos is t as nanoseconds since 1970, with what lies outside of what int64
// holds (years 1678-2262) moved to its ends.
func nanos(t time.Time) int64 {
	switch y := t.Year(); {
	case y < 1700:
		return math.MinInt64
	case y > 2200:
		return math.MaxInt64
	}
	return t.UnixNano()
}

// span is one booking on a host.
type span struct {
	from, until int64
	amounts
}

// timeline is the step function of what is booked on one host: from at[i] until
// at[i+1] it is used[i], after the last it is zero, and so before the first.
type timeline struct {
	at   []int64
	used []amounts
}

// newTimeline sums spans up, in any order. Empty and reversed ones hold nothing.
func newTimeline(spans []span) timeline {
	type event struct {
		at    int64
		start bool
		amounts
	}
	events := make([]event, 0, 2*len(spans))
	for _, s := range spans {
		if s.from < s.until {
			events = append(events, event{s.from, true, s.amounts}, event{s.until, false, s.amounts})
		}
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	tl := timeline{at: make([]int64, 0, len(events)), used: make([]amounts, 0, len(events))}
	var now amounts
	for i, e := range events {
		if e.start {
			now = now.plus(e.amounts)
		} else {
			now = now.minus(e.amounts)
		}
		// Of all events of one instant only the sum counts: a booking that
		// ends when another begins does not overlap it.
		if i+1 < len(events) && events[i+1].at == e.at {
			continue
		}
		tl.at, tl.used = append(tl.at, e.at), append(tl.used, now)
	}
	return tl
}

// peak returns the largest amounts held at any instant of [from, until), each
// resource by itself.
func (t timeline) peak(from, until int64) amounts {
	i, exact := slices.BinarySearch(t.at, from)
	if !exact {
		i-- // the step that began before from
	}
	var p amounts
	for i = max(i, 0); i < len(t.at) && t.at[i] < until; i++ {
		p.raise(t.used[i])
	}
	return p
}

// peakAt returns the first instant of [from, until) at which pick is largest.
func (t timeline) peakAt(from, until int64, pick func(amounts) int64) int64 {
	at, most := from, int64(-1)
	i, exact := slices.BinarySearch(t.at, from)
	if !exact {
		i--
	}
	for i = max(i, 0); i < len(t.at) && t.at[i] < until; i++ {
		if n := pick(t.used[i]); n > most {
			at, most = max(t.at[i], from), n
		}
	}
	return at
}
