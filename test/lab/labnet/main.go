package main

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"vcn/hostops"
	"vcn/hostops/netlink"
)

const (
	sendEvery = 200 * time.Millisecond
	healthy   = 30 * time.Second
	poll      = 5 * time.Millisecond
	hearMax   = 2 * time.Minute
	vlanMask  = 0x0fff
)

var words = regexp.MustCompile(`<[a-z0-9 .,-]+>`)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "labnet:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) >= 4 && args[0] == "ensure":
		return ensure(ctx, args[1], args[2], args[3:])
	case len(args) >= 4 && args[0] == "send":
		return send(args[1], args[2], args[3:])
	case len(args) == 2 && args[0] == "hear":
		return hear(args[1])
	}
	return errors.New("usage: labnet ensure UNDERLAY ADDRESS VLAN... | send LINK TIMES FRAME... | hear LINK")
}

// ensure lets the driver choose, as a host with nothing in its configuration does.
func ensure(ctx context.Context, underlay, address string, vlans []string) error {
	local, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	d, err := netlink.New(netlink.Config{Cluster: "c-lab", Underlay: underlay, Local: local})
	if err != nil {
		return err
	}
	name, why := d.Driver()
	fmt.Printf("driver %s: %s\n", name, why)
	for _, v := range vlans {
		vlan, err := strconv.Atoi(v)
		if err != nil {
			return err
		}
		began := time.Now()
		bridge, err := d.Ensure(ctx, hostops.NetworkSpec{Reservation: "r-" + v, VLAN: vlan})
		if err != nil {
			return err
		}
		made := time.Since(began)
		if err := awaitHealthy(ctx, d, vlan); err != nil {
			return err
		}
		fmt.Printf("%s made in %v, healthy after %v\n", bridge, made.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	}
	return nil
}

func awaitHealthy(ctx context.Context, d *netlink.Driver, vlan int) error {
	for end := time.Now().Add(healthy); ; time.Sleep(poll) {
		all, err := d.List(ctx)
		if err != nil {
			return err
		}
		detail := "not listed"
		for _, n := range all {
			if n.VLAN == vlan {
				detail = n.Detail
			}
		}
		if detail == "" {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("network %d: %s", vlan, detail)
		}
	}
}

// open makes a raw socket on a link; protocol 0 hears nothing.
func open(link string, protocol uint16) (fd, index int, err error) {
	l, err := net.InterfaceByName(link)
	if err != nil {
		return 0, 0, err
	}
	wire := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol))
	if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(wire)); err != nil {
		return 0, 0, err
	}
	return fd, l.Index, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: wire, Ifindex: l.Index})
}

func send(link, times string, frames []string) error {
	n, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	fd, index, err := open(link, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for i := range n {
		if i > 0 {
			time.Sleep(sendEvery)
		}
		for _, f := range frames {
			b, err := hex.DecodeString(f)
			if err != nil {
				return err
			}
			if err := unix.Sendto(fd, b, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6}); err != nil {
				return fmt.Errorf("send: %w", err)
			}
		}
	}
	return nil
}

// hear prints each new word of frames that come in, whoever they are for, and
// the VLAN before it if the frame has a tag.
func hear(link string) error {
	fd, index, err := open(link, unix.ETH_P_ALL)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	everything := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &everything); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		return err
	}
	wait := unix.NsecToTimeval(sendEvery.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return err
	}
	fmt.Println("listening")
	seen, buf, control := map[string]bool{}, make([]byte, 10000), make([]byte, 256)
	for end := time.Now().Add(hearMax); time.Now().Before(end); {
		n, cn, _, from, err := unix.Recvmsg(fd, buf, control, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return err
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); !ok || ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		word := words.Find(buf[:n])
		line := tagIn(control[:cn]) + string(word)
		if word == nil || seen[line] {
			continue
		}
		seen[line] = true
		fmt.Println(line)
		if line == "<end>" {
			return nil
		}
	}
	return errors.New("the end was not heard")
}

// tagIn says with which VLAN a frame came in: the kernel takes the outer tag out
// of the frame (packet(7), PACKET_AUXDATA).
func tagIn(control []byte) string {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return "unknown "
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < int(unsafe.Sizeof(unix.TpacketAuxdata{})) {
			continue
		}
		aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
		if aux.Status&unix.TP_STATUS_VLAN_VALID != 0 {
			return fmt.Sprintf("VLAN %d ", aux.Vlan_tci&vlanMask)
		}
	}
	return ""
}
