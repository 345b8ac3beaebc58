package rolls

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kdomanski/iso9660"
	"golang.org/x/crypto/ssh"
)

var update = flag.Bool("update", false, "rewrite golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got):\n%s", path, d)
	}
}

// The one thing in a seed that differs with equal randomness: the body of an
// OpenSSH private key file.
var rePrivate = regexp.MustCompile(`(?s)-----BEGIN OPENSSH PRIVATE KEY-----.*?-----END OPENSSH PRIVATE KEY-----`)

func dump(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	tr := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return out.Bytes()
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		text := rePrivate.ReplaceAllString(string(data), "(private key)")
		if strings.HasSuffix(h.Name, "munge.key") {
			text = hex.EncodeToString(data) + "\n"
		}
		text = regexp.MustCompile(`"digest": "[0-9a-f]{64}"`).ReplaceAllString(text, `"digest": "(digest)"`)
		fmt.Fprintf(&out, "=== %s %04o %d:%d\n%s", h.Name, h.Mode, h.Uid, h.Gid, text)
	}
}

func TestRenderWritesWhatTheGoldenFileSays(t *testing.T) {
	c := realish(t)
	fe, w := mustResolve(t, c, "frontend", "slurm"), mustResolve(t, c, "worker", "slurm")
	cl := testCluster(t, fe, w)
	for node, r := range map[string]Recipe{"frontend": fe, "compute-1": w} {
		b, err := Render(cl, node, r, testManifest(r))
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "seed-"+node+".txt", dump(t, b))
		again, err := Render(cl, node, r, testManifest(r))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, again) {
			t.Errorf("%s: two renderings differ", node)
		}
	}
}

func TestSeedDigestChangesWithContentAndImage(t *testing.T) {
	c := realish(t)
	r := mustResolve(t, c, "worker", "slurm")
	cl := testCluster(t, r)
	digest := func(cl Cluster, m Manifest) string {
		b, err := Render(cl, "compute-0", r, m)
		if err != nil {
			t.Fatal(err)
		}
		var info NodeInfo
		if err := json.Unmarshal(member(t, b, "etc/vcn/node.json"), &info); err != nil {
			t.Fatal(err)
		}
		return info.Digest
	}
	m := testManifest(r)
	first := digest(cl, m)
	m.Digest = "other"
	image := digest(cl, m)
	cl.Users[0].Admin = false
	admin := digest(cl, testManifest(r))
	if first == image || first == admin || len(first) != 64 {
		t.Errorf("digests: %s, other image %s, other admins %s: want three different ones", first, image, admin)
	}
}

