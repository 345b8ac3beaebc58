package rolls

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// BaseRoll is in every recipe, before all others.
const BaseRoll = "base"

// DefaultRolls are in every recipe, asked for or not, as far as the catalog has
// them.
var DefaultRolls = []string{BaseRoll, "users", "home"}

//go:embed all:builtin
var builtinFS embed.FS

// Catalog holds rolls by name and version. It does not change after it is made,
// and may be used by many goroutines.
type Catalog struct {
	rolls map[string][]*Roll // by name, lowest version first
}

// NewCatalog makes a catalog; ErrDuplicate if a name and version come twice.
func NewCatalog(rolls ...*Roll) (*Catalog, error) {
	c := &Catalog{rolls: map[string][]*Roll{}}
	for _, r := range rolls {
		if c.get(r.Name, r.Version) != nil {
			return nil, fmt.Errorf("add roll %s: %w", r.ID(), ErrDuplicate)
		}
		c.rolls[r.Name] = append(c.rolls[r.Name], r)
	}
	for _, vs := range c.rolls {
		slices.SortFunc(vs, func(a, b *Roll) int { return compareVersions(a.Version, b.Version) })
	}
	return c, nil
}

// LoadAll loads every directory in dir as a roll. Each is called as its roll, or
// as name@version.
func LoadAll(fsys fs.FS, dir string) (*Catalog, error) {
	des, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return nil, fmt.Errorf("read rolls in %s: %w", dir, err)
	}
	var rolls []*Roll
	for _, de := range des {
		if !de.IsDir() {
			continue
		}
		r, err := Load(fsys, dir+"/"+de.Name())
		if err != nil {
			return nil, err
		}
		if n := de.Name(); n != r.Name && n != r.ID() {
			return nil, fmt.Errorf("load %w", &FieldError{Roll: n, Field: "name", Value: r.Name, Want: "the directory's name"})
		}
		rolls = append(rolls, r)
	}
	return NewCatalog(rolls...)
}

// Builtin returns the catalog of the rolls that come with vcn.
func Builtin() (*Catalog, error) { return builtin() }

var builtin = sync.OnceValues(func() (*Catalog, error) { return LoadAll(builtinFS, "builtin") })

// Rolls returns all rolls, by name, then version.
func (c *Catalog) Rolls() []*Roll {
	var all []*Roll
	for _, n := range c.Names() {
		all = append(all, c.rolls[n]...)
	}
	return all
}

// Names returns the names of all rolls, sorted.
func (c *Catalog) Names() []string {
	ns := make([]string, 0, len(c.rolls))
	for n := range c.rolls {
		ns = append(ns, n)
	}
	slices.Sort(ns)
	return ns
}

// Get returns the roll of a reference, name (the highest version) or
// name@version; ErrMissing without it, ErrInvalid if ref is none.
func (c *Catalog) Get(ref string) (*Roll, error) {
	name, version, err := splitRef(ref)
	if err != nil {
		return nil, err
	}
	if r := c.get(name, version); r != nil {
		return r, nil
	}
	return nil, &ResolveError{Kind: ErrMissing, Detail: c.missing(name, version)}
}

// get returns nil if there is none; an empty version is the highest.
func (c *Catalog) get(name, version string) *Roll {
	vs := c.rolls[name]
	if version == "" && len(vs) > 0 {
		return vs[len(vs)-1]
	}
	for _, r := range vs {
		if compareVersions(r.Version, version) == 0 {
			return r
		}
	}
	return nil
}

// missing says what there is instead.
func (c *Catalog) missing(name, version string) string {
	if vs := c.rolls[name]; len(vs) > 0 {
		have := make([]string, len(vs))
		for i, r := range vs {
			have[i] = r.Version
		}
		return fmt.Sprintf("%s@%s: there is %s", name, version, strings.Join(have, ", "))
	}
	if near := near(name, c.Names()); len(near) > 0 {
		return fmt.Sprintf("%s: did you mean %s?", name, strings.Join(near, " or "))
	}
	return fmt.Sprintf("%s: there is %s", name, strings.Join(c.Names(), ", "))
}

// near returns up to three names that look like the wanted one.
func near(name string, names []string) []string {
	var out []string
	far := 2
	if len(name) < 4 {
		far = 1
	}
	for _, n := range names {
		if distance(name, n) <= far || (len(name) > 2 && (strings.HasPrefix(n, name) || strings.HasPrefix(name, n))) {
			out = append(out, n)
		}
	}
	if len(out) > 3 {
		slices.SortStableFunc(out, func(a, b string) int { return distance(name, a) - distance(name, b) })
		out = out[:3]
	}
	return out
}

// distance is Levenshtein's, in bytes (Wagner and Fischer 1974, two rows).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		diag := row[0]
		row[0] = i + 1
		for j := range b {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(diag+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// compareVersions compares dotted numbers; missing parts are 0.
func compareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		if d := part(as, i) - part(bs, i); d != 0 {
			return d
		}
	}
	return 0
}

func part(s []string, i int) int {
	if i >= len(s) {
		return 0
	}
	n, _ := strconv.Atoi(s[i]) // at most six digits, reVersion saw to it
	return n
}
