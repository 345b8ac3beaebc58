package lio

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vcn/hostops"
)

const infoText = `InitiatorName: iqn.2026-11.internal.vcn:host.a
InitiatorAlias: 
LIO Session ID: 4   ISID: 0x80 01 02 03 04 05  TSIH: 4  SessionType: Normal
Session State: TARG_SESS_STATE_LOGGED_IN
---------------------[iSCSI Session Values]-----------------------
  CmdSN/WR  :  CmdSN/WC  :  ExpCmdSN  :  MaxCmdSN  :     ITT    :     TTT
 0x00000040   0x00000040   0x00000003   0x00000042   0x00000000   0x00000001
----------------------[iSCSI Connections]-------------------------
CID: 0  Connection State: TARG_CONN_STATE_LOGGED_IN
   Address ADDRESS TCP  StatSN: 0x00000006
`

func TestSessionsAreRead(t *testing.T) {
	for text, want := range map[string]string{"10.0.0.2": "10.0.0.2", "fd00::2": "fd00::2", "[fd00::2]": "fd00::2", "::ffff:10.0.0.2": "10.0.0.2"} {
		s, ok := parseInfo(strings.Replace(infoText, "ADDRESS", text, 1))
		if !ok || s.initiator != "iqn.2026-11.internal.vcn:host.a" || s.addr != netip.MustParseAddr(want) || !strings.HasPrefix(s.id, "4 ISID:") {
			t.Errorf("%s: %+v, %v", text, s, ok)
		}
	}
	if _, ok := parseInfo("No active iSCSI Session for Initiator Endpoint: iqn.x\n"); ok {
		t.Error("a session where there is none")
	}
}

func TestSizeOfAFileIsNotThatOfItsSectors(t *testing.T) {
	n, err := fileSize("Status: ACTIVATED  Max Queue Depth: 128  SectorSize: 512  HwMaxSectors: 16384\n        TCM FILEIO ID: 0        File: /v  Size: 4194304  Mode: Buffered-WCE Async: 0\n")
	if err != nil || n != 4<<20 {
		t.Errorf("%d, %v, want 4 MiB", n, err)
	}
	if _, err := fileSize("Status: DEACTIVATED  SectorSize: 512"); err == nil {
		t.Error("a size where there is none")
	}
}

func export(change func(*hostops.Export)) hostops.Export {
	x := hostops.Export{
		Volume: "v-1", Path: "/v", IQN: "iqn.2026-11.internal.vcn:volume.v-1", Generation: 18446744073709551615,
		Access: []hostops.Access{{Initiator: "iqn.x:A", Addr: netip.MustParseAddr("10.0.0.2"), User: "u", Secret: "0123456789ab"}},
	}
	if change != nil {
		change(&x)
	}
	return x
}

func TestTagsTellWhatAnEntryIs(t *testing.T) {
	tag := func(change func(*hostops.Export)) string {
		t.Helper()
		g, err := grants(export(change))
		if err != nil {
			t.Fatal(err)
		}
		return g["iqn.x:a"].tag
	}
	base := tag(nil)
	if len(base) > 63 { // MAX_ACL_TAG_SIZE with its NUL
		t.Errorf("tag %q is too long for the kernel", base)
	}
	if n, ok := generationOf(base); !ok || n != 18446744073709551615 {
		t.Errorf("generation of %q: %d, %v", base, n, ok)
	}
	if n, ok := generationOf("someone's tag"); ok {
		t.Errorf("generation of another's tag: %d", n)
	}
	for name, change := range map[string]func(*hostops.Export){
		"generation": func(x *hostops.Export) { x.Generation-- },
		"secret":     func(x *hostops.Export) { x.Access[0].Secret += "x" },
		"user":       func(x *hostops.Export) { x.Access[0].User += "x" },
		"address":    func(x *hostops.Export) { x.Access[0].Addr = netip.MustParseAddr("10.0.0.3") },
	} {
		if tag(change) == base {
			t.Errorf("another %s has the same tag", name)
		}
	}
}