func member(t *testing.T, b []byte, name string) []byte {
	t.Helper()
	tr := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := tr.Next()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if h.Name == name {
			data, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	base := func() (Cluster, Recipe, Manifest) {
		r := mustResolve(t, realish(t), "worker", "slurm")
		return testCluster(t, r), r, testManifest(r)
	}
	for _, tc := range []struct {
		name   string
		change func(*Cluster, *Recipe, *Manifest)
		want   error
	}{
		{"an unknown owner", func(_ *Cluster, _ *Recipe, m *Manifest) { delete(m.Users, "munge") }, ErrOwner},
		{"an unknown group", func(_ *Cluster, _ *Recipe, m *Manifest) { delete(m.Groups, "munge") }, ErrOwner},
		{"a secret that is not there", func(c *Cluster, _ *Recipe, _ *Manifest) { delete(c.Secrets, "slurm/munge") }, ErrSecret},
		{"a node's secret that is not there", func(c *Cluster, _ *Recipe, _ *Manifest) { delete(c.Secrets, "base/hostkey/compute-0.pub") }, ErrSecret},
		{"an image of another appliance", func(_ *Cluster, _ *Recipe, m *Manifest) { m.Appliance = "frontend" }, ErrRender},
		{"a user with a system account's name", func(c *Cluster, _ *Recipe, _ *Manifest) { c.Users[1].Name = "munge" }, ErrCluster},
		{"a user with a colon", func(c *Cluster, _ *Recipe, _ *Manifest) { c.Users[1].Name = "a:b" }, ErrCluster},
		{"a user with a system number", func(c *Cluster, _ *Recipe, _ *Manifest) { c.Users[1].UID = 0 }, ErrCluster},
		{"two users with one number", func(c *Cluster, _ *Recipe, _ *Manifest) { c.Users[1].UID = 2001 }, ErrCluster},
		{"a key of two lines", func(c *Cluster, _ *Recipe, _ *Manifest) { c.Users[1].Keys = []string{"a\nb"} }, ErrCluster},
		{"a node name with a newline", func(c *Cluster, _ *Recipe, _ *Manifest) { c.Nodes[1].Name = "x\ny" }, ErrCluster},
		{"a worker first", func(c *Cluster, _ *Recipe, _ *Manifest) { c.Nodes[0].Role = "worker" }, ErrCluster},
		{"a MAC in capitals", func(c *Cluster, _ *Recipe, _ *Manifest) { c.Nodes[1].Private.MAC = "52:54:00:00:00:AA" }, ErrCluster},
		{"a gateway elsewhere", func(c *Cluster, _ *Recipe, _ *Manifest) { c.Nodes[1].Private.Gateway = "10.9.0.1" }, ErrCluster},
		{"two gateways", func(c *Cluster, _ *Recipe, _ *Manifest) { c.Nodes[0].Private.Gateway = "10.1.0.2" }, ErrCluster},
		{"a subnet with host bits", func(c *Cluster, _ *Recipe, _ *Manifest) { c.Subnet = "10.1.0.1/16" }, ErrCluster},
		{"an absent node", func(c *Cluster, _ *Recipe, _ *Manifest) { c.Nodes = append(c.Nodes[:1:1], c.Nodes[2:]...) }, ErrCluster},
		{"an unknown field in a template", func(_ *Cluster, r *Recipe, _ *Manifest) {
			r.Rolls[0] = mustLoad(t, baseYAML, with(baseFiles, "hosts.tmpl", "{{.Node.Nmae}}"))
		}, ErrRender},
		{"the public NIC of a worker", func(_ *Cluster, r *Recipe, _ *Manifest) {
			r.Rolls[0] = mustLoad(t, baseYAML, with(baseFiles, "hosts.tmpl", "{{.Node.Public.Address}}"))
		}, ErrRender},
		{"the user where there is none", func(_ *Cluster, r *Recipe, _ *Manifest) {
			r.Rolls[0] = mustLoad(t, baseYAML, with(baseFiles, "hosts.tmpl", "{{.User.Name}}"))
		}, ErrRender},
		{"a user's file where another roll's is", func(_ *Cluster, r *Recipe, _ *Manifest) {
			r.Rolls = append(r.Rolls, mustLoad(t, minimal+"    seed: [{path: '/etc/{{.User.Name}}', source: f, forEach: user}, {path: /etc/bob, source: f}]\n", map[string]string{"f": ""}))
		}, ErrRender},
		{"a file below a user's file", func(_ *Cluster, r *Recipe, _ *Manifest) {
			r.Rolls = append(r.Rolls, mustLoad(t, minimal+"    seed: [{path: '/etc/{{.User.Name}}', source: f, forEach: user}, {path: /etc/bob/x, source: f}]\n", map[string]string{"f": ""}))
		}, ErrRender},
		{"a template that never ends", func(_ *Cluster, r *Recipe, _ *Manifest) {
			r.Rolls[0] = mustLoad(t, baseYAML, with(baseFiles, "hosts.tmpl", "{{range seq 9999}}{{range seq 9999}}0123456789{{end}}{{end}}"))
		}, ErrTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, r, m := base()
			tc.change(&c, &r, &m)
			b, err := Render(c, "compute-0", r, m)
			if !errors.Is(err, tc.want) || b != nil {
				t.Errorf("got %d bytes and %v, want %v", len(b), err, tc.want)
			}
		})
	}
}

func TestSecretsOfOthersStayOutOfTemplates(t *testing.T) {
	r := mustLoad(t, baseYAML, with(baseFiles, "hosts.tmpl", `{{$n := "slurm/munge"}}{{secret $n}}`))
	rec := mustResolve(t, realish(t), "worker", "slurm")
	cl := testCluster(t, rec)
	rec.Rolls[0] = r
	if _, err := Render(cl, "compute-0", rec, testManifest(rec)); !errors.Is(err, ErrSecret) {
		t.Errorf("base read slurm's secret: %v", err)
	}
	rec.Rolls[0] = mustLoad(t, baseYAML, with(baseFiles, "hosts.tmpl", `{{printf "%v" .}}`))
	b, err := Render(cl, "compute-0", rec, testManifest(rec))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(member(t, b, "etc/hosts"), []byte("PRIVATE KEY")) {
		t.Error("template data holds secrets")
	}
}

