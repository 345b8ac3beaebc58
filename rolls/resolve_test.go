package rolls

import (
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func conflicting(r *Roll, with ...string) *Roll {
	r.Conflicts = with
	return r
}

func writing(r *Roll, seed bool, path string) *Roll {
	a := Apply{Files: []FileSpec{{Path: path, Dir: true}}}
	if seed {
		a = Apply{Seed: a.Files}
	}
	r.Apply = map[string]Apply{AnyAppliance: a}
	return r
}

func units(r *Roll, enable, disable []string) *Roll {
	r.Apply = map[string]Apply{AnyAppliance: {Enable: enable, Disable: disable}}
	return r
}

func TestResolveOrders(t *testing.T) {
	for _, tc := range []struct {
		name  string
		rolls []*Roll
		ask   []string
		want  string
	}{
		{"base, also when nobody asks", []*Roll{simple("base", "1")}, nil, "base@1"},
		{"the default rolls, base first", []*Roll{simple("base", "1"), simple("home", "1", "users"), simple("users", "1")}, nil, "base@1 users@1 home@1"},
		{"what is required before what requires", []*Roll{simple("base", "1"), simple("a", "1", "z"), simple("z", "1")}, []string{"a"}, "base@1 z@1 a@1"},
		{"by name where nothing else says", []*Roll{simple("base", "1"), simple("c", "1"), simple("b", "1"), simple("a", "1")}, []string{"c", "a", "b"}, "base@1 a@1 b@1 c@1"},
		{"each once", []*Roll{simple("base", "1"), simple("a", "1", "b"), simple("b", "1")}, []string{"a", "b", "a", "b@1"}, "base@1 b@1 a@1"},
		{"the highest version, as numbers", []*Roll{simple("a", "1.9"), simple("a", "1.10"), simple("a", "1.2.3")}, []string{"a"}, "a@1.10"},
		{"the version asked for", []*Roll{simple("a", "1.9"), simple("a", "1.10")}, []string{"a@1.9"}, "a@1.9"},
		{"one version written two ways", []*Roll{simple("a", "1.0")}, []string{"a@1"}, "a@1.0"},
		{"a version that a roll pins", []*Roll{simple("a", "1"), simple("a", "2"), simple("b", "1", "a@1")}, []string{"a", "b"}, "a@1 b@1"},
		{"a pin met late changes what was taken", []*Roll{simple("a", "1"), simple("a", "2", "x"), simple("x", "1"), simple("b", "1", "c"), simple("c", "1", "a@1")},
			[]string{"a", "b"}, "a@1 c@1 b@1"},
		{"a pin that goes with its roll is forgotten", []*Roll{simple("a", "1", "c@2"), simple("a", "2", "b", "d"), simple("b", "1", "c@1"), simple("d", "1", "a@1"), simple("c", "1"), simple("c", "2")},
			[]string{"a"}, "c@2 a@1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := mustResolve(t, catalog(t, tc.rolls...), "worker", tc.ask...)
			if got := strings.Join(r.Names(), " "); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestResolveRefusesAndSaysWhy(t *testing.T) {
	for _, tc := range []struct {
		name  string
		rolls []*Roll
		ask   []string
		kind  error
		want  string
	}{
		{"a name nearly right", []*Roll{simple("slurm", "1"), simple("ganglia", "1")}, []string{"slrum"}, ErrMissing,
			"resolve rolls: no such roll: slrum: did you mean slurm?"},
		{"a name far from all", []*Roll{simple("slurm", "1")}, []string{"x"}, ErrMissing, "resolve rolls: no such roll: x: there is slurm"},
		{"a version that is not there", []*Roll{simple("a", "1"), simple("a", "2")}, []string{"a@3"}, ErrMissing, "resolve rolls: no such roll: a@3: there is 1, 2"},
		{"a requirement that is not there", []*Roll{simple("a", "1", "b"), simple("b", "1", "cc")}, []string{"a"}, ErrMissing,
			"resolve rolls: no such roll: cc: there is a, b (wanted by a → b → cc)"},
		{"a pinned requirement that is not there", []*Roll{simple("a", "1", "b@2"), simple("b", "1")}, []string{"a"}, ErrMissing,
			"resolve rolls: no such roll: b@2: there is 1 (wanted by a → b@2)"},
		{"the first of two missing ones by name, however written", []*Roll{simple("x", "1", "nz", "na")}, []string{"x"}, ErrMissing, "(wanted by x → na)"},
		{"no name", []*Roll{simple("a", "1")}, []string{"A b"}, ErrInvalid, `"A b": want name or name@version`},
		{"a cycle", []*Roll{simple("a", "1", "b"), simple("b", "1", "c"), simple("c", "1", "b")}, []string{"a"}, ErrCycle,
			"resolve rolls: rolls require each other: b → c → b (wanted by a → b)"},
		{"a cycle through base", []*Roll{simple("base", "1", "a"), simple("a", "1")}, nil, ErrCycle, "a → base → a"},
		{"a conflict", []*Roll{conflicting(simple("slurm", "1"), "pbs"), simple("pbs", "1"), simple("x", "1", "pbs")}, []string{"x", "slurm"}, ErrConflict,
			"resolve rolls: rolls conflict: slurm (wanted by the reservation) does not go with pbs (wanted by x)"},
		{"two versions asked for", []*Roll{simple("a", "1"), simple("a", "2")}, []string{"a@1", "a@2"}, ErrVersion,
			"resolve rolls: roll versions disagree: the reservation wants a@1, but the reservation wants a@2"},
		{"two versions required", []*Roll{simple("a", "1"), simple("a", "2"), simple("b", "1", "a@1"), simple("c", "1", "d"), simple("d", "1", "a@2")}, []string{"b", "c"}, ErrVersion,
			"resolve rolls: roll versions disagree: b wants a@1, but c → d wants a@2"},
		{"versions that never settle", []*Roll{simple("a", "1", "b@1"), simple("a", "2", "b@2"), simple("b", "1", "a@2"), simple("b", "2", "a@1")}, []string{"a", "b"}, ErrVersion,
			"roll versions disagree"},
		{"one image path twice", []*Roll{writing(simple("a", "1"), false, "/x"), writing(simple("b", "1"), false, "/x")}, []string{"a", "b"}, ErrClash,
			"resolve rolls: rolls clash: a and b both write /x on worker"},
		{"one seed path twice", []*Roll{writing(simple("a", "1"), true, "/x"), writing(simple("b", "1"), true, "/x")}, []string{"a", "b"}, ErrClash, "both write /x"},
		{"a unit enabled and masked", []*Roll{units(simple("a", "1"), []string{"u.service"}, nil), units(simple("b", "1"), nil, []string{"u.service"})}, []string{"a", "b"}, ErrClash,
			"resolve rolls: rolls clash: a enables u.service, which b masks, on worker"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := catalog(t, tc.rolls...).Resolve(tc.ask, "worker")
			if !errors.Is(err, tc.kind) || !strings.Contains(fmt.Sprint(err), tc.want) || r.Rolls != nil {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestAnImageFileAndASeedFileMayHaveOnePath(t *testing.T) {
	c := catalog(t, writing(simple("a", "1"), false, "/x"), writing(simple("b", "1"), true, "/x"))
	mustResolve(t, c, "worker", "a", "b")
}

func TestResolveKnowsTheAppliancesOfItsRolls(t *testing.T) {
	gpu := simple("gpu", "1")
	gpu.Apply = map[string]Apply{"gpunode": {}}
	c := catalog(t, gpu)
	mustResolve(t, c, "gpunode", "gpu")
	_, err := c.Resolve(nil, "gpunode")
	if !errors.Is(err, ErrAppliance) {
		t.Errorf("without its roll: %v", err)
	}
	_, err = c.Resolve([]string{"gpu"}, "compute")
	if !errors.Is(err, ErrAppliance) || !strings.Contains(err.Error(), `"compute": these rolls know frontend, gpunode, worker`) {
		t.Errorf("unknown: %v", err)
	}
}

func TestCatalogRefusesTheSameTwice(t *testing.T) {
	if _, err := NewCatalog(simple("a", "1"), simple("a", "1.0")); !errors.Is(err, ErrDuplicate) {
		t.Errorf("got %v", err)
	}
}

func TestLoadAllWantsDirectoriesCalledAsTheirRolls(t *testing.T) {
	roll := &fstest.MapFile{Data: []byte(minimal)}
	c, err := LoadAll(fstest.MapFS{"d/mini/roll.yaml": roll, "d/README": {}}, "d")
	if err != nil || len(c.Rolls()) != 1 {
		t.Errorf("got %v, %v", c, err)
	}
	if _, err := LoadAll(fstest.MapFS{"d/maxi/roll.yaml": roll}, "d"); !errors.Is(err, ErrInvalid) {
		t.Errorf("a roll in another's directory: %v", err)
	}
	if _, err := LoadAll(fstest.MapFS{"d/mini/roll.yaml": roll, "d/mini@1/roll.yaml": roll}, "d"); !errors.Is(err, ErrDuplicate) {
		t.Errorf("one roll twice: %v", err)
	}
}

func TestCatalogGets(t *testing.T) {
	c := catalog(t, simple("a", "1"), simple("a", "2"))
	for ref, want := range map[string]string{"a": "a@2", "a@1": "a@1"} {
		if r, err := c.Get(ref); err != nil || r.ID() != want {
			t.Errorf("%s: %v, %v", ref, r, err)
		}
	}
	if _, err := c.Get("b"); !errors.Is(err, ErrMissing) {
		t.Errorf("b: %v", err)
	}
}

// A random catalog whose rolls require only rolls of lower number, now and then
// pinned: it has no cycle.
func drawCatalog(t *rapid.T) (*Catalog, []string) {
	rolls := []*Roll{simple("base", "1")}
	n := rapid.IntRange(1, 10).Draw(t, "rolls")
	perm := rapid.Permutation(slices.Collect(func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	})).Draw(t, "names")
	versions := make([]int, n)
	for i := range n {
		versions[i] = rapid.IntRange(1, 3).Draw(t, "versions")
		for v := range versions[i] {
			r := simple(fmt.Sprintf("r%d", perm[i]), fmt.Sprint(v+1))
			for j := range i {
				switch rapid.IntRange(0, 7).Draw(t, "edge") {
				case 0, 1:
					r.Requires = append(r.Requires, fmt.Sprintf("r%d", perm[j]))
				case 2:
					r.Requires = append(r.Requires, fmt.Sprintf("r%d@%d", perm[j], rapid.IntRange(1, versions[j]).Draw(t, "pin")))
				}
			}
			rolls = append(rolls, r)
		}
	}
	c, err := NewCatalog(rolls...)
	if err != nil {
		t.Fatal(err)
	}
	return c, rapid.SliceOfDistinct(rapid.Map(rapid.IntRange(0, n-1), func(i int) string { return fmt.Sprintf("r%d", i) }), rapid.ID[string]).Draw(t, "ask")
}

func TestResolvedOrderRespectsRequirementsAndPins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, ask := drawCatalog(t)
		r, err := c.Resolve(ask, "worker")
		if err != nil {
			if !errors.Is(err, ErrVersion) {
				t.Fatalf("%v: in a catalog without cycles only versions can disagree", err)
			}
			return
		}
		place := map[string]int{}
		for i, roll := range r.Rolls {
			if _, ok := place[roll.Name]; ok {
				t.Fatalf("%s is there twice", roll.Name)
			}
			place[roll.Name] = i
		}
		wanted := map[string]bool{"base": true}
		for _, a := range ask {
			wanted[a] = true
		}
		for i, roll := range r.Rolls {
			for _, q := range roll.Requires {
				name, version, _ := strings.Cut(q, "@")
				p, ok := place[name]
				if !ok || p >= i {
					t.Fatalf("%s at %d requires %s at %d (%v)", roll.Name, i, name, p, ok)
				}
				if version != "" && r.Rolls[p].Version != version {
					t.Fatalf("%s requires %s and gets %s", roll.ID(), q, r.Rolls[p].ID())
				}
				wanted[name] = true
			}
		}
		if r.Rolls[0].Name != "base" || len(wanted) != len(r.Rolls) {
			t.Fatalf("%v: want base first and exactly %d rolls", r.Names(), len(wanted))
		}
	})
}

func TestTheSameWishesGiveTheSameRecipe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, ask := drawCatalog(t)
		r1, e1 := c.Resolve(ask, "worker")
		rng := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
		all := c.Rolls()
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, r := range all {
			rng.Shuffle(len(r.Requires), func(i, j int) { r.Requires[i], r.Requires[j] = r.Requires[j], r.Requires[i] })
		}
		d, err := NewCatalog(all...)
		if err != nil {
			t.Fatal(err)
		}
		again := slices.Clone(ask)
		rng.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		r2, e2 := d.Resolve(append(again, again...), "worker")
		if d := cmp.Diff(r1.Names(), r2.Names()); d != "" || fmt.Sprint(e1) != fmt.Sprint(e2) {
			t.Fatalf("%s\n%v\n%v", d, e1, e2)
		}
		if e1 == nil && r1.Digest() != r2.Digest() {
			t.Fatal("digests differ")
		}
	})
}
