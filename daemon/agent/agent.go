package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"vcn/fsm"
	"vcn/hostops"
	"vcn/internal/passable"
	"vcn/rolls"
)

// Source is where assignments come from and reports go to: a Raft peer.
type Source interface {
	// Assignment returns the host's assignment once its version is above after,
	// or the unchanged one when the server's wait has run out. With after 0 it
	// returns at once, and what it returns is no older than the call.
	Assignment(ctx context.Context, after uint64) (fsm.Assignment, error)
	Report(ctx context.Context, r fsm.HostReport) error
	// Image opens the image stream of a host that has it.
	Image(ctx context.Context, host, digest string, bootOnly bool) (io.ReadCloser, error)
}

// Catalog resolves rolls to recipes.
type Catalog interface {
	Resolve(names []string, appliance string) (rolls.Recipe, error)
}

// Config is what an agent needs. Targets and Volumes are nil on a host without
// class storage; PublicBridge is empty without class gateway.
type Config struct {
	HostID       string
	DataDir      string // seeds, console logs, the last assignment
	PublicBridge string
	GuestMTU     int // bytes, told to guests on the private network; 0: Ethernet's 1500
	// WorkerDelay is how long a worker waits before its first start, so that
	// the frontend, which it needs, boots first where hosts share processors.
	WorkerDelay time.Duration
	Source      Source
	Catalog     Catalog
	Domains     hostops.Domains
	Networks    hostops.Networks
	Volumes     hostops.Volumes
	Targets     hostops.Targets
	// Initiators attaches disks of other hosts to this one; nil leaves that to
	// each node's hypervisor.
	Initiators hostops.Initiators
	Images     hostops.Images
	// Guests runs commands in nodes; without it running nodes are never changed,
	// and no worker is ever known to be drained.
	Guests hostops.Guests
	Log    *slog.Logger
	// OnImages is called when the list of whole images here may have changed.
	OnImages func(digests []string)
}

// Limits of the agent.
const (
	resyncEvery    = 15 * time.Second // full look without any event
	retryFirst     = 500 * time.Millisecond
	retryMax       = 30 * time.Second
	reportTimeout  = 10 * time.Second
	observeTimeMax = time.Minute // a driver that hangs must not freeze the host
	// blindAfter is how long a host that cannot be observed may hope.
	blindAfter = 2 * time.Minute

	assignmentRetryMax = 5 * time.Second
	reportGapMin       = 50 * time.Millisecond // bounds the log entries a busy host makes
)

// pool names steps that share slots: what waits for one kind of thing must not
// keep others from their work, least of all what waits for a guest, whose owner
// may let it wait.
type pool int

const (
	shortSteps pool = iota // make or remove a thing
	longSteps              // move or build an image, or clone a volume: wait for disks and networks
	guestSteps             // change a running node
	askSteps               // ask a running node, or tell it something
	stopSteps              // wait until a node has powered off
	poolsEnd
)

// poolLimits are how many steps of a pool run at once on one host, and for how
// long each may.
var poolLimits = [poolsEnd]struct {
	running int
	timeMax time.Duration
}{
	shortSteps: {8, 5 * time.Minute},
	longSteps:  {4, 60 * time.Minute},
	guestSteps: {8, 3 * time.Minute},
	askSteps:   {8, time.Minute},
	stopSteps:  {32, 5 * time.Minute},
}

// Agent runs the reconcile loop. Make one with New, run it with Run.
type Agent struct {
	cfg  Config
	log  *slog.Logger
	wake chan struct{}

	mu     sync.Mutex
	assign fsm.Assignment
	live   bool // assign came from a peer since the start
	steps  map[string]*step
	netted map[int]string    // VLAN to digest of what was last ensured
	served map[string]string // volume to digest of what was last published
	ranAt  map[string]time.Time
	ready  map[string]time.Time // when a frontend first answered
	wg     sync.WaitGroup
	sawAt  time.Time               // when the host was last observed; at first, the start
	slots  [poolsEnd]chan struct{} // taken by steps while they run
	sums   map[string]string       // clusterSums of assign
	drains map[string]*drainState  // by reservation, for frontends here
}

// step is the work on one object.
type step struct {
	object  fsm.Object // what is reported while it runs
	running bool
	removes bool
	cancel  context.CancelFunc
	tries   int
	next    time.Time // not before
	failed  string
	what    string
}

