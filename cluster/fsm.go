package cluster

import (
	"errors"
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// errCatchingUp keeps raft from taking a snapshot that is newer than it thinks.
var errCatchingUp = errors.New("cluster: state machine is ahead of raft, no snapshot now")

// onceFSM lets one state machine outlive several Raft instances of the same
// group in one process (peer, follower, peer again). The committed prefix of a
// group's log is one and the same, so entries already applied are skipped when an
// instance with an empty directory replays them. While it replays, no snapshot is
// taken: it would hold more than its index says.
type onceFSM struct {
	inner raft.FSM
	batch raft.BatchingFSM // inner, if it can

	mu      sync.Mutex
	applied uint64 // highest index ever given to inner; 0 after Restore
	seen    uint64 // highest index the current instance has given us
	apart   bool   // the current instance has not caught up yet
}

func newOnceFSM(inner raft.FSM) *onceFSM {
	f := &onceFSM{inner: inner}
	f.batch, _ = inner.(raft.BatchingFSM)
	return f
}

// begin is called before a new Raft instance starts.
func (f *onceFSM) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen, f.apart = 0, f.applied > 0
}

func (f *onceFSM) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

func (f *onceFSM) ApplyBatch(logs []*raft.Log) []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	skip := 0
	for skip < len(logs) && logs[skip].Index <= f.applied {
		skip++
	}
	out := make([]any, len(logs))
	rest := logs[skip:]
	if len(rest) > 0 {
		if f.batch != nil {
			copy(out[skip:], f.batch.ApplyBatch(rest))
		} else {
			for i, l := range rest {
				if l.Type == raft.LogCommand {
					out[skip+i] = f.inner.Apply(l)
				}
			}
		}
	}
	if len(logs) > 0 {
		f.seen = max(f.seen, logs[len(logs)-1].Index)
		f.applied = max(f.applied, f.seen)
		f.apart = f.seen < f.applied
	}
	return out
}

func (f *onceFSM) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.apart {
		return nil, errCatchingUp
	}
	return f.inner.Snapshot()
}

// Restore replaces everything, so nothing counts as seen any more. Raft does
// not say which index a snapshot has, but every entry that follows is newer.
func (f *onceFSM) Restore(r io.ReadCloser) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.inner.Restore(r); err != nil {
		return err
	}
	f.applied, f.seen, f.apart = 0, 0, false
	return nil
}
