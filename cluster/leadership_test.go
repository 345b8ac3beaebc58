package cluster

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func TestDutiesFollowTerms(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		running, most, begun := 0, 0, 0
		duty := func(ctx context.Context) {
			mu.Lock()
			running++
			begun++
			most = max(most, running)
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			running--
			mu.Unlock()
		}
		for range 3 {
			w.add().RunAsLeader("count", duty)
		}
		w.wantRoles(3, 0, 10*time.Second)
		for range 5 {
			l := w.mustLead(3 * time.Second)
			if err := l.group.Load().raft.LeadershipTransfer().Error(); err != nil {
				t.Fatal(err)
			}
			w.eventually("another leader", 3*time.Second, func() bool { n := w.leader(); return n != nil && n != l && n.Leading() })
		}
		synctest.Wait() // a duty begins and ends beside the loop that asks for it
		mu.Lock()
		defer mu.Unlock()
		if running != 1 || most > 2 || begun != 6 {
			t.Errorf("running %d, at most %d at once, %d begun; want 1, at most 2 while one steps down, 6", running, most, begun)
		}
	})
}

// stuckMachine is a state machine that takes its time over one command.
type stuckMachine struct {
	*ledger
	on   string
	free chan struct{}
}

func (m stuckMachine) Apply(e *raft.Log) any {
	if string(e.Data) == m.on {
		<-m.free
	}
	return m.ledger.Apply(e)
}

// TestLeadingMeansCaughtUp elects a host that has not yet applied what the
// leader before it promised.
func TestLeadingMeansCaughtUp(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		free := make(chan struct{})
		release := sync.OnceFunc(func() { close(free) })
		defer release()
		first := w.add()
		w.mustLead(10 * time.Second)
		slow := w.add(func(c *Config) { c.FSM = stuckMachine{c.FSM.(*ledger), "promised", free} })
		w.add()
		w.wantRoles(3, 0, 10*time.Second)
		w.eventually("the first leads", 10*time.Second, func() bool { return first.Leading() })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, _, err := first.Apply(ctx, []byte("promised")); err != nil {
			t.Fatal(err)
		}
		id := raft.ServerID(slow.cfg.HostID)
		to := first.group.Load().raft
		var addr raft.ServerAddress
		for _, s := range to.GetConfiguration().Configuration().Servers {
			if s.ID == id {
				addr = s.Address
			}
		}
		if err := to.LeadershipTransferToServer(id, addr).Error(); err != nil {
			t.Fatal(err)
		}
		w.eventually("the slow one is elected", 10*time.Second, func() bool { return slow.IsLeader() })
		for range 20 {
			time.Sleep(100 * time.Millisecond)
			if slow.Leading() {
				t.Fatal("it says that it leads, and has not applied what was promised")
			}
		}
		if !slow.IsLeader() || first.Leading() {
			t.Fatalf("elected %v; the old leader leads: %v", slow.IsLeader(), first.Leading())
		}
		release()
		w.eventually("it leads", 5*time.Second, func() bool { return slow.Leading() })
		if all := slow.fsm.all(); len(all) == 0 || all[len(all)-1].Data != "promised" {
			t.Errorf("it leads with %v applied", all)
		}
		slow.kill()
		w.eventually("another leads", 10*time.Second, func() bool { l := w.leader(); return l != nil && l != slow && l.Leading() })
	})
}
