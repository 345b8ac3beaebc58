//go:build rooted

package targetd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	suiteInitiator = "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-test"
	suiteCases     = 230 // of libiscsi 1.19
	suiteTimeout   = 5 * time.Minute
)

const (
	casePassed  = "pass"
	caseFailed  = "fail"
	caseSkipped = "skip"
)

// TestSuiteOfLibiscsi runs every case of iscsi-test-cu against the target
// process. What does not pass must stand in testdata/libiscsi-expected.txt with
// its cause; that list may only shrink. (Slow because cases of the suite sleep,
// not because of us: tagged rooted for that, it needs no root.)
func TestSuiteOfLibiscsi(t *testing.T) {
	t.Parallel()
	want := expectedCases(t, filepath.Join("testdata", "libiscsi-expected.txt"))
	d := newDaemon(t)
	e := testExport("suite", newVolume(t, 100<<20), 1)
	first := e.Access[0]
	e.Access = nil
	for _, name := range []string{suiteInitiator, suiteInitiator + "-2"} {
		first.Initiator = name
		e.Access = append(e.Access, first)
	}
	if err := d.client.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	got := runSuite(t, fmt.Sprintf("iscsi://%s%%%s@%s/%s/1", testUser, testSecret, d.portal, e.IQN))
	if len(got) < suiteCases {
		t.Errorf("%d cases ran, want %d or more: did the suite change, or end early?", len(got), suiteCases)
	}
	passed := 0
	for name, result := range got {
		if result == casePassed {
			passed++
		}
		switch x := want[name]; {
		case x == "" && result != casePassed:
			t.Errorf("%s: %s; it is not in the list of what may", name, result)
		case x != "" && result == casePassed:
			t.Errorf("%s passes: remove it from the list", name)
		case x != "" && result != x:
			t.Errorf("%s: %s, the list says %s", name, result, x)
		}
	}
	for name := range want {
		if got[name] == "" {
			t.Errorf("%s is in the list and did not run", name)
		}
	}
	t.Logf("%d of %d cases pass, %d are in the list", passed, len(got), len(want))
}

// expectedCases reads lines of case, result and cause, by tabs.
func expectedCases(t *testing.T, path string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for i, l := range strings.Split(string(b), "\n") {
		if l == "" || l[0] == '#' {
			continue
		}
		f := strings.Split(l, "\t")
		if len(f) != 3 || f[1] != caseFailed && f[1] != caseSkipped || f[2] == "" || m[f[0]] != "" {
			t.Fatalf("%s:%d: want case, %s or %s, and cause, by tabs, each case once: %q", path, i+1, caseFailed, caseSkipped, l)
		}
		m[f[0]] = f[1]
	}
	return m
}

var (
	suiteLine = regexp.MustCompile(`^Suite: (\S+)`)
	caseLine  = regexp.MustCompile(`^\s+Test: (\S+) \.\.\.(.*)`)
)

// runSuite returns the result of every case, by "suite.case".
func runSuite(t *testing.T, url string) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), suiteTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "iscsi-test-cu", "--dataloss", "--verbose", "--test=ALL", url).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("iscsi-test-cu (package libiscsi-bin) is needed by this test: %v", err)
	}
	// Its exit status counts the failures, which the list knows better.
	if !strings.Contains(string(out), "Tests completed with return value: 0") {
		t.Fatalf("the suite did not end: %v\n%s", err, tail(string(out)))
	}
	got := map[string]string{}
	var suite, name string
	for l := range strings.SplitSeq(string(out), "\n") {
		if m := suiteLine.FindStringSubmatch(l); m != nil {
			suite, name = m[1], ""
			continue
		}
		if m := caseLine.FindStringSubmatch(l); m != nil {
			name, l = suite+"."+m[1], m[2]
			got[name] = "" // until it says how it ended
		}
		if name == "" {
			continue
		}
		// What is printed after the verdict is the suite's tidying up.
		switch {
		case strings.HasPrefix(l, "passed"):
			if got[name] == "" {
				got[name] = casePassed
			}
			name = ""
		case strings.HasPrefix(l, "FAILED"):
			got[name], name = caseFailed, ""
		case strings.Contains(l, "[SKIPPED]"):
			got[name] = caseSkipped
		}
	}
	var open []string
	for name, r := range got {
		if r == "" {
			open = append(open, name)
		}
	}
	if slices.Sort(open); len(open) > 0 {
		t.Fatalf("cases without a verdict: %v", open)
	}
	return got
}

func tail(s string) string {
	const most = 4 << 10
	return s[max(0, len(s)-most):]
}
