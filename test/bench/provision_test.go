//go:build rooted

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vcn/api"
	"vcn/test/testbed"
)

const (
	provisionMax = 10 * time.Minute
	releaseMax   = 3 * time.Minute
	bareMax      = 5 * time.Minute
	diskBytes    = 4 << 30 // as in the specification
	slurmCluster = "bench" // its name in the specification
	specText     = `name: bench
project: bench
slot: {start: asap, for: 1h}
frontend: {cpus: 1, memory: 512MiB, disk: 4GiB}
workers:
  - {name: compute, count: 2, cpus: 1, memory: 512MiB, disk: 4GiB}
rolls: [slurm]
users:
  - {name: alice, admin: true, keys: [%q]}
`
	// Of what a node says on its console, the last before it needs others.
	consoleSSH  = "vcn: phase base"
	consoleHome = "vcn: phase home"
)

// BenchmarkProvision is one cluster of 1+2 nodes from "vcnctl reserve" to the
// output of srun on three hosts of this machine, with images there, and then
// back to nothing. Beside it one QEMU boots the same frontend from a file, alone.
func BenchmarkProvision(b *testing.B) {
	runtime.LockOSThread() // see bareBoot
	defer runtime.UnlockOSThread()
	t := bed.get(b)
	dir := b.TempDir()
	key := filepath.Join(dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f", key).CombinedOutput(); err != nil {
		b.Fatalf("make a key: %v: %s", err, out)
	}
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		b.Fatal(err)
	}
	spec := filepath.Join(dir, "spec.yaml")
	if err := os.WriteFile(spec, fmt.Appendf(nil, specText, strings.TrimSpace(string(pub))), 0o600); err != nil {
		b.Fatal(err)
	}
	sum, runs := map[string]time.Duration{}, 0
	b.ResetTimer()
	for b.Loop() {
		runs++
		b.Logf("load %s", loadNow())
		g := provision(b, t, spec, key, sum)
		b.StopTimer()
		seed := filepath.Join(dir, "seed.iso")
		if err := copyFile(g.seed, seed); err != nil {
			b.Fatal(err)
		}
		release(b, t, sum)
		bareBoot(b, t, g, seed, sum)
		b.StartTimer()
	}
	for what, d := range sum {
		b.ReportMetric(ms(d)/float64(runs), what+"-ms")
	}
	b.ReportMetric(float64(sum["total"])/float64(sum["bare-home"]), "ratio")
	// Three guests share the machine's processors, the bare one has them alone.
	b.ReportMetric(float64(sum["guests-cpu"])/float64(sum["bare-cpu"]), "cpu-ratio")
}

// provision reserves, waits, runs a job, and returns the frontend's guest.
func provision(b *testing.B, t *testbed.Testbed, spec, key string, sum map[string]time.Duration) guest {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), provisionMax)
	defer cancel()
	fail := func(err error) {
		if err != nil {
			b.Helper()
			explain(b, t, slurmCluster)
			b.Fatal(err)
		}
	}
	began := time.Now()
	_, err := t.Vcnctl(ctx, "reserve", "-f", spec, "--wait")
	fail(err)
	usable := time.Now()
	out, err := t.Vcnctl(ctx, "ssh", slurmCluster, "-i", key, "--", "srun", "-N2", "hostname")
	fail(err)
	sum["total"] += time.Since(began)
	sum["reserve-to-usable"] += usable.Sub(began)
	sum["ssh-srun"] += time.Since(usable)
	got := strings.Fields(out)
	slices.Sort(got)
	if want := []string{"compute-0", "compute-1"}; !slices.Equal(got, want) {
		fail(fmt.Errorf("the job printed %q, want %q", got, want))
	}
	r, err := query[api.Reservation](ctx, t, "show", slurmCluster)
	fail(err)
	for _, p := range r.Phases {
		if p.End == nil {
			fail(fmt.Errorf("phase %s has not ended although the cluster is %s", p.Name, r.State))
		}
		sum["phase-"+p.Name] += p.End.Sub(p.Start)
		b.Logf("phase %-8s from %6.2f s to %6.2f s", p.Name, p.Start.Sub(began).Seconds(), p.End.Sub(began).Seconds())
	}
	logConsoles(b, t)
	g, cpu, err := guests(ctx, b, t)
	fail(err)
	sum["guests-cpu"] += cpu
	return g
}

