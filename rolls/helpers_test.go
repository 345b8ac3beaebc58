package rolls

import (
	"fmt"
	"maps"
	"testing"
	"testing/fstest"
)

// dir makes a roll's directory in memory: roll.yaml and other files.
func dir(yaml string, files map[string]string) fstest.MapFS {
	fs := fstest.MapFS{"r/roll.yaml": {Data: []byte(yaml)}}
	for n, c := range files {
		fs["r/"+n] = &fstest.MapFile{Data: []byte(c)}
	}
	return fs
}

func mustLoad(t testing.TB, yaml string, files map[string]string) *Roll {
	t.Helper()
	r, err := Load(dir(yaml, files), "r")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// simple is a roll with nothing in it but its relations.
func simple(name, version string, requires ...string) *Roll {
	return &Roll{Name: name, Version: version, Description: name, Requires: requires,
		Apply: map[string]Apply{AnyAppliance: {}}}
}

func catalog(t testing.TB, rs ...*Roll) *Catalog {
	t.Helper()
	c, err := NewCatalog(rs...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const baseYAML = `
name: base
version: "1.0"
description: what every node has
secrets:
  - {name: hostkey, kind: ssh-ed25519, per: node}
apply:
  "*":
    packages: [openssh-server, sudo]
    files:
      - {path: /etc/motd, source: motd}
    seed:
      - {path: /etc/hostname, source: hostname.tmpl}
      - {path: /etc/hosts, source: hosts.tmpl}
      - {path: /etc/ssh/ssh_host_ed25519_key, secret: hostkey, mode: "0600"}
      - {path: /etc/ssh/ssh_host_ed25519_key.pub, secret: hostkey.pub}
      - {path: /etc/ssh/ssh_known_hosts, source: known.tmpl}
    enable: [ssh.service]
    scripts: [post.sh]
    firstRun: [first.sh]
    ready: [systemctl is-active ssh]
`

var baseFiles = map[string]string{
	"motd":          "Welcome.\n",
	"hostname.tmpl": "{{.Node.Name}}\n",
	"hosts.tmpl":    "127.0.0.1 localhost\n{{range .Nodes}}{{ip .Private.Address}} {{.Name}}\n{{end}}",
	"known.tmpl":    "{{range .Nodes}}{{.Name}},{{ip .Private.Address}} {{trim (secretNode \"hostkey.pub\" .Name)}}\n{{end}}",
	"post.sh":       "#!/bin/sh\nexit 0\n",
	"first.sh":      "#!/bin/sh\necho {{not a template}}\n",
}

const usersYAML = `
name: users
version: "1.0"
description: accounts
secrets:
  - {name: key, kind: ssh-ed25519, per: user}
apply:
  frontend:
    seed:
      - {path: "/home/{{.User.Name}}", dir: true, forEach: user, mode: "0700", owner: "{{.User.Name}}:{{.User.Name}}"}
      - {path: "/home/{{.User.Name}}/.ssh/authorized_keys", source: keys.tmpl, forEach: user, mode: "0600", owner: "{{.User.Name}}:{{.User.Name}}"}
      - {path: "/home/{{.User.Name}}/.ssh/id_ed25519", secret: key, forEach: user, mode: "0600", owner: "{{.User.Name}}:{{.User.Name}}"}
`

var usersFiles = map[string]string{
	"keys.tmpl": "{{range .User.Keys}}{{.}}\n{{end}}{{secret \"key.pub\"}}",
}

const slurmYAML = `
name: slurm
version: "22.5"
description: scheduler
requires: [users]
secrets:
  - {name: munge, kind: random, bytes: 64}
apply:
  "*":
    packages: [munge]
    seed:
      - {path: /etc/munge/munge.key, secret: munge, mode: "0400", owner: "munge:munge"}
      - {path: /etc/slurm/slurm.conf, source: slurm.conf.tmpl}
  frontend:
    packages: [slurmctld]
    ready: ['sinfo -h -o %D | grep -qx {{len .Workers}} # all of them']
  worker:
    packages: [slurmd]
`

var slurmFiles = map[string]string{
	"slurm.conf.tmpl": `ClusterName={{.Cluster.Name}}
SlurmctldHost={{.Frontend.Name}}({{ip .Frontend.Private.Address}})
{{range .Groups}}NodeName={{hostlist .Nodes}} CPUs={{.CPUs}} RealMemory={{sub .MemoryMiB 64}}
{{end}}`,
}

func realish(t testing.TB) *Catalog {
	return catalog(t, mustLoad(t, baseYAML, baseFiles), mustLoad(t, usersYAML, usersFiles), mustLoad(t, slurmYAML, slurmFiles))
}

func testCluster(t testing.TB, recipes ...Recipe) Cluster {
	t.Helper()
	c := Cluster{ID: "0190", Name: "lab", Project: "studio", Subnet: "10.1.0.0/16",
		Nodes: []Node{{Name: "frontend", Role: "frontend", CPUs: 1, MemoryMiB: 512,
			Private: NIC{MAC: "52:54:00:00:00:01", Address: "10.1.0.1/16"},
			Public:  &NIC{MAC: "52:54:00:00:01:01", Address: "192.0.2.10/24", Gateway: "192.0.2.1", DNS: []string{"192.0.2.1"}}}},
		Users: []User{{Name: "alice", UID: 2001, Keys: []string{"ssh-ed25519 AAAA alice@studio"}, Admin: true}, {Name: "bob", UID: 2002}},
	}
	for i := range 3 {
		c.Nodes = append(c.Nodes, Node{Name: fmt.Sprintf("compute-%d", i), Role: "worker", Group: "compute", CPUs: 2, MemoryMiB: 1024,
			Private: NIC{MAC: fmt.Sprintf("52:54:00:00:00:1%d", i), Address: fmt.Sprintf("10.1.0.1%d/16", i), Gateway: "10.1.0.1"}})
	}
	var err error
	c.Secrets, err = MakeSecrets(recipes, nodeNames(c.Nodes), []string{"alice", "bob"}, &counter{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testManifest(r Recipe) Manifest {
	return Manifest{Recipe: r.Digest(), Digest: "imagedigest", Appliance: r.Appliance,
		Users: map[string]ID{"root": {}, "munge": {104, 110}}, Groups: map[string]int{"root": 0, "munge": 110, "sudo": 27}}
}

// counter is a reader of known bytes, instead of randomness.
type counter struct{ n byte }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = c.n
		c.n++
	}
	return len(p), nil
}

func with(files map[string]string, more ...string) map[string]string {
	m := maps.Clone(files)
	for i := 0; i+1 < len(more); i += 2 {
		m[more[i]] = more[i+1]
	}
	return m
}

// minimal is the shortest roll.yaml, open at apply's "*".
const minimal = "name: mini\nversion: \"1\"\ndescription: d\napply:\n  \"*\":\n"
