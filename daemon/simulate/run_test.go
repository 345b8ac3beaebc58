package simulate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vcn/api"
)

var t0 = time.Date(2030, 1, 7, 9, 0, 0, 0, time.UTC)

var allClasses = []api.Class{api.ClassGateway, api.ClassCompute, api.ClassStorage}

// box is a host for so many nodes of one core.
func box(cores int) Host {
	return Host{Name: "box", Classes: allClasses, CPUs: cores, Memory: 64 * api.GiB, Storage: api.TiB}
}

// pair asks for a frontend and a worker of one core each.
func pair(at, length, runs, wait time.Duration) Request {
	return Request{At: t0.Add(at), Length: length, Runs: runs, Wait: wait, Workers: 1}
}

const m = time.Minute

// five is the scenario that is worked out by hand: a host with room for two
// pairs, two minutes of lead.
func five(policy Policy, wait time.Duration) Scenario {
	return Scenario{Hosts: []Host{box(4)}, Policy: policy, Lead: 2 * m, Requests: []Request{
		pair(0, 60*m, 30*m, 0),    // holds 0-32, though booked until 65
		pair(10*m, 60*m, 0, 0),    // holds 10-70, booked until 75
		pair(20*m, 60*m, 0, wait), // there is no room now
		pair(32*m, 10*m, 20*m, 0), // comes when the first one ends; cut at 42
		pair(75*m, 60*m, 1*m, 0),  // holds 75-78
	}}
}

func play(t testing.TB, s Scenario) Report {
	t.Helper()
	r, err := Run(t.Context(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.AtOnce+r.Waited+r.Refused != r.Requests || r.Requests != len(s.Requests) || r.Broken != 0 {
		t.Fatalf("%d at once, %d after waiting, %d refused of %d; %d broken", r.AtOnce, r.Waited, r.Refused, r.Requests, r.Broken)
	}
	if r.Took <= 0 || r.Rate() <= 0 {
		t.Errorf("took %v, %v a second", r.Took, r.Rate())
	}
	return r
}

type counts struct{ AtOnce, Waited, Refused, Cut, Queue int }

func countsOf(r Report) counts { return counts{r.AtOnce, r.Waited, r.Refused, r.Cut, r.Queue.Max} }

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %+v, want %+v", what, got, want)
	}
}

func TestBookRefusesWhatDoesNotFitAtOnce(t *testing.T) {
	r := play(t, five(PolicyBook, 2*time.Hour))
	want(t, "counts", countsOf(r), counts{AtOnce: 4, Refused: 1, Cut: 1})
	want(t, "reasons", len(r.Reasons), 1)
	want(t, "reason", r.Reasons[0], Reason{ClassGateway, 1})
	want(t, "until", r.Until, t0.Add(78*m))
	// Cores held: 2 for 32, 60, 10 and 3 minutes, of 4 for 78.
	want(t, "cores", r.CoresUse, Use{0.6731, 1})
	want(t, "asked", r.NodeHours, NodeHours{Asked: 8.33, Used: 3.23, Held: 3.5})
	want(t, "waits", r.WaitSeconds, Spread{})
	want(t, "slowdown", r.Slowdown, Spread{1, 1, 1, 1})
	want(t, "acceptance", r.Acceptance, 0.8)
	want(t, "days", len(r.Days), 1)
	want(t, "day", r.Days[0].Cores, r.CoresUse)
}

func TestWaitBooksTheFirstSlotThatIsFree(t *testing.T) {
	// The first pair is booked until 65, so the third begins after that and its
	// lead: at 67. It could have begun at 22 at best.
	for _, policy := range []Policy{PolicyWait, PolicyWhen} {
		r := play(t, five(policy, 2*time.Hour))
		want(t, "counts", countsOf(r), counts{AtOnce: 4, Waited: 1, Cut: 1, Queue: 1})
		want(t, "longest wait", r.WaitSeconds.Max, (45 * m).Seconds())
		want(t, "95%", r.WaitSeconds.P95, (45 * m).Seconds())
		want(t, "median", r.WaitSeconds.P50, 0)
		want(t, "mean", r.WaitSeconds.Mean, (45*m).Seconds()/5)
		want(t, "queue", r.Queue.At, t0.Add(20*m))
		want(t, "until", r.Until, t0.Add(127*m))
		want(t, "slowdown", r.Slowdown.Max, 1.75) // 105 minutes for 60
	}
}

func TestTheWaitlistTakesWhatComesFreeEarly(t *testing.T) {
	// Nothing is promised to be free within half an hour, but the first pair ends
	// at 32: the third gets its place, before the fourth, which is refused.
	r := play(t, five(PolicyWait, 30*m))
	want(t, "counts", countsOf(r), counts{AtOnce: 3, Waited: 1, Refused: 1, Queue: 1})
	want(t, "longest wait", r.WaitSeconds.Max, (12 * m).Seconds())
	want(t, "until", r.Until, t0.Add(92*m))
}

