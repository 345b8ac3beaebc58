//go:build rooted

package libvirt

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/hostops/hosttest"
	"vcn/hostops/images"
	"vcn/rolls"
)

const publicBridge = "vcnb21"

// nodes is a small cluster of real nodes, made of the built-in rolls, under a
// private libvirtd. All that is done in them goes through Guests.
type nodes struct {
	*host
	t       *testing.T
	ctx     context.Context
	d       *Driver
	cluster rolls.Cluster
	recipes map[string]rolls.Recipe
	images  map[string]hostops.Image
	boot    map[string][2]string // kernel and initrd, where the guest's user may read them
	disks   map[string]string
	gen     uint64
	began   time.Time
}

// TestNodes proves what vcn does in running nodes: it talks to the real agent,
// changes a cluster under a running job, drains a worker, tells its users, powers
// the nodes off cleanly and brings them back with other addresses.
func TestNodes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	n := newNodes(ctx, t)
	n.start("frontend", "compute-0")
	job := n.runsAJob()
	n.drains(job)
	n.grows(job)
	n.joins()
	n.tellsUsers()
	n.comesBack()
	t.Run("conformance", func(t *testing.T) {
		hosttest.TestGuests(t, func(t *testing.T) hosttest.GuestsEnv {
			sh := func(script string) []string { return []string{"/bin/sh", "-c", script} }
			return hosttest.GuestsEnv{
				Guests: n.d, Domains: n.d, Node: hostops.DomainSpec{Reservation: "r-nodes", Node: "compute-0", Generation: n.gen},
				Cat: []string{"/bin/cat"}, Fails: sh("echo out; echo err >&2; exit 3"), Killed: sh("kill -9 $$"),
				Long: sh("sleep 100000"), Floods: sh("head -c 2500000 /dev/zero"),
				Silence: func(*testing.T) {
					n.sh("compute-0", "systemd-run -q sh -c 'sleep 2; systemctl stop vcn-ready.service; sleep 10; systemctl start vcn-ready.service'")
					n.waitReady(1)
				},
				Reopen: func(*testing.T) { n.waitReady(2) },
			}
		})
	})
}

