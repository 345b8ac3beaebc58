//go:build rooted

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"vcn/internal/passable"
	"vcn/test/testbed"
)

const (
	bedName   = "vcnb"
	bedSubnet = 9
	bedUpMax  = 3 * time.Minute
	imagesMax = 15 * time.Minute
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := bed.down(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// bed is the testbed of this run, made when the first benchmark asks.
var bed shared

type shared struct {
	once sync.Once
	*testbed.Testbed
	err  error
	root string // under the cache: images, and the hosts while they run
}

// get returns the running testbed, with the images of Slurm clusters there.
func (s *shared) get(tb testing.TB) *testbed.Testbed {
	tb.Helper()
	s.once.Do(func() { s.err = s.up() })
	if s.err != nil {
		tb.Fatal(s.err)
	}
	return s.Testbed
}

func (s *shared) up() error {
	cache := os.Getenv("VCN_CACHE")
	if cache == "" {
		cache = filepath.Join("..", "..", ".cache")
	}
	cache, err1 := filepath.Abs(cache)
	bin, err2 := filepath.Abs(filepath.Join("..", "..", "build"))
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("find directories: %w", err)
	}
	s.root = filepath.Join(cache, "bench")
	if err := passable.Mkdir(s.root); err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	t, err := testbed.New(testbed.Config{
		Name: bedName, Dir: filepath.Join(s.root, "run"), Subnet: bedSubnet, Hosts: testbed.Default(), Bin: bin,
		ImageCache: filepath.Join(cache, "cache"), Images: filepath.Join(s.root, "images"),
	})
	if err != nil {
		return err
	}
	s.Testbed = t
	ctx, cancel := context.WithTimeout(context.Background(), bedUpMax)
	defer cancel()
	if _, err := t.Up(ctx); err != nil {
		return err
	}
	ctx, cancel = context.WithTimeout(context.Background(), imagesMax)
	defer cancel()
	_, err = t.Vcnctl(ctx, "image", "build", "--rolls", "slurm")
	return err
}

func (s *shared) down() error {
	if s.Testbed == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), bedUpMax)
	defer cancel()
	return s.Testbed.Down(ctx)
}

// processes lists a host's processes of one program, by pid.
func processes(ctx context.Context, h *testbed.Host, program string) (map[int][]string, error) {
	out, err := exec.CommandContext(ctx, "ip", "netns", "pids", h.NS).Output()
	if err != nil {
		return nil, fmt.Errorf("list processes of %s: %w", h.Name, err)
	}
	found := map[int][]string{}
	for f := range strings.FieldsSeq(string(out)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("list processes of %s: %w", h.Name, err)
		}
		args, err := argsOf(pid)
		if err == nil && filepath.Base(args[0]) == program {
			found[pid] = args
		}
	}
	return found, nil
}

// query runs vcnctl and reads its JSON.
func query[T any](ctx context.Context, t *testbed.Testbed, args ...string) (v T, err error) {
	out, err := t.Vcnctl(ctx, append(args, "-o", "json")...)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return v, fmt.Errorf("read what vcnctl %s said: %w", args[0], err)
	}
	return v, nil
}

// explain logs what there is to see of a failure before the testbed goes.
func explain(tb testing.TB, t *testbed.Testbed, name string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, args := range [][]string{{"show", name}, {"host", "list"}, {"events"}} {
		out, err := t.Vcnctl(ctx, args...)
		tb.Logf("vcnctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	for _, h := range t.Hosts {
		log, _ := os.ReadFile(filepath.Join(h.Dir, "vcnd.log"))
		lines := bytes.Split(log, []byte("\n"))
		tb.Logf("the end of %s's log:\n%s", h.Name, bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
		consoles, _ := filepath.Glob(filepath.Join(h.Dir, "data", "nodes", "*", "*", "console.log"))
		for _, c := range consoles {
			tb.Logf("the end of %s:\n%s", c, tailOf(c))
		}
	}
}

// logConsoles logs what the nodes say of their boots, in seconds of their own.
func logConsoles(tb testing.TB, t *testbed.Testbed) {
	tb.Helper()
	for _, h := range t.Hosts {
		consoles, _ := filepath.Glob(filepath.Join(h.Dir, "data", "nodes", "*", "*", "console.log"))
		for _, c := range consoles {
			text, _ := os.ReadFile(c)
			for line := range strings.Lines(string(text)) {
				if strings.Contains(line, "] vcn") {
					tb.Logf("%s %s", filepath.Base(filepath.Dir(c)), strings.TrimSpace(line))
				}
			}
		}
	}
}

func tailOf(file string) string {
	b, _ := os.ReadFile(file)
	lines := strings.Split(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}

// loadNow is the machine's load average over a minute, for the log.
func loadNow() string {
	b, _ := os.ReadFile("/proc/loadavg")
	load, _, _ := strings.Cut(string(b), " ")
	return load
}
