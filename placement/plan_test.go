package placement

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const gib = 1 << 30

var nine = time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC)

func hour(n int) time.Time { return nine.Add(time.Duration(n-9) * time.Hour) }

// lab is one gateway, three compute hosts in two failure domains, one store.
func lab() []Host {
	return []Host{
		{ID: "g1", Name: "gate", Gateway: true, CPUs: 4, MemoryBytes: 8 * gib},
		{ID: "c1", Compute: true, FailureDomain: "a", CPUs: 8, MemoryBytes: 16 * gib},
		{ID: "c2", Compute: true, FailureDomain: "a", CPUs: 8, MemoryBytes: 16 * gib},
		{ID: "c3", Compute: true, FailureDomain: "b", CPUs: 8, MemoryBytes: 16 * gib},
		{ID: "s1", Storage: true, StorageBytes: 1000 * gib},
	}
}

func request(workers int, policy Policy) Request {
	r := Request{From: hour(9), Until: hour(17), Policy: policy,
		Nodes: []NodeRequest{{Name: "frontend", Frontend: true, CPUs: 2, MemoryBytes: 2 * gib, DiskBytes: 40 * gib}}}
	for i := range workers {
		r.Nodes = append(r.Nodes, NodeRequest{Name: fmt.Sprintf("compute-%d", i), CPUs: 4, MemoryBytes: 8 * gib, DiskBytes: 40 * gib})
	}
	return r
}

func hostsOf(p Plan) string {
	var out []string
	for _, n := range p.Nodes {
		out = append(out, n.Host)
	}
	return strings.Join(out, " ")
}

func TestPlanPlacesBy(t *testing.T) {
	for _, tc := range []struct {
		name     string
		bookings []Booking
		hosts    func([]Host)
		req      Request
		want     string // hosts, in the order of nodes
	}{
		{name: "spread: one worker on each host, domains apart", req: request(3, Spread), want: "g1 c1 c3 c2"},
		{name: "spread: two workers in two failure domains", req: request(2, Spread), want: "g1 c1 c3"},
		{name: "an empty policy is spread", req: request(2, ""), want: "g1 c1 c3"},
		{name: "pack: fills a host before it takes the next", req: request(3, Pack), want: "g1 c1 c1 c3"},
		{name: "pack: the host that is used already", req: request(1, Pack),
			bookings: []Booking{{"c2", hour(9), hour(17), 4, 8 * gib, 0, 0}}, want: "g1 c2"},
		{name: "spread: away from the host that is used", req: request(1, Spread),
			bookings: []Booking{{"c1", hour(9), hour(17), 4, 8 * gib, 0, 0}}, want: "g1 c2"},
		{name: "a booking that ends as the slot begins is not in the way", req: request(6, Pack),
			bookings: []Booking{{"c1", hour(1), hour(9), 8, 16 * gib, 0, 0}}, want: "g1 c1 c1 c3 c3 c2 c2"},
		{name: "a booking that begins as the slot ends is not in the way", req: request(6, Pack),
			bookings: []Booking{{"c1", hour(17), hour(20), 8, 16 * gib, 0, 0}}, want: "g1 c1 c1 c3 c3 c2 c2"},
		{name: "a short booking in the middle keeps a host out", req: request(1, Pack),
			bookings: []Booking{{"c1", hour(12), hour(13), 5, 0, 0, 0}}, want: "g1 c2"},
		{name: "bookings one after another do not add up", req: request(5, Pack),
			bookings: []Booking{
				{"c2", hour(12), hour(17), 4, 0, 0, 0}, {"c2", hour(9), hour(12), 4, 0, 0, 0},
				{"g1", hour(9), hour(13), 2, 0, 0, 0}, {"g1", hour(13), hour(17), 2, 0, 0, 0}},
			want: "g1 c2 c3 c3 c1 c1"},
		{name: "a store whose cores and memory are overbooked takes volumes", req: request(1, Spread),
			bookings: []Booking{{"s1", hour(9), hour(17), 1, gib, 0, 0}}, want: "g1 c1"},
		{name: "hosts whose storage is overbooked take nodes", req: request(1, Pack),
			bookings: []Booking{{"c1", hour(9), hour(17), 4, 0, gib, 0}, {"g1", hour(9), hour(17), 0, 0, gib, 0}}, want: "g1 c1"},
		{name: "hosts that may not be used are left out", req: request(2, Spread),
			hosts: func(h []Host) { h[3].Unusable = "cordoned" }, want: "g1 c1 c2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hosts := lab()
			if tc.hosts != nil {
				tc.hosts(hosts)
			}
			p, err := New(hosts, tc.bookings).Plan(tc.req)
			if err != nil {
				t.Fatal(err)
			}
			if got := hostsOf(p); got != tc.want {
				t.Errorf("hosts %s, want %s", got, tc.want)
			}
			for _, n := range p.Nodes {
				if n.Storage != "s1" {
					t.Errorf("%s's volume is on %q", n.Node, n.Storage)
				}
			}
		})
	}
}

