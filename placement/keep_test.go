package placement

import (
	"errors"
	"testing"
	"time"
)

// keeping wants 600 GiB of storage in a slot, and a day longer.
func keeping(from int) Request {
	return Request{From: hour(from), Until: hour(from + 2), KeepStorage: 24 * time.Hour,
		Nodes: []NodeRequest{{Name: "frontend", Frontend: true, CPUs: 2, MemoryBytes: gib, DiskBytes: 600 * gib}}}
}

func TestStorageThatIsKeptLongerMustBeFreeAsLong(t *testing.T) {
	inv := New(lab(), []Booking{{Host: "s1", From: hour(20), Until: hour(22), StorageBytes: 500 * gib}})
	if _, err := inv.Plan(keeping(9)); err == nil {
		t.Error("what is kept until tomorrow was put where others come tonight")
	}
	r := keeping(9)
	r.KeepStorage = 9 * time.Hour // until 20
	p, err := inv.Plan(r)
	if err != nil {
		t.Fatalf("kept until they come: %v", err)
	}
	inv.Add(p.Bookings(r)...)
	if _, _, free, _ := inv.Free("s1", hour(12), hour(20)); free != 400*gib {
		t.Errorf("while the disk is kept %d GiB are free, want 400", free/gib)
	}
	if cpus, _, _, _ := inv.Free("g1", hour(11), hour(20)); cpus != 4 {
		t.Errorf("when its node is gone %d cores are free, want 4", cpus)
	}
	inv.Remove(p.Bookings(r)...)
	at, _, err := inv.Earliest(keeping(9), hour(100))
	if err != nil || !at.Equal(hour(22)) {
		t.Errorf("the earliest is %v, %v; want 22:00, when they go", at, err)
	}
}

func TestWhatStaysMayBeOnAHostThatIsNotUsable(t *testing.T) {
	hosts := lab()
	hosts[1].Unusable = "dead"
	inv := New(hosts, nil)
	r := request(1, Spread)
	r.Nodes[1].Host = "c1"
	var no *NoFit
	if _, err := inv.Plan(r); !errors.As(err, &no) {
		t.Errorf("a new node was put on a dead host: %v", err)
	}
	r.Stay = true
	if p, err := inv.Plan(r); err != nil || p.Nodes[1].Host != "c1" {
		t.Errorf("what is on a dead host cannot stay: %v, %v", p, err)
	}
	inv.Add(Booking{Host: "c1", From: hour(16), Until: hour(18), CPUs: 8})
	if _, err := inv.Plan(r); !errors.As(err, &no) {
		t.Errorf("it stays where others come: %v", err)
	}
}
