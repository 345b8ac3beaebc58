//go:build rooted

package libvirtd

import (
	"context"
	"os"
	"os/exec"
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
