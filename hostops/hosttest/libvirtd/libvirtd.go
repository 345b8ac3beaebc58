package libvirtd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
)

const (
	socketName   = "libvirt-sock"
	socketMax    = 107 // sun_path without its final zero
	startTimeout = 30 * time.Second
	stopTimeout  = 20 * time.Second
	poll         = 20 * time.Millisecond
)

// Config says where a libvirtd lives.
type Config struct {
	// Netns is the path of its network namespace (/run/netns/…); empty means
	// ours.
	Netns string
	// Dir is its private directory, absolute. Its path plus "/run/libvirt-sock"
	// must stay under 108 bytes.
	Dir string
	// CapsCacheFrom is the Dir of another one that has run before on this
	// machine; its knowledge of QEMU is copied. May be empty.
	CapsCacheFrom string
}

// Instance is a running libvirtd.
type Instance struct {
	// Dir is its private directory.
	Dir string
	// PID is its process, which is our child.
	PID int

	done chan struct{} // closed when the process has ended
	err  error         // set before done is closed
}

// Socket is the path to connect to.
func Socket(dir string) string { return filepath.Join(dir, "run", socketName) }

// Socket is the path to connect to.
func (i *Instance) Socket() string { return Socket(i.Dir) }

// bindings pairs our directories with the places libvirtd looks at.
var bindings = [][2]string{
	{"run", "/run/libvirt"}, {"etc", "/etc/libvirt"}, {"lib", "/var/lib/libvirt"},
	{"cache", "/var/cache/libvirt"}, {"log", "/var/log/libvirt"},
}

// Start starts a libvirtd and waits until it answers. A Dir that was used
// before keeps its guests: those still running are found again.
func Start(ctx context.Context, c Config) (*Instance, error) {
	if !filepath.IsAbs(c.Dir) {
		return nil, fmt.Errorf("start libvirtd: directory %q is not absolute", c.Dir)
	}
	if n := len(Socket(c.Dir)); n > socketMax {
		return nil, fmt.Errorf("start libvirtd: socket path in %s has %d bytes, at most %d work", c.Dir, n, socketMax)
	}
	if pid, err := running(c.Dir); err != nil {
		return nil, fmt.Errorf("start libvirtd: %w", err)
	} else if pid != 0 {
		return nil, fmt.Errorf("start libvirtd: process %d runs in %s already", pid, c.Dir)
	}
	if err := prepare(c); err != nil {
		return nil, fmt.Errorf("start libvirtd: %w", err)
	}
	out, err := os.OpenFile(filepath.Join(c.Dir, "log", "libvirtd.out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start libvirtd: %w", err)
	}
	defer out.Close()
	cmd := command(c)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start libvirtd: %w", err)
	}
	i := &Instance{Dir: c.Dir, PID: cmd.Process.Pid, done: make(chan struct{})}
	go func() {
		i.err = cmd.Wait()
		close(i.done)
	}()
	if err := i.waitReady(ctx); err != nil {
		i.kill()
		return nil, fmt.Errorf("start libvirtd in %s: %w", c.Dir, err)
	}
	return i, nil
}

// kvmScript shows /dev/kvm as Debian's udev makes it, root:kvm 0660, also on a
// machine without udev. With another mode QEMU and libvirt disagree on whether
// it can be used, and libvirt then asks QEMU anew, for half a minute, at each start.
const kvmScript = `if [ -c /dev/kvm ]; then
mkdir -p "$1/dev"
mount -t tmpfs -o mode=0755 vcn-dev "$1/dev"
mknod -m 0660 "$1/dev/kvm" c 10 232
chgrp kvm "$1/dev/kvm"
mount --bind "$1/dev/kvm" /dev/kvm
fi
`

