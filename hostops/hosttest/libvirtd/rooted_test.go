//go:build rooted

package libvirtd

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shortDir is a directory whose socket paths stay short.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vcnlv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestStartStopAndAgain(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := shortDir(t)
	for range 2 {
		began := time.Now()
		i, err := Start(ctx, Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("started in %v", time.Since(began))
		if _, err := Start(ctx, Config{Dir: dir}); err == nil {
			t.Error("a second one started in the same directory")
		}
		out, err := exec.CommandContext(ctx, "virsh", "-c", "qemu+unix:///system?socket="+i.Socket(), "net-list", "--all", "--name").CombinedOutput()
		if err == nil && len(out) > 1 {
			t.Errorf("it has networks of the machine: %s", out)
		}
		if err := i.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		if pid, err := running(dir); err != nil || pid != 0 {
			t.Errorf("after Stop: process %d, %v", pid, err)
		}
	}
}

func TestStopDirEndsAnotherProcessesLibvirtd(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	i, err := Start(ctx, Config{Dir: shortDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := StopDir(ctx, i.Dir); err != nil {
		t.Fatal(err)
	}
	select {
	case <-i.Done():
	case <-ctx.Done():
		t.Fatal("still running")
	}
	if err := StopDir(ctx, i.Dir); err != nil {
		t.Fatalf("stopping what is stopped: %v", err)
	}
}

// TestGuestsOutliveLibvirtd is what the demonstration and the restart tests
// stand on: guests go on without libvirtd, are found again, and can be ended
// without it.
func TestGuestsOutliveLibvirtd(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := shortDir(t)
	start := func() *Instance {
		t.Helper()
		i, err := Start(ctx, Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	virsh := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", "qemu+unix:///system?socket=" + Socket(dir)}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("virsh %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	i := start()
	t.Cleanup(func() { KillGuests(context.Background(), dir) })
	text := `<domain type='qemu'><name>idle</name><memory unit='MiB'>16</memory><os><type arch='x86_64' machine='pc'>hvm</type></os></domain>`
	if err := os.WriteFile(filepath.Join(dir, "idle.xml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	virsh("create", filepath.Join(dir, "idle.xml"))
	pid, err := guestPID(filepath.Join(dir, "run", "qemu", "idle.pid"), "idle")
	if err != nil || pid == 0 {
		t.Fatalf("no process: %d, %v", pid, err)
	}
	i.Kill()
	i = start()
	if got := virsh("domstate", "idle"); got != "running" || !alive(pid) {
		t.Errorf("after kill -9 of libvirtd: %s, process alive: %v", got, alive(pid))
	}
	if err := i.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if !alive(pid) {
		t.Error("Stop ended the guest")
	}
	for _, want := range []int{1, 0} {
		if n, err := KillGuests(ctx, dir); err != nil || n != want {
			t.Errorf("KillGuests: %d, %v, want %d", n, err, want)
		}
	}
	if alive(pid) {
		t.Error("the guest is still running")
	}
}

func TestCapabilitiesAreTakenOver(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	from, to := shortDir(t), shortDir(t)
	caps := filepath.Join(from, capsDir)
	if err := os.MkdirAll(caps, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(caps, "x.xml"), []byte("<qemuCaps/>"), 0o600); err != nil {
		t.Fatal(err)
	}
	i, err := Start(ctx, Config{Dir: to, CapsCacheFrom: from})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Stop(ctx)
	if b, err := os.ReadFile(filepath.Join(to, capsDir, "x.xml")); err != nil || string(b) != "<qemuCaps/>" {
		t.Errorf("%s, %v", b, err)
	}
}
