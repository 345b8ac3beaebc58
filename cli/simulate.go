package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vcn/api"
	"vcn/api/client"
)

// Simulator plays what-ifs. This package may not know the code that decides on
// the hosts, so whoever calls Main plugs one in.
type Simulator func(ctx context.Context, q SimulateRequest, progress func(SimulateProgress)) (Simulation, error)

// SimulateRequest is what is to be replayed, against what.
type SimulateRequest struct {
	Trace         io.Reader         // jobs, plain or compressed; nil: the reservations
	Reservations  []api.Reservation // of the calendar
	Cases         []SimulateCase
	CPUsPerWorker int          // of a trace's workers
	Memory        api.Quantity // of each; zero: as in the trace
	Jobs          int          // at most; zero: all
	From, Until   time.Time    // of what came then; zero: all
	Wait, Lead    time.Duration
	Clock         func(time.Time) string // shows a time to the reader
}

// SimulateCase is hosts and a policy. Name is what it is called in the answer.
type SimulateCase struct {
	Name   string
	Hosts  []SimulateHost
	Scale  float64 // how many times the hosts; 0: once
	Add    []SimulateHost
	Policy string
}

// SimulateHost is one machine, or Count of one kind.
type SimulateHost struct {
	Name          string       `json:"name"`
	Classes       []api.Class  `json:"classes"`
	CPUs          int          `json:"cpus"`
	Memory        api.Quantity `json:"memory"`
	Storage       api.Quantity `json:"storage,omitempty"`
	FailureDomain string       `json:"failureDomain,omitempty"`
	Count         int          `json:"count,omitempty"`
}

// SimulateProgress is how far a case, counted from 1, is.
type SimulateProgress struct {
	Case, Done, Total int
	At                time.Time
}

// Simulation is the answer: a document for each case, and for people rows of a
// label and a value of each case.
type Simulation struct {
	Items []any
	Rows  [][]string
	Days  [][]string // the same by day
	Notes []string
}

// Option changes what Main does.
type Option func(*app)

// WithSimulator plugs in what vcnctl simulate asks.
func WithSimulator(s Simulator) Option { return func(a *app) { a.simulator = s } }

const simulateLong = `Answers "what if": replays requests against hosts and a policy of asking, with the
code that decides on the hosts, in virtual time. It says how many are accepted,
how long they wait, and how much of the hosts is used. Nothing is reserved.

The requests are the reservations there are and were, each made when it was made
(this wants an operator's token: a project's shows only that project's, so that
the hosts look emptier than they are), or with --trace the jobs of a trace in the
Standard Workload Format, each a cluster of a frontend and as many workers as its
processors need. A trace that does not say when it began begins at
2001-01-01T00:00Z.

The hosts are those there are, or those of --hosts, a file such as
  hosts:
  - {name: big, count: 20, classes: [compute], cpus: 64, memory: 256GiB}
  - {name: front, count: 2, classes: [gateway, storage], cpus: 16, memory: 64GiB, storage: 20TiB}
With --trace and --hosts nothing is asked over the network.

Policies: book asks once and takes no for an answer; wait books the first start
within --wait, or joins the waitlist; when takes the earliest offer within --wait.

--compare shows one more case beside the first, and may be repeated: it is made of
policy=, scale=, hosts=, add= and name=, with semicolons, and is otherwise as the
flags say. A cluster that is held still runs until its job ends or its slot does;
one of the calendar until its slot does. Waiting is what comes on top of
provisioning.`

// simulateFlags are those of simulate.
type simulateFlags struct {
	trace, hosts, policy string
	scale                float64
	add, compare         []string
	wait, lead           time.Duration
	cpus, jobs           int
	memory               api.Quantity
	from, until, zone    string
	days                 bool
}

