package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// clockTicks per second are what the kernel counts processor time in for
// proc(5), on every architecture we run on.
const clockTicks = 100

// usage is what a process has of the machine.
type usage struct {
	cpu      time.Duration // user and system, of all threads, since it started
	rssBytes int64
}

// usageOf reads /proc/PID: stat's fields 14 and 15, statm's field 2 (proc(5)).
func usageOf(pid int) (usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return usage{}, fmt.Errorf("read usage: %w", err)
	}
	statm, err := os.ReadFile(filepath.Join(dir, "statm"))
	if err != nil {
		return usage{}, fmt.Errorf("read usage: %w", err)
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var user, system, total, pages int64
	if len(fields) < 13 {
		return usage{}, fmt.Errorf("read usage of process %d: %q", pid, stat)
	}
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return usage{}, fmt.Errorf("read usage of process %d: %w", pid, err)
	}
	if _, err := fmt.Sscan(string(statm), &total, &pages); err != nil {
		return usage{}, fmt.Errorf("read usage of process %d: %w", pid, err)
	}
	return usage{time.Duration(user+system) * time.Second / clockTicks, pages * int64(os.Getpagesize())}, nil
}

// argsOf is a process's command line.
func argsOf(pid int) ([]string, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return nil, fmt.Errorf("read command line: %w", err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00"), nil
}

func TestUsageOfAKnownProcess(t *testing.T) {
	block := make([]byte, 64<<20)
	for i := range block {
		block[i] = 1
	}
	busy := time.Now()
	for before := cpuTime(); cpuTime()-before < 300*time.Millisecond; {
		block[int(time.Since(busy))%len(block)]++
	}
	u, err := usageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// The kernel may count by ticks here and exactly there.
	if d := u.cpu - cpuTime(); d < -100*time.Millisecond || d > 100*time.Millisecond || u.cpu < 200*time.Millisecond {
		t.Errorf("%v of processor, getrusage says %v", u.cpu, cpuTime())
	}
	if u.rssBytes < int64(len(block)) || u.rssBytes > 4<<30 {
		t.Errorf("%d bytes resident, %d were just written", u.rssBytes, len(block))
	}
}

func TestUsageOfAProcessWithAnOddName(t *testing.T) {
	dir := t.TempDir()
	odd := filepath.Join(dir, "a) R (b")
	if err := os.Symlink("/bin/sleep", odd); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(odd, "30")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	// Between fork and exec it has no arguments.
	args, err := argsOf(cmd.Process.Pid)
	for end := time.Now().Add(5 * time.Second); err == nil && args[0] == "" && time.Now().Before(end); time.Sleep(time.Millisecond) {
		args, err = argsOf(cmd.Process.Pid)
	}
	if err != nil || len(args) != 2 || args[0] != odd || args[1] != "30" {
		t.Errorf("command line %q, %v", args, err)
	}
	if u, err := usageOf(cmd.Process.Pid); err != nil || u.cpu > time.Second || u.rssBytes == 0 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := usageOf(1 << 30); err == nil {
		t.Error("a process that is not there has usage")
	}
}