func TestWhatTheKernelCannotServeIsRefused(t *testing.T) {
	for name, change := range map[string]func(*hostops.Export){
		"comma in path":   func(x *hostops.Export) { x.Path = "/a,fd_dev_size=1" },
		"long path":       func(x *hostops.Export) { x.Path = "/" + strings.Repeat("x", 255) },
		"slash in target": func(x *hostops.Export) { x.IQN = "iqn.x:a/../b" },
		"capital target":  func(x *hostops.Export) { x.IQN = "iqn.x:A" },
		"slash in name":   func(x *hostops.Export) { x.Access[0].Initiator = "iqn.x:a/../b" },
		"secret NULL":     func(x *hostops.Export) { x.Access[0].Secret = "NULL01234567" },
		"user NULL":       func(x *hostops.Export) { x.Access[0].User = "NULL" },
		"secrets of a name": func(x *hostops.Export) {
			x.Access = append(x.Access, x.Access[0])
			x.Access[1].Secret = "another-secret"
		},
	} {
		if _, err := grants(export(change)); !errors.Is(err, hostops.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	two := export(func(x *hostops.Export) {
		x.Access = append(x.Access, x.Access[0])
		x.Access[1].Addr = netip.MustParseAddr("10.0.0.3")
	})
	if g, err := grants(two); err != nil || len(g["iqn.x:a"].addrs) != 2 {
		t.Errorf("two addresses of a name: %+v, %v", g, err)
	}
}

func TestPortalsClash(t *testing.T) {
	for _, c := range []struct {
		ours, other string
		want        bool
	}{
		{"10.0.0.1:3260", "10.0.0.1:3260", true},
		{"10.0.0.1:3260", "0.0.0.0:3260", true},
		{"10.0.0.1:3260", "[::]:3260", true},
		{"10.0.0.1:3260", "[::ffff:10.0.0.1]:3260", true},
		{"10.0.0.1:3260", "10.0.0.2:3260", false},
		{"10.0.0.1:3260", "10.0.0.1:3261", false},
		{"10.0.0.1:3260", "nonsense", false},
	} {
		e := &Engine{portals: []netip.AddrPort{netip.MustParseAddrPort(c.ours)}}
		if _, got := e.clash(c.other); got != c.want {
			t.Errorf("%s beside %s: %v, want %v", c.ours, c.other, got, c.want)
		}
	}
}

func TestMarksAreRead(t *testing.T) {
	e := &Engine{cfg: Config{Owner: "abc"}}
	if id, ok := e.owned(e.alias("v-1")); !ok || id != "v-1" {
		t.Errorf("our own mark: %q, %v", id, ok)
	}
	for _, mark := range []string{"vcn.abcd.v-1", "vcn.abc.", "vcn.abc.../x", "LIO Target", ""} {
		if id, ok := e.owned(mark); ok {
			t.Errorf("%q is taken for our volume %q", mark, id)
		}
	}
}

// A process that a predecessor started for a call is found by its arguments,
// and waited for.
func TestCallsOfAnEarlierProcessAreFound(t *testing.T) {
	root := t.TempDir()
	fifo := filepath.Join(root, "core", "iblock_1", "vcn.abc.v-1", "enable")
	if err := os.MkdirAll(filepath.Dir(fifo), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfifo", fifo).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v\n%s", err, out)
	}
	j := start("hang", "sh", "-c", setScript, "sh", "1", fifo) // waits for a reader
	dir := filepath.Dir(fifo)
	var pid int
	for end := time.Now().Add(10 * time.Second); pid == 0; time.Sleep(time.Millisecond) {
		m, err := leftovers(root)
		if err != nil || time.Now().After(end) {
			t.Fatalf("not found: %v, %v", m, err)
		}
		pid = m[dir]
	}
	e := &Engine{root: root, cfg: Config{Owner: "abc"}, volumes: map[string]*volume{}, wedged: map[string]int{dir: pid}}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := e.unwedge(short, "v-1", "iqn.x:y"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("its volume: %v, want a deadline", err)
	}
	if err := e.unwedge(short, "v-2", "iqn.x:z"); err != nil {
		t.Errorf("another volume: %v", err)
	}
	if b, err := os.ReadFile(fifo); err != nil || string(b) != "1" {
		t.Errorf("what was written: %q, %v", b, err)
	}
	<-j.done
	if err := e.unwedge(t.Context(), "v-1", "iqn.x:y"); err != nil || len(e.wedged) != 0 || e.volumes["v-1"] == nil {
		t.Errorf("afterwards: %v, %+v", err, e.volumes)
	}
}