// command enters the namespaces step by step; each step replaces the one
// before, so the process we start is libvirtd in the end. A fresh /sys shows
// the links of the network namespace and not the machine's.
func command(c Config) *exec.Cmd {
	var script strings.Builder
	script.WriteString("set -e\n")
	if c.Netns != "" {
		script.WriteString("umount -l /sys\nmount -t sysfs vcn-sysfs /sys\n")
	}
	for _, b := range bindings {
		fmt.Fprintf(&script, "mkdir -p %s\nmount --bind \"$1/%s\" %s\n", b[1], b[0], b[1])
	}
	script.WriteString(kvmScript)
	script.WriteString("exec libvirtd --config \"$1/etc/libvirtd.conf\" --pid-file /run/libvirt/libvirtd.pid\n")
	args := []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", script.String(), "libvirtd", c.Dir}
	if c.Netns != "" {
		args = append([]string{"nsenter", "--net=" + c.Netns}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no signals from our terminal
	return cmd
}

func prepare(c Config) error {
	dirs := []string{"log/qemu"}
	for _, b := range bindings {
		dirs = append(dirs, b[0])
	}
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(c.Dir, d), 0o755); err != nil {
			return err
		}
	}
	host, err := hostUUID(filepath.Join(c.Dir, "etc", "host-uuid"))
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"libvirtd.conf": fmt.Sprintf(libvirtdConf, c.Dir, host),
		"qemu.conf":     qemuConf,
		"libvirt.conf":  "uri_default = \"qemu:///system\"\n",
	} {
		if err := os.WriteFile(filepath.Join(c.Dir, "etc", name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := os.Remove(Socket(c.Dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if c.CapsCacheFrom == "" {
		return nil
	}
	return copyCaps(c.CapsCacheFrom, c.Dir)
}

// hostUUID is made once per directory: libvirt refuses to see a host change it.
func hostUUID(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(b)), nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	id := uuid.NewString()
	return id, os.WriteFile(path, []byte(id+"\n"), 0o600)
}

const libvirtdConf = `auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_rw_perms = "0700"
log_level = 3
log_outputs = "3:file:%s/log/libvirtd.log"
host_uuid = "%s"
max_clients = 200
`

// qemuConf runs guests as Debian does: as its own user, who gets the files of a
// guest from libvirt and needs to reach them by itself. Only what needs the
// machine's own systemd is switched off.
const qemuConf = `user = "libvirt-qemu"
group = "libvirt-qemu"
dynamic_ownership = 1
remember_owner = 1
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
seccomp_sandbox = 0
stdio_handler = "file"
set_process_name = 0
`

const capsDir = "cache/qemu/capabilities"

// copyCaps copies what is there; nothing there is no error, only slower.
func copyCaps(from, to string) error {
	files, err := filepath.Glob(filepath.Join(from, capsDir, "*.xml"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(to, capsDir), 0o755); err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, capsDir, filepath.Base(f)), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (i *Instance) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", i.Socket())
		if err == nil {
			return c.Close()
		}
		select {
		case <-tick.C:
		case <-i.done:
			return fmt.Errorf("it ended (%w): %s", errOr(i.err), tail(i.Dir))
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w: %s", ctx.Err(), tail(i.Dir))
		}
	}
}

func errOr(err error) error {
	if err == nil {
		return errors.New("without an error")
	}
	return err
}

// tail is the end of what the process wrote, for people.
func tail(dir string) string {
	var out []string
	for _, name := range []string{"libvirtd.out", "libvirtd.log"} {
		b, err := os.ReadFile(filepath.Join(dir, "log", name))
		if err != nil {
			continue
		}
		b = b[max(0, len(b)-500):]
		out = append(out, name+": "+strings.TrimSpace(string(b)))
	}
	return strings.Join(out, "; ")
}

// Done is closed when the process has ended.
func (i *Instance) Done() <-chan struct{} { return i.done }

// Stop ends libvirtd, and not the guests. It is killed if it takes longer than
// 20 s or ctx.
func (i *Instance) Stop(ctx context.Context) error {
	if err := syscall.Kill(i.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop libvirtd: %w", err)
	}
	t := time.NewTimer(stopTimeout)
	defer t.Stop()
	select {
	case <-i.done:
		return nil
	case <-t.C:
	case <-ctx.Done():
	}
	i.kill()
	return nil
}

// Kill ends libvirtd at once (SIGKILL), and not the guests.
func (i *Instance) Kill() { i.kill() }

func (i *Instance) kill() {
	select {
	case <-i.done:
		return // the number may be somebody else's by now
	default:
	}
	syscall.Kill(i.PID, syscall.SIGKILL)
	<-i.done
}

// running returns the process that runs in dir, or 0. The pid file alone is not
// believed: the process must have our configuration on its command line.
func running(dir string) (int, error) {
	return pidOf(filepath.Join(dir, "run", "libvirtd.pid"), filepath.Join(dir, "etc", "libvirtd.conf"))
}

// pidOf reads a pid file, and returns 0 unless that process has arg on its
// command line, as a whole argument or as the end of one.
func pidOf(file, arg string) (int, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, nil
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return 0, nil // ended
	}
	words := strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00")
	if !slices.ContainsFunc(words, func(w string) bool { return strings.HasSuffix(w, arg) }) {
		return 0, nil
	}
	return pid, nil
}

// StopDir ends the libvirtd of a directory, whoever started it, and not the
// guests. None running is success.
func StopDir(ctx context.Context, dir string) error {
	pid, err := running(dir)
	if err != nil || pid == 0 {
		return err
	}
	if err := end(ctx, pid, syscall.SIGTERM, stopTimeout); err != nil {
		return fmt.Errorf("stop libvirtd in %s: %w", dir, err)
	}
	return nil
}

// KillGuests ends every guest of a directory that is still running, and returns
// how many there were. Stop libvirtd first, or it will report them crashed.
func KillGuests(ctx context.Context, dir string) (int, error) {
	files, err := filepath.Glob(filepath.Join(dir, "run", "qemu", "*.pid"))
	if err != nil {
		return 0, fmt.Errorf("kill guests: %w", err)
	}
	killed := 0
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".pid")
		// QEMU's command line: -name guest=NAME,…; its pid file is in our directory.
		pid, err := guestPID(f, name)
		if err != nil {
			return killed, fmt.Errorf("kill guest %s: %w", name, err)
		}
		if pid == 0 {
			continue
		}
		if err := end(ctx, pid, syscall.SIGTERM, 3*time.Second); err != nil {
			return killed, fmt.Errorf("kill guest %s: %w", name, err)
		}
		killed++
	}
	return killed, nil
}

func guestPID(file, name string) (int, error) {
	pid, err := pidOf(file, "")
	if err != nil || pid == 0 {
		return 0, err
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(line, []byte("\x00guest="+name+",")) {
		return 0, nil
	}
	return pid, nil
}

// end sends a signal, waits, and then kills. The process need not be a child.
func end(ctx context.Context, pid int, sig syscall.Signal, patience time.Duration) error {
	if err := syscall.Kill(pid, sig); err != nil {
		if errors.Is(err, syscall.ESRCH) {
			return nil
		}
		return err
	}
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	killed := false
	for alive(pid) {
		if !killed && time.Now().After(deadline) {
			killed = true
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// alive is false for a zombie too: its parent will see to it.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	i := bytes.LastIndexByte(b, ')')
	return i < 0 || i+2 >= len(b) || b[i+2] != 'Z'
}
