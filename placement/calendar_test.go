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

// drawCalendar is a small world: hosts (sometimes with a pool of identifiers),
// bookings and a request, sometimes with pins.
func drawCalendar(t *rapid.T, nodesMax int) ([]Host, []Booking, Request) {
	hosts := drawHosts(t)
	bookings := drawBookings(t, hosts)
	if rapid.Bool().Draw(t, "pool") {
		hosts = append(hosts, Host{ID: IdentifiersHost, Clusters: rapid.IntRange(0, 2).Draw(t, "clusters")})
		for range rapid.IntRange(0, 4).Draw(t, "held") {
			bookings = append(bookings, Booking{Host: IdentifiersHost, From: hour(rapid.IntRange(0, 12).Draw(t, "from")), Until: hour(rapid.IntRange(0, 12).Draw(t, "until")), Clusters: 1})
		}
	}
	r := drawRequest(t, nodesMax)
	r.Clusters = rapid.IntRange(0, 1).Draw(t, "cluster")
	for i := range r.Nodes {
		if rapid.IntRange(0, 9).Draw(t, "pinned") == 0 {
			r.Nodes[i].Host = rapid.SampledFrom(hosts).Draw(t, "pin").ID
		}
		if rapid.IntRange(0, 9).Draw(t, "pinned volume") == 0 {
			r.Nodes[i].Storage = rapid.SampledFrom(hosts).Draw(t, "pin").ID
		}
	}
	return hosts, bookings, r
}

// alike makes all nodes of r workers of one shape without pins, so that any
// order of laying is as good as another.
func alike(r Request) Request {
	r.Nodes = slices.Clone(r.Nodes)
	for i := range r.Nodes {
		name := r.Nodes[i].Name
		r.Nodes[i] = r.Nodes[0]
		r.Nodes[i].Name, r.Nodes[i].Frontend, r.Nodes[i].Host, r.Nodes[i].Storage = name, false, "", ""
	}
	return r
}

// freeBy is what hosts have free over a slot, by a plain scan of all bookings.
func freeBy(hosts []Host, bookings []Booking, from, until time.Time) []amounts {
	index, caps := map[string]int{}, []amounts{}
	for i, h := range hosts {
		index[h.ID] = i
		caps = append(caps, amounts{int64(h.CPUs), h.MemoryBytes, h.StorageBytes, int64(h.Clusters)})
	}
	return scanFree(index, caps, bookings, from, until)
}

// anyAssignment tries every host for every node, and every store for every
// volume.
func anyAssignment(hosts []Host, bookings []Booking, r Request) bool {
	free := freeBy(hosts, bookings, r.From, r.Until)
	for i, h := range hosts {
		if h.ID == IdentifiersHost && r.Clusters > 0 && free[i][clusters] < 1 {
			return false
		}
	}
	var lay func(k int, volumes bool) bool
	lay = func(k int, volumes bool) bool {
		if k == len(r.Nodes) {
			return volumes || lay(0, true)
		}
		n := r.Nodes[k]
		need, pin := amounts{int64(n.CPUs), n.MemoryBytes}, n.Host
		if volumes {
			need, pin = amounts{0, 0, n.DiskBytes}, n.Storage
		}
		for i, h := range hosts {
			ok := h.Unusable == "" && h.ID != IdentifiersHost && (pin == "" || pin == h.ID)
			if volumes {
				ok = ok && h.Storage && need[disk] <= free[i][disk]
			} else {
				ok = ok && ((n.Frontend && h.Gateway) || (!n.Frontend && h.Compute)) && need[cpus] <= free[i][cpus] && need[memory] <= free[i][memory]
			}
			if ok {
				free[i] = free[i].minus(need)
				done := lay(k+1, volumes)
				free[i] = free[i].plus(need)
				if done {
					return true
				}
			}
		}
		return false
	}
	return lay(0, false)
}

// allEnds are the ends of bookings after from, in order.
func allEnds(bookings []Booking, from, last time.Time) []time.Time {
	out := []time.Time{from}
	for _, b := range bookings {
		if b.From.Before(b.Until) && b.Until.After(from) && !b.Until.After(last) {
			out = append(out, b.Until)
		}
	}
	slices.SortFunc(out, time.Time.Compare)
	return slices.CompactFunc(out, time.Time.Equal)
}

func moved(r Request, from time.Time) Request {
	r.Until = from.Add(r.Until.Sub(r.From))
	r.From = from
	return r
}

// checkRoom fails if a host cannot carry what is added of it.
func checkRoom(t *rapid.T, hosts []Host, bookings, added []Booking) {
	for _, b := range added {
		free := freeBy(hosts, append(slices.Clone(bookings), added...), b.From, b.Until)
		for i, h := range hosts {
			for x, n := range b.amounts() {
				if h.ID == b.Host && n > 0 && free[i][x] < 0 {
					t.Fatalf("%s is short of %d %s under %+v", h.ID, -free[i][x], resourceNames[x], b)
				}
			}
		}
	}
}

