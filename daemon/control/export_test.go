package control

import (
	"fmt"
	"slices"
	"time"

	"vcn/fsm"
	"vcn/placement"
)

// CheckInventory compares the inventory that was followed change by change with one
// made anew from the state, what overruns and the flights.
func CheckInventory(c *Control) error {
	p := c.planner
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.state.View()
	have := p.inv.follow(v)
	m, _ := v.Meta()
	hosts := append(placeHosts(v), placement.Host{ID: placement.IdentifiersHost, Clusters: m.Pools.Clusters()})
	want := placement.New(hosts, nil)
	instants := []int64{v.Clock().UnixNano()}
	for _, h := range hosts {
		steps := placeSteps(v.Steps(h.ID))
		want.SetSteps(h.ID, steps)
		for _, s := range steps {
			instants = append(instants, s.At)
		}
	}
	for _, b := range v.Overruns() {
		want.Add(placement.Booking{Host: b.Host, From: v.Clock(), Until: v.Clock().Add(fsm.Turnaround),
			CPUs: b.CPUs, MemoryBytes: b.MemoryBytes, StorageBytes: b.StorageBytes, Clusters: b.Clusters})
	}
	instants = append(instants, v.Clock().Add(fsm.Turnaround).UnixNano())
	for f := range p.inv.flights {
		want.Add(f.bookings...)
		for _, b := range f.bookings {
			instants = append(instants, b.From.UnixNano(), b.Until.UnixNano())
		}
	}
	slices.Sort(instants)
	for _, at := range slices.Compact(instants) {
		for _, h := range hosts {
			from := time.Unix(0, at)
			c1, m1, s1, _ := have.Free(h.ID, from, from.Add(1))
			c2, m2, s2, _ := want.Free(h.ID, from, from.Add(1))
			if c1 != c2 || m1 != m2 || s1 != s2 {
				return fmt.Errorf("host %s at %s: the inventory followed has %d cores, %d, %d free; made anew %d, %d, %d", h.ID, from.UTC(), c1, m1, s1, c2, m2, s2)
			}
		}
	}
	return nil
}

// Flights counts the plans in flight.
func Flights(c *Control) int {
	c.planner.mu.Lock()
	defer c.planner.mu.Unlock()
	c.planner.inv.follow(c.planner.state.View())
	return len(c.planner.inv.flights)
}

// Beyond is beyond.
func Beyond(wanted, held []placement.Booking) []placement.Booking { return beyond(wanted, held) }
