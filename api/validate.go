package api

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"
)

// Limits of a specification.
const (
	WorkersMax      = 1000 // in all groups together
	WorkerGroupsMax = 100
	UsersMax        = 200
	KeysMax         = 50       // of one user
	KeySizeMax      = 16 << 10 // bytes
	RollsMax        = 50
	CPUsMax         = 255 // what a guest's machine type allows

	MemoryMin = 256 * MiB
	MemoryMax = 4 * TiB
	DiskMin   = 4 * GiB
	DiskMax   = 16 * TiB
	HomeMin   = 256 * MiB
	HomeMax   = 16 * TiB
)

// Defaults of a specification.
const (
	DefaultCPUs            = 1
	DefaultMemory          = 512 * MiB
	DefaultDisk            = 4 * GiB
	DefaultGroup           = "compute"
	DefaultWorkerAppliance = "worker"
	// FrontendName is the frontend's node name and its appliance's.
	FrontendName = "frontend"
)

// Defaults returns the specification with every default filled in that does
// not depend on who asks. It shares nothing that it changes.
func (s Spec) Defaults() Spec {
	s.Frontend = s.Frontend.defaults()
	s.Workers = slices.Clone(s.Workers)
	for i := range s.Workers {
		g := &s.Workers[i]
		g.NodeShape = g.NodeShape.defaults()
		if g.Name == "" {
			g.Name = DefaultGroup
		}
		if g.Appliance == "" {
			g.Appliance = DefaultWorkerAppliance
		}
	}
	if s.AtEnd != nil {
		s.AtEnd = new(s.AtEnd.Defaults())
	}
	return s
}

func (n NodeShape) defaults() NodeShape {
	if n.CPUs == 0 {
		n.CPUs = DefaultCPUs
	}
	if n.Memory == 0 {
		n.Memory = DefaultMemory
	}
	if n.Disk == 0 {
		n.Disk = DefaultDisk
	}
	return n
}

// NodeNames is the names of the cluster's nodes: frontend, then each group's
// workers, such as compute-0, compute-1. They are unique in a valid
// specification.
func (s Spec) NodeNames() []string {
	names := []string{FrontendName}
	for _, g := range s.Workers {
		for i := range g.Count {
			names = append(names, g.Name+"-"+strconv.Itoa(i))
		}
	}
	return names
}

var (
	nameShape    = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`)
	groupShape   = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$`)
	rollShape    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)
	versionShape = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+~-]{0,39}$`)
	userShape    = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,30}$`)
)

const (
	wantName  = "1-40 of a-z, 0-9 and '-', starting with a letter, not ending in '-'"
	wantGroup = "1-30 of a-z, 0-9 and '-', starting with a letter, not ending in '-'"
	wantRoll  = "a roll's name, such as slurm, or name@version, such as slurm@1.2"
	wantUser  = "1-31 of a-z, 0-9, '_' and '-', starting with a letter"
	wantKey   = "one ssh public key as in authorized_keys, such as \"ssh-ed25519 AAAA… alice@studio\""
)

// systemUsers are accounts that images may hold; a user of the cluster must
// not become one of them.
var systemUsers = []string{
	"root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy",
	"www-data", "backup", "list", "irc", "gnats", "nobody", "messagebus", "sshd", "dnsmasq", "statd",
	"munge", "slurm", "ganglia", "tftp", "ntp", "chrony", "polkitd", "tcpdump", "tss", "libvirt-qemu",
	"adm", "tty", "disk", "kmem", "dialout", "fax", "voice", "cdrom", "floppy", "tape", "sudo", "audio",
	"dip", "operator", "src", "shadow", "utmp", "video", "sasl", "plugdev", "staff", "users", "nogroup",
	"input", "sgx", "kvm", "render", "crontab", "ssl-cert", "admin", "wheel",
}

// checker collects field errors, at most fieldErrorsMax.
type checker struct{ errs []FieldError }

func (c *checker) bad(field, value, want string) {
	if len(c.errs) < fieldErrorsMax {
		c.errs = append(c.errs, FieldError{Field: field, Value: value, Want: want})
	}
}

func (c *checker) number(field string, n, lo, hi int) {
	if n < lo || n > hi {
		c.bad(field, strconv.Itoa(n), fmt.Sprintf("%d to %d", lo, hi))
	}
}

