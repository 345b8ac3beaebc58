package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vcn/api"
	"vcn/fsm"
)

// firstHost is the configuration of a host with everything else at its default.
func firstHost(t *testing.T) Config {
	t.Helper()
	c := Config{Name: "h1", Address: "198.51.100.7", DataDir: filepath.Join(t.TempDir(), "data")}
	if err := c.complete(); err != nil {
		t.Fatal(err)
	}
	return c
}

func goodInit() InitOptions {
	return InitOptions{ClusterName: "lab", Expect: 3, VLANs: "100-1099", Subnets: "10.64.0.0/10", SubnetBits: 20,
		PublicPool: "192.0.2.10-192.0.2.99/24", PublicGW: "192.0.2.1"}
}

// nothingIn wants that no file was made, where dir is the parent of the data directory.
func nothingIn(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("%s was left", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestInitRefusesAWrongFlagAndWritesNothing(t *testing.T) {
	pool := func(s string) func(*InitOptions) { return func(o *InitOptions) { o.PublicPool, o.PublicGW = s, "" } }
	gateway := func(s string) func(*InitOptions) { return func(o *InitOptions) { o.PublicGW = s } }
	vlans := func(s string) func(*InitOptions) { return func(o *InitOptions) { o.VLANs = s } }
	subnets := func(s string, bits int) func(*InitOptions) {
		return func(o *InitOptions) { o.Subnets, o.SubnetBits = s, bits }
	}
	for _, tc := range []struct {
		name string
		edit func(*InitOptions)
		want string // how the error begins: flag, value and the heart of what would be right
	}{
		{"cluster without a name", func(o *InitOptions) { o.ClusterName = "" }, `--name: want 1-40 of a-z`},
		{"name in capitals", func(o *InitOptions) { o.ClusterName = "Lab" }, `--name: "Lab": want 1-40 of a-z`},
		{"even number of voters", func(o *InitOptions) { o.Expect = 2 }, `--expect: "2": want 1, 3 or 5`},
		{"more voters than ever vote", func(o *InitOptions) { o.Expect = 5 }, `--expect: "5": want at most 3, which is raft.voters`},

		{"VLANs with a rest", vlans("100-200x"), `--vlans: "100-200x": want FIRST-LAST within 1-4094`},
		{"two ranges of VLANs", vlans("100-200 300-400"), `--vlans: "100-200 300-400": want FIRST-LAST`},
		{"one VLAN", vlans("100"), `--vlans: "100": want FIRST-LAST`},
		{"no VLANs", vlans(""), `--vlans: want FIRST-LAST`},
		{"VLANs backwards", vlans("200-100"), `--vlans: "200-100": want FIRST-LAST`},
		{"VLAN 0", vlans("0-100"), `--vlans: "0-100": want FIRST-LAST`},
		{"VLAN 4095", vlans("1-4095"), `--vlans: "1-4095": want FIRST-LAST`},
		{"signed VLANs", vlans("+1-+9"), `--vlans: "+1-+9": want FIRST-LAST`},
		{"a VLAN beyond any integer", vlans("1-99999999999999999999"), `--vlans: "1-99999999999999999999": want FIRST-LAST`},

		{"subnets that are no network", subnets("10.64.0.1/10", 20), `--subnets: "10.64.0.1/10": want an IPv4 network of /8 to /28`},
		{"subnets of another family", subnets("fd00::/8", 20), `--subnets: "fd00::/8": want an IPv4 network`},
		{"subnets with a rest", subnets("10.64.0.0/10abc", 20), `--subnets: "10.64.0.0/10abc": want an IPv4 network`},
		{"everything as subnets", subnets("0.0.0.0/0", 20), `--subnets: "0.0.0.0/0": want an IPv4 network of /8`},
		{"multicast as subnets", subnets("224.0.0.0/8", 20), `--subnets: "224.0.0.0/8": want an IPv4 network`},
		{"too few addresses for one subnet", subnets("10.64.0.0/30", 20), `--subnets: "10.64.0.0/30": want an IPv4 network of /8 to /28`},
		{"a subnet larger than all", subnets("10.64.0.0/24", 20), `--subnet-bits: "20": want 24-28, because they are cut from 10.64.0.0/24`},
		{"a subnet too small", subnets("10.64.0.0/10", 29), `--subnet-bits: "29": want 10-28`},
		{"subnets that hold the public network", subnets("192.0.0.0/16", 20), `--subnets: "192.0.0.0/16": want a network that does not overlap the public one, 192.0.2.0/24`},
		{"subnets within the public network", subnets("192.0.2.128/25", 28), `--subnets: "192.0.2.128/25": want a network that does not overlap`},

		{"no public addresses", pool(""), `--public-pool: want FIRST-LAST/BITS`},
		{"public prefix with a rest", pool("192.0.2.10-192.0.2.99/24abc"), `--public-pool: "192.0.2.10-192.0.2.99/24abc": want FIRST-LAST/BITS`},
		{"public addresses without a prefix", pool("192.0.2.10-192.0.2.99"), `--public-pool: "192.0.2.10-192.0.2.99": want FIRST-LAST/BITS`},
		{"one public address", pool("192.0.2.10/24"), `--public-pool: "192.0.2.10/24": want FIRST-LAST/BITS`},
		{"public addresses backwards", pool("192.0.2.99-192.0.2.10/24"), `--public-pool: "192.0.2.99-192.0.2.10/24": want FIRST-LAST/BITS`},
		{"public addresses of another family", pool("2001:db8::1-2001:db8::9/30"), `--public-pool: "2001:db8::1-2001:db8::9/30": want FIRST-LAST/BITS`},
		{"public addresses in two networks", pool("192.0.2.10-192.0.3.10/24"), `--public-pool: "192.0.2.10-192.0.3.10/24": want both ends in one network`},
		{"the network's own address", pool("192.0.2.0-192.0.2.99/24"), `--public-pool: "192.0.2.0-192.0.2.99/24": want addresses within 192.0.2.1-192.0.2.254`},
		{"the broadcast address", pool("192.0.2.10-192.0.2.255/24"), `--public-pool: "192.0.2.10-192.0.2.255/24": want addresses within 192.0.2.1-192.0.2.254`},
		{"a prefix too short", pool("192.0.2.10-192.0.2.99/7"), `--public-pool: "192.0.2.10-192.0.2.99/7": want /8 to /30`},
		{"a prefix too long", pool("192.0.2.10-192.0.2.10/32"), `--public-pool: "192.0.2.10-192.0.2.10/32": want /8 to /30`},

		{"a gateway in the pool", gateway("192.0.2.50"), `--public-gateway: "192.0.2.50": want an address of 192.0.2.0/24 outside the pool 192.0.2.10-192.0.2.99`},
		{"a gateway at the pool's end", gateway("192.0.2.99"), `--public-gateway: "192.0.2.99": want an address of 192.0.2.0/24 outside the pool`},
		{"a gateway elsewhere", gateway("192.0.3.1"), `--public-gateway: "192.0.3.1": want an address of the public network, within 192.0.2.1-192.0.2.254`},
		{"the network as gateway", gateway("192.0.2.0"), `--public-gateway: "192.0.2.0": want an address of the public network`},
		{"the broadcast address as gateway", gateway("192.0.2.255"), `--public-gateway: "192.0.2.255": want an address of the public network`},
		{"a gateway with a prefix", gateway("192.0.2.1/24"), `--public-gateway: "192.0.2.1/24": want an address of the public network`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, o := firstHost(t), goodInit()
			dir := filepath.Dir(c.DataDir)
			o.TokenFile = filepath.Join(dir, "token")
			tc.edit(&o)
			if _, err := Init(c, o); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("error %v, want %s", err, tc.want)
			}
			nothingIn(t, dir)
			// The same host can still be initialized.
			if _, err := Init(c, goodInit()); err != nil {
				t.Errorf("then the right flags: %v", err)
			}
		})
	}
}

