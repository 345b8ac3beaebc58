package placement

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// What one call of Earliest may cost, beside walking the calendar once: starts
// that are planned in vain, and those times hosts and nodes together.
const (
	ProbesMax    = 20_000
	ProbeWorkMax = 2_000_000
)

func (e *Undecided) Error() string {
	return fmt.Sprintf("undecided: no start before %s among %d planned; ask again from there", e.Before.Format(time.RFC3339), e.Probes)
}

func (e *Undecided) Unwrap() error { return e.NoFit }

// Earliest finds the first start, not before r.From and not after last, at which
// r (with its length kept) fits: r.From itself, or an instant at which something
// booked on a usable host ends, whichever is the first at which Plan succeeds. If
// there is none it returns the *NoFit of r.From. ErrInvalid: as Plan, or last
// is before r.From. *Undecided: see there.
func (inv *Inventory) Earliest(r Request, last time.Time) (time.Time, Plan, error) {
	if err := r.check(); err != nil {
		return time.Time{}, Plan{}, fmt.Errorf("earliest: %w", err)
	}
	if last.Before(r.From) {
		return time.Time{}, Plan{}, fmt.Errorf("earliest: %w: last start %s is before from %s", ErrInvalid, last, r.From)
	}
	first := inv.place(&r, false)
	if first.complete() {
		return r.From, first.plan(), nil
	}
	s := newSweep(inv, &r, last)
	found, before := s.run()
	if found != nil {
		return found.r.From, found.plan(), nil
	}
	no := first.noFit()
	if before != 0 {
		return time.Time{}, Plan{}, &Undecided{Before: s.time(before), Probes: s.probes, NoFit: no}
	}
	return time.Time{}, Plan{}, no
}

// sweep moves the slot along the calendar, chunk by chunk, and keeps the sums of
// all conditions. Only where they suffice is planned.
type sweep struct {
	walker
	r       *Request
	ends    bool    // every end is worth a try, not only those that raise a sum
	at      int64   // everything up to it is ruled out
	last    int64   // nothing changes, or may be taken, after it
	cursors []int32 // by host
	probes  int
	probed  *attempt // that fitted
}

func newSweep(inv *Inventory, r *Request, last time.Time) *sweep {
	s := &sweep{r: r, at: nanos(r.From), cursors: make([]int32, len(inv.hosts))}
	// What is booked of storage after the slot is in no condition: then each end is tried.
	s.inv, s.conds, s.ends = inv, inv.conditions(r), !inv.plain(r) || r.KeepStorage > 0
	s.length = nanos(r.Until) - s.at
	s.sums, s.parts = make([]int64, len(s.conds.list)), make([]int64, len(s.conds.list))
	yearEnd := time.Date(yearMax, 12, 31, 0, 0, 0, 0, time.UTC).UnixNano()
	until := min(nanos(last), yearEnd-s.length)
	s.last = math.MinInt64
	for h := range inv.hosts {
		line := &inv.lines[h]
		s.cursors[h] = int32(line.find(s.at))
		if len(line.steps) > 0 && len(s.conds.bySeat[s.conds.seat(inv, h)]) > 0 {
			s.last = max(s.last, min(line.last, until))
		}
	}
	return s
}

func (s *sweep) time(at int64) time.Time { return time.Unix(0, at).In(s.r.From.Location()) }

// chunkChanges is about how many changes are held at once, 16 bytes each,
// unless one length of the slot has more.
const chunkChanges = 1 << 18

// buffers keeps lists of changes between calls.
var buffers sync.Pool

// run returns the first attempt that fits. Without one, before is 0 if all was
// seen, else the instant from which on it was not.
func (s *sweep) run() (found *attempt, before int64) {
	if s.last <= s.at || s.conds.hopeless(s.inv) {
		return nil, 0
	}
	if buffer, ok := buffers.Get().(*[]change); ok {
		s.out = *buffer
	}
	defer func() { buffers.Put(&s.out) }()
	chunk := max(s.length, (s.last-s.at)/64, int64(time.Minute))
	for s.at < s.last {
		until := s.last
		if chunk < s.last-s.at {
			until = s.at + chunk
		}
		s.out = s.out[:0]
		s.follow(s.cursors, s.at, until)
		for h := range s.inv.hosts {
			s.cursors[h] = int32(s.walk(h, int(s.cursors[h]), s.at, until))
		}
		if before, done := s.sift(until); done {
			return s.probed, before
		}
		s.at = until
		if len(s.out) < chunkChanges/2 {
			chunk *= 2
		}
	}
	return nil, 0
}

