package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vcn/api"
	"vcn/api/client"
)

const reserveLong = `Reserves a virtual cluster: a frontend, workers, a private network and disks for
one slot. What it shall be comes from a specification (-f, YAML or JSON, - for
stdin) or from flags. With -f, NAME, --project, --start, --end and --for replace
what the file says.

Without --wait it returns as soon as the reservation is booked. With --wait it
shows the progress until the cluster can be used; Ctrl-C then ends the waiting,
not the reservation.`

const reserveSpecExample = `  # A specification
  cat > spec.yaml <<END
  name: rendering
  slot: {start: 2030-12-01T09:00+09:00, for: 30d}
  frontend: {cpus: 2, memory: 4GiB, disk: 40GiB}
  workers:
    - {name: compute, count: 100, cpus: 4, memory: 8GiB, disk: 40GiB}
  rolls: [slurm]
  users:
    - {name: alice, keys: ["ssh-ed25519 AAAA… alice@studio"], admin: true}
  END
  vcnctl reserve -f spec.yaml --dry-run
  vcnctl reserve -f spec.yaml --wait
`

// reserveFlags are the short form of a specification.
type reserveFlags struct {
	file            string
	project         string
	start, end, len string
	workers         int
	shape, frontend api.NodeShape
	home            api.Quantity
	rolls, keys     []string
	user            string
	admin           bool

	dryRun, wait bool
	waitMax      spanValue
}

// shapeFlags are those that a specification file replaces.
var shapeFlags = []string{"workers", "cpus", "memory", "disk", "frontend-cpus", "frontend-memory", "frontend-disk", "home", "rolls", "user", "key", "admin"}

func (a *app) reserveCommand() *cobra.Command {
	var f reserveFlags
	c := &cobra.Command{
		Use:   "reserve [NAME]",
		Short: "Reserve a virtual cluster",
		Long:  reserveLong,
		Example: reserveSpecExample + examples(
			"Four workers with Slurm for eight hours, from now on", "vcnctl reserve mine --workers 4 --cpus 2 --memory 2GiB --for 8h --rolls slurm --key ~/.ssh/id_ed25519.pub --wait",
			"From stdin, for a script", "generate-spec | vcnctl reserve -f - -o json"),
		Args: atMost(1, "at most a NAME"),
	}
	c.RunE = a.run(func(ctx context.Context, args []string) error { return a.reserve(ctx, f, args, c.Flags()) })
	fl := c.Flags()
	fl.StringVarP(&f.file, "file", "f", "", "specification, YAML or JSON; - for stdin")
	fl.StringVar(&f.project, "project", "", "project that pays (default: the token's)")
	fl.StringVar(&f.start, "start", "", "asap, or a time with a zone, such as 2030-12-01T09:00+09:00 (default asap)")
	fl.StringVar(&f.end, "end", "", "end of the slot, a time with a zone")
	fl.StringVar(&f.len, "for", "", "length of the slot, such as 90m, 8h, 30d, 2w")
	fl.IntVar(&f.workers, "workers", 1, "number of workers, 1-1000")
	fl.IntVar(&f.shape.CPUs, "cpus", 0, "cores of each worker, 1-255 (default 1)")
	fl.Var((*quantityValue)(&f.shape.Memory), "memory", "memory of each worker, 256MiB-4TiB (default 512MiB)")
	fl.Var((*quantityValue)(&f.shape.Disk), "disk", "disk of each worker, 4GiB-16TiB (default 4GiB)")
	fl.IntVar(&f.frontend.CPUs, "frontend-cpus", 0, "cores of the frontend (default 1)")
	fl.Var((*quantityValue)(&f.frontend.Memory), "frontend-memory", "memory of the frontend (default 512MiB)")
	fl.Var((*quantityValue)(&f.frontend.Disk), "frontend-disk", "disk of the frontend (default 4GiB)")
	fl.Var((*quantityValue)(&f.home), "home", "size of the shared home (default: what the frontend's disk leaves)")
	fl.StringSliceVar(&f.rolls, "rolls", nil, "rolls, as slurm or slurm@1.2, with commas")
	fl.StringVar(&f.user, "user", "", "account on the cluster (default: yours here)")
	fl.StringArrayVar(&f.keys, "key", nil, "file of an ssh public key; may be repeated (default: ~/.ssh/id_ed25519.pub, id_ecdsa.pub or id_rsa.pub)")
	fl.BoolVar(&f.admin, "admin", true, "let the user use sudo on the nodes")
	fl.BoolVar(&f.dryRun, "dry-run", false, "say what would be booked, and book nothing")
	fl.BoolVar(&f.wait, "wait", false, "wait until the cluster can be used, with progress")
	fl.Var(&f.waitMax, "wait-timeout", "stop waiting after this long, such as 30m (default: wait as long as it takes)")
	return c
}

