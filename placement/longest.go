package placement

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// EndsTriedMax is how many ends Longest plans in vain, latest first, before it
// bisects the rest.
const EndsTriedMax = 64

// Longest finds the latest end, at most r.Until and at least r.From+min, for
// which r fits from r.From on. Only r.Until and instants at which something booked
// begins come into question. It is exact for requests of one shape per class; for
// mixed shapes, if the EndsTriedMax latest ends for which there is enough in
// total all fail, the rest is bisected and a later end may be missed. If
// r.From+min does not fit either, the *NoFit is that of it. ErrInvalid: as Plan, or min is longer
// than the slot or not positive.
func (inv *Inventory) Longest(r Request, min time.Duration) (time.Time, Plan, error) {
	if err := r.check(); err != nil {
		return time.Time{}, Plan{}, fmt.Errorf("longest: %w", err)
	}
	if min <= 0 || r.From.Add(min).After(r.Until) {
		return time.Time{}, Plan{}, fmt.Errorf("longest: %w: shortest length %s, slot %s", ErrInvalid, min, r.Until.Sub(r.From))
	}
	shortest := r
	shortest.Until = r.From.Add(min)
	base := inv.place(&shortest, false)
	try := func(until int64) *attempt {
		q := r
		q.Until = time.Unix(0, until).In(r.Until.Location())
		if a := inv.place(&q, true); a.complete() {
			return a
		}
		return nil
	}
	ends := inv.ends(&r, nanos(shortest.Until))
	tried := ends[max(len(ends)-EndsTriedMax, 0):]
	for i := len(tried) - 1; i >= 0; i-- {
		if a := try(tried[i]); a != nil {
			return a.r.Until, a.plan(), nil
		}
	}
	if !base.complete() {
		return time.Time{}, Plan{}, base.noFit()
	}
	// best is the latest end found; everything from hi on is too late.
	best, lo, hi := base, 0, len(ends)-len(tried)
	for lo < hi {
		mid := (lo + hi) / 2
		if a := try(ends[mid]); a != nil {
			best, lo = a, mid+1
		} else {
			hi = mid
		}
	}
	return best.r.Until, best.plan(), nil
}

// ends returns, in order, the ends after from and not after r.Until that are
// worth a try: until which all conditions are met, and beyond which a host has less.
func (inv *Inventory) ends(r *Request, from int64) []int64 {
	conds := inv.conditions(r)
	if conds.lost {
		return nil
	}
	start, until := nanos(r.From), nanos(r.Until)
	sums, parts := make([]int64, len(conds.list)), make([]int64, len(conds.list))
	var changes []change
	for h := range inv.hosts {
		seat := conds.seat(inv, h)
		about, of := seat.about(), conds.bySeat[seat]
		if len(of) == 0 {
			continue
		}
		line := &inv.lines[h]
		i := max(line.find(start), 0)
		var peak amounts
		for ; i < len(line.steps) && line.steps[i].At < from; i++ {
			peak.raise(line.steps[i].amounts())
		}
		for _, c := range of {
			parts[c] = conds.part(c, h, inv.caps[h].minus(peak))
			sums[c] += parts[c]
		}
		for ; i < len(line.steps) && line.steps[i].At < until; i++ {
			before := peak
			peak.raise(line.steps[i].amounts())
			if !slices.ContainsFunc(about, func(x int) bool { return peak[x] > before[x] }) {
				continue
			}
			// An end at this instant still has what was free before it.
			changes = append(changes, change{at: line.steps[i].At, cond: -1})
			for _, c := range of {
				if n := conds.part(c, h, inv.caps[h].minus(peak)); n != parts[c] {
					changes = append(changes, change{line.steps[i].At, int32(n - parts[c]), int32(c)})
					parts[c] = n
				}
			}
		}
	}
	return conds.reached(changes, sums, from, until)
}

// reached sorts changes and returns their instants after from, and until, as long as
// the sums (which only fall) suffice.
func (c *conditions) reached(changes []change, sums []int64, from, until int64) []int64 {
	slices.SortFunc(changes, func(x, y change) int { return cmp.Compare(x.at, y.at) })
	var out []int64
	for i := 0; c.met(sums); {
		at := until
		if i < len(changes) {
			at = changes[i].at
		}
		if at > from || i == len(changes) {
			out = append(out, at)
		}
		if i == len(changes) {
			break
		}
		for ; i < len(changes) && changes[i].at == at; i++ {
			if changes[i].cond >= 0 {
				sums[changes[i].cond] += int64(changes[i].delta)
			}
		}
	}
	return out
}

// Most finds the largest n within lo-hi for which resizable(n) fits, by
// bisection: it is exact where more never fits if less does not, as with workers
// of one shape. What resizable leaves zero of slot, policy and clusters is that
// of r. If lo does not fit, the *NoFit is that of lo. ErrInvalid: lo is
// above hi, or as Plan.
func (inv *Inventory) Most(r Request, resizable func(n int) Request, lo, hi int) (int, Plan, error) {
	if lo > hi {
		return 0, Plan{}, fmt.Errorf("most: %w: %d-%d", ErrInvalid, lo, hi)
	}
	try := func(n int) (Plan, error) {
		q := resizable(n)
		if q.From.IsZero() && q.Until.IsZero() {
			q.From, q.Until = r.From, r.Until
		}
		q.Policy = cmp.Or(q.Policy, r.Policy)
		q.Clusters = cmp.Or(q.Clusters, r.Clusters)
		return inv.Plan(q)
	}
	best, err := try(lo)
	if err != nil {
		return 0, Plan{}, fmt.Errorf("most: %w", err)
	}
	for lo < hi {
		mid := lo + (hi-lo+1)/2
		p, err := try(mid)
		var no *NoFit
		switch {
		case err == nil:
			best, lo = p, mid
		case errors.As(err, &no):
			hi = mid - 1
		default:
			return 0, Plan{}, fmt.Errorf("most: %w", err)
		}
	}
	return lo, best, nil
}
