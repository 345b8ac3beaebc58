package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vcn/api"
)

// specFlags are the short form of a specification.
type specFlags struct {
	file            string
	project         string
	slot            slotFlags
	end             endFlags
	workers         int
	shape, frontend api.NodeShape
	home            api.Quantity
	rolls, keys     []string
	user            string
	admin           bool
}

// shapeFlags are those that a specification file replaces.
var shapeFlags = []string{"workers", "cpus", "memory", "disk", "frontend-cpus", "frontend-memory", "frontend-disk", "home", "rolls", "user", "key", "admin"}

// register makes all flags but those whose form differs between commands:
// workers, and the end of the slot.
func (f *specFlags) register(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVarP(&f.file, "file", "f", "", "specification, YAML or JSON; - for stdin")
	fl.StringVar(&f.project, "project", "", "project that pays (default: the token's)")
	f.slot.register(fl)
	f.end.register(c, true)
	shapeFlagSet(fl, &f.shape, "", "each worker", true)
	shapeFlagSet(fl, &f.frontend, "frontend-", "the frontend", true)
	fl.Var((*quantityValue)(&f.home), "home", "size of the shared home (default: what the frontend's disk leaves)")
	fl.StringSliceVar(&f.rolls, "rolls", nil, "rolls, as slurm or slurm@1.2, with commas")
	fl.StringVar(&f.user, "user", "", "account on the cluster (default: yours here)")
	fl.StringArrayVar(&f.keys, "key", nil, "file of an ssh public key; may be repeated (default: ~/.ssh/id_ed25519.pub, id_ecdsa.pub or id_rsa.pub)")
	fl.BoolVar(&f.admin, "admin", true, "let the user use sudo on the nodes")
}

// shapeFlagSet makes the flags of one shape.
func shapeFlagSet(fl *pflag.FlagSet, n *api.NodeShape, prefix, of string, defaults bool) {
	note := func(s string) string {
		if !defaults {
			return ""
		}
		return " (default " + s + ")"
	}
	fl.IntVar(&n.CPUs, prefix+"cpus", 0, fmt.Sprintf("cores of %s, 1-%d%s", of, api.CPUsMax, note("1")))
	fl.Var((*quantityValue)(&n.Memory), prefix+"memory", fmt.Sprintf("memory of %s, %s-%s%s", of, api.MemoryMin, api.MemoryMax, note("512MiB")))
	fl.Var((*quantityValue)(&n.Disk), prefix+"disk", fmt.Sprintf("disk of %s, %s-%s%s", of, api.DiskMin, api.DiskMax, note("4GiB")))
}

// specOf makes the specification of file or flags, complete and valid.
func (a *app) specOf(f specFlags, args []string, set *pflag.FlagSet, command string) (api.Spec, error) {
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
			return spec, usage("the reservation is not right", "Try: "+command+" --help", errs...)
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
	if err := f.slot.apply(a, &spec.Slot); err != nil {
		return spec, err
	}
	end, notify := f.end.apply(set, spec.AtEnd, spec.Notify)
	if end != nil {
		spec.AtEnd = end
	}
	if notify != nil {
		spec.Notify = notify
	}
	spec = spec.Defaults()
	if errs := spec.Validate(); len(errs) > 0 {
		if f.file == "" {
			return spec, usage("the reservation is not right", "Try: "+command+" --help", toFlags(errs)...)
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
func zeroSizes(f specFlags, set *pflag.FlagSet) (errs []api.FieldError) {
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

func (a *app) specOfFlags(f specFlags) (api.Spec, error) {
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
		"name": "NAME", "project": "--project",
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
		} else if n := flagOfField(e.Field); n != "" {
			errs[i].Field = n
		}
		if e.Field == "slot.for" && e.Value == "" {
			errs[i].Want = "a length such as 90m, 8h, 30d or 2w (or --end)"
		}
	}
	return errs
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