func TestEarliestIsTheFirstStartAtWhichAnyAssignmentFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts, bookings, r := drawCalendar(t, 3)
		r = alike(r)
		last := r.From.Add(time.Duration(rapid.IntRange(0, 14).Draw(t, "last")) * time.Hour)
		var want time.Time
		for at := r.From; !at.After(last); at = at.Add(30 * time.Minute) {
			if anyAssignment(hosts, bookings, moved(r, at)) {
				want = at
				break
			}
		}
		at, p, err := New(hosts, bookings).Earliest(r, last)
		if err == nil {
			checkRoom(t, hosts, bookings, p.Bookings(moved(r, at)))
		}
		if !at.Equal(want) {
			t.Fatalf("earliest %v (%v), want %v", at, err, want)
		}
	})
}

func TestEarliestIsTheFirstEndAtWhichPlanSucceeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts, bookings, r := drawCalendar(t, 6)
		last := r.From.Add(time.Duration(rapid.IntRange(0, 14).Draw(t, "last")) * time.Hour)
		inv := New(hosts, bookings)
		var want time.Time
		for _, at := range allEnds(bookings, r.From, last) {
			if _, err := inv.Plan(moved(r, at)); err == nil {
				want = at
				break
			}
		}
		at, p, err := inv.Earliest(r, last)
		if !at.Equal(want) {
			t.Fatalf("earliest %v (%v), want %v", at, err, want)
		}
		var no *NoFit
		if err != nil && (!errors.As(err, &no) || len(no.Shortages) != len(no.Reasons) || len(no.Reasons) == 0) {
			t.Fatalf("refused with %v", err)
		}
		if err == nil {
			checkClasses(t, hosts, r, p)
			checkRoom(t, hosts, bookings, p.Bookings(moved(r, at)))
			again, _ := inv.Plan(moved(r, at))
			if d := cmp.Diff(again, p); d != "" {
				t.Fatalf("another plan than Plan's: %s", d)
			}
		}
	})
}

// randomCalendar is larger: 30 hosts, hundreds of bookings of odd lengths.
func randomCalendar(seed int64) (*Inventory, []Booking, Request) {
	rng := rand.New(rand.NewSource(seed))
	hosts := []Host{{ID: IdentifiersHost, Clusters: 12}}
	for i := range 30 {
		hosts = append(hosts, Host{ID: fmt.Sprintf("h%d", i), Gateway: i%5 == 0, Compute: i%7 != 0, Storage: i%4 == 0, CPUs: 16, MemoryBytes: 64, StorageBytes: 200})
	}
	var bs []Booking
	for range 300 + rng.Intn(600) {
		from := nine.Add(time.Duration(rng.Intn(1000)) * time.Second)
		bs = append(bs, Booking{Host: hosts[rng.Intn(len(hosts))].ID, From: from, Until: from.Add(time.Duration(1+rng.Intn(150)) * time.Second),
			CPUs: rng.Intn(8), MemoryBytes: int64(rng.Intn(30)), StorageBytes: int64(rng.Intn(60)), Clusters: rng.Intn(3)})
	}
	r := Request{From: nine.Add(time.Duration(rng.Intn(500)) * time.Second), Clusters: rng.Intn(2)}
	r.Until = r.From.Add(time.Duration(1+rng.Intn(300)) * time.Second)
	shapes := 1 + rng.Intn(3)
	for i := range 2 + rng.Intn(70) {
		s := i % shapes
		r.Nodes = append(r.Nodes, NodeRequest{Name: fmt.Sprint(i), Frontend: i == 0 && rng.Intn(2) == 0, CPUs: 2 + 2*s, MemoryBytes: int64(8 + 4*s), DiskBytes: int64(10 * s)})
	}
	return New(hosts, bs), bs, r
}

func TestEarliestAgreesWithPlanAtEveryEndOfALargerCalendar(t *testing.T) {
	later, never := 0, 0
	for seed := range int64(300) {
		inv, bs, r := randomCalendar(seed)
		last := r.From.Add(time.Duration(100+seed) * time.Second)
		var want time.Time
		for _, at := range allEnds(bs, r.From, last) {
			if _, err := inv.Plan(moved(r, at)); err == nil {
				want = at
				break
			}
		}
		at, _, err := inv.Earliest(r, last)
		if !at.Equal(want) {
			t.Fatalf("seed %d: earliest %v (%v), want %v", seed, at, err, want)
		}
		if want.IsZero() {
			never++
		} else if want.After(r.From) {
			later++
		}
	}
	if later < 15 || never < 15 {
		t.Errorf("%d found later, %d never: the calendars test too little", later, never)
	}
}

