package facts

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"vcn/hostops"
)

const (
	// KVM and TCG are the two ways to run guests.
	KVM = "kvm"
	TCG = "tcg"

	qemuVersionTimeout = 5 * time.Second
)

// Config says where to read. The zero value reads this machine.
type Config struct {
	// Accel is auto (default), kvm or tcg.
	Accel string
	// QEMU is the emulator's program; empty means qemu-system-x86_64.
	QEMU string
	// Proc and KVMDevice stand in for /proc and /dev/kvm in tests.
	Proc      string
	KVMDevice string
}

func (c *Config) defaults() {
	if c.Accel == "" {
		c.Accel = "auto"
	}
	if c.QEMU == "" {
		c.QEMU = "qemu-system-x86_64"
	}
	if c.Proc == "" {
		c.Proc = "/proc"
	}
	if c.KVMDevice == "" {
		c.KVMDevice = "/dev/kvm"
	}
}

// Read measures what this host can offer. CPUs are those this process may run
// on; memory is the kernel's MemTotal.
func Read(ctx context.Context, c Config) (hostops.Facts, error) {
	c.defaults()
	accel, why, err := Accel(c)
	if err != nil {
		return hostops.Facts{}, err
	}
	memory, err := memoryBytes(c.Proc + "/meminfo")
	if err != nil {
		return hostops.Facts{}, err
	}
	kernel, err := os.ReadFile(c.Proc + "/sys/kernel/osrelease")
	if err != nil {
		return hostops.Facts{}, fmt.Errorf("read kernel release: %w", err)
	}
	qemu, err := qemuVersion(ctx, c.QEMU)
	if err != nil {
		return hostops.Facts{}, err
	}
	return hostops.Facts{
		CPUs:        runtime.NumCPU(),
		MemoryBytes: memory,
		Accel:       accel,
		AccelWhy:    why,
		Kernel:      strings.TrimSpace(string(kernel)),
		QEMU:        qemu,
	}, nil
}

// Accel decides between KVM and TCG and says why. A device node alone proves
// nothing: without the processor's flags, guests under it can hang.
func Accel(c Config) (accel, why string, err error) {
	c.defaults()
	switch c.Accel {
	case TCG:
		return TCG, "set in the configuration", nil
	case KVM:
		return KVM, "set in the configuration", nil
	case "auto":
	default:
		return "", "", fmt.Errorf("choose accelerator: %q is not auto, kvm or tcg", c.Accel)
	}
	flag, err := virtFlag(c.Proc + "/cpuinfo")
	if err != nil {
		return "", "", err
	}
	if flag == "" {
		return TCG, "the processor shows neither vmx nor svm", nil
	}
	f, err := os.OpenFile(c.KVMDevice, os.O_RDWR, 0)
	if err != nil {
		return TCG, fmt.Sprintf("the processor has %s, but %v", flag, err), nil
	}
	f.Close()
	return KVM, fmt.Sprintf("the processor has %s and %s opens", flag, c.KVMDevice), nil
}

func virtFlag(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read processor flags: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, ok := strings.Cut(lines.Text(), ":")
		if !ok || strings.TrimSpace(key) != "flags" {
			continue
		}
		for _, f := range strings.Fields(value) {
			if f == "vmx" || f == "svm" {
				return f, nil
			}
		}
	}
	return "", lines.Err()
}

func memoryBytes(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read memory size: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "MemTotal:" && f[2] == "kB" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read memory size: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("read memory size: no MemTotal in %s", path)
}

// qemuVersion asks the emulator; "QEMU emulator version 7.2.22 (Debian …)"
// becomes "7.2.22".
func qemuVersion(ctx context.Context, program string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, qemuVersionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask the version of %s: %w", program, err)
	}
	_, rest, ok := strings.Cut(string(out), "version ")
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		return "", fmt.Errorf("ask the version of %s: %w", program, errors.New("answer not understood"))
	}
	return fields[0], nil
}
