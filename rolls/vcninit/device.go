package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// sysFinitModule is finit_module(2) on amd64 and arm64's own number is not
// used: images are built for amd64.
const sysFinitModule = 313

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	params := []byte{0}
	_, _, errno := syscall.Syscall(sysFinitModule, f.Fd(), uintptr(unsafe.Pointer(&params[0])), 0)
	if errno != 0 && errno != syscall.EEXIST {
		return errno
	}
	return nil
}

func waitFor(path string, max time.Duration) error {
	for end := time.Now().Add(max); ; time.Sleep(devicePollEvery) {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("no %s after %v", path, max)
		}
	}
}

var errNoSeed = errors.New("no CD-ROM with the label " + seedLabel)

// readSeed finds the CD-ROM with our label and reads the tar on it.
func readSeed(max time.Duration) ([]byte, error) {
	var last error
	for end := time.Now().Add(max); ; time.Sleep(devicePollEvery) {
		devs, _ := filepath.Glob("/dev/sr*")
		sort.Strings(devs)
		for _, dev := range devs {
			label, err := volumeLabel(dev)
			if err != nil {
				last = err
				continue
			}
			if label == seedLabel {
				return readFromISO(dev)
			}
		}
		if time.Now().After(end) {
			if last != nil {
				return nil, fmt.Errorf("%w: %w", errNoSeed, last)
			}
			return nil, errNoSeed
		}
	}
}

func volumeLabel(dev string) (string, error) {
	f, err := os.Open(dev)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return parseVolumeLabel(f)
}

// parseVolumeLabel reads the volume identifier of the primary volume
// descriptor (ECMA-119, 8.4: sector 16, bytes 40-71).
func parseVolumeLabel(r io.ReaderAt) (string, error) {
	sector := make([]byte, 2048)
	if _, err := r.ReadAt(sector, 16*2048); err != nil {
		return "", fmt.Errorf("read volume descriptor: %w", err)
	}
	if sector[0] != 1 || string(sector[1:6]) != "CD001" {
		return "", errors.New("no ISO 9660 volume descriptor")
	}
	return strings.TrimRight(string(sector[40:72]), " \x00"), nil
}

func readFromISO(dev string) ([]byte, error) {
	const dir = "/iso"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := syscall.Mount(dev, dir, "iso9660", syscall.MS_RDONLY, ""); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dev, err)
	}
	defer func() { _ = syscall.Unmount(dir, 0) }()
	b, err := readLimited(filepath.Join(dir, seedFile), seedBytesMax)
	if err != nil {
		return nil, err
	}
	sum, err := readLimited(filepath.Join(dir, seedSumFile), 4096)
	if err != nil {
		return nil, err
	}
	return b, checkSum(b, string(sum))
}

func readLimited(name string, max int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, max)
	}
	return b, nil
}

// checkSum compares the tar with the hex digest that stands beside it: a disc
// that was cut short must not become half an identity.
func checkSum(b []byte, want string) error {
	got := sha256.Sum256(b)
	if hex.EncodeToString(got[:]) != strings.TrimSpace(want) {
		return fmt.Errorf("%s does not have the digest in %s", seedFile, seedSumFile)
	}
	return nil
}
