//go:build rooted

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vcn/api"
)

// changeMax bounds a change of a running cluster: a worker's boot, or its
// draining, and telling the others.
const changeMax = 5 * time.Minute

// settled waits until nothing of a change is pending.
func settled(t *testing.T, name string) (r api.Reservation) {
	t.Helper()
	until(t, changeMax, name+" to be changed", func(ctx context.Context) (bool, string) {
		var err error
		r, err = query[api.Reservation](ctx, "show", name)
		return err == nil && r.State == api.StateActive && r.Change == nil, fmt.Sprintf("%v %s %+v %s", err, r.State, r.Change, nodeStates(r))
	})
	return r
}

// growAndShrink adds a worker to alpha while a job runs, runs a job on it, and
// takes it away again: not before that job has ended.
func (l *life) growAndShrink(t *testing.T) {
	pids, boots := guestsOf(t, l.alpha), l.bootIDs(t, l.alpha)
	long := l.job(t, "srun -N2 sh -c 'touch /tmp/long; until test -e /tmp/longgo; do sleep 0.5; done'; echo srun $?\n")
	for _, w := range []string{"compute-0", "compute-1"} {
		l.run(t, 3*time.Minute, "alpha", w, "until test -e /tmp/long; do sleep 0.2; done\n")
	}
	began := time.Now()
	plan := must[api.ChangePlan](t, "change", "alpha", "--workers", "3", "--dry-run")
	if len(plan.Nodes) != 4 || plan.LosesData {
		t.Errorf("the plan is %+v", plan)
	}
	ctl(t, "grow", "alpha", "--workers", "3")
	grown := settled(t, "alpha")
	if len(grown.Nodes) != 4 || grown.Nodes[3].Name != "compute-2" || grown.Nodes[3].State != "ready" {
		t.Fatalf("alpha has %s", nodeStates(grown))
	}
	t.Logf("a worker has joined %v after it was asked for", time.Since(began).Round(time.Millisecond))
	// The scheduler gives it a job while the others are busy.
	on := l.run(t, 3*time.Minute, "alpha", api.FrontendName, "srun -N1 hostname\n")
	if strings.TrimSpace(on) != "compute-2" {
		t.Errorf("with the others busy a job ran on %q", on)
	}
	busy := l.job(t, "srun -w compute-2 sh -c 'touch /tmp/busy; until test -e /tmp/busygo; do sleep 0.5; done'; echo srun $?\n")
	l.run(t, 3*time.Minute, "alpha", "compute-2", "until test -e /tmp/busy; do sleep 0.2; done\n")
	ctl(t, "shrink", "alpha", "--remove", "compute-2")
	until(t, changeMax, "compute-2 to be drained", func(ctx context.Context) (bool, string) {
		r, err := query[api.Reservation](ctx, "show", "alpha")
		n := nodeOf(t, r, "compute-2")
		return err == nil && n.State == "draining" && strings.Contains(n.Message, "jobs run on it"), fmt.Sprint(err, n.State, " ", n.Message)
	})
	if s := l.run(t, askMax, "alpha", api.FrontendName, "sinfo -h -N -n compute-2 -o '%T %E'\n"); !strings.Contains(s, "drain") || !strings.Contains(s, "vcn: ") {
		t.Errorf("the scheduler says of compute-2: %s", s)
	}
	l.run(t, askMax, "alpha", "compute-2", "touch /tmp/busygo\n")
	busy.good(t)
	l.alpha = settled(t, "alpha")
	if len(l.alpha.Nodes) != 3 {
		t.Fatalf("alpha has %s", nodeStates(l.alpha))
	}
	for _, w := range []string{"compute-0", "compute-1"} {
		l.run(t, askMax, "alpha", w, "touch /tmp/longgo\n")
	}
	long.good(t) // it has run through all of it
	l.sameGuests(t, l.alpha, pids, boots)
	l.srun(t, l.alpha)
	if s := l.run(t, askMax, "alpha", api.FrontendName, "sinfo -h -N -o %N\n"); strings.Contains(s, "compute-2") {
		t.Errorf("the scheduler still knows compute-2: %s", s)
	}
	same(t, l.alphaAlone)
	exactly(t, l.alpha)
}

// running is a login that runs something.
type running struct {
	out  bytes.Buffer
	done chan error
}

// job runs a script on alpha's frontend beside the test.
func (l *life) job(t *testing.T, script string) *running {
	t.Helper()
	r := &running{done: make(chan error, 1)}
	cmd := l.shell(bounded(t, 15*time.Minute), "alpha", api.FrontendName, script)
	cmd.Stdout, cmd.Stderr = &r.out, &r.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.done <- cmd.Wait() }()
	return r
}

func (r *running) good(t *testing.T) {
	t.Helper()
	if err := <-r.done; err != nil || !strings.HasSuffix(r.out.String(), "srun 0\n") {
		t.Fatalf("the job: %v\n%s", err, r.out.String())
	}
}

