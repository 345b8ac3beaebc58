package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"vcn/test/lab"
)

const (
	nameDefault  = "lab"
	nameVariable = "VCN_LAB"
	exitUsage    = 2
)

const help = `vcn-lab runs machines with Debian's cloud kernel for tests of what this
machine's kernel does not have: 802.1Q, LVM, the iSCSI initiator, LIO.

  vcn-lab up [--name NAME] [--memory 1GiB] [--cpus 1] [--disks 4,4GiB[,none]]
        starts a machine, and builds the lab's root once before (a minute)
  vcn-lab exec [--name NAME] BINARY ARGS...
        runs a program of the host in it; made for: go test -exec "vcn-lab exec"
  vcn-lab sh [--name NAME] -- COMMAND ARGS...     runs one of its own programs
  vcn-lab put [--name NAME] FILE PATH             copies a file into it
  vcn-lab get [--name NAME] PATH FILE             and out of it ("-": to standard output)
  vcn-lab log [--name NAME] [--save DIRECTORY]    its console and its journal
  vcn-lab list                                    the machines that are there
  vcn-lab down [--name NAME]                      ends it; its disks are gone
  vcn-lab root                                    builds the root if it is missing

NAME is "lab" unless --name or $VCN_LAB says otherwise. Everything runs as root. Spare
disks (4 of 4 GiB, empty, sparse on the host) are /dev/disk/by-id/virtio-spare0 and so on;
their cache mode is QEMU's (writeback, none, writethrough, unsafe). At its end a program
keeps what it left in the background; when vcn-lab exec or sh is interrupted, all of
it is killed. exec passes on the variables VCN_*, GODEBUG, GORACE and GOTRACEBACK, and copies
the directory testdata, if there is one, beside the program. The root file system is
fresh after every start.

  vcn-lab up
  vcn-lab sh -- lsblk
  CGO_ENABLED=0 go test -tags=lab,hashicorpmetrics -exec "$PWD/build/vcn-lab exec" -run TestLab -v ./hostops/volume
  vcn-lab sh -- sh -c 'vgcreate v /dev/disk/by-id/virtio-spare0 && lvs'
  vcn-lab down
`

// errUsage is a command line that makes no sense; it was explained.
var errUsage = errors.New("see vcn-lab --help")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	var exit *lab.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		os.Exit(exit.Code)
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "vcn-lab:", err)
		os.Exit(exitUsage)
	default:
		fmt.Fprintln(os.Stderr, "vcn-lab:", err)
		os.Exit(1)
	}
}

// command is the flags and the rest of one subcommand.
type command struct {
	flags *flag.FlagSet
	name  string
}

// parse reads flags up to the first word that is none, so that those of a program
// stay its own.
func (c *command) parse(args []string, atLeast int) ([]string, error) {
	c.flags.SetOutput(io.Discard)
	if err := c.flags.Parse(args); err != nil {
		return nil, fmt.Errorf("%s: %w; %w", c.flags.Name(), err, errUsage)
	}
	if c.flags.NArg() < atLeast {
		return nil, fmt.Errorf("%s: %d words are missing; %w", c.flags.Name(), atLeast-c.flags.NArg(), errUsage)
	}
	return c.flags.Args(), nil
}

func (c *command) dir() string { return filepath.Join(lab.StateDir(), c.name) }

// open finds the machine.
func (c *command) open() (*lab.Machine, error) {
	m, err := lab.Open(c.dir())
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no machine %q is up: start it with: vcn-lab up --name %s", c.name, c.name)
	}
	if errors.Is(err, lab.ErrOff) {
		return nil, fmt.Errorf("%w: it has ended; remove it with: vcn-lab down --name %s", err, c.name)
	}
	return m, err
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Print(help)
		return nil
	}
	c := &command{flags: flag.NewFlagSet(args[0], flag.ContinueOnError)}
	def := os.Getenv(nameVariable)
	if def == "" {
		def = nameDefault
	}
	c.flags.StringVar(&c.name, "name", def, "")
	switch args[0] {
	case "help", "-h", "-help", "--help":
		fmt.Print(help)
		return nil
	case "root":
		_, err := lab.BuildRoot(ctx, "", say)
		return err
	case "up":
		return up(ctx, c, args[1:])
	case "exec":
		return execute(ctx, c, args[1:])
	case "sh":
		return shell(ctx, c, args[1:])
	case "put", "get":
		return copyFile(ctx, c, args[0], args[1:])
	case "log":
		return logs(ctx, c, args[1:])
	case "list":
		return list(c, args[1:])
	case "down":
		return down(c, args[1:])
	}
	return fmt.Errorf("%q is no command; %w", args[0], errUsage)
}

