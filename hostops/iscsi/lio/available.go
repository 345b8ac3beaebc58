package lio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// modules are the kernel's target, its kinds of backstores and iSCSI.
var modules = []string{"target_core_mod", "target_core_iblock", "target_core_file", "iscsi_target_mod"}

// Available tells why the kernel's target cannot be used here, or nil. It loads
// the modules and mounts configfs where that is missing.
func Available(ctx context.Context, root string) error {
	if root == "" {
		root = Root
	}
	if os.Geteuid() != 0 {
		return errors.New("LIO: this process is not root's")
	}
	if err := firstNetwork(); err != nil {
		return err
	}
	// Backstores load themselves when they are first used.
	if is, _ := exists(filepath.Join(root, "iscsi", "lio_version")); is {
		return nil
	}
	var failed []string
	for _, m := range modules {
		// Whether it was needed shows below: it may be part of the kernel.
		if out, err := exec.CommandContext(ctx, "modprobe", "-q", m).CombinedOutput(); err != nil {
			failed = append(failed, strings.TrimSpace(fmt.Sprintf("%s: %v %s", m, err, out)))
		}
	}
	if is, _ := exists(root); !is {
		if err := unix.Mount("configfs", filepath.Dir(root), "configfs", 0, ""); err != nil && err != unix.EBUSY {
			failed = append(failed, "mount configfs: "+err.Error())
		}
	}
	if is, _ := exists(root); !is {
		return fmt.Errorf("LIO: %s is absent: %s", root, strings.Join(failed, "; "))
	}
	if err := mkdir(filepath.Join(root, "iscsi")); err != nil {
		return fmt.Errorf("LIO: no iSCSI: %w: %s", err, strings.Join(failed, "; "))
	}
	return nil
}

// firstNetwork: the kernel's target listens in the first network namespace only,
// whoever asks. Its threads have that one.
func firstNetwork() error {
	comm, err := os.ReadFile("/proc/2/comm")
	if err != nil || strings.TrimSpace(string(comm)) != "kthreadd" {
		return errors.New("LIO: this process is in a container")
	}
	kernel, err := os.Readlink("/proc/2/ns/net")
	if err != nil {
		return fmt.Errorf("LIO: %w", err)
	}
	self, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("LIO: %w", err)
	}
	if kernel != self {
		return errors.New("LIO: this process is in a network namespace of its own, where the kernel's target does not listen")
	}
	return nil
}