func TestPlanFindsTheGatewayThatLeavesRoomForWorkers(t *testing.T) {
	r := Request{From: hour(9), Until: hour(10), Nodes: []NodeRequest{
		{Name: "frontend", Frontend: true, CPUs: 1, MemoryBytes: gib, DiskBytes: gib},
		{Name: "compute-0", CPUs: 8, MemoryBytes: gib, DiskBytes: gib}}}
	// With a small b spreading would take a, with a large one packing would.
	for _, cpus := range []int{4, 64} {
		hosts := []Host{
			{ID: "a", Gateway: true, Compute: true, Storage: true, CPUs: 8, MemoryBytes: 64 * gib, StorageBytes: 999 * gib},
			{ID: "b", Gateway: true, CPUs: cpus, MemoryBytes: int64(cpus) * gib},
		}
		for _, policy := range []Policy{Spread, Pack} {
			r.Policy = policy
			p, err := New(hosts, nil).Plan(r)
			if err != nil || hostsOf(p) != "b a" {
				t.Errorf("%s, %d cores: %v, %v", policy, cpus, p, err)
			}
		}
	}
}

func TestPlanFitsMixedShapes(t *testing.T) {
	for _, tc := range []struct {
		name   string
		policy Policy
		host   int // cores of each of two hosts
		nodes  []int
	}{
		{"spread falls back to packing", Spread, 6, []int{3, 3, 2, 2, 2}},
		{"large before small", Pack, 4, []int{1, 1, 3, 3}},
	} {
		hosts := []Host{{ID: "a", Compute: true, Storage: true, CPUs: tc.host}, {ID: "b", Compute: true, CPUs: tc.host}}
		r := Request{From: hour(9), Until: hour(10), Policy: tc.policy}
		for i, n := range tc.nodes {
			r.Nodes = append(r.Nodes, NodeRequest{Name: fmt.Sprint(i), CPUs: n})
		}
		if _, err := New(hosts, nil).Plan(r); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestNoFitExplains(t *testing.T) {
	for _, tc := range []struct {
		name     string
		hosts    []Host
		bookings []Booking
		req      Request
		want     []string
	}{
		{"workers that find no host, beside the largest free one", lab(), []Booking{
			{"c1", hour(9), hour(17), 8, 0, 0, 0}, {"c3", hour(9), hour(17), 8, 0, 0, 0}, {"c2", hour(12), hour(13), 2, 6 * gib, 0, 0},
		}, request(3, Spread), []string{
			"compute: 2 of 3 workers (4 cores, 8 GiB) have no host from 2026-12-01 09:00 to 17:00 UTC; largest free: host c2, 2 cores, 2 GiB (short by 2 cores at 2026-12-01 12:00, 6 GiB at 2026-12-01 12:00)"}},
		{"each class that is short", lab()[1:2], nil, request(5, Pack), []string{
			"gateway: 1 of 1 frontend (2 cores, 2 GiB) has no host from 2026-12-01 09:00 to 17:00 UTC; there is no usable gateway host",
			"compute: 3 of 5 workers (4 cores, 8 GiB) have no host from 2026-12-01 09:00 to 17:00 UTC; largest free: host c1, 0 cores, 0 B (short by 4 cores, 8 GiB)",
			"storage: 6 of 6 volumes (40 GiB) have no host from 2026-12-01 09:00 to 17:00 UTC; there is no usable storage host"}},
		{"hosts that may not be used", []Host{
			{ID: "x", Name: "gate", Gateway: true, Storage: true, CPUs: 8, MemoryBytes: 8 * gib, StorageBytes: 999 * gib, Unusable: "dead"},
			{ID: "y", Storage: true, StorageBytes: 999 * gib},
		}, nil, request(0, Spread), []string{
			"gateway: 1 of 1 frontend (2 cores, 2 GiB) has no host from 2026-12-01 09:00 to 17:00 UTC; there is no usable gateway host; not used: gate (dead)"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := New(tc.hosts, tc.bookings).Plan(tc.req)
			var no *NoFit
			if !errors.As(err, &no) {
				t.Fatalf("got %v", err)
			}
			if d := cmp.Diff(tc.want, no.Reasons); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func TestPlanRefusesNonsense(t *testing.T) {
	for name, change := range map[string]func(*Request){
		"until before from":   func(r *Request) { r.Until = r.From },
		"no nodes":            func(r *Request) { r.Nodes = nil },
		"a name twice":        func(r *Request) { r.Nodes[1].Name = r.Nodes[0].Name },
		"no name":             func(r *Request) { r.Nodes[1].Name = "" },
		"negative cores":      func(r *Request) { r.Nodes[1].CPUs = -1 },
		"absurd memory":       func(r *Request) { r.Nodes[1].MemoryBytes = 1 << 60 },
		"an unknown policy":   func(r *Request) { r.Policy = "scatter" },
		"more nodes than may": func(r *Request) { r.Nodes = make([]NodeRequest, NodesMax+1) },
	} {
		t.Run(name, func(t *testing.T) {
			r := request(2, Spread)
			change(&r)
			if _, err := New(lab(), nil).Plan(r); !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestEarliestWaitsForTheFirstEndThatHelps(t *testing.T) {
	inv := New(lab(), []Booking{
		{"g1", hour(8), hour(11), 4, gib, 0, 0},  // frontend must wait until 11
		{"c1", hour(8), hour(10), 8, gib, 0, 0},  // ends, and does not help
		{"g1", hour(12), hour(13), 4, gib, 0, 0}, // 11-12 is too short
	})
	r := request(1, Spread)
	r.Until = r.From.Add(2 * time.Hour)
	at, p, err := inv.Earliest(r, hour(20))
	if err != nil || !at.Equal(hour(13)) || len(p.Nodes) != 2 {
		t.Fatalf("got %v, %v, %v; want 13:00", at, p, err)
	}
	if at, _, err := inv.Earliest(r, hour(12)); err == nil {
		t.Errorf("found %v after the last start allowed", at)
	}
	r.From, r.Until = hour(14), hour(15)
	if at, _, err := inv.Earliest(r, hour(20)); err != nil || !at.Equal(hour(14)) {
		t.Errorf("a free time: got %v, %v", at, err)
	}
	r.Nodes = nil
	if _, _, err := inv.Earliest(r, hour(20)); !errors.Is(err, ErrInvalid) {
		t.Errorf("nonsense: %v", err)
	}
}

func TestBookingsOfForeignHostsAndOfNoLengthHoldNothing(t *testing.T) {
	inv := New(lab(), []Booking{{"nowhere", hour(1), hour(20), 99, 0, 0, 0}, {"c1", hour(12), hour(12), 8, 0, 0, 0}, {"c1", hour(13), hour(12), 8, 0, 0, 0}, {"c1", hour(9), hour(17), -5, -1, -1, 0}})
	cpus, mem, _, ok := inv.Free("c1", hour(9), hour(17))
	if !ok || cpus != 8 || mem != 16*gib {
		t.Errorf("c1 has %d cores, %d bytes free", cpus, mem)
	}
	if _, _, _, ok := inv.Free("nowhere", hour(9), hour(17)); ok {
		t.Error("an unknown host has room")
	}
	open := New(lab(), []Booking{{"c1", time.Time{}, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), 8, 0, 0, 0}})
	if cpus, _, _, _ := open.Free("c1", hour(9), hour(17)); cpus != 0 {
		t.Errorf("under an endless booking %d cores are free", cpus)
	}
}
