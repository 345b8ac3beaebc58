package cluster

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

var seeds = flag.Int("cluster.seeds", 1, "seeds TestRandomFaults runs through")

// TestRandomFaults cuts, kills and restarts at random, always leaving time to
// recover at the end: nothing committed is ever lost, and the cluster lives in the end.
func TestRandomFaults(t *testing.T) {
	for seed := range uint64(*seeds) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			simulate(t, func(t *testing.T, w *world) { randomFaults(t, w, seed) })
		})
	}
}

func randomFaults(t *testing.T, w *world, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	for range 5 {
		w.add()
	}
	w.wantRoles(3, 1, 10*time.Second)
	committed := map[string]uint64{}
	for round := range 8 {
		victim := w.hosts[rnd.IntN(len(w.hosts))]
		switch fault := rnd.IntN(3); {
		case fault == 0 && victim.Node != nil:
			victim.kill()
		case fault == 1:
			w.sim.cut(func(a, b string) bool { return (a == victim.ip) != (b == victim.ip) })
		}
		for i := range 4 {
			data := fmt.Sprintf("%d-%d", round, i)
			if l := w.leader(); l != nil {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				if _, index, err := l.Apply(ctx, []byte(data)); err == nil {
					committed[data] = index
				}
				cancel()
			}
			time.Sleep(time.Duration(rnd.IntN(15_000)) * time.Millisecond)
		}
		w.sim.cut(nil)
		for _, h := range w.hosts {
			if h.Node == nil && rnd.IntN(2) == 0 || round == 7 && h.Node == nil {
				h.restart()
			}
		}
		for len(w.up()) < 4 { // of three voters at most one is down at a time: a majority lives
			for _, h := range w.hosts {
				if h.Node == nil {
					h.restart()
					break
				}
			}
		}
		w.mustLead(20 * time.Second)
	}
	w.wantRoles(3, 1, 3*time.Minute)
	w.commit("end", 5*time.Second)
	w.same(10 * time.Second)
	have := map[string]uint64{}
	for _, e := range w.leader().fsm.all() {
		have[e.Data] = e.Index
	}
	for data, index := range committed {
		if have[data] != index {
			t.Errorf("seed %d: entry %q was committed at %d, is at %d", seed, data, index, have[data])
		}
	}
	if len(committed) < 12 {
		t.Errorf("seed %d: only %d entries were committed", seed, len(committed))
	}
}
