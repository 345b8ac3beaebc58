package placement

import "cmp"

// class is what a thing needs of a host.
type class int

const (
	gateway class = iota
	compute
	storage
	identifiers
)

func (c class) String() string {
	return [...]string{"gateway", "compute", "storage", "identifiers"}[c]
}

func (c class) role() role { return 1 << c }

// about returns the resources a class is about: a host that has lost memory
// since it was booked may still take volumes.
func (c class) about() []int {
	return [...][]int{{cpus, memory}, {cpus, memory}, {disk}, {clusters}}[c]
}

// fits reports whether need is within free, of what the class is about.
func (c class) fits(need, free amounts) bool {
	switch c {
	case storage:
		return need[disk] <= free[disk]
	case identifiers:
		return need[clusters] <= free[clusters]
	}
	return need[cpus] <= free[cpus] && need[memory] <= free[memory]
}

// times returns how many times need is within free, at most most.
func (c class) times(need, free amounts, most int64) int64 {
	if !c.fits(need, free) {
		return 0
	}
	if c == storage {
		if need[disk] > 0 {
			most = min(most, free[disk]/need[disk])
		}
		return most
	}
	if need[cpus] > 0 {
		most = min(most, free[cpus]/need[cpus])
	}
	if need[memory] > 0 {
		most = min(most, free[memory]/need[memory])
	}
	return most
}

// key orders hosts; the smallest is the best.
type key struct {
	step    int // share in 1/32; for Pack in 1/2^20, negated
	domain  int // workers of this request in its failure domain
	workers int // and on it
	share   float64
	host    int
}

func (k *key) compare(o *key) int {
	if k.step != o.step {
		return cmp.Compare(k.step, o.step)
	}
	return cmp.Or(cmp.Compare(k.domain, o.domain),
		cmp.Compare(k.workers, o.workers), cmp.Compare(k.share, o.share), cmp.Compare(k.host, o.host))
}

func (a *attempt) keyOf(c class, host int, need amounts) key {
	s := a.shareAfter(c, host, need)
	k := key{step: int(s * 32), share: s, host: host}
	if a.policy == Pack {
		// Finer steps: rooms that differ a little are not alike when holes
		// are to be filled.
		k.step, k.share = -int(s*(1<<20)), -s
	}
	if c == compute && a.inv.domains > 1 {
		k.domain = a.domains[a.inv.domain[host]]
	}
	if c == compute && a.policy != Pack {
		k.workers = a.rooms[host].workers
	}
	return k
}

// shareAfter is the part of a host that is booked at most during the slot, with
// need on it: of a storage host its storage, else the larger of cores and memory.
func (a *attempt) shareAfter(c class, host int, need amounts) float64 {
	total, free := &a.inv.caps[host], &a.rooms[host].free
	if c == storage {
		return share(total[disk]-free[disk]+need[disk], total[disk])
	}
	return max(share(total[cpus]-free[cpus]+need[cpus], total[cpus]),
		share(total[memory]-free[memory]+need[memory], total[memory]))
}

func share(used, total int64) float64 {
	if total <= 0 {
		return 1
	}
	return float64(used) / float64(total)
}

// candidates returns the hosts that have room for a task, in no order.
func (a *attempt) candidates(t task) hostHeap {
	h := make(hostHeap, 0, len(a.rooms))
	is := t.class.role()
	for i, r := range a.inv.roles {
		if r&is != 0 && (t.class != gateway || a.only < 0 || a.only == i) && t.class.fits(t.need, a.rooms[i].free) {
			h = append(h, a.keyOf(t.class, i, t.need))
		}
	}
	return h
}

// ranking gives the best host again and again. A worker laid on a host makes all
// of its failure domain worse, but does not change the order within: so there is a
// heap for each domain, and one of their tops.
type ranking struct {
	a    *attempt
	t    task
	by   []hostHeap // by domain; keys without their domain's count
	tops hostHeap
}

func (a *attempt) rank(t task) *ranking {
	r := &ranking{a: a, t: t, by: []hostHeap{a.candidates(t)}}
	if r.apart() {
		r.split()
	}
	for d, h := range r.by {
		h.order()
		if len(h) > 0 {
			r.tops = append(r.tops, r.top(d))
		}
	}
	r.tops.order()
	return r
}

// apart reports whether failure domains count.
func (r *ranking) apart() bool { return r.t.class == compute && r.a.inv.domains > 1 }

// split cuts the only heap by domain.
func (r *ranking) split() {
	all := r.by[0]
	end := make([]int, r.a.inv.domains)
	for _, k := range all {
		end[r.a.inv.domain[k.host]]++
	}
	sum := 0
	for d, n := range end {
		end[d], sum = sum, sum+n
	}
	sorted := make(hostHeap, len(all))
	for _, k := range all {
		d := r.a.inv.domain[k.host]
		k.domain = 0
		sorted[end[d]] = k
		end[d]++
	}
	r.by = make([]hostHeap, len(end))
	from := 0
	for d, to := range end {
		r.by[d] = sorted[from:to:to]
		from = to
	}
}

func (r *ranking) top(domain int) key {
	k := r.by[domain][0]
	if r.apart() {
		k.domain = r.a.domains[domain]
	}
	return k
}

// best returns the best host, -1 if none has room.
func (r *ranking) best() int {
	if len(r.tops) == 0 {
		return -1
	}
	return r.tops[0].host
}

// used puts the best host where it belongs, now that something was laid on it.
func (r *ranking) used() {
	host, d := r.tops[0].host, 0
	if r.apart() {
		d = int(r.a.inv.domain[host])
	}
	h := &r.by[d]
	if r.t.class.fits(r.t.need, r.a.rooms[host].free) {
		(*h)[0] = r.a.keyOf(r.t.class, host, r.t.need)
		if r.apart() {
			(*h)[0].domain = 0
		}
		h.down(0)
	} else {
		h.pop()
	}
	if len(*h) == 0 {
		r.tops.pop()
		return
	}
	r.tops[0] = r.top(d)
	r.tops.down(0)
}

// hostHeap is a binary heap, best host first. (container/heap calls through an
// interface, which costs more than the comparison.)
type hostHeap []key

func (h hostHeap) order() {
	for i := len(h)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}

func (h hostHeap) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && h[c+1].compare(&h[c]) < 0 {
			c++
		}
		if h[i].compare(&h[c]) <= 0 {
			return
		}
		h[i], h[c] = h[c], h[i]
		i = c
	}
}

func (h *hostHeap) pop() {
	last := len(*h) - 1
	(*h)[0] = (*h)[last]
	*h = (*h)[:last]
	h.down(0)
}
