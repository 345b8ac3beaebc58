package fsm

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"vcn/api"
)

var yearSeed = flag.Uint64("year.seed", 0, "seed of the busy year; 0: another one each time")

// year is a busy centre with a plain leader: first fit by the timelines, what
// does not fit waits, what is due is bound, promises on dead hosts are moved.
type year struct {
	*world
	t      *testing.T
	rnd    *rand.Rand
	hosts  []string
	seen   map[string]uint64 // version of each host's assignment that it has done
	back   map[string]time.Time
	counts map[string]int
	steps  int
}

const yearHosts = 12

func newYear(t *testing.T, seed uint64) *year {
	y := &year{world: newWorld(t), t: t, rnd: rand.New(rand.NewPCG(seed, 1)), seen: map[string]uint64{},
		back: map[string]time.Time{}, counts: map[string]int{}}
	y.check = false
	init := sampleInit()
	init.Meta.Pools.PublicLast = "192.0.2.250"
	init.Meta.Pools.VLANLast = 299
	y.must(init)
	y.must(Formed{})
	for i := range yearHosts {
		id := fmt.Sprintf("h%02d", i)
		classes := []api.Class{api.ClassCompute, api.ClassStorage}
		if i < 3 {
			classes = append(classes, api.ClassGateway)
		}
		y.must(HostRegister{testHost(id, classes...)})
		y.hosts = append(y.hosts, id)
	}
	return y
}

// fit is the first host of the class that has room for so much all the time.
func (y *year) fit(class api.Class, b Booking) string {
	v := y.f.View()
	at := y.rnd.IntN(len(y.hosts))
	for i := range y.hosts {
		h, _ := v.Host(y.hosts[(at+i)%len(y.hosts)])
		if h.Status != HostAlive || !slices.Contains(h.Classes, class) {
			continue
		}
		have, need := Amounts{h.CPUs, h.MemoryBytes, h.StorageBytes, 0}, b.amounts().plus(v.overrun(h.ID, v.Clock()))
		ok := true
		for s := range within(v.Steps(h.ID), max(b.From.UnixNano(), y.now.UnixNano()), b.Until.UnixNano()) {
			ok = ok && s.Amounts.plus(need).within(have)
		}
		if ok {
			return h.ID
		}
	}
	return ""
}

// seats finds hosts for all nodes, or none. Two nodes may find the same room; the
// state machine refuses what does not fit.
func (y *year) seats(r *Reservation) []Seat {
	var out []Seat
	for i, n := range r.Nodes {
		class := api.ClassCompute
		if i == 0 {
			class = api.ClassGateway
		}
		s := Seat{Storage: n.Storage}
		s.Host = y.fit(class, Booking{From: r.Provision, Until: heldUntil(r), CPUs: n.CPUs, MemoryBytes: n.MemoryBytes})
		if n.Volume == "" {
			s.Storage = y.fit(api.ClassStorage, Booking{From: r.Provision, Until: storageUntil(r), StorageBytes: n.DiskBytes})
		}
		if s.Host == "" || s.Storage == "" {
			return nil
		}
		out = append(out, s)
	}
	return out
}

func (y *year) hours(lo, hi int) time.Duration {
	return time.Duration(lo*60+y.rnd.IntN((hi-lo)*60+1)) * time.Minute
}

// arrive is a new request: booked as asked, or put into the waitlist.
func (y *year) arrive() {
	atEnd, grace := []string{api.EndRelease, api.EndPark}[y.rnd.IntN(2)], time.Duration(y.rnd.IntN(2))*10*time.Minute
	c := y.create(want{name: fmt.Sprint("n", y.serial+1), front: "h00", workers: make([]string, 1+y.rnd.IntN(3)), disks: []string{""},
		in: y.hours(1, 14*24), lead: 10 * time.Minute, so: y.hours(1, 72), cpus: 1 + y.rnd.IntN(4), grace: grace, atEnd: atEnd, warn: []string{"1h", "10m"}})
	for i := range c.Images {
		c.Images[i].Builder = "h00"
	}
	r := &c.Reservations[0]
	r.Spec.AtEnd.ParkFor, r.Spec.AtEnd.Grace = "4d", grace.String()
	seats := y.seats(r)
	for i, s := range seats {
		r.Nodes[i].Host, r.Nodes[i].Storage = s.Host, s.Storage
	}
	if seats != nil {
		if res := y.do(c); res.Err == nil {
			y.counts["booked"]++
			return
		} else if !errors.Is(res.Err, ErrNoCapacity) {
			y.t.Fatal(res.Err)
		}
	}
	r.State, r.Wait = api.StateWaitlisted, &Wait{Earliest: r.Start, Latest: r.Start.Add(48 * time.Hour), Length: r.End.Sub(r.Start)}
	if res := y.do(c); errors.Is(res.Err, ErrQuota) {
		y.counts["turned away"]++
	} else if res.Err != nil {
		y.t.Fatal(res.Err)
	}
	y.counts["waitlisted"]++
}

