package placement

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits of one request.
const (
	NodesMax = 10_000
	// GatewaysTriedMax bounds how many gateways are tried for the frontends
	// before a request is refused.
	GatewaysTriedMax = 16
	// StartsTriedMax bounds how many starts Earliest tries.
	StartsTriedMax = 1_000
)

// ErrInvalid: the request makes no sense, whatever is free.
var ErrInvalid = errors.New("invalid request")

func (e *NoFit) Error() string { return "no fit: " + strings.Join(e.Reasons, "; ") }

// Plan places all nodes of r, or none: then the error is a *NoFit, or wraps
// ErrInvalid. The same inventory (in any order of hosts and bookings) and
// request give the same plan. An empty policy is Spread.
func (inv *Inventory) Plan(r Request) (Plan, error) {
	if err := r.check(); err != nil {
		return Plan{}, fmt.Errorf("plan: %w", err)
	}
	rooms := inv.rooms(r)
	first := inv.attempt(r, rooms, r.Policy, -1)
	if first.complete() {
		return first.plan(), nil
	}
	if a := first.retry(rooms); a != nil {
		return a.plan(), nil
	}
	return Plan{}, &NoFit{Reasons: first.reasons()}
}

// retry tries other orders, where another order can help at all; nil if none
// does.
func (a *attempt) retry(rooms []room) *attempt {
	if a.policy != Pack && a.mixed() {
		if b := a.inv.attempt(a.r, rooms, Pack, -1); b.complete() {
			return b
		}
	}
	// Frontends may stand where only the workers would have fitted.
	if !slices.ContainsFunc(a.missing, func(s shortage) bool { return s.class == compute }) {
		return nil
	}
	tried := 0
	for i := range rooms {
		h := &a.inv.hosts[rooms[i].i]
		if !h.Gateway || tried == GatewaysTriedMax {
			continue
		}
		tried++
		if b := a.inv.attempt(a.r, rooms, Pack, rooms[i].i); b.complete() {
			return b
		}
	}
	return nil
}

// mixed reports whether the order in which things are laid may matter: nodes
// of several shapes, or hosts that frontends and workers compete for.
func (a *attempt) mixed() bool {
	for _, n := range a.r.Nodes {
		f := a.r.Nodes[0]
		if n.Frontend != f.Frontend || n.CPUs != f.CPUs || n.MemoryBytes != f.MemoryBytes || n.DiskBytes != f.DiskBytes {
			return true
		}
	}
	return false
}

// Earliest finds the first start, not before r.From and not after last, at which
// r (with its length kept) fits. Only r.From and the ends of bookings come into
// question: between them nothing becomes free. At most StartsTriedMax are tried. Its
// *NoFit is that of r.From.
func (inv *Inventory) Earliest(r Request, last time.Time) (time.Time, Plan, error) {
	p, err := inv.Plan(r)
	var no *NoFit
	if err == nil || !errors.As(err, &no) {
		return r.From, p, err
	}
	length := r.Until.Sub(r.From)
	ends := inv.ends(nanos(r.From), nanos(last))
	for _, at := range ends[:min(len(ends), StartsTriedMax)] {
		q := r
		q.From = time.Unix(0, at).In(r.From.Location())
		q.Until = q.From.Add(length)
		if p, e := inv.Plan(q); e == nil {
			return q.From, p, nil
		}
	}
	return time.Time{}, Plan{}, err
}

func (r *Request) check() error {
	if !r.From.Before(r.Until) {
		return fmt.Errorf("%w: until %s is not after from %s", ErrInvalid, r.Until, r.From)
	}
	if len(r.Nodes) == 0 || len(r.Nodes) > NodesMax {
		return fmt.Errorf("%w: %d nodes, want 1-%d", ErrInvalid, len(r.Nodes), NodesMax)
	}
	if r.Policy != "" && r.Policy != Spread && r.Policy != Pack {
		return fmt.Errorf("%w: policy %q, want %s or %s", ErrInvalid, r.Policy, Spread, Pack)
	}
	seen := make(map[string]bool, len(r.Nodes))
	for _, n := range r.Nodes {
		if n.Name == "" || seen[n.Name] {
			return fmt.Errorf("%w: node %q is nameless or there twice", ErrInvalid, n.Name)
		}
		seen[n.Name] = true
		for _, v := range []int64{int64(n.CPUs), n.MemoryBytes, n.DiskBytes} {
			if v < 0 || v > amountMax {
				return fmt.Errorf("%w: node %s wants %d, want 0-%d", ErrInvalid, n.Name, v, int64(amountMax))
			}
		}
	}
	return nil
}

// class is what a thing needs of a host.
type class int

const (
	gateway class = iota
	compute
	storage
)

func (c class) String() string { return [...]string{"gateway", "compute", "storage"}[c] }

// fits reports whether need is within free, of what the class is about: a host
// that has lost memory since it was booked may still take volumes.
func (c class) fits(need, free amounts) bool {
	if c == storage {
		return need.storage <= free.storage
	}
	return need.cpus <= free.cpus && need.memory <= free.memory
}

func (c class) of(h *Host) bool { return [...]bool{h.Gateway, h.Compute, h.Storage}[c] }

// room is one host during the request's slot.
type room struct {
	i       int // in Inventory.hosts
	free    amounts
	total   amounts
	workers int // of this request
	key     key
}

// attempt is one try to place everything.
type attempt struct {
	inv     *Inventory
	r       Request
	policy  Policy
	rooms   []room // of usable hosts
	domains map[string]int
	host    []int // by node, -1 while nowhere
	storage []int
	missing []shortage
	only    int // host for the frontends, -1 for any
}

// shortage is nodes of one shape that found no host of a class.
type shortage struct {
	class     class
	need      amounts
	of, short int
	largest   int // index of the host with most room; -1 without any of the class
	free      amounts
}

