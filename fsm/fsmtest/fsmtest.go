package fsmtest

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"vcn/fsm"
)

// Local commits commands to one FSM, each with the next index. It may be used
// by many goroutines.
type Local struct {
	FSM *fsm.FSM
	// Delay is how long a commit takes. Commits overlap, as they do in Raft's log.
	Delay time.Duration

	mu    sync.Mutex
	index uint64
	hook  func(cmd []byte) error
}

// SetHook has f called before each command is applied, with no lock held; its
// error is Apply's, and the command is dropped. Nil: nothing is called.
func (l *Local) SetHook(f func(cmd []byte) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hook = f
}

// Hook is what SetHook was given last.
func (l *Local) Hook() func(cmd []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hook
}

// Apply commits one encoded command and returns the FSM's Result.
func (l *Local) Apply(ctx context.Context, cmd []byte) (any, uint64, error) {
	if hook := l.Hook(); hook != nil {
		if err := hook(cmd); err != nil {
			return nil, 0, err
		}
	}
	if l.Delay > 0 {
		t := time.NewTimer(l.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index++
	return l.FSM.Apply(&raft.Log{Index: l.index, Type: raft.LogCommand, Data: cmd}), l.index, nil
}

// Index is that of the last command.
func (l *Local) Index() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.index
}
