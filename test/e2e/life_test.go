//go:build rooted

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"vcn/api"
)

const specText = `name: %s
project: e2e
slot: %s
frontend: {cpus: 1, memory: 512MiB, disk: 4GiB}
workers:
  - {name: compute, count: %d, cpus: 1, memory: 512MiB, disk: 4GiB}
rolls: [slurm]
users:
  - {name: alice, admin: true, keys: [%q]}
`

// life is what the steps of TestLife share.
type life struct {
	login
	empty       map[string]hostThings // the hosts before any cluster
	alphaAlone  map[string]hostThings // with alpha only
	alpha, beta api.Reservation
	betaStart   time.Time
	shortToken  api.Token // lives a minute
}

// spec writes a specification and returns its file.
func (l *life) spec(t *testing.T, name, slot string, workers int) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name+".yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, specText, name, slot, workers, l.pub), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestLife is the life of two clusters and the faults that they survive.
func TestLife(t *testing.T) {
	l := &life{login: newLogin(t)}
	l.shortToken = must[api.Token](t, "token", "create", "--kind", "project", "--project", "e2e", "--for", "1m")
	l.empty = lookAround(t)
	explained := false
	step := func(name string, f func(t *testing.T)) bool {
		began := time.Now()
		ok := t.Run(name, func(t *testing.T) {
			defer func() {
				if t.Failed() && !explained {
					explained = true
					explain(t)
				}
				t.Logf("step took %v", time.Since(began).Round(time.Millisecond))
			}()
			f(t)
		})
		return ok
	}
	need := func(name string, f func(t *testing.T)) {
		if !step(name, f) {
			t.Fatalf("without %q the rest says nothing", name)
		}
	}
	step("bad input is refused and changes nothing", l.badInput)
	need("the leader is killed while a cluster is provisioning", l.leaderWhileProvisioning)
	need("a second cluster is booked for a time to come", l.bookBeta)
	step("a token that expired is refused", l.expired)
	step("the leader is killed while a cluster is active", l.leaderWhileActive)
	need("the second cluster is provisioned before its slot and active at its start", l.betaStarts)
	step("two clusters do not reach each other", l.isolation)
	step("a target process is killed during I/O", l.targetDuringIO)
	step("a follower is cut off and comes back", l.cutOff)
	step("the second cluster ends by itself", l.betaEnds)
	step("every vcnd is killed in turn during a job", l.everyDaemon)
	need("a worker joins under a job, and leaves only when its job has ended", l.growAndShrink)
	need("a parked cluster comes back with what is on its disks", l.parkAndResume)
	step("what is asked for is offered, held, waited for and changed", l.calendar)
	step("a released cluster leaves nothing", l.release)
}

// leaderWhileProvisioning is how alpha comes up.
func (l *life) leaderWhileProvisioning(t *testing.T) {
	began := time.Now()
	r := must[api.Reservation](t, "reserve", "-f", l.spec(t, "alpha", "{start: asap, for: 2h}", 2))
	until(t, convergeMax, "disks or guests being made", func(ctx context.Context) (bool, string) {
		var err error
		r, err = query[api.Reservation](ctx, "show", r.ID)
		return err == nil && r.State == api.StateProvisioning && nodeOf(t, r, api.FrontendName).State != "waiting", fmt.Sprint(err, r.State, nodeStates(r))
	})
	victim, took := killLeader(t)
	r = must[api.Reservation](t, "show", r.ID)
	if r.State != api.StateProvisioning {
		t.Fatalf("with the leader gone alpha is %s: it was killed too late", r.State)
	}
	t.Logf("killed %s while provisioning (%s); another host answered a change after %v", victim.Name, nodeStates(r), took)
	if err := victim.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.alpha = awaitState(t, r.ID, api.StateActive, provisionMax)
	t.Logf("alpha is active %v after it was asked for", time.Since(began).Round(time.Millisecond))
	awaitHosts(t)
	awaitWhole(t, "alpha")
	l.srun(t, l.alpha)
	exactly(t, l.alpha)
	if n := count(events(t, "alpha"), "reservation.provisioning"); n != 1 {
		t.Errorf("provisioning began %d times", n)
	}
	for _, n := range l.alpha.Nodes {
		if n.Generation != 1 {
			t.Errorf("%s was started anew: it is of generation %d", n.Name, n.Generation)
		}
	}
	l.alphaAlone = lookAround(t)
}

