package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	lanMTU      = 9000 // leaves room for VXLAN under the guests' 1500
	guestMTU    = 1500
	killGrace   = 10 * time.Second
	linkNameMax = 15
)

// run executes a program and puts what it printed into the error.
func run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("run %s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// ip runs lines of ip(8) in one batch, in a namespace (empty: the machine's own).
func ip(ctx context.Context, ns string, lines ...string) error {
	args := []string{"-batch", "-"}
	if ns != "" {
		args = append([]string{"-n", ns}, args...)
	}
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("set up links of namespace %q: %w: %s", ns, err, bytes.TrimSpace(out))
	}
	return nil
}

// machineNS names the machine's own namespace for as long as the testbed is up:
// package sources are reached from there, the hosts' namespaces have no way out.
func (t *Testbed) machineNS() string { return t.cfg.Name + "-machine" }

func (t *Testbed) switchNS() string        { return t.cfg.Name + "-sw" }
func (t *Testbed) hostNS(i int) string     { return fmt.Sprintf("%s-h%d", t.cfg.Name, i+1) }
func (t *Testbed) lanLink() string         { return t.cfg.Name + "-lan" }
func (t *Testbed) pubLink() string         { return t.cfg.Name + "-pub" }
func (t *Testbed) lanAddr(last int) string { return fmt.Sprintf("198.18.%d.%d", t.cfg.Subnet, last) }
func (t *Testbed) pubAddr(last int) string { return fmt.Sprintf("198.19.%d.%d", t.cfg.Subnet, last) }

