package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vcn/api"
	"vcn/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "vcnd:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	var conf string
	cmd := &cobra.Command{
		Use:           "vcnd",
		Short:         "vcn's daemon: every physical host runs one",
		Version:       daemon.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.PersistentFlags().StringVar(&conf, "config", "/etc/vcn/vcnd.yaml", "configuration file")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError(err) })
	cmd.AddCommand(initCommand(&conf), joinCommand(&conf), runCommand(&conf), targetCommand(&conf))
	return cmd
}

// flagError says of a flag that wants a number what cobra says in terms of the
// parser's functions.
func flagError(err error) error {
	bad, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok || bad.GetFlag().Value.Type() != "int" {
		return err
	}
	return api.FieldError{Field: "--" + bad.GetFlag().Name, Value: bad.GetValue(), Want: "a whole number"}
}

func initCommand(conf *string) *cobra.Command {
	var o daemon.InitOptions
	cmd := &cobra.Command{
		Use:   "init",
		Short: "make a cluster of hosts, with this host as its first",
		Long: `Makes the cluster's certificate authority, this host's identity and the
operator's token. Run it once, on one host; the others join. Then start "vcnd run".`,
		Example: `  vcnd init --name lab --public-pool 192.0.2.10-192.0.2.99/24 --public-gateway 192.0.2.1
  vcnd init --name lab --public-pool 192.0.2.10-192.0.2.99/24 --expect 1   # a single host`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := daemon.LoadConfig(*conf)
			if err != nil {
				return err
			}
			res, err := daemon.Init(c, o)
			if err != nil {
				return err
			}
			tell(cmd.OutOrStdout(), res, o.TokenFile)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.ClusterName, "name", "", "name of the cluster of hosts (required)")
	f.IntVar(&o.Expect, "expect", 3, "voters to wait for before reservations are accepted: 1, 3 or 5")
	f.StringVar(&o.VLANs, "vlans", "100-1099", "VLAN IDs that may be leased to clusters")
	f.StringVar(&o.Subnets, "subnets", "10.64.0.0/10", "network that the clusters' private networks are cut from")
	f.IntVar(&o.SubnetBits, "subnet-bits", 20, "prefix length of one cluster's private network")
	f.StringVar(&o.PublicPool, "public-pool", "", "public addresses for frontends, FIRST-LAST/BITS (required)")
	f.StringVar(&o.PublicGW, "public-gateway", "", "gateway of the public network")
	f.StringVar(&o.TokenFile, "token-file", "", "write the operator's token there, into a new file (mode 0600), instead of printing it")
	for _, n := range []string{"name", "public-pool"} {
		if err := cmd.MarkFlagRequired(n); err != nil {
			panic(err) // the flag was made above
		}
	}
	return cmd
}

func tell(w io.Writer, res daemon.InitResult, tokenFile string) {
	token := res.Token
	if tokenFile != "" {
		token = "\"$(cat " + tokenFile + ")\""
	}
	fmt.Fprintf(w, `cluster %s made; this host is %s
next: start "vcnd run" here, then log in from anywhere:
  vcnctl context add NAME --host %s --token %s
and let the other hosts join:
  vcnctl token create --kind join        # then, on each: vcnd join --host %s --token-file FILE
`, res.ClusterID, res.HostID, res.API, token, res.API)
}

func joinCommand(conf *string) *cobra.Command {
	var hosts []string
	var token, tokenFile string
	cmd := &cobra.Command{
		Use:     "join",
		Short:   "make this host a member of a cluster of hosts",
		Long:    `Asks any host of the cluster, whose CA the token pins, to sign this host's certificate. Then start "vcnd run".`,
		Example: `  vcnd join --host https://10.0.0.1:7443 --token-file join.token`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := daemon.LoadConfig(*conf)
			if err != nil {
				return err
			}
			if tokenFile != "" {
				b, err := os.ReadFile(tokenFile)
				if err != nil {
					return fmt.Errorf("read --token-file: %w", err)
				}
				token = strings.TrimSpace(string(b))
			}
			if token == "" {
				return errors.New(`--token or --token-file: want a join token: make one with "vcnctl token create --kind join"`)
			}
			id, err := daemon.Join(cmd.Context(), c, hosts, token)
			if err != nil {
				return err
			}
			fmt.Printf("host %s (%s) belongs to cluster %s now; start \"vcnd run\"\n", c.Name, id.HostID, id.ClusterID)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&hosts, "host", nil, "API addresses of hosts of the cluster, tried in order (required)")
	f.StringVar(&token, "token", "", "join token; anyone who can list processes sees it: prefer --token-file")
	f.StringVar(&tokenFile, "token-file", "", "file with the join token")
	if err := cmd.MarkFlagRequired("host"); err != nil {
		panic(err) // the flag was made above
	}
	return cmd
}

func runCommand(conf *string) *cobra.Command {
	return &cobra.Command{
		Use:     "run",
		Short:   "run the daemon; SIGTERM ends it and leaves guests, links and disks",
		Example: `  vcnd run --config /etc/vcn/vcnd.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, log, err := prepare(*conf)
			if err != nil {
				return err
			}
			return daemon.Run(cmd.Context(), c, *conf, log)
		},
	}
}

func targetCommand(conf *string) *cobra.Command {
	return &cobra.Command{
		Use:     "target",
		Short:   "run the iSCSI target; \"vcnd run\" starts it by itself on storage hosts",
		Example: `  vcnd target --config /etc/vcn/vcnd.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, log, err := prepare(*conf)
			if err != nil {
				return err
			}
			return daemon.RunTarget(cmd.Context(), c, log)
		},
	}
}

func prepare(conf string) (daemon.Config, *slog.Logger, error) {
	c, err := daemon.LoadConfig(conf)
	if err != nil {
		return c, nil, err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return c, nil, fmt.Errorf("logLevel: %w", err)
	}
	return c, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), nil
}
