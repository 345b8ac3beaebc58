package control_test

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vcn/api"
	"vcn/daemon/control/controltest"
	"vcn/fsm"
)

// BenchmarkReserve is reserves per second through planning, encoding and the
// FSM, without Raft, at 1, 16 and 64 clients; with delay, each commit takes 1 ms, as
// a Raft commit on one machine does.
func BenchmarkReserve(b *testing.B) {
	for _, delay := range []time.Duration{0, time.Millisecond} {
		for _, clients := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("commit=%v/clients=%d", delay, clients), func(b *testing.B) {
				r := controltest.New(b, controltest.Options{Hosts: 100, CPUs: 1 << 20, Delay: delay, Pools: wide})
				r.Settle()
				var n atomic.Int64
				start := time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)
				b.SetParallelism((clients + 1) / 2) // of GOMAXPROCS, 2 on the reference machine
				b.ResetTimer()
				cpu := cpuTime(b)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						name := fmt.Sprintf("c%d", n.Add(1))
						spec := controltest.Spec(name, 2)
						spec.Slot = api.Slot{Start: start, For: "8h"}
						res, err := r.Control.Reserve(b.Context(), spec, "", "op", "")
						if err != nil {
							b.Error(err)
							return
						}
						// Pools are small: what is reserved is given back. It is
						// only booked, so that it goes at once.
						if _, err := r.Control.Release(b.Context(), res.ID, "op"); err != nil {
							b.Error(err)
						}
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reserves/s")
				// Beside the wall clock, which says little on a busy machine. It
				// holds the release, too.
				b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// cpuTime is what this process has used so far.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPlanBusy is planning one cluster of four nodes on 1 000 hosts that
// hold about 10 000 bookings.
func BenchmarkPlanBusy(b *testing.B) {
	r := controltest.New(b, controltest.Options{Hosts: 1000, CPUs: 64, Pools: wide})
	for i := 0; len(r.FSM.View().Bookings()) < 10_000; i++ {
		if _, err := r.Control.Reserve(b.Context(), controltest.Spec(fmt.Sprintf("c%d", i), 3), "", "op", ""); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for b.Loop() {
		if _, err := r.Control.DryRun(b.Context(), controltest.Spec("one-more", 3), ""); err != nil {
			b.Fatal(err)
		}
	}
}

var wide = fsm.Pools{VLANFirst: 1, VLANLast: 4094, Subnets: "10.0.0.0/8", SubnetBits: 24,
	PublicFirst: "100.64.0.1", PublicLast: "100.127.255.254", PublicBits: 10, MACPrefix: "02:76:63"}