func (c *checker) quantity(field string, q, lo, hi Quantity) {
	if q < lo || q > hi {
		c.bad(field, q.String(), fmt.Sprintf("%s to %s", lo, hi))
	}
}

// Validate checks a specification, after Defaults, against every limit that
// needs no clock and no knowledge of the hosts. It returns nil if all is well.
func (s Spec) Validate() []FieldError {
	var c checker
	if !nameShape.MatchString(s.Name) {
		c.bad("name", s.Name, wantName)
	} else if s.Slot.Repeat != "" && len(s.Name) > SeriesNameMax {
		c.bad("name", s.Name, wantSeriesName)
	}
	if s.Project != "" && !nameShape.MatchString(s.Project) {
		c.bad("project", s.Project, wantName)
	}
	_, errs := s.Slot.parse()
	for _, e := range errs {
		c.bad(e.Field, e.Value, e.Want)
	}
	c.shape("frontend", s.Frontend)
	c.workers(s.Workers)
	c.rolls("rolls", s.Rolls)
	if s.Home != 0 {
		c.quantity("home", s.Home, HomeMin, HomeMax)
	}
	c.users(s.Users)
	c.atEnd("atEnd", s.AtEnd)
	c.notify("notify", s.Notify)
	return c.errs
}

func (c *checker) shape(at string, n NodeShape) {
	c.number(at+".cpus", n.CPUs, 1, CPUsMax)
	c.quantity(at+".memory", n.Memory, MemoryMin, MemoryMax)
	c.quantity(at+".disk", n.Disk, DiskMin, DiskMax)
}

func (c *checker) workers(groups []WorkerGroup) {
	if len(groups) == 0 {
		c.bad("workers", "", "at least one group, such as {name: compute, count: 4}")
		return
	}
	if len(groups) > WorkerGroupsMax {
		c.bad("workers", fmt.Sprintf("%d groups", len(groups)), fmt.Sprintf("at most %d groups", WorkerGroupsMax))
		return
	}
	seen := map[string]bool{}
	total, countsFine := 0, true
	for i, g := range groups {
		at := fmt.Sprintf("workers[%d]", i)
		switch {
		case !groupShape.MatchString(g.Name):
			c.bad(at+".name", g.Name, wantGroup)
		case g.Name == FrontendName:
			c.bad(at+".name", g.Name, "another name; frontend is the frontend's")
		case seen[g.Name]:
			c.bad(at+".name", g.Name, "a name no other group has")
		}
		seen[g.Name] = true
		c.number(at+".count", g.Count, 1, WorkersMax)
		countsFine = countsFine && g.Count >= 1 && g.Count <= WorkersMax
		total += g.Count
		c.shape(at, g.NodeShape)
		if !nameShape.MatchString(g.Appliance) {
			c.bad(at+".appliance", g.Appliance, wantName)
		} else if g.Appliance == FrontendName {
			c.bad(at+".appliance", g.Appliance, "an appliance for workers, such as worker")
		}
	}
	if countsFine && total > WorkersMax {
		c.bad("workers", fmt.Sprintf("%d workers", total), fmt.Sprintf("at most %d workers in all", WorkersMax))
	}
}

func (c *checker) rolls(field string, rolls []string) {
	if len(rolls) > RollsMax {
		c.bad(field, fmt.Sprintf("%d rolls", len(rolls)), fmt.Sprintf("at most %d", RollsMax))
		return
	}
	seen := map[string]bool{}
	for i, r := range rolls {
		at := fmt.Sprintf("%s[%d]", field, i)
		name, version, hasVersion := strings.Cut(r, "@")
		switch {
		case !rollShape.MatchString(name) || hasVersion && !versionShape.MatchString(version):
			c.bad(at, r, wantRoll)
		case seen[name]:
			c.bad(at, r, "each roll once")
		}
		seen[name] = true
	}
}

