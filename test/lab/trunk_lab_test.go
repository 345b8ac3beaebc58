//go:build lab

package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	trunkWait    = 3 * time.Minute
	labnetPath   = "/usr/local/bin/labnet"
	protocolTest = 0x88b5 // IEEE 802 local experimental EtherType 1
	protocolIPv4 = 0x0800
	fullFrame    = 14 + 4 + 1500 // Ethernet, one tag, a full packet
	endTimes     = "25"
)

// trunkHost is a lab machine that is a host: its card is on the trunk.
type trunkHost struct {
	*Machine
	address, capture string
}

// trunkGuest is a namespace behind a veth on a network's bridge, as a guest is
// behind its tap.
type trunkGuest struct {
	name, address, mac string
	host               *trunkHost
	vlan               int
}

// sh runs a script in the machine.
func (h *trunkHost) sh(t *testing.T, script string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), trunkWait)
	defer cancel()
	out, err := h.Command(ctx, "sh", "-ec", script).CombinedOutput()
	return string(out), err
}

func (h *trunkHost) must(t *testing.T, script string) string {
	t.Helper()
	out, err := h.sh(t, script)
	if err != nil {
		t.Fatalf("%s: %s: %v: %s", h.Name(), script, err, out)
	}
	return out
}

// TestLabTrunk: two hosts on a cable that carries tagged frames, clusters 20 and
// 21 on both. What is on the cable is read from the cards' captures.
func TestLabTrunk(t *testing.T) {
	hosts := trunkHosts(t)
	var guests []*trunkGuest
	for i, h := range hosts {
		out := h.must(t, labnetPath+" ensure eth0 "+h.address+" 20 21")
		t.Logf("%s: %s", h.Name(), strings.TrimSpace(out))
		if !strings.HasPrefix(out, "driver vlan: ") || !strings.Contains(out, "802.1Q") {
			t.Fatalf("a host that has 802.1Q uses: %s", out)
		}
		for _, vlan := range []int{20, 21} {
			guests = append(guests, addGuest(t, h, vlan, i+1))
		}
	}
	left20, left21, right20, right21 := guests[0], guests[1], guests[2], guests[3]
	for _, pair := range [][2]*trunkGuest{{left20, right20}, {right21, left21}} {
		ping(t, pair[0], pair[1].address, true)
	}
	// The addresses of the other cluster, and of the host, are asked for in vain.
	left20.host.must(t, "ip -n "+left20.name+" route add 198.51.100.0/24 dev eth0")
	for _, to := range []string{left21.address, right21.address, hosts[0].address, hosts[1].address} {
		ping(t, left20, to, false)
	}
	attackTrunk(t, hosts, guests)
	for _, h := range hosts {
		// udev had its say about links of a real host's own namespace, too.
		h.must(t, "udevadm settle; "+labnetPath+" ensure eth0 "+h.address+" 20 21")
		frames, err := ReadCapture(h.capture)
		if err != nil {
			t.Fatal(err)
		}
		checkTrunk(t, h, guests, frames)
	}
}

func trunkHosts(t *testing.T) []*trunkHost {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "labnet")
	build := exec.Command("go", "build", "-o", bin, "vcn/test/lab/labnet")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build labnet: %v: %s", err, out)
	}
	cable := CableFor(t, 1500)
	// Not 192.0.2.0/24: that is the lab's own, for the machines' agents.
	hosts := make([]*trunkHost, 2)
	errs := make(chan error)
	for i := range hosts {
		h := &trunkHost{address: fmt.Sprintf("198.51.100.%d", i+1), capture: filepath.Join(t.TempDir(), "trunk.pcap")}
		hosts[i] = h
		go func() { // both at a time: most of a boot is waiting
			var err error
			h.Machine, err = Start(context.WithoutCancel(t.Context()), Config{
				Name: []string{"left", "right"}[i], MemoryBytes: 512 << 20,
				NICs: []NIC{{Cable: cable, Capture: h.capture}},
			})
			errs <- err
		}()
	}
	err := errors.Join(<-errs, <-errs)
	for _, h := range hosts {
		t.Cleanup(func() { closeHost(t, h) })
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		if err := h.PutFile(t.Context(), bin, labnetPath); err != nil {
			t.Fatal(err)
		}
		h.must(t, "ip addr add "+h.address+"/24 dev eth0; ip link set eth0 up")
	}
	return hosts
}