func TestInitKeepsWhatItWasGiven(t *testing.T) {
	for _, tc := range []struct {
		name   string
		edit   func(*Config, *InitOptions)
		expect int
		pools  fsm.Pools
	}{
		{"the usual", func(*Config, *InitOptions) {}, 3, fsm.Pools{VLANFirst: 100, VLANLast: 1099, Subnets: "10.64.0.0/10", SubnetBits: 20,
			PublicFirst: "192.0.2.10", PublicLast: "192.0.2.99", PublicBits: 24, PublicGateway: "192.0.2.1"}},
		{"the widest", func(c *Config, o *InitOptions) {
			c.Raft.Voters = 5
			o.Expect, o.VLANs, o.Subnets, o.SubnetBits = 5, "1-4094", "10.0.0.0/8", 8
			o.PublicPool, o.PublicGW = "192.0.2.1-192.0.2.253/24", "192.0.2.254"
		}, 5, fsm.Pools{VLANFirst: 1, VLANLast: 4094, Subnets: "10.0.0.0/8", SubnetBits: 8,
			PublicFirst: "192.0.2.1", PublicLast: "192.0.2.253", PublicBits: 24, PublicGateway: "192.0.2.254"}},
		{"the narrowest", func(_ *Config, o *InitOptions) {
			o.Expect, o.VLANs, o.Subnets, o.SubnetBits = 1, "7-7", "10.64.0.0/28", 28
			o.PublicPool, o.PublicGW = "192.0.2.5-192.0.2.6/30", ""
		}, 1, fsm.Pools{VLANFirst: 7, VLANLast: 7, Subnets: "10.64.0.0/28", SubnetBits: 28,
			PublicFirst: "192.0.2.5", PublicLast: "192.0.2.6", PublicBits: 30}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, o := firstHost(t), goodInit()
			tc.edit(&c, &o)
			tc.pools.MACPrefix = "02:76:63"
			res, err := Init(c, o)
			if err != nil {
				t.Fatal(err)
			}
			id, err := loadIdentity(c.DataDir)
			if err != nil || id.Bootstrap == nil {
				t.Fatalf("identity %+v, %v", id, err)
			}
			m := id.Bootstrap.Meta
			if m.Pools != tc.pools || m.Expect != tc.expect || m.ClusterID != res.ClusterID || id.HostID != res.HostID {
				t.Errorf("kept %+v, expecting %d voters; want %+v and %d", m.Pools, m.Expect, tc.pools, tc.expect)
			}
			if err := m.Pools.Check(); err != nil {
				t.Errorf("the state machine will refuse it for ever: %v", err)
			}
			if _, err := Init(c, o); !errors.Is(err, ErrIdentity) {
				t.Errorf("a second init: %v", err)
			}
		})
	}
}

