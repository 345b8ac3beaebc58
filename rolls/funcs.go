package rolls

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
)

const seqMax = 10_000 // entries of seq

// Group is the workers of one group and shape, for templates.
type Group struct {
	Name      string
	CPUs      int
	MemoryMiB int
	Nodes     []Node
}

// ClusterInfo is what templates see as .Cluster: no secrets.
type ClusterInfo struct {
	ID, Name, Project, Subnet string
}

// Data is what templates see.
type Data struct {
	Cluster  ClusterInfo
	Node     Node
	Frontend Node
	Workers  []Node
	Nodes    []Node
	Groups   []Group
	Users    []User
	User     *User // with forEach: user; else nil, and using it is an error
}

// plainFuncs need nothing but their arguments.
var plainFuncs = template.FuncMap{
	"ip": func(cidr string) (string, error) {
		p, err := netip.ParsePrefix(cidr)
		return p.Addr().String(), err
	},
	"prefix": func(cidr string) (int, error) {
		p, err := netip.ParsePrefix(cidr)
		return p.Bits(), err
	},
	"network": func(cidr string) (string, error) {
		p, err := netip.ParsePrefix(cidr)
		return p.Masked().String(), err
	},
	"join":  func(sep string, s []string) string { return strings.Join(s, sep) },
	"trim":  strings.TrimSpace,
	"upper": strings.ToUpper,
	"lower": strings.ToLower,
	"add":   func(a, b int) int { return a + b },
	"sub":   func(a, b int) int { return a - b },
	"mul":   func(a, b int) int { return a * b },
	"div": func(a, b int) (int, error) {
		if b == 0 {
			return 0, fmt.Errorf("divide by zero")
		}
		return a / b, nil
	},
	"hex":    func(s string) string { return hex.EncodeToString([]byte(s)) },
	"base64": func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"seq":    seq,
	"names":  nodeNames,
	"hostlist": func(v any) (string, error) {
		switch v := v.(type) {
		case []string:
			return Hostlist(v), nil
		case []Node:
			return Hostlist(nodeNames(v)), nil
		}
		return "", fmt.Errorf("hostlist: want nodes or names, not %T", v)
	},
}

// secretFuncs stand in for Render's, so that Load can parse templates.
var secretFuncs = template.FuncMap{
	"secret":     func(string) (string, error) { return "", ErrSecret },
	"secretNode": func(string, string) (string, error) { return "", ErrSecret },
	"secretUser": func(string, string) (string, error) { return "", ErrSecret },
}

// seq returns 0 … n-1.
func seq(n int) ([]int, error) {
	if n < 0 || n > seqMax {
		return nil, fmt.Errorf("seq: %d: want 0-%d", n, seqMax)
	}
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s, nil
}

func nodeNames(ns []Node) []string {
	out := make([]string, len(ns))
	for i, n := range ns {
		out[i] = n.Name
	}
	return out
}

var reNumbered = regexp.MustCompile(`^(.*?)(0|[1-9][0-9]{0,8})$`)

// Hostlist folds names into Slurm's form (slurm.conf(5), NodeName):
// compute-0, compute-1, compute-3 → compute-[0-1,3]. Numbers with leading zeros
// are left as they are. Prefixes come in the order first met.
func Hostlist(names []string) string {
	var order []string
	nums := map[string][]int{} // by prefix; nil for a name without number
	for _, n := range names {
		m := reNumbered.FindStringSubmatch(n)
		if m == nil || strings.HasSuffix(m[1], "0") {
			order = append(order, n)
			nums[n] = nil
			continue
		}
		if _, ok := nums[m[1]]; !ok {
			order = append(order, m[1])
		}
		i, _ := strconv.Atoi(m[2])
		nums[m[1]] = append(nums[m[1]], i)
	}
	out := make([]string, 0, len(order))
	for _, p := range order {
		out = append(out, p+ranges(nums[p]))
	}
	return strings.Join(out, ",")
}

func ranges(ns []int) string {
	slices.Sort(ns)
	ns = slices.Compact(ns)
	if len(ns) == 0 {
		return ""
	}
	if len(ns) == 1 {
		return strconv.Itoa(ns[0])
	}
	var parts []string
	for i := 0; i < len(ns); {
		j := i
		for j+1 < len(ns) && ns[j+1] == ns[j]+1 {
			j++
		}
		if i == j {
			parts = append(parts, strconv.Itoa(ns[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", ns[i], ns[j]))
		}
		i = j + 1
	}
	return "[" + strings.Join(parts, ",") + "]"
}

func parseTemplate(name, text string) (*template.Template, error) {
	return template.New(name).Option("missingkey=error").Funcs(plainFuncs).Funcs(secretFuncs).Parse(text)
}

// template checks a template's syntax and the secrets that it names literally;
// it reports faults itself and always answers true, so that a caller's own
// check does not report them again.
func (c *checker) template(field, text string, perUser bool) bool {
	t, err := parseTemplate("t", text)
	if err != nil {
		c.bad(field, "", "a valid template: "+strings.TrimPrefix(err.Error(), "template: t:"))
		return true
	}
	for _, t := range t.Templates() {
		if t.Tree != nil {
			walkSecrets(t.Tree.Root, func(fn, ref string) {
				// secretNode and secretUser say for whom themselves.
				c.secretRef(field, ref, perUser || fn != "secret")
			})
		}
	}
	return true
}

// walkSecrets calls f for each call of a secret function with a literal name.
func walkSecrets(n parse.Node, f func(fn, ref string)) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n != nil {
			for _, m := range n.Nodes {
				walkSecrets(m, f)
			}
		}
	case *parse.ActionNode:
		walkSecrets(n.Pipe, f)
	case *parse.TemplateNode:
		walkSecrets(n.Pipe, f)
	case *parse.IfNode:
		walkBranch(&n.BranchNode, f)
	case *parse.RangeNode:
		walkBranch(&n.BranchNode, f)
	case *parse.WithNode:
		walkBranch(&n.BranchNode, f)
	case *parse.PipeNode:
		if n != nil {
			for _, c := range n.Cmds {
				walkSecrets(c, f)
			}
		}
	case *parse.CommandNode:
		if id, ok := n.Args[0].(*parse.IdentifierNode); ok && secretFuncs[id.Ident] != nil && len(n.Args) > 1 {
			if s, ok := n.Args[1].(*parse.StringNode); ok {
				f(id.Ident, s.Text)
			}
		}
		for _, a := range n.Args {
			walkSecrets(a, f)
		}
	}
}

func walkBranch(b *parse.BranchNode, f func(fn, ref string)) {
	walkSecrets(b.Pipe, f)
	walkSecrets(b.List, f)
	walkSecrets(b.ElseList, f)
}
