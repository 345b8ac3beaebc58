//go:build rooted

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vcn/api"
	"vcn/test/testbed"
)

// killLeader kills the leader's vcnd and asks another host for a change until
// it is made. It returns the host and the time from the kill to the answer.
func killLeader(t *testing.T) (*testbed.Host, time.Duration) {
	t.Helper()
	victim := host(t, must[api.Status](t, "status").Leader)
	var other *testbed.Host
	for _, h := range bed.Hosts {
		if h != victim {
			other = h
		}
	}
	began := time.Now()
	if err := victim.Kill(); err != nil {
		t.Fatal(err)
	}
	until(t, answerMax, "a change to be made without "+victim.Name, func(ctx context.Context) (bool, string) {
		ctx, cancel := context.WithTimeout(ctx, answerMax)
		defer cancel()
		_, err := query[api.Token](ctx, "token", "create", "--kind", "project", "--project", "e2e", "--for", "1m", "--host", "https://"+other.API())
		return err == nil, fmt.Sprint(err)
	})
	took := time.Since(began)
	if took > answerMax {
		t.Errorf("without %s a change took %v, want at most %v", victim.Name, took, answerMax)
	}
	if st := must[api.Status](t, "status"); st.Leader == "" || st.Leader == victim.Name {
		t.Errorf("%q leads after %s was killed", st.Leader, victim.Name)
	}
	return victim, took
}

// sameGuests fails if a guest's process or boot is another than before.
func (l *life) sameGuests(t *testing.T, r api.Reservation, pids map[string]int, boots map[string]string) {
	t.Helper()
	if now := guestsOf(t, r); !maps.Equal(now, pids) {
		t.Errorf("guests are %v, before %v", now, pids)
	}
	if now := l.bootIDs(t, r); !maps.Equal(now, boots) {
		t.Errorf("a guest of %s has booted again: %v, before %v", r.Name, now, boots)
	}
}

func (l *life) leaderWhileActive(t *testing.T) {
	const file = "/var/tmp/kept"
	for _, n := range l.alpha.Nodes {
		l.run(t, askMax, "alpha", n.Name, "echo alpha "+n.Name+" > "+file+" && sync "+file+"\n")
	}
	pids, boots := guestsOf(t, l.alpha), l.bootIDs(t, l.alpha)
	victim, took := killLeader(t)
	t.Logf("killed %s; another host answered a change after %v", victim.Name, took)
	for _, n := range l.alpha.Nodes {
		if got := l.run(t, askMax, "alpha", n.Name, "cat "+file+" && echo more >> "+file+" && sync "+file+"\n"); got != "alpha "+n.Name+"\n" {
			t.Errorf("%s of %s reads %q", file, n.Name, got)
		}
	}
	l.srun(t, l.alpha)
	if err := victim.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitHosts(t)
	awaitWhole(t, "alpha")
	l.sameGuests(t, l.alpha, pids, boots)
}

// guestsOf is the processes of one cluster's guests.
func guestsOf(t *testing.T, r api.Reservation) map[string]int {
	t.Helper()
	mine := allGuests(t)
	for name := range mine {
		_, domain, _ := strings.Cut(name, "/")
		if !strings.HasPrefix(domain, domainName(r, "")) {
			delete(mine, name)
		}
	}
	if len(mine) != len(r.Nodes) {
		t.Errorf("%s has the guests %v, want %d", r.Name, mine, len(r.Nodes))
	}
	return mine
}

// writes is a script that writes 24 MiB to the disk in synchronous pieces, says
// when each MiB is down, and then reads all of it back from the disk.
const writes = `set -eu
dd if=/dev/urandom of=/dev/shm/src bs=1M count=24 status=none
for i in $(seq 0 23); do
  dd if=/dev/shm/src of=/var/tmp/dst bs=64k count=16 skip=$((i*16)) seek=$((i*16)) oflag=dsync conv=notrunc status=none
  echo wrote $i
done
sync; echo 3 | sudo tee /proc/sys/vm/drop_caches > /dev/null
sha256sum < /dev/shm/src; sha256sum < /var/tmp/dst
echo errors $(sudo dmesg | grep -ciE 'i/o error|remounting|aborting journal' || true)
rm /dev/shm/src /var/tmp/dst
`