func TestEarliestGivesUpOnlyBySayingFromWhereToAskAgain(t *testing.T) {
	inv, r := adversary(100, 100*90)
	end := nine.Add(1000 * 24 * time.Hour)
	asked := 0
	for {
		at, _, err := inv.Earliest(r, end)
		var no *NoFit
		if err != nil && !errors.As(err, &no) {
			t.Fatalf("%v has no reasons", err)
		}
		var later *Undecided
		if !errors.As(err, &later) {
			if err != nil || asked == 0 {
				t.Fatalf("after %d questions: %v", asked, err)
			}
			// When the last bookings have ended there is room.
			if _, err := inv.Plan(moved(r, at.Add(-time.Minute))); err == nil {
				t.Errorf("%v is not the earliest", at)
			}
			return
		}
		if !later.Before.After(r.From) {
			t.Fatalf("no progress: %v", later)
		}
		r = moved(r, later.Before)
		asked++
	}
}

func TestLongestIsTheLatestEndThatFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts, bookings, r := drawCalendar(t, 5)
		length := r.Until.Sub(r.From)
		min := time.Duration(rapid.IntRange(1, int(length/time.Hour)).Draw(t, "min")) * time.Hour
		inv := New(hosts, bookings)
		var want time.Time
		for until := r.Until; !until.Before(r.From.Add(min)); until = until.Add(-30 * time.Minute) {
			q := r
			q.Until = until
			if _, err := inv.Plan(q); err == nil {
				want = until
				break
			}
		}
		until, p, err := inv.Longest(r, min)
		if !until.Equal(want) {
			t.Fatalf("longest until %v (%v), want %v", until, err, want)
		}
		if err == nil {
			checkClasses(t, hosts, r, p)
			q := r
			q.Until = until
			checkRoom(t, hosts, bookings, p.Bookings(q))
		}
	})
}

func TestMostIsTheLargestCountThatFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts, bookings, r := drawCalendar(t, 1)
		r = alike(r)
		inv := New(hosts, bookings)
		of := func(n int) Request {
			var q Request // its slot and clusters are r's
			for i := range n {
				q.Nodes = append(q.Nodes, r.Nodes[0])
				q.Nodes[i].Name = fmt.Sprint(i)
			}
			return q
		}
		lo, hi, want := rapid.IntRange(1, 4).Draw(t, "lo"), rapid.IntRange(4, 30).Draw(t, "hi"), 0
		for n := lo; n <= hi; n++ {
			q := of(n)
			q.From, q.Until, q.Clusters = r.From, r.Until, r.Clusters
			if _, err := inv.Plan(q); err == nil {
				want = n
			}
		}
		n, p, err := inv.Most(r, of, lo, hi)
		var no *NoFit
		if n != want || len(p.Nodes) != want || (want == 0) != errors.As(err, &no) {
			t.Fatalf("most %d (%d nodes, %v), want %d", n, len(p.Nodes), err, want)
		}
	})
}

func TestExtendStopsWhereAScanFindsAHostFull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := drawHosts(t)
		bookings := drawBookings(t, hosts)
		held := drawBookings(t, hosts)[:0]
		for range rapid.IntRange(1, 3).Draw(t, "held") {
			held = append(held, Booking{Host: rapid.SampledFrom(hosts).Draw(t, "host").ID, From: hour(2), Until: hour(rapid.IntRange(3, 8).Draw(t, "end")),
				CPUs: rapid.IntRange(0, 3).Draw(t, "cpus"), MemoryBytes: rapid.Int64Range(0, 3).Draw(t, "memory"), StorageBytes: rapid.Int64Range(0, 3).Draw(t, "storage")})
		}
		all, to := append(bookings, held...), hour(rapid.IntRange(2, 13).Draw(t, "to"))
		want, blocked := to, []Block(nil)
		for at := hour(3); at.Before(to) && blocked == nil; at = at.Add(30 * time.Minute) {
			longer := map[string]amounts{}
			for _, b := range held {
				if !at.Before(b.Until) {
					longer[b.Host] = longer[b.Host].plus(b.amounts())
				}
			}
			for _, h := range hosts {
				c, m, s := heldAt(all, h.ID, at)
				for x, n := range []int64{int64(c - h.CPUs), m - h.MemoryBytes, s - h.StorageBytes} {
					if more := longer[h.ID][x]; more > 0 && n+more > 0 {
						want, blocked = at, append(blocked, Block{h.ID, at, resourceNames[x], n + more})
					}
				}
			}
		}
		until, blocks := New(hosts, all).Extend(held, to)
		if !until.Equal(want) || !cmp.Equal(blocks, blocked) {
			t.Fatalf("until %v, want %v; %s", until, want, cmp.Diff(blocked, blocks))
		}
	})
}
