package fsm

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-memdb"
	"github.com/hashicorp/raft"
)

// FSM is the replicated state. Raft calls Apply, ApplyBatch, Snapshot and
// Restore from one goroutine; View and the Watch methods are safe from any.
type FSM struct {
	log       *slog.Logger
	eventsMax int

	mu       sync.Mutex
	db       *memdb.MemDB
	changes  *changeLog // of db
	index    uint64
	moved    chan struct{} // closed and replaced when index moves; nil if nobody waits
	replaced chan struct{} // closed and replaced by Restore
}

var (
	_ raft.FSM         = (*FSM)(nil)
	_ raft.BatchingFSM = (*FSM)(nil)
)

// Result is what applying a command answers.
type Result struct {
	Index uint64
	Err   error // nil, or a refusal: nothing was changed
	// Reservation is the one that the command made or changed or, for a repeated
	// idempotency key with the same request hash, had made before.
	Reservation *Reservation
}

// New returns an empty state.
func New(log *slog.Logger) *FSM {
	return &FSM{log: log, eventsMax: EventsMax, db: newDB(), changes: &changeLog{}, replaced: make(chan struct{})}
}

func newDB() *memdb.MemDB {
	db, err := memdb.NewMemDB(schema())
	must(err)
	return db
}

// Apply applies one log entry and returns a Result. An entry that this program
// cannot read stops the process: going on without it would fork the state.
func (f *FSM) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies many in one transaction of the store and wakes the watchers
// once. What a refused command wrote is taken back, so that it makes no
// difference which others are in its batch.
func (f *FSM) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	txn := f.database().Txn(true)
	state := reader{txn}.state()
	last := state.Index
	var moved []hostChange
	for i, l := range logs {
		if l.Type != raft.LogCommand {
			continue // a configuration entry: no state of ours
		}
		out[i] = f.apply(l, txn, &state, &moved)
	}
	if state.Index == last {
		txn.Abort()
		return out
	}
	must(txn.Insert(tabState, &state))
	f.changes.add(moved) // before anybody can see them
	txn.Commit()
	f.announce(state.Index)
	return out
}

func (f *FSM) apply(l *raft.Log, txn *memdb.Txn, state *stateRow, moved *[]hostChange) Result {
	cmd, stamp, err := decode(l.Data)
	if err != nil {
		panic(fmt.Sprintf("fsm: cannot apply log entry %d: %v", l.Index, err))
	}
	t := &tx{reader: reader{txn}, index: l.Index, now: state.Clock.Add(time.Nanosecond), state: *state, eventsMax: f.eventsMax}
	if stamp.After(t.now) {
		t.now = stamp
	}
	t.state.Index, t.state.Clock = l.Index, t.now
	if err = t.check(cmd); err == nil {
		err = cmd.apply(t)
	}
	if err == nil {
		t.ease()
		*state = t.state
		*moved = append(*moved, t.moved...)
		return Result{Index: l.Index, Reservation: t.result}
	}
	// Nothing remains of it; clock and index move all the same.
	t.undo()
	state.Index, state.Clock = l.Index, t.now
	err = fmt.Errorf("%s: %w", registry[cmd.Type()].name, err)
	f.log.Debug("refused a command", "index", l.Index, "err", err)
	return Result{Index: l.Index, Err: err}
}

// check refuses everything but ClusterInit before ClusterInit.
func (t *tx) check(cmd applier) error {
	if cmd.Type() == TypeClusterInit {
		return nil
	}
	_, err := t.meta()
	return err
}

func (f *FSM) database() *memdb.MemDB {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.db
}

func (f *FSM) announce(index uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index = index
	if f.moved != nil {
		close(f.moved)
		f.moved = nil
	}
}

// View returns the state as it is now; it never changes. It costs nothing to
// make and holds memory only while it is kept.
func (f *FSM) View() *View {
	f.mu.Lock()
	db, changes := f.db, f.changes
	f.mu.Unlock()
	v := &View{reader: reader{db.Txn(false)}, changes: changes}
	v.st = v.reader.state()
	return v
}

// Index is the index of the last applied command.
func (f *FSM) Index() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.index
}

// WatchIndex waits until the applied index is above after, or ctx ends, and
// returns the index. All waiters share one channel. Watch a host or a
// reservation instead where that is what is meant: it wakes for that only.
func (f *FSM) WatchIndex(ctx context.Context, after uint64) uint64 {
	for {
		f.mu.Lock()
		index := f.index
		if index > after {
			f.mu.Unlock()
			return index
		}
		if f.moved == nil {
			f.moved = make(chan struct{})
		}
		moved := f.moved
		f.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return index
		}
	}
}

// WatchHost waits until the version of the host's assignment is above after, or
// ctx ends, and returns a view that was current then. Versions only rise, so a
// state that lags behind what the asker has seen waits until it has caught up.
func (f *FSM) WatchHost(ctx context.Context, host string, after uint64) *View {
	return f.watch(ctx, tabTouched, key(host), func(raw any) bool {
		row, ok := raw.(*touchedRow)
		return ok && row.Index > after
	})
}

// WatchReservation waits until the reservation's Modified is above after or it
// is no more, or ctx ends, and returns a view that was current then.
func (f *FSM) WatchReservation(ctx context.Context, id string, after uint64) *View {
	return f.watch(ctx, tabReservations, key(id), func(raw any) bool {
		r, ok := raw.(*Reservation)
		return !ok || r.Modified > after
	})
}

func (f *FSM) watch(ctx context.Context, table string, k []byte, done func(any) bool) *View {
	for {
		f.mu.Lock()
		txn, changes, replaced := f.db.Txn(false), f.changes, f.replaced
		f.mu.Unlock()
		changed, raw, err := txn.FirstWatch(table, "id", k)
		must(err)
		v := &View{reader: reader{txn}, changes: changes}
		v.st = v.reader.state()
		if done(raw) {
			return v
		}
		select {
		case <-changed:
		case <-replaced:
		case <-ctx.Done():
			return v
		}
	}
}
