package placement

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits of one request.
const (
	NodesMax = 10_000
	// GatewaysTriedMax bounds how many gateways are tried for the frontends
	// before a request is refused.
	GatewaysTriedMax = 16
)

// ErrInvalid: the request makes no sense, whatever is free.
var ErrInvalid = errors.New("invalid request")

func (e *NoFit) Error() string { return "no fit: " + strings.Join(e.Reasons, "; ") }

// Plan places all nodes of r, or none: then the error is a *NoFit, or wraps
// ErrInvalid. The same inventory (in any order of hosts and bookings) and
// request give the same plan. An empty policy is Spread. Pinned nodes go first.
func (inv *Inventory) Plan(r Request) (Plan, error) {
	if err := r.check(); err != nil {
		return Plan{}, fmt.Errorf("plan: %w", err)
	}
	a := inv.place(&r, false)
	if !a.complete() {
		return Plan{}, a.noFit()
	}
	return a.plan(), nil
}

// place tries what Plan tries. If nothing fits it returns the first attempt,
// whose shortages are all there unless brief.
func (inv *Inventory) place(r *Request, brief bool) *attempt {
	rooms := inv.rooms(r)
	a := inv.attempt(r, rooms, r.Policy, -1, brief)
	if !a.complete() {
		if b := a.retry(rooms); b != nil {
			return b
		}
	}
	return a
}

// retry tries other orders, where another order can help at all; nil if none
// does. It decides by the first shortage alone, which brief attempts have too.
func (a *attempt) retry(rooms []room) *attempt {
	first := a.missing[0]
	if first.pinned != "" || first.class == identifiers || a.inv.plain(a.r) {
		return nil
	}
	if a.policy != Pack {
		if b := a.inv.attempt(a.r, rooms, Pack, -1, true); b.complete() {
			return b
		}
	}
	// Frontends may stand where only the workers would have fitted.
	if first.class != compute {
		return nil
	}
	for _, g := range a.gateways(rooms, first) {
		if b := a.inv.attempt(a.r, rooms, Pack, g, true); b.complete() {
			return b
		}
	}
	return nil
}

// gateways returns the hosts that are worth a try for all frontends: those on
// which they cost the fewest of the workers that found no host. For one
// frontend and workers of one shape the first of them decides.
func (a *attempt) gateways(rooms []room, lacking shortage) []int {
	var need amounts
	frontends := false
	for i := range a.r.Nodes {
		if n := &a.r.Nodes[i]; n.Frontend && n.Host == "" {
			need, frontends = need.plus(n.shape()), true
		}
	}
	if !frontends {
		return nil
	}
	type candidate struct {
		host int
		loss int64
	}
	var out []candidate
	total := int64(0)
	for i := range rooms {
		k := int64(0)
		if a.inv.roles[i]&roleCompute != 0 {
			k = compute.times(lacking.need, rooms[i].free, NodesMax)
			total += k
		}
		if a.inv.roles[i]&roleGateway != 0 && gateway.fits(need, rooms[i].free) {
			out = append(out, candidate{i, k - min(k, compute.times(lacking.need, rooms[i].free.minus(need), NodesMax))})
		}
	}
	if total < int64(lacking.of) {
		return nil // not even without frontends
	}
	slices.SortStableFunc(out, func(x, y candidate) int { return cmp.Compare(x.loss, y.loss) })
	hosts := make([]int, 0, GatewaysTriedMax)
	for _, c := range out[:min(len(out), GatewaysTriedMax)] {
		hosts = append(hosts, c.host)
	}
	return hosts
}

// plain reports whether any order of laying r finds a place if there is one:
// each class has nodes of one shape, and classes do not compete for hosts.
func (inv *Inventory) plain(r *Request) bool {
	var front, work *NodeRequest
	for i := range r.Nodes {
		n := &r.Nodes[i]
		of := &work
		if n.Frontend {
			of = &front
		}
		if *of == nil {
			*of = n
		}
		if n.shape() != (*of).shape() || n.DiskBytes != r.Nodes[0].DiskBytes {
			return false
		}
	}
	return front == nil || work == nil || !inv.competing
}

