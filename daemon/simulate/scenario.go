package simulate

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"vcn/api"
	"vcn/fsm"
)

// Bounds of a scenario.
const (
	RequestsMax = 1_000_000
	HostsMax    = 20_000
	ClustersMax = 4094 // as many as there are VLANs
	// NodesKeptMax bounds the nodes that the state knows at one time: those of
	// live reservations and of those that were closed within fsm.ClosedLife. Each
	// takes some kilobytes.
	NodesKeptMax = 1_500_000
	LeadMax      = 24 * time.Hour
	WaitMax      = 365 * 24 * time.Hour
	WaitMin      = time.Minute // shorter ones are rounded up to it
	// spanMax is the time between the first request and the last start.
	spanMax = 10 * 366 * 24 * time.Hour
)

// Policy is how requests are asked.
type Policy string

// Policies. With each of them a request that does not fit, and may not wait, is
// refused.
const (
	// PolicyBook asks once, for the earliest start, and does not wait.
	PolicyBook Policy = "book"
	// PolicyWait books the first start within the request's wait, or joins the waitlist.
	PolicyWait Policy = "wait"
	// PolicyWhen asks for offers and takes the earliest within the request's wait.
	PolicyWhen Policy = "when"
)

// Policies lists them.
var Policies = []Policy{PolicyBook, PolicyWait, PolicyWhen}

// ErrInvalid is a scenario that cannot be run.
var ErrInvalid = errors.New("the scenario is not right")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// Host is one machine, or Count of one kind.
type Host struct {
	Name          string       `json:"name"`
	Classes       []api.Class  `json:"classes"`
	CPUs          int          `json:"cpus"`
	Memory        api.Quantity `json:"memory"`
	Storage       api.Quantity `json:"storage,omitempty"`
	FailureDomain string       `json:"failureDomain,omitempty"`
	Count         int          `json:"count,omitempty"` // 0: one
}

// Request is one cluster that somebody asks for. Times are cut to whole seconds.
type Request struct {
	At       time.Time     // when it comes
	Earliest time.Time     // earliest start; zero: at once
	Length   time.Duration // of the slot asked for, 1m-5y
	Runs     time.Duration // how long it is used, from when it is usable; zero: until the slot ends
	Frontend api.NodeShape // zero fields: the API's defaults
	Workers  int           // of Shape, 1-1000
	Shape    api.NodeShape
	More     []api.WorkerGroup // workers of other shapes
	Project  string            // zero: "p"
	Wait     time.Duration     // how long after its best start it may begin; zero: not at all
}

// nodes counts all.
func (r *Request) nodes() int {
	n := 1 + r.Workers
	for _, g := range r.More {
		n += g.Count
	}
	return n
}

// demand is what all nodes hold together, with the API's defaults.
func (r *Request) demand() amounts {
	s := api.Spec{Frontend: r.Frontend, Workers: r.groups()}.Defaults()
	var a amounts
	add := func(n api.NodeShape, count int) {
		a = a.plus(amounts{n.CPUs * count, int64(n.Memory) * int64(count), int64(n.Disk) * int64(count)})
	}
	add(s.Frontend, 1)
	for _, g := range s.Workers {
		add(g.NodeShape, g.Count)
	}
	return a
}

func (r *Request) groups() []api.WorkerGroup {
	groups := []api.WorkerGroup{{Name: "w0", Count: r.Workers, NodeShape: r.Shape}}
	for i, g := range r.More {
		g.Name, g.Appliance = fmt.Sprintf("w%d", i+1), ""
		groups = append(groups, g)
	}
	return groups
}

// Scenario is what Run plays.
type Scenario struct {
	Name     string
	Hosts    []Host
	Clusters int           // how many may exist at once, by identifiers; zero: ClustersMax
	WaitMax  int           // waitlisted requests of one project; zero: api.PolicyWaitMax
	Lead     time.Duration // lead time of every reservation; zero: control's formula, by nodes
	Policy   Policy
	Requests []Request // in any order; those of one second in this order
}

