package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// echoSimulator answers with what it was asked.
func echoSimulator(_ context.Context, q SimulateRequest, progress func(SimulateProgress)) (Simulation, error) {
	requests, source := len(q.Reservations), "calendar"
	if q.Trace != nil {
		text, err := io.ReadAll(q.Trace)
		if err != nil {
			return Simulation{}, err
		}
		source = fmt.Sprintf("trace of %d bytes, %d processors of %s a worker, at most %d", len(text)-1, q.CPUsPerWorker, q.Memory, q.Jobs)
	}
	out := Simulation{Notes: []string{"on the side"}, Rows: [][]string{{"source"}, {"policy"}, {"hosts"}, {"scale"}, {"more"}, {"wait"}}, Days: [][]string{{"2030-01-01"}}}
	for i, c := range q.Cases {
		progress(SimulateProgress{Case: i + 1, Done: 1, Total: 2, At: fakeNow})
		hosts, err := json.Marshal(c.Hosts)
		if err != nil {
			return out, err
		}
		more, err := json.Marshal(c.Add)
		if err != nil {
			return out, err
		}
		for n, v := range []string{source, c.Policy, string(hosts), fmt.Sprint(c.Scale), string(more), fmt.Sprintf("%s, lead %s, from %s until %s", q.Wait, q.Lead, q.Clock(q.From), q.Clock(q.Until))} {
			out.Rows[n] = append(out.Rows[n], v)
		}
		out.Days[0] = append(out.Days[0], "100%")
		out.Items = append(out.Items, map[string]any{"name": c.Name, "requests": requests})
	}
	return out, nil
}

func TestASimulationTellsHowFarItIs(t *testing.T) {
	now := fakeNow
	var stderr bytes.Buffer
	a := &app{stderr: &stderr, zone: time.UTC, now: func() time.Time { return now }, patienceAfter: 2 * time.Second}
	tell := a.simulateProgress(now, 3)
	tell(SimulateProgress{Case: 1, Done: 1, Total: 9, At: fakeNow})
	now = now.Add(1999 * time.Millisecond)
	tell(SimulateProgress{Case: 1, Done: 2, Total: 9, At: fakeNow})
	if stderr.Len() > 0 {
		t.Errorf("it says %q within two seconds", stderr.String())
	}
	now = now.Add(time.Millisecond)
	tell(SimulateProgress{Case: 2, Done: 3, Total: 9, At: fakeNow})
	tell(SimulateProgress{Case: 2, Done: 4, Total: 9, At: fakeNow})
	if got := stderr.String(); got != "vcnctl: case 2 of 3: 3 of 9 requests, at 2026-11-23T08:00Z (2.0s)\n" {
		t.Errorf("it says %q", got)
	}
}

func TestCtrlCEndsASimulation(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var stderr bytes.Buffer
	endless := func(ctx context.Context, q SimulateRequest, _ func(SimulateProgress)) (Simulation, error) {
		cancel()
		_, err := io.Copy(io.Discard, q.Trace)
		return Simulation{}, err
	}
	a := &app{stdin: zeros{}, stdout: io.Discard, stderr: &stderr, getenv: func(string) string { return "" }, zone: time.UTC, now: time.Now, patienceAfter: time.Hour, simulator: endless}
	hosts := t.TempDir() + "/hosts.yaml"
	if err := os.WriteFile(hosts, []byte("hosts: [{name: a, classes: [compute], cpus: 1, memory: 1GiB}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := a.main(ctx, []string{"simulate", "--trace", "-", "--hosts", hosts}); code != ExitInterrupted {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func TestWithoutASimulatorItSaysSo(t *testing.T) {
	var stderr bytes.Buffer
	code := Main(t.Context(), []string{"simulate"}, strings.NewReader(""), io.Discard, &stderr, func(string) string { return "" })
	if code != ExitError || !strings.Contains(stderr.String(), "no simulator") {
		t.Errorf("%d %s", code, stderr.String())
	}
	plugged := errors.New("plugged in")
	stderr.Reset()
	code = Main(t.Context(), []string{"simulate", "--trace", "-", "--hosts", "/none"}, strings.NewReader(""), io.Discard, &stderr, func(string) string { return "" },
		WithSimulator(func(context.Context, SimulateRequest, func(SimulateProgress)) (Simulation, error) {
			return Simulation{}, plugged
		}))
	if code != ExitUsage || !strings.Contains(stderr.String(), "cannot read the hosts") {
		t.Errorf("%d %s", code, stderr.String())
	}
}
