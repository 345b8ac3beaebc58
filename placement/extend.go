package placement

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Extend finds how far bookings that are held, and are in the timelines, can be
// prolonged on their hosts: the latest instant, at most to, until which all of
// them could last. What stands in the way at that instant is in blocks, by host
// and resource; none if it is to. Only resources that are held count, and a host
// may be unusable: nothing new goes there. A host that is not known ends it where its
// booking ends.
func (inv *Inventory) Extend(held []Booking, to time.Time) (until time.Time, blocks []Block) {
	limit := min(nanos(to), math.MaxInt64-1) // so that there is an instant after it
	byHost := map[string][]Booking{}
	for _, b := range held {
		if nanos(b.From) < nanos(b.Until) && b.amounts() != (amounts{}) {
			byHost[b.Host] = append(byHost[b.Host], b)
		}
	}
	ids := make([]string, 0, len(byHost))
	for id := range byHost {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	first := limit
	for _, id := range ids {
		at, short := inv.extendOn(id, byHost[id], first)
		if len(short) == 0 {
			continue
		}
		if at < first {
			first, blocks = at, nil
		}
		for _, s := range short {
			s.At = time.Unix(0, at).In(to.Location())
			blocks = append(blocks, s)
		}
	}
	if first == limit {
		return to, nil
	}
	return time.Unix(0, first).In(to.Location()), blocks
}

// extendOn returns the first instant, at most limit, at which one host cannot
// carry its bookings prolonged, and what is short then; nothing if there is none
// before limit. (At limit itself nothing need be carried: a slot is half-open; what is
// short there is of use only beside another host's block at the same instant.)
func (inv *Inventory) extendOn(id string, held []Booking, limit int64) (int64, []Block) {
	slices.SortFunc(held, func(a, b Booking) int { return cmp.Compare(nanos(a.Until), nanos(b.Until)) })
	h, known := inv.index[id]
	if !known {
		if at := nanos(held[0].Until); at <= limit {
			return at, []Block{{Host: id, Resource: HostUnusable}}
		}
		return 0, nil
	}
	line := &inv.lines[h]
	var more amounts // what has ended, and is to last on
	i := line.find(nanos(held[0].Until))
	for at := nanos(held[0].Until); at <= limit; {
		for len(held) > 0 && nanos(held[0].Until) <= at {
			more, held = more.plus(held[0].amounts()), held[1:]
		}
		var used amounts
		if i >= 0 {
			used = line.steps[i].amounts()
		}
		var out []Block
		for x := range more {
			if short := used[x] + more[x] - inv.caps[h][x]; short > 0 && more[x] > 0 {
				out = append(out, Block{Host: id, Resource: resourceNames[x], Short: short})
			}
		}
		if len(out) > 0 {
			return at, out
		}
		// The next instant at which anything changes.
		next := limit + 1
		if len(held) > 0 {
			next = min(next, nanos(held[0].Until))
		}
		if i+1 < len(line.steps) && line.steps[i+1].At <= next {
			next = line.steps[i+1].At
			i++
		}
		at = next
	}
	return 0, nil
}

// FreeOver returns what all usable hosts together have free from from to until:
// cores and memory of compute hosts, storage of storage hosts. The first step is
// at from. An overbooked host counts as full.
func (inv *Inventory) FreeOver(from, until time.Time) []FreeStep {
	type event struct {
		at int64
		amounts
	}
	start, end := nanos(from), nanos(until)
	if start >= end {
		return nil
	}
	var events []event
	var now amounts
	for h := range inv.hosts {
		roles := inv.roles[h]
		if roles&(roleCompute|roleStorage) == 0 {
			continue
		}
		line := &inv.lines[h]
		i := line.find(start)
		before := inv.offers(h, i)
		now = now.plus(before)
		for i++; i < len(line.steps) && line.steps[i].At < end; i++ {
			if free := inv.offers(h, i); free != before {
				events = append(events, event{line.steps[i].At, free.minus(before)})
				before = free
			}
		}
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	step := func(at int64) FreeStep {
		return FreeStep{From: time.Unix(0, at).In(from.Location()), CPUs: int(now[cpus]), MemoryBytes: now[memory], StorageBytes: now[disk]}
	}
	out := []FreeStep{step(start)}
	out[0].From = from
	before := now
	for i, e := range events {
		now = now.plus(e.amounts)
		if (i+1 < len(events) && events[i+1].at == e.at) || now == before {
			continue
		}
		out, before = append(out, step(e.at)), now
	}
	return out
}

// offers is what a host has free during a step, -1 for before the first: cores
// and memory of a compute host, storage of a storage host.
func (inv *Inventory) offers(h, step int) amounts {
	free := inv.caps[h]
	if step >= 0 {
		free = free.minus(inv.lines[h].steps[step].amounts())
	}
	var out amounts
	if inv.roles[h]&roleCompute != 0 {
		out[cpus], out[memory] = max(free[cpus], 0), max(free[memory], 0)
	}
	if inv.roles[h]&roleStorage != 0 {
		out[disk] = max(free[disk], 0)
	}
	return out
}
