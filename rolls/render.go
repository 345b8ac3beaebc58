package rolls

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"text/template"
	"time"
)

// SeedBytesMax bounds a node's seed tar.
const SeedBytesMax = 16 << 20

// seedTime is every entry's modification time: bytes must not depend on when
// they are rendered.
var seedTime = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// entry is one thing in the tar.
type entry struct {
	name     string // no leading slash; directories end in "/"
	mode     int64
	uid, gid int
	data     []byte
	from     string // whose it is, for errors
}

type renderer struct {
	cluster *Cluster
	node    Node
	recipe  Recipe
	man     Manifest
	data    Data
	entries []entry
}

// NodeInfo is etc/vcn/node.json.
type NodeInfo struct {
	Name      string   `json:"name"`
	Role      string   `json:"role"`
	Appliance string   `json:"appliance"`
	Group     string   `json:"group,omitempty"`
	Cluster   string   `json:"cluster"`
	ClusterID string   `json:"clusterID"`
	Project   string   `json:"project"`
	Image     string   `json:"image"`  // Manifest.Digest
	Rolls     []string `json:"rolls"`  // name@version
	Digest    string   `json:"digest"` // of all the rest of the seed
}

// Render makes the seed tar of one node: the recipe's seed files and what
// doc.go lists. The same arguments give the same bytes. Owners are looked up in
// the manifest and among the cluster's users. Errors wrap ErrCluster, ErrRender,
// ErrSecret, ErrOwner or ErrTooLarge.
func Render(c Cluster, node string, r Recipe, m Manifest) ([]byte, error) {
	x, err := newRenderer(c, node, r, m)
	if err != nil {
		return nil, fmt.Errorf("render seed of %s: %w", node, err)
	}
	for _, f := range r.Seed() {
		if err := x.seedFile(f); err != nil {
			return nil, fmt.Errorf("render seed of %s: roll %s: %s: %w", node, f.Roll.Name, f.Path, err)
		}
	}
	if err := x.scripts(); err != nil {
		return nil, fmt.Errorf("render seed of %s: %w", node, err)
	}
	x.own()
	b, err := x.tar()
	if err != nil {
		return nil, fmt.Errorf("render seed of %s: %w", node, err)
	}
	return b, nil
}

// RenderLive makes the part of a node's seed that is rewritten while the node
// runs, as a tar like Render's: the recipe's live files, and as
// etc/vcn/reload.d/NN-roll, a shell script with mode 0755, what each roll wants
// done after that. The same arguments give the same bytes; its files are those of
// Render, byte for byte. Errors are Render's.
func RenderLive(c Cluster, node string, r Recipe, m Manifest) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("render live files of %s: %w", node, err) }
	x, err := newRenderer(c, node, r, m)
	if err != nil {
		return fail(err)
	}
	for _, f := range r.Seed() {
		if !f.Live {
			continue
		}
		if err := x.seedFile(f); err != nil {
			return fail(fmt.Errorf("roll %s: %s: %w", f.Roll.Name, f.Path, err))
		}
	}
	if err := x.commands("reload", r.Reload()); err != nil {
		return fail(err)
	}
	b, err := x.tar()
	if err != nil {
		return fail(err)
	}
	return b, nil
}

func newRenderer(c Cluster, node string, r Recipe, m Manifest) (*renderer, error) {
	if err := c.check(m); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(c.Nodes, func(n Node) bool { return n.Name == node })
	if i < 0 {
		return nil, fmt.Errorf("%w: it has no node %q", ErrCluster, node)
	}
	if m.Appliance != "" && m.Appliance != r.Appliance {
		return nil, fmt.Errorf("%w: image of appliance %s, recipe of %s", ErrRender, m.Appliance, r.Appliance)
	}
	x := &renderer{cluster: &c, node: c.Nodes[i], recipe: r, man: m}
	x.data = Data{
		Cluster:  ClusterInfo{c.ID, c.Name, c.Project, c.Subnet},
		Node:     x.node,
		Frontend: c.Nodes[0],
		Workers:  c.Nodes[1:],
		Nodes:    c.Nodes,
		Groups:   groups(c.Nodes[1:]),
		Users:    c.Users,
	}
	return x, nil
}

