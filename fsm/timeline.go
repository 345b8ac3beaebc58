package fsm

import (
	"slices"
	"time"
)

// Amounts is what is booked of a host at an instant.
type Amounts struct {
	CPUs         int
	MemoryBytes  int64
	StorageBytes int64
	Clusters     int // on Identifiers only
}

func (a Amounts) plus(b Amounts) Amounts {
	return Amounts{a.CPUs + b.CPUs, a.MemoryBytes + b.MemoryBytes, a.StorageBytes + b.StorageBytes, a.Clusters + b.Clusters}
}

func (a Amounts) minus(b Amounts) Amounts {
	return Amounts{a.CPUs - b.CPUs, a.MemoryBytes - b.MemoryBytes, a.StorageBytes - b.StorageBytes, a.Clusters - b.Clusters}
}

// within is true if no amount is above what there is.
func (a Amounts) within(have Amounts) bool {
	return a.CPUs <= have.CPUs && a.MemoryBytes <= have.MemoryBytes && a.StorageBytes <= have.StorageBytes && a.Clusters <= have.Clusters
}

func (b *Booking) amounts() Amounts {
	return Amounts{b.CPUs, b.MemoryBytes, b.StorageBytes, b.Clusters}
}

// Step says that from At (Unix nanoseconds) until the next step so much is
// booked. Before the first step, and from the last one on, nothing is.
type Step struct {
	At int64
	Amounts
}

// timelineRow is the sum of all bookings of a host over time: neighbours differ,
// so its steps are a function of the set of bookings. Steps are never written to
// once they are stored.
//
// Admission looks at the steps inside the asked window only: its cost does not
// grow with what is booked elsewhere, and hardly with what is booked at other
// times.
//
// They are kept in parts, of which a booking rewrites those it overlaps: the
// timeline of Identifiers grows with all that is booked anywhere, and would
// otherwise be copied whole for each.
type timelineRow struct {
	Host  string
	parts [][]Step
}

const (
	partMax = 128 // steps of one part
	partMin = 32  // a part that falls below is joined with the next one
)

// steps returns all of them, in one piece.
func (row *timelineRow) steps() []Step {
	if len(row.parts) == 1 {
		return row.parts[0]
	}
	return slices.Concat(row.parts...)
}

// overlap is which parts [from, until) needs: the first holds a step before from,
// unless there is none, so that neighbours can be compared.
func (row *timelineRow) overlap(from, until int64) (first, end int) {
	after := func(p []Step, t int64) int {
		if p[0].At < t {
			return -1
		}
		return 1
	}
	first, _ = slices.BinarySearchFunc(row.parts, from, after)
	end, _ = slices.BinarySearchFunc(row.parts, until+1, after)
	return max(first-1, 0), end
}

// replaced returns the parts with those from first to end made anew of steps.
func (row *timelineRow) replaced(first, end int, steps []Step) [][]Step {
	out := make([][]Step, 0, len(row.parts)+2)
	out = append(out, row.parts[:first]...)
	for n := (len(steps) + partMax - 1) / partMax; n > 0; n-- {
		size := (len(steps) + n - 1) / n
		out = append(out, steps[:size:size])
		steps = steps[size:]
	}
	return append(out, row.parts[end:]...)
}

func (r reader) timeline(host string) *timelineRow {
	if row, ok := first[timelineRow](r, tabTimeline, "id", key(host)); ok {
		return row
	}
	return &timelineRow{Host: host}
}

func (r reader) steps(host string) []Step { return r.timeline(host).steps() }

// stepsAround returns steps that hold all that matters within [from, until].
func (r reader) stepsAround(host string, from, until int64) []Step {
	row := r.timeline(host)
	first, end := row.overlap(from, until)
	if first >= end {
		return nil
	}
	if end == first+1 {
		return row.parts[first]
	}
	return slices.Concat(row.parts[first:end]...)
}