// Bounds and defaults of simulate.
const (
	simulateWait = 24 * time.Hour
	// simulateTraceLead is the lead time of a trace's jobs, whose slots are made
	// longer by it.
	simulateTraceLead = 2 * time.Minute
	simulateCasesMax  = 16
	simulateHostsMax  = 20_000
	simulateScaleMax  = 1000
	simulateFileMax   = 4 << 20
)

func (a *app) simulateCommand() *cobra.Command {
	f := simulateFlags{wait: simulateWait}
	c := &cobra.Command{
		Use: "simulate", Short: "What if: replay a calendar or a trace against other hosts or policies", Long: simulateLong,
		Example: examples(
			"The calendar, with half as many hosts again", "vcnctl simulate --compare scale=1.5",
			"Ten more machines, or a waitlist of two days", "vcnctl simulate --compare 'add=10:cpus=64,memory=256GiB,classes=compute' --compare policy=wait --wait 2d",
			"A trace on hosts that one might buy, offline", "vcnctl simulate --trace centre.swf.gz --hosts hosts.yaml --cpus-per-worker 16 --policy wait",
			"For a program", "vcnctl simulate --trace centre.swf --hosts hosts.yaml -o json | jq '.items[0].acceptance'"),
		Args: exactly(0, "no arguments"),
	}
	fl := c.Flags()
	fl.StringVar(&f.trace, "trace", "", "replay this trace (SWF, or SWF with gzip; - for stdin) instead of the calendar")
	fl.StringVar(&f.hosts, "hosts", "", "hosts from this file, YAML or JSON, instead of those there are")
	fl.Float64Var(&f.scale, "scale", 1, "so many times the hosts of each set of classes")
	fl.StringArrayVar(&f.add, "add", nil, "more hosts, as 10:cpus=64,memory=256GiB,classes=compute+storage,storage=4TiB; may be repeated")
	fl.StringVar(&f.policy, "policy", "book", "how requests are asked: book, wait or when")
	fl.Var((*spanValue)(&f.wait), "wait", "how long after its best start each request may begin, up to 1y")
	fl.Var((*spanValue)(&f.lead), "lead", "lead time of every reservation (default 2m of a trace's, else by size)")
	fl.StringArrayVar(&f.compare, "compare", nil, "one more case, as 'scale=1.5;policy=wait'; may be repeated")
	fl.IntVar(&f.cpus, "cpus-per-worker", 1, "processors of a trace's job that share a worker")
	fl.Var((*quantityValue)(&f.memory), "memory", "memory of each worker of a trace (default: as in the trace, or 1GiB a processor)")
	fl.IntVar(&f.jobs, "jobs", 0, "only so many jobs of the trace (default: all)")
	fl.StringVar(&f.from, "from", "", "only what came from then on, as 2030-12-01T09:00")
	fl.StringVar(&f.until, "until", "", "only what came before then")
	fl.StringVar(&f.zone, "zone", "", "IANA time zone of times without an offset (default: TZ, or this machine's)")
	fl.BoolVar(&f.days, "days", false, "show the use of each day too")
	c.RunE = a.run(func(ctx context.Context, _ []string) error { return a.simulate(ctx, f, fl) })
	return c
}

func (a *app) simulate(ctx context.Context, f simulateFlags, set *pflag.FlagSet) error {
	if a.simulator == nil {
		return fmt.Errorf("this build of vcnctl has no simulator")
	}
	q, err := a.simulateRequest(f, set)
	if err != nil {
		return err
	}
	if err := a.simulateFetch(ctx, f, &q); err != nil {
		return err
	}
	if f.trace != "" {
		in, closeTrace, err := a.openTrace(ctx, f.trace)
		if err != nil {
			return err
		}
		defer closeTrace()
		q.Trace = in
	}
	began := a.now()
	sim, err := a.simulator(ctx, q, a.simulateProgress(began, len(q.Cases)))
	if err != nil {
		return err
	}
	for _, n := range sim.Notes {
		a.note("%s", oneLine(n))
	}
	return a.print(api.List[any]{Items: sim.Items}, func() {
		header := []string{"CASE"}
		for _, c := range q.Cases {
			header = append(header, oneLine(c.Name))
		}
		fmt.Fprint(a.stdout, renderTable(header, sim.Rows))
		if f.days {
			header[0] = "USE OF CORES"
			fmt.Fprint(a.stdout, "\n"+renderTable(header, sim.Days))
		}
	})
}

