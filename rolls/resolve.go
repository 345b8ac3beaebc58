package rolls

import (
	"fmt"
	"slices"
	"strings"
)

// want is one wish for a roll: by the owner (from is empty) or by another roll.
type want struct {
	name, version, from string
}

// closure is one round's answer: what is reached, and by whom first.
type closure struct {
	rolls map[string]*Roll
	by    map[string]string // roll to the one that first asked for it; "" for the owner
	pins  []want            // all wishes with a version, in the order met
}

// Resolve turns names (name, or name@version) into a recipe for one appliance:
// it adds DefaultRolls and all that is required, and orders so that each roll
// stands after what it requires, base first, and otherwise by name. The order of
// names does not matter. A name without version is the highest version, unless
// something pins it.
//
// Errors wrap ErrInvalid, ErrMissing, ErrVersion, ErrConflict, ErrCycle,
// ErrClash or ErrAppliance; most are *ResolveError.
func (c *Catalog) Resolve(names []string, appliance string) (Recipe, error) {
	wants, err := c.wishes(names)
	if err != nil {
		return Recipe{}, err
	}
	cl, err := c.settle(wants)
	if err != nil {
		return Recipe{}, fmt.Errorf("resolve rolls: %w", err)
	}
	if err := cl.conflicts(); err != nil {
		return Recipe{}, fmt.Errorf("resolve rolls: %w", err)
	}
	order, err := cl.order()
	if err != nil {
		return Recipe{}, fmt.Errorf("resolve rolls: %w", err)
	}
	r := Recipe{Appliance: appliance, Rolls: order}
	if err := r.checkAppliance(); err != nil {
		return Recipe{}, fmt.Errorf("resolve rolls: %w", err)
	}
	if err := r.clashes(); err != nil {
		return Recipe{}, fmt.Errorf("resolve rolls: %w", err)
	}
	return r, nil
}

func (c *Catalog) wishes(names []string) ([]want, error) {
	var ws []want
	for _, n := range names {
		name, version, err := splitRef(n)
		if err != nil {
			return nil, fmt.Errorf("resolve rolls: %w", err)
		}
		ws = append(ws, want{name: name, version: version})
	}
	for _, n := range DefaultRolls {
		if len(c.rolls[n]) > 0 {
			ws = append(ws, want{name: n})
		}
	}
	slices.SortFunc(ws, func(a, b want) int {
		return strings.Compare(a.name+"@"+a.version, b.name+"@"+b.version)
	})
	return slices.Compact(ws), nil
}

// settle takes rounds: the highest version where nothing is pinned; where a pin
// met on the way says otherwise, that version, and once more. Each round but
// the last overrides at least one roll; a set that has not settled after as many
// rounds as the catalog has rolls chases its own tail, and is refused.
func (c *Catalog) settle(wants []want) (*closure, error) {
	override := map[string]string{}
	var cl *closure
	for range len(c.Rolls()) + 2 {
		var err error
		if cl, err = c.reach(wants, override); err != nil {
			return nil, err
		}
		changed := false
		for _, p := range cl.pins {
			used := cl.rolls[p.name].Version
			if compareVersions(used, p.version) == 0 || cl.pinned(p.name, used) {
				continue
			}
			override[p.name] = p.version
			changed = true
			break
		}
		if !changed {
			return cl, cl.versions()
		}
	}
	return nil, &ResolveError{Kind: ErrVersion, Detail: "the versions that the rolls pin never settle; pin them yourself"}
}

// reach walks breadth first from the wishes.
func (c *Catalog) reach(wants []want, override map[string]string) (*closure, error) {
	cl := &closure{rolls: map[string]*Roll{}, by: map[string]string{}}
	queue := slices.Clone(wants)
	for len(queue) > 0 {
		w := queue[0]
		queue = queue[1:]
		if w.version != "" {
			cl.pins = append(cl.pins, w)
			if c.get(w.name, w.version) == nil {
				return nil, &ResolveError{ErrMissing, append(cl.chain(w.from), ref(w)), c.missing(w.name, w.version)}
			}
		}
		if cl.rolls[w.name] != nil {
			continue
		}
		v, ok := override[w.name]
		if !ok {
			v = w.version
		}
		r := c.get(w.name, v)
		if r == nil {
			return nil, &ResolveError{ErrMissing, append(cl.chain(w.from), ref(w)), c.missing(w.name, v)}
		}
		cl.rolls[w.name], cl.by[w.name] = r, w.from
		for _, q := range sorted(r.Requires) {
			name, version, err := splitRef(q)
			if err != nil {
				return nil, fmt.Errorf("roll %s: requires: %w", r.ID(), err)
			}
			queue = append(queue, want{name, version, r.Name})
		}
	}
	return cl, nil
}

func ref(w want) string {
	if w.version == "" {
		return w.name
	}
	return w.name + "@" + w.version
}

