package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"vcn/hostops/facts"
	"vcn/hostops/images"
)

const (
	agentPort = 7000
	// The control network is one that documentation alone uses (RFC 5737): a test
	// that sets up addresses of its own does not meet it.
	controlNet     = "192.0.2.0/24"
	controlHost    = "192.0.2.2"
	controlAddress = "192.0.2.15"
	controlMAC     = "52:54:00:6c:61:62"
	bootInitrd     = "initrd"
	captureMax     = 65535 // bytes of a frame

	// cmdline: cards are named by the init; a kernel that is lost says so and ends.
	cmdline = "console=ttyS0 quiet loglevel=4 net.ifnames=0 panic=-1 oops=panic random.trust_cpu=on cryptomgr.notests rcupdate.rcu_expedited=1 8250.nr_uarts=1"
	// cmdlineTCG leaves out what is slow on an emulated processor.
	cmdlineTCG = " mitigations=off no_timer_check modprobe.blacklist=kvm,kvm_amd,kvm_intel,aesni_intel,ghash_clmulni_intel," +
		"sha512_ssse3,sha256_ssse3,sha1_ssse3,crct10dif_pclmul,ata_piix,ata_generic,acpi_cpufreq,powernow_k8,serio_raw,pcspkr,psmouse,mousedev,joydev,evdev,i2c_piix4,floppy"
)

// packInitrd adds this machine's agent and configuration to the root's modules.
func (m *Machine) packInitrd() error {
	agent, err := os.ReadFile(m.cfg.Agent)
	if err != nil {
		return fmt.Errorf("read the agent: %w (make build/vcn-lab builds it)", err)
	}
	mods, err := os.ReadFile(m.root.Initrd)
	if err != nil {
		return err
	}
	conf := struct {
		Hostname, Token, ID string
		Port                int
		MAC, Address        string
		Cards               []string
	}{m.st.Name, m.st.Token, m.machineID(), agentPort, controlMAC, controlAddress + "/24", nil}
	for _, n := range m.cfg.NICs {
		conf.Cards = append(conf.Cards, n.MAC)
	}
	b, err := json.Marshal(conf)
	if err != nil {
		return err
	}
	buf := bytes.NewBuffer(mods)
	if err := images.WriteInitrd(buf, []images.InitrdFile{
		{Name: "init", Mode: 0o755, Data: agent}, {Name: "config", Mode: 0o600, Data: b},
	}); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(m.dir, bootInitrd), buf.Bytes(), 0o600)
}

// Boot starts a machine that is off, with the disks it had, and waits until its agent
// answers. Its root begins anew: only spare disks remember.
func (m *Machine) Boot(ctx context.Context) error {
	m.mu.Lock()
	err := m.boot()
	vm := m.vm
	m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("boot machine %s: %w", m.cfg.Name, err)
	}
	if err := m.waitAgent(ctx, vm); err != nil {
		return fmt.Errorf("boot machine %s: %w", m.cfg.Name, err)
	}
	return nil
}

