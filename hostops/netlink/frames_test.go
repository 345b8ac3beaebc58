//go:build rooted || lab

package netlink

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"vcn/hostops"
)

const (
	testProtocol = 0x88b5 // IEEE 802 local experimental EtherType 1
	framePoll    = 50 * time.Millisecond
	framesTries  = 100
)

// wiretap sends and hears raw frames on one link of a namespace.
type wiretap struct {
	fd, index int

	mu   sync.Mutex
	seen []heard
	stop bool
	done chan struct{}
}

type heard struct {
	tag  int // the outermost tag, -1 without one
	data []byte
}

func wiretapOn(t testing.TB, ns, dev string) *wiretap {
	t.Helper()
	w := &wiretap{done: make(chan struct{})}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // ends with its thread
		result <- func() error {
			h, err := netns.GetFromName(ns)
			if err != nil {
				return err
			}
			defer h.Close()
			if err := netns.Set(h); err != nil {
				return err
			}
			return w.open(dev)
		}()
	}()
	if err := <-result; err != nil {
		t.Fatalf("listen on %s of %s: %v", dev, ns, err)
	}
	go w.read()
	t.Cleanup(func() {
		w.mu.Lock()
		w.stop = true
		w.mu.Unlock()
		<-w.done
		unix.Close(w.fd)
	})
	return w
}

func (w *wiretap) open(dev string) error {
	all := int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))
	link, err := net.InterfaceByName(dev)
	if err != nil {
		return err
	}
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
		return err
	}
	w.index = link.Index
	wait := unix.NsecToTimeval(framePoll.Nanoseconds())
	if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		return err
	}
	everything := unix.PacketMreq{Ifindex: int32(link.Index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(w.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &everything); err != nil {
		return err
	}
	return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: link.Index})
}

func (w *wiretap) read() {
	defer close(w.done)
	buf, control := make([]byte, 10000), make([]byte, 256)
	for {
		n, cn, _, from, err := unix.Recvmsg(w.fd, buf, control, 0)
		w.mu.Lock()
		if w.stop {
			w.mu.Unlock()
			return
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && ll.Pkttype != unix.PACKET_OUTGOING {
			w.seen = append(w.seen, heard{tagIn(control[:cn], buf[:n]), bytes.Clone(buf[:n])})
		}
		w.mu.Unlock()
	}
}

// tagIn finds the outermost tag: the kernel takes it out of the frame.
func tagIn(control, frame []byte) int {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return -1
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < int(unsafe.Sizeof(unix.TpacketAuxdata{})) {
			continue
		}
		aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
		if aux.Status&unix.TP_STATUS_VLAN_VALID != 0 {
			return int(aux.Vlan_tci & 0xfff)
		}
	}
	if len(frame) >= 16 {
		for _, p := range tagProtocols {
			if binary.BigEndian.Uint16(frame[12:]) == p {
				return int(binary.BigEndian.Uint16(frame[14:]) & 0xfff)
			}
		}
	}
	return -1
}

func (w *wiretap) send(t testing.TB, frame []byte) {
	t.Helper()
	if err := unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.index, Halen: 6}); err != nil {
		t.Fatalf("send frame: %v", err)
	}
}

// found returns the frames that carry a word so far.
func (w *wiretap) found(word string) (out []heard) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.seen {
		if bytes.Contains(h.data, []byte(word)) {
			out = append(out, h)
		}
	}
	return out
}

// awaits sends a frame with a word of its own until to has heard it. Then to
// has heard everything that was sent before.
func (w *wiretap) awaits(t testing.TB, to *wiretap) bool {
	t.Helper()
	word := fmt.Sprintf("<await %d>", serial.Add(1))
	for range framesTries {
		w.send(t, testFrame(broadcast, nil, word))
		if time.Sleep(framePoll); len(to.found(word)) > 0 {
			return true
		}
	}
	return false
}

var broadcast = net.HardwareAddr{255, 255, 255, 255, 255, 255}

// testTag is one VLAN tag of a frame.
type testTag struct {
	protocol uint16
	vlan     uint16
}

func testFrame(to net.HardwareAddr, tags []testTag, word string) []byte {
	b := append(bytes.Clone(to), 0x52, 0x54, 0, 0, 0, 0x66)
	for _, tag := range tags {
		b = binary.BigEndian.AppendUint16(b, tag.protocol)
		b = binary.BigEndian.AppendUint16(b, tag.vlan)
	}
	b = binary.BigEndian.AppendUint16(b, testProtocol)
	b = append(b, word...)
	return append(b, make([]byte, max(0, 60-len(b)))...)
}