func (a *app) reserve(ctx context.Context, f reserveFlags, args []string, set *pflag.FlagSet) error {
	switch {
	case f.wait && f.dryRun:
		return usage("--wait and --dry-run exclude each other", "A dry run books nothing that could be waited for")
	case set.Changed("wait-timeout") && !f.wait:
		return usage("--wait-timeout is for --wait", "Add --wait, or leave it out")
	}
	spec, err := a.specOf(f, args, set)
	if err != nil {
		return err
	}
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if f.dryRun {
		done := a.patience("the plan")
		plan, err := c.DryRun(ctx, spec)
		done()
		if err != nil {
			return err
		}
		return a.print(plan, func() { a.showPlan(spec, plan) })
	}
	began := a.now()
	done := a.patience("the reservation to be planned and booked")
	r, err := c.Reserve(ctx, spec, client.NewKey())
	done()
	if err != nil {
		if ctx.Err() != nil {
			a.note("whether %s was booked is not known; see: vcnctl show %s", spec.Name, spec.Name)
		}
		return err
	}
	if !f.wait {
		return a.print(r, func() {
			fmt.Fprintf(a.stdout, "Reserved %s (%s): %s to %s, %s.\n", r.Name, r.ID, a.clockTime(r.Start), a.clockTime(r.End), r.State)
			fmt.Fprintf(a.stdout, "Watch it come up: vcnctl watch %s\n", r.Name)
		})
	}
	return a.reserveWait(ctx, c, r, time.Duration(f.waitMax), began)
}

// reserveWait follows a booked reservation until it can be used.
func (a *app) reserveWait(ctx context.Context, c *client.Client, r api.Reservation, waitMax time.Duration, began time.Time) error {
	a.note("reserved %s (%s): %s to %s", r.Name, r.ID, a.clockTime(r.Start), a.clockTime(r.End))
	waiting, cancel := ctx, context.CancelFunc(func() {})
	if waitMax > 0 {
		waiting, cancel = context.WithTimeout(ctx, waitMax)
	}
	defer cancel()
	booked := r
	r, _, err := a.follow(waiting, c, r.ID, a.stderr)
	if r.ID == "" { // not seen even once
		r = booked
	}
	switch {
	case ctx.Err() != nil:
		return interrupted(fmt.Sprintf("interrupted; the reservation %s goes on", r.Name), goesOn(r.Name))
	case waiting.Err() != nil:
		return &api.Problem{Status: 504, Code: api.CodeInternal,
			Detail: fmt.Sprintf("%s is not ready after %s; it is %s, and the reservation goes on", r.Name, span(waitMax), r.State), Next: goesOn(r.Name)}
	case err != nil:
		return err
	}
	if err := outcome(r, true); err != nil {
		return err
	}
	return a.print(r, func() {
		a.showLogin(r)
		fmt.Fprintf(a.stdout, "Total time: %s\n", span(a.now().Sub(began)))
	})
}

