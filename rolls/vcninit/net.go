package main

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"
)

const netLinksMax = 16

// link is one network card's addresses.
type link struct {
	mac     string // lower case, with colons
	addr    netip.Prefix
	gateway netip.Addr // zero for none
}

// parseNet reads lines of MAC CIDR [GATEWAY]. Empty lines and those that start
// with "#" are skipped.
func parseNet(text string) ([]link, error) {
	var links []link
	gateways := 0
	for i, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		l, err := parseLink(f)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		if l.gateway.IsValid() {
			gateways++
		}
		links = append(links, l)
	}
	if len(links) > netLinksMax {
		return nil, fmt.Errorf("%d links, at most %d", len(links), netLinksMax)
	}
	if gateways > 1 {
		return nil, errors.New("more than one gateway")
	}
	return links, nil
}

func parseLink(f []string) (l link, err error) {
	if len(f) > 3 || len(f) < 2 {
		return l, errors.New("want MAC CIDR [GATEWAY]")
	}
	if l.mac, err = parseMAC(f[0]); err != nil {
		return l, err
	}
	if l.addr, err = netip.ParsePrefix(f[1]); err != nil {
		return l, err
	}
	if !l.addr.Addr().Is4() {
		return l, fmt.Errorf("%s: only IPv4 is set here", f[1])
	}
	if len(f) == 3 {
		if l.gateway, err = netip.ParseAddr(f[2]); err != nil {
			return l, err
		}
		if !l.addr.Contains(l.gateway) {
			return l, fmt.Errorf("gateway %s is outside %s", l.gateway, l.addr.Masked())
		}
	}
	return l, nil
}

// parseMAC reads six pairs of hex digits with colons. Package net would do it
// and double the size of the initrd.
func parseMAC(s string) (string, error) {
	parts := strings.Split(s, ":")
	for _, p := range parts {
		if b, err := hex.DecodeString(p); err != nil || len(b) != 1 {
			return "", fmt.Errorf("%q is not a hardware address", s)
		}
	}
	if len(parts) != 6 {
		return "", fmt.Errorf("%q is not a hardware address", s)
	}
	return strings.ToLower(s), nil
}

// netmask is the IPv4 mask of that many bits, 0-32.
func netmask(bits int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(uint64(1)<<32-uint64(1)<<(32-bits)))
	return netip.AddrFrom4(b)
}

// configureNet finds each card by its MAC and gives it its address.
func configureNet(links []link) error {
	sock, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer syscall.Close(sock)
	if err := setUp(sock, "lo"); err != nil {
		return err
	}
	names, err := cardsByMAC()
	if err != nil {
		return err
	}
	for _, l := range links {
		name, ok := names[l.mac]
		if !ok {
			return fmt.Errorf("no network card with the address %s", l.mac)
		}
		if err := setAddress(sock, name, l.addr); err != nil {
			return err
		}
		if err := setUp(sock, name); err != nil {
			return err
		}
		if l.gateway.IsValid() {
			if err := addDefaultRoute(sock, l.gateway); err != nil {
				return err
			}
		}
	}
	return nil
}

func cardsByMAC() (map[string]string, error) {
	files, err := filepath.Glob("/sys/class/net/*/address")
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		names[strings.TrimSpace(string(b))] = filepath.Base(filepath.Dir(f))
	}
	return names, nil
}

// ifreq is struct ifreq of netdevice(7): a name, then 24 bytes of union.
type ifreq struct {
	name [syscall.IFNAMSIZ]byte
	data [24]byte
}

func newIfreq(name string) (r ifreq) {
	copy(r.name[:len(r.name)-1], name)
	return r
}

// putAddr writes a struct sockaddr_in.
func putAddr(b []byte, a netip.Addr) {
	*(*uint16)(unsafe.Pointer(&b[0])) = syscall.AF_INET
	ip := a.As4()
	copy(b[4:8], ip[:])
}

func ioctl(sock int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(sock), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

func setUp(sock int, name string) error {
	r := newIfreq(name)
	if err := ioctl(sock, syscall.SIOCGIFFLAGS, unsafe.Pointer(&r)); err != nil {
		return fmt.Errorf("read flags of %s: %w", name, err)
	}
	*(*uint16)(unsafe.Pointer(&r.data[0])) |= syscall.IFF_UP
	if err := ioctl(sock, syscall.SIOCSIFFLAGS, unsafe.Pointer(&r)); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

func setAddress(sock int, name string, p netip.Prefix) error {
	r := newIfreq(name)
	putAddr(r.data[:], p.Addr())
	if err := ioctl(sock, syscall.SIOCSIFADDR, unsafe.Pointer(&r)); err != nil {
		return fmt.Errorf("set address of %s: %w", name, err)
	}
	r = newIfreq(name)
	putAddr(r.data[:], netmask(p.Bits()))
	if err := ioctl(sock, syscall.SIOCSIFNETMASK, unsafe.Pointer(&r)); err != nil {
		return fmt.Errorf("set mask of %s: %w", name, err)
	}
	return nil
}

// rtentry is struct rtentry of <net/route.h> on 64-bit Linux.
type rtentry struct {
	_                      uint64
	dst, gateway, mask     [16]byte
	flags                  uint16
	_                      int16
	_                      [4]byte
	_, _                   uint64
	metric                 int16
	_                      [6]byte
	dev                    uintptr
	mtu, window            uint64
	initialRoundTripMillis uint16
	_                      [6]byte
}

func addDefaultRoute(sock int, gateway netip.Addr) error {
	var r rtentry
	putAddr(r.dst[:], netip.IPv4Unspecified())
	putAddr(r.mask[:], netip.IPv4Unspecified())
	putAddr(r.gateway[:], gateway)
	r.flags = syscall.RTF_UP | syscall.RTF_GATEWAY
	if err := ioctl(sock, syscall.SIOCADDRT, unsafe.Pointer(&r)); err != nil && err != syscall.EEXIST {
		return fmt.Errorf("add route through %s: %w", gateway, err)
	}
	return nil
}