// setUpLANs makes the namespaces and both LANs.
func (t *Testbed) setUpLANs(ctx context.Context) error {
	sw := t.switchNS()
	if _, err := run(ctx, "ip", "netns", "attach", t.machineNS(), strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	if err := ip(ctx, "", "netns add "+sw); err != nil {
		return err
	}
	if err := ip(ctx, sw, "link set lo up",
		fmt.Sprintf("link add lan mtu %d type bridge forward_delay 0", lanMTU),
		"link add pub type bridge forward_delay 0", "link set lan up", "link set pub up"); err != nil {
		return err
	}
	if err := t.plug(ctx, "", t.lanLink(), "lan", "up-lan", lanMTU); err != nil {
		return err
	}
	if err := t.plug(ctx, "", t.pubLink(), "pub", "up-pub", guestMTU); err != nil {
		return err
	}
	if err := ip(ctx, "",
		fmt.Sprintf("addr add %s/24 dev %s", t.lanAddr(254), t.lanLink()),
		fmt.Sprintf("addr add %s/24 dev %s", t.pubAddr(1), t.pubLink()),
	); err != nil {
		return err
	}
	for i := range t.Hosts {
		if err := t.setUpHostLinks(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (t *Testbed) setUpHostLinks(ctx context.Context, i int) error {
	ns := t.hostNS(i)
	if err := ip(ctx, "", "netns add "+ns); err != nil {
		return err
	}
	if err := ip(ctx, ns, "link set lo up"); err != nil {
		return err
	}
	n := strconv.Itoa(i + 1)
	if err := t.plug(ctx, ns, "eth0", "lan", "lan-h"+n, lanMTU); err != nil {
		return err
	}
	if err := ip(ctx, ns, fmt.Sprintf("addr add %s/24 dev eth0", t.Hosts[i].Address)); err != nil {
		return err
	}
	if !t.Hosts[i].Gateway {
		return nil
	}
	if err := t.plug(ctx, ns, "eth1", "pub", "pub-h"+n, guestMTU); err != nil {
		return err
	}
	return ip(ctx, ns, "link add br-pub type bridge forward_delay 0", "link set eth1 master br-pub", "link set br-pub up")
}

// plug runs a cable from a link in a namespace (empty: the machine's own) to a
// bridge of the switch.
func (t *Testbed) plug(ctx context.Context, ns, link, bridge, port string, mtu int) error {
	if len(link) > linkNameMax {
		return fmt.Errorf("plug %s: a link's name has at most %d characters: choose a shorter testbed name", link, linkNameMax)
	}
	if err := ip(ctx, ns,
		fmt.Sprintf("link add %s mtu %d type veth peer name %s mtu %d netns %s", link, mtu, port, mtu, t.switchNS()),
		"link set "+link+" up"); err != nil {
		return err
	}
	return ip(ctx, t.switchNS(), "link set "+port+" master "+bridge, "link set "+port+" up")
}

// Cut takes a host's cable out of the private LAN; Mend puts it back.
func (t *Testbed) Cut(ctx context.Context, i int) error {
	return ip(ctx, t.switchNS(), fmt.Sprintf("link set lan-h%d down", i+1))
}

// Mend undoes Cut.
func (t *Testbed) Mend(ctx context.Context, i int) error {
	return ip(ctx, t.switchNS(), fmt.Sprintf("link set lan-h%d up", i+1))
}

// namespaces lists this testbed's namespaces that exist. The machine's own, by
// its second name, is not among them.
func (t *Testbed) namespaces(ctx context.Context) ([]string, error) {
	out, err := run(ctx, "ip", "netns", "list")
	if err != nil {
		return nil, err
	}
	var mine []string
	for line := range strings.Lines(out) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if rest, ok := strings.CutPrefix(name, t.cfg.Name+"-"); ok && (rest == "sw" || strings.HasPrefix(rest, "h")) {
			mine = append(mine, name)
		}
	}
	return mine, nil
}

// Running tells whether processes of this testbed, whoever started it, run.
func (t *Testbed) Running(ctx context.Context) (bool, error) {
	names, err := t.namespaces(ctx)
	if err != nil {
		return false, err
	}
	for _, ns := range names {
		if pids, err := pidsIn(ctx, ns); err != nil || len(pids) > 0 {
			return err == nil, err
		}
	}
	return false, nil
}

// pidsIn lists the processes whose network namespace is ns.
func pidsIn(ctx context.Context, ns string) ([]int, error) {
	out, err := run(ctx, "ip", "netns", "pids", ns)
	if err != nil {
		return nil, err
	}
	var pids []int
	for f := range strings.FieldsSeq(out) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("list processes of namespace %s: %w", ns, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// endProcesses ends what runs in a namespace: it is all the testbed's, since
// the namespace is.
func endProcesses(ctx context.Context, ns string) error {
	var own, its syscall.Stat_t
	if err := errors.Join(syscall.Stat("/proc/self/ns/net", &own), syscall.Stat("/run/netns/"+ns, &its)); err != nil {
		return fmt.Errorf("tell namespace %s from ours: %w", ns, err)
	}
	if own.Dev == its.Dev && own.Ino == its.Ino {
		return fmt.Errorf("end processes of namespace %s: it is the machine's own", ns)
	}
	deadline := time.Now().Add(killGrace)
	sig := syscall.SIGTERM
	for {
		pids, err := pidsIn(ctx, ns)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("end processes of namespace %s: %d still run", ns, len(pids))
		}
		if time.Until(deadline) < killGrace*8/10 {
			sig = syscall.SIGKILL
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end process %d: %w", pid, err)
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// tearDown removes processes, namespaces and links. What is not there is fine.
func (t *Testbed) tearDown(ctx context.Context) error {
	names, err := t.namespaces(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, ns := range names {
		errs = append(errs, endProcesses(ctx, ns))
	}
	for _, ns := range names {
		if _, err := run(ctx, "ip", "netns", "del", ns); err != nil {
			errs = append(errs, err)
		}
	}
	if _, err := os.Stat("/run/netns/" + t.machineNS()); err == nil {
		if _, err := run(ctx, "ip", "netns", "del", t.machineNS()); err != nil {
			errs = append(errs, err)
		}
	}
	// Their peers went with the switch; a crash before that can have left them.
	for _, link := range []string{t.lanLink(), t.pubLink()} {
		if _, err := os.Stat("/sys/class/net/" + link); err == nil {
			if _, err := run(ctx, "ip", "link", "del", link); err != nil {
				if _, serr := os.Stat("/sys/class/net/" + link); serr == nil {
					errs = append(errs, err)
				}
			}
		}
	}
	return errors.Join(errs...)
}
