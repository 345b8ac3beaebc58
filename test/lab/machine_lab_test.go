//go:build lab

package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// taps lists links of cables in this host's own namespace, where none must ever be.
func taps(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("ip", "-o", "link").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, ": t525400") || strings.Contains(line, bridgeName) {
			all = append(all, line)
		}
	}
	return strings.Join(all, "")
}

// children are the processes that this one has started and that still run.
func children(t *testing.T) []string {
	t.Helper()
	var own []string
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stats {
		b, err := os.ReadFile(s)
		if err != nil {
			continue // it has ended
		}
		i := strings.LastIndex(string(b), ") ")
		if f := strings.Fields(string(b)[i+2:]); len(f) > 1 && f[1] == strconv.Itoa(os.Getpid()) {
			own = append(own, string(b))
		}
	}
	return own
}

func TestLabMachine(t *testing.T) {
	cfg := Config{Name: "one", Disks: []Disk{{SizeBytes: 64 << 20}, {SizeBytes: 64 << 20, Cache: "none"}}}
	cfg.Progress = func(s string) { t.Log(s) }
	m, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("commands", func(t *testing.T) { commands(t, m) })
	t.Run("a cancelled command ends with all it started", func(t *testing.T) { cancelled(t, m) })
	t.Run("many commands at a time", func(t *testing.T) { many(t, m) })
	t.Run("files", func(t *testing.T) { files(t, m) })
	t.Run("a wrong token is refused", func(t *testing.T) { wrongToken(t, m) })
	t.Run("a power cut keeps what was synced", func(t *testing.T) { powerCut(t, m) })
	t.Run("logs and power-off", func(t *testing.T) { logsAndPowerOff(t, m) })
	if t.Failed() {
		keepLogs(t, m)
	}
	dir := m.Dir()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there after Close: %v", dir, err)
	}
	if got := children(t); len(got) > 0 {
		t.Errorf("processes after Close: %q", got)
	}
}

