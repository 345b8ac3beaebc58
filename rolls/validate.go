package rolls

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The appliances that every cluster has, and the key that means all.
const (
	AnyAppliance      = "*"
	ApplianceFrontend = "frontend"
	ApplianceWorker   = "worker"
)

// userVar is the one template action that paths and owners may hold.
const userVar = "{{.User.Name}}"

// Debian Policy 5.6.1 for packages; systemd.unit(5) for units; useradd's
// NAME_REGEX for owners.
var (
	reName    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)
	reVersion = regexp.MustCompile(`^[0-9]{1,6}(\.[0-9]{1,6}){0,3}$`)
	rePackage = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,99}$`)
	reUnit    = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]{1,200}\.(service|socket|timer|target|mount|automount|path|swap|slice)$`)
	reAccount = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	reMode    = regexp.MustCompile(`^[01][0-7]{3}$`)
)

const (
	wantName    = "1-40 of a-z, 0-9 and '-', starting with a letter"
	wantVersion = "1-4 numbers with dots, such as 1.2"
)

// checker collects what is wrong with one roll.
type checker struct {
	roll *Roll
	name string
	errs []error
}

func (c *checker) bad(field, value, want string) {
	c.errs = append(c.errs, &FieldError{Roll: c.name, Field: field, Value: value, Want: want})
}

// validate checks everything that can be known from the roll alone. All faults
// are reported at once.
func (r *Roll) validate(dir string) error {
	c := &checker{roll: r, name: r.Name}
	if c.name == "" {
		c.name = dir
	}
	if !reName.MatchString(r.Name) {
		c.bad("name", r.Name, wantName)
	}
	if !reVersion.MatchString(r.Version) {
		c.bad("version", r.Version, wantVersion)
	}
	if r.Description == "" || len(r.Description) > 500 || strings.ContainsAny(r.Description, "\n\r") {
		c.bad("description", r.Description, "one line of 1-500 characters")
	}
	c.relations()
	c.secrets()
	if len(r.Apply) == 0 {
		c.bad("apply", "", `at least one appliance: "*", frontend, worker`)
	}
	for _, key := range r.Appliances() {
		if key != AnyAppliance && !reName.MatchString(key) {
			c.bad("apply", key, `"*" or an appliance's name: `+wantName)
			continue
		}
		c.apply("apply."+key, r.Apply[key])
	}
	return errors.Join(c.errs...)
}

func (c *checker) relations() {
	c.length("requires", len(c.roll.Requires))
	c.length("conflicts", len(c.roll.Conflicts))
	seen := map[string]bool{}
	for i, s := range c.roll.Requires {
		field := fmt.Sprintf("requires[%d]", i)
		name, _, err := splitRef(s)
		switch {
		case err != nil:
			c.bad(field, s, "name or name@version")
		case name == c.roll.Name:
			c.bad(field, s, "another roll than itself")
		case seen[name]:
			c.bad(field, s, "each roll once")
		}
		seen[name] = true
	}
	for i, s := range c.roll.Conflicts {
		field := fmt.Sprintf("conflicts[%d]", i)
		switch {
		case !reName.MatchString(s):
			c.bad(field, s, "a roll's name, without version")
		case s == c.roll.Name || seen[s]:
			c.bad(field, s, "a roll that it neither is nor requires")
		}
	}
}

func (c *checker) secrets() {
	c.length("secrets", len(c.roll.Secrets))
	seen := map[string]bool{}
	for i, s := range c.roll.Secrets {
		f := fmt.Sprintf("secrets[%d].", i)
		if !reName.MatchString(s.Name) {
			c.bad(f+"name", s.Name, wantName)
		}
		if seen[s.Name] {
			c.bad(f+"name", s.Name, "each secret once")
		}
		seen[s.Name] = true
		if !slices.Contains([]string{KindRandom, KindSSH}, s.Kind) {
			c.bad(f+"kind", s.Kind, KindRandom+" or "+KindSSH)
		}
		if s.Kind == KindSSH && s.Bytes != 0 {
			c.bad(f+"bytes", strconv.Itoa(s.Bytes), "nothing with "+KindSSH)
		}
		if s.Bytes < 0 || s.Bytes > SecretBytesMax {
			c.bad(f+"bytes", strconv.Itoa(s.Bytes), fmt.Sprintf("1-%d", SecretBytesMax))
		}
		if !slices.Contains([]string{"", PerCluster, PerNode, PerUser}, s.Per) {
			c.bad(f+"per", s.Per, "cluster, node or user")
		}
	}
}

