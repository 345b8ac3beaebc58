//go:build rooted

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vcn/api"
	"vcn/hostops"
	"vcn/hostops/iscsi/targetd"
	"vcn/test/testbed"
)

// hostThings is everything that clusters leave on one host. Processes are in
// it by what they run, not by number.
type hostThings struct {
	Links   []string // name and master
	Domains []string
	Secrets []string
	Volumes []string
	Exports []string
	Nodes   []string // directories
	Guests  []string // QEMU processes
}

// lookAround takes stock of every host.
func lookAround(t *testing.T) map[string]hostThings {
	t.Helper()
	all := map[string]hostThings{}
	for _, h := range bed.Hosts {
		all[h.Name] = hostThings{
			Links: links(t, h), Domains: virsh(t, h, "list", "--all", "--name"), Secrets: virsh(t, h, "secret-list"),
			Volumes: files(t, filepath.Join(h.Dir, "data", "volumes", "*")), Exports: exports(t, h),
			Nodes:  files(t, filepath.Join(h.Dir, "data", "nodes", "*")),
			Guests: slices.Sorted(maps.Keys(guests(t, h))),
		}
	}
	return all
}

// same fails unless every host is as it was.
func same(t *testing.T, before map[string]hostThings) {
	t.Helper()
	if d := cmp.Diff(before, lookAround(t)); d != "" {
		t.Errorf("the hosts are not as before (-before +now):\n%s", d)
	}
}

func files(t *testing.T, pattern string) []string {
	t.Helper()
	list, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// link is what ip(8) says of one.
type link struct {
	Name     string `json:"ifname"`
	Master   string `json:"master"`
	LinkInfo struct {
		Kind string `json:"info_kind"`
		Data struct {
			ID int `json:"id"` // of a VLAN or VXLAN link
		} `json:"info_data"`
	} `json:"linkinfo"`
}

func linksOf(t *testing.T, h *testbed.Host) []link {
	t.Helper()
	var list []link
	readJSON(t, &list, "ip", "-n", h.NS, "-d", "-j", "link")
	return list
}

func links(t *testing.T, h *testbed.Host) []string {
	t.Helper()
	var out []string
	for _, l := range linksOf(t, h) {
		out = append(out, strings.TrimSpace(l.Name+" "+l.Master))
	}
	slices.Sort(out)
	return out
}

func readJSON(t *testing.T, v any, name string, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(bounded(t, askMax), name, args...).Output()
	if err == nil {
		err = json.Unmarshal(out, v)
	}
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// virsh asks a host's libvirtd for a list and returns its lines but headings.
func virsh(t *testing.T, h *testbed.Host, args ...string) []string {
	t.Helper()
	args = append([]string{"-q", "-c", "qemu+unix:///system?socket=" + h.Libvirt()}, args...)
	out, err := exec.CommandContext(bounded(t, askMax), "virsh", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %s at %s: %v: %s", strings.Join(args, " "), h.Name, err, out)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

// exports asks a storage host's target process what it serves.
func exports(t *testing.T, h *testbed.Host) []string {
	t.Helper()
	socket := filepath.Join(h.Dir, "data", "target.sock")
	if len(files(t, socket)) == 0 {
		return nil
	}
	c, err := targetd.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	list, err := c.List(bounded(t, askMax))
	if err != nil {
		t.Fatalf("list exports of %s: %v", h.Name, err)
	}
	var out []string
	for _, e := range list {
		text := fmt.Sprintf("%s generation %d, %d sessions", e.Volume, e.Generation, len(e.Sessions))
		if e.Failed != "" {
			text += ": " + e.Failed
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}

// pidsOf lists a host's processes with their arguments.
func pidsOf(t *testing.T, h *testbed.Host) map[int][]string {
	t.Helper()
	out, err := exec.CommandContext(bounded(t, askMax), "ip", "netns", "pids", h.NS).Output()
	if err != nil {
		t.Fatalf("list processes of %s: %v", h.Name, err)
	}
	all, mine := processes(), map[int][]string{}
	for f := range strings.FieldsSeq(string(out)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		if args, ok := all[pid]; ok {
			mine[pid] = args
		}
	}
	return mine
}

// guests lists a host's QEMU processes by the name of their domain. Two of one
// name are a failure.
func guests(t *testing.T, h *testbed.Host) map[string]int {
	t.Helper()
	found := map[string]int{}
	for pid, args := range pidsOf(t, h) {
		if filepath.Base(args[0]) != "qemu-system-x86_64" {
			continue
		}
		i := slices.Index(args, "-name")
		if i < 0 || i+1 >= len(args) {
			continue // libvirt asking QEMU what it can do
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(args[i+1], "guest="), ",")
		if other := found[name]; other != 0 {
			t.Errorf("%s runs %s twice: processes %d and %d", h.Name, name, other, pid)
		}
		found[name] = pid
	}
	return found
}

// allGuests is guests of all hosts, by host and domain.
func allGuests(t *testing.T) map[string]int {
	t.Helper()
	all := map[string]int{}
	for _, h := range bed.Hosts {
		for name, pid := range guests(t, h) {
			all[h.Name+"/"+name] = pid
		}
	}
	return all
}

// targetPID is the target process of a storage host.
func targetPID(t *testing.T, h *testbed.Host) int {
	t.Helper()
	found := 0
	for pid, args := range pidsOf(t, h) {
		if filepath.Base(args[0]) == "vcnd" && len(args) > 1 && args[1] == "target" {
			if found != 0 {
				t.Errorf("%s has two target processes: %d and %d", h.Name, found, pid)
			}
			found = pid
		}
	}
	return found
}

func domainName(r api.Reservation, node string) string {
	return hostops.Mark + "-" + hostops.ShortID(r.ID) + "-" + node
}

// exactly fails unless every node of the clusters, and nothing else, is defined
// and runs, once, on the host it was placed on.
func exactly(t *testing.T, clusters ...api.Reservation) {
	t.Helper()
	want := map[string][]string{}
	for _, r := range clusters {
		for _, n := range r.Nodes {
			want[n.Host] = append(want[n.Host], domainName(r, n.Name))
		}
	}
	for _, h := range bed.Hosts {
		slices.Sort(want[h.Name])
		if got := virsh(t, h, "list", "--all", "--name"); !slices.Equal(got, want[h.Name]) {
			t.Errorf("%s has the domains %q, want %q", h.Name, got, want[h.Name])
		}
		if got := slices.Sorted(maps.Keys(guests(t, h))); !slices.Equal(got, want[h.Name]) {
			t.Errorf("%s runs the guests %q, want %q", h.Name, got, want[h.Name])
		}
	}
}

// leased finds who holds a VLAN; empty if nobody does.
func leased(ctx context.Context, vlan int) (string, error) {
	list, err := list[api.Lease](ctx, "lease", "list")
	for _, l := range list {
		if l.Kind == "vlan" && l.Value == strconv.Itoa(vlan) {
			return l.Reservation, nil
		}
	}
	return "", err
}