func TestWhoWaitsInVainIsRefusedInTheEnd(t *testing.T) {
	r := play(t, five(PolicyWait, 10*m))
	want(t, "counts", countsOf(r), counts{AtOnce: 4, Refused: 1, Cut: 1, Queue: 1})
	want(t, "reason", r.Reasons[0], Reason{ClassWaited, 1})
}

func TestAnEarliestStartIsABookingAhead(t *testing.T) {
	s := five(PolicyBook, 0)
	s.Requests = []Request{
		{At: t0, Earliest: t0.Add(24 * time.Hour), Length: time.Hour, Workers: 1, Runs: 30 * m},
		{At: t0.Add(m), Earliest: t0.Add(24 * time.Hour), Length: time.Hour, Workers: 1},
		{At: t0.Add(2 * m), Earliest: t0.Add(24*time.Hour + 59*m), Length: time.Hour, Workers: 1}, // overlaps them
		pair(3*m, time.Hour, 0, 0), // hours before
	}
	r := play(t, s)
	want(t, "counts", countsOf(r), counts{AtOnce: 3, Refused: 1})
	want(t, "until", r.Until, t0.Add(25*time.Hour))
	want(t, "days", len(r.Days), 2)
	// Held from 2 minutes before: 2 cores for 32 and 62 minutes of 600 (midnight
	// to 10 o'clock) on 4.
	want(t, "the second day", r.Days[1].Cores, Use{round(2*(32+62)/(600.0*4), 4), 1})
}

func TestRefusalsAreClassed(t *testing.T) {
	for class, c := range map[string]struct {
		host Host
		req  Request
		more int // clusters
	}{
		ClassGateway:     {Host{Name: "h", Classes: []api.Class{api.ClassCompute, api.ClassStorage}, CPUs: 8, Memory: api.TiB, Storage: api.TiB}, pair(0, time.Hour, 0, 0), 0},
		ClassCompute:     {box(4), Request{At: t0, Length: time.Hour, Workers: 4}, 0},
		ClassStorage:     {box(4), Request{At: t0, Length: time.Hour, Workers: 1, Shape: api.NodeShape{Disk: 2 * api.TiB}}, 0},
		ClassInvalid:     {box(4), Request{At: t0, Length: time.Hour, Workers: 1001}, 0},
		ClassIdentifiers: {box(64), pair(0, time.Hour, 0, 0), 1},
	} {
		s := Scenario{Hosts: []Host{c.host}, Policy: PolicyBook, Requests: []Request{c.req}}
		if c.more > 0 {
			s.Clusters, s.Requests = c.more, append(s.Requests, c.req)
		}
		r := play(t, s)
		want(t, class+" refused", r.Refused, 1)
		want(t, class, r.Reasons[0].Class, class)
	}
	s := five(PolicyWait, 10*m)
	s.WaitMax, s.Requests = 1, append(s.Requests[:3:3], pair(21*m, time.Hour, 0, 10*m))
	want(t, "second in a waitlist of one", play(t, s).Reasons[0], Reason{ClassWaited, 1})
	found := false
	for _, r := range play(t, s).Reasons {
		found = found || r == Reason{ClassFull, 1}
	}
	want(t, "a full waitlist", found, true)
}

