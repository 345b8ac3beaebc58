package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"vcn/api"
	"vcn/fsm"
	"vcn/rolls"
)

// Applier commits one encoded command and returns what the FSM answered. An
// error is not the FSM's refusal (that is in the result): the command was not,
// or may not have been, committed.
type Applier interface {
	Apply(ctx context.Context, cmd []byte) (result any, index uint64, err error)
}

// State is this host's replicated state.
type State interface {
	View() *fsm.View
	WatchIndex(ctx context.Context, after uint64) uint64
}

// Members is how the leader sees the other hosts.
type Members interface {
	// Members lists the hosts as gossip sees them.
	Members() []Member
	// Voters counts the hosts that vote in the Raft group.
	Voters() int
}

// Member is a host as gossip sees it.
type Member struct {
	HostID string
	Status string // alive, suspect, dead, left
	Gossip string // ip:port
	// Wall is what its wall clock shows now, by what it last said of it and when;
	// zero if unknown.
	Wall time.Time
}

// Errors of an Applier that this package tells apart, as functions, because
// they are the cluster engine's.
type Errors struct {
	// NotLeader: the command was not taken; another host leads, or nobody.
	NotLeader func(error) bool
	// Unknown: the command may or may not be committed.
	Unknown func(error) bool
}

// Config is what New needs.
type Config struct {
	Applier Applier
	State   State
	Members Members
	Catalog *rolls.Catalog
	Errors  Errors // nil functions never match
	// Notifier tells owners what happens; nil: nobody is told.
	Notifier Notifier
	// Changed is sent to (or closed) when members may have changed; nil to poll only.
	Changed <-chan struct{}
	// Now is the wall clock; default time.Now.
	Now func() time.Time
	// Lead, if not zero, is the lead time of every reservation, whatever was
	// measured: for who drives time himself and starts no guests.
	Lead time.Duration
	Log  *slog.Logger
}

// Control does what only the leader may. It may be used by many goroutines.
type Control struct {
	cfg     Config
	recipes *recipes
	planner *planner
	clock   *clock
}

// applyTimeMax bounds one command from here to its answer.
const applyTimeMax = 10 * time.Second

// New makes a Control. It starts nothing; see RunLeader.
func New(cfg Config) (*Control, error) {
	if cfg.Applier == nil || cfg.State == nil || cfg.Members == nil || cfg.Catalog == nil {
		return nil, errors.New("make control: want Applier, State, Members and Catalog")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	never := func(error) bool { return false }
	if cfg.Errors.NotLeader == nil {
		cfg.Errors.NotLeader = never
	}
	if cfg.Errors.Unknown == nil {
		cfg.Errors.Unknown = never
	}
	rs := newRecipes(cfg.Catalog)
	p := newPlanner(cfg.State, rs)
	p.lead.fixed = cfg.Lead
	return &Control{cfg: cfg, recipes: rs, planner: p,
		clock: &clock{wall: cfg.Now, state: cfg.State, members: cfg.Members}}, nil
}

// RunLeader does the leader's work until ctx ends, which is when the term does.
// It returns when all its goroutines have.
func (c *Control) RunLeader(ctx context.Context) {
	// What an earlier term had in flight is either in the state by now (the
	// caller runs this after a barrier) or never will be.
	c.planner.reset()
	c.registerRolls(ctx)
	var wg sync.WaitGroup
	for name, task := range map[string]func(context.Context) error{
		"clockwork": c.runClockwork,
		"hostwatch": c.runHostWatch,
		"gc":        c.runGC,
		"binder":    c.runBinder,
		"waitlist":  c.runWaitlist,
		"tell":      c.runTell,
	} {
		wg.Go(func() {
			if err := task(ctx); err != nil && ctx.Err() == nil {
				c.cfg.Log.Error("leader task ended", "task", name, "err", err)
			}
		})
	}
	wg.Wait()
}

// registerRolls records the rolls this leader knows.
func (c *Control) registerRolls(ctx context.Context) {
	known := map[string]string{}
	for _, r := range c.cfg.State.View().Rolls() {
		known[r.Name+"@"+r.Version] = r.Digest
	}
	var cmd fsm.RollsRegister
	for _, r := range c.cfg.Catalog.Rolls() {
		if d := r.Digest(); known[r.ID()] != d {
			cmd.Rolls = append(cmd.Rolls, fsm.Roll{Name: r.Name, Version: r.Version, Digest: d})
		}
	}
	if len(cmd.Rolls) == 0 {
		return
	}
	if _, err := c.apply(ctx, cmd); err != nil {
		c.cfg.Log.Warn("register rolls", "err", err)
	}
}

// apply commits one command. The error is the FSM's refusal, or a *api.Problem
// when the command could not be committed, or may not have been.
func (c *Control) apply(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	entry, err := fsm.Encode(cmd, c.now())
	if err != nil {
		return fsm.Result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, applyTimeMax)
	defer cancel()
	answer, index, err := c.cfg.Applier.Apply(ctx, entry)
	if err != nil {
		return fsm.Result{}, c.applyProblem(cmd, err)
	}
	res, ok := answer.(fsm.Result)
	if !ok {
		return fsm.Result{}, fmt.Errorf("apply %T at %d: answer of type %T", cmd, index, answer)
	}
	return res, res.Err
}

func (c *Control) applyProblem(cmd fsm.Command, err error) error {
	p := &api.Problem{Status: http.StatusServiceUnavailable, Code: api.CodeNoLeader, Title: http.StatusText(http.StatusServiceUnavailable)}
	switch {
	case c.cfg.Errors.NotLeader(err):
		p.Detail, p.Next = "this host stopped leading before the change was made", "try again in a moment"
	case c.cfg.Errors.Unknown(err), errors.Is(err, context.DeadlineExceeded):
		// Not 503: that says that nothing was done, and clients repeat it.
		p.Status, p.Title = http.StatusGatewayTimeout, http.StatusText(http.StatusGatewayTimeout)
		p.Detail = "the change was not confirmed in time; it may or may not be made"
		p.Next = "look before you repeat it, or repeat it with the same Idempotency-Key"
	default:
		return fmt.Errorf("apply %T: %w", cmd, err)
	}
	c.cfg.Log.Warn("command not committed", "command", fmt.Sprintf("%T", cmd), "err", err)
	return &applyError{p, err}
}

// applyError is a problem that keeps its cause.
type applyError struct {
	*api.Problem
	cause error
}

func (e *applyError) Unwrap() []error { return []error{e.Problem, e.cause} }