// rooms returns every usable host with what is free there for the whole slot.
func (inv *Inventory) rooms(r Request) []room {
	from, until := nanos(r.From), nanos(r.Until)
	rooms := make([]room, 0, len(inv.hosts))
	for i := range inv.hosts {
		if inv.hosts[i].Unusable == "" {
			rooms = append(rooms, room{i: i, free: inv.free(i, from, until), total: inv.capacity(i)})
		}
	}
	return rooms
}

// attempt lays all nodes in one order, the policy's. rooms is left as it is.
func (inv *Inventory) attempt(r Request, rooms []room, p Policy, only int) *attempt {
	a := &attempt{inv: inv, r: r, policy: p, domains: map[string]int{}, only: only, rooms: slices.Clone(rooms),
		host: make([]int, len(r.Nodes)), storage: make([]int, len(r.Nodes))}
	var frontends, workers, all []int
	for i, n := range r.Nodes {
		all = append(all, i)
		if n.Frontend {
			frontends = append(frontends, i)
		} else {
			workers = append(workers, i)
		}
	}
	shape := func(i int) amounts { return amounts{int64(r.Nodes[i].CPUs), r.Nodes[i].MemoryBytes, 0} }
	disk := func(i int) amounts { return amounts{storage: r.Nodes[i].DiskBytes} }
	a.lay(gateway, frontends, shape, a.host)
	a.lay(compute, workers, shape, a.host)
	a.lay(storage, all, disk, a.storage)
	return a
}

// lay places nodes on hosts of a class, large before small.
func (a *attempt) lay(c class, nodes []int, need func(int) amounts, out []int) {
	slices.SortStableFunc(nodes, func(x, y int) int {
		m, n := need(x), need(y)
		return cmp.Or(cmp.Compare(n.cpus, m.cpus), cmp.Compare(n.memory, m.memory), cmp.Compare(n.storage, m.storage))
	})
	for len(nodes) > 0 {
		n := 1
		for n < len(nodes) && need(nodes[n]) == need(nodes[0]) {
			n++
		}
		a.layAlike(c, nodes[:n], need(nodes[0]), out)
		nodes = nodes[n:]
	}
}

// layAlike places nodes of one shape. The heap is lazy: a host's key can only
// have become worse since it was put there, except that of the host just used,
// which is put in again.
func (a *attempt) layAlike(c class, nodes []int, need amounts, out []int) {
	h := hostHeap{}
	for i := range a.rooms {
		r := &a.rooms[i]
		host := &a.inv.hosts[r.i]
		if c.of(host) && (c != gateway || a.only < 0 || a.only == r.i) && c.fits(need, r.free) {
			r.key = a.keyOf(c, r, need)
			h = append(h, r)
		}
	}
	heap.Init(&h)
	for n, node := range nodes {
		best := a.best(&h, c, need)
		if best == nil {
			for _, left := range nodes[n:] {
				out[left] = -1
			}
			a.short(c, need, len(nodes), len(nodes)-n)
			return
		}
		out[node] = best.i
		best.free = best.free.minus(need)
		if c == compute {
			best.workers++
			a.domains[a.inv.hosts[best.i].FailureDomain]++
		}
		if c.fits(need, best.free) {
			best.key = a.keyOf(c, best, need)
			heap.Fix(&h, 0)
		} else {
			heap.Pop(&h)
		}
	}
}

// best returns the best host, at the top of the heap; nil if none is left.
func (a *attempt) best(h *hostHeap, c class, need amounts) *room {
	for len(*h) > 0 {
		top := (*h)[0]
		k := a.keyOf(c, top, need)
		if k == top.key {
			return top
		}
		top.key = k // its failure domain has been used since
		heap.Fix(h, 0)
	}
	return nil
}

// key orders hosts; the smallest is the best.
type key struct {
	step    int // share in 1/32; for Pack in 1/2^20, negated
	domain  int // workers of this request in its failure domain
	workers int // and on it
	share   float64
	host    int
}

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.step, o.step), cmp.Compare(k.domain, o.domain),
		cmp.Compare(k.workers, o.workers), cmp.Compare(k.share, o.share), cmp.Compare(k.host, o.host))
}

func (a *attempt) keyOf(c class, r *room, need amounts) key {
	after := r.total.minus(r.free).plus(need)
	s := share(after.storage, r.total.storage)
	if c != storage {
		s = max(share(after.cpus, r.total.cpus), share(after.memory, r.total.memory))
	}
	k := key{step: int(s * 32), share: s, host: r.i}
	if a.policy == Pack {
		// Finer steps: rooms that differ a little are not alike when holes
		// are to be filled.
		k.step, k.share = -int(s*(1<<20)), -s
	}
	if c == compute {
		k.domain = a.domains[a.inv.hosts[r.i].FailureDomain]
		if a.policy != Pack {
			k.workers = r.workers
		}
	}
	return k
}

func share(used, total int64) float64 {
	if total <= 0 {
		return 1
	}
	return float64(used) / float64(total)
}

type hostHeap []*room

func (h hostHeap) Len() int           { return len(h) }
func (h hostHeap) Less(i, j int) bool { return h[i].key.compare(h[j].key) < 0 }
func (h hostHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *hostHeap) Push(x any)        { *h = append(*h, x.(*room)) }
func (h *hostHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

func (a *attempt) complete() bool { return len(a.missing) == 0 }

func (a *attempt) plan() Plan {
	p := Plan{Nodes: make([]Assigned, len(a.r.Nodes))}
	for i, n := range a.r.Nodes {
		p.Nodes[i] = Assigned{n.Name, a.inv.hosts[a.host[i]].ID, a.inv.hosts[a.storage[i]].ID}
	}
	return p
}