func (c *checker) apply(field string, a Apply) {
	each := func(name string, list []string, ok func(string) bool, want string) {
		c.length(field+"."+name, len(list))
		for i, s := range list {
			if !ok(s) {
				c.bad(fmt.Sprintf("%s.%s[%d]", field, name, i), s, want)
			}
		}
	}
	source := func(s string) bool { _, ok := c.roll.Files[s]; return ok }
	const wantSource = "a file in the roll's directory"
	each("packages", a.Packages, rePackage.MatchString, "a Debian package's name, without version")
	each("enable", a.Enable, reUnit.MatchString, "a systemd unit with its suffix, such as sshd.service")
	each("disable", a.Disable, reUnit.MatchString, "a systemd unit with its suffix, such as cron.service")
	each("scripts", a.Scripts, source, wantSource)
	each("firstRun", a.FirstRun, source, wantSource)
	command := func(name string) func(string) bool {
		return func(s string) bool { return strings.TrimSpace(s) != "" && c.template(field+"."+name, s, false) }
	}
	each("ready", a.Ready, command("ready"), "a shell command that is a valid template")
	each("reload", a.Reload, command("reload"), "a shell command that is a valid template")
	for i, u := range a.Enable {
		if slices.Contains(a.Disable, u) {
			c.bad(fmt.Sprintf("%s.enable[%d]", field, i), u, "a unit that is not also in disable")
		}
	}
	c.files(field+".files", a.Files, false)
	c.files(field+".seed", a.Seed, true)
}

func (c *checker) files(field string, fs []FileSpec, seed bool) {
	c.length(field, len(fs))
	seen := map[string]bool{}
	for i, f := range fs {
		at := fmt.Sprintf("%s[%d].", field, i)
		c.file(at, f, seed)
		if seen[f.Path] {
			c.bad(at+"path", f.Path, "each path once")
		}
		seen[f.Path] = true
	}
}

func (c *checker) file(at string, f FileSpec, seed bool) {
	perUser := f.ForEach == "user"
	// The user's name becomes one path element, so that checking with a
	// plain word in its place checks every user's path.
	subst := func(s string) string {
		if perUser {
			return strings.ReplaceAll(s, userVar, "user")
		}
		return s
	}
	if want := pathFault(subst(f.Path)); want != "" {
		c.bad(at+"path", f.Path, want)
	}
	if perUser && !strings.Contains(f.Path, userVar) {
		c.bad(at+"path", f.Path, "with forEach: user, a path with "+userVar)
	}
	if f.Mode != "" && !reMode.MatchString(f.Mode) {
		c.bad(at+"mode", f.Mode, `four octal digits, "0000"-"1777" (no setuid, no setgid)`)
	}
	if f.Owner != "" {
		u, g, ok := strings.Cut(subst(f.Owner), ":")
		if !ok || !reAccount.MatchString(u) || !reAccount.MatchString(g) {
			c.bad(at+"owner", f.Owner, "user:group, by name")
		}
	}
	if f.When != "" && f.When != "always" {
		c.bad(at+"when", f.When, "nothing, or always")
	}
	if f.Live && (!seed || f.Dir) {
		c.bad(at+"live", "true", "nothing: only files of a seed are rewritten in running nodes")
	}
	c.origin(at, f, seed)
	if !seed && f.ForEach != "" {
		c.bad(at+"forEach", f.ForEach, "nothing: images know no users, only seeds do")
	} else if f.ForEach != "" && !perUser {
		c.bad(at+"forEach", f.ForEach, "nothing, or user")
	}
}

