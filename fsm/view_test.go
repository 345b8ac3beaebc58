package fsm

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"vcn/api"
)

func TestIdentifiersRestBeforeTheyAreUsedAgain(t *testing.T) {
	w := formed(t)
	q := want{name: "lab", front: "a", workers: []string{"b"}, disks: []string{"b"}, so: time.Hour}
	seen := map[int]bool{}
	for i := range 20 {
		r := w.must(w.create(q)).Reservation
		if seen[r.VLAN] {
			t.Fatalf("VLAN %d again after %d of 20", r.VLAN, i)
		}
		seen[r.VLAN] = true
		w.must(ReservationRelease{ID: r.ID})
		w.work(2, "a", "b")
	}
	if r := w.must(w.create(q)).Reservation; r.VLAN != 100 {
		t.Fatalf("after the last comes the first: %d", r.VLAN)
	}
}

func TestNoMoreClustersArePromisedForAnInstantThanThereAreIdentifiers(t *testing.T) {
	w := newWorld(t)
	init := sampleInit()
	init.Meta.Pools.VLANLast = init.Meta.Pools.VLANFirst + 1
	w.must(init)
	w.must(Formed{})
	w.must(HostRegister{testHost("a", api.ClassGateway, api.ClassCompute, api.ClassStorage)})
	q := want{front: "a", workers: []string{"a"}, disks: []string{"a"}, in: time.Hour, so: time.Hour}
	for _, q.name = range []string{"one", "two"} {
		w.must(w.create(q))
	}
	q.name = "three"
	if res := w.do(w.create(q)); !errors.Is(res.Err, ErrNoCapacity) || !strings.Contains(res.Err.Error(), "pool of identifiers") {
		t.Fatalf("error %v", res.Err)
	}
	q.in += q.so + Turnaround
	w.must(w.create(q))
}

func TestEventsAreBoundedAndPagedWithoutGaps(t *testing.T) {
	w := formed(t)
	w.f.eventsMax, w.check = 30, false
	for range 10 {
		c := w.create(want{name: "lab", front: "a", workers: []string{"b"}, disks: []string{"b"}, in: time.Hour, so: time.Hour})
		w.must(c)
		w.must(ReservationRelease{ID: c.Reservations[0].ID})
		w.must(HostStatusSet{"c", HostDead})
		w.must(HostStatusSet{"c", HostAlive})
	}
	every := w.f.View().Events(0, 1000, "")
	if len(every) != 30 {
		t.Fatalf("%d events are kept", len(every))
	}
	var paged []Event
	for after := uint64(0); ; {
		page := w.f.View().Events(after, 3, "")
		if len(page) == 0 {
			break
		}
		paged = append(paged, page...)
		after = page[len(page)-1].Index
	}
	if !slices.Equal(paged, every) {
		t.Fatalf("%d events by pages, %d at once", len(paged), len(every))
	}
	if mine := w.f.View().Events(0, 1000, "r10"); len(mine) != 2 || mine[1].Kind != "reservation.cancelled" {
		t.Fatalf("events of r10: %+v", mine)
	}
	last := w.f.View().LastEvents(2, "")
	if !slices.Equal(last, every[len(every)-2:]) {
		t.Fatalf("last events %+v", last)
	}
}

func TestWatchersWakeForTheirOwn(t *testing.T) {
	w := formed(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	index := w.f.View().Index()
	done := make(chan uint64, 3)
	go func() { done <- w.f.WatchIndex(ctx, index) }()
	w.must(HostReport{Host: "a"})
	if got := <-done; got <= index {
		t.Fatalf("woke at %d, after %d", got, index)
	}
	version := w.f.View().AssignmentFor("c").Version
	asleep, nap := context.WithTimeout(ctx, 20*time.Millisecond)
	defer nap()
	if v := w.f.WatchHost(asleep, "c", version); v.AssignmentFor("c").Version != version {
		t.Fatal("a report of another host woke c")
	}
	go func() { done <- w.f.WatchHost(ctx, "c", version).AssignmentFor("c").Version }()
	w.must(w.lab("lab"))
	if got := <-done; got <= version {
		t.Fatalf("c woke with version %d, had %d", got, version)
	}
	mod := w.get("r1").Modified
	go func() {
		v, _ := w.f.WatchReservation(ctx, "r1", mod).Reservation("r1")
		done <- v.Modified
	}()
	w.must(ReservationRelease{ID: "r1"})
	if got := <-done; got <= mod {
		t.Fatalf("the reservation woke its watcher at %d, had %d", got, mod)
	}
}
