package netlink

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	nl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	socketTimeout = 10 * time.Second
	// dumpAttempts bounds repeating a dump that changed while it was read.
	dumpAttempts = 10
)

// inNetns runs do in the network namespace of that path, with a netlink handle
// there. Everything that do touches, /proc/sys/net too, is then that
// namespace's. It may take a thread of its own.
func inNetns(path string, do func(*nl.Handle) error) error {
	if path == "" {
		return withHandle(do)
	}
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread has changed and ends with the goroutine.
		runtime.LockOSThread()
		result <- func() error {
			ns, err := netns.GetFromPath(path)
			if err != nil {
				return fmt.Errorf("open network namespace %s: %w", path, err)
			}
			defer ns.Close()
			if err := netns.Set(ns); err != nil {
				return fmt.Errorf("enter network namespace %s: %w", path, err)
			}
			return withHandle(do)
		}()
	}()
	return <-result
}

// inNewNetns runs do in a network namespace of its own, which goes away
// afterwards, with everything that was made in it.
func inNewNetns(do func(*nl.Handle) error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, as above
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("make network namespace: %w", err)
			return
		}
		result <- withHandle(do)
	}()
	return <-result
}

func withHandle(do func(*nl.Handle) error) error {
	h, err := nl.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	if err := h.SetSocketTimeout(socketTimeout); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	return do(h)
}

// dump repeats a read that the kernel says was inconsistent; a partial answer
// is never passed on.
func dump[T any](read func() (T, error)) (T, error) {
	for try := 0; ; try++ {
		v, err := read()
		if err == nil {
			return v, nil
		}
		if !errors.Is(err, nl.ErrDumpInterrupted) || try == dumpAttempts {
			var none T
			return none, err
		}
	}
}

// link reads one link; nil without an error means that it is absent.
func link(h *nl.Handle, name string) (nl.Link, error) {
	l, err := dump(func() (nl.Link, error) { return h.LinkByName(name) })
	var absent nl.LinkNotFoundError
	if errors.As(err, &absent) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read link %s: %w", name, err)
	}
	return l, nil
}

// sysctl sets one value under /proc/sys/net, if it differs. A key that the
// kernel does not have is success: then there is nothing to switch off.
func sysctl(key, value string) error {
	path := "/proc/sys/net/" + key
	have, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err == nil && strings.TrimSpace(string(have)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set net/%s: %w", key, err)
	}
	return nil
}