func newNodes(ctx context.Context, t *testing.T) *nodes {
	t.Helper()
	n := &nodes{host: newTestHost(t), t: t, ctx: ctx, recipes: map[string]rolls.Recipe{}, images: map[string]hostops.Image{},
		boot: map[string][2]string{}, disks: map[string]string{}, gen: 5, began: time.Now()}
	n.d = n.driver(t)
	// Of its own: on one bridge both of the frontend's cards would answer for both
	// of its addresses.
	ns := filepath.Base(n.netns)
	run(t, "ip", "-n", ns, "link", "add", publicBridge, "type", "bridge")
	run(t, "ip", "-n", ns, "link", "set", publicBridge, "up")
	cache := os.Getenv("VCN_CACHE") // packages and images, kept between runs
	if cache == "" {
		cache = filepath.Join(n.dir, "cache")
	}
	initPath := filepath.Join(n.dir, "vcn-init")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", initPath, "vcn/rolls/vcninit")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the init: %v\n%s", err, out)
	}
	store, err := images.New(images.Config{Dir: filepath.Join(cache, "images"), CacheDir: filepath.Join(cache, "cache"),
		InitPath: initPath, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	catalog, err := rolls.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	n.cluster = rolls.Cluster{ID: "r-nodes", Name: "lab", Project: "test", Users: []rolls.User{{Name: "alice", UID: 2001, Admin: true}}}
	var all []rolls.Recipe
	for _, app := range []string{rolls.ApplianceFrontend, rolls.ApplianceWorker} {
		r, err := catalog.Resolve([]string{"slurm"}, app)
		if err != nil {
			t.Fatal(err)
		}
		if n.images[app], err = store.Build(ctx, hostops.BuildSpec{Recipe: r}, func(string) {}); err != nil {
			t.Fatal(err)
		}
		n.recipes[app], all = r, append(all, r)
		var at [2]string
		for i, from := range []string{n.images[app].Kernel, n.images[app].Initrd} {
			at[i] = filepath.Join(n.dir, fmt.Sprintf("%s-boot-%d", app, i))
			run(t, "cp", from, at[i])
		}
		n.boot[app] = at
	}
	if n.cluster.Secrets, err = rolls.MakeSecrets(all, []string{"frontend", "compute-0", "compute-1"}, []string{"alice"}, rand.Reader); err != nil {
		t.Fatal(err)
	}
	n.address("10.1", 1)
	n.say("images are built")
	return n
}

func (n *nodes) say(format string, args ...any) {
	n.t.Logf("%6.1f s %s", time.Since(n.began).Seconds(), fmt.Sprintf(format, args...))
}

// address gives the cluster a subnet and its number of workers.
func (n *nodes) address(net string, workers int) {
	n.cluster.Subnet = net + ".0.0/16"
	n.cluster.Nodes = []rolls.Node{{Name: "frontend", Role: "frontend", CPUs: 1, MemoryMiB: 512,
		Private: rolls.NIC{MAC: "52:54:00:01:01:01", Address: net + ".0.1/16"},
		Public:  &rolls.NIC{MAC: "52:54:00:01:02:01", Address: "192.0.2.10/24"}}}
	for i := range workers {
		n.cluster.Nodes = append(n.cluster.Nodes, rolls.Node{Name: fmt.Sprintf("compute-%d", i), Role: "worker", Group: "compute", CPUs: 1, MemoryMiB: 512,
			Private: rolls.NIC{MAC: fmt.Sprintf("52:54:00:01:01:1%d", i), Address: fmt.Sprintf("%s.0.1%d/16", net, i), Gateway: net + ".0.1"}})
	}
}

func (n *nodes) node(name string) rolls.Node {
	for _, x := range n.cluster.Nodes {
		if x.Name == name {
			return x
		}
	}
	n.t.Fatalf("no node %s", name)
	return rolls.Node{}
}

// start boots nodes with a new seed, on the disks they had, and waits for them.
func (n *nodes) start(names ...string) {
	n.t.Helper()
	from := time.Now()
	n.begin(names...)
	n.waitReady(len(names))
	n.say("ready after %.1f s", time.Since(from).Seconds())
}

func (n *nodes) begin(names ...string) {
	n.t.Helper()
	for _, name := range names {
		x := n.node(name)
		im := n.images[x.Role]
		tar, err := rolls.Render(n.cluster, name, n.recipes[x.Role], im.Manifest)
		if err != nil {
			n.t.Fatal(err)
		}
		iso, err := rolls.SeedISO(tar)
		if err != nil {
			n.t.Fatal(err)
		}
		seed := filepath.Join(n.dir, fmt.Sprintf("%s-%d.iso", name, n.gen))
		if err := os.WriteFile(seed, iso, 0o600); err != nil {
			n.t.Fatal(err)
		}
		if n.disks[name] == "" {
			n.disks[name] = filepath.Join(n.dir, name+".img")
			run(n.t, "cp", "--sparse=always", "--reflink=auto", im.Root, n.disks[name])
		}
		s := hostops.DomainSpec{
			Reservation: "r-nodes", Node: name, Generation: n.gen, CPUs: x.CPUs, MemoryBytes: int64(x.MemoryMiB) << 20,
			Kernel: n.boot[x.Role][0], Initrd: n.boot[x.Role][1], Cmdline: im.Manifest.Cmdline,
			Disk: hostops.Disk{Path: n.disks[name]}, SeedPath: seed, ConsolePath: n.console(name),
			NICs: []hostops.NIC{{MAC: x.Private.MAC, Bridge: bridge}},
		}
		if x.Public != nil {
			s.NICs = append(s.NICs, hostops.NIC{MAC: x.Public.MAC, Bridge: publicBridge})
		}
		if err := n.d.Ensure(n.ctx, s); err != nil {
			n.t.Fatal(err)
		}
	}
}

// waitReady waits until that many nodes are ready.
func (n *nodes) waitReady(want int) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.ctx)
	defer cancel()
	w := n.d.Watch(ctx)
	for {
		select {
		case <-w:
		case <-time.After(5 * time.Minute):
			for name := range n.disks {
				b, _ := os.ReadFile(n.console(name))
				n.t.Logf("console of %s ends with:\n%s", name, b[max(0, len(b)-3000):])
			}
			n.t.Fatal("the nodes do not become ready")
		}
		all, err := n.d.List(n.ctx)
		if err != nil {
			n.t.Fatal(err)
		}
		ready := 0
		for _, x := range all {
			if x.Ready {
				ready++
			}
		}
		if ready == want {
			return
		}
	}
}

func (n *nodes) console(name string) string { return filepath.Join(n.dir, name+".log") }

// run runs a program in a node.
func (n *nodes) run(node string, stdin []byte, args ...string) hostops.GuestResult {
	n.t.Helper()
	began := time.Now()
	res, err := n.d.Run(n.ctx, "r-nodes", node, n.gen, hostops.GuestCommand{Args: args, Stdin: stdin})
	if err != nil {
		n.t.Fatal(err)
	}
	n.say("%s: %.100q (%.1f s): %d %s%s", node, args, time.Since(began).Seconds(), res.Exit, res.Stdout, res.Stderr)
	return res
}