func (c *checker) users(users []User) {
	if len(users) == 0 {
		c.bad("users", "", "at least one, such as {name: alice, keys: [\"ssh-ed25519 AAAA…\"]}")
		return
	}
	if len(users) > UsersMax {
		c.bad("users", fmt.Sprintf("%d users", len(users)), fmt.Sprintf("at most %d", UsersMax))
		return
	}
	seen := map[string]bool{}
	for i, u := range users {
		at := fmt.Sprintf("users[%d]", i)
		switch {
		case slices.Contains(systemUsers, u.Name) || strings.HasPrefix(u.Name, "systemd-"):
			c.bad(at+".name", u.Name, "a name that is not the system's own")
		case !userShape.MatchString(u.Name):
			c.bad(at+".name", u.Name, wantUser)
		case seen[u.Name]:
			c.bad(at+".name", u.Name, "a name no other user has")
		}
		seen[u.Name] = true
		if len(u.Keys) == 0 {
			c.bad(at+".keys", "", "at least one ssh public key: there are no passwords")
		} else if len(u.Keys) > KeysMax {
			c.bad(at+".keys", fmt.Sprintf("%d keys", len(u.Keys)), fmt.Sprintf("at most %d", KeysMax))
			continue
		}
		for j, k := range u.Keys {
			if want := checkKey(k); want != "" {
				c.bad(fmt.Sprintf("%s.keys[%d]", at, j), keyHead(k), want)
			}
		}
	}
}

// checkKey says what is wrong with a public key, or nothing.
func checkKey(k string) string {
	switch {
	case strings.Contains(k, "PRIVATE KEY"):
		return "the public key (the file that ends in .pub), never the private one"
	case len(k) > KeySizeMax:
		return fmt.Sprintf("at most %s", Quantity(KeySizeMax))
	case strings.ContainsFunc(k, unicode.IsControl):
		return wantKey + ", on one line and without tabs"
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k)); err != nil {
		return wantKey
	}
	return ""
}

// keyHead keeps what is repeated of a wrong key short, and of a private one
// nothing.
func keyHead(k string) string {
	if strings.Contains(k, "PRIVATE KEY") {
		return ""
	}
	if len(k) > 40 {
		return k[:40] + "..."
	}
	return k
}

// Token lives.
const (
	tokenLifeMin = "1m"
	tokenLifeMax = "10y"

	wantTokenKind = "operator, project or join"
	wantTokenLife = tokenLifeMin + " to " + tokenLifeMax + ", such as 90d"
)

// Defaults fills in the life of the token by its kind.
func (r TokenRequest) Defaults() TokenRequest {
	if r.For == "" {
		switch r.Kind {
		case TokenJoin:
			r.For = "1h"
		case TokenProject:
			r.For = "90d"
		case TokenOperator:
			r.For = "1y"
		}
	}
	return r
}

// Validate checks a token request after Defaults.
func (r TokenRequest) Validate() []FieldError {
	var c checker
	switch r.Kind {
	case TokenOperator, TokenJoin:
		if r.Project != "" {
			c.bad("project", r.Project, "nothing: only project tokens have a project")
		}
	case TokenProject:
		if !nameShape.MatchString(r.Project) {
			c.bad("project", r.Project, wantName)
		}
	default:
		c.bad("kind", string(r.Kind), wantTokenKind)
	}
	if len(r.Note) > 200 || strings.ContainsAny(r.Note, "\r\n\x00") {
		c.bad("note", r.Note, "one line of at most 200 bytes")
	}
	if r.For == "" && len(c.errs) > 0 && c.errs[0].Field == "kind" {
		return c.errs // the kind would have said for how long
	}
	d, err := ParseDuration(r.For)
	lo, _ := ParseDuration(tokenLifeMin)
	hi, _ := ParseDuration(tokenLifeMax)
	if err != nil || d < lo || d > hi {
		c.bad("for", r.For, wantTokenLife)
	}
	return c.errs
}

// Validate checks an image request; which rolls there are is the server's to
// know.
func (r ImageRequest) Validate() []FieldError {
	var c checker
	if len(r.Rolls) == 0 {
		c.bad("rolls", "", "at least one roll, such as slurm")
	}
	c.rolls("rolls", r.Rolls)
	if len(r.Appliances) > RollsMax {
		c.bad("appliances", fmt.Sprintf("%d appliances", len(r.Appliances)), fmt.Sprintf("at most %d", RollsMax))
	}
	for i, a := range r.Appliances {
		if !nameShape.MatchString(a) {
			c.bad(fmt.Sprintf("appliances[%d]", i), a, wantName)
		}
	}
	return c.errs
}
