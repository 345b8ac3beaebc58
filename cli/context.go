package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"vcn/api"
	"vcn/api/client"
)

const contextLong = `A context remembers a cluster of hosts: the addresses of its hosts, the
certificate of its CA, and a token. Contexts are kept in
$XDG_CONFIG_HOME/vcn/config.yaml (mode 0600), or where --config or VCN_CONFIG
says.`

func (a *app) contextCommand() *cobra.Command {
	return group("context", "Remember clusters of hosts", contextLong,
		examples("Add one and use it", "vcnctl context add lab --host https://192.0.2.10:7443 --token vcn.project.…"),
		a.contextAddCommand(), a.contextListCommand(), a.contextUseCommand(), a.contextShowCommand(), a.contextRemoveCommand())
}

var contextName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (a *app) contextAddCommand() *cobra.Command {
	var replace, use bool
	c := &cobra.Command{
		Use:   "add NAME --host https://ADDRESS:PORT --token TOKEN",
		Short: "Remember a cluster of hosts",
		Long: `Remembers a cluster of hosts. The host's CA certificate is fetched and pinned,
if it has the fingerprint that the token carries; a host of another cluster is
refused before the token is sent. The addresses of the other hosts are
remembered too, where the token may see them. The first context added becomes
the current one.`,
		Example: examples(
			"Add a cluster", "vcnctl context add lab --host https://192.0.2.10:7443 --token vcn.project.…",
			"The token from a file, not seen in the list of processes", "vcnctl context add lab --host https://192.0.2.10:7443 --token - < token",
			"A new token for it", "vcnctl context add lab --replace --host https://192.0.2.10:7443 --token vcn.project.…"),
		Args: exactly(1, "a NAME"),
		RunE: a.run(func(ctx context.Context, args []string) error { return a.contextAdd(ctx, args[0], replace, use) }),
	}
	c.Flags().BoolVar(&replace, "replace", false, "replace the context of that name")
	c.Flags().BoolVar(&use, "use", false, "make it the current one")
	return c
}

func (a *app) contextAdd(ctx context.Context, name string, replace, use bool) error {
	if !contextName.MatchString(name) {
		return usage("the name is not right", "", api.FieldError{Field: "NAME", Value: name, Want: "1-63 letters, digits, '.', '_' or '-'"})
	}
	cfg, err := a.loadConfig()
	if err != nil {
		return err
	}
	if cfg.find(name) != nil && !replace {
		return usage(fmt.Sprintf("there is a context %q already", name), "Add --replace, or take another name")
	}
	hosts, text, err := a.contextAddInput()
	if err != nil {
		return err
	}
	token, err := api.ParseToken(text)
	if err != nil {
		return usage("the token is not one of vcn: it reads vcn.KIND.….…", "Ask the operator for one, and copy the whole line")
	}
	if token.Kind == api.TokenJoin {
		return usage("a join token is for a new host (vcnd join), not for vcnctl", "Ask the operator for a project token")
	}
	for i := range hosts {
		if hosts[i], err = client.NormalizeHost(hosts[i]); err != nil {
			return err
		}
	}
	done := a.patience("the host's certificate")
	ca, err := fetchAnyCA(ctx, hosts, token.CAFingerprint)
	done()
	if err != nil {
		return err
	}
	status, hosts, err := a.askHost(ctx, hosts, ca, text)
	if err != nil {
		return err
	}
	cfg.Contexts = slices.DeleteFunc(cfg.Contexts, func(s savedContext) bool { return s.Name == name })
	cfg.Contexts = append(cfg.Contexts, savedContext{Name: name, Hosts: hosts, CA: string(ca), Token: text})
	if cfg.Current == "" || use {
		cfg.Current = name
	}
	if err := a.saveConfig(cfg); err != nil {
		return err
	}
	return a.print(viewContext(*cfg.find(name), cfg.Current), func() {
		fmt.Fprintf(a.stdout, "Context %s: cluster %s (%s), %d host addresses, token %s (%s).\n",
			name, printable(status.Name), printable(status.ClusterID), len(hosts), token.ID, token.Kind)
		if cfg.Current != name {
			fmt.Fprintf(a.stdout, "Use it with: vcnctl context use %s\n", name)
		}
	})
}

// contextAddInput takes hosts and token from flags, environment and stdin.
func (a *app) contextAddInput() (hosts []string, token string, err error) {
	hosts, token = slices.Clone(a.flags.hosts), a.flags.token
	if len(hosts) == 0 {
		hosts = splitList(a.getenv("VCN_HOST"))
	}
	if token == "" {
		token = a.getenv("VCN_TOKEN")
	}
	if token == "-" {
		b, err := io.ReadAll(io.LimitReader(a.stdin, 4096))
		if err != nil {
			return nil, "", fmt.Errorf("read token: %w", err)
		}
		token = string(b)
	}
	var missing []api.FieldError
	if len(hosts) == 0 {
		missing = append(missing, api.FieldError{Field: "--host", Want: "the API address of a host, such as https://192.0.2.10:7443"})
	}
	if token == "" {
		missing = append(missing, api.FieldError{Field: "--token", Want: "a token from the operator, or - to read it from stdin"})
	}
	if len(missing) > 0 {
		return nil, "", usage("something is missing", "Try: vcnctl context add --help", missing...)
	}
	return hosts, strings.TrimSpace(token), nil
}

