package rolls

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Digest returns the SHA-256 of the roll's canonical content as 64 lower-case
// hex digits. It does not depend on the order in which sets are written
// (requires, conflicts, packages, units, files, secrets); the order of scripts,
// first-run scripts and ready commands counts.
func (r *Roll) Digest() string {
	h := sha256.New()
	io.WriteString(h, "vcn roll 1\n")
	j, err := json.Marshal(canonical(r))
	if err != nil {
		panic("rolls: a roll is plain data: " + err.Error())
	}
	fmt.Fprintf(h, "%d\n%s\n", len(j), j)
	names := make([]string, 0, len(r.Files))
	for n := range r.Files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		// Lengths stand before content, so that no two rolls run together.
		fmt.Fprintf(h, "%d %s %d\n", len(n), n, len(r.Files[n]))
		h.Write(r.Files[n])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// canonical returns a copy of the roll with its sets sorted.
func canonical(r *Roll) *Roll {
	c := *r
	c.Requires = sorted(r.Requires)
	c.Conflicts = sorted(r.Conflicts)
	c.Secrets = slices.Clone(r.Secrets)
	slices.SortFunc(c.Secrets, func(a, b SecretSpec) int { return strings.Compare(a.Name, b.Name) })
	c.Apply = make(map[string]Apply, len(r.Apply))
	byPath := func(a, b FileSpec) int { return strings.Compare(a.Path, b.Path) }
	for k, a := range r.Apply {
		a.Packages, a.Enable, a.Disable = sorted(a.Packages), sorted(a.Enable), sorted(a.Disable)
		a.Files, a.Seed = slices.Clone(a.Files), slices.Clone(a.Seed)
		slices.SortFunc(a.Files, byPath)
		slices.SortFunc(a.Seed, byPath)
		c.Apply[k] = a
	}
	return &c
}

func sorted(s []string) []string {
	c := slices.Clone(s)
	slices.Sort(c)
	return c
}

// Digest names the image content that the recipe asks for: SHA-256 over the
// appliance and the rolls in order, as 64 lower-case hex digits.
func (r Recipe) Digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "vcn recipe 1\n%s\n", r.Appliance)
	for _, roll := range r.Rolls {
		fmt.Fprintf(h, "%s %s\n", roll.ID(), roll.Digest())
	}
	return hex.EncodeToString(h.Sum(nil))
}