// lead does what a leader does between two events.
func (y *year) lead() {
	v := y.f.View()
	for _, r := range v.Waitlist() {
		r.Start = r.Wait.Earliest
		if soon := y.now.Add(10 * time.Minute); soon.After(r.Start) {
			r.Start = soon
		}
		r.End, r.Provision = r.Start.Add(r.Wait.Length), r.Start.Add(-10*time.Minute)
		if seats := y.seats(&r); seats != nil && !r.Start.After(r.Wait.Latest) {
			if y.do(ReservationClaim{ID: r.ID, Modified: r.Modified, Start: r.Start, End: r.End, Provision: r.Provision, Lead: 10 * time.Minute, Seats: seats}).Err == nil {
				y.counts["claimed"]++
			}
		}
	}
	for _, r := range v.Reservations(ReservationFilter{}) {
		if r.State != api.StateBooked || !slices.ContainsFunc(r.Conditions, func(c api.Condition) bool { return c.Type == condMissing }) {
			continue
		}
		if seats := y.seats(&r); seats != nil && y.do(ReservationReseat{Moves: []Move{{r.ID, r.Modified, seats}}, Why: "dead host"}).Err == nil {
			y.counts["moved"]++
		}
	}
	for _, r := range y.f.View().ToBind(y.now, 100) {
		if y.do(ReservationBind{ID: r.ID, Modified: r.Modified, Binding: binding(&r)}).Err == nil {
			y.counts["bound"]++
		}
	}
}

// obey lets all living hosts do what they are told until nothing is left.
func (y *year) obey() {
	for again := true; again; {
		again = false
		for _, id := range y.hosts {
			v := y.f.View()
			h, _ := v.Host(id)
			row, _ := first[touchedRow](v.reader, tabTouched, "id", key(id))
			if h.Status != HostAlive || row == nil || row.Index == y.seen[id] {
				continue
			}
			y.seen[id] = row.Index
			y.now = y.now.Add(time.Second)
			y.must(y.obedient(id))
			again = true
		}
	}
}

// whim is an owner who changes, releases, parks or resumes something.
func (y *year) whim() {
	list := y.f.View().Reservations(ReservationFilter{})
	if len(list) == 0 {
		return
	}
	r := list[y.rnd.IntN(len(list))]
	switch {
	case r.State == api.StateParked:
		y.resume(&r)
	case r.State == api.StateActive && y.rnd.IntN(5) == 0:
		if y.do(ReservationPark{ID: r.ID, For: 48 * time.Hour}).Err == nil {
			y.counts["parked early"]++
		}
	case y.rnd.IntN(12) == 0:
		y.must(ReservationRelease{ID: r.ID})
	case r.State == api.StateActive:
		y.alter(&r)
	}
}

func (y *year) resume(r *Reservation) {
	c := ReservationResume{ID: r.ID, Modified: r.Modified, Spec: r.Spec, Lead: 10 * time.Minute}
	c.Provision = y.now.Add(y.hours(0, 48))
	c.Start = c.Provision.Add(c.Lead)
	c.End = c.Start.Add(y.hours(1, 24))
	r.Provision, r.End = c.Provision, c.End
	if c.Seats = y.seats(r); c.Seats != nil && y.do(c).Err == nil {
		y.counts["resumed"]++
	}
}

func (y *year) alter(r *Reservation) {
	c := unchanged(r)
	last := r.Nodes[len(r.Nodes)-1]
	what := "extended"
	switch y.rnd.IntN(3) {
	case 0:
		c.End = c.End.Add(y.hours(1, 12))
	case 1:
		what = "grown"
		n := testNode(10+y.rnd.IntN(1000), "", "", 1)
		n.Host = y.fit(api.ClassCompute, Booking{From: y.now, Until: heldUntil(r), CPUs: 1, MemoryBytes: gib})
		n.Storage = y.fit(api.ClassStorage, Booking{From: y.now, Until: storageUntil(r), StorageBytes: n.DiskBytes})
		c.Nodes = append(c.Nodes, n)
		c.Binding = binding(&Reservation{ID: r.ID, Modified: r.Modified, Nodes: []Node{n}})
	case 2:
		what = "shrunk"
		c.Leave = append(c.Leave, Leave{Node: last.Name, By: y.now.Add(time.Hour)})
	}
	if y.do(c).Err == nil {
		y.counts[what]++
	}
}