// at returns the amounts at an instant.
func at(steps []Step, instant int64) Amounts {
	i, exact := slices.BinarySearchFunc(steps, instant, func(s Step, t int64) int {
		switch {
		case s.At < t:
			return -1
		case s.At > t:
			return 1
		}
		return 0
	})
	if !exact {
		i--
	}
	if i < 0 {
		return Amounts{}
	}
	return steps[i].Amounts
}

// within yields the steps that overlap [from, until), the first clipped to from.
func within(steps []Step, from, until int64) func(func(Step) bool) {
	return func(yield func(Step) bool) {
		i, _ := slices.BinarySearchFunc(steps, from, func(s Step, t int64) int {
			if s.At <= t { // the first one after from
				return -1
			}
			return 1
		})
		head := Step{At: from}
		if i > 0 {
			head.Amounts = steps[i-1].Amounts
		}
		if !yield(head) {
			return
		}
		for ; i < len(steps) && steps[i].At < until; i++ {
			if !yield(steps[i]) {
				return
			}
		}
	}
}

// shifted returns steps with change made to the amounts in [from, until).
func shifted(steps []Step, from, until int64, change func(Amounts) Amounts) []Step {
	if from >= until {
		return steps
	}
	out := make([]Step, 0, len(steps)+2)
	add := func(s Step) {
		last := Amounts{}
		if n := len(out); n > 0 {
			last = out[n-1].Amounts
		}
		if s.Amounts != last {
			out = append(out, s)
		}
	}
	begin, _ := slices.BinarySearchFunc(steps, from, func(s Step, t int64) int {
		if s.At < t {
			return -1
		}
		return 1
	})
	out = append(out, steps[:begin]...)
	for s := range within(steps, from, until) {
		add(Step{s.At, change(s.Amounts)})
	}
	add(Step{until, at(steps, until)})
	for ; begin < len(steps) && steps[begin].At <= until; begin++ {
	}
	for _, s := range steps[begin:] {
		add(s)
	}
	return out
}

// book adds b to the table and the timeline; unbook takes it away.
func (t *tx) book(b *Booking) {
	t.put(tabBookings, b)
	t.shift(b, Amounts.plus)
}

func (t *tx) unbook(b *Booking) {
	t.del(tabBookings, b)
	t.shift(b, Amounts.minus)
	t.eased = append(t.eased, b.Host)
}

func (t *tx) shift(b *Booking, change func(a, b Amounts) Amounts) {
	old := t.timeline(b.Host)
	from, until := b.From.UnixNano(), b.Until.UnixNano()
	first, end := old.overlap(from, until)
	part := old.parts[first:end]
	if len(part) > 0 && len(part[len(part)-1]) < partMin && end < len(old.parts) {
		end++
		part = old.parts[first:end]
	}
	var steps []Step
	if len(part) == 1 {
		steps = part[0]
	} else {
		steps = slices.Concat(part...)
	}
	steps = shifted(steps, from, until, func(a Amounts) Amounts { return change(a, b.amounts()) })
	t.moved = append(t.moved, hostChange{t.index, b.Host})
	t.put(tabTimeline, &timelineRow{Host: b.Host, parts: old.replaced(first, end, steps)})
}

// unbookAll takes away everything of one owner, and returns it.
func (t *tx) unbookAll(owner string) []*Booking {
	had := all(scan[Booking](t.reader, tabBookings, "id", key(owner)))
	for _, b := range had {
		t.unbook(b)
	}
	return had
}

// overrun sums what is still held of a host past its time: by those that are
// ending and not yet clean. They stand at the front of the host's bookings by
// Until.
func (r reader) overrun(host string, clock time.Time) (sum Amounts) {
	for b := range scan[Booking](r, tabBookings, "host", key(host)) {
		if b.Until.After(clock) {
			break
		}
		sum = sum.plus(b.amounts())
	}
	return sum
}
