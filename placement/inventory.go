package placement

import (
	"cmp"
	"slices"
	"time"
)

// Inventory is hosts with what is booked on them. Its questions only read: many
// goroutines may ask at once, but not beside Add, Remove, SetHosts or SetSteps of
// the same inventory. A Clone is another inventory.
type Inventory struct {
	*fleet
	lines []timeline // by host; each is shared and never changed
}

// fleet is the hosts, with what questions need at hand. It is never changed.
type fleet struct {
	hosts     []Host // by ID
	index     map[string]int
	caps      []amounts
	roles     []role  // none if not usable
	domain    []int32 // failure domains, numbered
	domains   int
	competing bool // a usable host is gateway and compute host
	pool      int  // the pseudo host of identifiers; -1 without
}

// role is what a host may be used for.
type role uint8

const (
	roleGateway role = 1 << iota
	roleCompute
	roleStorage
)

func newFleet(hosts []Host) *fleet {
	f := &fleet{hosts: slices.Clone(hosts), pool: -1}
	slices.SortStableFunc(f.hosts, func(a, b Host) int { return cmp.Compare(a.ID, b.ID) })
	f.hosts = slices.CompactFunc(f.hosts, func(a, b Host) bool { return a.ID == b.ID })
	n := len(f.hosts)
	f.index, f.caps, f.roles, f.domain = make(map[string]int, n), make([]amounts, n), make([]role, n), make([]int32, n)
	numbers := map[string]int32{}
	for i := range f.hosts {
		h := &f.hosts[i]
		f.index[h.ID] = i
		f.caps[i] = amounts{clamp(int64(h.CPUs)), clamp(h.MemoryBytes), clamp(h.StorageBytes), clamp(int64(h.Clusters))}
		d, ok := numbers[h.FailureDomain]
		if !ok {
			d = int32(len(numbers))
			numbers[h.FailureDomain] = d
		}
		f.domain[i] = d
		if h.ID == IdentifiersHost {
			f.pool = i
			continue // it has no class
		}
		if h.Unusable == "" {
			f.roles[i] = rolesOf(h)
		}
		f.competing = f.competing || f.roles[i]&(roleGateway|roleCompute) == roleGateway|roleCompute
	}
	f.domains = len(numbers)
	return f
}

func rolesOf(h *Host) role {
	var r role
	for c, is := range []bool{h.Gateway, h.Compute, h.Storage} {
		if is {
			r |= 1 << c
		}
	}
	return r
}

// New makes an inventory. Bookings of hosts that are not listed, and bookings
// of no length, hold nothing; negative amounts count as 0. Of two hosts with
// one ID the first counts.
func New(hosts []Host, bookings []Booking) *Inventory {
	inv := FromSteps(hosts, nil)
	inv.Add(bookings...)
	return inv
}

// FromSteps makes an inventory of timelines by host ID. The slices are kept,
// not copied: they must not be changed any more. Steps are in order of time; those
// of hosts that are not listed are left out. After the last step, what it says
// holds for ever: it should be zero.
func FromSteps(hosts []Host, steps map[string][]Step) *Inventory {
	inv := &Inventory{fleet: newFleet(hosts)}
	inv.lines = make([]timeline, len(inv.hosts))
	for id, s := range steps {
		inv.SetSteps(id, s)
	}
	return inv
}

// SetHosts replaces the hosts. Timelines of hosts that stay are kept; those of
// hosts that go are forgotten.
func (inv *Inventory) SetHosts(hosts []Host) {
	f := newFleet(hosts)
	lines := make([]timeline, len(f.hosts))
	for i := range f.hosts {
		if old, ok := inv.index[f.hosts[i].ID]; ok {
			lines[i] = inv.lines[old]
		}
	}
	inv.fleet, inv.lines = f, lines
}

// SetSteps replaces what is booked on one host, as FromSteps takes it. A host
// that is not known has no timeline.
func (inv *Inventory) SetSteps(host string, steps []Step) {
	if i, ok := inv.index[host]; ok {
		inv.lines[i] = lineOf(ordered(steps))
	}
}

// Clone returns a second inventory of the same contents; changes of either do
// not show in the other. It shares all timelines: its cost is 40 bytes a host.
func (inv *Inventory) Clone() *Inventory {
	return &Inventory{fleet: inv.fleet, lines: slices.Clone(inv.lines)}
}

// Add books more. Its cost is that of copying the timelines concerned.
func (inv *Inventory) Add(bookings ...Booking) { inv.change(bookings, 1) }

// Remove takes bookings away that were added: after Add and Remove of the same
// everything is as before.
func (inv *Inventory) Remove(bookings ...Booking) { inv.change(bookings, -1) }

// fewMax is up to how many bookings are applied one by one, without looking at
// all hosts.
const fewMax = 64

func (inv *Inventory) change(bookings []Booking, sign int64) {
	if len(bookings) <= fewMax {
		for k := range bookings {
			if i, ok := inv.index[bookings[k].Host]; ok {
				inv.lines[i] = inv.lines[i].with(stepsOf(bookings[k:k+1]), sign)
			}
		}
		return
	}
	// Sorted by host with one pass to count and one to place.
	host := make([]int32, len(bookings))
	end := make([]int, len(inv.hosts)+1)
	for k := range bookings {
		host[k] = -1
		if i, ok := inv.index[bookings[k].Host]; ok {
			host[k] = int32(i)
			end[i]++
		}
	}
	sum := 0
	for i, n := range end {
		end[i], sum = sum, sum+n
	}
	sorted := make([]Booking, sum)
	for k, i := range host {
		if i >= 0 {
			sorted[end[i]] = bookings[k]
			end[i]++
		}
	}
	from := 0
	for i := range inv.hosts {
		if from < end[i] {
			inv.lines[i] = inv.lines[i].with(stepsOf(sorted[from:end[i]]), sign)
		}
		from = end[i]
	}
}

// Free returns what a host has free during all of [from, until); amounts may be
// negative where it is overbooked. ok is false for an unknown host.
func (inv *Inventory) Free(host string, from, until time.Time) (freeCPUs int, memoryBytes, storageBytes int64, ok bool) {
	i, ok := inv.index[host]
	if !ok {
		return 0, 0, 0, false
	}
	f := inv.free(i, nanos(from), nanos(until))
	return int(f[cpus]), f[memory], f[disk], true
}

func (inv *Inventory) free(i int, from, until int64) amounts {
	return inv.caps[i].minus(inv.lines[i].peak(from, until))
}

// Bookings returns what a plan of r holds, by host ID: one booking per host, and
// that of the identifiers. Where storage is kept longer, it has bookings of its own.
func (p Plan) Bookings(r Request) []Booking {
	byHost, kept := map[string]*Booking{}, map[string]int64{}
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
		if r.KeepStorage == 0 {
			get(a.Storage).StorageBytes += r.Nodes[i].DiskBytes
		} else {
			kept[a.Storage] += r.Nodes[i].DiskBytes
		}
	}
	if r.Clusters > 0 {
		get(IdentifiersHost).Clusters += r.Clusters
	}
	out := make([]Booking, 0, len(byHost))
	for _, b := range byHost {
		out = append(out, *b)
	}
	for id, n := range kept {
		out = append(out, Booking{Host: id, From: r.From, Until: r.Until.Add(r.KeepStorage), StorageBytes: n})
	}
	slices.SortFunc(out, func(a, b Booking) int { return cmp.Or(cmp.Compare(a.Host, b.Host), a.Until.Compare(b.Until)) })
	return out
}
