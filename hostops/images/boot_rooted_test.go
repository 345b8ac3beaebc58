//go:build rooted

package images

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vcn/hostops"
	"vcn/hostops/facts"
	"vcn/rolls"
)

// tcgOptions is the command line that a host adds when it emulates the processor.
const tcgOptions = " mitigations=off random.trust_cpu=on no_timer_check cryptomgr.notests rcupdate.rcu_expedited=1" +
	" 8250.nr_uarts=1 console=ttyS0 panic=-1 modprobe.blacklist=kvm_amd,kvm,aesni_intel,ghash_clmulni_intel,sha512_ssse3," +
	"sha256_ssse3,sha1_ssse3,crct10dif_pclmul,crc32_pclmul,ata_piix,ata_generic,powernow_k8,acpi_cpufreq,serio_raw,pcspkr"

const guestDiskBytes = 5 << 30 // more than the image, so that growing shows

// lab is one frontend and two workers under plain QEMU on this machine.
type lab struct {
	t       *testing.T
	dir     string
	cluster rolls.Cluster
	key     ssh.Signer
	sshPort int
	mcast   int
	began   time.Time
	guests  map[string]*guest
	// watching ends with the test's context, before the test: it logs.
	watching sync.WaitGroup
}

type guest struct {
	name    string
	console string
	agent   string // unix socket
	pid     int
	pings   chan time.Time
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func newLab(t *testing.T, recipes map[string]rolls.Recipe) *lab {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/var/tmp", "vcn-lab-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &lab{t: t, dir: dir, key: signer, sshPort: freePort(t), mcast: freePort(t), guests: map[string]*guest{}}
	l.cluster = rolls.Cluster{
		ID: "test", Name: "lab", Project: "studio", Subnet: "10.1.0.0/16",
		Users: []rolls.User{{Name: "alice", UID: 2001, Admin: true,
			Keys: []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))}}},
		Nodes: []rolls.Node{{Name: "frontend", Role: "frontend", CPUs: 1, MemoryMiB: 512,
			Private: rolls.NIC{MAC: "52:54:00:01:01:01", Address: "10.1.0.1/16"},
			Public:  &rolls.NIC{MAC: "52:54:00:01:01:02", Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.0.2.3"}}}},
	}
	names := []string{"frontend"}
	for i := range 2 {
		n := rolls.Node{Name: fmt.Sprintf("compute-%d", i), Role: "worker", Group: "compute", CPUs: 1, MemoryMiB: 512,
			Private: rolls.NIC{MAC: fmt.Sprintf("52:54:00:01:02:%02x", i), Address: fmt.Sprintf("10.1.0.%d/16", 10+i), Gateway: "10.1.0.1"}}
		l.cluster.Nodes = append(l.cluster.Nodes, n)
		names = append(names, n.Name)
	}
	all := []rolls.Recipe{recipes[rolls.ApplianceFrontend], recipes[rolls.ApplianceWorker]}
	if l.cluster.Secrets, err = rolls.MakeSecrets(all, names, []string{"alice"}, rand.Reader); err != nil {
		t.Fatal(err)
	}
	return l
}

// prepare makes the node's disk and seed.
func (l *lab) prepare(n rolls.Node, r rolls.Recipe, im hostops.Image) {
	l.t.Helper()
	tarball, err := rolls.Render(l.cluster, n.Name, r, im.Manifest)
	if err != nil {
		l.t.Fatal(err)
	}
	iso, err := rolls.SeedISO(tarball)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(l.path(n.Name+".iso"), iso, 0o600); err != nil {
		l.t.Fatal(err)
	}
	disk := l.path(n.Name + ".img")
	if out, err := exec.Command("cp", "--sparse=always", "--reflink=auto", im.Root, disk).CombinedOutput(); err != nil {
		l.t.Fatalf("copy disk: %v: %s", err, out)
	}
	if err := os.Truncate(disk, guestDiskBytes); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) since() float64 { return time.Since(l.began).Seconds() }

// start runs QEMU and begins to ask its agent's channel.
func (l *lab) start(ctx context.Context, n rolls.Node, im hostops.Image) {
	l.t.Helper()
	g := &guest{name: n.Name, console: l.path(n.Name + ".log"), agent: l.path(n.Name + ".ga"), pings: make(chan time.Time, 16)}
	args := []string{
		"-machine", "pc,accel=tcg", "-cpu", "max,erms=off", "-m", fmt.Sprint(n.MemoryMiB), "-smp", "1",
		"-nodefaults", "-display", "none", "-serial", "file:" + g.console,
		"-kernel", im.Kernel, "-initrd", im.Initrd, "-append", im.Manifest.Cmdline + tcgOptions + fmt.Sprintf(" tsc=reliable tsc_early_khz=%d", facts.TSCKHz()),
		"-drive", "file=" + l.path(n.Name+".img") + ",if=virtio,format=raw,cache=writeback,discard=unmap",
		"-drive", "file=" + l.path(n.Name+".iso") + ",if=ide,media=cdrom,format=raw,readonly=on",
		"-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
		"-chardev", "socket,id=ga,path=" + g.agent + ",server=on,wait=off",
		"-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0",
		"-netdev", fmt.Sprintf("socket,id=n0,mcast=230.0.0.1:%d,localaddr=127.0.0.1", l.mcast),
		"-device", "virtio-net-pci,netdev=n0,romfile=,mac=" + n.Private.MAC,
	}
	if n.Public != nil {
		args = append(args,
			"-netdev", fmt.Sprintf("user,id=n1,restrict=on,hostfwd=tcp:127.0.0.1:%d-10.0.2.15:22", l.sshPort),
			"-device", "virtio-net-pci,netdev=n1,romfile=,mac="+n.Public.MAC)
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	// The guest must not outlive a test that was killed. The signal comes when
	// the starting thread ends, so the test keeps its thread.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if errs.Len() > 0 {
			l.t.Logf("qemu of %s: %s", n.Name, errs.String())
		}
	})
	g.pid = cmd.Process.Pid
	l.guests[n.Name] = g
	go g.listen(ctx)
	l.watching.Go(func() { l.watchPhases(ctx, g) })
}