var began = time.Now()

func say(line string) { fmt.Fprintf(os.Stderr, "%5.1fs %s\n", time.Since(began).Seconds(), line) }

func up(ctx context.Context, c *command, args []string) error {
	memory := c.flags.String("memory", "1GiB", "")
	cpus := c.flags.Int("cpus", 1, "")
	disks := c.flags.String("disks", "4,4GiB", "")
	if _, err := c.parse(args, 0); err != nil {
		return err
	}
	cfg := lab.Config{Name: c.name, CPUs: *cpus, Dir: c.dir(), Detached: true, Progress: say}
	var err error
	if cfg.MemoryBytes, err = parseBytes(*memory); err != nil {
		return fmt.Errorf("--memory: %w", err)
	}
	if cfg.Disks, err = parseDisks(*disks); err != nil {
		return fmt.Errorf("--disks: %w", err)
	}
	m, err := lab.Open(cfg.Dir)
	switch {
	case err == nil:
		if err := m.Ping(ctx); err != nil {
			return fmt.Errorf("machine %s is there and does not answer: %w", c.name, err)
		}
		say("machine " + c.name + " is up already")
		return nil
	case errors.Is(err, lab.ErrOff):
		if err := m.Close(); err != nil {
			return err
		}
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if err := os.MkdirAll(lab.StateDir(), 0o755); err != nil {
		return err
	}
	_, err = lab.Start(ctx, cfg)
	return err
}

func down(c *command, args []string) error {
	if _, err := c.parse(args, 0); err != nil {
		return err
	}
	m, err := lab.Open(c.dir())
	if errors.Is(err, os.ErrNotExist) {
		say("no machine " + c.name + " is up")
		return nil
	}
	if err != nil && !errors.Is(err, lab.ErrOff) && !errors.Is(err, lab.ErrVersion) {
		return err
	}
	if err := m.Close(); err != nil {
		return err
	}
	say("machine " + c.name + " is gone")
	_ = os.Remove(lab.StateDir()) // if it is empty
	return nil
}

func shell(ctx context.Context, c *command, args []string) error {
	words, err := c.parse(args, 1)
	if err != nil {
		return err
	}
	m, err := c.open()
	if err != nil {
		return err
	}
	return attached(ctx, m, words, "/", nil)
}

func copyFile(ctx context.Context, c *command, what string, args []string) error {
	words, err := c.parse(args, 2)
	if err != nil {
		return err
	}
	m, err := c.open()
	if err != nil {
		return err
	}
	if what == "put" {
		return m.PutFile(ctx, words[0], words[1])
	}
	if words[1] == "-" {
		return m.Get(ctx, words[0], os.Stdout)
	}
	f, err := os.Create(words[1])
	if err != nil {
		return err
	}
	if err := errors.Join(m.Get(ctx, words[0], f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(words[1]))
	}
	return nil
}

func logs(ctx context.Context, c *command, args []string) error {
	dir := c.flags.String("save", "", "")
	if _, err := c.parse(args, 0); err != nil {
		return err
	}
	m, err := lab.Open(c.dir())
	if err != nil && !errors.Is(err, lab.ErrOff) {
		return err
	}
	if *dir != "" {
		files, err := m.SaveLogs(ctx, *dir)
		for _, f := range files {
			say("kept: " + f)
		}
		return err
	}
	console, err := os.ReadFile(m.Console())
	if err != nil {
		return err
	}
	if _, err := os.Stdout.Write(console); err != nil || m.PID() == 0 {
		return err
	}
	return m.Journal(ctx, os.Stdout)
}

func list(c *command, args []string) error {
	if _, err := c.parse(args, 0); err != nil {
		return err
	}
	ds, err := os.ReadDir(lab.StateDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tPROCESS\tMEMORY\tDISKS\tSTATE")
	for _, d := range ds {
		m, err := lab.Open(filepath.Join(lab.StateDir(), d.Name()))
		state := "up"
		if errors.Is(err, lab.ErrOff) {
			state = "off"
		} else if err != nil {
			continue // of a test, or being made
		}
		fmt.Fprintf(w, "%s\t%d\t%d MiB\t%d\t%s\n", strings.TrimSpace(d.Name()), m.PID(), m.MemoryBytes()>>20, m.Disks(), state)
	}
	return w.Flush()
}
