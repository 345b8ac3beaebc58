package placement

import (
	"cmp"
	"fmt"
	"slices"
)

// Limits of what Why tells of other hosts.
const (
	passedMax     = 6
	passedKindMax = 3 // of hosts with room, of full ones, of unusable ones
)

// Why says in one sentence why a node of p is on its host, and its volume on its
// storage host, and of the first few other hosts of the class why they were
// passed over: those with room, best first, then full and unusable ones. The
// inventory must be without what p itself books; what it holds otherwise is taken
// as it is now, which may be another than when p was made: then, or if only another
// order than the policy's fitted, the sentence says so. A node that p has not, or
// on a host that is not known any more, gives a sentence that says that.
func (inv *Inventory) Why(r Request, p Plan, node int) (why string, passed []string) {
	if err := r.check(); err != nil || node < 0 || node >= len(p.Nodes) || len(p.Nodes) != len(r.Nodes) {
		return "there is no such node in the plan", nil
	}
	rooms := inv.rooms(&r)
	a := &attempt{inv: inv, r: &r, policy: r.Policy, domains: make([]int, inv.domains), rooms: rooms, only: -1}
	for _, t := range r.tasks() {
		for i, n := range t.nodes {
			if n == node {
				one := task{class: t.class, nodes: t.nodes[i : i+1], need: t.need, pin: t.pin}
				sentence, others := a.explain(one, p.Nodes[n].on(t.class))
				if why != "" {
					why += "; "
				}
				why += sentence
				if t.class != storage {
					passed = others
				}
			}
			if host, ok := inv.index[p.Nodes[n].on(t.class)]; ok {
				a.take(t.class, t.need, host)
			}
		}
	}
	return why, passed
}

func (n Assigned) on(c class) string {
	if c == storage {
		return n.Storage
	}
	return n.Host
}

// explain tells why a thing is on a host, given what was laid before it.
func (a *attempt) explain(t task, on string) (why string, passed []string) {
	node := a.r.Nodes[t.nodes[0]].Name
	thing := fmt.Sprintf("%s (%s)", node, describe(t.class, t.need))
	if t.class == storage {
		thing = fmt.Sprintf("its volume (%s)", describe(t.class, t.need))
	}
	host, known := a.inv.index[on]
	if !known {
		return fmt.Sprintf("%s is on host %s, which is not known any more", thing, on), nil
	}
	label := a.inv.hosts[host].label()
	others := a.others(t, host)
	passed = a.passed(t, host, others)
	if t.pin != "" {
		return fmt.Sprintf("%s is on host %s because it is bound to it", thing, label), passed
	}
	ranks, extreme := "emptiest", "spread"
	if a.policy == Pack {
		ranks, extreme = "fullest", "pack"
	}
	booked, mine := percent(a.shareAfter(t.class, host, t.need)), a.keyOf(t.class, host, t.need)
	switch {
	case a.inv.roles[host]&t.class.role() == 0 || !t.class.fits(t.need, a.rooms[host].free):
		why = fmt.Sprintf("%s is on host %s since before the hosts or the bookings changed: it would not be put there now", thing, label)
	case len(others) == 0:
		why = fmt.Sprintf("%s is on host %s, the only usable %s host with room", thing, label, t.class)
	case others[0].compare(&mine) < 0:
		why = fmt.Sprintf("%s is on host %s (%s booked with it); by %s alone %s would come first, but the whole did not fit that way, or the bookings have changed since",
			thing, label, booked, extreme, a.inv.hosts[others[0].host].label())
	default:
		why = fmt.Sprintf("%s is on host %s, the %s of %d usable %s hosts with room (%s booked with it)", thing, label, ranks, len(others)+1, t.class, booked)
		if n := a.domains[a.inv.domain[host]]; t.class == compute && a.inv.domains > 1 {
			why += fmt.Sprintf(", in a failure domain with %d of its workers before it", n)
		}
	}
	return why, passed
}

// others returns the other hosts with room, best first.
func (a *attempt) others(t task, host int) []key {
	t.pin = ""
	h := a.candidates(t)
	h = slices.DeleteFunc(h, func(k key) bool { return k.host == host })
	slices.SortFunc(h, func(x, y key) int { return x.compare(&y) })
	return h
}

// passed says of the first few other hosts why they were not taken.
func (a *attempt) passed(t task, host int, others []key) []string {
	var out []string
	chosen := a.keyOf(t.class, host, t.need)
	for _, k := range others[:min(len(others), passedKindMax)] {
		out = append(out, a.inv.hosts[k.host].label()+": "+a.behind(t, &chosen, &k))
	}
	full, unusable := 0, 0
	for i := range a.inv.hosts {
		h := &a.inv.hosts[i]
		if i == host || rolesOf(h)&t.class.role() == 0 || len(out) == passedMax {
			continue
		}
		switch {
		case h.Unusable != "":
			if unusable++; unusable <= passedKindMax {
				out = append(out, h.label()+": not usable ("+h.Unusable+")")
			}
		case !t.class.fits(t.need, a.rooms[i].free):
			if full++; full <= passedKindMax {
				s := shortage{class: t.class, need: t.need, largest: i, free: a.rooms[i].free}
				out = append(out, h.label()+": full, short by "+a.shortBy(&s))
			}
		}
	}
	return out
}

// behind says why a host with room comes after the chosen one.
func (a *attempt) behind(t task, chosen, k *key) string {
	mine, its := a.shareAfter(t.class, chosen.host, t.need), a.shareAfter(t.class, k.host, t.need)
	shares := fmt.Sprintf("%s booked with it, not %s", percent(its), percent(mine))
	switch {
	case t.pin != "":
		return "has room, but the node is bound to another"
	case k.compare(chosen) < 0:
		return "would come first by the policy alone (" + shares + ")"
	case k.step != chosen.step && a.policy == Pack:
		return "emptier: " + shares
	case k.step != chosen.step:
		return "fuller: " + shares
	case k.domain != chosen.domain:
		return fmt.Sprintf("about as full, but its failure domain has %d workers of this already, not %d", k.domain, chosen.domain)
	case k.workers != chosen.workers:
		return fmt.Sprintf("about as full, but it has %d workers of this already, not %d", k.workers, chosen.workers)
	case cmp.Compare(k.share, chosen.share) != 0:
		return "a little behind: " + shares
	}
	return "as good; the first by ID was taken"
}

func percent(share float64) string { return fmt.Sprintf("%.0f%%", share*100) }