// parkAndResume keeps alpha's disks only, and brings it back.
func (l *life) parkAndResume(t *testing.T) {
	l.run(t, askMax, "alpha", api.FrontendName, "echo kept > ~/kept; sudo sh -c 'echo mine > /etc/mine'; sync\n")
	l.run(t, askMax, "alpha", "compute-1", "sudo sh -c 'echo mine > /etc/mine'\n") // not flushed: a clean stop does that
	before := l.alpha
	ctl(t, "park", "alpha", "--for", "2h")
	parked := awaitState(t, "alpha", api.StateParked, releaseMax)
	if parked.ParkedUntil == nil || parked.VLAN != 0 {
		t.Errorf("alpha is parked until %v and holds VLAN %d", parked.ParkedUntil, parked.VLAN)
	}
	volumes := 0
	for name, h := range lookAround(t) {
		if len(h.Domains)+len(h.Guests)+len(h.Exports)+len(h.Nodes)+len(h.Secrets) != len(l.empty[name].Domains)+len(l.empty[name].Guests)+len(l.empty[name].Exports)+len(l.empty[name].Nodes)+len(l.empty[name].Secrets) {
			t.Errorf("with alpha parked %s holds %+v", name, h)
		}
		volumes += len(h.Volumes) - len(l.empty[name].Volumes)
	}
	if volumes != 3 {
		t.Errorf("%d volumes are kept, want 3", volumes)
	}
	if list := mustList[api.Lease](t, "lease", "list"); len(list) != 0 {
		t.Errorf("a parked cluster holds %+v", list)
	}
	began := time.Now()
	ctl(t, "resume", "alpha", "--for", "2h")
	l.alpha = awaitState(t, "alpha", api.StateActive, provisionMax)
	t.Logf("alpha is back %v after it was asked for", time.Since(began).Round(time.Millisecond))
	if l.alpha.ID != before.ID || len(l.alpha.Nodes) != 3 || l.alpha.Frontend.HostKey != before.Frontend.HostKey {
		t.Errorf("what came back is %+v", l.alpha)
	}
	if s := l.run(t, askMax, "alpha", api.FrontendName, "cat ~/kept /etc/mine\n"); s != "kept\nmine\n" {
		t.Errorf("the frontend has %q", s)
	}
	if s := l.run(t, askMax, "alpha", "compute-1", "cat ~/kept /etc/mine\n"); s != "kept\nmine\n" {
		t.Errorf("compute-1 has %q", s)
	}
	l.srun(t, l.alpha)
	exactly(t, l.alpha)
}

// calendar asks, waits and changes without anything being provisioned.
func (l *life) calendar(t *testing.T) {
	before := lookAround(t)
	tomorrow := time.Now().Add(30 * time.Hour).UTC().Truncate(time.Minute)
	at := func(d time.Duration) string { return tomorrow.Add(d).Format(time.RFC3339) }
	key := []string{"--project", "e2e", "--user", "alice", "--key", l.pub}
	args := func(a ...string) []string { return append(a, key...) }

	offers := must[api.OfferList](t, args("when", "asked", "--workers", "1", "--start", at(0), "--for", "1h")...)
	if len(offers.Items) != 1 || offers.Items[0].Kind != api.OfferExact || offers.Items[0].ID == "" {
		t.Fatalf("offers %+v", offers)
	}
	must[api.Reservation](t, args("reserve", "other", "--workers", "1", "--start", at(0), "--for", "1h")...)
	// Two clusters at once are all that there are VLANs for: one is held, one is booked.
	_, err := bed.Vcnctl(bounded(t, askMax), args("reserve", "third", "--workers", "1", "--start", at(0), "--for", "1h")...)
	if exitOf(err) != 3 {
		t.Errorf("beside a hold and a reservation there was room for a third: %v", err)
	}
	taken := must[api.Reservation](t, "reserve", "--offer", offers.Items[0].ID)
	if taken.Name != "asked" || !taken.Start.Equal(tomorrow) {
		t.Errorf("the offer became %+v", taken)
	}
	waiting := must[api.Reservation](t, args("reserve", "third", "--workers", "1", "--start", at(0), "--for", "1h", "--wait-for", "30m")...)
	if waiting.State != api.StateWaitlisted || waiting.Wait == nil || waiting.Wait.Position != 1 {
		t.Fatalf("the third is %+v", waiting)
	}
	_, err = bed.Vcnctl(bounded(t, askMax), "extend", "asked", "24h", "-o", "json")
	if err != nil {
		t.Errorf("asked, which has a VLAN beside one other, cannot be extended: %v", err)
	}
	ctl(t, "release", "other")
	until(t, time.Minute, "the third to be booked", func(ctx context.Context) (bool, string) {
		r, err := query[api.Reservation](ctx, "show", "third")
		return err == nil && r.State == api.StateBooked, fmt.Sprint(err, r.State)
	})
	text := ctl(t, "calendar", "--days", "3")
	for _, want := range []string{"alpha", "asked", "third"} {
		if !strings.Contains(text, want) {
			t.Errorf("the calendar does not show %s:\n%s", want, text)
		}
	}
	if e := must[api.Explanation](t, "explain", "asked"); len(e.Nodes) != 2 || !slices.ContainsFunc(e.Nodes, func(n api.NodeWhy) bool { return n.Why != "" }) {
		t.Errorf("the explanation is %+v", e)
	}
	for _, name := range []string{"asked", "third"} {
		ctl(t, "release", name)
	}
	same(t, before)
}
