package placement

import (
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// Small numbers on purpose: edges meet, hosts fill up.
func drawHosts(t *rapid.T) []Host {
	var hs []Host
	for i := range rapid.IntRange(1, 6).Draw(t, "hosts") {
		hs = append(hs, Host{ID: fmt.Sprintf("h%d", i),
			Gateway: rapid.Bool().Draw(t, "gateway"), Compute: rapid.Bool().Draw(t, "compute"), Storage: rapid.Bool().Draw(t, "storage"),
			FailureDomain: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "domain"),
			CPUs:          rapid.IntRange(0, 8).Draw(t, "cpus"),
			MemoryBytes:   rapid.Int64Range(0, 8).Draw(t, "memory"), StorageBytes: rapid.Int64Range(0, 8).Draw(t, "storage"),
			Unusable: rapid.SampledFrom([]string{"", "", "", "dead"}).Draw(t, "unusable")})
	}
	return hs
}

func drawBookings(t *rapid.T, hosts []Host) []Booking {
	var bs []Booking
	for range rapid.IntRange(0, 12).Draw(t, "bookings") {
		h := rapid.SampledFrom(hosts).Draw(t, "host")
		bs = append(bs, Booking{Host: h.ID, From: hour(rapid.IntRange(0, 12).Draw(t, "from")), Until: hour(rapid.IntRange(0, 12).Draw(t, "until")),
			CPUs: rapid.IntRange(0, 3).Draw(t, "cpus"), MemoryBytes: rapid.Int64Range(0, 3).Draw(t, "memory"), StorageBytes: rapid.Int64Range(0, 3).Draw(t, "storage")})
	}
	return bs
}

func drawRequest(t *rapid.T, nodesMax int) Request {
	from := rapid.IntRange(0, 11).Draw(t, "from")
	r := Request{From: hour(from), Until: hour(rapid.IntRange(from+1, 12).Draw(t, "until")),
		Policy: rapid.SampledFrom([]Policy{Spread, Pack}).Draw(t, "policy")}
	for i := range rapid.IntRange(1, nodesMax).Draw(t, "nodes") {
		r.Nodes = append(r.Nodes, NodeRequest{Name: fmt.Sprintf("n%d", i), Frontend: i == 0 && rapid.Bool().Draw(t, "frontend"),
			CPUs: rapid.IntRange(0, 4).Draw(t, "cpus"), MemoryBytes: rapid.Int64Range(0, 4).Draw(t, "memory"), DiskBytes: rapid.Int64Range(0, 4).Draw(t, "disk")})
	}
	return r
}

// heldAt is the plain sum of what is booked on a host at an instant.
func heldAt(bs []Booking, host string, at time.Time) (cpus int, memory, storage int64) {
	for _, b := range bs {
		if b.Host == host && !at.Before(b.From) && at.Before(b.Until) {
			cpus, memory, storage = cpus+b.CPUs, memory+b.MemoryBytes, storage+b.StorageBytes
		}
	}
	return
}

func TestPlansNeverOverbookAtAnyInstant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := drawHosts(t)
		inv := New(hosts, nil)
		var booked []Booking
		for range rapid.IntRange(1, 10).Draw(t, "requests") {
			r := drawRequest(t, 5)
			p, err := inv.Plan(r)
			var no *NoFit
			if errors.As(err, &no) {
				if len(no.Reasons) == 0 {
					t.Fatal("refused without a reason")
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			checkClasses(t, hosts, r, p)
			bs := p.Bookings(r)
			inv.Add(bs...)
			booked = append(booked, bs...)
		}
		for _, h := range hosts {
			for half := 0; half <= 24; half++ {
				at := hour(0).Add(time.Duration(half) * 30 * time.Minute)
				if c, m, s := heldAt(booked, h.ID, at); c > h.CPUs || m > h.MemoryBytes || s > h.StorageBytes {
					t.Fatalf("%s at %s holds %d cores, %d, %d of %d, %d, %d", h.ID, at, c, m, s, h.CPUs, h.MemoryBytes, h.StorageBytes)
				}
			}
		}
	})
}