// simulateProgress tells how far it is, when that takes long.
func (a *app) simulateProgress(began time.Time, cases int) func(SimulateProgress) {
	told := began
	return func(p SimulateProgress) {
		now := a.now()
		if now.Sub(told) < a.patienceAfter {
			return
		}
		told = now
		a.note("case %d of %d: %d of %d requests, at %s (%s)", p.Case, cases, p.Done, p.Total, a.clockTime(p.At), span(now.Sub(began)))
	}
}

// simulateRequest is what the flags say.
func (a *app) simulateRequest(f simulateFlags, set *pflag.FlagSet) (SimulateRequest, error) {
	q := SimulateRequest{CPUsPerWorker: f.cpus, Memory: f.memory, Jobs: f.jobs, Wait: f.wait, Lead: f.lead, Clock: a.clockTime}
	var errs []api.FieldError
	bad := func(flag, value, want string) {
		errs = append(errs, api.FieldError{Field: "--" + flag, Value: value, Want: want})
	}
	if f.trace == "" {
		for _, name := range []string{"cpus-per-worker", "memory", "jobs"} {
			if set.Changed(name) {
				bad(name, set.Lookup(name).Value.String(), "--trace beside it")
			}
		}
	} else if !set.Changed("lead") {
		q.Lead = simulateTraceLead
	}
	if f.wait > 365*24*time.Hour {
		bad("wait", api.FormatDuration(f.wait), "0s to 1y, such as 2d")
	}
	if f.lead > 24*time.Hour {
		bad("lead", api.FormatDuration(f.lead), "1s to 1d, such as 2m")
	}
	if f.cpus < 1 || f.cpus > api.CPUsMax {
		bad("cpus-per-worker", fmt.Sprint(f.cpus), fmt.Sprintf("1 to %d", api.CPUsMax))
	}
	if f.jobs < 0 || f.jobs > 1_000_000 {
		bad("jobs", fmt.Sprint(f.jobs), "1 to 1000000")
	}
	if f.memory != 0 && (f.memory < api.MemoryMin || f.memory > api.MemoryMax) {
		bad("memory", f.memory.String(), fmt.Sprintf("%s to %s", api.MemoryMin, api.MemoryMax))
	}
	if len(f.compare) >= simulateCasesMax {
		bad("compare", fmt.Sprintf("%d of them", len(f.compare)), fmt.Sprintf("at most %d", simulateCasesMax-1))
	}
	zone, err := a.namedZone(f.zone)
	if err == nil {
		q.From, err = moment("--from", f.from, zone)
	}
	if err == nil {
		q.Until, err = moment("--until", f.until, zone)
	}
	if err != nil {
		return q, err
	}
	if len(errs) == 0 {
		errs, err = a.simulateCases(f, &q)
	}
	if len(errs) > 0 {
		return q, usage("the simulation is not right", "Try: vcnctl simulate --help", errs...)
	}
	return q, err
}

// simulateCases makes the first case of the flags, and of each --compare another.
func (a *app) simulateCases(f simulateFlags, q *SimulateRequest) (errs []api.FieldError, err error) {
	terms := []string{fmt.Sprintf("scale=%v", f.scale), "policy=" + f.policy}
	if f.hosts != "" {
		terms = append(terms, "hosts="+f.hosts)
	}
	for _, t := range f.add {
		terms = append(terms, "add="+t)
	}
	base := SimulateCase{Name: f.policy}
	if f.scale != 1 {
		base.Name += fmt.Sprintf(";scale=%v", f.scale)
	}
	flagOf := func(key string) string { return "--" + key }
	for _, t := range terms {
		if e, err := a.simulateTerm(&base, t, flagOf); e != nil || err != nil {
			return append(errs, deref(e)...), err
		}
	}
	q.Cases = []SimulateCase{base}
	for _, text := range f.compare {
		c := base
		c.Name = text
		for t := range strings.SplitSeq(text, ";") {
			e, err := a.simulateTerm(&c, strings.TrimSpace(t), func(string) string { return "--compare" })
			if err != nil {
				return errs, err
			}
			errs = append(errs, deref(e)...)
		}
		q.Cases = append(q.Cases, c)
	}
	return errs, nil
}

