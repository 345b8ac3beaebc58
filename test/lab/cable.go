package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	mtuDefault = 1500
	mtuMax     = 65521
	bridgeName = "cable"
	nsInChild  = "/proc/self/fd/3" // ExtraFiles' first
)

// Cable joins machines' cards: a bridge that passes every frame as it is, tagged
// ones too, in a network namespace that has no name and so ends with this process.
type Cable struct {
	mtu int
	ns  *os.File

	mu   sync.Mutex
	taps map[string]bool
}

// NewCable makes a cable whose frames carry up to mtu bytes (0: 1500). It wants root.
func NewCable(ctx context.Context, mtu int) (*Cable, error) {
	if mtu == 0 {
		mtu = mtuDefault
	}
	if mtu < 68 || mtu > mtuMax {
		return nil, fmt.Errorf("make cable: %w: MTU %d: want 68 to %d", ErrConfig, mtu, mtuMax)
	}
	ns, err := newNamespace()
	if err != nil {
		return nil, fmt.Errorf("make cable's namespace: %w", err)
	}
	c := &Cable{mtu: mtu, ns: ns, taps: map[string]bool{}}
	// Nothing but the cards' own frames: no IPv6 of the bridge, no snooping.
	err = c.ip(ctx, "link set lo up",
		"link add "+bridgeName+" type bridge forward_delay 0 mcast_snooping 0 stp_state 0",
		fmt.Sprintf("link set %s mtu %d up addrgenmode none", bridgeName, mtu))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make cable: %w", err), ns.Close())
	}
	return c, nil
}

// newNamespace makes a network namespace; its thread ends with it, unused by others.
func newNamespace() (*os.File, error) {
	type answer struct {
		f   *os.File
		err error
	}
	done := make(chan answer)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is of another namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			if errors.Is(err, unix.EPERM) {
				err = ErrNotRoot
			}
			done <- answer{nil, err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		done <- answer{f, err}
	}()
	a := <-done
	return a.f, a.err
}

// Do calls f on a thread inside the cable's namespace: sockets it opens are there.
func (c *Cable) Do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // see newNamespace
		if err := unix.Setns(int(c.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter cable: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Command prepares a command of the host inside the cable's namespace.
func (c *Cable) Command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + nsInChild, "--"}, argv...)...)
	cmd.ExtraFiles = []*os.File{c.ns}
	return cmd
}

// Dial connects to a machine on the cable; the host needs an Address there.
func (c *Cable) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = c.Do(func() error {
		// One address, and so one thread: no racing goroutines.
		d := net.Dialer{FallbackDelay: -1}
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Address gives the host an address on the cable, "10.1.0.254/24".
func (c *Cable) Address(ctx context.Context, cidr string) error {
	if _, _, err := net.ParseCIDR(cidr); err != nil {
		return fmt.Errorf("give the host an address: %w", err)
	}
	return c.ip(ctx, "addr add "+cidr+" dev "+bridgeName)
}

// Unplug takes card i of a machine off the cable: frames go neither way, while the card
// still has its carrier, as with a switch that lost its way up.
func (c *Cable) Unplug(ctx context.Context, m *Machine, i int) error {
	return c.ip(ctx, "link set "+m.tapName(i)+" nomaster")
}

// Plug undoes Unplug.
func (c *Cable) Plug(ctx context.Context, m *Machine, i int) error {
	return c.ip(ctx, "link set "+m.tapName(i)+" master "+bridgeName)
}

// Close removes the cable. Machines on it must be closed before.
func (c *Cable) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.taps) > 0 {
		return fmt.Errorf("close cable: %d cards are still plugged in", len(c.taps))
	}
	return c.ns.Close()
}

// ip runs lines of ip(8) inside the namespace.
func (c *Cable) ip(ctx context.Context, lines ...string) error {
	cmd := c.Command(ctx, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("set up links: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// tapName is the host's end of card i; unique on a cable, at most 15 characters.
func (m *Machine) tapName(i int) string {
	return "t" + strings.ReplaceAll(m.cfg.NICs[i].MAC, ":", "")
}

// openTap opens the tap of a card, and makes it at the first time. It stays when
// QEMU dies: neighbours hear nothing, and no kernel answers in the machine's place.
func (c *Cable) openTap(name string) (f *os.File, err error) {
	c.mu.Lock()
	known := c.taps[name]
	c.mu.Unlock()
	err = c.Do(func() error {
		f, err = attachTap(name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open tap %s: %w", name, err)
	}
	if known {
		return f, nil
	}
	err = c.ip(context.Background(), fmt.Sprintf("link set %s mtu %d addrgenmode none", name, c.mtu),
		fmt.Sprintf("link set %s master %s up", name, bridgeName))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	c.mu.Lock()
	c.taps[name] = true
	c.mu.Unlock()
	return f, nil
}

// attachTap opens a persistent tap in the thread's namespace (Linux,
// Documentation/networking/tuntap.rst). Without IFF_VNET_HDR neither side hands over
// what is larger than a frame: what is captured is what a wire would carry.
func attachTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "tap "+name), nil
}

// removeTap forgets a card's tap.
func (c *Cable) removeTap(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.taps[name] {
		return nil
	}
	if err := c.ip(context.Background(), "link del "+name); err != nil {
		return err
	}
	delete(c.taps, name)
	return nil
}
