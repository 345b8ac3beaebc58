package placement

import (
	"fmt"
	"strings"
	"time"
)

// short notes that nodes of one shape found no host, and the host with most
// room left for them.
func (a *attempt) short(c class, need amounts, of, short int) {
	s := shortage{class: c, need: need, of: of, short: short, largest: -1}
	most := -1.0
	for i := range a.rooms {
		r := &a.rooms[i]
		if !c.of(&a.inv.hosts[r.i]) {
			continue
		}
		if f := roomFor(c, need, r.free); f > most {
			most, s.largest, s.free = f, r.i, r.free
		}
	}
	a.missing = append(a.missing, s)
}

// roomFor is the part of need that free covers in its scarcest resource, 0-1.
func roomFor(c class, need, free amounts) float64 {
	cover := func(need, free int64) float64 {
		if need <= 0 {
			return 1
		}
		return min(max(float64(free)/float64(need), 0), 1)
	}
	if c == storage {
		return cover(need.storage, free.storage)
	}
	return min(cover(need.cpus, free.cpus), cover(need.memory, free.memory))
}

// reasons turns shortages into sentences.
func (a *attempt) reasons() []string {
	var out []string
	for _, s := range a.missing {
		out = append(out, a.reason(s))
	}
	return out
}

func (a *attempt) reason(s shortage) string {
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
		describe(s.class, s.need), verb, when(a.r.From, a.r.Until))
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

// shortBy says how much the largest host lacks for one more, and when most.
func (a *attempt) shortBy(s shortage) string {
	tl := a.inv.lines[s.largest]
	var out []string
	from, until := nanos(a.r.From), nanos(a.r.Until)
	add := func(lack int64, text string, pick func(amounts) int64) {
		if lack <= 0 {
			return
		}
		if len(tl.at) > 0 && pick(tl.peak(from, until)) > 0 {
			at := time.Unix(0, tl.peakAt(from, until, pick)).In(a.r.From.Location())
			text += " at " + at.Format("2006-01-02 15:04")
		}
		out = append(out, text)
	}
	lack := s.need.minus(s.free)
	if s.class == storage {
		add(lack.storage, bytes(lack.storage), func(u amounts) int64 { return u.storage })
		return strings.Join(out, ", ")
	}
	add(lack.cpus, cores(lack.cpus), func(u amounts) int64 { return u.cpus })
	add(lack.memory, bytes(lack.memory), func(u amounts) int64 { return u.memory })
	return strings.Join(out, ", ")
}

const unusableShownMax = 3

func (a *attempt) unusable(c class) string {
	var out []string
	more := 0
	for i := range a.inv.hosts {
		h := &a.inv.hosts[i]
		if h.Unusable == "" || !c.of(h) {
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
		return bytes(a.storage)
	}
	return cores(a.cpus) + ", " + bytes(a.memory)
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
