package lab

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const logsWait = 30 * time.Second

// TB is what For needs of a *testing.T.
type TB interface {
	Helper()
	Name() string
	Failed() bool
	Context() context.Context
	Cleanup(func())
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// For starts a machine for a test and closes it at the test's end. If the test has
// failed by then, its console and journal are kept below LogsDir and named in the log.
func For(t TB, cfg Config) *Machine {
	t.Helper()
	if cfg.Progress == nil {
		cfg.Progress = func(s string) { t.Logf("%s", s) }
	}
	// The test's own context ends before its Cleanup functions run, which may still need
	// the machine.
	m, err := Start(context.WithoutCancel(t.Context()), cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			keepLogs(t, m)
		}
		if err := m.Close(); err != nil {
			t.Fatalf("%v", err)
		}
		_ = os.Remove(StateDir()) // if it is empty
	})
	return m
}

func keepLogs(t TB, m *Machine) {
	ctx, cancel := context.WithTimeout(context.Background(), logsWait)
	defer cancel()
	dir := filepath.Join(LogsDir(), strings.ReplaceAll(t.Name(), "/", "-"))
	files, err := m.SaveLogs(ctx, dir)
	if err != nil {
		t.Logf("keep logs: %v", err)
	}
	t.Logf("logs of machine %s: %s", m.Name(), strings.Join(files, " "))
}

// CableFor makes a cable for a test, before the machines on it, and closes it after them.
func CableFor(t TB, mtu int) *Cable {
	t.Helper()
	c, err := NewCable(t.Context(), mtu)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Fatalf("%v", err)
		}
	})
	return c
}