func checkClasses(t *rapid.T, hosts []Host, r Request, p Plan) {
	if len(p.Nodes) != len(r.Nodes) {
		t.Fatalf("%d of %d nodes placed", len(p.Nodes), len(r.Nodes))
	}
	by := map[string]Host{}
	for _, h := range hosts {
		by[h.ID] = h
	}
	for i, a := range p.Nodes {
		h, s := by[a.Host], by[a.Storage]
		if a.Node != r.Nodes[i].Name || h.Unusable != "" || s.Unusable != "" || !s.Storage ||
			(r.Nodes[i].Frontend && !h.Gateway) || (!r.Nodes[i].Frontend && !h.Compute) {
			t.Fatalf("node %+v on %+v, volume on %+v", r.Nodes[i], h, s)
		}
	}
}

func TestOneNodeIsRefusedOnlyIfAScanFindsNoRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := drawHosts(t)
		bookings := drawBookings(t, hosts)
		r := drawRequest(t, 1)
		_, err := New(hosts, bookings).Plan(r)
		if got, want := err == nil, scanFits(hosts, bookings, r); got != want {
			t.Fatalf("planned: %v (%v), a scan says %v", got, err, want)
		}
	})
}

// scanFits answers for one node by looking at every booking at every hour.
func scanFits(hosts []Host, bookings []Booking, r Request) bool {
	n := r.Nodes[0]
	node, volume := false, false
	for _, h := range hosts {
		if h.Unusable != "" {
			continue
		}
		cpuOK, diskOK := true, true
		for at := r.From; at.Before(r.Until); at = at.Add(time.Hour) {
			c, m, s := heldAt(bookings, h.ID, at)
			cpuOK = cpuOK && c+n.CPUs <= h.CPUs && m+n.MemoryBytes <= h.MemoryBytes
			diskOK = diskOK && s+n.DiskBytes <= h.StorageBytes
		}
		node = node || (cpuOK && ((n.Frontend && h.Gateway) || (!n.Frontend && h.Compute)))
		volume = volume || (diskOK && h.Storage)
	}
	return node && volume
}

func TestEqualWorkersAreRefusedOnlyIfTooMany(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := drawHosts(t)
		bookings := drawBookings(t, hosts)
		r := drawRequest(t, 1)
		n := r.Nodes[0]
		n.Frontend, n.CPUs, n.DiskBytes = false, max(n.CPUs, 1), max(n.DiskBytes, 1)
		inv := New(hosts, bookings)
		workers, volumes := 0, 0
		for _, h := range hosts {
			c, m, s, _ := inv.Free(h.ID, r.From, r.Until)
			if h.Unusable != "" || c < 0 || m < 0 {
				c = 0
			}
			if h.Compute && c > 0 {
				fit := c / n.CPUs
				if n.MemoryBytes > 0 {
					fit = min(fit, int(m/n.MemoryBytes))
				}
				workers += fit
			}
			if h.Storage && h.Unusable == "" && s > 0 {
				volumes += int(s / n.DiskBytes)
			}
		}
		count := rapid.IntRange(1, 20).Draw(t, "count")
		r.Nodes = nil
		for i := range count {
			n.Name = fmt.Sprint(i)
			r.Nodes = append(r.Nodes, n)
		}
		_, err := inv.Plan(r)
		if got, want := err == nil, count <= workers && count <= volumes; got != want {
			t.Fatalf("%d workers planned: %v (%v); room for %d, and %d volumes", count, got, err, workers, volumes)
		}
	})
}

func TestTheOrderOfHostsAndBookingsDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := drawHosts(t)
		bookings := drawBookings(t, hosts)
		r := drawRequest(t, 6)
		p1, e1 := New(hosts, bookings).Plan(r)
		rng := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
		hosts, bookings = slices.Clone(hosts), slices.Clone(bookings)
		rng.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
		rng.Shuffle(len(bookings), func(i, j int) { bookings[i], bookings[j] = bookings[j], bookings[i] })
		p2, e2 := New(hosts, bookings).Plan(r)
		if d := cmp.Diff(p1, p2); d != "" || fmt.Sprint(e1) != fmt.Sprint(e2) {
			t.Fatalf("%s\n%v\n%v", d, e1, e2)
		}
	})
}
