//go:build labguest

package labguest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vcn/api"
	"vcn/hostops"
	"vcn/test/lab"
)

const (
	activeMax  = 20 * time.Minute
	shellMax   = 4 * time.Minute
	endedMax   = 6 * time.Minute
	worker     = "compute-0"
	cluster    = "one"
	frontendMB = 8 // written by the frontend, MiB
)

const specText = `name: ` + cluster + `
project: lab
slot: {start: asap, for: 8h}
frontend: {cpus: 1, memory: 256MiB, disk: 4GiB}
workers:
  - {name: compute, count: 1, cpus: 1, memory: 256MiB, disk: 4GiB}
users:
  - {name: alice, admin: true, keys: [%q]}
`

// TestLabGuest is the life of one cluster on two hosts.
func TestLabGuest(t *testing.T) {
	b := newBed(t)
	b.formHosts(t)
	before := b.look(t)
	l := b.newLogin(t)
	r := b.reserve(t, l)
	l.at(t, r)
	b.checkDisks(t, r)
	b.checkFrames(t, l, r)
	sum := b.writeAndSync(t, l, r)
	b.restartServices(t, l, r, sum)
	b.release(t, r, before)
}

// reserve asks for a cluster and waits until it is active.
func (b *bed) reserve(t *testing.T, l *login) (r api.Reservation) {
	t.Helper()
	spec := filepath.Join(b.dir, "one.yaml")
	if err := os.WriteFile(spec, fmt.Appendf(nil, specText, l.pub), 0o600); err != nil {
		t.Fatal(err)
	}
	began, said := time.Now(), ""
	b.ctl(t, "reserve", "-f", spec)
	b.await(t, activeMax, cluster+" to be active", func(ctx context.Context) (bool, string) {
		var err error
		if r, err = query[api.Reservation](ctx, b, "show", cluster); err != nil {
			return false, err.Error()
		}
		seen := fmt.Sprintf("%s %s", r.State, r.Message)
		for _, n := range r.Nodes {
			seen += fmt.Sprintf("; %s on %s %s %s", n.Name, n.Host, n.State, n.Message)
		}
		if seen != said {
			said = seen
			b.say("%s", seen)
		}
		if r.State != api.StateBooked && r.State != api.StateProvisioning && r.State != api.StateReady && r.State != api.StateActive {
			t.Fatal(seen)
		}
		return r.State == api.StateActive, seen
	})
	t.Logf("active %.0f s after it was asked for", time.Since(began).Seconds())
	f, w := b.node(t, r, api.FrontendName), b.node(t, r, worker)
	if f.Host != "host-b" || f.Storage != "host-a" || w.Host != "host-a" || w.Storage != "host-a" {
		t.Fatalf("placed otherwise than hosts' classes allow: %+v, %+v", f, w)
	}
	return r
}

