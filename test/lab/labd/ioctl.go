package main

import (
	"encoding/binary"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ifreq is struct ifreq (netdevice(7)): a name and a union.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data [24]byte
}

func request(name string) *ifreq {
	var r ifreq
	copy(r.name[:unix.IFNAMSIZ-1], name)
	return &r
}

func (r *ifreq) do(call uintptr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), call, uintptr(unsafe.Pointer(r))); errno != 0 {
		return errno
	}
	return nil
}

func renameLink(from, to string) error {
	r := request(from)
	copy(r.data[:unix.IFNAMSIZ-1], to)
	return r.do(unix.SIOCSIFNAME)
}

// setIP puts a struct sockaddr_in into the union.
func (r *ifreq) setIP(ip []byte) {
	binary.NativeEndian.PutUint16(r.data[:], unix.AF_INET)
	copy(r.data[4:8], ip)
}

// addressLink sets a link's address and takes it up.
func addressLink(name string, ip net.IP, mask net.IPMask) error {
	r := request(name)
	r.setIP(ip)
	if err := r.do(unix.SIOCSIFADDR); err != nil {
		return err
	}
	r = request(name)
	r.setIP(mask)
	if err := r.do(unix.SIOCSIFNETMASK); err != nil {
		return err
	}
	for _, l := range []string{"lo", name} {
		r = request(l)
		if err := r.do(unix.SIOCGIFFLAGS); err != nil {
			return err
		}
		flags := binary.NativeEndian.Uint16(r.data[:])
		binary.NativeEndian.PutUint16(r.data[:], flags|unix.IFF_UP)
		if err := r.do(unix.SIOCSIFFLAGS); err != nil {
			return err
		}
	}
	return nil
}