// New prepares an agent and reads the assignment kept from before, if any.
func New(cfg Config) (*Agent, error) {
	if cfg.HostID == "" || cfg.DataDir == "" || cfg.Source == nil || cfg.Domains == nil || cfg.Networks == nil || cfg.Images == nil || cfg.Catalog == nil {
		return nil, errors.New("make agent: host id, data directory, source, catalog, domains, networks and images are needed")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	a := &Agent{
		cfg: cfg, log: cfg.Log, wake: make(chan struct{}, 1),
		steps: map[string]*step{}, netted: map[int]string{}, served: map[string]string{},
		ranAt: map[string]time.Time{}, ready: map[string]time.Time{}, sawAt: time.Now(), drains: map[string]*drainState{},
	}
	for p := range a.slots {
		a.slots[p] = make(chan struct{}, poolLimits[p].running)
	}
	for _, d := range []string{cfg.DataDir, a.nodesDir()} {
		if err := passable.Mkdir(d); err != nil {
			return nil, fmt.Errorf("make agent directory: %w", err)
		}
	}
	kept, err := loadAssignment(a.assignmentPath())
	if err != nil {
		// Without it this host waits for a peer's word before it does anything.
		cfg.Log.Error("the assignment kept from before cannot be read and is set aside", "err", err)
		if err := os.Rename(a.assignmentPath(), a.assignmentPath()+".damaged"); err != nil {
			return nil, fmt.Errorf("set aside damaged assignment: %w", err)
		}
	}
	if kept.Host == cfg.HostID {
		a.assign, a.sums = kept, clusterSums(kept)
	}
	return a, nil
}

func (a *Agent) assignmentPath() string { return filepath.Join(a.cfg.DataDir, "assignment.json") }
func (a *Agent) nodesDir() string       { return filepath.Join(a.cfg.DataDir, "nodes") }

// Run reconciles until ctx ends, then cancels steps and waits for them. It
// leaves guests, networks and disks as they are.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var loops sync.WaitGroup
	loops.Go(func() { a.pollAssignments(ctx) })
	rep := newReporter(a.cfg.Source, a.log)
	loops.Go(func() { rep.run(ctx) })
	events := a.cfg.Domains.Watch(ctx)
	tick := time.NewTicker(resyncEvery)
	defer tick.Stop()
	for {
		retry := a.round(ctx, rep)
		timer := time.NewTimer(retry)
		select {
		case <-ctx.Done():
			timer.Stop()
			loops.Wait()
			a.wg.Wait()
			return nil
		case <-a.wake:
		case _, ok := <-events:
			if !ok {
				events = nil
			}
		case <-tick.C:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// retry sets when the same step may run again.
func (s *step) retry() {
	s.tries++
	s.next = time.Now().Add(min(retryFirst<<min(s.tries-1, 10), retryMax))
}

// poke wakes the loop; wakes coalesce.
func (a *Agent) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// pollAssignments long-polls and hands each new assignment to the loop. The
// first one since the start comes from the leader (after 0). Versions only
// rise, also over restarts: a lower one than ever seen is a peer that lags
// behind, and to act on it would remove what it does not know yet.
func (a *Agent) pollAssignments(ctx context.Context) {
	after := uint64(0)
	wait := retryFirst
	for ctx.Err() == nil {
		as, err := a.cfg.Source.Assignment(ctx, after)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			a.log.Warn("poll assignment", "err", err)
		case as.Host != a.cfg.HostID:
			a.log.Error("assignment is for another host", "host", as.Host)
		case as.Version < a.seenVersion():
			a.log.Warn("assignment is older than the one held", "version", as.Version, "held", a.seenVersion())
		case after > 0 && as.Version <= after:
			continue // the long poll ended without a change
		default:
			// A host that has never had anything has version 0; asking after 1
			// is a long poll all the same.
			if err = a.take(as); err == nil {
				wait, after = retryFirst, max(as.Version, 1)
				continue
			}
			a.log.Error("keep assignment", "err", err)
		}
		sleep(ctx, wait)
		wait = min(2*wait, assignmentRetryMax)
	}
}

func (a *Agent) seenVersion() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.assign.Version
}

// take keeps an assignment on disk and then makes it the one to reconcile with:
// what is reported as seen must be what a restart would know.
func (a *Agent) take(as fsm.Assignment) error {
	if err := saveAssignment(a.assignmentPath(), as); err != nil {
		return err
	}
	sums := clusterSums(as)
	a.mu.Lock()
	a.assign, a.live, a.sums = as, true, sums
	a.mu.Unlock()
	a.poke()
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// round observes, starts what is needed, and reports. It returns after how
// long the next round is due at the latest.
func (a *Agent) round(ctx context.Context, rep *reporter) time.Duration {
	a.mu.Lock()
	as, live := a.assign, a.live
	// Read before the host is: a step that ends between the two is then seen
	// either as running or by what it made.
	ranBefore := a.running()
	a.mu.Unlock()
	octx, cancel := context.WithTimeout(ctx, observeTimeMax)
	seen, err := observe(octx, a.cfg, a.nodesDir())
	cancel()
	if err != nil {
		if ctx.Err() == nil {
			a.log.Warn("observe host", "err", err)
		}
		return time.Second
	}
	now := time.Now()
	a.mu.Lock()
	a.sawAt = now
	acts := diff(diffInput{
		assign: as, live: live, seen: seen, now: now,
		netted: a.netted, served: a.served, ranAt: a.ranAt,
		workerDelay: a.cfg.WorkerDelay, storage: a.cfg.Volumes != nil,
		attaches: a.cfg.Initiators != nil,
		guests:   a.cfg.Guests != nil, sums: a.sums, drains: a.drains, readyAt: a.ready,
	})
	next := a.dispatch(ctx, acts, now)
	objects := describe(acts, a.steps, ranBefore)
	a.mu.Unlock()
	if a.cfg.OnImages != nil {
		a.cfg.OnImages(seen.wholeImages())
	}
	if live {
		rep.set(fsm.HostReport{Host: a.cfg.HostID, Applied: as.Version, Objects: objects})
	}
	return next
}

// dispatch starts the actions whose object is idle and due, cancels steps that
// nobody wants any more, and returns when the next one is due. The caller
// holds a.mu.
func (a *Agent) dispatch(ctx context.Context, acts []action, now time.Time) time.Duration {
	next := resyncEvery
	wanted := map[string]bool{}
	for _, act := range acts {
		wanted[act.key] = true
		if act.run == nil {
			if act.due.After(now) {
				next = min(next, act.due.Sub(now))
			}
			continue
		}
		s := a.steps[act.key]
		if s == nil {
			s = &step{}
			a.steps[act.key] = s
		}
		if s.running {
			if act.removes && !s.removes {
				s.cancel() // the thing being made is to go
			}
			continue
		}
		if s.what != act.what {
			s.tries, s.failed, s.next = 0, "", time.Time{}
		}
		if s.next.After(now) {
			next = min(next, s.next.Sub(now))
			continue
		}
		a.start(ctx, s, act)
	}
	for key, s := range a.steps {
		if wanted[key] {
			continue
		}
		if !s.running {
			delete(a.steps, key)
		} else if !s.removes {
			s.cancel() // removal goes on to its end: what is seen goes before the last of it
		}
	}
	return next
}

// start runs one action in a goroutine. The caller holds a.mu.
func (a *Agent) start(ctx context.Context, s *step, act action) {
	limit, slots := poolLimits[act.pool].timeMax, a.slots[act.pool]
	if time.Since(s.next) > 2*retryMax {
		s.tries = 0 // it was due long ago and not wanted: this is another matter
	}
	sctx, cancel := context.WithCancel(ctx)
	s.running, s.removes, s.cancel, s.object, s.what = true, act.removes, cancel, act.object, act.what
	a.wg.Go(func() {
		defer cancel()
		var err error
		select {
		case slots <- struct{}{}:
			began := time.Now()
			rctx, done := context.WithTimeout(sctx, limit)
			err = act.run(rctx, a, func(msg string) {
				a.mu.Lock()
				s.object.Message = msg
				a.mu.Unlock()
				a.poke()
			})
			done()
			<-slots
			if err == nil {
				a.log.Info("did", "what", act.what, "object", act.key, "took", time.Since(began).Round(time.Millisecond).String())
			}
		case <-sctx.Done():
			err = sctx.Err()
		}
		a.mu.Lock()
		s.running = false
		switch {
		case errors.Is(sctx.Err(), context.Canceled):
			s.tries, s.failed, s.next = 0, "", time.Time{}
		case err != nil:
			s.failed = err.Error()
			s.retry()
			a.log.Warn("failed, will retry", "what", act.what, "object", act.key, "err", err, "try", s.tries)
		default:
			// Should the same step be wanted again at once, it did not help.
			s.failed = ""
			if s.retry(); act.paced {
				s.tries, s.next = 0, time.Time{}
			}
		}
		a.mu.Unlock()
		a.poke()
	})
}

// Blind says whether this host has not been able to see what it runs for a
// while: its hypervisor or its store is gone. What it last reported is no
// longer true then, and it should get no work.
func (a *Agent) Blind() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Since(a.sawAt) > blindAfter
}

// Held is what the nodes assigned to this host use: cores and bytes of memory.
func (a *Agent) Held() (cpus int, memoryBytes int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.assign.Nodes {
		cpus += n.CPUs
		memoryBytes += n.MemoryBytes
	}
	return cpus, memoryBytes
}