func deref(e *api.FieldError) []api.FieldError {
	if e == nil {
		return nil
	}
	return []api.FieldError{*e}
}

// simulateTerm is one key=value of a case.
func (a *app) simulateTerm(c *SimulateCase, term string, field func(key string) string) (*api.FieldError, error) {
	key, value, _ := strings.Cut(term, "=")
	bad := func(want string) (*api.FieldError, error) {
		return &api.FieldError{Field: field(key), Value: value, Want: want}, nil
	}
	switch key {
	case "name":
		c.Name = value
	case "policy":
		if value != "book" && value != "wait" && value != "when" {
			return bad("book, wait or when")
		}
		c.Policy = value
	case "scale":
		var n float64
		if _, err := fmt.Sscanf(value+" .", "%g .", &n); err != nil || math.IsNaN(n) || n <= 0 || n > simulateScaleMax {
			return bad("a number above 0, at most 1000, such as 1.5")
		}
		c.Scale = n
	case "add":
		h, want := parseSimulateHost(value, len(c.Add)+1)
		if want != "" {
			return bad(want)
		}
		c.Add = append(c.Add[:len(c.Add):len(c.Add)], h)
	case "hosts":
		hosts, err := a.readHosts(value)
		c.Hosts = hosts
		return nil, err
	default:
		return &api.FieldError{Field: field(key), Value: term, Want: "policy=, scale=, hosts=, add= or name=, with semicolons between"}, nil
	}
	return nil, nil
}

// simulateFetch asks the hosts for what the flags do not give.
func (a *app) simulateFetch(ctx context.Context, f simulateFlags, q *SimulateRequest) error {
	needHosts := false
	for _, c := range q.Cases {
		needHosts = needHosts || c.Hosts == nil
	}
	if needHosts {
		list, err := asking(ctx, a, "the list of hosts", func(c *client.Client) ([]api.Host, error) { return c.ListHosts(ctx) })
		var p *api.Problem
		if errors.As(err, &p) && p.Code == api.CodeForbidden {
			p.Next = "Say which hosts there are with --hosts FILE. A project's token shows neither the hosts nor what others hold of them: use an operator's for the whole calendar."
		}
		if err != nil {
			return err
		}
		hosts := hostsThereAre(list)
		for i := range q.Cases {
			if q.Cases[i].Hosts == nil {
				q.Cases[i].Hosts = hosts
			}
		}
	}
	if f.trace != "" {
		return nil
	}
	list, err := asking(ctx, a, "the reservations", func(c *client.Client) ([]api.Reservation, error) { return c.Reservations(ctx, "", true) })
	if err != nil {
		return err
	}
	if !a.operator {
		a.note("this token shows one project's reservations only: what others hold is not replayed, so the answer is better than the truth")
	}
	q.Reservations = list
	return nil
}

// openTrace opens a file, or stdin.
func (a *app) openTrace(ctx context.Context, path string) (io.Reader, func(), error) {
	if path == "-" {
		return untilDone{ctx, a.stdin}, func() {}, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, usage("cannot read the trace: "+err.Error(), "Check the path after --trace")
	}
	return untilDone{ctx, file}, func() { file.Close() }, nil
}

// untilDone reads until a context ends.
type untilDone struct {
	ctx context.Context
	in  io.Reader
}

func (r untilDone) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.in.Read(b)
}