// guests finds the guest of the one frontend there is, and sums what all
// guests have used of the processors.
func guests(ctx context.Context, b *testing.B, t *testbed.Testbed) (frontend guest, cpu time.Duration, err error) {
	for _, h := range t.Hosts {
		running, err := processes(ctx, h, "qemu-system-x86_64")
		if err != nil {
			return guest{}, 0, err
		}
		for pid, args := range running {
			u, err := usageOf(pid)
			if err != nil {
				return guest{}, 0, err
			}
			cpu += u.cpu
			b.Logf("%s: %v of processor for %s", h.Name, u.cpu, args[2])
			if !strings.Contains(strings.Join(args, " "), "-frontend,") {
				continue
			}
			if frontend, err = readGuest(args); err != nil {
				return guest{}, 0, err
			}
		}
	}
	if frontend.kernel == "" {
		return guest{}, 0, errors.New("find the frontend: no QEMU runs one")
	}
	return frontend, cpu, nil
}

// release ends the cluster and checks that nothing is left of it.
func release(b *testing.B, t *testbed.Testbed, sum map[string]time.Duration) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), releaseMax)
	defer cancel()
	began := time.Now()
	r, err := query[api.Reservation](ctx, t, "release", slurmCluster)
	if err != nil {
		b.Fatal(err)
	}
	err = testbed.Wait(ctx, releaseMax, "the reservation to end", func() (bool, string) {
		var err error
		if r, err = query[api.Reservation](ctx, t, "show", r.ID); err != nil {
			return false, err.Error()
		}
		return r.State == api.StateEnded, string(r.State) + " " + r.Message
	})
	if err != nil {
		explain(b, t, r.ID)
		b.Fatal(err)
	}
	sum["release"] += time.Since(began)
	leases, err := query[api.List[api.Lease]](ctx, t, "lease", "list")
	if err != nil || len(leases.Items) != 0 {
		b.Errorf("after the release leases are held: %v, %v", leases.Items, err)
	}
	for _, h := range t.Hosts {
		if left, err := processes(ctx, h, "qemu-system-x86_64"); err != nil || len(left) != 0 {
			b.Errorf("after the release %d guests run at %s: %v", len(left), h.Name, err)
		}
	}
}

// bareBoot boots the guest once from a copy of its image, without us.
func bareBoot(b *testing.B, t *testbed.Testbed, g guest, seed string, sum map[string]time.Duration) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bareMax)
	defer cancel()
	// On this side of the page cache, as the volumes are: b.TempDir may be memory.
	dir, err := os.MkdirTemp(bed.root, "bare-")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	disk, console := filepath.Join(dir, "disk.img"), filepath.Join(dir, "console.log")
	began := time.Now()
	if err := copyRoot(ctx, g, disk); err != nil {
		b.Fatal(err)
	}
	sum["bare-copy"] += time.Since(began)

	accel, err := accelOf(ctx, t)
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("bare boot: load %s", loadNow())
	began = time.Now()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", g.bareArgs(accel, disk, seed, console)...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	// The guest must not outlive a benchmark that was killed. The signal comes
	// when the starting thread ends, so the benchmark keeps its thread.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for _, w := range []struct{ line, metric string }{{consoleSSH, "bare-ssh"}, {consoleHome, "bare-home"}} {
		for {
			text, _ := os.ReadFile(console)
			if strings.Contains(string(text), w.line) {
				break
			}
			if ctx.Err() != nil || syscall.Kill(cmd.Process.Pid, 0) != nil {
				b.Fatalf("the bare guest did not say %q: %s\n%s", w.line, said.String(), tailOf(console))
			}
			time.Sleep(20 * time.Millisecond)
		}
		sum[w.metric] += time.Since(began)
	}
	u, err := usageOf(cmd.Process.Pid)
	if err != nil {
		b.Fatal(err)
	}
	sum["bare-cpu"] += u.cpu
}

// copyRoot makes a disk of the guest's image: the root file system lies where
// one of the hosts keeps the image whole.
func copyRoot(ctx context.Context, g guest, disk string) error {
	digest := filepath.Base(filepath.Dir(g.kernel))
	roots, err := filepath.Glob(filepath.Join(bed.root, "images", "h*", digest, "root.img"))
	if err != nil || len(roots) == 0 {
		return fmt.Errorf("find the root of image %s: %d found, %v", digest, len(roots), err)
	}
	if out, err := exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", roots[0], disk).CombinedOutput(); err != nil {
		return fmt.Errorf("copy image: %w: %s", err, out)
	}
	if err := os.Truncate(disk, diskBytes); err != nil {
		return fmt.Errorf("grow disk: %w", err)
	}
	return nil
}

// accelOf is how the hosts run their guests.
func accelOf(ctx context.Context, t *testbed.Testbed) (string, error) {
	hosts, err := query[api.List[api.Host]](ctx, t, "host", "list")
	if err != nil {
		return "", fmt.Errorf("ask how guests run: %w", err)
	}
	if len(hosts.Items) == 0 {
		return "", errors.New("ask how guests run: there are no hosts")
	}
	return hosts.Items[0].Accel, nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}