func (r *Request) check() error {
	if !r.From.Before(r.Until) {
		return fmt.Errorf("%w: until %s is not after from %s", ErrInvalid, r.Until, r.From)
	}
	if r.From.Year() < yearMin || r.Until.Year() > yearMax {
		return fmt.Errorf("%w: from %s until %s is not within the years %d-%d", ErrInvalid, r.From, r.Until, yearMin, yearMax)
	}
	if len(r.Nodes) == 0 || len(r.Nodes) > NodesMax {
		return fmt.Errorf("%w: %d nodes, want 1-%d", ErrInvalid, len(r.Nodes), NodesMax)
	}
	if r.Policy != "" && r.Policy != Spread && r.Policy != Pack {
		return fmt.Errorf("%w: policy %q, want %s or %s", ErrInvalid, r.Policy, Spread, Pack)
	}
	if r.KeepStorage < 0 || r.Until.Add(r.KeepStorage).Year() > yearMax {
		return fmt.Errorf("%w: storage kept for %s, want a time within the years %d-%d", ErrInvalid, r.KeepStorage, yearMin, yearMax)
	}
	if r.Clusters < 0 || r.Clusters > 1 {
		return fmt.Errorf("%w: %d clusters, want 0 or 1", ErrInvalid, r.Clusters)
	}
	seen := make(map[string]bool, len(r.Nodes))
	for i := range r.Nodes {
		n := &r.Nodes[i]
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

func (n *NodeRequest) shape() amounts  { return amounts{cpus: int64(n.CPUs), memory: n.MemoryBytes} }
func (n *NodeRequest) volume() amounts { return amounts{disk: n.DiskBytes} }
func (n *NodeRequest) class() class {
	if n.Frontend {
		return gateway
	}
	return compute
}

// room is one host during the request's slot.
type room struct {
	free    amounts
	workers int // of this request
}

// attempt is one try to place everything.
type attempt struct {
	inv     *Inventory
	r       *Request
	policy  Policy
	rooms   []room // by host; without meaning where a host has no role
	domains []int  // workers of this request, by failure domain
	host    []int  // by node, -1 while nowhere
	storage []int
	missing []shortage
	only    int  // host for the frontends, -1 for any
	brief   bool // stop at the first shortage
}

// rooms returns for every usable host what is free there for the whole slot.
func (inv *Inventory) rooms(r *Request) []room {
	from, until := nanos(r.From), nanos(r.Until)
	kept := nanos(r.Until.Add(r.KeepStorage))
	rooms := make([]room, len(inv.hosts))
	for i := range rooms {
		if inv.roles[i] == 0 && !r.Stay {
			continue
		}
		rooms[i].free = inv.free(i, from, until)
		if r.KeepStorage > 0 {
			rooms[i].free[disk] = min(rooms[i].free[disk], inv.free(i, until, kept)[disk])
		}
	}
	return rooms
}

// attempt lays all nodes in one order, the policy's. rooms is left as it is.
func (inv *Inventory) attempt(r *Request, rooms []room, p Policy, only int, brief bool) *attempt {
	a := &attempt{inv: inv, r: r, policy: p, domains: make([]int, inv.domains), only: only, brief: brief,
		rooms: slices.Clone(rooms), host: make([]int, len(r.Nodes)), storage: make([]int, len(r.Nodes))}
	a.takeIdentifiers()
	for _, t := range r.tasks() {
		if brief && len(a.missing) > 0 {
			break
		}
		a.lay(t)
	}
	return a
}

func (a *attempt) takeIdentifiers() {
	if a.r.Clusters == 0 || a.inv.pool < 0 {
		return
	}
	h := &a.inv.hosts[a.inv.pool]
	need := amounts{clusters: int64(a.r.Clusters)}
	free := a.inv.free(a.inv.pool, nanos(a.r.From), nanos(a.r.Until))
	if h.Unusable != "" || !identifiers.fits(need, free) {
		a.missing = append(a.missing, shortage{class: identifiers, need: need, of: 1, short: 1, largest: a.inv.pool, free: free})
	}
}

// task is nodes of one shape that are laid together: pinned ones each by itself.
type task struct {
	class class
	nodes []int
	need  amounts
	pin   string // host ID
}

// tasks returns what is laid, in order: what is pinned, frontends, workers,
// volumes; each large before small.
func (r *Request) tasks() []task {
	var free, pinned []task
	for _, c := range []class{gateway, compute, storage} {
		of := make([]task, 0, len(r.Nodes))
		for i := range r.Nodes {
			n := &r.Nodes[i]
			t := task{class: c, nodes: []int{i}, need: n.shape(), pin: n.Host}
			if c == storage {
				t.need, t.pin = n.volume(), n.Storage
			} else if c != n.class() {
				continue
			}
			if t.pin != "" {
				pinned = append(pinned, t)
			} else {
				of = append(of, t)
			}
		}
		slices.SortStableFunc(of, func(x, y task) int {
			return cmp.Or(cmp.Compare(y.need[cpus], x.need[cpus]), cmp.Compare(y.need[memory], x.need[memory]), cmp.Compare(y.need[disk], x.need[disk]))
		})
		for i := 0; i < len(of); {
			t := task{class: c, need: of[i].need}
			for ; i < len(of) && of[i].need == t.need; i++ {
				t.nodes = append(t.nodes, of[i].nodes[0])
			}
			free = append(free, t)
		}
	}
	return append(pinned, free...)
}

// lay places the nodes of one task.
func (a *attempt) lay(t task) {
	if t.pin != "" {
		a.layPinned(t)
		return
	}
	ranking := a.rank(t)
	for n, node := range t.nodes {
		best := ranking.best()
		if best < 0 {
			for _, left := range t.nodes[n:] {
				a.put(t.class, left, -1)
			}
			a.short(t.class, t.need, len(t.nodes), len(t.nodes)-n)
			return
		}
		a.put(t.class, node, best)
		a.take(t.class, t.need, best)
		ranking.used()
	}
}

func (a *attempt) layPinned(t task) {
	node := t.nodes[0]
	i, known := a.inv.index[t.pin]
	if known && a.mayCarry(i, t.class) && t.class.fits(t.need, a.rooms[i].free) {
		a.put(t.class, node, i)
		a.take(t.class, t.need, i)
		return
	}
	a.put(t.class, node, -1)
	s := shortage{class: t.class, need: t.need, of: 1, short: 1, largest: -1, pinned: t.pin, node: a.r.Nodes[node].Name}
	if known {
		s.largest, s.free = i, a.rooms[i].free
	}
	a.missing = append(a.missing, s)
}

// mayCarry is true of usable hosts of a class, and of any of it for what stays.
func (a *attempt) mayCarry(host int, c class) bool {
	roles := a.inv.roles[host]
	if a.r.Stay {
		roles = rolesOf(&a.inv.hosts[host])
	}
	return roles&c.role() != 0
}

// put notes where a node or its volume goes.
func (a *attempt) put(c class, node, host int) {
	if c == storage {
		a.storage[node] = host
	} else {
		a.host[node] = host
	}
}

// take takes room of a host.
func (a *attempt) take(c class, need amounts, host int) {
	a.rooms[host].free = a.rooms[host].free.minus(need)
	if c == compute {
		a.rooms[host].workers++
		a.domains[a.inv.domain[host]]++
	}
}

func (a *attempt) complete() bool { return len(a.missing) == 0 }

func (a *attempt) plan() Plan {
	p := Plan{Nodes: make([]Assigned, len(a.r.Nodes))}
	for i := range a.r.Nodes {
		p.Nodes[i] = Assigned{a.r.Nodes[i].Name, a.inv.hosts[a.host[i]].ID, a.inv.hosts[a.storage[i]].ID}
	}
	return p
}
