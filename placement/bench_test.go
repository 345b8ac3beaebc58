package placement

import (
	"fmt"
	"math/rand"
	"testing"
	"time"
)

// big is 1 000 hosts with 10 000 bookings over 30 days, none overbooked by much.
func big() ([]Host, []Booking) {
	rng := rand.New(rand.NewSource(1))
	var hosts []Host
	for i := range 1000 {
		hosts = append(hosts, Host{ID: fmt.Sprintf("h%04d", i), Gateway: i%20 == 0, Compute: true, Storage: i%5 == 0,
			FailureDomain: fmt.Sprintf("rack%d", i/40), CPUs: 64, MemoryBytes: 256 * gib, StorageBytes: 100 << 40})
	}
	var bookings []Booking
	for range 10_000 {
		from := nine.Add(time.Duration(rng.Intn(30*24*60)) * time.Minute)
		bookings = append(bookings, Booking{Host: hosts[rng.Intn(len(hosts))].ID, From: from, Until: from.Add(time.Duration(1+rng.Intn(72)) * time.Hour),
			CPUs: 1 + rng.Intn(16), MemoryBytes: int64(1+rng.Intn(32)) * gib, StorageBytes: int64(rng.Intn(500)) * gib})
	}
	return hosts, bookings
}

func bigRequest(workers int) Request {
	r := request(workers, Spread)
	r.From = nine.Add(10 * 24 * time.Hour)
	r.Until = r.From.Add(8 * time.Hour)
	return r
}

// scanFree is what a planner without timelines does: every booking, for every
// host, at every instant at which something begins within the slot.
func scanFree(hosts []Host, bookings []Booking, r Request) []amounts {
	out := make([]amounts, len(hosts))
	for i, h := range hosts {
		var peak amounts
		instants := []time.Time{r.From}
		for _, b := range bookings {
			if b.Host == h.ID && b.From.After(r.From) && b.From.Before(r.Until) {
				instants = append(instants, b.From)
			}
		}
		for _, at := range instants {
			c, m, s := heldAt(bookings, h.ID, at)
			peak.raise(amounts{int64(c), m, s})
		}
		out[i] = amounts{int64(h.CPUs), h.MemoryBytes, h.StorageBytes}.minus(peak)
	}
	return out
}

func TestTimelinesAgreeWithAScanOfAllBookings(t *testing.T) {
	hosts, bookings := big()
	hosts, r := hosts[:100], bigRequest(1)
	inv := New(hosts, bookings)
	for i, want := range scanFree(hosts, bookings, r) {
		if got := inv.free(i, nanos(r.From), nanos(r.Until)); got != want {
			t.Errorf("%s: %+v, want %+v", hosts[i].ID, got, want)
		}
	}
}

// BenchmarkPlan plans on a ready inventory.
func BenchmarkPlan(b *testing.B) {
	hosts, bookings := big()
	inv := New(hosts, bookings)
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("workers=%d", n), func(b *testing.B) {
			r := bigRequest(n)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := inv.Plan(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRefuse plans what does not fit.
func BenchmarkRefuse(b *testing.B) {
	hosts, bookings := big()
	inv := New(hosts, bookings)
	r := bigRequest(NodesMax - 1)
	for i := range r.Nodes {
		if i > 0 {
			r.Nodes[i].CPUs = 33
		}
	}
	for b.Loop() {
		if _, err := inv.Plan(r); err == nil {
			b.Fatal("fits")
		}
	}
}

// BenchmarkNew builds the inventory from 10 000 bookings.
func BenchmarkNew(b *testing.B) {
	hosts, bookings := big()
	for b.Loop() {
		New(hosts, bookings)
	}
}

// BenchmarkAgainstScan finds every host's free amounts for one slot, by
// timelines and by a plain scan in the same run, and reports how many times
// faster the timelines are (without and with building them).
func BenchmarkAgainstScan(b *testing.B) {
	hosts, bookings := big()
	r := bigRequest(100)
	var scan, lines, build time.Duration
	for b.Loop() {
		t0 := time.Now()
		scanFree(hosts, bookings, r)
		t1 := time.Now()
		inv := New(hosts, bookings)
		t2 := time.Now()
		inv.rooms(r)
		t3 := time.Now()
		scan, build, lines = scan+t1.Sub(t0), build+t2.Sub(t1), lines+t3.Sub(t2)
	}
	n := float64(b.N)
	b.ReportMetric(scan.Seconds()*1e3/n, "scan-ms")
	b.ReportMetric(lines.Seconds()*1e3/n, "timeline-ms")
	b.ReportMetric(float64(scan)/float64(lines), "scan/timeline")
	b.ReportMetric(float64(scan)/float64(build+lines), "scan/(build+timeline)")
}
