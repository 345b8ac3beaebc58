package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	rootDevice      = "/dev/vda"
	newRoot         = "/newroot"
	moduleList      = "/modules"
	seedLabel       = "VCNSEED"
	seedFile        = "seed.tar"
	seedSumFile     = "seed.sha256"
	seedBytesMax    = 64 << 20
	deviceWaitMax   = 10 * time.Second
	cdromWaitMax    = 10 * time.Second
	restartPause    = 10 * time.Second
	defaultInit     = "/lib/systemd/systemd"
	devicePollEvery = 5 * time.Millisecond
)

// started is read by say, for the time of each step.
var started = time.Now()

// say writes one line to the kernel log, loud enough to reach a quiet console.
func say(format string, args ...any) {
	line := fmt.Sprintf("<2>vcn-init: "+format, args...)
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, line)
		return
	}
	defer f.Close()
	_, _ = f.WriteString(line)
}

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "vcn-init: is the init of a node's initrd and does nothing elsewhere")
		os.Exit(2)
	}
	err := boot()
	// Only failure returns from boot: success has become systemd.
	say("%v", err)
	say("restarting in %v", restartPause)
	time.Sleep(restartPause)
	syscall.Sync()
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	select {}
}

// boot does the whole work and returns only with an error.
func boot() error {
	if err := mountKernelFS(); err != nil {
		return err
	}
	raw, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("read kernel command line: %w", err)
	}
	opts := parseCmdline(string(raw))
	if err := loadModules(moduleList); err != nil {
		return err
	}
	marks := []string{mark("modules")}
	if err := waitFor(rootDevice, deviceWaitMax); err != nil {
		return err
	}
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount(rootDevice, newRoot, "ext4", syscall.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount root %s: %w", rootDevice, err)
	}
	marks = append(marks, mark("root"))
	if err := seed(newRoot); err != nil {
		return err
	}
	marks = append(marks, mark("seed"))
	if err := ensureMachineID(newRoot); err != nil {
		return err
	}
	if err := network(newRoot); err != nil {
		return err
	}
	say("done, ms after start: %s", strings.Join(append(marks, mark("network")), ", "))
	return handOver(opts)
}

// mark is the time at which a step ended, for the console.
func mark(step string) string { return fmt.Sprintf("%s %d", step, time.Since(started).Milliseconds()) }

func mountKernelFS() error {
	for _, m := range []struct{ src, dir, typ string }{
		{"dev", "/dev", "devtmpfs"}, {"proc", "/proc", "proc"}, {"sys", "/sys", "sysfs"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		err := syscall.Mount(m.src, m.dir, m.typ, 0, "")
		if err != nil && err != syscall.EBUSY { // the kernel may have mounted /dev itself
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	return nil
}

// loadModules loads the initrd's modules in the order of the list, which the
// builder took from modules.dep. One that fails is said and skipped: a kernel
// may have it built in, and what is really missing shows at its device.
func loadModules(list string) error {
	b, err := os.ReadFile(list)
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

// seed applies the CD-ROM's seed if it is not the one already applied.
func seed(root string) error {
	tarball, err := readSeed(cdromWaitMax)
	if err != nil {
		return fmt.Errorf("read seed: %w", err)
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	changed, did, err := applySeed(r, tarball)
	if err != nil {
		return fmt.Errorf("apply seed: %w", err)
	}
	if !changed {
		say("seed unchanged")
		return nil
	}
	say("seed applied, %d files", did.files)
	for what, names := range map[string][]string{"left as it was changed": did.kept, "replaced, kept as": did.saved} {
		for _, name := range names {
			say("%s: /%s", what, name)
		}
	}
	return nil
}

// network sets the addresses in etc/vcn/net.
func network(root string) error {
	b, err := os.ReadFile(filepath.Join(root, "etc/vcn/net"))
	if err != nil {
		return fmt.Errorf("read network configuration: %w", err)
	}
	links, err := parseNet(string(b))
	if err != nil {
		return fmt.Errorf("parse etc/vcn/net: %w", err)
	}
	return configureNet(links)
}

// handOver makes the new root the root and becomes its init.
func handOver(opts map[string]string) error {
	prog := defaultInit
	if v := opts["vcn.init"]; v != "" {
		prog = v
	}
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
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return fmt.Errorf("execute %s: %w", prog, syscall.Exec(prog, []string{prog}, env))
}

// parseCmdline splits the kernel's command line into options. A word without
// "=" has the value "1"; quotes protect spaces; the last of a name wins.
func parseCmdline(s string) map[string]string {
	opts := map[string]string{}
	var word strings.Builder
	quoted := false
	flush := func() {
		if word.Len() == 0 {
			return
		}
		k, v, ok := strings.Cut(word.String(), "=")
		if !ok {
			v = "1"
		}
		opts[k] = v
		word.Reset()
	}
	for _, c := range s {
		switch {
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t' || c == '\n'):
			flush()
		default:
			word.WriteRune(c)
		}
	}
	flush()
	return opts
}
