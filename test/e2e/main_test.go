//go:build rooted

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vcn/api"
	"vcn/internal/passable"
	"vcn/test/testbed"
)

const (
	bedName   = "vcne"
	bedSubnet = 1
	bedMax    = 5 * time.Minute
	imagesMax = 20 * time.Minute
	vlanFirst = 100
	vlanLast  = 101
)

// bed is the testbed of this run.
var bed *testbed.Testbed

// places are the directories of this run.
var places struct {
	bin  string // vcnd, vcnctl, vcn-init
	root string // under the cache: images, logs of a failed run, and the hosts while they run
	run  string // the hosts' own
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := up(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	interrupted := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-ctx.Done():
			fmt.Fprintln(os.Stderr, "e2e: interrupted: taking everything down", down())
			os.Exit(130)
		case <-interrupted:
		}
	}()
	code := m.Run()
	close(interrupted)
	<-ended
	if code != 0 {
		keepLogs()
	}
	if err := down(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: after taking the testbed down:", err)
		return 1
	}
	return code
}

// find settles the directories and says what is missing.
func find() error {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return fmt.Errorf("find repository: %w", err)
	}
	dir := func(env, name string) string {
		if v := os.Getenv(env); v != "" {
			return v
		}
		return filepath.Join(root, name)
	}
	if places.bin, err = filepath.Abs(dir("VCN_BIN", "build")); err != nil {
		return fmt.Errorf("find programs: %w", err)
	}
	cache, err := filepath.Abs(dir("VCN_CACHE", ".cache"))
	if err != nil {
		return fmt.Errorf("find cache: %w", err)
	}
	places.root = filepath.Join(cache, "e2e")
	places.run = filepath.Join(places.root, "run")
	for _, p := range []string{"vcnd", "vcnctl", "vcn-init"} {
		if info, err := os.Stat(filepath.Join(places.bin, p)); err != nil || info.Mode()&0o111 == 0 {
			return fmt.Errorf("there is no program %s in %s: run \"make build\" first, or name the directory in VCN_BIN", p, places.bin)
		}
	}
	if err := passable.Mkdir(places.root); err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	bed, err = testbed.New(testbed.Config{
		Name: bedName, Dir: places.run, Subnet: bedSubnet, Hosts: hosts(), Bin: places.bin,
		ImageCache: filepath.Join(cache, "cache"), Images: filepath.Join(places.root, "images"),
		InitFlags: []string{"--vlans", fmt.Sprintf("%d-%d", vlanFirst, vlanLast)}, Out: os.Stderr,
	})
	return err
}

// hosts are the three of the demo and a follower beside them.
func hosts() []testbed.HostConfig {
	all := testbed.Default()
	return append(all, testbed.HostConfig{
		Classes: []api.Class{api.ClassCompute}, CPUs: 2 * all[0].CPUs, Memory: 2 * all[0].Memory, NeverPeer: true,
	})
}

func up(ctx context.Context) error {
	if err := find(); err != nil {
		return err
	}
	began := time.Now()
	bedCtx, cancel := context.WithTimeout(ctx, bedMax)
	defer cancel()
	if _, err := bed.Up(bedCtx); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "testbed up after %v\n", time.Since(began).Round(time.Millisecond))
	began = time.Now()
	imgCtx, cancel := context.WithTimeout(ctx, imagesMax)
	defer cancel()
	if _, err := bed.Vcnctl(imgCtx, "image", "build", "--rolls", "slurm"); err != nil {
		keepLogs()
		return errors.Join(err, down())
	}
	fmt.Fprintf(os.Stderr, "images there after %v\n", time.Since(began).Round(time.Millisecond))
	return nil
}

// down takes the testbed down and says what is left of it.
func down() error {
	ctx, cancel := context.WithTimeout(context.Background(), bedMax)
	defer cancel()
	if err := bed.Down(ctx); err != nil {
		return err
	}
	return leftovers()
}

// leftovers looks for everything that carries the testbed's name or lies in its
// directory.
func leftovers() error {
	var errs []error
	left := func(what, which string) { errs = append(errs, fmt.Errorf("left behind: %s %s", what, which)) }
	for dir, what := range map[string]string{"/run/netns": "namespace", "/sys/class/net": "link"} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), bedName+"-") {
				left(what, e.Name())
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	errs = append(errs, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, places.run) || strings.Contains(line, "/"+bedName+"-") {
			left("mount", strings.TrimSpace(line))
		}
	}
	if _, err := os.Lstat(places.run); !errors.Is(err, fs.ErrNotExist) {
		left("directory", places.run)
	}
	for pid, args := range processes() {
		if strings.Contains(strings.Join(args, " "), places.run) {
			left("process "+strconv.Itoa(pid), strings.Join(args, " "))
		}
	}
	return errors.Join(errs...)
}

// processes lists all processes of the machine with their arguments.
func processes() map[int][]string {
	out := map[int][]string{}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || len(b) == 0 {
			continue // it ended, or is the kernel's
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err == nil && pid != os.Getpid() {
			out[pid] = strings.Split(string(bytes.TrimRight(b, "\x00")), "\x00")
		}
	}
	return out
}

// keepLogs saves the hosts' logs and the nodes' consoles of a failed run.
func keepLogs() {
	dir := filepath.Join(places.root, "failed")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: keep logs:", err)
		return
	}
	for _, pattern := range []string{"vcnd.log", "data/target.log", "data/nodes/*/*/console.log", "libvirt/log/libvirtd.log", "libvirt/log/qemu/*.log"} {
		files, _ := filepath.Glob(filepath.Join(places.run, "h*", pattern))
		for _, f := range files {
			rel, err := filepath.Rel(places.run, f)
			if err != nil {
				continue
			}
			b, err := os.ReadFile(f)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, strings.ReplaceAll(rel, "/", "_")), b, 0o600)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "e2e: keep logs:", err)
			}
		}
	}
	fmt.Fprintln(os.Stderr, "e2e: logs of the hosts and consoles of the nodes are in", dir)
}
