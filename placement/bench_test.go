package placement

import (
	"fmt"
	"math/rand"
	"slices"
	"sync"
	"testing"
	"time"
)

// centre is a busy computing centre: hosts that are about 70 % booked over a
// year, by reservations of a frontend and 3-8 workers with their volumes.
type centre struct {
	hosts        []Host
	bookings     []Booking
	reservations int
	inv          *Inventory
	later        Request // does not fit at once, and does months later
}

var sizes = []struct{ hosts, reservations int }{{100, 1_000}, {1_000, 10_000}, {10_000, 100_000}}

var (
	centres   = map[int]*centre{}
	centresMu sync.Mutex
)

const day = 24 * time.Hour

func centreOf(hosts, reservations int) *centre {
	centresMu.Lock()
	defer centresMu.Unlock()
	c := centres[hosts]
	if c == nil {
		c = newCentre(hosts, reservations)
		centres[hosts] = c
	}
	return c
}

func centreHosts(n int) []Host {
	hosts := []Host{{ID: IdentifiersHost, Clusters: 4 * n}}
	for i := range n {
		hosts = append(hosts, Host{ID: fmt.Sprintf("h%05d", i), Gateway: i%20 == 0, Compute: true, Storage: i%5 == 0,
			FailureDomain: fmt.Sprintf("rack%d", i/40), CPUs: 64, MemoryBytes: 256 * gib, StorageBytes: 100 << 40})
	}
	return hosts
}

func newCentre(hosts, reservations int) *centre {
	rng := rand.New(rand.NewSource(1))
	c := &centre{hosts: centreHosts(hosts), inv: New(centreHosts(hosts), nil)}
	for range reservations {
		cores := 8 << rng.Intn(3)
		r := Request{From: nine.Add(time.Duration(rng.Intn(365*24*60)) * time.Minute), Clusters: 1,
			Nodes: []NodeRequest{{Name: "frontend", Frontend: true, CPUs: 2, MemoryBytes: 4 * gib, DiskBytes: 40 * gib}}}
		r.Until = r.From.Add(time.Duration(24+rng.Intn(34*24)) * time.Hour)
		for i := range 3 + rng.Intn(6) {
			r.Nodes = append(r.Nodes, NodeRequest{Name: fmt.Sprint(i), CPUs: cores, MemoryBytes: int64(cores) * 4 * gib, DiskBytes: 40 * gib})
		}
		if p, ok := c.scatter(rng, &r); ok {
			bs := p.Bookings(r)
			c.inv.Add(bs...)
			c.bookings = append(c.bookings, bs...)
			c.reservations++
		}
	}
	c.ask(hosts)
	return c
}

// scatter places nodes on hosts at random, which is quicker than planning.
func (c *centre) scatter(rng *rand.Rand, r *Request) (Plan, bool) {
	var p Plan
	taken := map[int]bool{}
	store := 1 + rng.Intn(len(c.hosts)-1)/5*5
	for i := range r.Nodes {
		n := &r.Nodes[i]
		found := -1
		for try := 0; try < 50 && found < 0; try++ {
			h := 1 + rng.Intn(len(c.hosts)-1)
			if n.Frontend {
				h = 1 + (h-1)/20*20
			}
			if !taken[h] && compute.fits(n.shape(), c.inv.free(c.inv.index[c.hosts[h].ID], nanos(r.From), nanos(r.Until))) {
				found = h
			}
		}
		if found < 0 {
			return p, false
		}
		taken[found] = true
		p.Nodes = append(p.Nodes, Assigned{n.Name, c.hosts[found].ID, c.hosts[store].ID})
	}
	return p, true
}

// ask finds a request that has to wait for months: as many workers as there is
// room for at the best of some starts.
func (c *centre) ask(hosts int) {
	work := func(n int) Request {
		r := bigRequest(n)
		r.Clusters = 1
		for i := range r.Nodes[1:] {
			r.Nodes[1+i].CPUs, r.Nodes[1+i].MemoryBytes = 64, 256*gib
		}
		return r
	}
	slot := func(n, day_ int) Request {
		r := work(n)
		r.From = nine.Add(time.Duration(day_) * day)
		r.Until = r.From.Add(8 * time.Hour)
		return r
	}
	// The start and the later one whose difference is largest.
	var days, counts []int
	best := 0
	for d := 20; d < 300; d += 14 {
		n, _, err := c.inv.Most(Request{}, func(n int) Request { return slot(n, d) }, 1, hosts/2)
		if err != nil {
			continue
		}
		for i, m := range counts {
			if n-m > best {
				best, c.later = n-m, slot(n, days[i])
			}
		}
		days, counts = append(days, d), append(counts, n)
	}
	if best == 0 {
		panic("the centre only becomes fuller")
	}
}

