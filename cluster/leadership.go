package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// duty is something to do while leading.
type duty struct {
	name string
	run  func(ctx context.Context)
}

// term is one stretch of leadership of this host. Terms follow each other
// strictly: the next starts its duties when the last duty of the one before
// has returned.
type term struct {
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // all duties have returned

	mu    sync.Mutex
	ready bool // barrier passed: duties run
	ended bool // no more duties
	wg    sync.WaitGroup
}

// start runs a duty unless the term is over.
func (t *term) start(n *Node, d duty) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ready || t.ended {
		return
	}
	t.wg.Go(func() {
		n.log.Debug("leader duty begins", "duty", d.name)
		d.run(t.ctx)
		n.log.Debug("leader duty ended", "duty", d.name)
	})
}

// RunAsLeader registers a duty, at any time. While this host leads, after a
// barrier (so everything committed before is applied), f runs in its own
// goroutine; its ctx ends with the term, and the next term waits for f to
// return. Should f return early, it rests until the next term.
func (n *Node) RunAsLeader(name string, f func(ctx context.Context)) {
	d := duty{name, f}
	n.dutyMu.Lock()
	defer n.dutyMu.Unlock()
	n.duties = append(n.duties, d)
	if n.term != nil {
		n.term.start(n, d)
	}
}

// Leading says whether this host leads and its state has caught up: the term's
// barrier has passed, and duties run. That is later than IsLeader, which is true
// as soon as the election is won, when older commands may still wait to be applied.
func (n *Node) Leading() bool {
	n.dutyMu.Lock()
	t := n.term
	n.dutyMu.Unlock()
	return t != nil && t.ctx.Err() == nil && n.IsLeader()
}

// followLeadership turns one Raft instance's leadership changes into terms. It
// always reads on, because raft waits for it.
func (n *Node) followLeadership(g *group) {
	var now *term
	before := closedChan()
	end := func() {
		if now != nil {
			now.cancel()
			before, now = now.done, nil
		}
	}
	for {
		select {
		case leads := <-g.notify:
			end()
			n.refreshRole()
			if leads {
				now = n.newTerm(g, before)
			}
		case <-g.gone:
			end()
			<-before
			return
		}
	}
}

func closedChan() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// newTerm starts a term's duties in the background, after those of the term before.
func (n *Node) newTerm(g *group, before <-chan struct{}) *term {
	t := &term{done: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	run := func() {
		defer close(t.done)
		defer t.cancel()
		<-before
		if !n.barrier(t.ctx, g) {
			return
		}
		n.dutyMu.Lock()
		t.mu.Lock()
		t.ready = true
		t.mu.Unlock()
		n.term = t
		for _, d := range n.duties {
			t.start(n, d)
		}
		n.dutyMu.Unlock()
		n.log.Info("this host leads", "term", g.raft.CurrentTerm())
		n.metrics.terms.Add(1)
		n.changed()

		<-t.ctx.Done()
		n.dutyMu.Lock()
		n.term = nil
		t.mu.Lock()
		t.ended = true
		t.mu.Unlock()
		n.dutyMu.Unlock()
		t.wg.Wait()
		n.log.Info("this host no longer leads")
		n.changed()
	}
	if !n.spawn(run) {
		t.cancel()
		close(t.done)
	}
	return t
}

// barrier tries until it passes or leadership is over.
func (n *Node) barrier(ctx context.Context, g *group) bool {
	for ctx.Err() == nil {
		err := wait(ctx, g.raft.Barrier(0))
		if err == nil {
			return true
		}
		if g.raft.State() != raft.Leader {
			return false
		}
		n.log.Debug("barrier failed, trying again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return false
}
