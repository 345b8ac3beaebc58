package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// counter is a state machine that costs nothing.
type counter struct{ n int }

func (c *counter) Apply(*raft.Log) any                 { c.n++; return c.n }
func (c *counter) Snapshot() (raft.FSMSnapshot, error) { return ledgerSnapshot("x"), nil }
func (c *counter) Restore(r io.ReadCloser) error       { return r.Close() }

// bareRaft is three raft voters as their manual has it: plain TCP, boltdb.
func bareRaft(b *testing.B) *raft.Raft {
	b.Helper()
	var conf raft.Configuration
	var all []*raft.Raft
	for i := range 3 {
		dir := b.TempDir()
		c := raft.DefaultConfig()
		c.LocalID = raft.ServerID(fmt.Sprint(i))
		c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = 300*time.Millisecond, 300*time.Millisecond, 150*time.Millisecond
		c.Logger = hclog.NewNullLogger()
		db, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, "raft.db")})
		if err != nil {
			b.Fatal(err)
		}
		snaps, err := raft.NewFileSnapshotStore(dir, 2, io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		trans, err := raft.NewTCPTransport("127.0.0.1:0", nil, 3, 5*time.Second, io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		r, err := raft.NewRaft(c, &counter{}, db, db, snaps, trans)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { r.Shutdown().Error(); trans.CloseStreams(); trans.Close(); db.Close() })
		conf.Servers = append(conf.Servers, raft.Server{ID: c.LocalID, Address: trans.LocalAddr()})
		all = append(all, r)
	}
	if err := all[0].BootstrapCluster(conf).Error(); err != nil {
		b.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, r := range all {
			if r.State() == raft.Leader {
				return r
			}
		}
	}
	b.Fatal("no leader")
	return nil
}

// drive applies n commands from some clients and returns the time of each, sorted, and of all.
func drive(b *testing.B, clients, n int, apply func([]byte) error) (each []time.Duration, all time.Duration) {
	b.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := make(chan int)
	began := time.Now()
	for range clients {
		wg.Go(func() {
			var mine []time.Duration
			for i := range next {
				t := time.Now()
				if err := apply(payload(i, 1024)); err != nil {
					b.Error(err)
				}
				mine = append(mine, time.Since(t))
			}
			mu.Lock()
			each = append(each, mine...)
			mu.Unlock()
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	all = time.Since(began)
	slices.Sort(each)
	return each, all
}

// BenchmarkApply commits 1 KiB entries through Node.Apply (TLS, group check,
// bounded, with context) and through bare raft.Apply (plain TCP), alternately in
// the same run, three voters each on loopback with boltdb.
func BenchmarkApply(b *testing.B) {
	w := newWorld(b, false)
	w.measured = true
	w.config = func(c *Config) { c.FSM = &counter{} }
	for range 3 {
		w.add()
	}
	w.wantRoles(3, 0, 15*time.Second)
	bare := bareRaft(b)
	for _, clients := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			ours := func(cmd []byte) error {
				l := w.leader()
				if l == nil {
					return errors.New("no leader")
				}
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				_, _, err := l.Apply(ctx, cmd)
				return err
			}
			theirs := func(cmd []byte) error { return bare.Apply(cmd, 10*time.Second).Error() }
			var a, t []time.Duration
			var at, tt time.Duration
			const slices4 = 4 // take turns, so that the machine's moods hit both
			for range slices4 {
				each, all := drive(b, clients, max(1, b.N/slices4), ours)
				a, at = append(a, each...), at+all
				each, all = drive(b, clients, max(1, b.N/slices4), theirs)
				t, tt = append(t, each...), tt+all
			}
			slices.Sort(a)
			slices.Sort(t)
			ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
			rate := func(n []time.Duration, d time.Duration) float64 { return float64(len(n)) / d.Seconds() }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(rate(a, at), "node/s")
			b.ReportMetric(rate(t, tt), "bare/s")
			b.ReportMetric(rate(a, at)/rate(t, tt), "ratio")
			b.ReportMetric(ms(a[len(a)/2]), "node-p50-ms")
			b.ReportMetric(ms(a[len(a)*99/100]), "node-p99-ms")
			b.ReportMetric(ms(t[len(t)/2]), "bare-p50-ms")
			b.ReportMetric(ms(t[len(t)*99/100]), "bare-p99-ms")
		})
	}
}
