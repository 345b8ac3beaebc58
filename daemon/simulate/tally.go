package simulate

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Kinds of events, in the order of those of one instant.
const (
	evEnd   = iota // a job's cluster is released
	evHold         // its hosts are held from now on
	evLeave        // it leaves the queue
	evQueue        // one more is in the queue
)

type event struct {
	at     time.Time
	kind   int
	serial uint64 // those of one instant and kind in the order they were made
	job    *job
}

// events is a heap by time, kind and serial.
type events []event

func (h events) Len() int      { return len(h) }
func (h events) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h events) Less(i, j int) bool {
	a, b := &h[i], &h[j]
	return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.kind, b.kind), cmp.Compare(a.serial, b.serial)) < 0
}
func (h *events) Push(x any) { *h = append(*h, x.(event)) }
func (h *events) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = event{}
	*h = (*h)[:last]
	return e
}

// tally counts.
type tally struct {
	rep     Report
	reasons map[string]int
	waits   []time.Duration
	slow    []float64
	queue   int
	held    amounts
	peak    amounts
	since   time.Time // held is what it is since then
	days    []dayUse
}

// dayUse is integrals over one day, in units times seconds.
type dayUse struct {
	cpus, memory, storage float64
	peak                  amounts
}

func newTally(first time.Time) *tally {
	return &tally{rep: Report{From: first, Until: first}, reasons: map[string]int{}, since: first}
}

func (t *tally) asked(r *Request) {
	t.rep.Requests++
	t.rep.NodeHours.Asked += float64(r.nodes()) * r.Length.Hours()
}

func (t *tally) refuse(class string) {
	t.rep.Refused++
	t.reasons[class]++
}

// slowdownFloor keeps very short jobs from ruling bounded slowdown.
const slowdownFloor = 10 * time.Second

func (t *tally) accept(j *job, wait, lead time.Duration, cut bool) {
	if wait > 0 {
		t.rep.Waited++
	} else {
		t.rep.AtOnce++
	}
	if cut {
		t.rep.Cut++
	}
	run := j.end.Sub(j.usable)
	t.waits = append(t.waits, wait)
	t.slow = append(t.slow, max(1, (wait+run).Seconds()/max(run, slowdownFloor).Seconds()))
	nodes := float64(j.req.nodes())
	t.rep.NodeHours.Used += nodes * run.Hours()
	t.rep.NodeHours.Held += nodes * (run + lead).Hours()
}

// happened counts an event.
func (t *tally) happened(e event, now time.Time) {
	switch e.kind {
	case evEnd:
		t.change(now, t.held.minus(e.job.demand))
	case evHold:
		t.change(now, t.held.plus(e.job.demand))
	case evQueue:
		if t.queue++; t.queue > t.rep.Queue.Max {
			t.rep.Queue = Queue{t.queue, now}
		}
	case evLeave:
		t.leave(now)
	}
}

func (t *tally) leave(time.Time) { t.queue-- }

const day = 24 * time.Hour

// change says that from now on so much is held.
func (t *tally) change(now time.Time, held amounts) {
	first := t.rep.From.Truncate(day)
	for at := t.since; at.Before(now); {
		n := int(at.Sub(first) / day)
		for len(t.days) <= n {
			t.days = append(t.days, dayUse{})
		}
		until := first.Add(time.Duration(n+1) * day)
		if until.After(now) {
			until = now
		}
		d, s := &t.days[n], until.Sub(at).Seconds()
		d.cpus += float64(t.held.cpus) * s
		d.memory += float64(t.held.memory) * s
		d.storage += float64(t.held.storage) * s
		d.peak = d.peak.highest(t.held)
		at = until
	}
	t.since, t.held = now, held
	t.peak = t.peak.highest(held)
	t.rep.Until = later(t.rep.Until, now)
}

func (a amounts) highest(b amounts) amounts {
	return amounts{max(a.cpus, b.cpus), max(a.memory, b.memory), max(a.storage, b.storage)}
}

// report sums up.
func (t *tally) report(s *Scenario, hosts []Host) Report {
	r := t.rep
	r.Name, r.Policy, r.Hosts = s.Name, s.Policy, len(hosts)
	for i := range hosts {
		h := hosts[i].record(i)
		r.CPUs += h.CPUs
		r.Memory += hosts[i].Memory
		r.Storage += bytesOf(h.StorageBytes)
	}
	if r.Requests > 0 {
		r.Acceptance = round(float64(r.Requests-r.Refused)/float64(r.Requests), 4)
	}
	for class, n := range t.reasons { // sorted below
		r.Reasons = append(r.Reasons, Reason{class, n})
	}
	slices.SortFunc(r.Reasons, func(a, b Reason) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Class, b.Class)) })
	slices.Sort(t.waits)
	slices.Sort(t.slow)
	seconds := make([]float64, len(t.waits))
	for i, w := range t.waits {
		seconds[i] = w.Seconds()
	}
	r.WaitSeconds, r.Slowdown = spreadOf(seconds, 0), spreadOf(t.slow, 2)
	n := &r.NodeHours
	n.Asked, n.Used, n.Held = round(n.Asked, 2), round(n.Used, 2), round(n.Held, 2)
	t.use(&r)
	return r
}

// use turns integrals to shares of all hosts.
func (t *tally) use(r *Report) {
	all := [3]float64{float64(r.CPUs), float64(r.Memory), float64(r.Storage)}
	share := func(v, of float64) float64 {
		if of == 0 {
			return 0
		}
		return round(v/of, 4)
	}
	var sum dayUse
	first := r.From.Truncate(day)
	for i, d := range t.days {
		sum.cpus, sum.memory, sum.storage = sum.cpus+d.cpus, sum.memory+d.memory, sum.storage+d.storage
		at := first.Add(time.Duration(i) * day)
		from, until := later(at, r.From), at.Add(day)
		if until.After(r.Until) {
			until = r.Until
		}
		s := until.Sub(from).Seconds()
		r.Days = append(r.Days, Day{Date: at.Format(time.DateOnly),
			Cores:   Use{share(d.cpus, s*all[0]), share(float64(d.peak.cpus), all[0])},
			Memory:  Use{share(d.memory, s*all[1]), share(float64(d.peak.memory), all[1])},
			Storage: Use{share(d.storage, s*all[2]), share(float64(d.peak.storage), all[2])}})
	}
	s := r.Until.Sub(r.From).Seconds()
	r.CoresUse = Use{share(sum.cpus, s*all[0]), share(float64(t.peak.cpus), all[0])}
	r.MemoryUse = Use{share(sum.memory, s*all[1]), share(float64(t.peak.memory), all[1])}
	r.StorageUse = Use{share(sum.storage, s*all[2]), share(float64(t.peak.storage), all[2])}
}

// spreadOf is of sorted values; percentiles are by nearest rank.
func spreadOf(v []float64, digits int) Spread {
	if len(v) == 0 {
		return Spread{}
	}
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	rank := func(p float64) float64 { return v[max(int(math.Ceil(p*float64(len(v)))), 1)-1] }
	return Spread{Mean: round(sum/float64(len(v)), digits), P50: round(rank(0.5), digits), P95: round(rank(0.95), digits), Max: round(v[len(v)-1], digits)}
}

func round(x float64, digits int) float64 {
	unit := math.Pow10(digits)
	return math.Round(x*unit) / unit
}
