package cli

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"vcn/api"
)

// Output forms.
const (
	outputTable = "table"
	outputJSON  = "json"
	outputYAML  = "yaml"
)

// globalFlags are those that every command takes.
type globalFlags struct {
	context string
	config  string
	hosts   []string
	token   string
	output  string
}

func (g *globalFlags) check() error {
	if !slices.Contains([]string{outputTable, outputJSON, outputYAML}, g.output) {
		value := g.output
		g.output = outputTable
		return usage("a flag's value is not right", "", api.FieldError{Field: "--output", Value: value, Want: "table, json or yaml"})
	}
	return nil
}

const rootLong = `vcnctl reserves virtual clusters, watches them come up, logs in to them and gives
them back. It talks to any host of a cluster of hosts; when one is lost it goes
on with the next.

Settings come from flags, then VCN_CONFIG, VCN_HOST (several with commas) and
VCN_TOKEN, then the context in use (see: vcnctl context --help).

Times are shown and read in your time zone: that of TZ, or this machine's.

Exit codes: 0 done; 1 error; 2 wrong usage or input; 3 no capacity (no fit);
4 not found; 5 no host can serve now; 130 interrupted. vcnctl ssh exits with
ssh's code.`

// root builds the whole command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "vcnctl",
		Short: "Reserve and use virtual clusters",
		Long:  rootLong,
		Example: examples(
			"Remember a cluster of hosts by the token its operator gave you", "vcnctl context add lab --host https://192.0.2.10:7443 --token vcn.project.…",
			"Four workers with Slurm for eight hours, from now on", "vcnctl reserve mine --workers 4 --memory 2GiB --for 8h --rolls slurm --wait",
			"When could I have it?", "vcnctl when mine --workers 8..16 --for 4h..8h",
			"Log in", "vcnctl ssh mine",
			"Give it back", "vcnctl release mine"),
		SilenceUsage: true, SilenceErrors: true,
		Args: func(cmd *cobra.Command, args []string) error { return unknownCommand(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := root.PersistentFlags()
	f.StringVar(&a.flags.context, "context", "", "context to use instead of the current one")
	f.StringVar(&a.flags.config, "config", "", "file of contexts (default $XDG_CONFIG_HOME/vcn/config.yaml)")
	f.StringSliceVar(&a.flags.hosts, "host", nil, "API address of a host, as https://ADDRESS:PORT; may be repeated")
	f.StringVar(&a.flags.token, "token", "", "bearer token (seen by others in the list of processes; rather use VCN_TOKEN)")
	f.StringVarP(&a.flags.output, "output", "o", outputTable, "output form: table, json or yaml")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return flagError(cmd.CommandPath(), err) })
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{outputTable, outputJSON, outputYAML}, cobra.ShellCompDirectiveNoFileComp))

	root.AddCommand(
		a.reserveCommand(), a.whenCommand(), a.offerCommand(), a.listCommand(), a.showCommand(), a.watchCommand(), a.explainCommand(),
		a.sshCommand(), a.changeCommand(), a.extendCommand(), a.shrinkCommand(), a.growCommand(),
		a.parkCommand(), a.resumeCommand(), a.releaseCommand(), a.seriesCommand(), a.calendarCommand(), a.simulateCommand(), a.policyCommand(),
		a.hostCommand(), a.leaseCommand(), a.imageCommand(), a.rollCommand(), a.tokenCommand(),
		a.statusCommand(), a.eventsCommand(), a.contextCommand(), a.versionCommand(),
	)
	return root
}

// strictHelpers makes cobra's own commands refuse what they do not know, as the
// others do: by themselves they show help and succeed. It wants root's output
// set, which cobra keeps for them.
func strictHelpers(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "completion":
			c.Args = func(cmd *cobra.Command, args []string) error { return unknownCommand(cmd, args) }
			c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		case "help":
			c.Run = nil
			c.RunE = func(_ *cobra.Command, args []string) error {
				about, rest, err := root.Find(args)
				if err == nil {
					err = unknownCommand(about, rest)
				}
				if err != nil {
					return err
				}
				about.InitDefaultHelpFlag()
				return about.Help()
			}
		}
	}
}

// examples makes cobra's example text of pairs of comment and command.
func examples(pairs ...string) string {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "  # %s\n  %s", pairs[i], pairs[i+1])
	}
	return b.String()
}

// group is a command that only has sub-commands.
func group(use, short, long, example string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example,
		Args: func(cmd *cobra.Command, args []string) error { return unknownCommand(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(subs...)
	return c
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	near := ""
	for distance := 1; distance <= 2 && near == ""; distance++ {
		cmd.SuggestionsMinimumDistance = distance
		if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
			near = "; did you mean " + strings.Join(s, " or ") + "?"
		}
	}
	return usage(fmt.Sprintf("unknown command %q for %q%s", args[0], cmd.CommandPath(), near), "Try: "+cmd.CommandPath()+" --help")
}

// exactly wants n arguments and says what they are.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usage(fmt.Sprintf("%s wants %s, and got %d arguments", cmd.CommandPath(), what, len(args)), "Try: "+cmd.CommandPath()+" --help")
		}
		return nil
	}
}

// atMost wants up to n arguments.
func atMost(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return usage(fmt.Sprintf("%s wants %s, and got %d arguments", cmd.CommandPath(), what, len(args)), "Try: "+cmd.CommandPath()+" --help")
		}
		return nil
	}
}

// versionInfo is what vcnctl version shows.
type versionInfo struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Revision string `json:"revision,omitempty"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of vcnctl", Long: "Shows the version of vcnctl itself; that of the host that answers is in: vcnctl status.",
		Example: examples("Version, for a script", "vcnctl version -o json"),
		Args:    exactly(0, "no arguments"),
		RunE: a.run(func(context.Context, []string) error {
			v := versionInfo{Version: Version}
			if info, ok := debug.ReadBuildInfo(); ok {
				v.Go = info.GoVersion
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v.Revision = s.Value
					}
				}
			}
			return a.print(v, func() {
				fmt.Fprintln(a.stdout, strings.TrimSpace("vcnctl "+v.Version+" "+v.Revision))
			})
		}),
	}
}
