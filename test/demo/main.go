package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"vcn/api"
	"vcn/internal/passable"
	"vcn/test/testbed"
)

const usage = `usage: demo [-dir DIR] [-bin DIR] up|down|purge

up     three hosts, one cluster, one job; leaves the cluster running
down   ends everything and leaves nothing behind but the cache (images, packages)
purge  down, and the cache too
`

func main() {
	dir := flag.String("dir", ".demo", "the demo's directory")
	bin := flag.String("bin", "build", "directory of vcnd, vcnctl and vcn-init")
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage); flag.PrintDefaults() }
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	d, err := newDemo(*dir, *bin)
	if err == nil {
		switch flag.Arg(0) {
		case "up":
			err = d.up(ctx)
		case "down":
			err = d.bed.Down(ctx)
		case "purge":
			if err = d.bed.Down(ctx); err == nil {
				err = os.RemoveAll(d.dir)
			}
		default:
			flag.Usage()
			os.Exit(2)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo is one run.
type demo struct {
	dir, bin string
	bed      *testbed.Testbed
	began    time.Time
	phases   []phase
}

type phase struct {
	name string
	took time.Duration
}

func newDemo(dir, bin string) (*demo, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find demo directory: %w", err)
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return nil, fmt.Errorf("find programs: %w", err)
	}
	bed, err := testbed.New(testbed.Config{
		Name: "vcndemo", Dir: filepath.Join(dir, "run"), Subnet: 0, Hosts: testbed.Default(), Bin: bin,
		ImageCache: filepath.Join(dir, "cache"), Images: filepath.Join(dir, "images"), Out: os.Stdout,
	})
	if err != nil {
		return nil, err
	}
	return &demo{dir: dir, bin: bin, bed: bed, began: time.Now()}, nil
}

// timed runs one phase and remembers how long it took.
func (d *demo) timed(name string, f func() error) error {
	began := time.Now()
	fmt.Printf("\n== %s\n", name)
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	d.phases = append(d.phases, phase{name, time.Since(began)})
	return nil
}

func (d *demo) up(ctx context.Context) (err error) {
	if running, err := d.bed.Running(ctx); err != nil {
		return err
	} else if running {
		return errors.New("a demo is running, with the clusters that were made in it: use it, or end it first with: make demo-stop")
	}
	defer func() {
		// Ctrl-C leaves nothing behind; a failure leaves the logs to look at.
		if err != nil && ctx.Err() != nil {
			fmt.Println("\ninterrupted: taking everything down")
			err = errors.Join(err, d.bed.Down(context.WithoutCancel(ctx)))
		}
	}()
	if err := passable.Mkdir(d.dir); err != nil {
		return fmt.Errorf("make demo directory: %w", err)
	}
	if err := d.timed("three hosts", func() error { _, err := d.bed.Up(ctx); return err }); err != nil {
		return err
	}
	if err := d.timed("images of the frontend and the worker", func() error { return d.show(ctx, "image", "build", "--rolls", "slurm") }); err != nil {
		return err
	}
	warm := time.Now()
	if err := d.timed("reserve a cluster, at a host that does not lead", func() error { return d.reserve(ctx) }); err != nil {
		return err
	}
	if err := d.timed("run a job on both workers", func() error { return d.job(ctx) }); err != nil {
		return err
	}
	d.summary(time.Since(warm))
	return nil
}

// show runs vcnctl with its output on ours.
func (d *demo) show(ctx context.Context, args ...string) error {
	fmt.Printf("$ vcnctl %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "vcnctl"), args...)
	cmd.Env = append(os.Environ(), "VCN_CONFIG="+d.bed.ContextFile())
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run vcnctl %s: %w", args[0], err)
	}
	return nil
}

const specText = `name: demo
project: demo
slot: {start: asap, for: 8h}
frontend: {cpus: 1, memory: 512MiB, disk: 4GiB}
workers:
  - {name: compute, count: 2, cpus: 1, memory: 512MiB, disk: 4GiB}
rolls: [slurm]
users:
  - name: alice
    admin: true
    keys: [%q]
`

// reserve writes the specification and hands it to a host that does not lead.
func (d *demo) reserve(ctx context.Context) error {
	key := d.keyPath()
	if _, err := os.Stat(key); err != nil {
		if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice@demo", "-f", key).CombinedOutput(); err != nil {
			return fmt.Errorf("make alice's key: %w: %s", err, out)
		}
	}
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		return fmt.Errorf("read alice's key: %w", err)
	}
	spec := filepath.Join(d.dir, "demo.yaml")
	if err := os.WriteFile(spec, fmt.Appendf(nil, specText, strings.TrimSpace(string(pub))), 0o600); err != nil {
		return fmt.Errorf("write specification: %w", err)
	}
	host, err := d.notLeader(ctx)
	if err != nil {
		return err
	}
	return d.show(ctx, "--host", host, "reserve", "-f", spec, "--wait")
}

func (d *demo) keyPath() string { return filepath.Join(d.dir, "alice_ed25519") }

func (d *demo) notLeader(ctx context.Context) (string, error) {
	out, err := d.bed.Vcnctl(ctx, "status", "-o", "json")
	if err != nil {
		return "", err
	}
	var st api.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		return "", fmt.Errorf("read status: %w", err)
	}
	i := slices.IndexFunc(d.bed.Hosts, func(h *testbed.Host) bool { return h.Name != st.Leader })
	fmt.Printf("%s leads; asking %s\n", st.Leader, d.bed.Hosts[i].Name)
	return "https://" + d.bed.Hosts[i].API(), nil
}

// job logs in as the user and checks what srun prints.
func (d *demo) job(ctx context.Context) error {
	args := []string{"ssh", "demo", "-i", d.keyPath(), "--", "srun", "-N2", "hostname"}
	fmt.Printf("$ vcnctl %s\n", strings.Join(args, " "))
	out, err := d.bed.Vcnctl(ctx, args...)
	fmt.Print(out)
	if err != nil {
		return err
	}
	got := strings.Fields(out)
	slices.Sort(got)
	if want := []string{"compute-0", "compute-1"}; !slices.Equal(got, want) {
		return fmt.Errorf("the job printed %q, want the two workers' names %q", got, want)
	}
	return nil
}

func (d *demo) summary(warm time.Duration) {
	fmt.Printf("\n== done in %v; from the reservation to the job's output %v\n", time.Since(d.began).Round(100*time.Millisecond), warm.Round(100*time.Millisecond))
	for _, p := range d.phases {
		fmt.Printf("  %8v  %s\n", p.took.Round(100*time.Millisecond), p.name)
	}
	ctl := filepath.Join(d.bin, "vcnctl")
	fmt.Printf(`
The cluster is running. Go on with:
  export VCN_CONFIG=%s
  %s show demo
  %s ssh demo -i %s            # as alice; try: srun -N2 hostname
  %s status; %s host list; %s events
  %s release demo
API documentation: https://%s/docs  (its CA is in the file above)
Logs of the hosts: %s/h*/vcnd.log
Stop everything: make demo-stop
`, d.bed.ContextFile(), ctl, ctl, d.keyPath(), ctl, ctl, ctl, ctl, d.bed.Hosts[0].API(), filepath.Join(d.dir, "run"))
}