// chain returns who asked for name, the owner's wish first.
func (cl *closure) chain(name string) []string {
	var out []string
	for n := name; n != ""; n = cl.by[n] {
		out = append(out, n)
	}
	slices.Reverse(out)
	return out
}

func (cl *closure) pinned(name, version string) bool {
	return slices.ContainsFunc(cl.pins, func(p want) bool {
		return p.name == name && compareVersions(p.version, version) == 0
	})
}

// versions refuses two pins of one roll that differ.
func (cl *closure) versions() error {
	first := map[string]want{}
	for _, p := range cl.pins {
		f, ok := first[p.name]
		if !ok {
			first[p.name] = p
			continue
		}
		if compareVersions(f.version, p.version) != 0 {
			return &ResolveError{Kind: ErrVersion, Detail: fmt.Sprintf("%s wants %s, but %s wants %s",
				cl.who(f.from), ref(f), cl.who(p.from), ref(p))}
		}
	}
	return nil
}

// who names a wisher with the chain behind it.
func (cl *closure) who(from string) string {
	if from == "" {
		return "the reservation"
	}
	return strings.Join(cl.chain(from), " → ")
}

func (cl *closure) names() []string {
	ns := make([]string, 0, len(cl.rolls))
	for n := range cl.rolls {
		ns = append(ns, n)
	}
	slices.Sort(ns)
	return ns
}

func (cl *closure) conflicts() error {
	for _, n := range cl.names() {
		for _, other := range sorted(cl.rolls[n].Conflicts) {
			if cl.rolls[other] != nil {
				return &ResolveError{Kind: ErrConflict, Detail: fmt.Sprintf("%s (wanted by %s) does not go with %s (wanted by %s)",
					n, cl.who(cl.by[n]), other, cl.who(cl.by[other]))}
			}
		}
	}
	return nil
}

// after returns what must stand before name.
func (cl *closure) after(name string) []string {
	var out []string
	for _, q := range cl.rolls[name].Requires {
		n, _, _ := strings.Cut(q, "@")
		out = append(out, n)
	}
	if name != BaseRoll && cl.rolls[BaseRoll] != nil {
		out = append(out, BaseRoll)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// order is Kahn's topological sort (1962), smallest name first among the free.
func (cl *closure) order() ([]*Roll, error) {
	left := map[string][]string{}
	for n := range cl.rolls {
		left[n] = cl.after(n)
	}
	var out []*Roll
	done := map[string]bool{}
	for len(left) > 0 {
		next := ""
		for n, before := range left {
			if (next == "" || n < next) && !slices.ContainsFunc(before, func(b string) bool { return !done[b] }) {
				next = n
			}
		}
		if next == "" {
			return nil, cl.cycle(left, done)
		}
		done[next] = true
		delete(left, next)
		out = append(out, cl.rolls[next])
	}
	return out, nil
}

// cycle walks unfinished requirements from the smallest name until one comes
// again: among rolls that cannot be ordered that must happen.
func (cl *closure) cycle(left map[string][]string, done map[string]bool) error {
	at := ""
	for n := range left {
		if at == "" || n < at {
			at = n
		}
	}
	var walk []string
	for !slices.Contains(walk, at) {
		walk = append(walk, at)
		for _, b := range left[at] {
			if !done[b] {
				at = b
				break
			}
		}
	}
	loop := append(walk[slices.Index(walk, at):], at)
	return &ResolveError{Kind: ErrCycle, Chain: cl.chain(at), Detail: strings.Join(loop, " → ")}
}

// checkAppliance refuses an appliance that no roll of the recipe knows.
func (r Recipe) checkAppliance() error {
	known := []string{ApplianceFrontend, ApplianceWorker}
	for _, roll := range r.Rolls {
		for a := range roll.Apply {
			if a != AnyAppliance {
				known = append(known, a)
			}
		}
	}
	if slices.Contains(known, r.Appliance) {
		return nil
	}
	slices.Sort(known)
	return fmt.Errorf("%w: %q: these rolls know %s", ErrAppliance, r.Appliance, strings.Join(slices.Compact(known), ", "))
}

// clashes refuses two claims to one path, or a unit both enabled and masked.
func (r Recipe) clashes() error {
	for _, list := range [][]File{r.Files(), r.Seed()} {
		owner := map[string]*Roll{}
		for _, f := range list {
			if o := owner[f.Path]; o != nil {
				return &ResolveError{Kind: ErrClash, Detail: fmt.Sprintf("%s and %s both write %s on %s", o.Name, f.Roll.Name, f.Path, r.Appliance)}
			}
			owner[f.Path] = f.Roll
		}
	}
	masked := map[string]*Roll{}
	for _, e := range r.Disable() {
		masked[e.Name] = e.Roll
	}
	for _, e := range r.Enable() {
		if o := masked[e.Name]; o != nil {
			return &ResolveError{Kind: ErrClash, Detail: fmt.Sprintf("%s enables %s, which %s masks, on %s", e.Roll.Name, e.Name, o.Name, r.Appliance)}
		}
	}
	return nil
}