func (b *bed) node(t *testing.T, r api.Reservation, name string) api.Node {
	t.Helper()
	for _, n := range r.Nodes {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("%s has no node %s", r.Name, name)
	return api.Node{}
}

// things are what a cluster leaves on a host while it lives.
func (b *bed) things(t *testing.T, m *lab.Machine) string {
	t.Helper()
	return b.sh(t, m, `echo domains:; virsh -q list --all --name | sort
		echo secrets:; virsh -q secret-list | sort
		echo links:; ls /sys/class/net | sort
		echo sessions:; ls /sys/class/iscsi_session 2>/dev/null || true
		echo records:; find /etc/iscsi/nodes /var/lib/iscsi/nodes -type f 2>/dev/null || true
		echo processes:; pgrep -fc 'guest=vc[n]-' || true
		echo nodes:; find /var/lib/vcn/nodes -mindepth 1 2>/dev/null || true`)
}

// group is the volume group: what is free, and volumes but those of images, which
// stay for the next cluster.
func (b *bed) group(t *testing.T) string {
	t.Helper()
	return b.sh(t, b.a, `vgs --noheadings -o vg_free_count,pv_count `+groupName+`
		lvs --noheadings -o lv_name,lv_size -S 'lv_name !~ "^vcn[.]i[.]"' `+groupName+`
		echo exports:; grep -s Volume /var/lib/vcn/target/exports.json || true
		ls /sys/kernel/config/target/iscsi 2>/dev/null | grep ^iqn || true`)
}

type state struct{ a, b, group string }

func (b *bed) look(t *testing.T) state {
	t.Helper()
	return state{b.things(t, b.a), b.things(t, b.b), b.group(t)}
}

// checkDisks: who reads the disk of which node, as whom, and by what.
func (b *bed) checkDisks(t *testing.T, r api.Reservation) {
	t.Helper()
	xml := func(m *lab.Machine) string {
		return b.sh(t, m, `n=$(virsh -q list --name); [ "$(echo "$n" | wc -l)" = 1 ]; virsh dumpxml $n | grep '<source'`)
	}
	onA, onB := xml(b.a), xml(b.b)
	volumes := strings.Fields(b.sh(t, b.a, `lvs --noheadings -o lv_name -S 'lv_name =~ "^vcn[.]v[.]"' `+groupName))
	if len(volumes) != len(r.Nodes) {
		t.Fatalf("volumes %q, want one for each of %d nodes", volumes, len(r.Nodes))
	}
	if !strings.Contains(onA, "/dev/"+groupName+"/vcn.v.") {
		t.Errorf("the worker's disk is not a logical volume: %s", onA)
	}
	if !strings.Contains(onB, "/dev/disk/by-path/ip-"+hostA+":3260-iscsi-"+hostops.TargetIQN("")) {
		t.Errorf("the frontend's disk is not the kernel initiator's: %s", onB)
	}
	if n := strings.Count(b.sh(t, b.b, "iscsiadm -m session || true"), hostops.TargetIQN("")); n != 1 {
		t.Errorf("host-b has %d sessions, want 1", n)
	}
	if out := b.ctl(t, "host", "list", "-o", "json"); !strings.Contains(out, `"targetEngine": "lio"`) || !strings.Contains(out, `"volumeDriver": "lvm"`) {
		t.Errorf("host-a is not seen to serve logical volumes by LIO: %s", out)
	}
	for _, m := range []*lab.Machine{b.a, b.b} {
		if who := b.sh(t, m, "ps -o user:20= -C qemu-system-x86_64"); strings.TrimSpace(who) != "libvirt-qemu" {
			t.Errorf("the node on %s runs as %q", m.Name(), who)
		}
	}
}

// checkFrames: the nodes reach each other, and all that they say is tagged.
func (b *bed) checkFrames(t *testing.T, l *login, r api.Reservation) {
	t.Helper()
	b.run(t, l, shellMax, api.FrontendName, "ping -c 3 -W 20 "+worker+"\n")
	b.run(t, l, shellMax, worker, "ping -c 3 -W 20 "+api.FrontendName+"\n")
	b.say("frontend and worker reach each other")
	macs := map[string]string{}
	for _, n := range r.Nodes {
		macs[n.MAC] = n.Name
	}
	frames, err := lab.ReadCapture(b.capture())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]map[string]int{} // node, tags
	for _, f := range frames {
		if n := macs[f.Src.String()]; n != "" {
			if seen[n] == nil {
				seen[n] = map[string]int{}
			}
			seen[n][fmt.Sprint(f.Tags)]++
		}
	}
	for _, n := range r.Nodes {
		tags := seen[n.Name]
		if len(tags) != 1 || tags[fmt.Sprint([]int{r.VLAN})] < 3 {
			t.Errorf("frames of %s on the trunk by tag: %v, want all with %d", n.Name, tags, r.VLAN)
		}
	}
	t.Logf("frames on the trunk, by node and tag: %v", seen)
}

const file = "/home/alice/written"