func goesOn(name string) string {
	return fmt.Sprintf("  watch it:   vcnctl watch %s\n  release it: vcnctl release %s", name, name)
}

// specOf makes the specification of file or flags, complete and valid.
func (a *app) specOf(f reserveFlags, args []string, set *pflag.FlagSet) (api.Spec, error) {
	var spec api.Spec
	var err error
	if f.file != "" {
		for _, name := range shapeFlags {
			if set.Changed(name) {
				return spec, usage(fmt.Sprintf("--%s and --file exclude each other", name), "Write it in the specification")
			}
		}
		spec, err = a.readSpecFile(f.file)
	} else {
		if errs := zeroSizes(f, set); len(errs) > 0 {
			return spec, usage("the reservation is not right", "Try: vcnctl reserve --help", errs...)
		}
		spec, err = a.specOfFlags(f)
	}
	if err != nil {
		return spec, err
	}
	if len(args) == 1 {
		spec.Name = args[0]
	}
	if f.project != "" {
		spec.Project = f.project
	}
	if f.start != "" {
		spec.Slot.Start = f.start
	}
	if f.end != "" && f.len != "" {
		return spec, usage("--end and --for exclude each other", "Give one of them")
	}
	if f.end != "" || f.len != "" {
		spec.Slot.End, spec.Slot.For = f.end, f.len
	}
	spec = spec.Defaults()
	if errs := spec.Validate(); len(errs) > 0 {
		if f.file == "" {
			return spec, usage("the reservation is not right", "Try: vcnctl reserve --help", toFlags(errs)...)
		}
		p := api.Invalid(fmt.Sprintf("%s: the specification is not right", fileName(f.file)), errs)
		p.Next = "Nothing was changed. Correct it and try again."
		return spec, p
	}
	return spec, nil
}

func fileName(f string) string {
	if f == "-" {
		return "stdin"
	}
	return f
}

func (a *app) readSpecFile(path string) (api.Spec, error) {
	in := a.stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return api.Spec{}, usage("cannot read the specification: "+err.Error(), "Check the path after --file")
		}
		defer file.Close()
		in = file
	}
	spec, err := api.ReadSpec(in)
	var p *api.Problem
	if errors.As(err, &p) {
		p.Detail = fileName(path) + ": " + p.Detail
		p.Next = "Nothing was changed. An example is in: vcnctl reserve --help"
	} else if err != nil {
		err = usage("cannot read the specification: "+err.Error(), "Check the path after --file")
	}
	return spec, err
}

// zeroSizes are flags that were given and would silently mean the default.
func zeroSizes(f reserveFlags, set *pflag.FlagSet) (errs []api.FieldError) {
	given := api.Spec{Frontend: f.frontend, Workers: []api.WorkerGroup{{NodeShape: f.shape}}}
	wrong := map[string]api.FieldError{} // by flag
	for _, e := range toFlags(given.Validate()) {
		wrong[e.Field] = e
	}
	for _, name := range []string{"cpus", "memory", "disk", "frontend-cpus", "frontend-memory", "frontend-disk"} {
		fl := set.Lookup(name)
		if e, ok := wrong["--"+name]; ok && fl.Changed && (fl.Value.String() == "" || fl.Value.String() == "0") {
			errs = append(errs, e)
		}
	}
	return errs
}

func (a *app) specOfFlags(f reserveFlags) (api.Spec, error) {
	user := f.user
	if user == "" {
		user = a.getenv("USER")
	}
	keys, err := a.readKeys(f.keys)
	if err != nil {
		return api.Spec{}, err
	}
	return api.Spec{
		Slot:     api.Slot{Start: api.StartAsap},
		Frontend: f.frontend,
		Workers:  []api.WorkerGroup{{Count: f.workers, NodeShape: f.shape}},
		Rolls:    f.rolls,
		Home:     f.home,
		Users:    []api.User{{Name: user, Keys: keys, Admin: f.admin}},
	}, nil
}

