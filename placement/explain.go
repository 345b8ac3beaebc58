package placement

import (
	"fmt"
	"strings"
	"time"
)

// shortage is nodes of one shape that found no host of a class.
type shortage struct {
	class     class
	need      amounts
	of, short int
	largest   int // the host with most room, or that it is pinned to; -1 without
	free      amounts
	pinned    string // host ID
	node      string // that is pinned
}

// short notes that nodes of one shape found no host, and the host with most
// room left for them.
func (a *attempt) short(c class, need amounts, of, short int) {
	s := shortage{class: c, need: need, of: of, short: short, largest: -1}
	most := -1.0
	if !a.brief {
		for i, r := range a.inv.roles {
			if r&c.role() == 0 {
				continue
			}
			if f := roomFor(c, need, a.rooms[i].free); f > most {
				most, s.largest, s.free = f, i, a.rooms[i].free
			}
		}
	}
	a.missing = append(a.missing, s)
}

// roomFor is the part of need that free covers in its scarcest resource, 0-1.
func roomFor(c class, need, free amounts) float64 {
	part := 1.0
	for _, x := range c.about() {
		if need[x] > 0 {
			part = min(part, max(float64(free[x])/float64(need[x]), 0))
		}
	}
	return part
}

// noFit turns shortages into sentences and facts.
func (a *attempt) noFit() *NoFit {
	no := &NoFit{}
	for i := range a.missing {
		no.Reasons = append(no.Reasons, a.reason(&a.missing[i]))
		no.Shortages = append(no.Shortages, a.fact(&a.missing[i]))
	}
	return no
}

// fact is a shortage for callers: of the resources that lack, that which lacks
// most in proportion.
func (a *attempt) fact(s *shortage) Shortage {
	f := Shortage{Class: s.class.String(), From: a.r.From, Until: a.r.Until, At: a.r.From,
		Resource: HostUnusable, Of: s.of, Missing: s.short}
	if s.largest < 0 || a.unfit(s) != "" {
		return f
	}
	most := -1.0
	for _, x := range s.class.about() {
		lack := s.need[x] - s.free[x]
		if part := float64(lack) / float64(max(s.need[x], 1)); lack > 0 && part > most {
			most, f.Resource, f.Short = part, resourceNames[x], lack
			f.At, _ = a.fullest(s.largest, x)
		}
	}
	return f
}

// fullest returns when in the slot most of a resource is booked on a host;
// false if nothing is.
func (a *attempt) fullest(host, resource int) (time.Time, bool) {
	line := &a.inv.lines[host]
	from, until := nanos(a.r.From), nanos(a.r.Until)
	if line.peak(from, until)[resource] <= 0 {
		return a.r.From, false
	}
	return time.Unix(0, line.peakAt(from, until, resource)).In(a.r.From.Location()), true
}

// unfit says why the host a thing is pinned to cannot be used at all.
func (a *attempt) unfit(s *shortage) string {
	if s.pinned == "" {
		return ""
	}
	if s.largest < 0 {
		return "is not known"
	}
	h := &a.inv.hosts[s.largest]
	if h.Unusable != "" {
		return "is not usable (" + h.Unusable + ")"
	}
	if a.inv.roles[s.largest]&s.class.role() == 0 {
		return "is no " + s.class.String() + " host"
	}
	return ""
}