// writeAndSync has the frontend write to its disk, which is on the other host.
func (b *bed) writeAndSync(t *testing.T, l *login, r api.Reservation) (sum string) {
	t.Helper()
	used := func() string {
		return b.sh(t, b.a, "dmsetup status --target thin | awk '{s += $5} END {print s}'")
	}
	was := used()
	sum = b.run(t, l, shellMax, api.FrontendName, fmt.Sprintf("head -c %dM /dev/urandom >%s\nsync\nsha256sum <%s\n", frontendMB, file, file))
	if now := used(); now == was {
		t.Errorf("the frontend wrote %d MiB, and the pool maps as many sectors as before: %s", frontendMB, now)
	}
	b.say("the frontend has written")
	return sum
}

// restartServices restarts everything of vcn while the frontend writes.
func (b *bed) restartServices(t *testing.T, l *login, r api.Reservation, sum string) {
	t.Helper()
	boot := b.run(t, l, shellMax, api.FrontendName, "cat /proc/sys/kernel/random/boot_id\n")
	type answer struct {
		out string
		err error
	}
	done := make(chan answer, 1)
	ctx := bounded(t, 2*shellMax)
	go func() {
		// 40 rounds of a flushed write; each must be done, and none may fail.
		out, err := b.shell(ctx, l, api.FrontendName, "for i in $(seq 40); do echo $i >/home/alice/n; sync /home/alice/n; sleep 0.5; done\ncat /home/alice/n\n")
		done <- answer{out, err}
	}()
	time.Sleep(5 * time.Second) // the login, at least
	b.sh(t, b.a, "systemctl restart vcnd-target && systemctl is-active vcnd-target")
	b.sh(t, b.a, "systemctl restart vcnd")
	b.sh(t, b.b, "systemctl restart vcnd")
	b.say("vcnd-target and both vcnd are restarted")
	if a := <-done; a.err != nil || !strings.HasSuffix(a.out, "40") {
		t.Fatalf("the frontend did not go on writing: %v: %s", a.err, a.out)
	}
	got := b.run(t, l, shellMax, api.FrontendName, "echo 1 | sudo tee /proc/sys/vm/drop_caches >/dev/null\nsha256sum <"+file+"\n")
	if got != sum {
		t.Errorf("what was written reads as %s, want %s", got, sum)
	}
	if now := b.run(t, l, shellMax, api.FrontendName, "cat /proc/sys/kernel/random/boot_id\n"); now != boot {
		t.Error("the frontend was started anew")
	}
	b.await(t, endedMax, cluster+" to be whole again", func(ctx context.Context) (bool, string) {
		r, err := query[api.Reservation](ctx, b, "show", cluster)
		ready := err == nil && r.State == api.StateActive && len(r.Conditions) == 0
		for _, n := range r.Nodes {
			ready = ready && n.State == "ready" && n.Generation == 1
		}
		return ready, fmt.Sprintf("%v %+v", err, r.Nodes)
	})
}

// release gives the cluster back; then hosts are as they were.
func (b *bed) release(t *testing.T, r api.Reservation, before state) {
	t.Helper()
	b.ctl(t, "release", cluster)
	b.await(t, endedMax, cluster+" to be ended", func(ctx context.Context) (bool, string) {
		now, err := query[api.Reservation](ctx, b, "show", r.ID)
		return err == nil && now.State == api.StateEnded, fmt.Sprintf("%v %s %s", err, now.State, now.Message)
	})
	b.say("released")
	after := b.look(t)
	for _, c := range []struct{ what, was, is string }{{"host-a", before.a, after.a}, {"host-b", before.b, after.b}, {"the volume group", before.group, after.group}} {
		if c.was != c.is {
			t.Errorf("%s was\n%s\nand is after the release\n%s", c.what, c.was, c.is)
		}
	}
	for _, m := range []*lab.Machine{b.a, b.b} {
		if bad := b.sh(t, m, "systemctl list-units --state=failed --no-legend --plain 'vcn*' 'libvirt*'"); bad != "" {
			t.Errorf("failed on %s: %s", m.Name(), bad)
		}
	}
}
