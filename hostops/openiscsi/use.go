package openiscsi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// users says who uses a block device or one of its partitions, or nothing. It
// never opens the device: that can hang while the target is away. With lost,
// processes that were killed do not count: they wait in the kernel for I/O that
// only the end of the session ends.
func users(p paths, block string, lost bool) (string, error) {
	dir := filepath.Join(p.sys, "class", "block", block)
	devs, err := blockDevices(dir)
	if err != nil {
		return "", err
	}
	for _, d := range devs {
		holders, err := os.ReadDir(filepath.Join(d.dir, "holders"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("read holders of %s: %w", d.name, err)
		}
		if len(holders) > 0 {
			return d.name + " is held by " + holders[0].Name(), nil
		}
	}
	if who, err := mounts(p, devs); who != "" || err != nil {
		return who, err
	}
	return openers(p, devs, lost)
}

type device struct {
	name, dir    string
	major, minor uint32
}

// blockDevices are the disk and its partitions.
func blockDevices(dir string) ([]device, error) {
	parts, err := filepath.Glob(filepath.Join(dir, "*", "partition"))
	if err != nil {
		return nil, fmt.Errorf("read partitions: %w", err)
	}
	dirs := []string{dir}
	for _, p := range parts {
		dirs = append(dirs, filepath.Dir(p))
	}
	var out []device
	for _, d := range dirs {
		v, err := attr(d, "dev")
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went away meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read device number: %w", err)
		}
		major, minor, _ := strings.Cut(v, ":")
		ma, err1 := strconv.ParseUint(major, 10, 32)
		mi, err2 := strconv.ParseUint(minor, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("read device number: %w", err)
		}
		out = append(out, device{name: filepath.Base(d), dir: d, major: uint32(ma), minor: uint32(mi)})
	}
	return out, nil
}

// mounts looks through the mounts of this mount namespace and the swap areas.
func mounts(p paths, devs []device) (string, error) {
	b, err := os.ReadFile(filepath.Join(p.proc, "self", "mountinfo"))
	if err != nil {
		return "", fmt.Errorf("read mounts: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		for _, d := range devs {
			if len(f) > 4 && f[2] == fmt.Sprintf("%d:%d", d.major, d.minor) {
				return d.name + " is mounted on " + f[4], nil
			}
		}
	}
	b, err = os.ReadFile(filepath.Join(p.proc, "swaps"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read swap areas: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		for _, d := range devs {
			if name, _, _ := strings.Cut(line, " "); name == filepath.Join("/dev", d.name) {
				return d.name + " is swap", nil
			}
		}
	}
	return "", nil
}

// openers looks through every process's open files. Processes and files come
// and go meanwhile, which is no error; it is no lock, only a look.
func openers(p paths, devs []device, lost bool) (string, error) {
	pids, err := os.ReadDir(p.proc)
	if err != nil {
		return "", fmt.Errorf("read processes: %w", err)
	}
	for _, pid := range pids {
		if _, err := strconv.Atoi(pid.Name()); err != nil {
			continue
		}
		if udev(p, pid.Name()) {
			continue
		}
		dir := filepath.Join(p.proc, pid.Name(), "fd")
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended
		}
		for _, fd := range fds {
			path := filepath.Join(dir, fd.Name())
			// Only device nodes are looked at closer: to look at a file of a file
			// system that hangs would hang as well.
			if to, err := os.Readlink(path); err != nil || !strings.HasPrefix(to, "/dev/") {
				continue
			}
			var st syscall.Stat_t
			if syscall.Stat(path, &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFBLK {
				continue
			}
			for _, d := range devs {
				if st.Rdev == makedev(d.major, d.minor) && !(lost && killed(p, pid.Name())) {
					return fmt.Sprintf("%s is open in process %s%s", d.name, pid.Name(), command(p, pid.Name())), nil
				}
			}
		}
	}
	return "", nil
}

// udev says whether a process is one of udev's: it looks at every disk for a
// moment, and may wait in one whose target is away. It is no user.
func udev(p paths, pid string) bool {
	b, err := os.ReadFile(filepath.Join(p.proc, pid, "comm"))
	name := strings.TrimSpace(string(b))
	return err == nil && (name == "systemd-udevd" || name == "(udev-worker)")
}

// killed says whether a process has SIGKILL pending, or ends already
// (proc(5): SigPnd and ShdPnd are masks, bit n-1 for signal n).
func killed(p paths, pid string) bool {
	b, err := os.ReadFile(filepath.Join(p.proc, pid, "status"))
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "State":
			if strings.HasPrefix(value, "Z") || strings.HasPrefix(value, "X") {
				return true
			}
		case "SigPnd", "ShdPnd":
			if mask, err := strconv.ParseUint(value, 16, 64); err == nil && mask&(1<<(syscall.SIGKILL-1)) != 0 {
				return true
			}
		}
	}
	return false
}

func command(p paths, pid string) string {
	b, err := os.ReadFile(filepath.Join(p.proc, pid, "comm"))
	if err != nil {
		return ""
	}
	return " (" + strings.TrimSpace(string(b)) + ")"
}

// makedev is the number of a device as stat returns it (linux/kdev_t.h,
// new_encode_dev, widened by glibc's makedev).
func makedev(major, minor uint32) uint64 {
	return uint64(major&0xfff)<<8 | uint64(major&^0xfff)<<32 | uint64(minor&0xff) | uint64(minor&^0xff)<<12
}