func TestMoreHostsNeverAcceptFewer(t *testing.T) {
	// Of equal nodes, and all at once, requests are calls on so many lines: the
	// first lines do not notice that there is one more behind them.
	rapid.Check(t, func(t *rapid.T) {
		workers := rapid.IntRange(1, 3).Draw(t, "workers")
		cores := rapid.IntRange(1, 4).Draw(t, "cores")
		var reqs []Request
		for range rapid.IntRange(1, 12).Draw(t, "requests") {
			reqs = append(reqs, Request{
				At:     t0.Add(time.Duration(rapid.IntRange(0, 240).Draw(t, "at")) * m),
				Length: time.Duration(rapid.IntRange(5, 120).Draw(t, "length")) * m,
				Runs:   time.Duration(rapid.IntRange(0, 120).Draw(t, "runs")) * m, Workers: workers})
		}
		before := -1
		for _, n := range []int{1, 2, 4} {
			h := box(cores)
			h.Count = n
			r, err := Run(context.Background(), Scenario{Hosts: []Host{h}, Policy: PolicyBook, Lead: m, Requests: reqs}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if accepted := r.AtOnce + r.Waited; accepted < before {
				t.Fatalf("%d hosts accept %d, fewer did %d", n, accepted, before)
			} else {
				before = accepted
			}
			if n*cores < workers+1 && r.Refused != r.Requests {
				t.Fatalf("%d cores carry clusters of %d", n*cores, workers+1)
			}
		}
	})
}

// centre is a made-up one with its hosts.
func centre(jobs int, span time.Duration, hosts int, policy Policy, seed uint64) Scenario {
	return loaded(Load{Seed: seed, Jobs: jobs, Span: span, ProcsMax: 128}, hosts, policy)
}

// loaded is hosts under a load.
func loaded(l Load, hosts int, policy Policy) Scenario {
	_, list := Synthesize(l)
	o := TraceOptions{CPUsPerWorker: 16, Lead: 2 * m, Wait: 24 * time.Hour}
	s := Scenario{Name: string(policy), Policy: policy, Lead: 2 * m, Hosts: []Host{
		{Name: "front", Classes: []api.Class{api.ClassGateway, api.ClassStorage}, CPUs: 32, Memory: 128 * api.GiB, Storage: 40 * api.TiB, Count: max(hosts/10, 1)},
		{Name: "big", Classes: []api.Class{api.ClassCompute}, CPUs: 64, Memory: 256 * api.GiB, Count: max(hosts*9/10, 1)}}}
	for i := range list {
		if q, ok := o.request(&list[i], traceStart.Add(seconds(list[i].Submit))); ok {
			s.Requests = append(s.Requests, q)
		}
	}
	return s
}

func TestTheSameScenarioGivesTheSameReport(t *testing.T) {
	for _, policy := range Policies {
		s := centre(80, 4*time.Hour, 3, policy, 7)
		first, err := json.Marshal(play(t, s))
		if err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(play(t, s))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, again) {
			t.Errorf("%s:\n%s\n%s", policy, first, again)
		}
		if r := play(t, s); r.Refused == 0 || r.AtOnce == 0 || policy != PolicyBook && r.Waited == 0 {
			t.Errorf("%s: the scenario is too easy or too hard: %+v", policy, countsOf(r))
		}
	}
}

func TestWaitingAcceptsMoreThanAskingOnce(t *testing.T) {
	book, wait := play(t, centre(80, 4*time.Hour, 3, PolicyBook, 7)), play(t, centre(80, 4*time.Hour, 3, PolicyWait, 7))
	if wait.Acceptance <= book.Acceptance {
		t.Errorf("wait accepts %v, book %v", wait.Acceptance, book.Acceptance)
	}
}

func TestARunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := Run(ctx, centre(200, 24*time.Hour, 3, PolicyWait, 1), func(p Progress) {
		if p.Done == 20 {
			cancel()
		}
		if p.Done > 21 {
			t.Errorf("request %d is asked all the same", p.Done)
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestProgressNamesEachRequest(t *testing.T) {
	seen := 0
	if _, err := Run(t.Context(), five(PolicyBook, 0), func(p Progress) {
		if p.Done != seen || p.Total != 5 || p.At.Before(t0) {
			t.Errorf("%+v", p)
		}
		seen++
	}); err != nil || seen != 5 {
		t.Errorf("%d times, %v", seen, err)
	}
}

func TestScenariosOutOfBoundsAreInvalid(t *testing.T) {
	for name, change := range map[string]func(*Scenario){
		"no hosts":            func(s *Scenario) { s.Hosts = nil },
		"no requests":         func(s *Scenario) { s.Requests = nil },
		"no policy":           func(s *Scenario) { s.Policy = "hope" },
		"too many requests":   func(s *Scenario) { s.Requests = make([]Request, RequestsMax+1) },
		"too many hosts":      func(s *Scenario) { s.Hosts[0].Count = HostsMax + 1 },
		"too many in all":     func(s *Scenario) { h := box(1); h.Count = HostsMax; s.Hosts = append(s.Hosts, h) },
		"a negative count":    func(s *Scenario) { s.Hosts[0].Count = -1 },
		"no time":             func(s *Scenario) { s.Requests[0].At = time.Time{} },
		"negative length":     func(s *Scenario) { s.Requests[0].Length = -1 },
		"decades":             func(s *Scenario) { s.Requests[1].At = t0.AddDate(11, 0, 0) },
		"too long a wait":     func(s *Scenario) { s.Requests[1].Wait = WaitMax + 1 },
		"too many clusters":   func(s *Scenario) { s.Clusters = ClustersMax + 1 },
		"too long a lead":     func(s *Scenario) { s.Lead = LeadMax + 1 },
		"a host of no cores":  func(s *Scenario) { s.Hosts[0].CPUs = 0 },
		"two hosts of a name": func(s *Scenario) { s.Hosts = append(s.Hosts, box(1)) },
		"negative workers":    func(s *Scenario) { s.Requests[2].Workers = -1 },
	} {
		s := five(PolicyBook, 0)
		change(&s)
		if _, err := Run(t.Context(), s, nil); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