// sh runs a shell's line in a node, which must succeed.
func (n *nodes) sh(node, line string) string {
	n.t.Helper()
	res := n.run(node, nil, "/bin/sh", "-c", line)
	if res.Exit != 0 {
		n.t.Fatalf("%s: %s: exit %d: %s", node, line, res.Exit, res.Stderr)
	}
	return strings.TrimSpace(string(res.Stdout))
}

func (n *nodes) wantSh(node, line, want string) {
	n.t.Helper()
	if got := n.sh(node, line); got != want {
		n.t.Errorf("%s: %s: %q, want %q", node, line, got, want)
	}
}

func (n *nodes) drain(workers ...string) string {
	n.t.Helper()
	res := n.run("frontend", nil, append([]string{"/usr/lib/vcn/drain", "sync", "vcn: leaves the cluster"}, workers...)...)
	if res.Exit != 0 {
		n.t.Fatalf("drain: exit %d", res.Exit)
	}
	return strings.TrimSpace(string(res.Stdout))
}

func (n *nodes) live(node string) string {
	n.t.Helper()
	x := n.node(node)
	tar, err := rolls.RenderLive(n.cluster, node, n.recipes[x.Role], n.images[x.Role].Manifest)
	if err != nil {
		n.t.Fatal(err)
	}
	sum := sha256.Sum256(tar)
	res := n.run(node, tar, "/usr/lib/vcn/live", hex.EncodeToString(sum[:]))
	if res.Exit != 0 {
		n.t.Fatalf("live: exit %d", res.Exit)
	}
	return string(res.Stdout)
}

func (n *nodes) runsAJob() string {
	job := n.sh("frontend", `cd /home/alice && runuser -u alice -- sbatch --parsable --wrap "sleep 900"`)
	n.sh("frontend", `until [ "$(squeue -h -j `+job+` -o %T)" = RUNNING ]; do sleep 0.5; done`)
	return job
}

// drains: a busy worker is busy until its job has ended, and given back when it is
// not named any more; what a person drained is nobody's but theirs.
func (n *nodes) drains(job string) {
	if got := n.drain("compute-0"); got != "compute-0 busy jobs "+job {
		n.t.Errorf("with a job: %q", got)
	}
	n.wantSh("frontend", "sinfo -h -n compute-0 -o %T", "draining")
	n.wantSh("frontend", "sinfo -h -n compute-0 -o %E", "vcn: leaves the cluster")
	if got := n.drain("compute-0", "compute-7"); !strings.Contains(got, "compute-7 unknown slurmctld does not know it") {
		n.t.Errorf("a worker that is not: %q", got)
	}
	n.drain()
	// Until its daemon has answered once more, the controller marks it with a star.
	n.sh("frontend", "until [ $(sinfo -h -n compute-0 -o %T) = allocated ]; do sleep 0.5; done")
	n.sh("frontend", "scontrol update NodeName=compute-0 State=DRAIN Reason=mine")
	n.drain("compute-0")
	n.drain()
	n.wantSh("frontend", "sinfo -h -n compute-0 -o '%T %E'", "draining mine")
	n.sh("frontend", "scontrol update NodeName=compute-0 State=RESUME")
	n.sh("frontend", "systemctl stop slurmctld.service")
	if got := n.drain("compute-0"); !strings.HasPrefix(got, "compute-0 unknown") {
		n.t.Errorf("without a controller: %q", got)
	}
	n.sh("frontend", "systemctl start slurmctld.service; until scontrol ping >/dev/null; do sleep 0.5; done")
}

// grows: a worker is added while a job runs, and the owner's hand is seen.
func (n *nodes) grows(job string) {
	steps := n.sh("compute-0", "pgrep -x slurmstepd")
	n.sh("frontend", "echo '# mine' >>/etc/slurm/slurm.conf")
	n.address("10.1", 2)
	if got := n.live("frontend"); got != "saved /etc/slurm/slurm.conf /etc/slurm/slurm.conf.vcn-saved\n" {
		n.t.Errorf("%q", got)
	}
	n.live("compute-0")
	n.wantSh("frontend", "tail -n 1 /etc/slurm/slurm.conf.vcn-saved", "# mine")
	n.wantSh("frontend", "sinfo -h -N -o %N | sort -u | paste -sd ' '", "compute-0 compute-1")
	n.wantSh("frontend", "getent hosts compute-1 | cut -d ' ' -f 1", "10.1.0.11")
	n.wantSh("frontend", "squeue -h -j "+job+" -o '%T %N'", "RUNNING compute-0")
	n.wantSh("compute-0", "pgrep -x slurmstepd", steps)
	n.live("frontend") // again: nothing to do
	n.sh("frontend", "scancel "+job)
	n.address("10.1", 1) // and compute-1 leaves, before it ever came
	n.live("frontend")
	n.live("compute-0")
	n.wantSh("frontend", "sinfo -h -N -o %N | sort -u", "compute-0")
	for until := time.Now().Add(2 * time.Minute); n.drain("compute-0") != "compute-0 idle"; time.Sleep(time.Second) {
		if time.Now().After(until) {
			n.t.Fatal("the worker does not become idle")
		}
	}
	n.drain()
	n.wantSh("frontend", "runuser -u alice -- srun -Q -D / hostname", "compute-0")
}