// groups folds workers by group and shape, in the order first met.
func groups(ns []Node) []Group {
	var gs []Group
	for _, n := range ns {
		i := slices.IndexFunc(gs, func(g Group) bool {
			return g.Name == n.Group && g.CPUs == n.CPUs && g.MemoryMiB == n.MemoryMiB
		})
		if i < 0 {
			i = len(gs)
			gs = append(gs, Group{Name: n.Group, CPUs: n.CPUs, MemoryMiB: n.MemoryMiB})
		}
		gs[i].Nodes = append(gs[i].Nodes, n)
	}
	return gs
}

func (x *renderer) seedFile(f File) error {
	if f.ForEach == "" {
		return x.one(f, nil)
	}
	for i := range x.cluster.Users {
		if err := x.one(f, &x.cluster.Users[i]); err != nil {
			return fmt.Errorf("user %s: %w", x.cluster.Users[i].Name, err)
		}
	}
	return nil
}

// one renders one file, for one user if there is one.
func (x *renderer) one(f File, u *User) error {
	name := ""
	if u != nil {
		name = u.Name
		f.Path = strings.ReplaceAll(f.Path, userVar, name)
		f.Owner = strings.ReplaceAll(f.Owner, userVar, name)
	}
	e := entry{name: strings.TrimPrefix(f.Path, "/"), mode: int64(f.Perm()), from: f.Roll.Name}
	var err error
	if e.uid, e.gid, err = x.owner(f); err != nil {
		return err
	}
	switch {
	case f.Dir:
		e.name += "/"
	case f.Secret != "":
		e.data, err = x.lookup(f.Roll, f.Secret, "", name)
	default:
		e.data, err = x.execute(f.Roll, f.Source, string(f.Content()), u)
	}
	if err != nil {
		return err
	}
	x.entries = append(x.entries, e)
	return nil
}

func (x *renderer) owner(f File) (uid, gid int, err error) {
	user, group := f.UserGroup()
	uid, gid = -1, -1
	if id, ok := x.man.Users[user]; ok {
		uid = id.UID
	}
	if id, ok := x.man.Groups[group]; ok {
		gid = id
	}
	for _, u := range x.cluster.Users {
		if u.Name == user {
			uid = u.UID
		}
		if u.Name == group {
			gid = u.UID // every user has a group of its own, with the same number
		}
	}
	if user == "root" {
		uid = 0
	}
	if group == "root" {
		gid = 0
	}
	if uid < 0 {
		return 0, 0, fmt.Errorf("%w: user %q is neither in the image nor in the cluster", ErrOwner, user)
	}
	if gid < 0 {
		return 0, 0, fmt.Errorf("%w: group %q is neither in the image nor in the cluster", ErrOwner, group)
	}
	return uid, gid, nil
}

// execute runs one template for one roll.
func (x *renderer) execute(roll *Roll, name, text string, u *User) ([]byte, error) {
	t, err := parseTemplate(name, text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRender, err)
	}
	user := ""
	if u != nil {
		user = u.Name
	}
	get := func(ref, who string) (string, error) {
		b, err := x.lookup(roll, ref, who, user)
		return string(b), err
	}
	t.Funcs(template.FuncMap{
		"secret":     func(ref string) (string, error) { return get(ref, "") },
		"secretNode": func(ref, node string) (string, error) { return get(ref, node) },
		"secretUser": func(ref, user string) (string, error) { return get(ref, user) },
	})
	data := x.data
	data.User = u
	var w limitedBuffer
	if err := t.Execute(&w, data); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRender, err)
	}
	return w.Bytes(), nil
}

// limitedBuffer stops a template that never ends.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > FileBytesMax {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, FileBytesMax)
	}
	return b.Buffer.Write(p)
}

// scripts adds first-run scripts and ready scripts.
func (x *renderer) scripts() error {
	place := map[*Roll]int{}
	for i, r := range x.recipe.Rolls {
		place[r] = i
	}
	for i, s := range x.recipe.FirstRun() {
		// The running number keeps two scripts of one roll in order.
		name := fmt.Sprintf("etc/vcn/firstrun.d/%02d-%s-%02d-%s", place[s.Roll], s.Roll.Name, i, strings.ReplaceAll(s.Name, "/", "-"))
		x.entries = append(x.entries, entry{name: name, mode: 0o755, data: s.Content, from: s.Roll.Name})
	}
	return x.commands("ready", x.recipe.Ready())
}

