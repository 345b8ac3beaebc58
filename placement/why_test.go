package placement

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestWhyTellsOfTheHostAndOfThoseThatWerePassed(t *testing.T) {
	hosts := append(lab(), Host{ID: "c4", Compute: true, CPUs: 8, MemoryBytes: 16 * gib, Unusable: "cordoned"})
	inv := New(hosts, []Booking{
		{Host: "c1", From: hour(12), Until: hour(13), CPUs: 8},
		{Host: "c2", From: hour(9), Until: hour(10), CPUs: 2}})
	for _, tc := range []struct {
		policy Policy
		why    string
		passed []string
	}{
		{Spread, "compute-0 (4 cores, 8 GiB) is on host c3, the emptiest of 2 usable compute hosts with room (50% booked with it), in a failure domain with 0 of its workers before it; " +
			"its volume (40 GiB) is on host s1, the only usable storage host with room",
			[]string{"c2: fuller: 75% booked with it, not 50%", "c1: full, short by 4 cores at 2026-12-01 12:00", "c4: not usable (cordoned)"}},
		{Pack, "compute-0 (4 cores, 8 GiB) is on host c2, the fullest of 2 usable compute hosts with room (75% booked with it), in a failure domain with 0 of its workers before it; " +
			"its volume (40 GiB) is on host s1, the only usable storage host with room",
			[]string{"c3: emptier: 50% booked with it, not 75%", "c1: full, short by 4 cores at 2026-12-01 12:00", "c4: not usable (cordoned)"}},
	} {
		r := request(1, tc.policy)
		p, err := inv.Plan(r)
		if err != nil {
			t.Fatal(err)
		}
		why, passed := inv.Why(r, p, 1)
		if why != tc.why {
			t.Errorf("got %s\nwant %s", why, tc.why)
		}
		if d := cmp.Diff(tc.passed, passed); d != "" {
			t.Error(d)
		}
	}
	r := request(1, Spread)
	p := Plan{Nodes: []Assigned{{"frontend", "g1", "s1"}, {"compute-0", "c1", "gone"}}}
	why, _ := inv.Why(r, p, 1)
	for _, part := range []string{"would not be put there now", "gone, which is not known any more"} {
		if !strings.Contains(why, part) {
			t.Errorf("%q misses %q", why, part)
		}
	}
}

func TestWhyNeverDoubtsAPlanOfThePolicysOwnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := drawHosts(t)
		inv := New(hosts, drawBookings(t, hosts))
		r := drawRequest(t, 6)
		rooms := inv.rooms(&r)
		a := inv.attempt(&r, rooms, r.Policy, -1, false)
		if !a.complete() {
			return
		}
		for i := range r.Nodes {
			why, _ := inv.Why(r, a.plan(), i)
			if strings.Contains(why, "alone") || strings.Contains(why, "now") {
				t.Fatal(why)
			}
		}
	})
}