// listen sends a ping, which the hypervisor holds until the guest opens the
// channel, and tells of each answer.
func (g *guest) listen(ctx context.Context) {
	for ctx.Err() == nil {
		conn, err := net.Dial("unix", g.agent)
		if err != nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		in := bufio.NewReader(conn)
		for {
			if _, err := conn.Write([]byte(`{"execute":"guest-ping"}` + "\n")); err != nil {
				break
			}
			line, err := in.ReadString('\n')
			if err != nil {
				break
			}
			if strings.Contains(line, `"return"`) {
				select {
				case g.pings <- time.Now():
				default:
				}
				time.Sleep(500 * time.Millisecond)
			}
		}
		stop()
		conn.Close()
	}
}

// waitReady waits for the first answer after from.
func (l *lab) waitReady(ctx context.Context, name string, from time.Time) {
	l.t.Helper()
	g := l.guests[name]
	for {
		select {
		case at := <-g.pings:
			if at.After(from) {
				l.t.Logf("%6.1f s %s: the agent answers; its QEMU has used %.1f s of processor", at.Sub(l.began).Seconds(), name, cpuSeconds(g.pid))
				return
			}
		case <-ctx.Done():
			l.t.Fatalf("%s is not ready; its console ends with:\n%s", name, tailOf(g.console))
		}
	}
}

// cpuSeconds is the processor time of a process (proc(5), stat, fields 14 and
// 15, in hundredths): unlike the clock it hardly depends on what else runs.
func cpuSeconds(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	var user, system float64
	if f := strings.Fields(rest); len(f) > 12 {
		fmt.Sscan(f[11], &user)
		fmt.Sscan(f[12], &system)
	}
	return (user + system) / 100
}

func tailOf(name string) string {
	b, _ := os.ReadFile(name)
	lines := strings.Split(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

var phaseLine = regexp.MustCompile(`\[ *[0-9.]+\] vcn(-init)?: .*`)

// watchPhases logs each phase of a node when it comes, with the processor time
// that its QEMU has used until then.
func (l *lab) watchPhases(ctx context.Context, g *guest) {
	for seen := 0; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		b, _ := os.ReadFile(g.console)
		lines := phaseLine.FindAllString(strings.ReplaceAll(string(b), "\r", ""), -1)
		for ; seen < len(lines); seen++ {
			l.t.Logf("%6.1f s %5.1f s of processor, %s: %s", l.since(), cpuSeconds(g.pid), g.name, lines[seen])
		}
	}
}

// ssh runs a command on the frontend as alice, checking its host key.
func (l *lab) ssh(ctx context.Context, command string) (string, error) {
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(l.cluster.Secrets.HostKey("frontend")))
	if err != nil {
		return "", err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", l.sshPort)
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c, chans, reqs, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User: "alice", Auth: []ssh.AuthMethod{ssh.PublicKeys(l.key)}, HostKeyCallback: ssh.FixedHostKey(hostKey),
	})
	if err != nil {
		return "", err
	}
	client := ssh.NewClient(c, chans, reqs)
	defer client.Close()
	s, err := client.NewSession()
	if err != nil {
		return "", err
	}
	out, err := s.CombinedOutput(command)
	return strings.TrimSpace(string(out)), err
}

