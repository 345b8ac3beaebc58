package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	rootDevice   = "/dev/vda"
	newRoot      = "/newroot"
	moduleList   = "/modules"
	systemd      = "/lib/systemd/systemd"
	deviceWait   = 20 * time.Second
	devicePoll   = 5 * time.Millisecond
	controlLink  = "lab0"
	searchPath   = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	unitDir      = "/run/systemd/system"
	unitName     = "labd.service"
	unitWantedBy = "multi-user.target"
)

// agentUnit starts the agent once the machine has its file systems and D-Bus's
// socket, and udevd has made all device nodes and names (so a machine that answers
// has /dev/disk/by-id, and LVM was told of its disks). Stopping it leaves what
// commands put into the background.
const agentUnit = `[Unit]
Description=agent of the lab
After=basic.target systemd-udevd.service
[Service]
ExecStartPre=-udevadm settle --timeout=60
ExecStart=` + agentPath + ` agent
KillMode=process
Delegate=yes
Restart=always
OOMScoreAdjust=-1000
TasksMax=infinity
LimitNOFILE=1048576
LimitMEMLOCK=infinity
`

// say writes one line to the kernel log, loud enough for a quiet console.
func say(format string, args ...any) {
	line := fmt.Sprintf("<2>labd: "+format, args...)
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		defer f.Close()
		_, _ = f.WriteString(line)
		return
	}
	fmt.Fprintln(os.Stderr, line)
}

func powerOff() {
	syscall.Sync()
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// boot turns the initrd into the machine; it returns only with an error.
func boot() error {
	for _, m := range []struct{ src, dir, typ string }{
		{"dev", "/dev", "devtmpfs"}, {"proc", "/proc", "proc"}, {"sys", "/sys", "sysfs"},
	} {
		if err := syscall.Mount(m.src, m.dir, m.typ, 0, ""); err != nil && err != syscall.EBUSY {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	conf, err := readConfig(configPath)
	if err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := links(conf); err != nil {
		return err
	}
	if err := waitFor(rootDevice); err != nil {
		return err
	}
	if err := syscall.Mount(rootDevice, newRoot, "ext4", syscall.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount root %s: %w", rootDevice, err)
	}
	if err := furnish(conf); err != nil {
		return err
	}
	return handOver()
}

// loadModules loads the initrd's modules in the order of the list, which was made
// of modules.dep. What is really missing shows at its device.
func loadModules() error {
	b, err := os.ReadFile(moduleList)
	if err != nil {
		return fmt.Errorf("read module list: %w", err)
	}
	for _, name := range strings.Fields(string(b)) {
		if err := loadModule(name); err != nil {
			say("load %s: %v", filepath.Base(name), err)
		}
	}
	return nil
}

func loadModule(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}

func waitFor(path string) error {
	for deadline := time.Now().Add(deviceWait); ; time.Sleep(devicePoll) {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s did not appear within %v", path, deviceWait)
		}
	}
}

// links names the cards by their addresses and gives the control card its own.
// Names of the kernel's choosing are moved away first.
func links(c Config) error {
	all, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	want := map[string]string{c.MAC: controlLink}
	for i, mac := range c.Cards {
		want[mac] = fmt.Sprintf("eth%d", i)
	}
	for pass := range 2 {
		for i, l := range all {
			name, ok := want[l.HardwareAddr.String()]
			if !ok {
				continue
			}
			from, to := l.Name, fmt.Sprintf("tmp%d", i)
			if pass == 1 {
				from, to = to, name
			}
			if err := renameLink(from, to); err != nil {
				return fmt.Errorf("rename link %s to %s: %w", from, to, err)
			}
		}
	}
	ip, mask, err := net.ParseCIDR(c.Address)
	if err != nil {
		return fmt.Errorf("read control address: %w", err)
	}
	return addressLink(controlLink, ip.To4(), mask.Mask)
}

// furnish puts the agent, its unit and the host name where systemd finds them.
func furnish(c Config) error {
	if err := syscall.Mount("tmpfs", newRoot+"/run", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := syscall.Mount("tmpfs", newRoot+"/tmp", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=1777,size=90%"); err != nil {
		return fmt.Errorf("mount /tmp: %w", err)
	}
	for _, d := range []string{runDir, unitDir + "/" + unitWantedBy + ".wants"} {
		if err := os.MkdirAll(newRoot+d, 0o755); err != nil {
			return err
		}
	}
	agent, err := os.ReadFile("/init")
	if err != nil {
		return err
	}
	conf, err := os.ReadFile(configPath)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{
		{agentPath, agent, 0o755}, {agentConfig, conf, 0o600}, {unitDir + "/" + unitName, []byte(agentUnit), 0o644},
		{"/etc/machine-id", []byte(c.ID + "\n"), 0o444}, {"/etc/hostname", []byte(c.Hostname + "\n"), 0o644},
		{"/etc/hosts", []byte("127.0.0.1 localhost\n127.0.1.1 " + c.Hostname + "\n"), 0o644},
		{"/etc/iscsi/initiatorname.iscsi", []byte("InitiatorName=iqn.2026-01.lab.vcn:" + c.Hostname + "\n"), 0o600},
	} {
		if err := os.WriteFile(newRoot+f.name, f.data, f.mode); err != nil {
			return err
		}
	}
	return os.Symlink("../"+unitName, newRoot+unitDir+"/"+unitWantedBy+".wants/"+unitName)
}

// handOver makes the new root the root and systemd its init.
func handOver() error {
	for _, d := range []string{"/dev", "/proc", "/sys"} {
		if err := syscall.Mount(d, newRoot+d, "", syscall.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", d, err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := syscall.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := syscall.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return fmt.Errorf("execute %s: %w", systemd, syscall.Exec(systemd, []string{systemd}, []string{searchPath}))
}