// bigRequest is a frontend and some small workers, 10 days from nine.
func bigRequest(workers int) Request {
	r := request(workers, Spread)
	r.From = nine.Add(10 * day)
	r.Until = r.From.Add(8 * time.Hour)
	return r
}

// scanFree is what a planner without timelines does for one slot: one pass over
// all bookings, then every overlapping booking of a host at every instant at which
// one of them begins.
func scanFree(index map[string]int, caps []amounts, bookings []Booking, from, until time.Time) []amounts {
	over := make([][]*Booking, len(caps))
	for i := range bookings {
		b := &bookings[i]
		if h, ok := index[b.Host]; ok && b.From.Before(until) && from.Before(b.Until) {
			over[h] = append(over[h], b)
		}
	}
	out := make([]amounts, len(caps))
	for h, bs := range over {
		var peak amounts
		for _, first := range bs {
			var sum amounts
			t := first.From
			if t.Before(from) {
				t = from
			}
			for _, b := range bs {
				if !t.Before(b.From) && t.Before(b.Until) {
					sum = sum.plus(b.amounts())
				}
			}
			peak.raise(sum)
		}
		out[h] = caps[h].minus(peak)
	}
	return out
}

func perSize(b *testing.B, f func(b *testing.B, c *centre)) {
	for _, s := range sizes {
		b.Run(fmt.Sprintf("hosts=%d/reservations=%d", s.hosts, s.reservations), func(b *testing.B) {
			c := centreOf(s.hosts, s.reservations)
			b.ReportAllocs()
			f(b, c)
		})
	}
}

// scanned runs one plain scan of a slot and returns how long it took.
func (c *centre) scanned(r Request) time.Duration {
	t0 := time.Now()
	scanFree(c.inv.index, c.inv.caps, c.bookings, r.From, r.Until)
	return time.Since(t0)
}

// BenchmarkEarliest asks for a start months away. The scan is measured at some
// of the ends on the way there and multiplied by their number.
func BenchmarkEarliest(b *testing.B) {
	perSize(b, func(b *testing.B, c *centre) {
		last := nine.Add(365 * day)
		var at time.Time
		for b.Loop() {
			var err error
			if at, _, err = c.inv.Earliest(c.later, last); err != nil {
				b.Fatal(err)
			}
		}
		own := b.Elapsed() / time.Duration(b.N)
		ends := make([]int64, 0, len(c.bookings))
		for i := range c.bookings {
			if u := c.bookings[i].Until; u.After(c.later.From) && !u.After(at) {
				ends = append(ends, nanos(u))
			}
		}
		slices.Sort(ends)
		ends = slices.Compact(ends)
		scan, n := time.Duration(0), 3
		for i := range n {
			r := c.later
			r.From = time.Unix(0, ends[i*(len(ends)-1)/(n-1)])
			r.Until = r.From.Add(8 * time.Hour)
			scan += c.scanned(r)
		}
		scan = scan / time.Duration(n) * time.Duration(len(ends))
		b.ReportMetric(at.Sub(c.later.From).Hours()/24, "days-away")
		b.ReportMetric(float64(len(c.bookings)), "bookings")
		b.ReportMetric(scan.Seconds(), "scan-s")
		b.ReportMetric(float64(scan)/float64(own), "scan/own")
	})
}

// BenchmarkEarliestNever walks the whole calendar without finding anything: one
// worker more than ever fits at once.
func BenchmarkEarliestNever(b *testing.B) {
	perSize(b, func(b *testing.B, c *centre) {
		r := c.later
		n := len(r.Nodes)
		for i := range n {
			w := r.Nodes[1]
			w.Name = fmt.Sprintf("more-%d", i)
			r.Nodes = append(r.Nodes, w)
		}
		last := nine.Add(330 * day)
		r.Nodes = r.Nodes[:min(len(r.Nodes), NodesMax)]
		for b.Loop() {
			if _, _, err := c.inv.Earliest(r, last); err == nil {
				b.Fatal("fits")
			}
		}
	})
}

