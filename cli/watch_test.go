package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vcn/api"
)

// safeBuffer may be written and read at once.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *safeBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

// testApp is an app that talks to fake and has no files.
func testApp(t *testing.T, f *fakeAPI, stdout, stderr io.Writer) *app {
	env := map[string]string{"HOME": t.TempDir(), "USER": "alice", "VCN_HOST": f.URL, "VCN_TOKEN": f.token(api.TokenProject, "t0")}
	return &app{stdin: strings.NewReader(""), stdout: stdout, stderr: stderr, getenv: func(k string) string { return env[k] },
		now: func() time.Time { return fakeNow }, zone: time.UTC, pollEvery: time.Millisecond, beatEvery: time.Hour, patienceAfter: time.Hour}
}

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFww42rnJFnxFvwLTcBP342e4VxcULtOxmbzAdazSWkf alice@studio"

var reserveWaitArgs = []string{"reserve", "mine", "--workers", "2", "--for", "8h", "--key", testKey, "--wait"}

func TestCtrlCWhileWaitingLeavesTheReservation(t *testing.T) {
	f := newFakeAPI(t, "c1")
	f.hold = true
	var stdout, stderr safeBuffer
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	code := make(chan int)
	go func() { code <- testApp(t, f, &stdout, &stderr).main(ctx, reserveWaitArgs) }()
	<-f.polled
	cancel()
	if got := <-code; got != ExitInterrupted {
		t.Errorf("exit code %d", got)
	}
	for _, want := range []string{"interrupted; the reservation mine goes on", "vcnctl watch mine", "vcnctl release mine"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("%q is missing in\n%s", want, stderr.String())
		}
	}
	if stdout.String() != "" {
		t.Errorf("stdout: %q", stdout.String())
	}
	if f.res[0].State != api.StateBooked {
		t.Error("the reservation was touched:", f.res[0].State)
	}
}

// TestCtrlCIsSaidInTheFormAskedFor: what a program reads is what it asked for,
// when it is interrupted too.
func TestCtrlCIsSaidInTheFormAskedFor(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"watch", "mine", "-o", "json"}, "{\n  \"status\": 499,\n  \"detail\": \"interrupted\",\n  \"code\": \"interrupted\"\n}\n"},
		{[]string{"watch", "mine", "-o", "yaml"}, "code: interrupted\ndetail: interrupted\nstatus: 499\n"},
		{append(slices.Clone(reserveWaitArgs), "-o", "yaml"), "code: interrupted\ndetail: interrupted; the reservation mine goes on\n"},
	} {
		f := newFakeAPI(t, "c1")
		f.hold = true
		var stdout, stderr safeBuffer
		if c.args[0] == "watch" {
			if code := testApp(t, f, &stdout, &stderr).main(t.Context(), reserveWaitArgs[:len(reserveWaitArgs)-1]); code != 0 {
				t.Fatal(stderr.String())
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		code := make(chan int)
		go func() { code <- testApp(t, f, &stdout, &stderr).main(ctx, c.args) }()
		<-f.polled
		cancel()
		if got := <-code; got != ExitInterrupted || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%v: exit code %d and\n%s\nwant\n%s", c.args, got, stderr.String(), c.want)
		}
	}
}

func TestFollowedEventsAreDocuments(t *testing.T) {
	for form, want := range map[string]string{
		outputJSON: `{"index":12,`,
		outputYAML: "---\nhost: h1\nindex: 12\n",
	} {
		var out bytes.Buffer
		a := &app{stdout: &out, zone: time.UTC}
		a.flags.output = form
		if err := a.eventsFollowed([]api.Event{{Index: 12, Host: "h1"}, {Index: 13}}); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(out.String(), want) || strings.Count(out.String(), "---\n") != map[string]int{outputYAML: 2}[form] {
			t.Errorf("%s:\n%s", form, out.String())
		}
	}
}

