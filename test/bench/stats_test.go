package bench

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// tally is the times of many calls, how long all of them took together, and
// what processor time this process used meanwhile.
type tally struct {
	each     []time.Duration
	all, cpu time.Duration
}

func (t *tally) add(o tally) {
	t.each, t.all, t.cpu = append(t.each, o.each...), t.all+o.all, t.cpu+o.cpu
}

// cpuEach is processor milliseconds per call: unlike the clock it hardly
// depends on what else runs.
func (t *tally) cpuEach() float64 { return ms(t.cpu) / float64(len(t.each)) }

// rate is calls per second.
func (t *tally) rate() float64 { return float64(len(t.each)) / t.all.Seconds() }

// at is the q-quantile in milliseconds, 0 <= q <= 1.
func (t *tally) at(q float64) float64 {
	s := slices.Sorted(slices.Values(t.each))
	return ms(s[min(len(s)-1, int(q*float64(len(s))))])
}

// cpuTime is what this process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // the arguments are right
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// drive makes n calls from a number of clients. It stops at the first errors.
func drive(clients, n int, call func(i int) error) (tally, error) {
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		next atomic.Int64
		sum  tally
		errs []error
	)
	began, cpu := time.Now(), cpuTime()
	for range clients {
		wg.Go(func() {
			var mine []time.Duration
			var err error
			for err == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					break
				}
				t := time.Now()
				if err = call(i); err == nil {
					mine = append(mine, time.Since(t))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			sum.each = append(sum.each, mine...)
			errs = append(errs, err)
		})
	}
	wg.Wait()
	sum.all, sum.cpu = time.Since(began), cpuTime()-cpu
	return sum, errors.Join(errs...)
}

func TestDriveCallsEachOnceAndCounts(t *testing.T) {
	var called [50]atomic.Int32
	got, err := drive(7, len(called), func(i int) error { called[i].Add(1); return nil })
	if err != nil || len(got.each) != len(called) || got.all <= 0 {
		t.Errorf("%d times in %v, %v; want %d", len(got.each), got.all, err, len(called))
	}
	for i := range called {
		if n := called[i].Load(); n != 1 {
			t.Errorf("call %d was made %d times", i, n)
		}
	}
	bad := errors.New("no")
	if got, err = drive(1, 10, func(i int) error {
		if i == 3 {
			return bad
		}
		return nil
	}); !errors.Is(err, bad) || len(got.each) != 3 {
		t.Errorf("after a failure: %d times, %v", len(got.each), err)
	}
}

func TestTallyQuantiles(t *testing.T) {
	var s tally
	for i := 100; i > 0; i-- {
		s.add(tally{[]time.Duration{time.Duration(i) * time.Millisecond}, 10 * time.Millisecond, time.Millisecond})
	}
	if s.at(0) != 1 || s.at(0.5) != 51 || s.at(0.99) != 100 || s.at(1) != 100 || s.rate() != 100 || s.cpuEach() != 1 {
		t.Errorf("quantiles %v %v %v %v, rate %v, cpu %v", s.at(0), s.at(0.5), s.at(0.99), s.at(1), s.rate(), s.cpuEach())
	}
}