// BenchmarkEarliestMonth is the same for slots of 30 days.
func BenchmarkEarliestMonth(b *testing.B) {
	perSize(b, func(b *testing.B, c *centre) {
		r := c.later
		r.Until = r.From.Add(30 * day)
		last := nine.Add(330 * day)
		for b.Loop() {
			_, _, _ = c.inv.Earliest(r, last)
		}
	})
}

// BenchmarkPlan plans a frontend and 8 workers on a ready inventory.
func BenchmarkPlan(b *testing.B) {
	perSize(b, func(b *testing.B, c *centre) {
		r := bigRequest(8)
		r.Clusters = 1
		r.From, r.Until = r.From.Add(90*day), r.Until.Add(90*day)
		for b.Loop() {
			if _, err := c.inv.Plan(r); err != nil {
				b.Fatal(err)
			}
		}
		own := b.Elapsed() / time.Duration(b.N)
		scan := c.scanned(r)
		b.ReportMetric(scan.Seconds()*1e3, "scan-ms")
		b.ReportMetric(float64(scan)/float64(own), "scan/own")
	})
}

// BenchmarkAdd adds one reservation's bookings and removes them again.
func BenchmarkAdd(b *testing.B) {
	perSize(b, func(b *testing.B, c *centre) {
		r := bigRequest(8)
		r.From, r.Until = r.From.Add(90*day), r.Until.Add(90*day)
		p, err := c.inv.Plan(r)
		if err != nil {
			b.Fatal(err)
		}
		bs, inv := p.Bookings(r), c.inv.Clone()
		for b.Loop() {
			inv.Add(bs...)
			inv.Remove(bs...)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N*len(bs)), "ns/booking")
	})
}

// BenchmarkNew builds the inventory: of bookings, of timelines, and as a clone.
func BenchmarkNew(b *testing.B) {
	perSize(b, func(b *testing.B, c *centre) {
		steps := map[string][]Step{}
		for i, h := range c.inv.hosts {
			steps[h.ID] = c.inv.lines[i].steps
		}
		b.Run("of=bookings", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				New(c.hosts, c.bookings)
			}
		})
		b.Run("of=steps", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				FromSteps(c.hosts, steps)
			}
		})
		b.Run("of=clone", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.inv.Clone()
			}
		})
	})
}

// adversary is hosts with 6 free cores by turns and workers of 4 and 3 cores:
// all sums suffice, and no order fits, at each of many ends.
func adversary(hosts, ends int) (*Inventory, Request) {
	hs := []Host{{ID: "store", Storage: true, StorageBytes: 1 << 50}}
	var bs []Booking
	for i := range hosts {
		h := Host{ID: fmt.Sprintf("h%05d", i), Compute: true, CPUs: 12, MemoryBytes: 1 << 40}
		hs = append(hs, h)
		for k := range ends / hosts {
			at := nine.Add(time.Duration(k*hosts+i) * time.Minute)
			// The other 6 cores are held by one booking after another, with a
			// byte less of memory each, so that each of their ends counts.
			bs = append(bs, Booking{Host: h.ID, From: at, Until: at.Add(time.Duration(hosts) * time.Minute), CPUs: 6, MemoryBytes: int64(ends/hosts - k)})
		}
	}
	r := Request{From: nine.Add(time.Duration(hosts) * time.Minute)}
	r.Until = r.From.Add(time.Minute)
	add := func(n, cores int) {
		for range n {
			r.Nodes = append(r.Nodes, NodeRequest{Name: fmt.Sprint(len(r.Nodes)), CPUs: cores})
		}
	}
	add(hosts/2, 4)
	add(hosts+hosts/5, 3)
	return New(hs, bs), r
}

// BenchmarkEarliestAdversary is the worst that mixed shapes can do.
func BenchmarkEarliestAdversary(b *testing.B) {
	for _, hosts := range []int{100, 1_000} {
		b.Run(fmt.Sprintf("hosts=%d", hosts), func(b *testing.B) {
			inv, r := adversary(hosts, 20*hosts)
			for b.Loop() {
				at, _, err := inv.Earliest(r, nine.Add(time.Duration(17*hosts)*time.Minute))
				if err == nil {
					b.Fatal(at)
				}
			}
		})
	}
}
