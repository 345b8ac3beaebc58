package placement

import (
	"cmp"
	"slices"
)

// condition is a sum over hosts that must reach want before a request can fit:
// each host's part depends on what it has free over the slot, and only on that.
// All conditions are necessary; for plain requests they are sufficient too.
type condition struct {
	kind     conditionKind
	want     int64
	class    class   // of countsOf
	need     amounts // of countsOf
	resource int     // of sumOf
	unit     int64   // of sumOf
}

type conditionKind int

const (
	countsOf conditionKind = iota // how many of a shape fit on the host
	sumOf                         // how much of a resource is free, in units
	pinsHold                      // 1 if all that is pinned to the host fits there
	poolHas                       // 1 if a set of identifiers is left
)

// shapesMax bounds the shapes of one class that have a condition of their own.
// Fewer conditions only mean that more starts are planned in vain.
const shapesMax = 6

// seat is a set of hosts that share conditions: a host's roles, and two more bits.
type seat uint8

const (
	seatPinned seat = 1 << (3 + iota)
	seatPool
	seats
)

// conditions are those of one request.
type conditions struct {
	list   []condition
	bySeat [seats][]int    // indices in list
	pins   map[int]*pinned // by host
	lost   bool            // something is pinned to what cannot carry it, ever
}

// pinned is what is bound to one host.
type pinned struct {
	need          amounts
	nodes, volume bool
}

func (p *pinned) fits(free amounts) bool {
	return (!p.nodes || compute.fits(p.need, free)) && (!p.volume || storage.fits(p.need, free))
}

func (inv *Inventory) conditions(r *Request) *conditions {
	c := &conditions{pins: map[int]*pinned{}}
	by := [3][]amounts{}
	for i := range r.Nodes {
		n := &r.Nodes[i]
		by[n.class()] = append(by[n.class()], n.shape())
		by[storage] = append(by[storage], n.volume())
		c.pin(inv, n.Host, n.class(), n.shape())
		c.pin(inv, n.Storage, storage, n.volume())
	}
	for _, cl := range []class{gateway, compute, storage} {
		c.ofClass(cl, by[cl], cl.role())
	}
	if inv.competing && len(by[gateway]) > 0 && len(by[compute]) > 0 {
		c.ofClass(compute, slices.Concat(by[gateway], by[compute]), roleGateway|roleCompute)
	}
	if len(c.pins) > 0 {
		c.add(condition{kind: pinsHold, want: int64(len(c.pins))}, func(s seat) bool { return s&seatPinned != 0 })
	}
	if r.Clusters > 0 && inv.pool >= 0 {
		c.add(condition{kind: poolHas, want: 1}, func(s seat) bool { return s&seatPool != 0 })
		c.lost = c.lost || inv.hosts[inv.pool].Unusable != ""
	}
	return c
}

func (c *conditions) add(x condition, of func(seat) bool) {
	for s := range seats {
		if of(s) {
			c.bySeat[s] = append(c.bySeat[s], len(c.list))
		}
	}
	c.list = append(c.list, x)
}

func (c *conditions) pin(inv *Inventory, id string, cl class, need amounts) {
	if id == "" {
		return
	}
	i, known := inv.index[id]
	if !known || inv.roles[i]&cl.role() == 0 {
		c.lost = true
		return
	}
	p := c.pins[i]
	if p == nil {
		p = &pinned{}
		c.pins[i] = p
	}
	p.need = p.need.plus(need)
	p.nodes, p.volume = p.nodes || cl != storage, p.volume || cl == storage
}

// ofClass adds the conditions of things that go to hosts of some role. Whatever
// is at least as large as a shape uses up at least one place of that shape, so
// all of these are counted. Where shapes differ, the sums of resources count too.
func (c *conditions) ofClass(cl class, things []amounts, roles role) {
	if len(things) == 0 {
		return
	}
	of := func(s seat) bool { return role(s)&roles != 0 }
	shapes := slices.Clone(things)
	slices.SortFunc(shapes, func(x, y amounts) int {
		return cmp.Or(cmp.Compare(y[cpus], x[cpus]), cmp.Compare(y[memory], x[memory]), cmp.Compare(y[disk], x[disk]))
	})
	shapes = slices.Compact(shapes)
	different := len(shapes) > 1
	if n := len(shapes); n > shapesMax {
		some := make([]amounts, 0, shapesMax)
		for i := range shapesMax {
			some = append(some, shapes[i*(n-1)/(shapesMax-1)])
		}
		shapes = some
	}
	for _, s := range shapes {
		want := int64(0)
		for _, t := range things {
			if t[cpus] >= s[cpus] && t[memory] >= s[memory] && t[disk] >= s[disk] {
				want++
			}
		}
		c.add(condition{kind: countsOf, class: cl, need: s, want: want}, of)
	}
	if !different {
		return
	}
	for _, x := range cl.about() {
		total := int64(0)
		for _, t := range things {
			total += t[x]
		}
		unit := 1 + total>>20 // so that a host's part fits 32 bits
		c.add(condition{kind: sumOf, resource: x, unit: unit, want: total / unit}, of)
	}
}

// part is what a host adds to a condition, with so much free. It never falls
// as free grows, and fits 32 bits.
func (c *conditions) part(i, host int, free amounts) int64 {
	x := &c.list[i]
	switch x.kind {
	case countsOf:
		return x.class.times(x.need, free, x.want)
	case sumOf:
		// Rounded up, and want down: never less than what is true.
		return min((max(free[x.resource], 0)+x.unit-1)/x.unit, x.want)
	case pinsHold:
		if c.pins[host].fits(free) {
			return 1
		}
	case poolHas:
		return min(max(free[clusters], 0), 1)
	}
	return 0
}

// about returns the resources a condition depends on.
func (x *condition) about() []int {
	switch x.kind {
	case countsOf:
		return x.class.about()
	case sumOf:
		return []int{x.resource}
	case poolHas:
		return identifiers.about()
	}
	return []int{cpus, memory, disk}
}

func (c *conditions) seat(inv *Inventory, host int) seat {
	s := seat(inv.roles[host])
	if host == inv.pool {
		s |= seatPool
	}
	if len(c.pins) > 0 && c.pins[host] != nil {
		s |= seatPinned
	}
	return s
}

// met reports whether sums, by condition, reach all.
func (c *conditions) met(sums []int64) bool {
	for i := range c.list {
		if sums[i] < c.list[i].want {
			return false
		}
	}
	return true
}

// hopeless reports whether even empty hosts would not do.
func (c *conditions) hopeless(inv *Inventory) bool {
	if c.lost {
		return true
	}
	sums := make([]int64, len(c.list))
	for h := range inv.hosts {
		for _, i := range c.bySeat[c.seat(inv, h)] {
			sums[i] += c.part(i, h, inv.caps[h])
		}
	}
	return !c.met(sums)
}