// origin checks that exactly one of source, secret and dir is there, and holds.
func (c *checker) origin(at string, f FileSpec, seed bool) {
	n := 0
	for _, is := range []bool{f.Source != "", f.Secret != "", f.Dir} {
		if is {
			n++
		}
	}
	if n != 1 {
		c.bad(at+"source", f.Source, "exactly one of source, secret and dir: true")
		return
	}
	switch {
	case f.Source != "":
		b, ok := c.roll.Files[f.Source]
		if !ok {
			c.bad(at+"source", f.Source, "a file in the roll's directory")
		} else if seed {
			c.template(at+"source", string(b), f.ForEach == "user")
		}
	case f.Secret != "" && !seed:
		c.bad(at+"secret", f.Secret, "nothing: images hold no secrets, put the file under seed")
	case f.Secret != "":
		c.secretRef(at+"secret", f.Secret, f.ForEach == "user")
	}
}

// secretRef checks a reference to a secret as far as this roll knows: its own
// must be declared, others' rolls must be required. Render checks the rest.
func (c *checker) secretRef(field, ref string, perUser bool) {
	roll, name := cutSecret(ref, c.roll.Name)
	if roll != c.roll.Name {
		if !reName.MatchString(strings.TrimSuffix(name, ".pub")) || !c.roll.needs(roll) {
			c.bad(field, ref, "name, or roll/name with a roll that it requires")
		}
		return
	}
	spec, ok := c.roll.secret(name)
	switch {
	case !ok:
		c.bad(field, ref, "a secret that the roll declares (name.pub only with "+KindSSH+")")
	case spec.Per == PerUser && !perUser:
		c.bad(field, ref, "forEach: user beside a secret that is per user")
	}
}

// needs reports whether the roll may count on the other's presence.
func (r *Roll) needs(other string) bool {
	return other == BaseRoll || slices.ContainsFunc(r.Requires, func(s string) bool {
		n, _, _ := strings.Cut(s, "@")
		return n == other
	})
}

// secret returns the declaration behind a secret's name, with or without .pub.
func (r *Roll) secret(name string) (SecretSpec, bool) {
	for _, s := range r.Secrets {
		if s.Name == name || (s.Kind == KindSSH && s.Name+".pub" == name) {
			return s, true
		}
	}
	return SecretSpec{}, false
}

func (c *checker) length(field string, n int) {
	if n > ListMax {
		c.bad(field, strconv.Itoa(n), fmt.Sprintf("at most %d entries", ListMax))
	}
}

// pathFault returns what a guest path should be, or "" if it is fine.
func pathFault(p string) string {
	switch {
	case !strings.HasPrefix(p, "/") || path.Clean(p) != p || p == "/" || len(p) > 200:
		return "an absolute path without '..', '.', '//' or an end in '/', up to 200 characters"
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune(`{}\`, r) }):
		return "a path without control characters, braces and backslashes"
	case reserved(p):
		return "a path that vcn does not write itself (see rolls/doc.go)"
	}
	return ""
}

func reserved(p string) bool {
	switch p {
	case "/etc/vcn/node.json", "/etc/vcn/net", "/etc/vcn/accounts", "/etc/vcn/admins", "/etc/vcn":
		return true
	}
	for _, dir := range []string{"ready.d", "firstrun.d", "reload.d"} {
		if strings.HasPrefix(p+"/", "/etc/vcn/"+dir+"/") {
			return true
		}
	}
	return false
}

// splitRef splits name or name@version.
func splitRef(s string) (name, version string, err error) {
	name, version, has := strings.Cut(s, "@")
	if !reName.MatchString(name) || (has && !reVersion.MatchString(version)) {
		return name, version, fmt.Errorf("%w: %q: want name or name@version (name: %s; version: %s)", ErrInvalid, s, wantName, wantVersion)
	}
	return name, version, nil
}