func (l *life) targetDuringIO(t *testing.T) {
	var node api.Node
	for _, n := range l.alpha.Nodes {
		if n.Role == api.RoleWorker && n.Storage != n.Host {
			node = n
		}
	}
	if node.Name == "" {
		t.Fatalf("no worker of alpha has its disk on another host: %+v", l.alpha.Nodes)
	}
	storage := host(t, node.Storage)
	before, pids, old := lookAround(t), guestsOf(t, l.alpha), targetPID(t, storage)
	if old == 0 {
		t.Fatalf("%s has no target process", storage.Name)
	}
	out, longest := l.killWhileWriting(t, node.Name, func() {
		if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	})
	sums := strings.Fields(out)
	if len(sums) != 6 || sums[0] != sums[2] || len(sums[0]) != 64 || sums[4] != "errors" || sums[5] != "0" {
		t.Errorf("after the target of %s was killed, %s read back: %s", storage.Name, node.Name, out)
	}
	if now := targetPID(t, storage); now == 0 || now == old {
		t.Errorf("the target process of %s is %d, before %d", storage.Name, now, old)
	}
	if now := guestsOf(t, l.alpha); !maps.Equal(now, pids) {
		t.Errorf("guests are %v, before %v", now, pids)
	}
	t.Logf("target of %s killed under %s: the longest MiB took %v, all data there", storage.Name, node.Name, longest)
	awaitWhole(t, "alpha")
	same(t, before)
}

// killWhileWriting runs the script writes on a worker, and hurt when a third is
// written. It returns what came after the writing, and the longest pause in it.
func (l *life) killWhileWriting(t *testing.T, node string, hurt func()) (rest string, longest time.Duration) {
	t.Helper()
	cmd := l.shell(bounded(t, 3*time.Minute), "alpha", node, writes)
	var errb bytes.Buffer
	cmd.Stderr = &errb
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(pipe)
	last := time.Now()
	for i := 0; i < 24; i++ {
		if !lines.Scan() || lines.Text() != "wrote "+strconv.Itoa(i) {
			t.Fatalf("the writer said %q at MiB %d: %v\n%s", lines.Text(), i, cmd.Wait(), errb.String())
		}
		if i > 0 {
			longest = max(longest, time.Since(last))
		}
		last = time.Now()
		if i == 7 {
			hurt()
		}
	}
	for lines.Scan() {
		rest += lines.Text() + "\n"
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the writer failed: %v\n%s\n%s", err, rest, errb.String())
	}
	return rest, longest.Round(time.Millisecond)
}

// everyDaemon kills and restarts each host's vcnd while a job runs that ends
// only after the last.
func (l *life) everyDaemon(t *testing.T) {
	pids, boots := guestsOf(t, l.alpha), l.bootIDs(t, l.alpha)
	before := lookAround(t)
	targets := map[string]int{}
	for _, h := range bed.Hosts {
		targets[h.Name] = targetPID(t, h)
	}
	job := l.shell(bounded(t, 10*time.Minute), "alpha", api.FrontendName,
		"srun -N2 sh -c 'touch /tmp/runs; until test -e /tmp/go; do sleep 0.5; done; hostname'; echo srun $?\n")
	var out bytes.Buffer
	job.Stdout, job.Stderr = &out, &out
	if err := job.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- job.Wait() }()
	workers := []string{"compute-0", "compute-1"}
	for _, w := range workers {
		l.run(t, 3*time.Minute, "alpha", w, "until test -e /tmp/runs; do sleep 0.2; done\n")
	}
	for _, h := range bed.Hosts {
		began := time.Now()
		if err := h.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := h.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		awaitHosts(t)
		t.Logf("%s killed and back within %v", h.Name, time.Since(began).Round(time.Millisecond))
	}
	select {
	case err := <-done:
		t.Fatalf("the job ended before it was told to: %v\n%s", err, out.String())
	default:
	}
	for _, w := range workers {
		l.run(t, askMax, "alpha", w, "touch /tmp/go\n")
	}
	if err := <-done; err != nil {
		t.Fatalf("the job's login: %v\n%s", err, out.String())
	}
	if got := out.String(); !strings.Contains(got, "compute-0\n") || !strings.Contains(got, "compute-1\n") || !strings.HasSuffix(got, "srun 0\n") {
		t.Errorf("the job said:\n%s", got)
	}
	awaitWhole(t, "alpha")
	l.sameGuests(t, l.alpha, pids, boots)
	exactly(t, l.alpha)
	same(t, before)
	for _, h := range bed.Hosts {
		if now := targetPID(t, h); now != targets[h.Name] {
			t.Errorf("the target process of %s is %d, before %d: restarting vcnd stopped disks", h.Name, now, targets[h.Name])
		}
	}
}