// bookBeta reserves as near to now as a cluster can be provisioned in time.
func (l *life) bookBeta(t *testing.T) {
	const ahead, length = 10 * time.Second, 210 * time.Second
	far := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	plan := must[api.Plan](t, "reserve", "-f", l.spec(t, "beta", fmt.Sprintf("{start: %q, for: 1h}", far), 1), "--dry-run")
	lead, err := api.ParseDuration(plan.Lead)
	if err != nil {
		t.Fatal(err)
	}
	if got := plan.Start.Sub(plan.Provision); got < lead || got > lead+time.Second {
		t.Errorf("the plan says a lead of %s and provisions %v before the start", plan.Lead, got)
	}
	l.betaStart = time.Now().Add(lead + ahead).UTC().Truncate(time.Second)
	slot := fmt.Sprintf("{start: %q, for: %s}", l.betaStart.Format(time.RFC3339), api.FormatDuration(length))
	l.beta = must[api.Reservation](t, "reserve", "-f", l.spec(t, "beta", slot, 1))
	if l.beta.State != api.StateBooked || !l.beta.Start.Equal(l.betaStart) || !l.beta.End.Equal(l.betaStart.Add(length)) {
		t.Fatalf("beta is %s from %s to %s, want it booked for %s", l.beta.State, l.beta.Start, l.beta.End, slot)
	}
	t.Logf("beta is booked for %s, lead %v", l.betaStart.Format(time.TimeOnly), l.beta.Start.Sub(l.beta.Provision))
	exactly(t, l.alpha)
}

// clockSlack is how late the clockwork may be, and a report be taken.
const clockSlack = 10 * time.Second

func (l *life) betaStarts(t *testing.T) {
	l.beta = awaitState(t, "beta", api.StateActive, provisionMax)
	now := time.Now()
	if now.Before(l.beta.Start) {
		t.Errorf("beta was active at %s, before its start at %s", now, l.beta.Start)
	}
	ev := events(t, "beta")
	booked, provisioning := when(t, ev, "reservation.booked"), when(t, ev, "reservation.provisioning")
	ready, active := when(t, ev, "reservation.ready"), when(t, ev, "reservation.active")
	inOrder(t, booked, provisioning, ready, active)
	if d := provisioning.Sub(l.beta.Provision); d < 0 || d > clockSlack {
		t.Errorf("provisioning began %v after its time", d)
	}
	due := l.beta.Start
	if ready.After(due) {
		t.Logf("beta was ready only %v after its start: the machine is busy", ready.Sub(due))
		due = ready
	}
	if d := active.Sub(due); d < 0 || d > clockSlack {
		t.Errorf("beta became active %v after it was due", d)
	}
	t.Logf("booked %s, provisioning %s, ready %s, start %s, active %s", booked.Format(time.TimeOnly), provisioning.Format(time.TimeOnly),
		ready.Format(time.TimeOnly), l.beta.Start.Format(time.TimeOnly), active.Format(time.TimeOnly))
	awaitWhole(t, "beta")
	l.srun(t, l.beta)
	exactly(t, l.alpha, l.beta)
}

func (l *life) betaEnds(t *testing.T) {
	wait := max(time.Until(l.beta.End), 0) + releaseMax
	l.beta = awaitState(t, l.beta.ID, api.StateEnded, wait)
	ev := events(t, l.beta.ID)
	ending, ended := when(t, ev, "reservation.ending"), when(t, ev, "reservation.ended")
	inOrder(t, when(t, ev, "reservation.active"), ending, when(t, ev, "reservation.stopped"), ended)
	if d := ending.Sub(l.beta.End); d < 0 || d > clockSlack {
		t.Errorf("beta was ended %v after its end", d)
	}
	t.Logf("end of the slot %s, ending %s, ended %s", l.beta.End.Format(time.TimeOnly), ending.Format(time.TimeOnly), ended.Format(time.TimeOnly))
	same(t, l.alphaAlone)
	exactly(t, l.alpha)
	awaitWhole(t, "alpha")
	l.srun(t, l.alpha)
}

func events(t *testing.T, name string) []api.Event {
	t.Helper()
	return mustList[api.Event](t, "events", name)
}

func count(list []api.Event, kind string) (n int) {
	for _, e := range list {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// when is the time of the one event of a kind.
func when(t *testing.T, list []api.Event, kind string) time.Time {
	t.Helper()
	var at time.Time
	for _, e := range list {
		if e.Kind == kind {
			at = e.Time
		}
	}
	if n := count(list, kind); n != 1 {
		t.Fatalf("%d events %s, want one, in %+v", n, kind, list)
	}
	return at
}

func inOrder(t *testing.T, times ...time.Time) {
	t.Helper()
	for i := 1; i < len(times); i++ {
		if times[i].Before(times[i-1]) {
			t.Errorf("events are out of order: %v", times)
		}
	}
}