func (l *lab) mustSSH(ctx context.Context, command string) string {
	l.t.Helper()
	start := time.Now()
	out, err := l.ssh(ctx, command)
	if err != nil {
		l.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	l.t.Logf("%6.1f s $ %s  (%.1f s)\n%s", l.since(), command, time.Since(start).Seconds(), out)
	return out
}

// TestClusterBoots is the proof of the images and of the built-in rolls: one
// frontend and two workers become ready, a user logs in and runs a job on both,
// and a reboot keeps what the owner has changed.
func TestClusterBoots(t *testing.T) {
	runtime.LockOSThread() // see start
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	_, recipes, ims := builtImages(ctx, t)
	l := newLab(t, recipes)
	for _, n := range l.cluster.Nodes {
		l.prepare(n, recipes[n.Role], ims[n.Role])
	}
	defer l.watching.Wait()
	defer cancel() // before that
	l.began = time.Now()
	for i, n := range l.cluster.Nodes {
		if i == 1 {
			time.Sleep(4 * time.Second) // the frontend is the longer way
		}
		l.start(ctx, n, ims[n.Role])
	}
	for _, n := range []string{"compute-0", "compute-1", "frontend"} {
		l.waitReady(ctx, n, l.began)
	}
	t.Logf("%6.1f s all are ready", l.since())

	got := strings.Fields(l.mustSSH(ctx, "srun -N2 hostname | sort"))
	if fmt.Sprint(got) != "[compute-0 compute-1]" {
		t.Fatalf("srun says %q", got)
	}
	l.checkNodes(ctx)
	l.reboot(ctx, "compute-1", "ssh compute-1 ")
	l.reboot(ctx, "frontend", "")
	// Quiet: a scheduler that has just come back says first that the job waits.
	if got := strings.Fields(l.mustSSH(ctx, "srun -Q -N2 cat /home/alice/kept")); fmt.Sprint(got) != "[kept kept]" {
		t.Fatalf("after the reboots srun says %q", got)
	}
}

// checkNodes looks at what the rolls promise beside the scheduler.
func (l *lab) checkNodes(ctx context.Context) {
	l.t.Helper()
	for _, c := range []struct{ command, want string }{
		{"echo kept > kept; ssh compute-0 cat kept", "kept"},
		{"ssh compute-0 ssh compute-1 hostname", "compute-1"},
		{"ssh compute-0 findmnt -no FSTYPE /home", "nfs4"},
		{"sudo id -u", "0"},
		{"ssh compute-1 sudo id -u", "0"},
		{"ls -a ~ | grep -c bashrc", "1"},
		{"stat -c %U:%G:%a ~ /etc/munge/munge.key | sort | paste -sd' '", ""},
		{"sudo sh -c 'for i in 1 2 3 4 5 6 7 8 9; do n=$(df -k --output=size / | tail -1); [ $n -gt 4500000 ] && break; sleep 2; done; [ $n -gt 4500000 ] && echo grown'", "grown"},
		{"test $(cat /etc/machine-id) != $(ssh compute-0 cat /etc/machine-id) && echo differ", "differ"},
		{"systemctl --failed --no-legend --plain | cut -d' ' -f1 | paste -sd' '", ""},
		{"ssh compute-0 systemctl --failed --no-legend --plain | cut -d' ' -f1 | paste -sd' '", ""},
		{"sudo nft list ruleset | grep -c masquerade", "1"},
	} {
		if got := l.mustSSH(ctx, c.command); c.want != "" && got != c.want {
			l.t.Errorf("%s: %q, want %q", c.command, got, c.want)
		}
	}
}

// reboot changes a file that the seed has written, reboots the node, and looks
// whether the change is still there when the node is ready again.
func (l *lab) reboot(ctx context.Context, name, via string) {
	l.t.Helper()
	l.mustSSH(ctx, "echo '#owner' | "+via+"sudo tee -a /etc/ssh/ssh_known_hosts")
	from := time.Now()
	_, _ = l.ssh(ctx, via+"sudo systemctl reboot") // the connection may be cut before the answer
	l.t.Logf("%6.1f s %s reboots", l.since(), name)
	// The agent answers until it is stopped; a new answer counts after the console shows the new boot.
	for !strings.Contains(consoleAfter(l.guests[name].console, "vcn-init: seed unchanged"), "vcn: ready "+name) {
		if ctx.Err() != nil {
			l.t.Fatalf("%s does not come back; its console ends with:\n%s", name, tailOf(l.guests[name].console))
		}
		time.Sleep(200 * time.Millisecond)
	}
	l.waitReady(ctx, name, time.Now())
	l.t.Logf("%6.1f s %s is back after %.1f s", l.since(), name, time.Since(from).Seconds())
	if got := l.mustSSH(ctx, via+"tail -n 1 /etc/ssh/ssh_known_hosts"); got != "#owner" {
		l.t.Errorf("%s: the owner's change is gone: %q", name, got)
	}
}

func consoleAfter(name, mark string) string {
	b, _ := os.ReadFile(name)
	_, after, ok := strings.Cut(string(b), mark)
	if !ok {
		return ""
	}
	return after
}