// cutOff takes the cable of the follower, whose guest has its disk elsewhere:
// that guest's I/O stalls without an error and goes on afterwards.
func (l *life) cutOff(t *testing.T) {
	const i = 3
	h := bed.Hosts[i]
	if list := mustList[api.Host](t, "host", "list"); !hasRaft(list, h.Name, "follower") {
		t.Fatalf("%s is no follower: %+v", h.Name, list)
	}
	var node api.Node
	for _, n := range l.alpha.Nodes {
		if n.Host == h.Name {
			node = n
		}
	}
	if node.Name == "" || node.Storage == h.Name {
		t.Fatalf("no node of alpha runs on %s with its disk elsewhere: %+v", h.Name, l.alpha.Nodes)
	}
	pids, boots := guestsOf(t, l.alpha), l.bootIDs(t, l.alpha)
	l.run(t, askMax, "alpha", node.Name, `rm -f /dev/shm/n /dev/shm/bad /dev/shm/stop
nohup sh -c 'n=0; while [ ! -e /dev/shm/stop ]; do dd if=/dev/zero of=/var/tmp/cut bs=4k count=1 oflag=dsync status=none || echo bad >> /dev/shm/bad; n=$((n+1)); echo $n > /dev/shm/n; sleep 0.2; done' > /dev/null 2>&1 < /dev/null &
until test -s /dev/shm/n; do sleep 0.1; done
`)
	if err := bed.Cut(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	mended := false
	defer func() {
		if !mended { // the context of a failed test is still good here
			t.Log("mend:", bed.Mend(context.Background(), i))
		}
	}()
	cut := time.Now()
	slowest := time.Duration(0)
	until(t, convergeMax, "the others to notice and say so", func(ctx context.Context) (bool, string) {
		began := time.Now()
		_, err := query[api.Token](ctx, "token", "create", "--kind", "project", "--project", "e2e", "--for", "1m", "--host", "https://"+bed.Hosts[0].API())
		slowest = max(slowest, time.Since(began))
		if err != nil {
			t.Fatalf("with %s cut off a change fails: %v", h.Name, err)
		}
		r, err := query[api.Reservation](ctx, "show", "alpha")
		if err != nil {
			t.Fatal(err)
		}
		return len(r.Conditions) > 0 && nodeOf(t, r, node.Name).State == "lost", fmt.Sprintf("%v, nodes %s", r.Conditions, nodeStates(r))
	})
	t.Logf("%s cut off: called lost after %v; meanwhile the slowest change took %v", h.Name, time.Since(cut).Round(time.Millisecond), slowest.Round(time.Millisecond))
	if now := guestsOf(t, l.alpha); !maps.Equal(now, pids) {
		t.Errorf("while %s is cut off guests are %v, before %v", h.Name, now, pids)
	}
	l.run(t, askMax, "alpha", "compute-1", "hostname\n") // the rest of the cluster goes on
	if err := bed.Mend(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	mended = true
	began := time.Now()
	awaitHosts(t)
	awaitWhole(t, "alpha")
	t.Logf("mended: all is well after %v", time.Since(began).Round(time.Millisecond))
	l.run(t, 3*time.Minute, "alpha", node.Name, `n=$(cat /dev/shm/n); until [ $(cat /dev/shm/n) -gt $((n+3)) ]; do sleep 0.2; done
touch /dev/shm/stop; test ! -e /dev/shm/bad
`)
	t.Logf("its guest writes again %v after mending, without an error", time.Since(began).Round(time.Millisecond))
	l.srun(t, l.alpha)
	l.sameGuests(t, l.alpha, pids, boots)
}

func hasRaft(list []api.Host, name, raft string) bool {
	for _, h := range list {
		if h.Name == name {
			return h.Raft == raft
		}
	}
	return false
}
