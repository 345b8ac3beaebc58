package targetd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vcn/hostops"
)

const (
	benchBytes    = 256 << 20
	qemuInitiator = "iqn.2008-11.org.linux-kvm"
)

// tgtd is the yardstick: the same file, served beside ours. It ignores SIGTERM
// while it has targets, so they are deleted first.
type tgtd struct {
	b       *testing.B
	control string
	portal  netip.AddrPort
	cmd     *exec.Cmd
	export  hostops.Export
}

func startTgtd(b *testing.B, e hostops.Export) *tgtd {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	g := &tgtd{b: b, portal: l.Addr().(*net.TCPAddr).AddrPort(), export: e, control: strconv.Itoa(os.Getpid() % 30000)}
	_ = l.Close()
	g.cmd = exec.Command("tgtd", "-f", "--control-port", g.control, "--iscsi", "portal="+g.portal.String())
	if err := g.cmd.Start(); err != nil {
		b.Fatalf("tgtd is needed by this benchmark: %v", err)
	}
	b.Cleanup(g.stop)
	eventually(b, "tgtd answers", func() bool {
		return exec.Command("tgtadm", "-C", g.control, "--lld", "iscsi", "--mode", "system", "--op", "show").Run() == nil
	})
	for _, a := range [][]string{
		{"--mode", "target", "--op", "new", "--tid", "1", "-T", e.IQN},
		{"--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", "1", "-b", e.Path},
		{"--mode", "account", "--op", "new", "--user", testUser, "--password", testSecret},
		{"--mode", "account", "--op", "bind", "--tid", "1", "--user", testUser},
		{"--mode", "target", "--op", "bind", "--tid", "1", "-I", "127.0.0.1"},
	} {
		g.adm(a...)
	}
	// The same limits as ours, so that it is not the defaults that are compared.
	for _, p := range [][2]string{
		{"MaxRecvDataSegmentLength", "262144"}, {"MaxXmitDataSegmentLength", "262144"}, {"MaxBurstLength", "1048576"},
		{"FirstBurstLength", "262144"}, {"InitialR2T", "No"}, {"ImmediateData", "Yes"},
	} {
		g.adm("--mode", "target", "--op", "update", "--tid", "1", "--name", p[0], "--value", p[1])
	}
	return g
}

func (g *tgtd) adm(a ...string) {
	g.b.Helper()
	if out, err := exec.Command("tgtadm", append([]string{"-C", g.control, "--lld", "iscsi"}, a...)...).CombinedOutput(); err != nil {
		g.b.Fatalf("tgtadm %v: %v\n%s", a, err, out)
	}
}

func (g *tgtd) stop() {
	_ = exec.Command("tgtadm", "-C", g.control, "--lld", "iscsi", "--mode", "target", "--op", "delete", "--force", "--tid", "1").Run()
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	ended := make(chan struct{})
	go func() { _ = g.cmd.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		_ = g.cmd.Process.Kill()
		<-ended
	}
}

var ranFor = regexp.MustCompile(`Run completed in ([0-9.]+) seconds`)

