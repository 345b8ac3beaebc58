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

// Resources, as places in amounts.
const (
	cpus = iota
	memory
	disk
	clusters
	resources
)

// resourceNames are those of Shortage and Block.
var resourceNames = [resources]string{Cores, Memory, Storage, Identifiers}

// amounts is what a booking holds, or a host has, by resource.
type amounts [resources]int64

func (a amounts) plus(b amounts) amounts {
	return amounts{a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]}
}

func (a amounts) minus(b amounts) amounts {
	return amounts{a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3]}
}

func (a *amounts) raise(b amounts) {
	a[0], a[1], a[2], a[3] = max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
}

func clamp(n int64) int64 { return min(max(n, 0), amountMax) }

func (b *Booking) amounts() amounts {
	return amounts{clamp(int64(b.CPUs)), clamp(b.MemoryBytes), clamp(b.StorageBytes), clamp(int64(b.Clusters))}
}

func (s *Step) amounts() amounts {
	return amounts{int64(s.CPUs), s.MemoryBytes, s.StorageBytes, int64(s.Clusters)}
}

func (s *Step) amount(resource int) int64 {
	switch resource {
	case cpus:
		return int64(s.CPUs)
	case memory:
		return s.MemoryBytes
	case disk:
		return s.StorageBytes
	}
	return int64(s.Clusters)
}

func stepOf(at int64, a amounts) Step {
	return Step{At: at, CPUs: int(a[cpus]), MemoryBytes: a[memory], StorageBytes: a[disk], Clusters: int(a[clusters])}
}

// yearMin and yearMax bound requests; bookings beyond them are endless.
const yearMin, yearMax = 1700, 2200

// nanos is t as nanoseconds since 1970, with what lies outside of the years
// yearMin-yearMax moved to the ends of int64.
func nanos(t time.Time) int64 {
	switch y := t.Year(); {
	case y < yearMin:
		return math.MinInt64
	case y > yearMax:
		return math.MaxInt64
	}
	return t.UnixNano()
}

// timeline is the step function of what is booked on one host. It is zero
// before its first step, and never changed once it is made: inventories share it.
type timeline struct {
	steps       []Step // by time, each once
	first, last int64  // the instants of the first and last step; so that a lookup need not touch them
}

func lineOf(steps []Step) timeline {
	if len(steps) == 0 {
		return timeline{}
	}
	return timeline{steps, steps[0].At, steps[len(steps)-1].At}
}

// ordered returns steps by time, of two at one instant the later one: the same
// slice if it is so already.
func ordered(steps []Step) []Step {
	byTime := func(a, b Step) int { return cmp.Compare(a.At, b.At) }
	if slices.IsSortedFunc(steps, func(a, b Step) int {
		if a.At == b.At {
			return 1
		}
		return byTime(a, b)
	}) {
		return steps
	}
	steps = slices.Clone(steps)
	slices.SortStableFunc(steps, byTime)
	slices.Reverse(steps)
	steps = slices.CompactFunc(steps, func(a, b Step) bool { return a.At == b.At })
	slices.Reverse(steps)
	return steps
}

// stepsOf sums bookings of one host up, in any order. Empty and reversed ones
// hold nothing.
func stepsOf(bookings []Booking) []Step {
	type event struct {
		at int64
		amounts
	}
	events := make([]event, 0, 2*len(bookings))
	for i := range bookings {
		b := &bookings[i]
		if from, until, a := nanos(b.From), nanos(b.Until), b.amounts(); from < until && a != (amounts{}) {
			events = append(events, event{from, a}, event{until, amounts{}.minus(a)})
		}
	}
	if len(events) > 2 {
		slices.SortFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	}
	steps := make([]Step, 0, len(events))
	var now, before amounts
	for i, e := range events {
		now = now.plus(e.amounts)
		// Of all events of one instant only the sum counts: a booking that
		// ends when another begins does not overlap it.
		if (i+1 < len(events) && events[i+1].at == e.at) || now == before {
			continue
		}
		steps, before = append(steps, stepOf(e.at, now)), now
	}
	return steps
}

// find returns the last step that is not after t, -1 if there is none. It
// guesses by proportion and closes in from there: bookings are spread over the
// calendar, so that this touches fewer cache lines than plain bisection; at
// worst it is twice the bisection's log2 n.
func (t *timeline) find(at int64) int {
	n := len(t.steps)
	if n == 0 || at < t.first {
		return -1
	}
	if at >= t.last {
		return n - 1
	}
	part := (float64(at) - float64(t.first)) / (float64(t.last) - float64(t.first))
	guess := min(max(int(part*float64(n-1)), 0), n-2)
	lo, hi, leap := 0, n-1, 1
	if t.steps[guess].At <= at {
		for lo = guess; lo+leap < hi; leap *= 2 {
			if t.steps[lo+leap].At > at {
				hi = lo + leap
				break
			}
			lo += leap
		}
	} else {
		for hi = guess; hi-leap > lo; leap *= 2 {
			if t.steps[hi-leap].At <= at {
				lo = hi - leap
				break
			}
			hi -= leap
		}
	}
	for hi-lo > 1 {
		mid := int(uint(lo+hi) / 2)
		if t.steps[mid].At <= at {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// peak returns the largest amounts held at any instant of [from, until), each
// resource by itself.
func (t *timeline) peak(from, until int64) amounts {
	return t.peakFrom(t.find(from), until)
}

// peakFrom is peak from a step on; -1 stands for the time before the first.
func (t *timeline) peakFrom(step int, until int64) amounts {
	var p amounts
	for i := max(step, 0); i < len(t.steps) && t.steps[i].At < until; i++ {
		p.raise(t.steps[i].amounts())
	}
	return p
}

// peakAt returns the first instant of [from, until) at which most of a resource
// is held.
func (t *timeline) peakAt(from, until int64, resource int) int64 {
	at, most := from, int64(0)
	for i := max(t.find(from), 0); i < len(t.steps) && t.steps[i].At < until; i++ {
		if n := t.steps[i].amount(resource); n > most {
			at, most = max(t.steps[i].At, from), n
		}
	}
	return at
}

// with returns t with steps added (sign 1) or taken away (-1). The last of
// steps must be zero.
func (t *timeline) with(steps []Step, sign int64) timeline {
	if len(steps) == 0 {
		return *t
	}
	old := t.steps
	i := t.find(steps[0].At)
	if i < 0 || old[i].At < steps[0].At {
		i++
	}
	out := make([]Step, i, len(old)+len(steps))
	copy(out, old[:i])
	var base, more, last amounts
	if i > 0 {
		base = old[i-1].amounts()
		last = base
	}
	for j := 0; j < len(steps); {
		at := steps[j].At
		if i < len(old) && old[i].At <= at {
			at = old[i].At
			base = old[i].amounts()
			i++
		}
		if steps[j].At == at {
			more = steps[j].amounts()
			for k := range more {
				more[k] *= sign
			}
			j++
		}
		if now := base.plus(more); now != last {
			out, last = append(out, stepOf(at, now)), now
		}
	}
	return lineOf(append(out, old[i:]...))
}
