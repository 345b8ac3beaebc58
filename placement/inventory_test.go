package placement

import (
	"errors"
	"fmt"
	"math/rand"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestFreeOverIsTheSumOfWhatHostsHaveFree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts, bookings, r := drawCalendar(t, 1)
		steps := New(hosts, bookings).FreeOver(r.From, r.Until)
		for at := r.From; at.Before(r.Until); at = at.Add(30 * time.Minute) {
			want := FreeStep{}
			for _, h := range hosts {
				c, m, s := heldAt(bookings, h.ID, at)
				if h.Compute && h.Unusable == "" {
					want.CPUs, want.MemoryBytes = want.CPUs+max(h.CPUs-c, 0), want.MemoryBytes+max(h.MemoryBytes-m, 0)
				}
				if h.Storage && h.Unusable == "" {
					want.StorageBytes += max(h.StorageBytes-s, 0)
				}
			}
			i, _ := slices.BinarySearchFunc(steps, at.Add(1), func(s FreeStep, t time.Time) int { return s.From.Compare(t) })
			got := steps[i-1]
			want.From = got.From
			if got != want {
				t.Fatalf("at %v: %+v, want %+v", at, got, want)
			}
		}
	})
}

func TestAddThenRemoveLeavesEverythingAsBefore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts, bookings, _ := drawCalendar(t, 1)
		more := drawBookings(t, hosts)
		inv := New(hosts, bookings)
		before := inv.Clone()
		inv.Add(more...)
		both := New(hosts, append(slices.Clone(bookings), more...))
		if !reflect.DeepEqual(inv.lines, both.lines) {
			t.Fatalf("added: %v, want %v", inv.lines, both.lines)
		}
		slices.Reverse(more)
		inv.Remove(more...)
		for i := range inv.lines {
			if !slices.Equal(inv.lines[i].steps, before.lines[i].steps) {
				t.Fatalf("%s: %v, want %v", hosts[i].ID, inv.lines[i].steps, before.lines[i].steps)
			}
		}
	})
}

func TestManyBookingsAtOnceAreAsOneByOne(t *testing.T) {
	_, bs, _ := randomCalendar(7)
	all, _, _ := randomCalendar(7)
	one := New(all.hosts, nil)
	for _, b := range bs {
		one.Add(b)
	}
	if !reflect.DeepEqual(all.lines, one.lines) {
		t.Error("timelines differ")
	}
	all.Remove(bs...)
	for i, l := range all.lines {
		if len(l.steps) != 0 {
			t.Errorf("%s keeps %v", all.hosts[i].ID, l.steps)
		}
	}
}

func TestALookupFindsTheStepThatHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var steps []Step
		at := int64(0)
		for _, d := range rapid.SliceOfN(rapid.Int64Range(1, 1<<40), 0, 40).Draw(t, "gaps") {
			at += d >> (d % 40)
			if len(steps) == 0 || steps[len(steps)-1].At < at {
				steps = append(steps, Step{At: at})
			}
		}
		line := lineOf(steps)
		for _, q := range append([]int64{-1, 0, at, at + 1, rapid.Int64Range(0, at+1).Draw(t, "at")}, func() (out []int64) {
			for _, s := range steps {
				out = append(out, s.At-1, s.At, s.At+1)
			}
			return
		}()...) {
			want := -1
			for i, s := range steps {
				if s.At <= q {
					want = i
				}
			}
			if got := line.find(q); got != want {
				t.Fatalf("find(%d) = %d, want %d in %v", q, got, want, steps)
			}
		}
	})
}

func TestACloneAndItsOriginalDoNotShowInEachOther(t *testing.T) {
	inv, bs, r := randomCalendar(3)
	r = alike(r)
	r.Nodes = r.Nodes[:1]
	want, wantErr := inv.Plan(r)
	clone, hosts := inv.Clone(), inv.hosts
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for range 50 {
				p, err := clone.Plan(r)
				if !cmp.Equal(p, want) || fmt.Sprint(err) != fmt.Sprint(wantErr) {
					t.Errorf("the clone answers %v, %v", p, err)
				}
				_, _, _ = clone.Earliest(r, r.From.Add(time.Hour))
			}
		})
	}
	for i := range 50 {
		inv.Remove(bs[i])
		inv.SetSteps("h3", []Step{{At: nanos(nine), CPUs: 16}, {At: nanos(hour(99))}})
		inv.SetHosts(hosts[i%5:])
		inv.Add(bs[i : i+40]...)
	}
	readers.Wait()
	before := slices.Clone(inv.lines)
	other := inv.Clone()
	other.Remove(bs...)
	if !reflect.DeepEqual(inv.lines, before) {
		t.Error("a change of the clone shows in the original")
	}
}

func TestTimelinesTakenOverAnswerAsBookings(t *testing.T) {
	inv, _, r := randomCalendar(5)
	steps := map[string][]Step{"nowhere": {{At: 1, CPUs: 1}}}
	for i, h := range inv.hosts {
		steps[h.ID] = slices.Clone(inv.lines[i].steps)
		rand.New(rand.NewSource(1)).Shuffle(len(steps[h.ID]), func(a, b int) {
			steps[h.ID][a], steps[h.ID][b] = steps[h.ID][b], steps[h.ID][a]
		})
	}
	got := FromSteps(inv.hosts, steps)
	if !reflect.DeepEqual(got.lines, inv.lines) {
		t.Fatal("timelines differ")
	}
	a, _, e1 := inv.Earliest(r, r.From.Add(time.Hour))
	b, _, e2 := got.Earliest(r, r.From.Add(time.Hour))
	if !a.Equal(b) || fmt.Sprint(e1) != fmt.Sprint(e2) {
		t.Errorf("%v, %v; want %v, %v", b, e2, a, e1)
	}
}

