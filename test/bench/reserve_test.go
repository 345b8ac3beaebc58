package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"vcn/cluster"
	"vcn/fsm"
)

// roundMax is how many reservations live at once at most: less than there are VLANs.
const roundMax = 500

// BenchmarkReserve books clusters of 1+2 nodes on 100 hosts through planning,
// Raft and three state machines, and in turns commits the same bytes through the
// same engine to state machines that do nothing. ns/op is wall time per reserve.
func BenchmarkReserve(b *testing.B) {
	s := newSite(b)
	idle := fsm.New(nil)
	raw := newTrio(b, s.ca, func(_ int, c *cluster.Config) { c.FSM = nothingLike(idle.Apply, idle.Snapshot) })
	var names atomic.Int64
	for _, clients := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			b.ReportAllocs()
			b.StopTimer()
			var ours, theirs tally
			commits, retries := s.commits.Load(), s.retries.Load()+raw.retries.Load()
			released := int64(0)
			for left := b.N; left > 0; {
				n := min(left, max(clients, min(b.N/4, roundMax)))
				left -= n
				b.StartTimer()
				got, ids := s.reserve(b, clients, n, &names)
				b.StopTimer()
				ours.add(got)
				s.release(b, ids)
				released += int64(len(ids))

				entry := *s.entry.Load()
				got, err := drive(clients, n, func(int) error {
					return raw.atLeader(func(l int) error {
						ctx, cancel := context.WithTimeout(context.Background(), waitMax)
						defer cancel()
						_, _, err := raw.nodes[l].Apply(ctx, entry)
						return err
					})
				})
				if err != nil {
					b.Fatal(err)
				}
				theirs.add(got)
			}
			commits = s.commits.Load() - commits - released
			b.ReportMetric(ours.rate(), "reserves/s")
			b.ReportMetric(theirs.rate(), "raw/s")
			b.ReportMetric(ours.rate()/theirs.rate(), "ratio")
			b.ReportMetric(ours.at(0.50), "p50-ms")
			b.ReportMetric(ours.at(0.99), "p99-ms")
			b.ReportMetric(theirs.at(0.50), "raw-p50-ms")
			b.ReportMetric(theirs.at(0.99), "raw-p99-ms")
			b.ReportMetric(float64(s.retries.Load()+raw.retries.Load()-retries), "retries")
			b.ReportMetric(ours.cpuEach(), "cpu-ms/reserve")
			b.ReportMetric(theirs.cpuEach(), "cpu-ms/raw")
			b.ReportMetric(float64(len(*s.entry.Load())), "entry-B")
			b.ReportMetric(float64(commits)/float64(len(ours.each)), "commits/reserve")
		})
	}
	s.agree(b)
}

// reserve books n clusters and returns their ids.
func (s *site) reserve(b *testing.B, clients, n int, names *atomic.Int64) (tally, []string) {
	b.Helper()
	ids := make([]string, n)
	got, err := drive(clients, n, func(i int) error {
		want := spec(fmt.Sprintf("c%d", names.Add(1)))
		return s.atLeader(func(l int) error {
			// With a key, as every client has one: a repeated call books once.
			r, err := s.controls[l].Reserve(context.Background(), want, "", "op", want.Name)
			if err == nil {
				ids[i] = r.ID
			}
			return err
		})
	})
	if err != nil {
		b.Fatal(err)
	}
	return got, ids
}

// release gives everything back. What is only booked goes at once.
func (s *site) release(b *testing.B, ids []string) {
	b.Helper()
	if _, err := drive(64, len(ids), func(i int) error {
		return s.atLeader(func(l int) error {
			_, err := s.controls[l].Release(context.Background(), ids[i], "op")
			return err
		})
	}); err != nil {
		b.Fatal(err)
	}
}

// agree checks that the three replicas come to the same, and hold nothing.
// Raft's applied index is not asked: it moves when an entry is handed to the
// state machine, not when that is done with it.
func (s *site) agree(b *testing.B) {
	b.Helper()
	last := s.states[s.leading()].View().Index()
	for i, f := range s.states {
		s.wait("replica "+hostID(i)+" follows", func() bool { return f.View().Index() >= last })
		v := f.View()
		if k := len(v.Bookings()); k != 0 || len(v.Hosts()) != hostsCount {
			b.Errorf("replica %d has %d bookings and %d hosts, want 0 and %d", i, k, len(v.Hosts()), hostsCount)
		}
	}
}
