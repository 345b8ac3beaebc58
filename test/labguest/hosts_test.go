//go:build labguest

package labguest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vcn/api"
	"vcn/hostops/openiscsi"
	"vcn/test/lab"
)

const confA = `address: ` + hostA + `
classes: [storage, compute]
storage: {driver: lvm, volumeGroup: ` + groupName + `}
network: {driver: vlan}
initiator: kernel
images: {dir: ` + imagesDir + `}
workerDelay: 0s
`

const confB = `address: ` + hostB + `
classes: [gateway]
network: {driver: vlan, publicBridge: br-pub}
initiator: kernel
workerDelay: 0s
`

// formHosts does what the README tells an operator to do.
func (b *bed) formHosts(t *testing.T) {
	t.Helper()
	ctx := bounded(t, bedMax)
	b.sh(t, b.a, "ip addr add "+hostA+"/24 dev eth0 && ip link set eth0 up && vgcreate -q "+groupName+" /dev/disk/by-id/virtio-spare1")
	b.sh(t, b.b, "ip addr add "+hostB+"/24 dev eth0 && ip link set eth0 up && ip link add br-pub type bridge forward_delay 0 && "+
		"ip link set eth1 master br-pub up && ip link set br-pub up")
	// What vcnd says in its log that the operator should do where guests' disks are attached.
	if err := b.b.Put(ctx, strings.NewReader("devices {\n"+openiscsi.LVMFilter+"\n}\n"), "/etc/lvm/lvmlocal.conf", 0o644); err != nil {
		t.Fatal(err)
	}
	for m, conf := range map[*lab.Machine]string{b.a: confA, b.b: confB} {
		// QEMU emulates AMD's virtualisation too, and the lab's kernels do not load KVM
		// by themselves: see doc.go.
		b.sh(t, m, "modprobe kvm_amd")
		if err := m.Put(ctx, strings.NewReader(conf), "/etc/vcn/vcnd.yaml", 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.sh(t, b.a, fmt.Sprintf("vcnd init --name lab --expect 1 --vlans %d-%d --public-pool %s.10-%s.99/24 --public-gateway %s.1 --token-file %s",
		vlanFirst, vlanLast, publicNet, publicNet, publicNet, tokenPath))
	b.sh(t, b.a, "systemctl enable --now vcnd-target vcnd")
	token := strings.TrimSpace(b.sh(t, b.a, "cat "+tokenPath))
	b.await(t, bedMax, "host-a to answer", func(ctx context.Context) (bool, string) {
		_, err := b.vcnctl(ctx, "context", "add", "lab", "--host", "https://"+hostA+":7443", "--host", "https://"+hostB+":7443", "--token", token)
		return err == nil, fmt.Sprint(err)
	})
	b.say("host-a answers")
	join := ask[api.Token](t, b, "token", "create", "--kind", "join", "--for", "1h")
	if err := b.b.Put(ctx, strings.NewReader(join.Secret+"\n"), joinPath, 0o600); err != nil {
		t.Fatal(err)
	}
	b.sh(t, b.b, "vcnd join --host https://"+hostA+":7443 --token-file "+joinPath)
	b.sh(t, b.b, "systemctl enable --now vcnd")
	b.await(t, bedMax, "both hosts to be there", func(ctx context.Context) (bool, string) {
		st, err := query[api.Status](ctx, b, "status")
		return err == nil && !st.Forming && st.Leader != "" && st.HostsAlive == 2, fmt.Sprintf("%v %+v", err, st)
	})
	b.say("host-b has joined")
}

// await waits for a condition.
func (b *bed) await(t *testing.T, limit time.Duration, what string, ok func(context.Context) (bool, string)) {
	t.Helper()
	ctx := bounded(t, limit+askMax)
	for deadline := time.Now().Add(limit); ; time.Sleep(500 * time.Millisecond) {
		done, seen := ok(ctx)
		if done {
			return
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			t.Fatalf("waited %v in vain for %s: %s", limit, what, seen)
		}
	}
}

// query runs vcnctl and reads its JSON.
func query[T any](ctx context.Context, b *bed, args ...string) (v T, err error) {
	out, err := b.vcnctl(ctx, append(args, "-o", "json")...)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return v, fmt.Errorf("read what vcnctl %s said: %w", args[0], err)
	}
	return v, nil
}

// ask is query, which must succeed.
func ask[T any](t *testing.T, b *bed, args ...string) T {
	t.Helper()
	v, err := query[T](bounded(t, askMax), b, args...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// login is a user's key, and where its cluster is.
type login struct{ key, pub, known, address string }

func (b *bed) newLogin(t *testing.T) *login {
	t.Helper()
	l := &login{key: filepath.Join(b.dir, "alice"), known: filepath.Join(b.dir, "known_hosts")}
	if out, err := b.public.Command(bounded(t, askMax), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f", l.key).CombinedOutput(); err != nil {
		t.Fatalf("make alice's key: %v: %s", err, out)
	}
	pub, err := os.ReadFile(l.key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	l.pub = strings.TrimSpace(string(pub))
	return l
}

// at notes a cluster's frontend and its host key.
func (l *login) at(t *testing.T, r api.Reservation) {
	t.Helper()
	if r.Frontend == nil {
		t.Fatalf("%s has no frontend", r.Name)
	}
	l.address = r.Frontend.Address
	if err := os.WriteFile(l.known, fmt.Appendf(nil, "%s %s\n", l.address, r.Frontend.HostKey), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs a script as alice on the frontend, or from there on a worker.
func (b *bed) run(t *testing.T, l *login, limit time.Duration, node, script string) string {
	t.Helper()
	out, err := b.shell(bounded(t, limit), l, node, script)
	if err != nil {
		t.Fatalf("on %s: %s: %v: %s", node, script, err, out)
	}
	return out
}

func (b *bed) shell(ctx context.Context, l *login, node, script string) (string, error) {
	args := []string{"ssh", "-i", l.key, "-o", "UserKnownHostsFile=" + l.known, "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
		"-o", "ConnectTimeout=60", "alice@" + l.address}
	if node != api.FrontendName {
		args = append(args, "ssh", node)
	}
	cmd := b.public.Command(ctx, append(args, "bash", "-eus")...)
	cmd.Stdin = strings.NewReader(script)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
