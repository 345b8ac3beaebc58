package facts

import "time"

const (
	tscWindow = 50 * time.Millisecond
	tscTries  = 64
)

// TSCKHz measures the processor's time stamp counter, in kHz; 0 where there is
// none. QEMU's emulated processors count with the host's. A guest that is told
// need not measure it, which goes wrong by any factor on a busy host.
func TSCKHz() int64 {
	t0, c0 := stamp()
	if c0 == 0 {
		return 0
	}
	time.Sleep(tscWindow)
	t1, c1 := stamp()
	took := t1.Sub(t0)
	if took <= 0 || c1 <= c0 {
		return 0
	}
	return int64(float64(c1-c0) / took.Seconds() / 1000)
}

// stamp reads both clocks at once: of some tries the one that was least
// disturbed.
func stamp() (at time.Time, count uint64) {
	best := time.Hour
	for range tscTries {
		before := time.Now()
		c := rdtsc()
		if d := time.Since(before); d < best {
			best, at, count = d, before.Add(d/2), c
		}
	}
	return at, count
}
