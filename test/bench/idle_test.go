//go:build rooted

package bench

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"vcn/api"
	"vcn/test/testbed"
)

const (
	quietTime   = 20 * time.Second // before the measurement
	watchedTime = 20 * time.Second
)

// watched is one process of a host while nothing is to do.
type watched struct {
	name   string // as in metrics: h1-vcnd
	pid    int
	before usage
}

// BenchmarkDaemonIdle is what vcnd and its target process cost a host that has
// nothing to do: resident memory, and processor time per minute. Beside them is
// libvirtd of the same host at the same time.
func BenchmarkDaemonIdle(b *testing.B) {
	t := bed.get(b)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	st, err := query[api.Status](ctx, t, "status")
	if err != nil {
		b.Fatal(err)
	}
	if st.Reservations != 0 {
		b.Fatalf("%d reservations are live: the hosts are not idle", st.Reservations)
	}
	all, err := idleProcesses(ctx, t)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		b.Logf("%s leads %d hosts, index %d, load %s", st.Leader, st.HostsAlive, st.Index, loadNow())
		time.Sleep(quietTime)
		began := time.Now()
		for i := range all {
			if all[i].before, err = usageOf(all[i].pid); err != nil {
				b.Fatal(err)
			}
		}
		time.Sleep(watchedTime)
		took := time.Since(began)
		for _, p := range all {
			u, err := usageOf(p.pid)
			if err != nil {
				b.Fatalf("%s: %v", p.name, err)
			}
			b.ReportMetric(float64(u.rssBytes)/1e6, p.name+"-MB")
			b.ReportMetric((u.cpu-p.before.cpu).Seconds()*float64(time.Minute)/float64(took), p.name+"-cpu-s/min")
		}
	}
}

// idleProcesses finds vcnd, target and libvirtd of every host.
func idleProcesses(ctx context.Context, t *testbed.Testbed) ([]watched, error) {
	var all []watched
	for i, h := range t.Hosts {
		vcnd, err := h.PID()
		if err != nil {
			return nil, err
		}
		all = append(all, watched{name: fmt.Sprintf("h%d-vcnd", i+1), pid: vcnd})
		children, err := processes(ctx, h, "vcnd")
		if err != nil {
			return nil, err
		}
		for pid, args := range children {
			if pid != vcnd && slices.Contains(args, "target") {
				all = append(all, watched{name: fmt.Sprintf("h%d-target", i+1), pid: pid})
			}
		}
		libvirtds, err := processes(ctx, h, "libvirtd")
		if err != nil {
			return nil, err
		}
		if len(libvirtds) != 1 {
			return nil, fmt.Errorf("find libvirtd of %s: %d run", h.Name, len(libvirtds))
		}
		for pid := range libvirtds {
			all = append(all, watched{name: fmt.Sprintf("h%d-libvirtd", i+1), pid: pid})
		}
	}
	return all, nil
}
