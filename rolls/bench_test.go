package rolls

import (
	"fmt"
	"testing"
)

// bigCluster is n workers and ten users on the built-in rolls.
func bigCluster(b testing.TB, n int) (Cluster, Recipe, Manifest) {
	c, err := Builtin()
	if err != nil {
		b.Fatal(err)
	}
	w := mustResolve(b, c, ApplianceWorker, c.Names()...)
	fe := mustResolve(b, c, ApplianceFrontend, c.Names()...)
	cl := testCluster(b, w)
	cl.Nodes = cl.Nodes[:1]
	for i := range n {
		cl.Nodes = append(cl.Nodes, Node{Name: fmt.Sprintf("compute-%d", i), Role: "worker", CPUs: 2, MemoryMiB: 1024,
			Private: NIC{MAC: fmt.Sprintf("52:54:00:00:%02x:%02x", i/256, i%256), Address: fmt.Sprintf("10.1.%d.%d/16", 1+i/250, 1+i%250)}})
	}
	if cl.Secrets, err = MakeSecrets([]Recipe{fe, w}, nodeNames(cl.Nodes), []string{"alice", "bob"}, &counter{}); err != nil {
		b.Fatal(err)
	}
	m := testManifest(w)
	for _, f := range w.Seed() {
		u, g := f.UserGroup()
		if f.ForEach == "" {
			m.Users[u], m.Groups[g] = ID{}, 0
		}
	}
	return cl, w, m
}

// BenchmarkRender renders one worker's seed, by size of its cluster.
func BenchmarkRender(b *testing.B) {
	for _, n := range []int{3, 100, 1000} {
		b.Run(fmt.Sprintf("workers=%d", n), func(b *testing.B) {
			cl, r, m := bigCluster(b, n)
			for b.Loop() {
				t, err := Render(cl, "compute-1", r, m)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(t)), "bytes")
			}
		})
	}
}

// BenchmarkSeedISO packs a seed of 64 KiB.
func BenchmarkSeedISO(b *testing.B) {
	seed := make([]byte, 64<<10)
	for b.Loop() {
		if _, err := SeedISO(seed); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMakeSecrets makes those of a hundred nodes.
func BenchmarkMakeSecrets(b *testing.B) {
	cl, r, _ := bigCluster(b, 100)
	for b.Loop() {
		if _, err := MakeSecrets([]Recipe{r}, nodeNames(cl.Nodes), []string{"alice"}, &counter{}); err != nil {
			b.Fatal(err)
		}
	}
}