// seconds lets QEMU's own initiator, or nothing but QEMU, do the requests.
func seconds(b *testing.B, image string, args []string) float64 {
	b.Helper()
	out, err := tool(b, "qemu-img", append(append([]string{"bench"}, args...), "-f", "raw", image)...)
	m := ranFor.FindStringSubmatch(out)
	if err != nil || m == nil {
		b.Fatalf("qemu-img bench: %v\n%s", err, out)
	}
	s, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// contender is one way to the same file, and what it has cost so far.
type contender struct {
	name  string // empty for ours
	image string
	pid   int // of the process that serves; 0 for the bare file
	took  float64
	cpu   float64 // seconds, user and system
}

func (c *contender) run(b *testing.B, args []string) {
	b.Helper()
	before := processSeconds(b, c.pid)
	c.took += seconds(b, c.image, args)
	c.cpu += processSeconds(b, c.pid) - before
}

// processSeconds is the processor time a process has used (proc_pid_stat(5)).
func processSeconds(b *testing.B, pid int) float64 {
	b.Helper()
	if pid == 0 {
		return 0
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	const ticks = 100 // USER_HZ
	f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	user, err1 := strconv.ParseFloat(f[11], 64)
	system, err2 := strconv.ParseFloat(f[12], 64)
	if err := errors.Join(err1, err2); err != nil {
		b.Fatal(err)
	}
	return (user + system) / ticks
}

// processMiB is the most memory a process had of its own at a time.
func processMiB(b *testing.B, pid int) float64 {
	b.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(raw), "VmHWM:")
	var kib float64
	if _, err := fmt.Sscanf(after, "%f", &kib); err != nil {
		b.Fatal(err)
	}
	return kib / 1024
}

// BenchmarkTargetVsTgtd measures block I/O by QEMU's initiator through our
// target process and through tgtd, and by QEMU on the file itself, in turns.
// "ratio" is how many times tgtd's throughput ours is, "of-file" how much of the
// bare file's; more is better. "cpu-us/op" is processor time of the target
// process for one request, "MiB" its largest resident size so far: less is
// better.
func BenchmarkTargetVsTgtd(b *testing.B) {
	path := benchVolume(b)
	d := newDaemon(b) // a process, as it runs in earnest
	e := testExport("bench", path, 1)
	e.Access[0].Initiator = qemuInitiator
	if err := d.client.Publish(b.Context(), e); err != nil {
		b.Fatal(err)
	}
	g := startTgtd(b, e)
	// qemu-img bench takes no secret objects: user and password go into the URL,
	// and the initiator's name is QEMU's own.
	url := func(portal netip.AddrPort) string {
		return fmt.Sprintf("iscsi://%s%%%s@%s/%s/1", testUser, testSecret, portal, e.IQN)
	}
	for _, c := range []struct {
		name                     string
		count, depth, size, step int
		write                    bool
	}{
		{"seqread-256k-qd4", 2000, 4, 256 << 10, 0, false},
		{"seqwrite-256k-qd4", 2000, 4, 256 << 10, 0, true},
		// A stride that is no divisor of the size visits blocks out of order.
		{"scatterread-4k-qd16", 30000, 16, 4 << 10, 4099 * 4096, false},
		{"scatterwrite-4k-qd16", 30000, 16, 4 << 10, 4099 * 4096, true},
		{"read-4k-qd1", 5000, 1, 4 << 10, 4099 * 4096, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			args := []string{"-c", strconv.Itoa(c.count), "-d", strconv.Itoa(c.depth), "-s", strconv.Itoa(c.size)}
			if c.step > 0 {
				args = append(args, "-S", strconv.Itoa(c.step))
			}
			if c.write {
				args = append(args, "-w")
			}
			ours, theirs, file := &contender{image: url(d.portal), pid: d.cmd.Process.Pid}, &contender{name: "tgtd-", image: url(g.portal), pid: g.cmd.Process.Pid}, &contender{name: "file-", image: path}
			rounds := 0
			for b.Loop() {
				for _, turn := range [][]*contender{{ours, theirs, file}, {file, theirs, ours}} {
					for _, x := range turn {
						x.run(b, args)
					}
					rounds++
				}
			}
			ops := float64(rounds) * float64(c.count)
			b.ReportMetric(0, "ns/op") // of the whole round: says nothing
			for _, x := range []*contender{ours, theirs, file} {
				b.ReportMetric(ops*float64(c.size)/1e6/x.took, x.name+"MB/s")
				if x.pid != 0 {
					b.ReportMetric(x.cpu/ops*1e6, x.name+"cpu-us/op")
					b.ReportMetric(processMiB(b, x.pid), x.name+"MiB")
				}
			}
			b.ReportMetric(theirs.took/ours.took, "ratio")
			b.ReportMetric(file.took/ours.took, "of-file")
		})
	}
}

// benchVolume is a file whose every block has data.
func benchVolume(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "volume.img")
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	for range benchBytes / len(data) {
		if _, err := f.Write(data); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	return path
}