func closeHost(t *testing.T, h *trunkHost) {
	if h.Machine == nil {
		return
	}
	if t.Failed() {
		keepLogs(t, h.Machine)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

func addGuest(t *testing.T, h *trunkHost, vlan, n int) *trunkGuest {
	t.Helper()
	g := &trunkGuest{
		name: fmt.Sprintf("g%d", vlan), host: h, vlan: vlan,
		address: fmt.Sprintf("10.0.0.%d", vlan+n*100),
		mac:     net.HardwareAddr{0x52, 0x54, 0, 0xee, byte(vlan), byte(n)}.String(),
	}
	h.must(t, strings.NewReplacer("NAME", g.name, "ADDRESS", g.address, "MAC", g.mac, "BRIDGE", fmt.Sprintf("vcnb%d", vlan)).Replace(`
ip netns add NAME
ip link add vcntNAME type veth peer name eth0 address MAC netns NAME
ip link set vcntNAME master BRIDGE up
ip -n NAME addr add ADDRESS/24 dev eth0
ip -n NAME link set eth0 up`))
	return g
}

// ping sends packets that fill the guests' MTU and may not be cut; the first may be
// lost to ARP.
func ping(t *testing.T, from *trunkGuest, to string, want bool) {
	t.Helper()
	patience := 20
	if !want {
		patience = 2
	}
	out, err := from.host.sh(t, fmt.Sprintf("ip netns exec %s ping -n -c 1 -w %d -M do -s 1472 %s", from.name, patience, to))
	if (err == nil) != want {
		t.Errorf("ping from %s of %s to %s: %v, want an answer: %v\n%s", from.name, from.host.Name(), to, err, want, out)
	}
}

// trunkFrame is an Ethernet frame with tags (EtherType and VLAN, the outer first)
// and a word to find it by.
func trunkFrame(src, dst string, word string, tags ...uint16) string {
	from, _ := net.ParseMAC(src)
	to, _ := net.ParseMAC(dst)
	b := append(slices.Clone(to), from...)
	for _, t := range tags {
		b = binary.BigEndian.AppendUint16(b, t)
	}
	b = append(binary.BigEndian.AppendUint16(b, protocolTest), word...)
	return hex.EncodeToString(append(b, make([]byte, max(0, 60-len(b)))...))
}

const everybody = "ff:ff:ff:ff:ff:ff"

// attackTrunk sends tagged frames from a guest of cluster 20, and hears at
// the guests of 21, at the mate of 20, and at the other host itself.
func attackTrunk(t *testing.T, hosts []*trunkHost, guests []*trunkGuest) {
	evil, left21, right20, right21 := guests[0], guests[1], guests[2], guests[3]
	tagged := map[string][]uint16{
		"<tag 21>": {0x8100, 21}, "<tag 20>": {0x8100, 20}, "<tag 1>": {0x8100, 1}, "<tag 0>": {0x8100, 0},
		"<tags 20, 21>": {0x8100, 20, 0x8100, 21}, "<tags 0, 21>": {0x8100, 0, 0x8100, 21}, "<tags 1, 21>": {0x8100, 1, 0x8100, 21},
		"<ad 21>": {0x88a8, 21}, "<ad 20, 21>": {0x88a8, 20, 0x8100, 21}, "<tag 1, ad 21>": {0x8100, 1, 0x88a8, 21}, "<old 21>": {0x9100, 21},
	}
	var frames []string
	for word, tags := range tagged {
		frames = append(frames, trunkFrame(evil.mac, everybody, word, tags...))
	}
	frames = append(frames,
		trunkFrame(evil.mac, "01:80:c2:00:00:00", "<spanning tree>"), trunkFrame(evil.mac, "01:00:0c:cc:cc:cd", "<cisco>"),
		trunkFrame(evil.mac, everybody, "<plain>"))
	ears := map[string]*ear{
		"left guest of 21":  listenAt(t, hosts[0], left21.name),
		"right guest of 21": listenAt(t, hosts[1], right21.name),
		"right guest of 20": listenAt(t, hosts[1], right20.name),
		"right host":        listenAt(t, hosts[1], ""),
	}
	hosts[0].must(t, fmt.Sprintf("ip netns exec %s %s send eth0 2 %s", evil.name, labnetPath, strings.Join(frames, " ")))
	// Later on the same ways: who hears the end has heard all there is to hear.
	for _, g := range []*trunkGuest{evil, left21, right21} {
		g.host.must(t, fmt.Sprintf("ip netns exec %s %s send eth0 %s %s", g.name, labnetPath, endTimes, trunkFrame(g.mac, everybody, "<end>")))
	}
	hosts[0].must(t, fmt.Sprintf("%s send eth0 %s %s", labnetPath, endTimes, trunkFrame("52:54:00:ee:00:01", everybody, "<end>")))
	for where, e := range ears {
		got := e.wait(t, where)
		want := []string{"<end>"}
		if where == "right guest of 20" {
			// A tag of the priority only, or of the bridge's own VLAN, is no tag.
			want = []string{"<end>", "<plain>", "<tag 0>", "<tag 1>"}
		}
		if where == "right host" { // its card is the trunk; none of it is for the host
			want = []string{"<end>", "VLAN 20 <plain>", "VLAN 20 <tag 0>", "VLAN 20 <tag 1>"}
			got = slices.DeleteFunc(got, func(w string) bool { return strings.HasPrefix(w, "VLAN") && strings.HasSuffix(w, "<end>") })
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("the %s has heard %v, want %v", where, got, want)
		}
	}
}

// ear is "labnet hear" that runs in a machine.
type ear struct {
	cmd   *Cmd
	lines *bufio.Scanner
	done  chan error
}

// listenAt listens in a namespace, or on the host's own card.
func listenAt(t *testing.T, h *trunkHost, ns string) *ear {
	t.Helper()
	argv := []string{labnetPath, "hear", "eth0"}
	if ns != "" {
		argv = append([]string{"ip", "netns", "exec", ns}, argv...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), trunkWait)
	t.Cleanup(cancel)
	r, w := io.Pipe()
	e := &ear{cmd: h.Command(ctx, argv...), lines: bufio.NewScanner(r), done: make(chan error, 1)}
	var stderr bytes.Buffer
	e.cmd.Stdout, e.cmd.Stderr = w, &stderr
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		err := e.cmd.Wait()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, stderr.Bytes())
		}
		w.Close()
		e.done <- err
	}()
	if !e.lines.Scan() || e.lines.Text() != "listening" {
		t.Fatalf("%s in %s does not listen: %q, %v", h.Name(), ns, e.lines.Text(), <-e.done)
	}
	return e
}