func TestIdentifiersAreNeverOverbooked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := rapid.IntRange(0, 3).Draw(t, "pool")
		hosts := append(drawHosts(t), Host{ID: IdentifiersHost, Clusters: pool, Gateway: true, Compute: true, Storage: true, CPUs: 99})
		inv := New(hosts, nil)
		held := map[int]int{}
		for range rapid.IntRange(1, 12).Draw(t, "requests") {
			r := drawRequest(t, 2)
			r.Clusters = 1
			at, p, err := inv.Earliest(r, r.From.Add(10*time.Hour))
			if err != nil {
				continue
			}
			checkClasses(t, hosts[:len(hosts)-1], r, p)
			r = moved(r, at)
			inv.Add(p.Bookings(r)...)
			for h := int(r.From.Sub(hour(0)) / time.Hour); hour(h).Before(r.Until); h++ {
				if held[h]++; held[h] > pool {
					t.Fatalf("%d clusters at %v of %d", held[h], hour(h), pool)
				}
			}
		}
	})
}

func TestWithoutAPoolNothingBoundsIdentifiers(t *testing.T) {
	r := request(1, Spread)
	r.Clusters = 1
	inv := New(lab(), []Booking{{Host: IdentifiersHost, From: hour(0), Until: hour(20), Clusters: 99}})
	p, err := inv.Plan(r)
	if err != nil {
		t.Fatal(err)
	}
	if b := p.Bookings(r); b[0].Host != IdentifiersHost || b[0].Clusters != 1 || b[0].CPUs != 0 {
		t.Errorf("books %+v", b)
	}
}

func TestPinnedNodesGoWhereTheyMustOrSayWhyNot(t *testing.T) {
	hosts := lab()
	hosts[3].Unusable = "cordoned"
	inv := New(hosts, []Booking{{Host: "c2", From: hour(12), Until: hour(13), CPUs: 6}})
	for pin, want := range map[string]string{
		"c1":    "",
		"c2":    "compute: node compute-0 (4 cores, 8 GiB) is bound to host c2, which has 2 cores, 16 GiB free from 2026-12-01 09:00 to 17:00 UTC (short by 2 cores at 2026-12-01 12:00)",
		"c3":    "compute: node compute-0 is bound to host c3, which is not usable (cordoned)",
		"g1":    "compute: node compute-0 is bound to host gate, which is no compute host",
		"ghost": "compute: node compute-0 is bound to host ghost, which is not known",
	} {
		r := request(1, Spread)
		r.Nodes[1].Host, r.Nodes[1].Storage = pin, "s1"
		p, err := inv.Plan(r)
		var no *NoFit
		switch {
		case want == "" && (err != nil || p.Nodes[1].Host != pin):
			t.Errorf("%s: %v, %v", pin, p, err)
		case want != "" && (!errors.As(err, &no) || no.Reasons[0] != want):
			t.Errorf("%s: %v, want %s", pin, err, want)
		}
	}
	r := request(1, Spread)
	r.Nodes[1].Host = "c2"
	if at, _, err := inv.Earliest(r, hour(20)); err != nil || !at.Equal(hour(13)) {
		t.Errorf("the pinned node starts at %v, %v", at, err)
	}
	r.Nodes[1].Host, r.Nodes[1].Storage = "", "c1"
	if _, err := inv.Plan(r); err == nil {
		t.Error("a volume is on a host without storage")
	}
}

func TestShortagesNameTheBindingConstraint(t *testing.T) {
	hosts := append(lab(), Host{ID: IdentifiersHost, Clusters: 2})
	inv := New(hosts, []Booking{
		{Host: IdentifiersHost, From: hour(10), Until: hour(11), Clusters: 2},
		{Host: "c1", From: hour(9), Until: hour(17), CPUs: 8}, {Host: "c3", From: hour(9), Until: hour(17), CPUs: 8},
		{Host: "c2", From: hour(12), Until: hour(13), CPUs: 5, MemoryBytes: 9 * gib}})
	r := request(1, Spread)
	r.Clusters = 1
	_, err := inv.Plan(r)
	var no *NoFit
	if !errors.As(err, &no) {
		t.Fatal(err)
	}
	want := []Shortage{
		{"identifiers", r.From, r.Until, hour(10), Identifiers, 1, 1, 1},
		{"compute", r.From, r.Until, hour(12), Cores, 1, 1, 1},
	}
	if d := cmp.Diff(want, no.Shortages); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if want := "identifiers: all 2 are taken from 2026-12-01 09:00 to 17:00 UTC (short by 1 at 2026-12-01 10:00)"; no.Reasons[0] != want {
		t.Errorf("got %s", no.Reasons[0])
	}
}

func TestQuestionsThatMakeNoSenseAreInvalid(t *testing.T) {
	inv, r := New(lab(), nil), request(1, Spread)
	_, _, early := inv.Earliest(r, r.From.Add(-1))
	_, _, long := inv.Longest(r, 9*time.Hour)
	_, _, none := inv.Longest(r, 0)
	_, _, range_ := inv.Most(r, func(int) Request { return r }, 2, 1)
	two := r
	two.Clusters = 2
	_, many := inv.Plan(two)
	far := r
	far.Until = time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)
	_, late := inv.Plan(far)
	for i, err := range []error{early, long, none, range_, many, late} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%d: %v", i, err)
		}
	}
}
