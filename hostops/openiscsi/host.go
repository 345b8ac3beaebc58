package openiscsi

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"vcn/hostops"
	"vcn/internal/durable"
)

const ruleName = "55-vcn-initiator.rules"

// LVMFilter is what an operator puts into the devices section of lvm.conf on a
// host whose LVM does not use a devices file, so that LVM's commands never read
// a guest's disk.
var LVMFilter = `global_filter = [ "r|/dev/disk/by-path/ip-.*-iscsi-` + hostops.TargetIQN("") + `.*|" ]`

// udevRule comes before the rules that probe and name disks (60-), that
// activate volume groups (69-) and that tell systemd (99-), and skips them for
// disks of ours. What it does itself: the link by path, and its own mark.
func udevRule() string {
	return `# made by vcn: a guest's disk is the guest's; this host does not look into it
SUBSYSTEM!="block", GOTO="vcn_end"
ACTION=="remove", GOTO="vcn_end"
SUBSYSTEMS=="scsi", DRIVERS=="sd", IMPORT{builtin}="path_id"
ENV{ID_PATH}!="ip-*-iscsi-` + hostops.TargetIQN("") + `*", GOTO="vcn_end"
ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}="1"
ENV{DM_MULTIPATH_DEVICE_PATH}="0"
ENV{SYSTEMD_READY}="0"
ENV{UDISKS_IGNORE}="1"
ENV{DEVTYPE}=="disk", SYMLINK+="disk/by-path/$env{ID_PATH}"
OPTIONS+="nowatch"
LABEL="vcn_end"
`
}

// installRule writes the rule for as long as this host is up; records are
// manual, so no session of ours is there before vcnd is.
func (d *Driver) installRule(ctx context.Context) error {
	path := filepath.Join(d.paths.rules, ruleName)
	if b, err := os.ReadFile(path); err == nil && string(b) == udevRule() {
		return nil
	}
	if err := os.MkdirAll(d.paths.rules, 0o755); err != nil {
		return fmt.Errorf("write udev rule: %w", err)
	}
	if err := durable.WriteFile(path, []byte(udevRule()), 0o644); err != nil {
		return fmt.Errorf("write udev rule: %w", err)
	}
	if err := d.run(ctx, "udevadm", "control", "--reload"); err != nil {
		return fmt.Errorf("tell udev of its new rule: %w", err)
	}
	return nil
}

// checkLVM warns if this host's LVM would read guests' disks: neither a devices
// file nor a filter that names them.
func (d *Driver) checkLVM(ctx context.Context) {
	tool, err := exec.LookPath("lvmconfig")
	if err != nil {
		return // no LVM here
	}
	out, err := exec.CommandContext(ctx, tool, "--typeconfig", "full", "devices/use_devicesfile", "devices/devicesfile", "devices/global_filter", "devices/filter").Output()
	listed := func(name string) bool {
		_, err := os.Stat(filepath.Join(lvmDevices, name))
		return err == nil
	}
	if text := string(out); !lvmKeepsOff(text, listed) {
		d.log.Warn("this host's LVM reads guests' disks that are attached here: set a devices file or, in lvm.conf, a filter",
			"devices", LVMFilter, "lvmconfig", strings.Join(strings.Fields(text), " "), "err", err)
	}
}

// lvmDevices is where LVM's devices files are (lvmdevices(8)).
const lvmDevices = "/etc/lvm/devices"

// lvmKeepsOff reads what lvmconfig says of the devices section. A devices file
// that is not there lists everything.
func lvmKeepsOff(config string, exists func(name string) bool) bool {
	set := map[string]string{}
	for line := range strings.Lines(config) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		set[name] = value
	}
	if set["use_devicesfile"] == "1" && exists(strings.Trim(set["devicesfile"], `"`)) {
		return true
	}
	for _, name := range []string{"global_filter", "filter"} {
		v := set[name]
		if strings.Contains(v, "-iscsi-") && strings.Contains(v, `"r|`) || strings.Contains(v, `"r|.*|`) {
			return true
		}
	}
	return false
}