// joins: a worker that is up before the frontend knows of it waits, joins as soon as
// it is told, works, and leaves again.
func (n *nodes) joins() {
	n.address("10.1", 2)
	n.begin("compute-1")
	for !strings.Contains(readFile(n.console("compute-1")), "vcn: phase home") {
		if n.ctx.Err() != nil {
			n.t.Fatal("the new worker does not boot")
		}
		time.Sleep(200 * time.Millisecond)
	}
	time.Sleep(5 * time.Second) // its daemon has asked for nothing meanwhile
	n.live("frontend")
	n.live("compute-0")
	from := time.Now()
	n.waitReady(3)
	n.say("the new worker is ready %.1f s after the others were told", time.Since(from).Seconds())
	n.wantSh("frontend", "runuser -u alice -- srun -Q -D / -N2 hostname | sort | paste -sd ' '", "compute-0 compute-1")
	if got := n.drain("compute-1"); got != "compute-1 idle" {
		n.t.Errorf("a worker without jobs: %q", got)
	}
	if err := n.d.Stop(n.ctx, "r-nodes", "compute-1", time.Minute); err != nil {
		n.t.Fatal(err)
	}
	if err := n.d.Remove(n.ctx, "r-nodes", "compute-1"); err != nil {
		n.t.Fatal(err)
	}
	n.address("10.1", 1)
	n.live("frontend")
	n.live("compute-0")
	n.drain()
	n.wantSh("frontend", "runuser -u alice -- srun -Q -D / hostname", "compute-0")
}

func readFile(name string) string {
	b, _ := os.ReadFile(name)
	return string(b)
}

func (n *nodes) tellsUsers() {
	n.run("frontend", []byte("end-1h aXQgZW5kcyBzb29u\n"), "/usr/lib/vcn/notices", "sync")
	n.wantSh("frontend", "cat /etc/motd.d/vcn", "* it ends soon")
	n.run("frontend", nil, "/usr/lib/vcn/notices", "sync")
	n.wantSh("frontend", "ls /etc/motd.d/vcn 2>/dev/null || echo gone", "gone")
}

// comesBack: the nodes are powered off and start on the same disks elsewhere.
func (n *nodes) comesBack() {
	job := n.sh("frontend", `cd /home/alice && echo kept >kept && chown alice: kept && runuser -u alice -- sbatch --parsable --hold --wrap "hostname >held"`)
	n.sh("frontend", "echo '# mine' >>/etc/slurm/slurm.conf; echo '# mine' >>/etc/exports; echo mine >>/etc/ssh/authorized_keys.d/alice; usermod -s /bin/sh alice")
	for _, name := range []string{"compute-0", "frontend"} {
		from := time.Now()
		if err := n.d.Stop(n.ctx, "r-nodes", name, time.Minute); err != nil {
			n.t.Fatal(err)
		}
		n.say("%s is off after %.1f s", name, time.Since(from).Seconds())
	}
	all, err := n.d.List(n.ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, x := range all {
		if x.Detail != "powered off by the guest" {
			n.t.Errorf("%s: %s", x.Node, x.Detail)
		}
	}
	n.gen++
	n.address("10.9", 1)
	n.start("frontend", "compute-0")
	n.wantSh("frontend", "ip -4 -o addr show eth0 | grep -o '10[.0-9]*/16'", "10.9.0.1/16")
	n.wantSh("frontend", "getent hosts compute-0 | cut -d ' ' -f 1", "10.9.0.10")
	n.wantSh("frontend", "tail -n 1 /etc/slurm/slurm.conf", "# mine")
	n.wantSh("frontend", "tail -n 1 /etc/exports.vcn-saved; grep -c 10.9 /etc/exports", "# mine\n1")
	n.wantSh("frontend", "tail -n 1 /etc/ssh/authorized_keys.d/alice", "mine")
	n.wantSh("frontend", "getent passwd alice | cut -d : -f 7", "/bin/sh")
	n.wantSh("compute-0", "runuser -u alice -- cat /home/alice/kept", "kept")
	n.sh("frontend", "scontrol release "+job)
	n.sh("frontend", "n=0; until [ -s /home/alice/held ]; do sleep 1; n=$((n+1)); [ $n -lt 90 ] || { sinfo -l; squeue; exit 1; }; done")
	n.wantSh("frontend", "cat /home/alice/held", "compute-0")
}
