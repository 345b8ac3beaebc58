package rolls

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// builtinCluster is a cluster of the built-in rolls, with slurm.
func builtinCluster(t *testing.T) (cl Cluster, recipes map[string]Recipe, manifests map[string]Manifest) {
	t.Helper()
	c, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	recipes, manifests = map[string]Recipe{}, map[string]Manifest{}
	var all []Recipe
	for _, a := range []string{ApplianceFrontend, ApplianceWorker} {
		r := mustResolve(t, c, a, "slurm")
		m := testManifest(r)
		m.Users["slurm"], m.Groups["slurm"] = ID{64030, 64030}, 64030
		recipes[a], manifests[a], all = r, m, append(all, r)
	}
	return testCluster(t, all...), recipes, manifests
}

func TestLivePartIsWhatTheGoldenFileSays(t *testing.T) {
	cl, rs, ms := builtinCluster(t)
	for _, n := range cl.Nodes[:2] {
		b, err := RenderLive(cl, n.Name, rs[n.Role], ms[n.Role])
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "live-"+n.Name+".txt", dump(t, b))
		again, err := RenderLive(cl, n.Name, rs[n.Role], ms[n.Role])
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("%s: two renderings differ, %v", n.Name, err)
		}
	}
}

// What a node booted with and what is pushed into it later must agree, or every
// node would be changed at once.
func TestLiveFilesAreThoseOfTheSeed(t *testing.T) {
	cl, rs, ms := builtinCluster(t)
	n := cl.Nodes[1]
	seed, err := Render(cl, n.Name, rs[n.Role], ms[n.Role])
	if err != nil {
		t.Fatal(err)
	}
	live, err := RenderLive(cl, n.Name, rs[n.Role], ms[n.Role])
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for r := tar.NewReader(bytes.NewReader(live)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(h.Name, "etc/vcn/reload.d/") {
			continue
		}
		files++
		if !bytes.Equal(b, member(t, seed, h.Name)) {
			t.Errorf("%s differs", h.Name)
		}
	}
	if files != 3 {
		t.Errorf("%d live files", files)
	}
}

// A cluster that comes back has other addresses, and must keep the owner's
// slurm.conf: so there is none in it.
func TestSlurmConfHoldsNoAddress(t *testing.T) {
	cl, rs, ms := builtinCluster(t)
	before, err := RenderLive(cl, "frontend", rs[ApplianceFrontend], ms[ApplianceFrontend])
	if err != nil {
		t.Fatal(err)
	}
	cl.Subnet = "10.9.0.0/16"
	for i := range cl.Nodes {
		n := &cl.Nodes[i].Private
		n.Address = strings.Replace(n.Address, "10.1.", "10.9.", 1)
		n.Gateway = strings.Replace(n.Gateway, "10.1.", "10.9.", 1)
	}
	after, err := RenderLive(cl, "frontend", rs[ApplianceFrontend], ms[ApplianceFrontend])
	if err != nil {
		t.Fatal(err)
	}
	const conf = "etc/slurm/slurm.conf"
	if !bytes.Equal(member(t, before, conf), member(t, after, conf)) {
		t.Error("slurm.conf changes with the subnet")
	}
	if bytes.Equal(member(t, before, "etc/hosts"), member(t, after, "etc/hosts")) {
		t.Error("hosts does not change with the subnet")
	}
}

func TestOnlySeedFilesMayBeLive(t *testing.T) {
	for name, yaml := range map[string]string{
		"an image's file":       "    files: [{path: /etc/x, source: f, live: true}]\n",
		"a directory":           "    seed: [{path: /etc/x, dir: true, live: true}]\n",
		"a path of vcn's":       "    seed: [{path: /etc/vcn/reload.d/x, source: f}]\n",
		"an empty reload":       "    reload: [\"\"]\n",
		"a reload, no template": "    reload: [\"{{\"]\n",
	} {
		if _, err := Load(dir(minimal+yaml, map[string]string{"f": ""}), "r"); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	mustLoad(t, minimal+"    seed: [{path: /etc/x, source: f, live: true}]\n    reload: ['true {{.Node.Name}}']\n", map[string]string{"f": ""})
}

// 1000 workers' names must fit into one command's input.
func TestLivePartOfALargeClusterFits(t *testing.T) {
	cl, r, m := bigCluster(t, 1000)
	b, err := RenderLive(cl, "compute-1", r, m)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 1<<20 {
		t.Errorf("%d bytes, more than half of what a command in a guest may get", len(b))
	}
}