// attacks are what a guest of VLAN 20 sends that it should not.
var attacks = []struct {
	name string
	to   net.HardwareAddr
	tags []testTag
	// plain: a filtering bridge takes it as a frame without a tag (802.1Q
	// section 6.9: a tag of VLAN 0 carries a priority only).
	plain bool
}{
	{"another cluster's VLAN", broadcast, []testTag{{0x8100, 21}}, false},
	{"its own VLAN", broadcast, []testTag{{0x8100, 20}}, false},
	{"a priority", broadcast, []testTag{{0x8100, 5 << 13}}, true},
	{"the bridge's own VLAN", broadcast, []testTag{{0x8100, untaggedVLAN}}, true},
	{"VLAN 4095", broadcast, []testTag{{0x8100, 4095}}, false},
	{"two tags", broadcast, []testTag{{0x8100, 20}, {0x8100, 21}}, false},
	{"two tags, a priority outside", broadcast, []testTag{{0x8100, 0}, {0x8100, 21}}, false},
	{"two tags, the bridge's own outside", broadcast, []testTag{{0x8100, untaggedVLAN}, {0x8100, 21}}, false},
	{"three tags", broadcast, []testTag{{0x8100, untaggedVLAN}, {0x8100, 20}, {0x8100, 21}}, false},
	{"802.1ad", broadcast, []testTag{{0x88a8, 21}}, false},
	{"802.1ad outside", broadcast, []testTag{{0x88a8, 20}, {0x8100, 21}}, false},
	{"802.1ad inside", broadcast, []testTag{{0x8100, untaggedVLAN}, {0x88a8, 21}}, false},
	{"0x9100", broadcast, []testTag{{0x9100, 21}}, false},
	{"0x9200", broadcast, []testTag{{0x9200, 21}}, false},
	{"to bridges, spanning tree", net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0}, nil, false},
	{"to bridges, VLAN registration", net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0x21}, nil, false},
	{"to Cisco's switches", net.HardwareAddr{0x01, 0, 0x0c, 0xcc, 0xcc, 0xcd}, nil, false},
}

