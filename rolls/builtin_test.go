package rolls

import (
	"testing"
)

// Every built-in roll loads, and every appliance of every subset that an owner
// may ask for resolves and renders for a whole cluster.
func TestBuiltinRollsLoadResolveAndRender(t *testing.T) {
	c, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	asked := [][]string{nil, c.Names()}
	for _, n := range c.Names() {
		asked = append(asked, []string{n})
	}
	for _, names := range asked {
		fe, w := mustResolve(t, c, ApplianceFrontend, names...), mustResolve(t, c, ApplianceWorker, names...)
		cl := testCluster(t, fe, w)
		for i, n := range cl.Nodes {
			r := w
			if i == 0 {
				r = fe
			}
			m := testManifest(r)
			for _, f := range r.Seed() { // the owners that packages of the image bring
				u, g := f.UserGroup()
				if f.ForEach == "" {
					m.Users[u], m.Groups[g] = ID{}, 0
				}
			}
			if _, err := Render(cl, n.Name, r, m); err != nil {
				t.Errorf("%v: %v", names, err)
			}
		}
		if cl.Secrets.HostKey("frontend") == "" {
			t.Error("base makes no hostkey: its public half is what vcnctl pins")
		}
	}
}