// toFlags names the flags that wrong fields came from.
func toFlags(errs []api.FieldError) []api.FieldError {
	names := map[string]string{
		"name": "NAME", "project": "--project", "slot.start": "--start", "slot.end": "--end", "slot.for": "--for",
		"workers[0].count": "--workers", "workers[0].cpus": "--cpus", "workers[0].memory": "--memory", "workers[0].disk": "--disk",
		"frontend.cpus": "--frontend-cpus", "frontend.memory": "--frontend-memory", "frontend.disk": "--frontend-disk",
		"home": "--home", "users[0].name": "--user", "users[0].keys": "--key",
	}
	for i, e := range errs {
		if n, ok := names[e.Field]; ok {
			errs[i].Field = n
		} else if strings.HasPrefix(e.Field, "rolls") {
			errs[i].Field = "--rolls"
		} else if strings.HasPrefix(e.Field, "users[0].keys") {
			errs[i].Field = "--key"
		}
		if e.Field == "slot.for" && e.Value == "" {
			errs[i].Want = "a length such as 90m, 8h, 30d or 2w (or --end)"
		}
	}
	return errs
}

// defaultKeys are looked for in ~/.ssh when no key is given.
var defaultKeys = []string{"id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"}

// readKeys reads public key files; a value that is a key itself is taken.
func (a *app) readKeys(paths []string) ([]string, error) {
	home := a.getenv("HOME")
	if len(paths) == 0 {
		for _, n := range defaultKeys {
			p := filepath.Join(home, ".ssh", n)
			if _, err := os.Stat(p); err == nil && home != "" {
				paths = []string{p}
				break
			}
		}
	}
	if len(paths) == 0 {
		return nil, usage("no ssh public key was found in ~/.ssh", "Make one with ssh-keygen, or give one with --key FILE")
	}
	var keys []string
	for _, p := range paths {
		if strings.HasPrefix(p, "ssh-") || strings.HasPrefix(p, "ecdsa-") || strings.HasPrefix(p, "sk-") {
			keys = append(keys, p)
			continue
		}
		if rest, ok := strings.CutPrefix(p, "~/"); ok && home != "" {
			p = filepath.Join(home, rest)
		}
		found, err := keysOfFile(p)
		if err != nil {
			return nil, err
		}
		keys = append(keys, found...)
	}
	return keys, nil
}

func keysOfFile(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usage("cannot read the ssh public key: "+err.Error(), "Check the path after --key")
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, api.SpecSizeMax))
	if err != nil {
		return nil, usage("cannot read the ssh public key: "+err.Error(), "Check the path after --key")
	}
	if strings.Contains(string(b), "PRIVATE KEY") {
		return nil, usage("a private key was given", "", api.FieldError{Field: "--key", Value: path, Want: "the public key: " + path + ".pub"})
	}
	var keys []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			keys = append(keys, line)
		}
	}
	if len(keys) == 0 {
		return nil, usage("there is no key in the file", "", api.FieldError{Field: "--key", Value: path, Want: "a file with an ssh public key"})
	}
	return keys, nil
}

// quantityValue and spanValue are flags.
type quantityValue api.Quantity

func (q *quantityValue) String() string {
	if *q == 0 {
		return ""
	}
	return api.Quantity(*q).String()
}
func (q *quantityValue) Type() string { return "size" }
func (q *quantityValue) Set(s string) error {
	v, err := api.ParseQuantity(s)
	*q = quantityValue(v)
	return err
}

type spanValue time.Duration

func (d *spanValue) String() string {
	if *d == 0 {
		return ""
	}
	return api.FormatDuration(time.Duration(*d))
}
func (d *spanValue) Type() string { return "length" }
func (d *spanValue) Set(s string) error {
	v, err := api.ParseDuration(s)
	*d = spanValue(v)
	return err
}