// amounts are cores and bytes.
type amounts struct {
	cpus            int
	memory, storage int64
}

func (a amounts) plus(b amounts) amounts {
	return amounts{a.cpus + b.cpus, a.memory + b.memory, a.storage + b.storage}
}

func (a amounts) minus(b amounts) amounts {
	return amounts{a.cpus - b.cpus, a.memory - b.memory, a.storage - b.storage}
}

// expand makes single hosts of those with a count.
func expand(hosts []Host) ([]Host, error) {
	var out []Host
	for _, h := range hosts {
		n := max(h.Count, 1)
		if h.Count < 0 || n > HostsMax || len(out)+n > HostsMax {
			return nil, invalid("more than %d hosts, or a negative count", HostsMax)
		}
		for i := range n {
			one := h
			one.Count = 0
			if n > 1 {
				one.Name = fmt.Sprintf("%s-%d", h.Name, i+1)
			}
			out = append(out, one)
		}
	}
	return out, nil
}

// check looks at everything that Run relies on and control does not see.
func (s *Scenario) check(hosts []Host) error {
	switch {
	case !slices.Contains(Policies, s.Policy):
		return invalid("policy %q: want book, wait or when", s.Policy)
	case len(hosts) == 0:
		return invalid("there are no hosts")
	case len(s.Requests) == 0:
		return invalid("there are no requests")
	case len(s.Requests) > RequestsMax:
		return invalid("%d requests: at most %d", len(s.Requests), RequestsMax)
	case s.Clusters < 0 || s.Clusters > ClustersMax:
		return invalid("%d clusters: want 0-%d", s.Clusters, ClustersMax)
	case s.WaitMax < 0 || s.WaitMax > api.PolicyWaitMax:
		return invalid("%d waitlisted requests of one project: want 0-%d", s.WaitMax, api.PolicyWaitMax)
	case s.Lead < 0 || s.Lead > LeadMax:
		return invalid("lead time %s: want 0s-%s", s.Lead, LeadMax)
	}
	first, last := time.Time{}, time.Time{}
	for i := range s.Requests {
		r := &s.Requests[i]
		if err := r.check(); err != nil {
			return fmt.Errorf("request %d: %w", i+1, err)
		}
		if first.IsZero() || r.At.Before(first) {
			first = r.At
		}
		for _, t := range []time.Time{r.At, r.Earliest} {
			if t.After(last) {
				last = t
			}
		}
	}
	if last.Sub(first) > spanMax {
		return invalid("from the first request to the last start it is %s: at most 10 years", api.FormatDuration(last.Sub(first)))
	}
	return nil
}

// yearMax keeps the state's clock and what is booked ahead of it within 64-bit
// nanoseconds.
const yearMax = 2150

func (r *Request) check() error {
	switch {
	case r.At.Unix() <= 2*86400 || r.At.Year() > yearMax:
		return invalid("it comes at %s: want a time of 1970-%d", r.At.Format(time.RFC3339), yearMax)
	case r.Length < 0 || r.Length > fsm.SlotMax || r.Runs < 0:
		return invalid("its length is %s, of which it runs %s", r.Length, r.Runs)
	case r.Wait < 0 || r.Wait > WaitMax:
		return invalid("it waits for %s: want 0s-1y", r.Wait)
	case r.Workers < 0 || r.Workers > math.MaxInt32 || len(r.More) > api.WorkersMax:
		return invalid("it has %d workers and %d more groups", r.Workers, len(r.More))
	}
	for _, g := range append(r.More[:len(r.More):len(r.More)], api.WorkerGroup{NodeShape: r.Shape}, api.WorkerGroup{NodeShape: r.Frontend}) {
		if g.Count < 0 || g.Count > math.MaxInt32 || g.CPUs < 0 || g.CPUs > fsm.CPUsMax || g.Memory < 0 || g.Disk < 0 ||
			int64(g.Memory) > fsm.BytesMax || int64(g.Disk) > fsm.BytesMax {
			return invalid("a group of %d workers of %+v", g.Count, g.NodeShape)
		}
	}
	return nil
}
