package agent

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"vcn/fsm"
)

// describe is the host's account: one object for each action, with what its
// step does or why it failed, and the objects of steps that nobody wants any
// more but that still run.
func describe(acts []action, steps map[string]*step, ranBefore []fsm.Object) []fsm.Object {
	var out []fsm.Object
	have := map[string]bool{}
	add := func(o fsm.Object) {
		key := o.Kind + "/" + o.ID + "/" + o.Digest
		if o.Kind != "" && !have[key] {
			have[key] = true
			out = append(out, o)
		}
	}
	for _, act := range acts {
		o := act.object
		if s := steps[act.key]; s != nil {
			switch {
			case s.running && o.State == fsm.ObjWorking && s.object.Message != "":
				o.Message = s.object.Message
			case !s.running && s.failed != "" && act.run != nil:
				o.Message = s.failed
				if o.State != fsm.ObjReady {
					o.State = fsm.ObjFailed
				}
			}
		}
		add(o)
	}
	for _, s := range steps {
		if s.running {
			add(s.object)
		}
	}
	for _, o := range ranBefore {
		add(o)
	}
	slices.SortFunc(out, func(a, b fsm.Object) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Digest, b.Digest))
	})
	return out
}

// running lists the objects that steps work on now. The caller holds a.mu.
func (a *Agent) running() []fsm.Object {
	var out []fsm.Object
	for _, s := range a.steps {
		if s.running {
			out = append(out, s.object)
		}
	}
	return out
}

// reporter sends the latest report, and only that, beside the loop: a report
// that finds no leader must not keep the host from its work.
type reporter struct {
	source Source
	log    *slog.Logger

	mu   sync.Mutex
	last fsm.HostReport
	at   time.Time // when it was true
	wake chan struct{}
}

const (
	// reportAgain is how long an unchanged report stays unsent.
	reportAgain = time.Minute
	// progressEvery is how often a report is sent that differs only in what
	// steps say of their progress.
	progressEvery = time.Second
)

func newReporter(source Source, log *slog.Logger) *reporter {
	return &reporter{source: source, log: log, wake: make(chan struct{}, 1)}
}

// set replaces what is to be sent.
func (r *reporter) set(rep fsm.HostReport) {
	r.mu.Lock()
	r.last, r.at = rep, time.Now()
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run sends changed reports until ctx ends.
func (r *reporter) run(ctx context.Context) {
	sent, states, wait := "", "", retryFirst
	var sentAt time.Time
	again := time.NewTicker(reportAgain)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-again.C:
			// What a host that cannot be observed once held is no news.
			r.mu.Lock()
			if time.Since(r.at) < reportAgain {
				sent = ""
			}
			r.mu.Unlock()
		}
		for ctx.Err() == nil {
			r.mu.Lock()
			rep := r.last
			r.mu.Unlock()
			sum := digest(rep)
			if rep.Host == "" || sum == sent {
				break
			}
			now := digest(withoutProgress(rep))
			if due := sentAt.Add(progressEvery); now == states && sent != "" && time.Now().Before(due) {
				sleep(ctx, min(time.Until(due), reportGapMin)) // a real change may come meanwhile
				continue
			}
			sctx, cancel := context.WithTimeout(ctx, reportTimeout)
			err := r.source.Report(sctx, rep)
			cancel()
			if err == nil {
				sent, states, wait, sentAt = sum, now, retryFirst, time.Now()
				sleep(ctx, reportGapMin)
				continue
			}
			r.log.Warn("report", "err", err)
			sleep(ctx, wait)
			wait = min(2*wait, 2*time.Second)
		}
	}
}

// withoutProgress is the report without the words of running steps.
func withoutProgress(r fsm.HostReport) fsm.HostReport {
	r.Objects = slices.Clone(r.Objects)
	for i := range r.Objects {
		if r.Objects[i].State == fsm.ObjWorking {
			r.Objects[i].Message = ""
		}
	}
	return r
}
