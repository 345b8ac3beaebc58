package rolls

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Entry is one named thing of a recipe (a package, a unit, a command) with the
// roll that asked for it.
type Entry struct {
	Roll *Roll
	Name string
}

// File is one FileSpec of a recipe with the roll it belongs to.
type File struct {
	FileSpec
	Roll *Roll
}

// Content returns the bytes of the file's source, as they are in the roll; nil
// for directories and secrets.
func (f File) Content() []byte { return f.Roll.Files[f.Source] }

// Perm returns the mode bits, 0-01777.
func (f File) Perm() uint32 {
	if f.Mode == "" {
		if f.Dir {
			return 0o755
		}
		return 0o644
	}
	m, err := strconv.ParseUint(f.Mode, 8, 16)
	if err != nil {
		panic("rolls: mode " + f.Mode + " was not validated") // Load refuses it
	}
	return uint32(m)
}

// UserGroup returns the owner's two names.
func (f File) UserGroup() (user, group string) {
	if f.Owner == "" {
		return "root", "root"
	}
	user, group, _ = strings.Cut(f.Owner, ":")
	return user, group
}

// Script is a script of a recipe with its roll.
type Script struct {
	Roll    *Roll
	Name    string // its path in the roll
	Content []byte
}

// each calls f with every part of the recipe that applies to its appliance: per
// roll in order, first "*", then the appliance's own.
func (r Recipe) each(f func(*Roll, Apply)) {
	for _, roll := range r.Rolls {
		for _, key := range []string{AnyAppliance, r.Appliance} {
			if a, ok := roll.Apply[key]; ok {
				f(roll, a)
			}
		}
	}
}

// Packages returns all packages, sorted, each once with the first roll that
// asked for it.
func (r Recipe) Packages() []Entry {
	es := r.entries(func(a Apply) []string { return a.Packages })
	slices.SortFunc(es, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return es
}

// Enable returns the systemd units to enable, in order, each once.
func (r Recipe) Enable() []Entry { return r.entries(func(a Apply) []string { return a.Enable }) }

// Disable returns the systemd units to mask, in order, each once.
func (r Recipe) Disable() []Entry { return r.entries(func(a Apply) []string { return a.Disable }) }

func (r Recipe) entries(list func(Apply) []string) []Entry {
	seen := map[string]bool{}
	var es []Entry
	r.each(func(roll *Roll, a Apply) {
		for _, n := range list(a) {
			if !seen[n] {
				seen[n] = true
				es = append(es, Entry{roll, n})
			}
		}
	})
	return es
}

// Files returns what is copied into the image, in order.
func (r Recipe) Files() []File { return r.files(func(a Apply) []FileSpec { return a.Files }) }

// Seed returns what is rendered into a node's seed, in order.
func (r Recipe) Seed() []File { return r.files(func(a Apply) []FileSpec { return a.Seed }) }

func (r Recipe) files(list func(Apply) []FileSpec) []File {
	var fs []File
	r.each(func(roll *Roll, a Apply) {
		for _, s := range list(a) {
			fs = append(fs, File{s, roll})
		}
	})
	return fs
}

// Scripts returns what runs in the image's chroot, in order. A script may read
// every other file of its roll.
func (r Recipe) Scripts() []Script { return r.scripts(func(a Apply) []string { return a.Scripts }) }

// FirstRun returns what runs once in the guest at its first boot, in order.
func (r Recipe) FirstRun() []Script { return r.scripts(func(a Apply) []string { return a.FirstRun }) }

func (r Recipe) scripts(list func(Apply) []string) []Script {
	var ss []Script
	r.each(func(roll *Roll, a Apply) {
		for _, n := range list(a) {
			ss = append(ss, Script{roll, n, roll.Files[n]})
		}
	})
	return ss
}

// Ready returns the readiness commands (templates), in order.
func (r Recipe) Ready() []Entry { return r.commands(func(a Apply) []string { return a.Ready }) }

// Reload returns the commands to run after live files have changed (templates),
// in order.
func (r Recipe) Reload() []Entry { return r.commands(func(a Apply) []string { return a.Reload }) }

func (r Recipe) commands(list func(Apply) []string) []Entry {
	var es []Entry
	r.each(func(roll *Roll, a Apply) {
		for _, c := range list(a) {
			es = append(es, Entry{roll, c})
		}
	})
	return es
}

// Names returns the recipe's rolls as name@version, in order.
func (r Recipe) Names() []string {
	ns := make([]string, len(r.Rolls))
	for i, roll := range r.Rolls {
		ns[i] = roll.ID()
	}
	return ns
}

// ID returns name@version.
func (r *Roll) ID() string { return r.Name + "@" + r.Version }

// Appliances returns the appliances the roll names, sorted ("*" first).
func (r *Roll) Appliances() []string {
	var as []string
	for a := range r.Apply {
		as = append(as, a)
	}
	slices.Sort(as)
	return as
}

// String names the recipe for people.
func (r Recipe) String() string {
	return fmt.Sprintf("%s: %s", r.Appliance, strings.Join(r.Names(), " "))
}
