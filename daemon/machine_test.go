package daemon

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vcn/api"
)

func TestCheckMachineNamesWhatTheOperatorMustProvide(t *testing.T) {
	links, bin := t.TempDir(), t.TempDir()
	for _, d := range []string{"br-pub/bridge", "eth0"} {
		if err := os.MkdirAll(filepath.Join(links, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{"vcn-init": 0o755, "text": 0o644} {
		if err := os.WriteFile(filepath.Join(bin, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		init, bridge string
		gateway      bool
		want         string // in the error; empty: none
	}{
		"all there":                {"vcn-init", "br-pub", true, ""},
		"no gateway, no bridge":    {"vcn-init", "", false, ""},
		"bridge absent":            {"vcn-init", "br-x", true, `network.publicBridge: "br-x"`},
		"a link that is no bridge": {"vcn-init", "eth0", true, "this link is none"},
		"init absent":              {"absent", "br-pub", true, "images.init"},
		"init not executable":      {"text", "br-pub", true, "can be executed"},
		"init is a directory":      {".", "br-pub", true, "can be executed"},
	} {
		c := Config{DataDir: t.TempDir(), Classes: []api.Class{api.ClassCompute}}
		c.Images.Init, c.Network.PublicBridge, c.Images.Dir = filepath.Join(bin, tc.init), tc.bridge, filepath.Join(c.DataDir, "images")
		if tc.gateway {
			c.Classes = append(c.Classes, api.ClassGateway)
		}
		err := checkMachine(c, links, slog.New(slog.DiscardHandler))
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestCheckMachineWarnsOfAWayThatIsClosedToGuests(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	init := filepath.Join(home, "vcn-init")
	if err := os.WriteFile(init, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	c := Config{DataDir: filepath.Join(home, "vcn")}
	c.Images.Init, c.Images.Dir = init, filepath.Join(c.DataDir, "images")
	var out bytes.Buffer
	if err := checkMachine(c, t.TempDir(), slog.New(slog.NewTextHandler(&out, nil))); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "chmod o+x") {
		t.Errorf("no warning of %s: %s", home, out.String())
	}
}
