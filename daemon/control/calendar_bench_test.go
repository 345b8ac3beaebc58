package control_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"vcn/api"
	"vcn/daemon/control/controltest"
	"vcn/fsm"
)

// BenchmarkCalendar asks a full calendar when something could be had, admits
// reservations to it, and looks at all bookings once, as a system without an
// index would for each question. The calendar is filled with dates of a month, past
// the planner: state is what counts here.
//
//	when    Control.Offers, which holds nothing: every kind that there is
//	reserve Reserve, planned, encoded and applied; it is released again outside of the time
//	scan    one walk over View.Bookings, in the same run
//
// Processor time stands beside the wall clock, which says little on a busy machine.
// state-MB is the heap after the calendar was made, less that before.
func BenchmarkCalendar(b *testing.B) {
	for _, size := range []struct{ hosts, reservations int }{{100, 1000}, {1000, 10_000}, {10_000, 100_000}} {
		b.Run(fmt.Sprintf("hosts=%d/reservations=%d", size.hosts, size.reservations), func(b *testing.B) {
			before := heap()
			c := newCalendar(b, size.hosts, size.reservations)
			used := heap() - before
			b.Run("when", func(b *testing.B) {
				b.ReportAllocs()
				took := make([]time.Duration, 0, b.N)
				cpu := cpuTime(b)
				for b.Loop() {
					start := time.Now()
					c.when(b)
					took = append(took, time.Since(start))
				}
				b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/1000/float64(len(took)), "cpu-ms/op")
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
				b.ReportMetric(float64(used)/1e6, "state-MB")
			})
			b.Run("reserve", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					id := c.reserve(b)
					b.StopTimer()
					if _, err := c.Control.Release(b.Context(), id, "op"); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
			b.Run("scan", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					c.scan(b)
				}
			})
		})
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

type calendar struct {
	*controltest.Rig
	rng *rand.Rand
	n   int
	day time.Time
}

const calendarHours = 30 * 24

// newCalendar books clusters of a frontend and nine workers for four hours somewhere in a
// month, on hosts chosen by chance, where there is room.
func newCalendar(b *testing.B, hosts, reservations int) *calendar {
	b.Helper()
	c := &calendar{rng: rand.New(rand.NewPCG(uint64(hosts), 7)), day: time.Now().UTC().Truncate(time.Hour).Add(24 * time.Hour)}
	c.Rig = controltest.New(b, controltest.Options{Hosts: hosts, CPUs: 16, Pools: wide})
	probe := controltest.Spec("probe", 9)
	sample, err := c.Control.Reserve(b.Context(), func() api.Spec { probe.Slot = c.slot(); return probe }(), "", "op", "")
	if err != nil {
		b.Fatal(err)
	}
	images := sample.Recipes
	for i := 0; i < reservations; {
		r := *sample
		r.ID, r.Name, r.Recipes, r.Nodes = fmt.Sprintf("r%d", i), fmt.Sprintf("r%d", i), images, slices.Clone(sample.Nodes)
		r.Start = c.day.Add(time.Duration(c.rng.IntN(calendarHours)) * time.Hour)
		r.End, r.Provision = r.Start.Add(4*time.Hour), r.Start.Add(-r.Lead)
		for k := range r.Nodes {
			n := &r.Nodes[k]
			n.CPUs = 4
			n.Host = controltest.HostID(c.rng.IntN(hosts))
			if k == 0 {
				n.Host = controltest.HostID(c.rng.IntN((hosts+2)/3) * 3)
			}
			for s := c.rng.IntN(hosts); ; s = (s + 1) % hosts {
				if s%3 != 0 {
					n.Storage = controltest.HostID(s)
					break
				}
			}
		}
		entry, err := fsm.Encode(fsm.ReservationBook{Reservations: []fsm.Reservation{r}}, time.Now())
		if err != nil {
			b.Fatal(err)
		}
		answer, _, err := c.Applier.Apply(b.Context(), entry)
		if err != nil {
			b.Fatal(err)
		}
		if answer.(fsm.Result).Err == nil { // else there was no room
			i++
		}
	}
	c.reserve(b) // the inventory is there
	return c
}

func (c *calendar) slot() api.Slot {
	return api.Slot{Start: c.day.Add(time.Duration(c.rng.IntN(calendarHours-48)) * time.Hour).Format(time.RFC3339), For: "8h"}
}

func (c *calendar) reserve(b *testing.B) string {
	c.n++
	spec := controltest.Spec(fmt.Sprintf("n%d", c.n), 9)
	spec.Slot = c.slot()
	r, err := c.Control.Reserve(b.Context(), spec, "", "op", "")
	if err != nil {
		b.Fatal(err)
	}
	return r.ID
}

// when asks for what may be there, later, fewer, shorter or split.
func (c *calendar) when(b *testing.B) {
	hosts := len(c.FSM.View().Hosts())
	spec := controltest.Spec("when", 1+c.rng.IntN(min(hosts*9/10, 1000)))
	spec.Workers[0].CPUs = 14
	spec.Slot = c.slot()
	_, err := c.Control.Offers(b.Context(), api.OfferRequest{Spec: spec, WorkersMin: 1, LengthMin: "1h", Split: true, Hold: "0s"}, "", "op")
	if err != nil {
		b.Fatal(err)
	}
}

// scan sums what is booked of every host at one instant, the least that a question costs
// without an index.
func (c *calendar) scan(b *testing.B) {
	at := c.day.Add(time.Duration(c.rng.IntN(calendarHours-48)) * time.Hour)
	cores := map[string]int{}
	for _, k := range c.FSM.View().Bookings() {
		if !k.From.After(at) && k.Until.After(at) {
			cores[k.Host] += k.CPUs
		}
	}
	if len(cores) > len(c.FSM.View().Hosts())+1 {
		b.Fatal("more hosts than there are")
	}
}
