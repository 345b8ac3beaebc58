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

// ip runs lines of ip(8) in one batch.
func ip(ctx context.Context, lines ...string) error {
	cmd := exec.CommandContext(ctx, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("set up links: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func (t *Testbed) switchNS() string        { return t.cfg.Name + "-sw" }
func (t *Testbed) hostNS(i int) string     { return fmt.Sprintf("%s-h%d", t.cfg.Name, i+1) }
func (t *Testbed) lanLink() string         { return t.cfg.Name + "-lan" }
func (t *Testbed) pubLink() string         { return t.cfg.Name + "-pub" }
func (t *Testbed) lanAddr(last int) string { return fmt.Sprintf("198.18.%d.%d", t.cfg.Subnet, last) }
func (t *Testbed) pubAddr(last int) string { return fmt.Sprintf("198.19.%d.%d", t.cfg.Subnet, last) }

// setUpLANs makes the namespaces and both LANs.
func (t *Testbed) setUpLANs(ctx context.Context) error {
	sw := t.switchNS()
	if err := ip(ctx, "netns add "+sw,
		fmt.Sprintf("-n %s link set lo up", sw),
		fmt.Sprintf("-n %s link add lan mtu %d type bridge forward_delay 0", sw, lanMTU),
		fmt.Sprintf("-n %s link add pub type bridge forward_delay 0", sw),
		fmt.Sprintf("-n %s link set lan up", sw),
		fmt.Sprintf("-n %s link set pub up", sw),
	); err != nil {
		return err
	}
	if err := t.plug(ctx, "", t.lanLink(), "lan", "up-lan", lanMTU); err != nil {
		return err
	}
	if err := t.plug(ctx, "", t.pubLink(), "pub", "up-pub", 1500); err != nil {
		return err
	}
	if err := ip(ctx,
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
	if err := ip(ctx, "netns add "+ns, fmt.Sprintf("-n %s link set lo up", ns)); err != nil {
		return err
	}
	n := strconv.Itoa(i + 1)
	if err := t.plug(ctx, ns, "eth0", "lan", "lan-h"+n, lanMTU); err != nil {
		return err
	}
	if err := ip(ctx, fmt.Sprintf("-n %s addr add %s/24 dev eth0", ns, t.Hosts[i].Address)); err != nil {
		return err
	}
	if !t.Hosts[i].Gateway {
		return nil
	}
	if err := t.plug(ctx, ns, "eth1", "pub", "pub-h"+n, 1500); err != nil {
		return err
	}
	return ip(ctx,
		fmt.Sprintf("-n %s link add br-pub type bridge forward_delay 0", ns),
		fmt.Sprintf("-n %s link set eth1 master br-pub", ns),
		fmt.Sprintf("-n %s link set br-pub up", ns),
	)
}

// plug runs a cable from a link in a namespace (empty: the machine's own) to a
// bridge of the switch.
func (t *Testbed) plug(ctx context.Context, ns, link, bridge, port string, mtu int) error {
	if len(link) > linkNameMax {
		return fmt.Errorf("plug %s: a link's name has at most %d characters: choose a shorter testbed name", link, linkNameMax)
	}
	in := ""
	where := fmt.Sprintf("link add %s mtu %d type veth peer name %s mtu %d netns %s", link, mtu, port, mtu, t.switchNS())
	if ns != "" {
		in = "-n " + ns + " "
	}
	return ip(ctx, in+where, in+"link set "+link+" up",
		fmt.Sprintf("-n %s link set %s master %s", t.switchNS(), port, bridge),
		fmt.Sprintf("-n %s link set %s up", t.switchNS(), port))
}

// Cut takes a host's cable out of the private LAN; Mend puts it back.
func (t *Testbed) Cut(ctx context.Context, i int) error {
	return ip(ctx, fmt.Sprintf("-n %s link set lan-h%d down", t.switchNS(), i+1))
}

// Mend undoes Cut.
func (t *Testbed) Mend(ctx context.Context, i int) error {
	return ip(ctx, fmt.Sprintf("-n %s link set lan-h%d up", t.switchNS(), i+1))
}

// namespaces lists this testbed's namespaces that exist.
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