func (a *attempt) reason(s *shortage) string {
	slot := when(a.r.From, a.r.Until)
	if s.class == identifiers {
		h := &a.inv.hosts[s.largest]
		if h.Unusable != "" {
			return fmt.Sprintf("identifiers: none %s; not used: %s", slot, h.Unusable)
		}
		return fmt.Sprintf("identifiers: all %d are taken %s (short by %s)", h.Clusters, slot, a.shortBy(s))
	}
	if s.pinned != "" {
		return a.pinnedReason(s, slot)
	}
	thing := map[class]string{gateway: "frontend", compute: "worker", storage: "volume"}[s.class]
	verb := "have"
	if s.of > 1 {
		thing += "s"
	}
	if s.short == 1 {
		verb = "has"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d of %d %s (%s) %s no host %s", s.class, s.short, s.of, thing,
		describe(s.class, s.need), verb, slot)
	if s.largest < 0 {
		fmt.Fprintf(&b, "; there is no usable %s host", s.class)
	} else {
		h := &a.inv.hosts[s.largest]
		fmt.Fprintf(&b, "; largest free: host %s, %s", h.label(), describe(s.class, s.free))
		if by := a.shortBy(s); by != "" {
			fmt.Fprintf(&b, " (short by %s)", by)
		}
	}
	if out := a.unusable(s.class); out != "" {
		b.WriteString("; not used: " + out)
	}
	return b.String()
}

func (a *attempt) pinnedReason(s *shortage, slot string) string {
	thing, label := "node "+s.node, s.pinned
	if s.class == storage {
		thing = "the volume of " + s.node
	}
	if s.largest >= 0 {
		label = a.inv.hosts[s.largest].label()
	}
	if why := a.unfit(s); why != "" {
		return fmt.Sprintf("%s: %s is bound to host %s, which %s", s.class, thing, label, why)
	}
	return fmt.Sprintf("%s: %s (%s) is bound to host %s, which has %s free %s (short by %s)", s.class, thing,
		describe(s.class, s.need), label, describe(s.class, s.free), slot, a.shortBy(s))
}

// shortBy says how much the largest host lacks for one more, and when most.
func (a *attempt) shortBy(s *shortage) string {
	var out []string
	for _, x := range s.class.about() {
		lack := s.need[x] - s.free[x]
		if lack <= 0 {
			continue
		}
		text := quantity(x, lack)
		if at, booked := a.fullest(s.largest, x); booked {
			text += " at " + at.Format("2006-01-02 15:04")
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

const unusableShownMax = 3

func (a *attempt) unusable(c class) string {
	var out []string
	more := 0
	for i := range a.inv.hosts {
		h := &a.inv.hosts[i]
		if h.Unusable == "" || rolesOf(h)&c.role() == 0 {
			continue
		}
		if len(out) == unusableShownMax {
			more++
			continue
		}
		out = append(out, fmt.Sprintf("%s (%s)", h.label(), h.Unusable))
	}
	if more > 0 {
		out = append(out, fmt.Sprintf("%d more", more))
	}
	return strings.Join(out, ", ")
}

func (h *Host) label() string {
	if h.Name != "" {
		return h.Name
	}
	return h.ID
}

func describe(c class, a amounts) string {
	if c == storage {
		return bytes(a[disk])
	}
	return cores(a[cpus]) + ", " + bytes(a[memory])
}

func quantity(resource int, n int64) string {
	switch resource {
	case cpus:
		return cores(n)
	case clusters:
		return fmt.Sprint(n)
	}
	return bytes(n)
}

func cores(n int64) string {
	if n == 1 {
		return "1 core"
	}
	return fmt.Sprintf("%d cores", max(n, 0))
}

// bytes writes a size in the largest binary unit that leaves at most one
// decimal of meaning.
func bytes(n int64) string {
	n = max(n, 0)
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	u, f := 0, float64(n)
	for f >= 1024 && u < len(units)-1 {
		f /= 1024
		u++
	}
	s := fmt.Sprintf("%.1f", f)
	return strings.TrimSuffix(s, ".0") + " " + units[u]
}

// when writes a slot, in the zone it was asked in.
func when(from, until time.Time) string {
	until = until.In(from.Location())
	const day = "2006-01-02"
	if from.Format(day) == until.Format(day) {
		return fmt.Sprintf("from %s to %s", from.Format(day+" 15:04"), until.Format("15:04 MST"))
	}
	return fmt.Sprintf("from %s to %s", from.Format(day+" 15:04"), until.Format(day+" 15:04 MST"))
}
