package fsm

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"vcn/api"
)

// crowd is a state of many hosts and reservations: each has a frontend and two
// workers, and reservations follow each other on every host.
type crowd struct {
	f     *FSM
	index uint64
	n     int
	hosts int
}

func newCrowd(b *testing.B, hosts, reservations int) *crowd {
	c := &crowd{f: New(quiet()), hosts: hosts}
	init := sampleInit()
	init.Meta.Pools = Pools{VLANFirst: 1, VLANLast: 4094, Subnets: "10.0.0.0/8", SubnetBits: 28,
		PublicFirst: "172.16.0.1", PublicLast: "172.31.255.254", PublicBits: 12, MACPrefix: "52:54:00"}
	c.apply(b, init)
	c.apply(b, Formed{})
	for i := range hosts {
		h := testHost("h"+strconv.Itoa(i), api.ClassGateway, api.ClassCompute, api.ClassStorage)
		h.CPUs, h.MemoryBytes, h.StorageBytes = 64, 256*gib, 4096*gib
		c.apply(b, HostRegister{h})
	}
	for range reservations {
		c.apply(b, c.next())
	}
	return c
}

func (c *crowd) apply(b testing.TB, cmd Command) {
	data, err := Encode(cmd, epoch)
	if err != nil {
		b.Fatal(err)
	}
	c.index++
	if res := c.f.Apply(&raft.Log{Index: c.index, Data: data}).(Result); res.Err != nil {
		b.Fatal(res.Err)
	}
}

// next makes one more reservation.
func (c *crowd) next() ReservationBook {
	i := c.n
	c.n++
	id := "r" + strconv.Itoa(i)
	start := epoch.Add(time.Duration(1+i/min(c.hosts, 4000))*10*time.Hour + time.Duration(i%60)*time.Minute)
	r := Reservation{
		ID: id, Name: id, Project: "p", Provision: start, Start: start, End: start.Add(8 * time.Hour),
		Recipes: map[string]string{"frontend": "f", "worker": "w"}, Users: []User{{Name: "alice", UID: 2000, Keys: []string{"k"}}},
	}
	for k := range 3 {
		host := "h" + strconv.Itoa((i*7+k*331)%c.hosts)
		n := testNode(k, host, host, 4)
		n.MemoryBytes, n.DiskBytes = 8*gib, 40*gib
		r.Nodes = append(r.Nodes, n)
	}
	return ReservationBook{Reservations: []Reservation{r}, Images: []ImageWant{{Recipe: "f", Appliance: "frontend"}, {Recipe: "w", Appliance: "worker"}}}
}

// BenchmarkReservationBook applies bookings, one by one and in batches as Raft
// hands them over, onto states of several sizes. The time must hardly grow with
// what is booked. Starts are minutes apart, so that the timelines are as long
// as they get.
func BenchmarkReservationBook(b *testing.B) {
	for _, size := range []struct{ hosts, booked int }{{1000, 0}, {1000, 1000}, {1000, 10_000}, {10_000, 100_000}} {
		b.Run(fmt.Sprintf("hosts=%d,booked=%d", size.hosts, size.booked), func(b *testing.B) {
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			c := newCrowd(b, size.hosts, size.booked)
			runtime.GC()
			runtime.ReadMemStats(&after)
			for _, batch := range []int{1, 64} {
				b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
					c.bookings(b, batch)
					b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB-state")
				})
			}
		})
	}
}

// bookings applies b.N more bookings; making their entries is not measured.
func (c *crowd) bookings(b *testing.B, batch int) {
	logs := make([]*raft.Log, 0, b.N)
	for range b.N {
		c.index++
		logs = append(logs, &raft.Log{Index: c.index, Data: entry(b, c.next())})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for part := range slices.Chunk(logs, batch) {
		for _, res := range c.f.ApplyBatch(part) {
			if err := res.(Result).Err; err != nil {
				b.Fatal(err)
			}
		}
	}
}

func entry(b testing.TB, cmd Command) []byte {
	data, err := Encode(cmd, epoch)
	if err != nil {
		b.Fatal(err)
	}
	return data
}

func BenchmarkSnapshot(b *testing.B) {
	c := newCrowd(b, 1000, 4000)
	for b.Loop() {
		if err := c.f.View().WriteSnapshot(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAssignmentFor(b *testing.B) {
	c := newCrowd(b, 1000, 4000)
	due := epoch.Add(10 * time.Hour) // the first thousand are to be placed
	for _, r := range c.f.View().ToBind(due, 1000) {
		data, err := Encode(ReservationBind{ID: r.ID, Modified: r.Modified, Binding: binding(&r)}, due)
		if err != nil {
			b.Fatal(err)
		}
		c.index++
		if res := c.f.Apply(&raft.Log{Index: c.index, Data: data}).(Result); res.Err != nil {
			b.Fatal(res.Err)
		}
	}
	v := c.f.View()
	if len(v.AssignmentFor("h7").Nodes) == 0 {
		b.Fatal("nothing is placed on h7")
	}
	for b.Loop() {
		v.AssignmentFor("h7")
	}
}