// buckets cuts a chunk: those in which a sum stays short whatever the order of
// its changes are passed over, so that only the others need to be sorted.
type buckets struct {
	from    int64
	shift   uint
	conds   int
	net, up []int64 // by bucket and condition
	size    []int32 // changes, by bucket
}

func (b *buckets) of(at int64) int { return int(uint64(at-b.from-1) >> b.shift) }

func (s *sweep) bucket(until int64) *buckets {
	b := &buckets{from: s.at, conds: len(s.conds.list)}
	for want := min(len(s.out)/16+64, 8192); (until-s.at)>>b.shift > int64(want); {
		b.shift++
	}
	n := b.of(until) + 1
	b.net, b.up, b.size = make([]int64, n*b.conds), make([]int64, n*b.conds), make([]int32, n)
	for i := range s.out {
		c := &s.out[i]
		k := b.of(c.at)
		b.size[k]++
		b.net[k*b.conds+int(c.cond)] += int64(c.delta)
		b.up[k*b.conds+int(c.cond)] += int64(max(c.delta, 0))
	}
	return b
}

// sift goes through the changes up to until; done if it found something
// or gave up before an instant.
func (s *sweep) sift(until int64) (before int64, done bool) {
	b := s.bucket(until)
	reach, any := make([]bool, len(b.size)), false
	sums := slices.Clone(s.sums)
	for k := range b.size {
		reach[k] = true
		for i := range sums {
			reach[k] = reach[k] && sums[i]+b.up[k*b.conds+i] >= s.conds.list[i].want
			sums[i] += b.net[k*b.conds+i]
		}
		any = any || reach[k]
	}
	if !any {
		return 0, false
	}
	if s.ends {
		n := len(s.out)
		s.marks(s.at, until, func(at int64) bool { return reach[b.of(at)] })
		for _, c := range s.out[n:] {
			b.size[b.of(c.at)]++
		}
	}
	start := make([]int32, len(b.size)) // of each bucket in reach, in sorted; -1 for others
	total := int32(0)
	for k, is := range reach {
		start[k] = -1
		if is {
			start[k] = total
			total += b.size[k]
		}
	}
	sorted := make([]change, total)
	fill := slices.Clone(start)
	for _, c := range s.out {
		if k := b.of(c.at); fill[k] >= 0 {
			sorted[fill[k]] = c
			fill[k]++
		}
	}
	for k, from := range start {
		if from >= 0 {
			if before, done := s.instants(sorted[from : from+b.size[k]]); done {
				return before, true
			}
			continue
		}
		for i := range s.sums {
			s.sums[i] += b.net[k*b.conds+i]
		}
	}
	return 0, false
}

// instants goes through the changes of one bucket in order of time.
func (s *sweep) instants(cs []change) (before int64, done bool) {
	slices.SortFunc(cs, func(x, y change) int { return cmp.Compare(x.at, y.at) })
	for i := 0; i < len(cs); {
		at, candidate := cs[i].at, false
		for ; i < len(cs) && cs[i].at == at; i++ {
			if cs[i].cond < 0 {
				candidate = true
				continue
			}
			s.sums[cs[i].cond] += int64(cs[i].delta)
			candidate = candidate || cs[i].delta > 0
		}
		if !candidate || !s.conds.met(s.sums) {
			continue
		}
		if s.probes >= ProbesMax || s.probes*(len(s.inv.hosts)+len(s.r.Nodes)) >= ProbeWorkMax {
			return at, true
		}
		s.probes++
		q := *s.r
		q.From = s.time(at)
		q.Until = q.From.Add(time.Duration(s.length))
		if a := s.inv.place(&q, true); a.complete() {
			s.probed = a
			return 0, true
		}
	}
	return 0, false
}