func TestMakeSecretsMakesEachKindForEachHolder(t *testing.T) {
	c := realish(t)
	rs := []Recipe{mustResolve(t, c, "worker", "slurm"), mustResolve(t, c, "frontend", "slurm")}
	s, err := MakeSecrets(rs, []string{"frontend", "compute-0"}, []string{"alice"}, &counter{})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for k := range s {
		keys = append(keys, k)
	}
	want := []string{"base/hostkey/compute-0", "base/hostkey/compute-0.pub", "base/hostkey/frontend", "base/hostkey/frontend.pub",
		"slurm/munge", "users/key/alice", "users/key/alice.pub"}
	if d := cmp.Diff(want, sorted(keys)); d != "" {
		t.Fatal(d)
	}
	if len(s["slurm/munge"]) != 64 {
		t.Errorf("munge key has %d bytes, want 64", len(s["slurm/munge"]))
	}
	priv, err := ssh.ParsePrivateKey(s["users/key/alice"])
	if err != nil {
		t.Fatal(err)
	}
	pub, comment, _, _, err := ssh.ParseAuthorizedKey(s["users/key/alice.pub"])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pub.Marshal(), priv.PublicKey().Marshal()) || comment != "alice" {
		t.Errorf("public half does not match, or comment %q", comment)
	}
	if got := s.HostKey("frontend"); !strings.HasPrefix(got, "ssh-ed25519 ") || strings.HasSuffix(got, "\n") {
		t.Errorf("host key %q", got)
	}
	other, err := MakeSecrets(rs[:1], []string{"compute-0", "frontend"}, []string{"alice"}, &counter{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(other["base/hostkey/frontend.pub"], s["base/hostkey/frontend.pub"]) {
		t.Error("the order of nodes or recipes changed a key made of the same random bytes")
	}
	if _, err := MakeSecrets(rs, nil, []string{"alice"}, strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("too little randomness: %v", err)
	}
	if _, err := MakeSecrets(rs, []string{"../x"}, nil, &counter{}); !errors.Is(err, ErrCluster) {
		t.Errorf("a node name with a slash: %v", err)
	}
}

func TestSeedISOHoldsTarAndItsHash(t *testing.T) {
	seed := bytes.Repeat([]byte("0123456789"), 1234)
	iso, err := SeedISO(seed)
	if err != nil {
		t.Fatal(err)
	}
	img, err := iso9660.OpenImage(bytes.NewReader(iso))
	if err != nil {
		t.Fatal(err)
	}
	if l, err := img.Label(); err != nil || strings.TrimSpace(l) != SeedLabel {
		t.Errorf("label %q, %v", l, err)
	}
	root, err := img.RootDir()
	if err != nil {
		t.Fatal(err)
	}
	kids, err := root.GetChildren()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, k := range kids {
		b, err := io.ReadAll(k.Reader())
		if err != nil {
			t.Fatal(err)
		}
		got[k.Name()] = string(b)
	}
	sum := sha256.Sum256(seed)
	want := map[string]string{SeedTarName: string(seed), SeedHashName: hex.EncodeToString(sum[:]) + "\n"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	again, err := SeedISO(seed)
	if err != nil || !bytes.Equal(iso, again) {
		t.Errorf("two ISOs of one tar differ (%v)", err)
	}
	if !bytes.Contains(iso[16*2048:17*2048], []byte("2020010100000000")) || bytes.Contains(iso, []byte("2026")) {
		t.Error("the clock is in the ISO")
	}
	if _, err := SeedISO(make([]byte, SeedBytesMax+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("huge seed: %v", err)
	}
}

func TestHostlistFoldsNumbers(t *testing.T) {
	for in, want := range map[string]string{
		"":                                "",
		"frontend":                        "frontend",
		"compute-0":                       "compute-0",
		"compute-0 compute-1 compute-3":   "compute-[0-1,3]",
		"b-9 b-10 a-1":                    "b-[9-10],a-1",
		"n-007 n-10":                      "n-007,n-10",
		"compute-2 compute-1 login c-100": "compute-[1-2],login,c-100",
	} {
		if got := Hostlist(strings.Fields(in)); got != want {
			t.Errorf("Hostlist(%s) = %s, want %s", in, got, want)
		}
	}
}

func mustResolve(t testing.TB, c *Catalog, appliance string, names ...string) Recipe {
	t.Helper()
	r, err := c.Resolve(names, appliance)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
