package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vcn/cli"
)

const trace = "../../daemon/simulate/swf/testdata/small.swf"

const hosts = `hosts:
- {name: box, classes: [gateway, compute, storage], cpus: 10, memory: 64GiB, storage: 1TiB}
`

// vcnctl runs a command offline.
func vcnctl(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	env := map[string]string{"TZ": "UTC"}
	code = cli.Main(t.Context(), args, strings.NewReader("1 2 3\n"), &out, &errs, func(k string) string { return env[k] }, cli.WithSimulator(simulator))
	return code, out.String(), errs.String()
}

func hostsFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hosts.yaml")
	if err := os.WriteFile(path, []byte(hosts), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestATraceIsReplayedOnHostsOfAFile(t *testing.T) {
	code, stdout, stderr := vcnctl(t, "simulate", "--trace", trace, "--hosts", hostsFile(t), "--cpus-per-worker", "4", "-o", "json",
		"--compare", "scale=2", "--compare", "add=1:cpus=64,memory=256GiB,classes=compute")
	if code != cli.ExitOK {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var answer struct {
		Items []struct {
			Name                              string
			Hosts, Requests, Refused, Cut     int
			AcceptedAtOnce, AcceptedAfterWait int
			Reasons                           []struct{ Class string }
		}
	}
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil || len(answer.Items) != 3 {
		t.Fatalf("%v: %s", err, stdout)
	}
	// Of five jobs one wants four workers of four cores: too many for ten cores.
	// On two such hosts it finds places, and leaves none for who comes after it.
	one, two, more := answer.Items[0], answer.Items[1], answer.Items[2]
	if one.Hosts != 1 || one.Requests != 5 || one.AcceptedAtOnce != 4 || one.Refused != 1 || one.Reasons[0].Class != "compute" {
		t.Errorf("%+v", one)
	}
	if two.Hosts != 2 || two.Name != "scale=2" || two.AcceptedAtOnce != 3 { // the last two come while that one fills them
		t.Errorf("%+v", two)
	}
	if more.Hosts != 2 || more.AcceptedAtOnce != 5 {
		t.Errorf("%+v", more)
	}
	if !strings.Contains(stderr, "2 jobs are left out") || !strings.Contains(stderr, "simulated 15 requests") {
		t.Errorf("%s", stderr)
	}
}

func TestTheTableComparesCases(t *testing.T) {
	code, stdout, stderr := vcnctl(t, "simulate", "--trace", trace, "--hosts", hostsFile(t), "--cpus-per-worker", "4", "--days", "--compare", "policy=wait")
	if code != cli.ExitOK {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, line := range []string{"CASE book policy=wait", "accepted 80.0% 80.0%", "no room for workers 1 1",
		"from 2024-01-01T00:00Z 2024-01-01T00:00Z", "USE OF CORES book policy=wait"} {
		found := false
		for l := range strings.Lines(stdout) {
			found = found || strings.Join(strings.Fields(l), " ") == line
		}
		if !found {
			t.Errorf("no line %q in\n%s", line, stdout)
		}
	}
}

func TestABadTraceIsAUsageErrorWithItsLine(t *testing.T) {
	code, _, stderr := vcnctl(t, "simulate", "--trace", "-", "--hosts", hostsFile(t))
	if code != cli.ExitUsage || !strings.Contains(stderr, "line 1: want 18 fields, and there are 3") {
		t.Errorf("%d %s", code, stderr)
	}
}

func TestHostsThatCannotBeAreAUsageError(t *testing.T) {
	code, _, stderr := vcnctl(t, "simulate", "--trace", trace, "--hosts", hostsFile(t), "--add", "1:cpus=4,memory=1GiB,name=box")
	if code != cli.ExitUsage || !strings.Contains(stderr, "box") {
		t.Errorf("%d %s", code, stderr)
	}
}