// fate has hosts die, and come back.
func (y *year) fate() {
	for _, id := range y.hosts {
		if at, dead := y.back[id]; dead && !y.now.Before(at) {
			y.must(HostStatusSet{id, HostAlive})
			delete(y.back, id)
			y.seen[id] = 0 // it looks at everything anew
		}
	}
	if id := y.hosts[y.rnd.IntN(len(y.hosts))]; y.rnd.IntN(40) == 0 && len(y.back) < 2 {
		if _, dead := y.back[id]; !dead {
			y.must(HostStatusSet{id, HostDead})
			y.back[id] = y.now.Add(y.hours(0, 30))
			y.counts["host deaths"]++
		}
	}
}

// sample checks invariants now and then, and what became of each reservation.
func (y *year) sample(old *View) {
	v := y.f.View()
	if y.steps%20 == 0 {
		if err := checkTransition(old, v, HostReport{}); err != nil && !y.released(old, v) {
			y.t.Fatalf("at %s: %v", y.now, err)
		}
	}
	if y.steps%100 == 0 {
		if err := CheckInvariants(v); err != nil {
			y.t.Fatalf("at %s: %v", y.now, err)
		}
	}
	y.steps++
}

// released is true if an owner released something between two states: then disks go.
func (y *year) released(old, v *View) bool {
	for _, e := range v.Events(old.Index(), 1000, "") {
		if e.Kind == "reservation.ending" || e.Kind == "reservation.parked" {
			return true
		}
	}
	return false
}

// TestBusyYear plays a year: thousands of requests, changes, parkings and dead
// hosts. At its end all that was promised was kept, or it was said that it was
// in danger.
func TestBusyYear(t *testing.T) {
	seed := *yearSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: go test -run TestBusyYear -year.seed=%d", seed, seed)
	y := newYear(t, seed)
	end := epoch.Add(365 * 24 * time.Hour)
	next := y.now
	for y.now.Before(end) {
		old := y.f.View()
		y.fate()
		if !y.now.Before(next) {
			y.arrive()
			y.whim()
			next = y.now.Add(y.hours(3, 33))
		}
		y.must(ClockAdvance{})
		if at, waits := y.f.View().NextDeadline(); waits && !at.After(y.f.View().Clock()) {
			t.Fatalf("the clock stands still at %s", at)
		}
		y.lead()
		y.obey()
		y.sample(old)
		y.judge(old)
		y.now = y.soonest(next)
	}
	for id := range y.back {
		y.back[id] = y.now
	}
	y.fate()
	y.obey()
	if err := CheckInvariants(y.f.View()); err != nil {
		t.Fatal(err)
	}
	y.settled()
	t.Logf("%d commands in %d steps: %v", len(y.log), y.steps, y.counts)
	for _, what := range []string{"booked", "claimed", "bound", "moved", "ended", "resumed", "grown", "shrunk", "extended", "host deaths"} {
		if y.counts[what] == 0 {
			t.Errorf("in a year nothing was %s: the test shows nothing", what)
		}
	}
}

// soonest is the next moment at which something is to be done.
func (y *year) soonest(next time.Time) time.Time {
	v := y.f.View()
	at := next
	if d, ok := v.NextDeadline(); ok {
		at = earliest(at, d)
	}
	if d, ok := v.NextBind(y.now); ok {
		at = earliest(at, d)
	}
	for _, d := range y.back {
		at = earliest(at, d)
	}
	if floor := y.now.Add(time.Second); at.Before(floor) {
		return floor
	}
	return at
}

// judge looks at those that closed: whoever failed had been told of the danger.
func (y *year) judge(old *View) {
	v := y.f.View()
	for _, was := range old.Reservations(ReservationFilter{}) {
		r, ok := v.Reservation(was.ID)
		if !ok || r.Live() {
			continue
		}
		y.counts[string(r.State)]++
		if r.State != api.StateFailed || was.State == api.StateWaitlisted {
			continue
		}
		told := false
		for _, e := range v.Events(0, 1000, r.ID) {
			told = told || e.Kind == "reservation."+condMissing || e.Kind == "reservation."+condDegraded
		}
		if !told {
			y.t.Fatalf("reservation %s failed (%s), and nobody was told before", r.ID, r.Message)
		}
	}
}

// settled demands that with all hosts back nothing hangs.
func (y *year) settled() {
	for _, r := range y.f.View().Reservations(ReservationFilter{}) {
		stuck := r.State == api.StateProvisioning || r.State == api.StateEnding && r.StopAt.IsZero()
		for _, n := range r.Nodes {
			stuck = stuck || r.State == api.StateActive && (n.State != NodeReady || n.Leaving)
		}
		if stuck {
			y.t.Errorf("all hosts are well, and reservation %s is %s: %s", r.ID, r.State, r.Message)
		}
	}
}
