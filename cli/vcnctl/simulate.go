package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"vcn/api"
	"vcn/cli"
	"vcn/daemon/simulate"
	"vcn/daemon/simulate/swf"
)

// gcPercent trades memory for time while a simulation runs: nearly all it makes is
// either short-lived or stays for simulated weeks.
const gcPercent = 300

// simulator is what vcnctl simulate asks.
func simulator(ctx context.Context, q cli.SimulateRequest, progress func(cli.SimulateProgress)) (cli.Simulation, error) {
	requests, notes, err := requestsOf(q)
	if err != nil {
		return cli.Simulation{}, problemOf(err)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	out := cli.Simulation{Notes: notes}
	var reports []simulate.Report
	took := time.Duration(0)
	for i, c := range q.Cases {
		hosts, err := hostsOf(c)
		if err != nil {
			return out, problemOf(err)
		}
		s := simulate.Scenario{Name: c.Name, Hosts: hosts, Lead: q.Lead, Policy: simulate.Policy(c.Policy), Requests: requests}
		rep, err := simulate.Run(ctx, s, func(p simulate.Progress) {
			progress(cli.SimulateProgress{Case: i + 1, Done: p.Done, Total: p.Total, At: p.At})
		})
		if err != nil {
			return out, problemOf(err)
		}
		took += rep.Took
		reports = append(reports, rep)
		out.Items = append(out.Items, rep)
	}
	total := len(requests) * len(reports)
	out.Notes = append(out.Notes, fmt.Sprintf("simulated %d requests in %s (%.0f a second)", total, took.Round(time.Millisecond), float64(total)/max(took.Seconds(), 1e-9)))
	out.Rows, out.Days = rows(reports, q.Clock), dayRows(reports)
	return out, nil
}

func requestsOf(q cli.SimulateRequest) ([]simulate.Request, []string, error) {
	var notes []string
	if q.Trace == nil {
		r := simulate.Calendar(q.Reservations, simulate.CalendarOptions{Wait: q.Wait, From: q.From, Until: q.Until})
		if r.Cancelled > 0 {
			notes = append(notes, fmt.Sprintf("%d cancelled reservations are left out", r.Cancelled))
		}
		if len(r.Requests) == 0 {
			return nil, nil, fmt.Errorf("%w: there are no reservations to replay", simulate.ErrInvalid)
		}
		return r.Requests, notes, nil
	}
	t, err := simulate.ReadTrace(q.Trace, simulate.TraceOptions{CPUsPerWorker: q.CPUsPerWorker, Memory: q.Memory, Lead: q.Lead, Wait: q.Wait,
		JobsMax: q.Jobs, From: q.From, Until: q.Until})
	if err != nil {
		return nil, nil, err
	}
	if t.Skipped > 0 {
		notes = append(notes, fmt.Sprintf("%d jobs are left out: they have no processors, or never ran", t.Skipped))
	}
	if len(t.Requests) == 0 {
		return nil, nil, fmt.Errorf("%w: there are no jobs to replay", simulate.ErrInvalid)
	}
	return t.Requests, notes, nil
}

func hostsOf(c cli.SimulateCase) ([]simulate.Host, error) {
	convert := func(list []cli.SimulateHost) []simulate.Host {
		var out []simulate.Host
		for _, h := range list {
			out = append(out, simulate.Host(h))
		}
		return out
	}
	hosts := convert(c.Hosts)
	if c.Scale > 0 && c.Scale != 1 {
		var err error
		if hosts, err = simulate.Scale(hosts, c.Scale); err != nil {
			return nil, err
		}
	}
	return append(hosts, convert(c.Add)...), nil
}

// problemOf says to people what is wrong with what they gave.
func problemOf(err error) error {
	var line *swf.Error
	switch {
	case errors.As(err, &line):
		p := api.Invalid("the trace is not right: "+line.Error(), nil)
		p.Next = "It has to be in the Standard Workload Format, version 2.2, plain or compressed by gzip"
		return p
	case errors.Is(err, simulate.ErrInvalid):
		return api.Invalid(strings.TrimPrefix(err.Error(), simulate.ErrInvalid.Error()+": "), nil)
	}
	return err
}

// rows are labels, and a value of each report.
func rows(reports []simulate.Report, clock func(time.Time) string) [][]string {
	var out [][]string
	add := func(label string, value func(*simulate.Report) string) {
		row := []string{label}
		for i := range reports {
			row = append(row, value(&reports[i]))
		}
		out = append(out, row)
	}
	type report = simulate.Report
	count := func(n int) string { return fmt.Sprint(n) }
	add("hosts", func(r *report) string {
		return fmt.Sprintf("%d: %d cores, %s, %s", r.Hosts, r.CPUs, r.Memory.Short(), r.Storage.Short())
	})
	add("policy", func(r *report) string { return string(r.Policy) })
	add("from", func(r *report) string { return clock(r.From) })
	add("until", func(r *report) string { return clock(r.Until) })
	add("requests", func(r *report) string { return count(r.Requests) })
	add("accepted", func(r *report) string { return percent(r.Acceptance) })
	add("  at once", func(r *report) string { return count(r.AtOnce) })
	add("  after waiting", func(r *report) string { return count(r.Waited) })
	add("refused", func(r *report) string { return count(r.Refused) })
	for _, class := range classes(reports) {
		add("  "+classText[class], func(r *report) string {
			for _, why := range r.Reasons {
				if why.Class == class {
					return count(why.Count)
				}
			}
			return "0"
		})
	}
	add("cut by the slot's end", func(r *report) string { return count(r.Cut) })
	add("broken promises", func(r *report) string { return count(r.Broken) })
	add("wait, median", func(r *report) string { return seconds(r.WaitSeconds.P50) })
	add("wait, 95%", func(r *report) string { return seconds(r.WaitSeconds.P95) })
	add("wait, longest", func(r *report) string { return seconds(r.WaitSeconds.Max) })
	add("bounded slowdown, mean", func(r *report) string { return fmt.Sprintf("%.2f", r.Slowdown.Mean) })
	add("bounded slowdown, 95%", func(r *report) string { return fmt.Sprintf("%.2f", r.Slowdown.P95) })
	add("longest queue", func(r *report) string { return count(r.Queue.Max) })
	add("cores, mean and peak", func(r *report) string { return use(r.CoresUse) })
	add("memory, mean and peak", func(r *report) string { return use(r.MemoryUse) })
	add("storage, mean and peak", func(r *report) string { return use(r.StorageUse) })
	add("node-hours asked", func(r *report) string { return fmt.Sprintf("%.1f", r.NodeHours.Asked) })
	add("node-hours used", func(r *report) string { return fmt.Sprintf("%.1f", r.NodeHours.Used) })
	add("node-hours held", func(r *report) string { return fmt.Sprintf("%.1f", r.NodeHours.Held) })
	return out
}

var classText = map[string]string{
	simulate.ClassGateway: "no room for frontends", simulate.ClassCompute: "no room for workers", simulate.ClassStorage: "no room for disks",
	simulate.ClassIdentifiers: "no identifiers left", simulate.ClassQueue: "behind who was passed too often",
	simulate.ClassWaited: "waited in vain", simulate.ClassFull: "waitlist full", simulate.ClassInvalid: "no cluster can be like this",
}

// classes are those that any report has, in a fixed order.
func classes(reports []simulate.Report) (out []string) {
	for _, class := range []string{simulate.ClassGateway, simulate.ClassCompute, simulate.ClassStorage, simulate.ClassIdentifiers,
		simulate.ClassQueue, simulate.ClassWaited, simulate.ClassFull, simulate.ClassInvalid} {
		for i := range reports {
			if has(reports[i].Reasons, class) {
				out = append(out, class)
				break
			}
		}
	}
	return out
}

func has(reasons []simulate.Reason, class string) bool {
	for _, r := range reasons {
		if r.Class == class {
			return true
		}
	}
	return false
}

func percent(share float64) string { return fmt.Sprintf("%.1f%%", share*100) }

func use(u simulate.Use) string { return percent(u.Mean) + ", " + percent(u.Peak) }

func seconds(s float64) string {
	return api.FormatDuration(time.Duration(s) * time.Second)
}

// dayRows are the days of all reports, and what each held of its cores.
func dayRows(reports []simulate.Report) [][]string {
	var out [][]string
	at := map[string]int{}
	for i := range reports {
		for _, d := range reports[i].Days {
			n, ok := at[d.Date]
			if !ok {
				n = len(out)
				at[d.Date] = n
				out = append(out, append([]string{d.Date}, make([]string, len(reports))...))
			}
			out[n][i+1] = use(d.Cores)
		}
	}
	return out
}
