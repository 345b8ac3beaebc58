package targetd

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
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

// seconds lets QEMU's own initiator do the requests.
func seconds(b *testing.B, portal netip.AddrPort, e hostops.Export, args []string) float64 {
	b.Helper()
	// qemu-img bench takes no secret objects: user and password go into the URL,
	// and the initiator's name is QEMU's own.
	url := fmt.Sprintf("iscsi://%s%%%s@%s/%s/1", testUser, testSecret, portal, e.IQN)
	out, err := tool(b, "qemu-img", append(append([]string{"bench"}, args...), "-f", "raw", url)...)
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

// BenchmarkTargetVsTgtd measures block I/O by QEMU's initiator through our
// target process and through tgtd, on the same file, in turns. "ratio" is how
// many times tgtd's throughput ours is; more is better.
func BenchmarkTargetVsTgtd(b *testing.B) {
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
	d := newDaemon(b) // a process, as it runs in earnest
	e := testExport("bench", path, 1)
	e.Access[0].Initiator = qemuInitiator
	if err := d.client.Publish(b.Context(), e); err != nil {
		b.Fatal(err)
	}
	g := startTgtd(b, e)
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
			args := []string{"-n", "-c", strconv.Itoa(c.count), "-d", strconv.Itoa(c.depth), "-s", strconv.Itoa(c.size)}
			if c.step > 0 {
				args = append(args, "-S", strconv.Itoa(c.step))
			}
			if c.write {
				args = append(args, "-w")
			}
			var ours, theirs float64
			rounds := 0
			for b.Loop() {
				for i := range 2 { // each goes first once
					if i == 0 {
						ours += seconds(b, d.portal, e, args)
						theirs += seconds(b, g.portal, e, args)
					} else {
						theirs += seconds(b, g.portal, e, args)
						ours += seconds(b, d.portal, e, args)
					}
					rounds++
				}
			}
			mb := float64(rounds) * float64(c.count) * float64(c.size) / 1e6
			b.ReportMetric(mb/ours, "MB/s")
			b.ReportMetric(mb/theirs, "tgtd-MB/s")
			b.ReportMetric(theirs/ours, "ratio")
		})
	}
}