func (e *ear) wait(t *testing.T, where string) (words []string) {
	t.Helper()
	for e.lines.Scan() {
		words = append(words, e.lines.Text())
	}
	if err := <-e.done; err != nil {
		t.Errorf("the %s: %v", where, err)
	}
	return words
}

// checkTrunk judges every frame that crossed a host's card.
func checkTrunk(t *testing.T, h *trunkHost, guests []*trunkGuest, frames []Frame) {
	t.Helper()
	vlanOf := map[string]int{}
	for _, g := range guests {
		vlanOf[g.mac] = g.vlan
	}
	pings, largest, words := map[int]int{}, 0, map[string]bool{}
	for _, f := range frames {
		vlan, ofGuest := vlanOf[f.Src.String()]
		switch {
		case ofGuest && (len(f.Tags) != 1 || f.Tags[0] != vlan):
			t.Errorf("%s: a frame of a guest of %d has tags %v: %+v", h.Name(), vlan, f.Tags, f)
		case !ofGuest && len(f.Tags) > 0:
			t.Errorf("%s: a tagged frame that no guest has sent: %+v", h.Name(), f)
		case ofGuest && f.EtherType != protocolTest && f.EtherType != protocolIPv4 && f.EtherType != 0x0806 && f.EtherType != 0x86dd:
			t.Errorf("%s: a guest's frame of type %#x: %+v", h.Name(), f.EtherType, f)
		}
		if ofGuest && f.EtherType == protocolIPv4 {
			pings[vlan]++
			largest = max(largest, f.Bytes)
		}
		if i, j := bytes.IndexByte(f.Payload, '<'), bytes.IndexByte(f.Payload, '>'); f.EtherType == protocolTest && ofGuest && i == 0 && j > 0 {
			words[string(f.Payload[:j+1])] = true
		}
	}
	if pings[20] < 2 || pings[21] < 2 || largest != fullFrame {
		t.Errorf("%s: %v packets by VLAN, the largest frame has %d bytes, want %d", h.Name(), pings, largest, fullFrame)
	}
	for w := range words {
		if !slices.Contains([]string{"<plain>", "<end>", "<tag 0>", "<tag 1>"}, w) {
			t.Errorf("%s: %s is on the cable", h.Name(), w)
		}
	}
	if !words["<plain>"] {
		t.Errorf("%s: the capture of %d frames misses what was sent", h.Name(), len(frames))
	}
	t.Logf("%s: %d frames on its card, IPv4 by VLAN %v, words %v", h.Name(), len(frames), pings, words)
}