func TestCtrlCWhileWatching(t *testing.T) {
	f := newFakeAPI(t, "c1")
	f.hold = true
	var stdout, stderr safeBuffer
	if code := testApp(t, f, &stdout, &stderr).main(t.Context(), reserveWaitArgs[:len(reserveWaitArgs)-1]); code != 0 {
		t.Fatal(stderr.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	code := make(chan int)
	go func() { code <- testApp(t, f, &stdout, &stderr).main(ctx, []string{"watch", "mine"}) }()
	<-f.polled
	cancel()
	if got := <-code; got != ExitInterrupted || !strings.Contains(stderr.String(), "vcnctl: interrupted") {
		t.Errorf("exit code %d, %s", got, stderr.String())
	}
}

func TestWaitTimeoutLeavesTheReservation(t *testing.T) {
	f := newFakeAPI(t, "c1")
	f.hold = true
	var stdout, stderr safeBuffer
	code := testApp(t, f, &stdout, &stderr).main(t.Context(), append(reserveWaitArgs[:len(reserveWaitArgs):len(reserveWaitArgs)], "--wait-timeout", "1s"))
	if code != ExitError || !strings.Contains(stderr.String(), "mine is not ready after 1.0s; it is booked, and the reservation goes on") {
		t.Errorf("%d %s", code, stderr.String())
	}
}

func TestSlowAnswersAreSaidToBe(t *testing.T) {
	f := newFakeAPI(t, "c1")
	f.hold = true
	var stdout, stderr safeBuffer
	a := testApp(t, f, &stdout, &stderr)
	a.beatEvery = 5 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	code := make(chan int)
	go func() { code <- a.main(ctx, reserveWaitArgs) }()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(stderr.String(), "nodes: 3 waiting"); {
		if time.Now().After(deadline) {
			t.Fatal("no sign of life:", stderr.String())
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-code

	var out safeBuffer
	a = testApp(t, f, io.Discard, &out)
	a.patienceAfter = time.Millisecond
	stop := a.patience("the plan")
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(out.String(), "waiting for the plan"); {
		if time.Now().After(deadline) {
			t.Fatal("patience said nothing")
		}
		time.Sleep(time.Millisecond)
	}
	stop()
	stop()
}

// openPTY makes a pseudo-terminal of a size.
func openPTY(t *testing.T, rows, cols uint16) (master, slave *os.File) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func TestTerminalIsRedrawnInPlace(t *testing.T) {
	f := newFakeAPI(t, "c1")
	master, slave := openPTY(t, 24, 80)
	read := make(chan string)
	go func() {
		var b bytes.Buffer
		io.Copy(&b, master) // ends with EIO when the slave is closed
		read <- b.String()
	}()
	var stderr safeBuffer
	a := testApp(t, f, slave, &stderr)
	if code := a.main(t.Context(), reserveWaitArgs[:len(reserveWaitArgs)-1]); code != 0 {
		t.Fatal(stderr.String())
	}
	if code := a.main(t.Context(), []string{"watch", "mine"}); code != 0 {
		t.Fatal(stderr.String())
	}
	slave.Close()
	screen := replay(<-read)
	want := `Reserved mine (r1): 2026-11-23T08:00Z to 2026-11-23T16:00Z, booked. Usable in about 40s.
Watch it come up: vcnctl watch mine
mine is active
  ✓ images     since 08:00:03      3.0s  cached
  ✓ volumes    since 08:00:06      3.0s
  ✓ boot       since 08:00:09      3.0s
  ✓ frontend   ready     on h1 for 18s
  ✓ compute-0  ready     on h2 for 18s
  ✓ compute-1  ready     on h2 for 18s
mine: provisioned in 12s, ready 12s after its start
  images         3.0s: cached
  volumes        3.0s
  boot           3.0s
Log in: vcnctl ssh mine (as alice)
`
	if screen != want {
		t.Errorf("the terminal shows\n%s\nwant\n%s", screen, want)
	}
}

// replay is what a terminal shows after the sequences that the live view uses.
func replay(s string) string {
	var lines []string
	row := 0
	for s != "" {
		var n int
		switch {
		case strings.HasPrefix(s, "\x1b[K"):
			s = s[3:]
		case strings.HasPrefix(s, "\x1b[J"):
			lines = lines[:min(row, len(lines))]
			s = s[3:]
		case strings.HasPrefix(s, "\x1b["):
			if k, _ := fmt.Sscanf(s, "\x1b[%dA", &n); k != 1 {
				return "unknown sequence in " + s
			}
			row -= n
			s = s[strings.IndexByte(s, 'A')+1:]
		default:
			end := strings.IndexByte(s, '\n')
			if end < 0 {
				return "an unfinished line: " + s
			}
			line := strings.TrimRight(strings.ReplaceAll(s[:end], "\x1b[K", ""), "\r ")
			if row < len(lines) {
				lines[row] = line
			} else {
				lines = append(lines, line)
			}
			row++
			s = s[end+1:]
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

func TestLiveLinesFitTheScreen(t *testing.T) {
	a := &app{zone: time.UTC}
	r := api.Reservation{Name: "big", State: api.StateProvisioning, Phases: []api.Phase{{Name: "boot", Start: fakeNow.Add(-time.Minute), Note: "a\x1b[2Jb"}}}
	for i := range 1000 {
		n := api.Node{Name: fmt.Sprintf("compute-%d", i), Host: "h1", State: "ready", Since: fakeNow}
		if i >= 990 {
			n.State = "booting"
		}
		r.Nodes = append(r.Nodes, n)
	}
	lines := a.liveLines(r, fakeNow, 10)
	text := strings.Join(lines, "\n")
	if len(lines) != 10 || !strings.Contains(text, "compute-990") || strings.Contains(text, "compute-1 ") || !strings.Contains(text, "10 booting, 990 ready") {
		t.Errorf("%d lines:\n%s", len(lines), text)
	}
	if !strings.Contains(text, "boot       since 07:59:30        1m") || strings.Contains(text, "\x1b") {
		t.Error(text)
	}
	if got := cut("añbc", 3); got != "añ…" {
		t.Error(got)
	}
}

func TestPlainViewCountsManyNodes(t *testing.T) {
	var out bytes.Buffer
	v := &plainView{a: &app{zone: time.UTC}, out: &out}
	r := api.Reservation{Name: "big", State: api.StateProvisioning}
	for i := range 9 {
		r.Nodes = append(r.Nodes, api.Node{Name: fmt.Sprint(i), State: "booting"})
	}
	v.update(r, fakeNow)
	v.update(r, fakeNow) // nothing new
	r.Nodes = append([]api.Node(nil), r.Nodes...)
	r.Nodes[0].State, r.Nodes[0].Host, r.Nodes[0].Message = "lost", "h1", "host h1 is dead"
	r.Conditions = []api.Condition{{Type: "degraded", Message: "one node is lost"}}
	v.update(r, fakeNow)
	want := "08:00:30 big is provisioning\n08:00:30 nodes: 9 booting\n08:00:30 degraded: one node is lost\n08:00:30 0: lost on h1: host h1 is dead\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestFollowingRidesOutAnOutage(t *testing.T) {
	f := newFakeAPI(t, "c1")
	var stdout, stderr safeBuffer
	a := testApp(t, f, &stdout, &stderr)
	if code := a.main(t.Context(), reserveWaitArgs[:len(reserveWaitArgs)-1]); code != 0 {
		t.Fatal(stderr.String())
	}
	f.mu.Lock()
	f.busy = 1
	f.mu.Unlock()
	if code := a.main(t.Context(), []string{"watch", "mine"}); code != 0 || !strings.Contains(stdout.String(), "mine is active") {
		t.Errorf("%d %s %s", code, stdout.String(), stderr.String())
	}
}

func TestMainRuns(t *testing.T) {
	var out, errs bytes.Buffer
	if code := Main(t.Context(), []string{"version", "-o", "yaml"}, nil, &out, &errs, func(string) string { return "" }); code != 0 || !strings.Contains(out.String(), "version: dev") {
		t.Errorf("%d %s %s", code, out.String(), errs.String())
	}
}
