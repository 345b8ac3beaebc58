package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"

	"vcn/api"
	"vcn/daemon"
	"vcn/hostops/hosttest/libvirtd"
	"vcn/internal/passable"
)

// Config describes a testbed.
type Config struct {
	Name   string // 1-8 of a-z and 0-9: the prefix of namespaces and links
	Dir    string // everything it writes
	Subnet int    // 0-255: its part of 198.18.0.0/15
	Hosts  []HostConfig
	Bin    string // directory of vcnd, vcnctl and vcn-init
	// ImageCache is shared by the hosts' image builders (packages, base trees).
	ImageCache string
	// Images, if set, is where host i keeps its images: Images/hI. It survives
	// Down, which makes the next Up warm.
	Images string
	// InitFlags are more flags of "vcnd init", such as --vlans 100-101.
	InitFlags []string
	Out       io.Writer // progress lines; nil for none
}

// HostConfig is one host of a testbed.
type HostConfig struct {
	Classes []api.Class
	CPUs    int
	Memory  api.Quantity
	// NeverPeer keeps the host outside the Raft group.
	NeverPeer bool
}

// Testbed is a set of hosts on this machine.
type Testbed struct {
	cfg   Config
	Hosts []*Host
}

// Host is one of them.
type Host struct {
	Name    string
	NS      string // network namespace
	Dir     string
	Address string
	Gateway bool
	conf    string // path of vcnd's configuration
	socket  string // libvirtd's
	bin     string
}

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9]{0,7}$`)

// Default is three hosts: all compute, the first a gateway, the others storage.
func Default() []HostConfig {
	h := HostConfig{CPUs: 8, Memory: 8 << 30}
	a, b, c := h, h, h
	a.Classes = []api.Class{api.ClassGateway, api.ClassCompute}
	b.Classes = []api.Class{api.ClassCompute, api.ClassStorage}
	c.Classes = []api.Class{api.ClassCompute, api.ClassStorage}
	return []HostConfig{a, b, c}
}

// New describes a testbed; nothing is made yet. It also serves to take down
// one that another process made.
func New(cfg Config) (*Testbed, error) {
	if !namePattern.MatchString(cfg.Name) {
		return nil, fmt.Errorf("describe testbed: name %q: want 1-8 of a-z and 0-9, starting with a letter", cfg.Name)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("describe testbed: it makes namespaces and virtual machines: run as root")
	}
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	var err error
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("describe testbed: %w", err)
	}
	t := &Testbed{cfg: cfg}
	for i, h := range cfg.Hosts {
		dir := filepath.Join(cfg.Dir, fmt.Sprintf("h%d", i+1))
		host := &Host{
			Name: fmt.Sprintf("host%d", i+1), NS: t.hostNS(i), Dir: dir, Address: t.lanAddr(i + 1),
			conf: filepath.Join(dir, "vcnd.yaml"), bin: cfg.Bin,
		}
		for _, c := range h.Classes {
			host.Gateway = host.Gateway || c == api.ClassGateway
		}
		t.Hosts = append(t.Hosts, host)
	}
	return t, nil
}

func (t *Testbed) say(format string, a ...any) { fmt.Fprintf(t.cfg.Out, format+"\n", a...) }

// Up makes LANs, libvirtds and configurations, and starts every vcnd: the
// first host bootstraps, the others join with a token. It returns the
// operator's token. On failure everything is taken down again.
func (t *Testbed) Up(ctx context.Context) (token string, err error) {
	if err := t.Down(ctx); err != nil {
		return "", fmt.Errorf("clear earlier testbed: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Down(context.WithoutCancel(ctx)))
		}
	}()
	// Guests run as libvirt's user, who passes through to their files.
	if err := passable.Mkdir(t.cfg.Dir); err != nil {
		return "", fmt.Errorf("make testbed directory: %w", err)
	}
	if at, err := passable.Blocked(t.cfg.Dir); err != nil || at != "" {
		return "", errors.Join(fmt.Errorf("make testbed directory %s: guests, which run as libvirt-qemu, cannot pass through %q: use another place, or chmod o+x", t.cfg.Dir, at), err)
	}
	if err := t.setUpLANs(ctx); err != nil {
		return "", err
	}
	t.say("namespaces and LANs are up: private %s, public %s", t.lanAddr(0)+"/24", t.pubAddr(0)+"/24")
	if err := t.startLibvirtds(ctx); err != nil {
		return "", err
	}
	for i, h := range t.Hosts {
		if err := t.writeConfig(i); err != nil {
			return "", fmt.Errorf("configure %s: %w", h.Name, err)
		}
	}
	return t.startDaemons(ctx)
}

// writeConfig writes vcnd's configuration of one host.
func (t *Testbed) writeConfig(i int) error {
	h, hc := t.Hosts[i], t.cfg.Hosts[i]
	c := daemon.Config{
		Name: h.Name, DataDir: filepath.Join(h.Dir, "data"), Address: h.Address, Classes: hc.Classes,
		FailureDomain: h.Name,
		Capacity:      daemon.CapacityConfig{CPUs: hc.CPUs, Memory: hc.Memory},
		Network:       daemon.NetworkConfig{Driver: "auto", Underlay: "eth0"},
		Libvirt:       daemon.LibvirtConfig{Socket: h.socket},
		Raft:          daemon.RaftConfig{NeverPeer: hc.NeverPeer},
		Images:        daemon.ImagesConfig{Cache: t.cfg.ImageCache, Init: filepath.Join(t.cfg.Bin, "vcn-init"), FetchNetns: "/run/netns/" + t.machineNS()},
		LogLevel:      "debug",
	}
	if t.cfg.Images != "" {
		c.Images.Dir = filepath.Join(t.cfg.Images, fmt.Sprintf("h%d", i+1))
	}
	if h.Gateway {
		c.Network.PublicBridge = "br-pub"
	}
	b, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	return os.WriteFile(h.conf, b, 0o600)
}

// startDaemons bootstraps the first host and joins the others.
func (t *Testbed) startDaemons(ctx context.Context) (string, error) {
	first := t.Hosts[0]
	expect := 1
	if len(t.Hosts) >= 3 {
		expect = 3
	}
	tokenFile := filepath.Join(t.cfg.Dir, "operator.token")
	args := append([]string{"init", "--name", t.cfg.Name, "--expect", fmt.Sprint(expect), "--token-file", tokenFile,
		"--public-pool", fmt.Sprintf("%s-%s/24", t.pubAddr(10), t.pubAddr(99)), "--public-gateway", t.pubAddr(1)}, t.cfg.InitFlags...)
	if _, err := first.vcnd(ctx, args...); err != nil {
		return "", err
	}
	b, err := os.ReadFile(tokenFile)
	if err != nil {
		return "", fmt.Errorf("read operator's token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if err := first.Start(ctx); err != nil {
		return "", err
	}
	if err := t.login(ctx, token); err != nil {
		return "", err
	}
	t.say("%s has made the cluster of hosts and answers at https://%s", first.Name, first.API())
	join, err := t.Vcnctl(ctx, "token", "create", "--kind", "join", "--for", "1h", "-o", "json")
	if err != nil {
		return "", err
	}
	var tok api.Token
	if err := yaml.Unmarshal([]byte(join), &tok); err != nil {
		return "", fmt.Errorf("read join token: %w", err)
	}
	joinFile := filepath.Join(t.cfg.Dir, "join.token")
	if err := os.WriteFile(joinFile, []byte(tok.Secret+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep join token: %w", err)
	}
	for _, h := range t.Hosts[1:] {
		if _, err := h.vcnd(ctx, "join", "--host", "https://"+first.API(), "--token-file", joinFile); err != nil {
			return "", err
		}
		if err := h.Start(ctx); err != nil {
			return "", err
		}
		t.say("%s has joined", h.Name)
	}
	return token, t.waitFormed(ctx)
}

// login makes vcnctl's context: every host's address and the operator's token.
func (t *Testbed) login(ctx context.Context, token string) error {
	args := []string{"context", "add", t.cfg.Name, "--token", token}
	for _, h := range t.Hosts {
		args = append(args, "--host", "https://"+h.API())
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, err := t.Vcnctl(ctx, args...)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("log in: %w", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// waitFormed waits until all hosts are registered and enough of them vote.
func (t *Testbed) waitFormed(ctx context.Context) error {
	return Wait(ctx, 60*time.Second, "the hosts to form a cluster", func() (bool, string) {
		out, err := t.Vcnctl(ctx, "status", "-o", "json")
		if err != nil {
			return false, err.Error()
		}
		var st api.Status
		if err := yaml.Unmarshal([]byte(out), &st); err != nil {
			return false, err.Error()
		}
		return !st.Forming && st.Leader != "" && st.HostsAlive == len(t.Hosts), fmt.Sprintf("%d of %d hosts, %d voters", st.HostsAlive, len(t.Hosts), st.Voters)
	})
}

// Wait polls until ok, and says what it waited for and last saw when it gives up.
func Wait(ctx context.Context, limit time.Duration, what string, ok func() (bool, string)) error {
	deadline := time.Now().Add(limit)
	for {
		done, seen := ok()
		if done {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for %s: not within %v: %s", what, limit, seen)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Down ends every process and removes every namespace, link and file of the
// testbed, except Config.Images and Config.ImageCache where they lie elsewhere.
func (t *Testbed) Down(ctx context.Context) error {
	if err := t.tearDown(ctx); err != nil {
		return fmt.Errorf("take down testbed %s: %w", t.cfg.Name, err)
	}
	for i := range t.cfg.Hosts {
		if err := os.RemoveAll(filepath.Join(t.cfg.Dir, fmt.Sprintf("h%d", i+1))); err != nil {
			return fmt.Errorf("take down testbed %s: %w", t.cfg.Name, err)
		}
	}
	for _, f := range []string{"operator.token", "join.token", "vcnctl.yaml"} {
		if err := os.Remove(filepath.Join(t.cfg.Dir, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("take down testbed %s: %w", t.cfg.Name, err)
		}
	}
	// The directory itself goes if it was only the testbed's.
	_ = os.Remove(t.cfg.Dir)
	return nil
}

// ContextFile is vcnctl's configuration for this testbed.
func (t *Testbed) ContextFile() string { return filepath.Join(t.cfg.Dir, "vcnctl.yaml") }

// Vcnctl runs the real command against the testbed and returns its output.
func (t *Testbed) Vcnctl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(t.cfg.Bin, "vcnctl"), args...)
	cmd.Env = append(os.Environ(), "VCN_CONFIG="+t.ContextFile())
	var out, errb strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errb
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("run vcnctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errb.String()))
	}
	return out.String(), nil
}

// Libvirt is the socket of the host's libvirtd.
func (h *Host) Libvirt() string { return libvirtd.Socket(filepath.Join(h.Dir, "libvirt")) }

// API is the host's API address.
func (h *Host) API() string { return fmt.Sprintf("%s:%d", h.Address, daemon.PortAPI) }

// vcnd runs a short vcnd command in the host's namespace.
func (h *Host) vcnd(ctx context.Context, args ...string) (string, error) {
	return run(ctx, "ip", append([]string{"netns", "exec", h.NS, filepath.Join(h.bin, "vcnd"), args[0], "--config", h.conf}, args[1:]...)...)
}

// Start runs the host's vcnd beside us: it lives on when we end.
func (h *Host) Start(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(h.Dir, "vcnd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start vcnd of %s: %w", h.Name, err)
	}
	defer log.Close()
	cmd := exec.Command("ip", "netns", "exec", h.NS, filepath.Join(h.bin, "vcnd"), "run", "--config", h.conf)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start vcnd of %s: %w", h.Name, err)
	}
	// "ip netns exec" replaces itself by vcnd, so this is its pid.
	if err := os.WriteFile(h.pidFile(), fmt.Appendf(nil, "%d\n", cmd.Process.Pid), 0o600); err != nil {
		return fmt.Errorf("start vcnd of %s: %w", h.Name, err)
	}
	go cmd.Wait() // reaps it if it ends while we live
	return nil
}

func (h *Host) pidFile() string { return filepath.Join(h.Dir, "vcnd.pid") }

// PID is the process of the host's vcnd.
func (h *Host) PID() (int, error) {
	b, err := os.ReadFile(h.pidFile())
	if err != nil {
		return 0, fmt.Errorf("find vcnd of %s: %w", h.Name, err)
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		return 0, fmt.Errorf("find vcnd of %s: %w", h.Name, err)
	}
	return pid, nil
}

// Kill ends the host's vcnd without warning and waits until it is gone.
func (h *Host) Kill() error { return h.signal(syscall.SIGKILL) }

// Stop ends it with SIGTERM and waits until it is gone.
func (h *Host) Stop() error { return h.signal(syscall.SIGTERM) }

func (h *Host) signal(sig syscall.Signal) error {
	pid, err := h.PID()
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, sig); err != nil {
		return fmt.Errorf("end vcnd of %s: %w", h.Name, err)
	}
	for range 300 {
		if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("end vcnd of %s: process %d still runs after 15 s", h.Name, pid)
}
