//go:build rooted

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vcn/api"
	"vcn/test/testbed"
)

const (
	askMax       = time.Minute      // one command of vcnctl, one login
	answerMax    = 15 * time.Second // from the loss of a leader to the next answer
	convergeMax  = 2 * time.Minute  // from a restart to all being well
	provisionMax = 10 * time.Minute
	releaseMax   = 5 * time.Minute
	pollEvery    = 100 * time.Millisecond
)

// bounded is the test's context with a limit.
func bounded(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// ctl runs vcnctl, which must succeed.
func ctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := bed.Vcnctl(bounded(t, askMax), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// query runs vcnctl and reads its JSON.
func query[T any](ctx context.Context, args ...string) (v T, err error) {
	out, err := bed.Vcnctl(ctx, append(args, "-o", "json")...)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return v, fmt.Errorf("read what vcnctl %s said: %w", args[0], err)
	}
	return v, nil
}

// list is query for what answers a list.
func list[T any](ctx context.Context, args ...string) ([]T, error) {
	l, err := query[api.List[T]](ctx, args...)
	if err == nil && l.Items == nil {
		err = fmt.Errorf("vcnctl %s gave no list", args[0])
	}
	return l.Items, err
}

// mustList is list, which must succeed.
func mustList[T any](t *testing.T, args ...string) []T {
	t.Helper()
	items, err := list[T](bounded(t, askMax), args...)
	if err != nil {
		t.Fatal(err)
	}
	return items
}

// must is query, which must succeed.
func must[T any](t *testing.T, args ...string) T {
	t.Helper()
	v, err := query[T](bounded(t, askMax), args...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// until waits for a condition.
func until(t *testing.T, limit time.Duration, what string, ok func(context.Context) (bool, string)) {
	t.Helper()
	ctx := bounded(t, limit+askMax)
	if err := testbed.Wait(ctx, limit, what, func() (bool, string) { return ok(ctx) }); err != nil {
		t.Fatal(err)
	}
}

// awaitState waits until a reservation is in a state, and fails at once if it
// has ended otherwise.
func awaitState(t *testing.T, name string, want api.State, limit time.Duration) (r api.Reservation) {
	t.Helper()
	until(t, limit, name+" to be "+string(want), func(ctx context.Context) (bool, string) {
		var err error
		if r, err = query[api.Reservation](ctx, "show", name); err != nil {
			return false, err.Error()
		}
		over := r.State == api.StateFailed || r.State == api.StateCancelled || r.State == api.StateEnded
		return r.State == want || over, fmt.Sprintf("%s %s, nodes %s", r.State, r.Message, nodeStates(r))
	})
	if r.State != want {
		t.Fatalf("%s is %s (%s), want %s", name, r.State, r.Message, want)
	}
	return r
}

func nodeStates(r api.Reservation) string {
	var out []string
	for _, n := range r.Nodes {
		out = append(out, n.Name+" "+n.State+" "+n.Message)
	}
	return strings.Join(out, ", ")
}

// awaitWhole waits until a reservation is active, all its nodes are ready and
// nothing ails it.
func awaitWhole(t *testing.T, name string) {
	t.Helper()
	until(t, convergeMax, name+" to be whole", func(ctx context.Context) (bool, string) {
		r, err := query[api.Reservation](ctx, "show", name)
		if err != nil {
			return false, err.Error()
		}
		ready := !slices.ContainsFunc(r.Nodes, func(n api.Node) bool { return n.State != "ready" })
		return r.State == api.StateActive && ready && len(r.Conditions) == 0, fmt.Sprintf("%s %v, nodes %s", r.State, r.Conditions, nodeStates(r))
	})
}

// awaitHosts waits until all hosts live, one leads, and each answers by itself.
func awaitHosts(t *testing.T) {
	t.Helper()
	until(t, convergeMax, "all hosts to be there", func(ctx context.Context) (bool, string) {
		for _, h := range bed.Hosts {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			st, err := query[api.Status](ctx, "status", "--host", "https://"+h.API())
			cancel()
			if err != nil {
				return false, err.Error()
			}
			if st.Leader == "" || st.HostsAlive != len(bed.Hosts) {
				return false, fmt.Sprintf("%s sees leader %q and %d hosts", h.Name, st.Leader, st.HostsAlive)
			}
		}
		hosts, err := list[api.Host](ctx, "host", "list")
		if err != nil {
			return false, err.Error()
		}
		i := slices.IndexFunc(hosts, func(h api.Host) bool { return h.Status != "alive" })
		return i < 0, fmt.Sprintf("%+v", hosts)
	})
}

// host finds one by name.
func host(t *testing.T, name string) *testbed.Host {
	t.Helper()
	i := slices.IndexFunc(bed.Hosts, func(h *testbed.Host) bool { return h.Name == name })
	if i < 0 {
		t.Fatalf("there is no host %q", name)
	}
	return bed.Hosts[i]
}

// nodeOf finds a node by name.
func nodeOf(t *testing.T, r api.Reservation, name string) api.Node {
	t.Helper()
	i := slices.IndexFunc(r.Nodes, func(n api.Node) bool { return n.Name == name })
	if i < 0 {
		t.Fatalf("%s has no node %s", r.Name, name)
	}
	return r.Nodes[i]
}

// login is a user's key and clusters.
type login struct{ key, pub string }

func newLogin(t *testing.T) login {
	t.Helper()
	l := login{key: filepath.Join(t.TempDir(), "key")}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f", l.key).CombinedOutput(); err != nil {
		t.Fatalf("make alice's key: %v: %s", err, out)
	}
	b, err := os.ReadFile(l.key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	l.pub = strings.TrimSpace(string(b))
	return l
}

// shell is a command that runs the script on a cluster's node, as alice.
func (l login) shell(ctx context.Context, cluster, node, script string) *exec.Cmd {
	args := []string{"ssh", cluster, "-i", l.key, "--"}
	if node != api.FrontendName {
		args = append(args, "ssh", node)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(places.bin, "vcnctl"), append(args, "bash", "-s")...)
	cmd.Env = append(os.Environ(), "VCN_CONFIG="+bed.ContextFile())
	cmd.Stdin = strings.NewReader(script)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// run runs a script on a node to its end, which must be good, within limit.
func (l login) run(t *testing.T, limit time.Duration, cluster, node, script string) string {
	t.Helper()
	cmd := l.shell(bounded(t, limit), cluster, node, script)
	var out, errb bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errb
	if err := cmd.Run(); err != nil {
		t.Fatalf("on %s of %s: %v\nscript: %s\nstdout: %s\nstderr: %s", node, cluster, err, script, out.String(), errb.String())
	}
	return out.String()
}

// srun runs a job on all the workers and checks who did it.
func (l login) srun(t *testing.T, r api.Reservation) {
	t.Helper()
	var want []string
	for _, n := range r.Nodes {
		if n.Role == api.RoleWorker {
			want = append(want, n.Name)
		}
	}
	out := l.run(t, 3*time.Minute, r.Name, api.FrontendName, fmt.Sprintf("srun -N%d hostname\n", len(want)))
	got := strings.Fields(out)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("srun at %s printed %q, want %q", r.Name, got, want)
	}
}

// bootIDs tells each node's boot.
func (l login) bootIDs(t *testing.T, r api.Reservation) map[string]string {
	t.Helper()
	ids := map[string]string{}
	for _, n := range r.Nodes {
		ids[n.Name] = strings.TrimSpace(l.run(t, askMax, r.Name, n.Name, "cat /proc/sys/kernel/random/boot_id\n"))
		if len(ids[n.Name]) != 36 {
			t.Fatalf("boot id of %s is %q", n.Name, ids[n.Name])
		}
	}
	return ids
}

// explain logs what there is to see of a failure.
func explain(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), askMax)
	defer cancel()
	for _, args := range [][]string{{"status"}, {"host", "list"}, {"list", "--all"}, {"show", "alpha"}, {"show", "beta"}, {"lease", "list"}, {"events"}} {
		out, err := bed.Vcnctl(ctx, args...)
		t.Logf("vcnctl %s: %v\n%s", strings.Join(args, " "), err, tail(out, 60))
	}
	for _, h := range bed.Hosts {
		log, _ := os.ReadFile(filepath.Join(h.Dir, "vcnd.log"))
		var grave []string
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") || strings.Contains(line, "panic") {
				grave = append(grave, line)
			}
		}
		t.Logf("warnings of %s:\n%s\nthe end of its log:\n%s", h.Name, tail(strings.Join(grave, ""), 25), tail(string(log), 15))
		consoles, _ := filepath.Glob(filepath.Join(h.Dir, "data", "nodes", "*", "*", "console.log"))
		for _, c := range consoles {
			b, _ := os.ReadFile(c)
			t.Logf("the end of %s:\n%s", c, tail(string(b), 12))
		}
	}
}

func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// exitOf is the exit code within an error of Vcnctl, 0 without one.
func exitOf(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}