func commands(t *testing.T, m *Machine) {
	out, err := m.Command(t.Context(), "uname", "-r").Output()
	if err != nil || !strings.Contains(string(out), "cloud-amd64") {
		t.Errorf("uname -r: %q, %v; want Debian's cloud kernel", out, err)
	}
	c := m.Command(t.Context(), "sh", "-c", "cat; echo $PWD $COLOUR; echo oh >&2; exit 7")
	c.Dir, c.Env, c.Stdin = "/usr", []string{"COLOUR=blue"}, strings.NewReader("said\n")
	out, err = c.Output()
	var exit *ExitError
	if string(out) != "said\n/usr blue\n" || !errors.As(err, &exit) || exit.Code != 7 || string(exit.Stderr) != "oh\n" {
		t.Errorf("output %q, error %v; want input, directory, variable, exit code 7, and oh", out, err)
	}
	err = m.Command(t.Context(), "sh", "-c", "kill -TERM $$").Run()
	if !errors.As(err, &exit) || exit.Signal != syscall.SIGTERM || exit.Code != 128+15 {
		t.Errorf("a command that a signal ends: %v, want SIGTERM", err)
	}
	if err := m.Command(t.Context(), "/no/such").Run(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a program that is not there: %v", err)
	}
	c = m.Command(t.Context(), "sh", "-c", "trap 'exit 3' USR1; echo ready; while :; do sleep 0.1; done")
	ready := make(chan bool, 1)
	c.Stdout = writerFunc(func(p []byte) { ready <- true })
	// More input than the window, never read: signals must still arrive.
	c.Stdin = bytes.NewReader(make([]byte, 8<<20))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	<-ready
	if err := c.Signal(syscall.SIGUSR1); err != nil {
		t.Error(err)
	}
	if err := c.Wait(); !errors.As(err, &exit) || exit.Code != 3 {
		t.Errorf("after the signal: %v, want exit code 3", err)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// sleeping counts the machine's processes that sleep so many seconds.
func sleeping(t *testing.T, m *Machine, seconds string) int {
	t.Helper()
	out, err := m.Command(t.Context(), "sh", "-c", "pgrep -cxf 'sleep "+seconds+"'; true").Output()
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func cancelled(t *testing.T, m *Machine) {
	ctx, cancel := context.WithCancel(t.Context())
	c := m.Command(ctx, "sh", "-c", "trap '' TERM INT HUP; setsid sleep 1111 & echo ready; sleep 1111")
	c.Stdout = writerFunc(func([]byte) { cancel() })
	if err := c.Run(); !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled command: %v", err)
	}
	for range 50 {
		if sleeping(t, m, "1111") == 0 {
			break
		}
		time.Sleep(agentPoll)
	}
	if n := sleeping(t, m, "1111"); n != 0 {
		t.Errorf("%d processes of the cancelled command still run", n)
	}
	// One that ends by itself keeps what it left, and does not wait for it.
	began := time.Now()
	if err := m.Command(t.Context(), "sh", "-c", "sleep 2222 &").Run(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the command took %v: it waited for what it left in the background", took)
	}
	if n := sleeping(t, m, "2222"); n != 1 {
		t.Errorf("%d processes in the background, want 1", n)
	}
}

func many(t *testing.T, m *Machine) {
	errs := make(chan error, 20)
	for i := range cap(errs) {
		go func() {
			want := strconv.Itoa(i)
			out, err := m.Command(t.Context(), "sh", "-c", "sleep 1; echo "+want).Output()
			if err == nil && string(out) != want+"\n" {
				err = errors.New("output " + string(out) + ", want " + want)
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func files(t *testing.T, m *Machine) {
	big := make([]byte, 30<<20)
	if _, err := rand.Read(big); err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{nil, []byte("short"), big} {
		began := time.Now()
		if err := m.Put(t.Context(), bytes.NewReader(data), "/tmp/new/dir/file", 0o640); err != nil {
			t.Fatal(err)
		}
		put := time.Since(began)
		var got bytes.Buffer
		if err := m.Get(t.Context(), "/tmp/new/dir/file", &got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), data) {
			t.Errorf("a file of %d bytes came back with %d, and other ones", len(data), got.Len())
		}
		t.Logf("%d bytes: put %v, put and get %v", len(data), put.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	}
	if out, err := m.Command(t.Context(), "stat", "-c", "%a", "/tmp/new/dir/file").Output(); err != nil || string(out) != "640\n" {
		t.Errorf("permissions %q, %v; want 640", out, err)
	}
	if err := m.Get(t.Context(), "/no/such", &bytes.Buffer{}); err == nil {
		t.Error("a file that is not there can be got")
	}
}

func wrongToken(t *testing.T, m *Machine) {
	other := &Machine{cfg: m.cfg, st: m.st, vm: m.vm}
	other.st.Token = "guess"
	if err := other.Command(t.Context(), "true").Run(); err == nil || !strings.Contains(err.Error(), "wrong token") {
		t.Errorf("with a wrong token: %v", err)
	}
}

func powerCut(t *testing.T, m *Machine) {
	const script = `set -e
for i in 0 1; do
	d=/dev/disk/by-id/virtio-spare$i
	mkfs.ext4 -q $d; mkdir -p /mnt/$i; mount $d /mnt/$i
	echo kept >/mnt/$i/synced; sync -f /mnt/$i; echo lost >/mnt/$i/unsynced
done
echo gone >/root/file`
	if out, err := m.Command(t.Context(), "sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	hanging := make(chan error, 1)
	c := m.Command(t.Context(), "sleep", "3333")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { hanging <- c.Wait() }()
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-hanging:
		if err == nil {
			t.Error("a command in a machine that lost its power succeeded")
		}
	case <-time.After(10 * time.Second):
		t.Error("a command in a machine that lost its power still waits")
	}
	if err := m.Ping(t.Context()); !errors.Is(err, ErrOff) {
		t.Errorf("ping after the power cut: %v, want %v", err, ErrOff)
	}
	if err := m.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	const look = `set -e
for i in 0 1; do mkdir -p /mnt/$i; mount /dev/disk/by-id/virtio-spare$i /mnt/$i; cat /mnt/$i/synced; ls /mnt/$i; done
ls /root`
	out, err := m.Command(t.Context(), "sh", "-c", look).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := string(out); strings.Count(got, "kept\n") != 2 || strings.Contains(got, "unsynced") || strings.Contains(got, "file") {
		t.Errorf("after the power cut: %q; want what was synced on both disks, and nothing else", got)
	}
}

func logsAndPowerOff(t *testing.T, m *Machine) {
	files, err := m.SaveLogs(t.Context(), t.TempDir())
	if err != nil || len(files) != 3 {
		t.Errorf("logs: %q, %v; want three", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || strings.HasSuffix(f, "journal.log") && !strings.Contains(string(b), "systemd") {
			t.Errorf("%s: %d bytes, %v", f, len(b), err)
		}
	}
	began := time.Now()
	if err := m.PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("power-off took %v", time.Since(began).Round(time.Millisecond))
	if m.PID() != 0 {
		t.Error("it still runs")
	}
}
