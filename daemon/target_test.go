package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"vcn/api"
	"vcn/hostops/iscsi/targetd"
)

// The test's own program is what spawnTarget starts: then it is "vcnd target".
func init() {
	if len(os.Args) != 4 || os.Args[1] != "target" {
		return
	}
	c, err := LoadConfig(os.Args[3])
	if err == nil {
		err = RunTarget(context.Background(), c, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	fmt.Fprintln(os.Stderr, "target ended:", err)
	os.Exit(1)
}

// started collects the pids that spawnTarget logs.
type started struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *started) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *started) pids(t *testing.T) (pids []int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := json.NewDecoder(bytes.NewReader(s.buf.Bytes())); ; {
		var line struct{ PID int }
		if err := d.Decode(&line); err == io.EOF {
			return pids
		} else if err != nil {
			t.Fatal(err)
		}
		if line.PID != 0 {
			pids = append(pids, line.PID)
		}
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestTargetIsStartedOnceAndAgainWhenLost(t *testing.T) {
	t.Parallel()                             // it mostly waits
	dir, err := os.MkdirTemp("/tmp", "vcnd") // short: a socket path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	portal := l.Addr().String()
	l.Close()
	conf := filepath.Join(dir, "vcnd.yaml")
	text := fmt.Sprintf("name: host1\naddress: 127.0.0.1\ndataDir: %s\nclasses: [%s]\nstorage: {portal: %q}\n", dir, api.ClassStorage, portal)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(conf)
	if err != nil {
		t.Fatal(err)
	}
	client, err := targetd.Dial(c.TargetSocket())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	// Another one, systemd's, holds the state and does not answer yet.
	if err := os.MkdirAll(c.TargetState(), 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(c.TargetState(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	seen := &started{}
	log := slog.New(slog.NewJSONHandler(seen, nil))
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	if err := startTarget(short, c, conf, client, log); err == nil {
		t.Error("a target that nobody serves was found")
	}
	cancel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	t.Cleanup(func() {
		for _, pid := range seen.pids(t) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	if pids := seen.pids(t); len(pids) != 0 {
		t.Fatalf("started %v beside one that holds the state", pids)
	}
	if err := lock.Close(); err != nil { // it has ended without a word
		t.Fatal(err)
	}
	go func() { ended <- keepTarget(ctx, c, conf, client, log) }()
	await(t, "the first target", func() bool { return answers(ctx, client) })
	pids := seen.pids(t)
	if len(pids) != 1 {
		t.Fatalf("started %v, want one", pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the second target", func() bool { return len(seen.pids(t)) == 2 && answers(ctx, client) })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !answers(t.Context(), client) {
		t.Error("the target ended with vcnd")
	}
}