// askHost checks the token and learns the other hosts' addresses.
func (a *app) askHost(ctx context.Context, hosts []string, ca []byte, token string) (api.Status, []string, error) {
	c, err := a.newClient(hosts, ca, token)
	if err != nil {
		return api.Status{}, nil, err
	}
	defer c.Close()
	defer a.patience("the cluster's status")()
	status, err := c.Status(ctx)
	if err != nil {
		return api.Status{}, nil, err
	}
	all, err := c.ListHosts(ctx)
	var p *api.Problem
	if err != nil && !errors.As(err, &p) {
		return api.Status{}, nil, err
	}
	for _, h := range all { // nothing, if the token may not list hosts
		if addr, err := client.NormalizeHost(h.APIAddress); err == nil && !slices.Contains(hosts, addr) && len(hosts) < 16 {
			hosts = append(hosts, addr)
		}
	}
	return status, hosts, nil
}

// contextView is a context without its secrets.
type contextView struct {
	Name          string   `json:"name"`
	Current       bool     `json:"current"`
	Hosts         []string `json:"hosts"`
	ClusterID     string   `json:"clusterId"`
	TokenID       string   `json:"tokenId"`
	TokenKind     string   `json:"tokenKind"`
	CAFingerprint string   `json:"caFingerprint"`
}

func viewContext(s savedContext, current string) contextView {
	v := contextView{Name: s.Name, Current: s.Name == current, Hosts: s.Hosts, CAFingerprint: pemFingerprint([]byte(s.CA))}
	if t, err := api.ParseToken(s.Token); err == nil {
		v.ClusterID, v.TokenID, v.TokenKind = t.ClusterID, t.ID, string(t.Kind)
	}
	return v
}

func (a *app) contextListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List contexts", Long: "Lists contexts, without their secrets.",
		Example: examples("List them", "vcnctl context list"),
		Args:    exactly(0, "no arguments"),
		RunE: a.run(func(context.Context, []string) error {
			cfg, err := a.knownContexts()
			if err != nil {
				return err
			}
			var views []contextView
			for _, s := range cfg.Contexts {
				views = append(views, viewContext(s, cfg.Current))
			}
			return printList(a, views, []string{"CURRENT", "NAME", "HOSTS", "TOKEN", "KIND"}, func(v contextView) []string {
				mark := ""
				if v.Current {
					mark = "*"
				}
				return []string{mark, v.Name, strings.Join(v.Hosts, " "), v.TokenID, v.TokenKind}
			})
		}),
	}
}

// editContext loads, changes a named context, saves, and shows the context.
func (a *app) editContext(name string, change func(*config), said string) error {
	cfg, err := a.knownContexts()
	if err != nil {
		return err
	}
	saved := cfg.find(name)
	if saved == nil {
		return usage("there is no such context", "", api.FieldError{Field: "NAME", Value: name, Want: cfg.names()})
	}
	edited := *saved
	change(&cfg)
	if err := a.saveConfig(cfg); err != nil {
		return err
	}
	return a.print(viewContext(edited, cfg.Current), func() {
		fmt.Fprintf(a.stdout, "Context %s %s.\n", name, said)
		if cfg.Current == "" && len(cfg.Contexts) > 0 {
			fmt.Fprintln(a.stdout, "No context is in use now. Use one with: vcnctl context use NAME")
		}
	})
}

func (a *app) contextUseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Short: "Make a context the current one", Long: "Makes a context the one that commands use without --context.",
		Example: examples("Use it from now on", "vcnctl context use lab"),
		Args:    exactly(1, "a NAME"),
		RunE: a.run(func(_ context.Context, args []string) error {
			return a.editContext(args[0], func(c *config) { c.Current = args[0] }, "is in use")
		}),
	}
}

func (a *app) contextRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Forget a context", Long: "Forgets a context. Its token stays valid: see vcnctl token revoke.",
		Example: examples("Forget it", "vcnctl context remove lab"),
		Args:    exactly(1, "a NAME"),
		RunE: a.run(func(_ context.Context, args []string) error {
			return a.editContext(args[0], func(c *config) {
				c.Contexts = slices.DeleteFunc(c.Contexts, func(s savedContext) bool { return s.Name == args[0] })
				if c.Current == args[0] {
					c.Current = ""
				}
			}, "is forgotten")
		}),
	}
}

func (a *app) contextShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show [NAME]", Short: "Show a context", Long: "Shows a context, the current one by default, without its secrets.",
		Example: examples("What is in use", "vcnctl context show"),
		Args:    atMost(1, "at most a NAME"),
		RunE: a.run(func(_ context.Context, args []string) error {
			if len(args) == 1 {
				a.flags.context = args[0]
			}
			saved, err := a.contextInUse(false)
			if err != nil {
				return err
			}
			cfg, err := a.loadConfig()
			if err != nil {
				return err
			}
			v := viewContext(saved, cfg.Current)
			return a.print(v, func() {
				a.pairs("Name", v.Name, "Cluster", v.ClusterID, "Hosts", strings.Join(v.Hosts, " "),
					"Token", v.TokenID+" ("+v.TokenKind+")", "CA fingerprint", v.CAFingerprint)
			})
		}),
	}
}
