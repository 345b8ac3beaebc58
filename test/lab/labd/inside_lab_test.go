//go:build lab

package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestLabKernelHasWhatDriversNeed runs inside a lab machine.
func TestLabKernelHasWhatDriversNeed(t *testing.T) {
	for _, mod := range strings.Fields(`8021q bridge veth tun dm_mod dm_thin_pool dm_snapshot iscsi_tcp target_core_mod target_core_iblock
		target_core_file iscsi_target_mod loop nfsd vxlan overlay virtio_blk virtio_net virtio_scsi virtio_console nbd xfs`) {
		if out, err := exec.Command("modprobe", mod).CombinedOutput(); err != nil {
			t.Errorf("load module %s: %v: %s", mod, err, out)
		}
	}
}
