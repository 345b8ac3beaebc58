package targetd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/hostops/iscsi/initiator"
)

// usage is what a process that leaks has more and more of.
type usage struct {
	goroutines, descriptors int
	heap                    uint64
}

func measure(t *testing.T) usage {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var m runtime.MemStats
	for range 3 { // pools let go of what they hold in the second
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return usage{runtime.NumGoroutine(), len(fds), m.HeapAlloc}
}

// TestLoginsLeaveNothing logs in enduranceLogins times, in every way that
// logins go: with I/O and without, refused, for discovery, given up half-way,
// ended politely or by a reset, while generations change. Between a tenth and
// the end neither memory, goroutines nor descriptors may grow.
func TestLoginsLeaveNothing(t *testing.T) {
	r := newRig(t)
	const workers = 8
	e := testExport("endurance", newVolume(t, 4<<20), 1)
	one := e.Access[0]
	e.Access = nil
	for w := range workers {
		one.Initiator, one.Addr = fmt.Sprintf("%s-%d", testInitiator, w), netip.AddrFrom4([4]byte{127, 0, 1, byte(w + 1)})
		e.Access = append(e.Access, one)
	}
	r.publish(e)
	round := func(n int) {
		var left, raised atomic.Int64
		left.Store(int64(n))
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for {
					i := left.Add(-1)
					if i < 0 {
						return
					}
					if i%1000 == 999 {
						raised.Add(1)
					}
					if err := loginSomehow(r.config(e), e.Access[w], int(i)); err != nil {
						t.Errorf("login %d: %v", i, err)
						left.Store(0)
					}
				}
			})
		}
		wg.Wait()
		for range raised.Load() {
			e.Generation++
			r.publish(e)
		}
		eventually(t, "sessions end", func() bool {
			l, err := r.srv.List(t.Context())
			return err == nil && len(l) == 1 && len(l[0].Sessions) == 0
		})
	}
	round(enduranceLogins / 10)
	before := measure(t)
	begin := time.Now()
	round(enduranceLogins - enduranceLogins/10)
	took := time.Since(begin)
	var after usage
	flat := func() bool {
		after = measure(t)
		return after.goroutines <= before.goroutines+4 && after.descriptors <= before.descriptors+4 && after.heap <= before.heap+before.heap/4+1<<20
	}
	for end := time.Now().Add(5 * time.Second); !flat(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("before %+v, after %d logins %+v", before, enduranceLogins, after)
		}
	}
	t.Logf("%d logins in %s (%.0f/s); before %+v, after %+v", enduranceLogins-enduranceLogins/10, took.Round(time.Millisecond),
		float64(enduranceLogins)*0.9/took.Seconds(), before, after)
}

// loginSomehow is one login of the kind that i picks. An error means that the
// target did not do what that kind deserves.
func loginSomehow(c initiator.Config, a hostops.Access, i int) error {
	c.Initiator, c.LocalAddr = a.Initiator, a.Addr.String()
	c.ISID[5] = byte(i)
	c.KeepAttention = i%2 == 0
	kind := i % 10
	switch kind {
	case 0:
		c.Secret = "this is not the secret"
	case 1:
		c.Target = ""
	case 2:
		c.Extra = [][2]string{{"HeaderDigest", "CRC32C"}, {"DataDigest", "CRC32C"}}
	case 3:
		c.Initiator += "-nobody"
	}
	k, err := initiator.Dial(c)
	if err != nil {
		return err
	}
	defer k.Close()
	if i%3 == 0 { // a reset instead of a polite end
		_ = k.NC.(*net.TCPConn).SetLinger(0)
	}
	if kind == 4 { // half a login
		return k.Send(k.LoginPDU(0x01, [2]string{"InitiatorName", c.Initiator}, [2]string{"TargetName", c.Target}))
	}
	err = k.Login()
	if kind == 0 || kind == 3 {
		var re *initiator.Refused
		if !errors.As(err, &re) {
			return fmt.Errorf("want a refusal, got %w", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if kind >= 7 { // some I/O, the last of it not waited for
		if a, err := k.Write(uint64(i%64)*8, make([]byte, 4096)); err != nil || a.Status != 0 && !c.KeepAttention {
			return fmt.Errorf("write: %+v, %w", a, err)
		}
		return k.Send(k.CommandPDU([]byte{0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0}, nil, 4096))
	}
	return nil
}
