package cli

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"vcn/api"
)

// Steps that a column may stand for.
var chartSteps = []time.Duration{
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 4 * time.Hour, 6 * time.Hour, 12 * time.Hour,
	24 * time.Hour, 48 * time.Hour, 7 * 24 * time.Hour, 14 * 24 * time.Hour, 28 * 24 * time.Hour, 91 * 24 * time.Hour, 364 * 24 * time.Hour,
}

// Holders that are not one reservation with a name.
const (
	holdersOthers = "other projects"
	holdersOffers = "held for offers"
)

// letters name holders, in the order of their first hold.
const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

// palette is of colours that differ on light and dark ground (of xterm's 256).
var palette = []int{33, 208, 35, 161, 99, 37, 136, 169, 70, 67, 130, 93}

const (
	colourPlain = 245
	labelMax    = 16 // runes of a host's name
	freeLabel   = "free"
)

// chart draws a calendar. Amounts are shares: of cores, memory and storage the
// one that is held most.
type chart struct {
	cal     api.Calendar
	zone    *time.Location
	width   int
	colours bool

	label   int // width of the rows' names
	step    time.Duration
	columns int
	holders []string       // in order of first hold
	number  map[string]int // of a holder
}

func newChart(cal api.Calendar, zone *time.Location, width int, colours bool) *chart {
	c := &chart{cal: cal, zone: zone, width: width, colours: colours, label: len(freeLabel), number: map[string]int{}}
	for _, h := range cal.Hosts {
		c.label = max(c.label, min(len([]rune(h.Name)), labelMax))
	}
	room := max(width-c.label-2, 10)
	c.step = chartSteps[len(chartSteps)-1]
	for _, s := range chartSteps {
		if columnsOf(cal.From, cal.Until, s) <= room {
			c.step = s
			break
		}
	}
	c.columns = min(columnsOf(cal.From, cal.Until, c.step), room)
	c.count()
	return c
}

func columnsOf(from, until time.Time, step time.Duration) int {
	return int((until.Sub(from) + step - 1) / step)
}

// count gives each holder its number, in the order in which they first hold
// something; those without a name have none.
func (c *chart) count() {
	first := map[string]time.Time{}
	for _, h := range c.cal.Hosts {
		for _, s := range h.Spans {
			who := holderOf(s)
			if t, ok := first[who]; !ok || s.From.Before(t) {
				first[who] = s.From
			}
		}
	}
	named := slices.SortedFunc(maps.Keys(first), func(a, b string) int {
		return cmp.Or(first[a].Compare(first[b]), cmp.Compare(a, b))
	})
	for _, who := range named {
		if who == holdersOthers || who == holdersOffers {
			continue
		}
		c.number[who] = len(c.holders)
		c.holders = append(c.holders, who)
	}
}

// holderOf is who holds a span, as the legend has it.
func holderOf(s api.CalendarSpan) string {
	switch {
	case s.Kind == "hold":
		return holdersOffers
	case s.Name == "" && s.Reservation == "":
		return holdersOthers
	}
	name := cmp.Or(s.Name, s.Reservation)
	if s.Project != "" {
		name += " (" + s.Project + ")"
	}
	if s.Kind == "parked" {
		name += ", parked"
	}
	return oneLine(name)
}

// shareOf is how much of a host an amount is: of its scarcest kind.
func shareOf(cpus int, memory, storage api.Quantity, h api.CalendarHost) float64 {
	share := 0.0
	for _, x := range [][2]float64{{float64(cpus), float64(h.CPUs)}, {float64(memory), float64(h.Memory)}, {float64(storage), float64(h.Storage)}} {
		if x[1] > 0 {
			share = max(share, x[0]/x[1])
		}
	}
	return min(share, 1)
}

// cell is what one column shows of a host.
type cell struct {
	who  string  // holds most of it, by share and time; empty: nobody
	held float64 // 0-1: the most that is held at once
}

// cells are a host's columns.
func (c *chart) cells(h api.CalendarHost) []cell {
	out := make([]cell, c.columns)
	weight := make([]map[string]float64, c.columns)
	inside := make([][]api.CalendarSpan, c.columns)
	for _, s := range h.Spans {
		lo := max(int(s.From.Sub(c.cal.From)/c.step), 0)
		for i := lo; i < c.columns && s.Until.After(c.at(i)); i++ {
			overlap := earlier(s.Until, c.at(i+1)).Sub(later(s.From, c.at(i)))
			if overlap <= 0 {
				continue
			}
			if weight[i] == nil {
				weight[i] = map[string]float64{}
			}
			weight[i][holderOf(s)] += overlap.Seconds() * max(shareOf(s.CPUs, s.Memory, s.Storage, h), 1e-9)
			inside[i] = append(inside[i], s)
		}
	}
	for i := range out {
		out[i].held = peak(inside[i], c.at(i), h)
		best := 0.0
		for _, who := range slices.Sorted(maps.Keys(weight[i])) {
			if weight[i][who] > best {
				out[i].who, best = who, weight[i][who]
			}
		}
	}
	return out
}

// peak is the largest share of a host that spans hold at once between two
// times, which each of them touches: their starts and ends in order, ends first.
func peak(spans []api.CalendarSpan, from time.Time, h api.CalendarHost) float64 {
	type edge struct {
		at   time.Time
		sign int
		span api.CalendarSpan
	}
	edges := make([]edge, 0, 2*len(spans))
	for _, s := range spans {
		edges = append(edges, edge{later(s.From, from), 1, s}, edge{s.Until, -1, s})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.sign, b.sign)) })
	most, cpus, memory, storage := 0.0, 0, api.Quantity(0), api.Quantity(0)
	for _, e := range edges {
		q := api.Quantity(e.sign)
		cpus, memory, storage = cpus+e.sign*e.span.CPUs, memory+q*e.span.Memory, storage+q*e.span.Storage
		most = max(most, shareOf(cpus, memory, storage, h))
	}
	return most
}

func (c *chart) at(column int) time.Time {
	return earlier(c.cal.From.Add(time.Duration(column)*c.step), c.cal.Until)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// freeCells is the least that is free of all usable hosts in each column, as a
// share of what they have, of whichever kind is scarcest.
func (c *chart) freeCells() []float64 {
	var all api.CalendarHost
	for _, h := range c.cal.Hosts {
		if h.Unusable == "" {
			all.CPUs, all.Memory, all.Storage = all.CPUs+h.CPUs, all.Memory+h.Memory, all.Storage+h.Storage
		}
	}
	out := make([]float64, c.columns)
	for i := range out {
		out[i] = 1
		known := false
		for j, f := range c.cal.Free {
			ends := c.cal.Until
			if j+1 < len(c.cal.Free) {
				ends = c.cal.Free[j+1].From
			}
			if !f.From.Before(c.at(i+1)) || !ends.After(c.at(i)) {
				continue
			}
			known = true
			out[i] = min(out[i], leastOf(f, all))
		}
		if !known {
			out[i] = 0
		}
	}
	return out
}

// leastOf is the smallest of the shares that are free.
func leastOf(f api.CalendarFree, all api.CalendarHost) float64 {
	least := 1.0
	for _, x := range [][2]float64{{float64(f.CPUs), float64(all.CPUs)}, {float64(f.Memory), float64(all.Memory)}, {float64(f.Storage), float64(all.Storage)}} {
		if x[1] > 0 {
			least = min(least, x[0]/x[1])
		}
	}
	return max(least, 0)
}
