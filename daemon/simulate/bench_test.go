package simulate

import (
	"runtime"
	"testing"
	"time"
)

// BenchmarkYearOfABusyCentre plays 20 000 jobs on 100 hosts.
func BenchmarkYearOfABusyCentre(b *testing.B) {
	for _, policy := range Policies {
		b.Run(string(policy), func(b *testing.B) {
			s := loaded(Load{Seed: 1, Jobs: 20_000, Span: 365 * 24 * time.Hour, ProcsMax: 4096, Median: 5 * time.Hour}, 100, policy)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for b.Loop() {
				r, err := Run(b.Context(), s, nil)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(r.Rate(), "requests/s")
				b.ReportMetric(r.Acceptance*100, "%accepted")
				b.ReportMetric(r.CoresUse.Mean*100, "%cores")
			}
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapSys-min(before.HeapSys, after.HeapSys))/(1<<20), "MiB-heap-grown")
		})
	}
}