// taggedFramesGoNowhere: two hosts, clusters 20 and 21 on both, and a guest of
// 20 on the first that tries to get out.
func taggedFramesGoNowhere(t *testing.T, driver string) {
	wire, h := wired(t, 2, 9000)
	var ds []*Driver
	for i := range h {
		d := driverIn(t, driver, h[i], i+1, nil)
		for _, s := range []hostops.NetworkSpec{specOf(20), specOf(21)} {
			if _, err := d.Ensure(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		ds = append(ds, d)
	}
	// What a careless operator could leave on the host's end of the network.
	if driver == VLAN {
		ip(t, "-n", h[0], "link", "add", "link", hostops.BridgeName(20), "name", "careless", "type", "vlan", "id", "21")
		ip(t, "-n", h[0], "link", "set", "careless", "up")
	}
	evil := wiretapOn(t, guest(t, h[0], 20, "10.0.0.1/24"), "eth0")
	near := wiretapOn(t, guest(t, h[0], 20, "10.0.0.2/24"), "eth0")
	far := wiretapOn(t, guest(t, h[1], 20, "10.0.0.3/24"), "eth0")
	strangers := []*wiretap{
		wiretapOn(t, guest(t, h[0], 21, "10.0.0.1/24"), "eth0"), wiretapOn(t, guest(t, h[1], 21, "10.0.0.2/24"), "eth0"),
	}
	if driver == VLAN {
		strangers = append(strangers, wiretapOn(t, h[0], "careless"))
	}
	cable := wiretapOn(t, wire, "p0")
	filters := ds[0].can.filterWhy == ""
	if ds[0].can.guardWhy != "" {
		t.Fatalf("nothing to test: %s", ds[0].can.guardWhy)
	}
	words := attack(t, evil)
	if !evil.awaits(t, near) || !evil.awaits(t, far) || !strangers[0].awaits(t, strangers[1]) {
		t.Fatal("guests of one cluster do not hear each other")
	}
	for i, a := range attacks {
		for _, s := range strangers {
			if got := s.found(words[i]); len(got) > 0 {
				t.Errorf("%s: reaches another cluster, or the host: %x", a.name, got[0].data)
			}
		}
		for where, w := range map[string]*wiretap{"far guest": far, "underlay": cable} {
			checkHeard(t, a.name, where, w.found(words[i]), a.plain && filters, w == cable && driver == VLAN)
		}
		for _, got := range near.found(words[i]) {
			if filters && (!a.plain || got.tag >= 0) && a.tags != nil && a.tags[0].protocol == 0x8100 && len(a.tags) == 1 {
				t.Errorf("%s: comes to a guest beside it with tag %d", a.name, got.tag)
			}
		}
	}
	withoutGuardsTheyWouldPass(t, ds, h, evil, far, cable)
}

// attack sends everything and returns the words to look for.
func attack(t *testing.T, from *wiretap) (words []string) {
	for _, a := range attacks {
		word := fmt.Sprintf("<attack %d>", serial.Add(1))
		from.send(t, testFrame(a.to, a.tags, word))
		words = append(words, word)
	}
	return words
}

// checkHeard: nothing may be heard, unless as a plain frame; on a trunk that
// has our tag and no other.
func checkHeard(t *testing.T, name, where string, got []heard, plain, trunk bool) {
	t.Helper()
	want := -1
	if trunk {
		want = 20
	}
	for _, h := range got {
		if !plain || h.tag != want || !bytes.Contains(h.data, []byte{testProtocol >> 8, testProtocol & 0xff, '<'}) ||
			bytes.Contains(h.data[14:], []byte{0x81, 0x00, 0, 21}) {
			t.Errorf("%s: comes to the %s with tag %d: %x", name, where, h.tag, h.data)
		}
	}
}

// withoutGuardsTheyWouldPass shows that the test sees what it looks for, that
// List tells, and that Ensure puts the guards back.
func withoutGuardsTheyWouldPass(t *testing.T, ds []*Driver, h []string, evil, far, cable *wiretap) {
	for i := range ds {
		run(t, h[i], "tc qdisc del dev vcnv20 clsact")
	}
	filteringAloneIsNotEnough(t, ds[0], evil, far, cable)
	for i, d := range ds {
		if d.can.filterWhy == "" {
			run(t, h[i], "ip link set vcnb20 type bridge vlan_filtering 0")
		}
		all, err := d.List(t.Context())
		if err != nil || len(all) != 2 || all[0].Healthy || !all[1].Healthy {
			t.Errorf("without guards: %+v, %v", all, err)
		}
	}
	words := attack(t, evil)
	if !evil.awaits(t, far) {
		t.Fatal("guests of one cluster do not hear each other")
	}
	passed := 0
	for i, a := range attacks {
		// The host's own kernel takes a tag of VLAN 0 away, and drops 4095.
		if got := far.found(words[i]); len(got) > 0 {
			passed++
		} else if strings.HasPrefix(a.name, "two tags") || a.name == "802.1ad" || a.name == "0x9100" || a.name == "to Cisco's switches" {
			t.Errorf("%s: does not pass without guards: the test shows nothing", a.name)
		}
	}
	t.Logf("without guards %d of %d pass", passed, len(attacks))
	for _, d := range ds {
		if _, err := d.Ensure(t.Context(), specOf(20)); err != nil {
			t.Fatal(err)
		}
		if all, err := d.List(t.Context()); err != nil || len(all) != 2 || !all[0].Healthy {
			t.Errorf("after Ensure: %+v, %v", all, err)
		}
	}
	words = attack(t, evil)
	if !evil.awaits(t, far) {
		t.Fatal("guests of one cluster do not hear each other")
	}
	for i, a := range attacks {
		checkHeard(t, a.name, "far guest, after repair", far.found(words[i]), a.plain && ds[0].can.filterWhy == "", false)
	}
}

// filteringAloneIsNotEnough is why there are guards: an inner tag gets out of
// the host. (The other host's bridge would drop some of it; a switch would not.)
func filteringAloneIsNotEnough(t *testing.T, d *Driver, evil, far, cable *wiretap) {
	if d.can.filterWhy != "" {
		return
	}
	words := attack(t, evil)
	if !evil.awaits(t, far) {
		t.Fatal("guests of one cluster do not hear each other")
	}
	for i, a := range attacks {
		passed := len(cable.found(words[i])) > 0
		inner := len(a.tags) > 1 && a.tags[0].protocol == 0x8100 && a.tags[0].vlan <= untaggedVLAN
		unknown := len(a.tags) > 0 && a.tags[0].protocol != 0x8100
		if want := a.plain || inner || unknown || a.tags == nil; passed != want {
			t.Errorf("%s: filtering alone lets it out: %v, want %v", a.name, passed, want)
		}
	}
}
