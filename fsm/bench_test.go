package fsm

import (
	"fmt"
	"io"
	"runtime"
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
		cmd := c.next()
		c.apply(b, cmd)
		c.freeVLAN(cmd.Reservation.VLAN)
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

// freeVLAN drops the VLAN's lease: there are 4 094 only, and the point is to
// measure with more reservations than that.
func (c *crowd) freeVLAN(vlan int) {
	txn := c.f.database().Txn(true)
	must(txn.Delete(tabLeases, &Lease{Kind: LeaseVLAN, Value: strconv.Itoa(vlan)}))
	txn.Commit()
}

// next makes one more reservation.
func (c *crowd) next() ReservationCreate {
	i := c.n
	c.n++
	id := "r" + strconv.Itoa(i)
	start := epoch.Add(time.Duration(1+i/c.hosts) * 10 * time.Hour)
	r := Reservation{
		ID: id, Name: id, Project: "p", Provision: start, Start: start, End: start.Add(8 * time.Hour),
		VLAN: 1 + i%4094, Subnet: fmt.Sprintf("10.%d.%d.%d/28", i>>12, i>>4&255, i&15<<4),
		Recipes: map[string]string{"frontend": "f", "worker": "w"}, Users: []User{{Name: "alice", UID: 2000, Keys: []string{"k"}}},
		Secrets: map[string][]byte{"munge/key": make([]byte, 1024)},
	}
	cmd := ReservationCreate{Images: []ImageWant{{Recipe: "f", Appliance: "frontend"}, {Recipe: "w", Appliance: "worker"}}}
	for k := range 3 {
		host := "h" + strconv.Itoa((i*7+k*331)%c.hosts)
		mac := func(n int) string { return fmt.Sprintf("52:54:00:%02x:%02x:%02x", n>>16&255, n>>8&255, n&255) }
		n := Node{Name: "n" + strconv.Itoa(k), Role: api.RoleWorker, Appliance: "worker", CPUs: 4, MemoryBytes: 8 * gib, DiskBytes: 40 * gib,
			Host: host, Volume: id + "-" + strconv.Itoa(k), PrivateMAC: mac(i*4 + k), Generation: 1,
			PrivateIP: fmt.Sprintf("10.%d.%d.%d", i>>12, i>>4&255, i&15<<4+k+1)}
		if k == 0 {
			n.Role, n.Appliance = api.RoleFrontend, "frontend"
			n.PublicMAC, n.PublicIP = mac(i*4+3), fmt.Sprintf("172.%d.%d.%d", 16+i>>16, i>>8&255, i&255)
		}
		cmd.Volumes = append(cmd.Volumes, Volume{ID: n.Volume, Reservation: id, Node: n.Name, Host: host, SizeBytes: 40 * gib,
			Recipe: r.Recipes[n.Appliance], Generation: 1, User: "u", Secret: "0123456789abcdef"})
		r.Nodes = append(r.Nodes, n)
	}
	cmd.Reservation, cmd.Leases = r, LeasesOf(r)
	return cmd
}

// BenchmarkReservationCreate applies creates onto states of several sizes. The
// time must hardly grow with what is booked.
func BenchmarkReservationCreate(b *testing.B) {
	for _, size := range []int{0, 1000, 10_000} {
		b.Run(fmt.Sprintf("hosts=1000/booked=%d", size), func(b *testing.B) {
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			c := newCrowd(b, 1000, size)
			runtime.GC()
			runtime.ReadMemStats(&after)
			create := entry(b, c.next())
			release := entry(b, ReservationRelease{ID: "r" + strconv.Itoa(size)})
			for b.Loop() {
				c.index++
				if res := c.f.Apply(&raft.Log{Index: c.index, Data: create}).(Result); res.Err != nil {
					b.Fatal(res.Err)
				}
				b.StopTimer()
				c.forget(release, "r"+strconv.Itoa(size))
				b.StartTimer()
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB-state")
		})
	}
}

func entry(b testing.TB, cmd Command) []byte {
	data, err := Encode(cmd, epoch)
	if err != nil {
		b.Fatal(err)
	}
	return data
}

// forget cancels a reservation and removes its record, so that the same entry
// can be applied again.
func (c *crowd) forget(release []byte, id string) {
	c.index++
	c.f.Apply(&raft.Log{Index: c.index, Data: release})
	txn := c.f.database().Txn(true)
	raw, err := txn.First(tabReservations, "id", key(id))
	must(err)
	must(txn.Delete(tabReservations, raw))
	txn.Commit()
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
	due, err := Encode(ClockAdvance{}, epoch.Add(10*time.Hour)) // the first thousand are placed
	if err != nil {
		b.Fatal(err)
	}
	c.f.Apply(&raft.Log{Index: c.index + 1, Data: due})
	v := c.f.View()
	if len(v.AssignmentFor("h7").Nodes) == 0 {
		b.Fatal("nothing is placed on h7")
	}
	for b.Loop() {
		v.AssignmentFor("h7")
	}
}