func TestInitWritesTheTokenIntoANewFile(t *testing.T) {
	c, o := firstHost(t), goodInit()
	o.TokenFile = filepath.Join(t.TempDir(), "token")
	res, err := Init(c, o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(o.TokenFile)
	if err != nil || string(b) != res.Token+"\n" {
		t.Errorf("token file holds %q, %v", b, err)
	}
	if fi, err := os.Stat(o.TokenFile); err != nil || fi.Mode() != 0o600 {
		t.Errorf("token file: %v, %v", fi.Mode(), err)
	}
	if text, err := api.ParseToken(strings.TrimSpace(string(b))); err != nil || text.Kind != api.TokenOperator {
		t.Errorf("token %+v, %v", text, err)
	}
	// Refused for the identity, before the token file is looked at.
	if _, err := Init(c, o); !errors.Is(err, ErrIdentity) {
		t.Errorf("a second init: %v", err)
	}
	if after, err := os.ReadFile(o.TokenFile); err != nil || !slices.Equal(after, b) {
		t.Errorf("a refused init changed the token file: %q, %v", after, err)
	}
}

func TestInitWithATokenFileThatCannotBeWrittenLeavesNoIdentity(t *testing.T) {
	for _, tc := range []struct {
		name string
		path func(dir string) string
		want string
	}{
		{"in no directory", func(dir string) string { return filepath.Join(dir, "none", "token") }, "want a new file in a directory that can be written: open "},
		{"below a file", func(dir string) string { return filepath.Join(dir, "old", "token") }, "want a new file in a directory that can be written: open "},
		{"over an older one", func(dir string) string { return filepath.Join(dir, "old") }, "want a file that does not exist yet"},
		{"over a directory", func(dir string) string { return dir }, "want a file that does not exist yet"},
		{"through a link to nothing", func(dir string) string { return filepath.Join(dir, "link") }, "want a file that does not exist yet"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, o, dir := firstHost(t), goodInit(), t.TempDir()
			old := filepath.Join(dir, "old")
			if err := errors.Join(os.WriteFile(old, []byte("precious"), 0o600), os.Symlink(filepath.Join(dir, "nothing"), filepath.Join(dir, "link"))); err != nil {
				t.Fatal(err)
			}
			o.TokenFile = tc.path(dir)
			_, err := Init(c, o)
			if want := `--token-file: "` + o.TokenFile + `": ` + tc.want; err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("error %v, want %s", err, want)
			}
			nothingIn(t, filepath.Dir(c.DataDir))
			if b, err := os.ReadFile(old); err != nil || string(b) != "precious" {
				t.Errorf("the older file is now %q, %v", b, err)
			}
			o.TokenFile = filepath.Join(dir, "token")
			if _, err := Init(c, o); err != nil {
				t.Errorf("then another file: %v", err)
			}
		})
	}
}

