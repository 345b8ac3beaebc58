//go:build rooted || lab

package netlink

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	nl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"vcn/hostops"
)

var serial atomic.Int64

func ip(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// run runs one command line in a namespace. A word may be empty at the end.
func run(t testing.TB, ns, line string) {
	t.Helper()
	args := append([]string{"netns", "exec", ns}, strings.Split(line, " ")...)
	if args[3] == "ip" { // saves a process
		args = append([]string{"-n", ns}, args[4:]...)
	}
	ip(t, args...)
}

// batch runs lines of the ip command in a namespace, in one process.
func batch(t testing.TB, ns string, lines ...string) {
	t.Helper()
	cmd := exec.Command("ip", "-n", ns, "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip in %s: %q: %v: %s", ns, lines, err, out)
	}
}

// newNetns makes a throw-away namespace.
func newNetns(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("vcnnl-%d-%d", unix.Getpid(), serial.Add(1))
	ip(t, "netns", "add", name)
	t.Cleanup(func() { ip(t, "netns", "del", name) })
	return name
}

// hosts are namespaces joined by an underlay of that MTU: 192.0.2.1, .2, …
func hosts(t testing.TB, n, mtu int) []string {
	t.Helper()
	_, names := wired(t, n, mtu)
	return names
}

// wired is hosts with the namespace of the switch between them, whose ports
// are p0, p1, …
func wired(t testing.TB, n, mtu int) (wire string, names []string) {
	t.Helper()
	wire = newNetns(t)
	lines := []string{fmt.Sprintf("link add sw mtu %d type bridge", mtu), "link set sw up"}
	for i := range n {
		names = append(names, newNetns(t))
		lines = append(lines,
			fmt.Sprintf("link add p%d mtu %d type veth peer name eth0 mtu %d netns %s", i, mtu, mtu, names[i]),
			fmt.Sprintf("link set p%d master sw up", i))
	}
	batch(t, wire, lines...)
	for i, h := range names {
		batch(t, h, "link set lo up", fmt.Sprintf("addr add 192.0.2.%d/24 dev eth0", i+1), "link set eth0 up")
	}
	return wire, names
}

func driverIn(t testing.TB, driver, ns string, host int, change func(*Config)) *Driver {
	t.Helper()
	c := Config{Driver: driver, Cluster: "c-1", Local: netip.AddrFrom4([4]byte{192, 0, 2, byte(host)}), VNIBase: 0x760000, Netns: "/run/netns/" + ns}
	if change != nil {
		change(&c)
	}
	d, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func in(t testing.TB, ns string, do func(h *nl.Handle)) {
	t.Helper()
	if err := inNetns("/run/netns/"+ns, func(h *nl.Handle) error { do(h); return nil }); err != nil {
		t.Fatal(err)
	}
}

// guest is a namespace with a NIC on a bridge.
func guest(t testing.TB, host string, vlan int, addr string) string {
	t.Helper()
	g := newNetns(t)
	tap := fmt.Sprintf("vcntx%d", serial.Add(1))
	batch(t, host, "link add "+tap+" type veth peer name eth0 netns "+g, "link set "+tap+" master "+hostops.BridgeName(vlan)+" up")
	batch(t, g, "link set lo up", "addr add "+addr+" dev eth0", "link set eth0 up")
	return g
}

// listen opens a UDP socket in a namespace; it hears broadcasts too.
func listen(t testing.TB, ns string) *net.UDPConn {
	t.Helper()
	type answer struct {
		c   *net.UDPConn
		err error
	}
	ch := make(chan answer)
	go func() {
		runtime.LockOSThread() // ends with its thread
		h, err := netns.GetFromName(ns)
		if err == nil {
			defer h.Close()
			err = netns.Set(h)
		}
		var c *net.UDPConn
		if err == nil {
			c, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 7000})
		}
		if err == nil {
			raw, _ := c.SyscallConn()
			raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1) })
		}
		ch <- answer{c, err}
	}()
	a := <-ch
	if a.err != nil {
		t.Fatal(a.err)
	}
	t.Cleanup(func() { a.c.Close() })
	return a.c
}

// hears repeats a datagram until it arrives, or is sure that it does not.
func hears(t testing.TB, from, to *net.UDPConn, addr string, tries int) bool {
	t.Helper()
	word := fmt.Sprintf("word %d", serial.Add(1))
	buf := make([]byte, 100)
	for range tries {
		// Sending may fail: no answer to ARP is a failure that is wanted.
		from.WriteToUDP([]byte(word), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		to.SetReadDeadline(time.Now().Add(150 * time.Millisecond))
		for {
			n, _, err := to.ReadFromUDP(buf)
			if err != nil {
				break
			}
			if string(buf[:n]) == word {
				return true
			}
		}
	}
	return false
}