func (m *Machine) boot() error {
	if m.closed {
		return errors.New("it is closed")
	}
	if m.vm != nil && m.vm.alive() {
		return errors.New("it is on")
	}
	for try := 1; ; try++ {
		port, err := freePort()
		if err != nil {
			return err
		}
		m.begun = time.Now()
		if err := m.launch(port); err != nil {
			return err
		}
		// QEMU ends at once if somebody has taken the port meanwhile.
		time.Sleep(agentPoll)
		if m.vm.alive() || try == portTries || !strings.Contains(m.qemuLog(), "host forwarding rule") {
			return nil
		}
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

func (m *Machine) launch(port int) error {
	args, files, err := m.arguments(port)
	defer func() {
		for _, f := range files {
			_ = f.Close() // QEMU has its own
		}
	}()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(m.dir, qemuLogName), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("qemu-system-x86_64", args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, files
	// The root's changes go into a file there that has no name.
	cmd.Env = append(os.Environ(), "TMPDIR="+m.dir)
	if m.vm, err = spawn(cmd, m.cfg.Detached); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	m.st.PID, m.st.Started, m.st.Port = m.vm.pid, m.vm.started, port
	return m.save()
}

// arguments are QEMU's, and the open taps that they name by number.
func (m *Machine) arguments(port int) (args []string, files []*os.File, err error) {
	accel, _, err := facts.Accel(facts.Config{})
	if err != nil {
		return nil, nil, err
	}
	cpu, machine, kernel := "host", "pc,accel=kvm", cmdline
	if accel == facts.TCG {
		// Without erms copies are 10-15 % faster there.
		cpu, machine, kernel = "max,erms=off", "pc", cmdline+cmdlineTCG
		if khz := facts.TSCKHz(); khz > 0 { // what it measured itself was wrong when this host was busy
			kernel += fmt.Sprintf(" tsc=reliable tsc_early_khz=%d", khz)
		}
	}
	args = []string{"-name", m.st.Name, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", machine, "-cpu", cpu, "-m", strconv.FormatInt(m.cfg.MemoryBytes>>20, 10), "-smp", strconv.Itoa(m.cfg.CPUs)}
	if accel == facts.TCG {
		args = append(args, "-accel", "tcg,thread=multi,tb-size=256")
	}
	args = append(args, "-kernel", m.root.Kernel, "-initrd", filepath.Join(m.dir, bootInitrd), "-append", kernel,
		"-chardev", "file,id=console,append=on,path="+comma(m.Console()), "-serial", "chardev:console",
		"-device", "virtio-rng-pci",
		"-drive", "if=none,id=root,format=raw,snapshot=on,cache=unsafe,file="+comma(m.root.Image), "-device", "virtio-blk-pci,drive=root")
	for i, d := range m.cfg.Disks {
		cache := d.Cache
		if cache == "" {
			cache = "writeback"
		}
		id := fmt.Sprintf("spare%d", i)
		args = append(args, "-drive", fmt.Sprintf("if=none,id=%s,format=raw,cache=%s,discard=unmap,file=%s", id, cache, comma(m.diskPath(i))),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s", id, id))
	}
	for i, n := range m.cfg.NICs {
		f, err := n.Cable.openTap(m.tapName(i))
		if err != nil {
			return nil, files, err
		}
		files = append(files, f)
		id := fmt.Sprintf("card%d", i)
		args = append(args, "-netdev", fmt.Sprintf("tap,id=%s,fd=%d", id, 2+len(files)),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=%s,mac=%s,romfile=,host_mtu=%d", id, n.MAC, n.Cable.mtu))
		if n.Capture != "" {
			args = append(args, "-object", fmt.Sprintf("filter-dump,id=dump%d,netdev=%s,maxlen=%d,file=%s", i, id, captureMax, comma(n.Capture)))
		}
	}
	args = append(args, "-netdev", fmt.Sprintf("user,id=control,restrict=on,ipv6=off,net=%s,host=%s,hostfwd=tcp:127.0.0.1:%d-%s:%d",
		controlNet, controlHost, port, controlAddress, agentPort),
		"-device", "virtio-net-pci,netdev=control,romfile=,mac="+controlMAC)
	return args, files, nil
}

// comma doubles commas, as QEMU's options want it in a file's name.
func comma(s string) string { return strings.ReplaceAll(s, ",", ",,") }

func (m *Machine) qemuLog() string {
	b, _ := os.ReadFile(filepath.Join(m.dir, qemuLogName))
	return strings.TrimSpace(string(b))
}

// waitAgent waits until the machine answers.
func (m *Machine) waitAgent(ctx context.Context, vm *process) error {
	ctx, cancel := context.WithTimeout(ctx, bootWait)
	defer cancel()
	for {
		err := m.Ping(ctx) // tries for a while itself
		if err == nil {
			m.cfg.Progress(fmt.Sprintf("machine %s answers, %.1f s after its start", m.st.Name, time.Since(m.begun).Seconds()))
			return nil
		}
		if !vm.alive() {
			return fmt.Errorf("%w: QEMU ended (%v): %s; console: %s", ErrBoot, vm.status.Load(), m.qemuLog(), m.consoleTail())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w: %v; console: %s", ErrBoot, ctx.Err(), err, m.consoleTail())
		case <-time.After(agentPoll):
		}
	}
}

func (m *Machine) consoleTail() string {
	b, err := os.ReadFile(m.Console())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-outputTail):])
}
