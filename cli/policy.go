package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vcn/api"
	"vcn/api/client"
)

func (a *app) policyCommand() *cobra.Command {
	return group("policy", "Look at the policy, and set it", "Looks at what the operator has set for all projects: how long offers are held and volumes parked, and how many.",
		examples("What holds now", "vcnctl policy show"), a.policyShowCommand(), a.policySetCommand())
}

func (a *app) policyShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show the policy", Long: "Shows the policy for all projects.",
		Example: examples("What holds now", "vcnctl policy show"),
		Args:    exactly(0, "no arguments"),
		RunE: a.run(func(ctx context.Context, _ []string) error {
			p, err := asking(ctx, a, "the policy", func(c *client.Client) (api.Policy, error) { return c.Policy(ctx) })
			if err != nil {
				return err
			}
			return a.print(p, func() { a.showPolicy(p) })
		}),
	}
}

func (a *app) showPolicy(p api.Policy) {
	bytes := "unlimited"
	if p.ParkBytes > 0 {
		bytes = p.ParkBytes.Short()
	}
	a.pairs("Longest hold of offers", p.HoldMax, "Holds of one project", strconv.Itoa(p.HoldsMax), "Longest parking", p.ParkMax,
		"Parked volumes of one project", bytes, "Dates of one series", strconv.Itoa(p.SeriesMax), "Waitlisted of one project", strconv.Itoa(p.WaitMax))
}

// policyFlags are the fields of a policy by flag.
var policyFlags = map[string]string{"holdMax": "hold-max", "holdsMax": "holds-max", "parkMax": "park-max", "parkBytes": "park-bytes", "seriesMax": "series-max", "waitMax": "wait-max"}

func (a *app) policySetCommand() *cobra.Command {
	var given api.Policy
	c := &cobra.Command{
		Use: "set", Short: "Set the policy (operators)", Long: "Sets the policy for all projects. What is left out stays.",
		Example: examples("Parking for half a year, of a tebibyte", "vcnctl policy set --park-max 180d --park-bytes 1TiB", "No waitlist", "vcnctl policy set --wait-max 0"),
		Args:    exactly(0, "no arguments"),
	}
	fl := c.Flags()
	fl.StringVar(&given.HoldMax, "hold-max", "", "longest hold of offers, 0s-1h")
	fl.IntVar(&given.HoldsMax, "holds-max", 0, "holds of one project at a time, 0-100")
	fl.StringVar(&given.ParkMax, "park-max", "", "longest parking, 1h-1y")
	fl.Var((*quantityValue)(&given.ParkBytes), "park-bytes", "parked volumes of one project; 0: unlimited")
	fl.IntVar(&given.SeriesMax, "series-max", 0, "dates of one series, 1-400")
	fl.IntVar(&given.WaitMax, "wait-max", 0, "waitlisted reservations of one project, 0-1000")
	c.RunE = a.run(func(ctx context.Context, _ []string) error { return a.policySet(ctx, given, fl) })
	return c
}

func (a *app) policySet(ctx context.Context, given api.Policy, set *pflag.FlagSet) error {
	some := false
	for _, name := range policyFlags {
		some = some || set.Changed(name)
	}
	if !some {
		return usage("nothing is to be set", "Say what: vcnctl policy set --help")
	}
	// What was not given is the default here, which is right: only what was
	// given can be wrong. The hosts hold the rest.
	if err := wrongPolicy(policyOver(api.DefaultPolicy(), given, set)); err != nil {
		return err
	}
	p, err := asking(ctx, a, "the policy", func(c *client.Client) (api.Policy, error) {
		now, err := c.Policy(ctx)
		if err != nil {
			return now, err
		}
		return c.SetPolicy(ctx, policyOver(now, given, set))
	})
	if err != nil {
		return err
	}
	return a.print(p, func() { a.showPolicy(p) })
}

// policyOver is a policy with what was given in its place.
func policyOver(p, given api.Policy, set *pflag.FlagSet) api.Policy {
	for name, put := range map[string]func(){
		"hold-max":   func() { p.HoldMax = given.HoldMax },
		"holds-max":  func() { p.HoldsMax = given.HoldsMax },
		"park-max":   func() { p.ParkMax = given.ParkMax },
		"park-bytes": func() { p.ParkBytes = given.ParkBytes },
		"series-max": func() { p.SeriesMax = given.SeriesMax },
		"wait-max":   func() { p.WaitMax = given.WaitMax },
	} {
		if set.Changed(name) {
			put()
		}
	}
	return p
}

func wrongPolicy(p api.Policy) error {
	errs := p.Validate()
	for i, e := range errs {
		errs[i].Field = "--" + policyFlags[e.Field]
	}
	if len(errs) == 0 {
		return nil
	}
	return usage("the policy is not right", "Nothing was changed.", errs...)
}