func TestInitThatCannotKeepTheIdentityTakesTheTokenBack(t *testing.T) {
	c, o, dir := firstHost(t), goodInit(), t.TempDir()
	c.DataDir, o.TokenFile = filepath.Join(dir, "data"), filepath.Join(dir, "token")
	if err := os.Symlink(filepath.Join(dir, "not", "mounted"), c.DataDir); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(c, o); err == nil || !strings.Contains(err.Error(), "make data directory") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Lstat(o.TokenFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a token of no cluster is left: %v", err)
	}
}

func TestInitAndJoinLeaveAnIdentityThatCannotBeReadAlone(t *testing.T) {
	c, o := firstHost(t), goodInit()
	o.TokenFile = filepath.Join(t.TempDir(), "token")
	if err := errors.Join(os.MkdirAll(c.DataDir, 0o700), os.WriteFile(identityPath(c.DataDir), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(c, o); err == nil || !strings.Contains(err.Error(), "read identity "+identityPath(c.DataDir)) {
		t.Errorf("init: %v", err)
	}
	if _, err := Join(t.Context(), c, nil, ""); err == nil || !strings.Contains(err.Error(), "read identity "+identityPath(c.DataDir)) {
		t.Errorf("join: %v", err)
	}
	if b, err := os.ReadFile(identityPath(c.DataDir)); err != nil || string(b) != "{" {
		t.Errorf("identity is now %q, %v", b, err)
	}
	nothingIn(t, filepath.Dir(o.TokenFile))
}

func TestOthersAreToldAnAddressThatTheyCanReach(t *testing.T) {
	for _, tc := range []struct{ address, listen, want string }{
		{"198.51.100.7", "", "198.51.100.7:7443"},
		{"198.51.100.7", "0.0.0.0:7443", "198.51.100.7:7443"},
		{"198.51.100.7", "[::]:8000", "198.51.100.7:8000"},
		{"198.51.100.7", "203.0.113.9:443", "203.0.113.9:443"},
		{"2001:db8::7", "[::]:7443", "[2001:db8::7]:7443"},
	} {
		t.Run(tc.address+" "+tc.listen, func(t *testing.T) {
			c := Config{Name: "h1", Address: tc.address, DataDir: filepath.Join(t.TempDir(), "data"), API: ListenConfig{Listen: tc.listen}}
			if err := c.complete(); err != nil {
				t.Fatal(err)
			}
			var d drivers
			d.describe(c, Identity{HostID: "h-1"}, "vxlan")
			if d.record.API != tc.want {
				t.Errorf("registered as %s, want %s", d.record.API, tc.want)
			}
			res, err := Init(c, goodInit())
			if err != nil || res.API != "https://"+tc.want {
				t.Errorf("init tells %s, %v; want https://%s", res.API, err, tc.want)
			}
			if tc.listen != "" && c.API.Listen != tc.listen {
				t.Errorf("listens at %s, want %s", c.API.Listen, tc.listen)
			}
		})
	}
}