// commands adds one script per roll of its commands of a kind, ready or reload,
// as etc/vcn/KIND.d/NN-roll.
func (x *renderer) commands(kind string, all []Entry) error {
	purpose := map[string]string{"ready": "ready when this succeeds", "reload": "run after live files have changed"}[kind]
	for i, roll := range x.recipe.Rolls {
		var b bytes.Buffer
		for _, c := range all {
			if c.Roll != roll {
				continue
			}
			cmd, err := x.execute(roll, kind, c.Name, nil)
			if err != nil {
				return fmt.Errorf("roll %s: %s: %w", roll.Name, kind, err)
			}
			// A subshell on lines of its own: a comment or an "&&" in the
			// command cannot swallow the test.
			fmt.Fprintf(&b, "(\n%s\n) || exit 1\n", strings.TrimSpace(string(cmd)))
		}
		if b.Len() > 0 {
			data := append([]byte("#!/bin/sh\n# "+purpose+": roll "+roll.ID()+"\n"), b.Bytes()...)
			x.entries = append(x.entries, entry{name: fmt.Sprintf("etc/vcn/%s.d/%02d-%s", kind, i, roll.Name), mode: 0o755, data: data, from: roll.Name})
		}
	}
	return nil
}

// own adds the files that rolls may not write.
func (x *renderer) own() {
	add := func(name string, b []byte) {
		x.entries = append(x.entries, entry{name: "etc/vcn/" + name, mode: 0o644, data: b, from: "vcn"})
	}
	var net, accounts, admins bytes.Buffer
	for _, n := range []*NIC{&x.node.Private, x.node.Public} {
		if n != nil {
			net.WriteString(strings.TrimSpace(strings.Join([]string{n.MAC, n.Address, n.Gateway}, " ")) + "\n")
		}
	}
	for _, u := range x.cluster.Users {
		fmt.Fprintf(&accounts, "%s:x:%d:%d:%s:/home/%s:/bin/bash\n", u.Name, u.UID, u.UID, u.Name, u.Name)
		if u.Admin {
			admins.WriteString(u.Name + "\n")
		}
	}
	add("net", net.Bytes())
	add("accounts", accounts.Bytes())
	add("admins", admins.Bytes())
	info := NodeInfo{Name: x.node.Name, Role: x.node.Role, Appliance: x.recipe.Appliance, Group: x.node.Group,
		Cluster: x.cluster.Name, ClusterID: x.cluster.ID, Project: x.cluster.Project,
		Image: x.man.Digest, Rolls: x.recipe.Names()}
	info.Digest = digestEntries(x.entries, mustJSON(info))
	add("node.json", mustJSON(info))
}

func mustJSON(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic("rolls: plain data does not encode: " + err.Error())
	}
	return append(b, '\n')
}

func digestEntries(es []entry, rest []byte) string {
	es = slices.Clone(es)
	slices.SortFunc(es, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	h := sha256.New()
	for _, e := range es {
		fmt.Fprintf(h, "%d %s %o %d %d %d\n", len(e.name), e.name, e.mode, e.uid, e.gid, len(e.data))
		h.Write(e.data)
	}
	h.Write(rest)
	return hex.EncodeToString(h.Sum(nil))
}

// collisions refuses what Resolve cannot see, since it depends on users' names:
// one path written twice, or below a file.
func (x *renderer) collisions() error {
	byPath := map[string]entry{}
	for _, e := range x.entries {
		p := strings.TrimSuffix(e.name, "/")
		if o, ok := byPath[p]; ok {
			return fmt.Errorf("%w: /%s is written by %s and by %s", ErrRender, p, o.from, e.from)
		}
		byPath[p] = e
	}
	for _, e := range x.entries {
		for d := path.Dir(strings.TrimSuffix(e.name, "/")); d != "."; d = path.Dir(d) {
			if o, ok := byPath[d]; ok && !strings.HasSuffix(o.name, "/") {
				return fmt.Errorf("%w: /%s of %s is below /%s, which is a file of %s", ErrRender, e.name, e.from, d, o.from)
			}
		}
	}
	return nil
}

func (x *renderer) tar() ([]byte, error) {
	slices.SortFunc(x.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	if err := x.collisions(); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range x.entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: e.mode, Uid: e.uid, Gid: e.gid,
			Size: int64(len(e.data)), ModTime: seedTime}
		if strings.HasSuffix(e.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("write %s to tar: %w", e.name, err)
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, fmt.Errorf("write %s to tar: %w", e.name, err)
		}
		if buf.Len() > SeedBytesMax {
			return nil, fmt.Errorf("%w: seed of more than %d bytes", ErrTooLarge, SeedBytesMax)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("end tar: %w", err)
	}
	return buf.Bytes(), nil
}
