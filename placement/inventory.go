package placement

import (
	"cmp"
	"slices"
	"sort"
	"time"
)

// Inventory is hosts with what is booked on them. Plan and Earliest only read:
// many goroutines may plan at once, but not beside Add.
type Inventory struct {
	hosts []Host // by ID
	index map[string]int
	spans [][]span   // by host
	lines []timeline // by host
}

// New makes an inventory. Bookings of hosts that are not listed, and bookings
// of no length, hold nothing; negative amounts count as 0. Of two hosts with
// one ID the first counts.
func New(hosts []Host, bookings []Booking) *Inventory {
	inv := &Inventory{hosts: slices.Clone(hosts), index: make(map[string]int, len(hosts))}
	slices.SortStableFunc(inv.hosts, func(a, b Host) int { return cmp.Compare(a.ID, b.ID) })
	inv.hosts = slices.CompactFunc(inv.hosts, func(a, b Host) bool { return a.ID == b.ID })
	for i, h := range inv.hosts {
		inv.index[h.ID] = i
	}
	inv.spans = make([][]span, len(inv.hosts))
	inv.lines = make([]timeline, len(inv.hosts))
	inv.Add(bookings...)
	return inv
}

// Add books more. It rebuilds the timelines of the hosts concerned.
func (inv *Inventory) Add(bookings ...Booking) {
	touched := make([]bool, len(inv.hosts))
	more := make([]int, len(inv.hosts))
	for _, b := range bookings {
		if i, ok := inv.index[b.Host]; ok {
			more[i]++
		}
	}
	for i, n := range more {
		inv.spans[i] = slices.Grow(inv.spans[i], n)
	}
	for _, b := range bookings {
		i, ok := inv.index[b.Host]
		if !ok {
			continue
		}
		inv.spans[i] = append(inv.spans[i], span{nanos(b.From), nanos(b.Until),
			amounts{clamp(int64(b.CPUs)), clamp(b.MemoryBytes), clamp(b.StorageBytes)}})
		touched[i] = true
	}
	for i, t := range touched {
		if t {
			inv.lines[i] = newTimeline(inv.spans[i])
		}
	}
}

// Free returns what a host has free during all of [from, until); amounts may be
// negative where it is overbooked. ok is false for an unknown host.
func (inv *Inventory) Free(host string, from, until time.Time) (cpus int, memoryBytes, storageBytes int64, ok bool) {
	i, ok := inv.index[host]
	if !ok {
		return 0, 0, 0, false
	}
	f := inv.free(i, nanos(from), nanos(until))
	return int(f.cpus), f.memory, f.storage, true
}

func (inv *Inventory) capacity(i int) amounts {
	h := &inv.hosts[i]
	return amounts{clamp(int64(h.CPUs)), clamp(h.MemoryBytes), clamp(h.StorageBytes)}
}

func (inv *Inventory) free(i int, from, until int64) amounts {
	return inv.capacity(i).minus(inv.lines[i].peak(from, until))
}

// Bookings returns what a plan of r holds: one booking per host.
func (p Plan) Bookings(r Request) []Booking {
	byHost := map[string]*Booking{}
	get := func(id string) *Booking {
		b := byHost[id]
		if b == nil {
			b = &Booking{Host: id, From: r.From, Until: r.Until}
			byHost[id] = b
		}
		return b
	}
	for i, a := range p.Nodes {
		b := get(a.Host)
		b.CPUs += r.Nodes[i].CPUs
		b.MemoryBytes += r.Nodes[i].MemoryBytes
		get(a.Storage).StorageBytes += r.Nodes[i].DiskBytes
	}
	out := make([]Booking, 0, len(byHost))
	for _, b := range byHost {
		out = append(out, *b)
	}
	slices.SortFunc(out, func(a, b Booking) int { return cmp.Compare(a.Host, b.Host) })
	return out
}

// ends returns the instants in (after, last] at which something booked ends.
func (inv *Inventory) ends(after, last int64) []int64 {
	var out []int64
	for _, ss := range inv.spans {
		for _, s := range ss {
			if s.until > after && s.until <= last {
				out = append(out, s.until)
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return slices.Compact(out)
}
