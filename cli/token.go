package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"vcn/api"
	"vcn/api/client"
)

func (a *app) tokenCommand() *cobra.Command {
	return group("token", "Make, list and revoke tokens",
		`A token lets its bearer in: an operator token may do everything, a project token
may reserve for its project, a join token lets new hosts join.`,
		examples("For a project", "vcnctl token create --kind project --project studio --for 90d"),
		a.tokenCreateCommand(), a.tokenListCommand(), a.tokenRevokeCommand())
}

func (a *app) tokenCreateCommand() *cobra.Command {
	var req api.TokenRequest
	var kind string
	c := &cobra.Command{
		Use: "create --kind KIND", Short: "Make a token",
		Long: "Makes a token and writes its text to stdout, this once: the hosts keep only a hash of it.",
		Example: examples("For a project", "vcnctl token create --kind project --project studio --for 90d --note 'render farm'",
			"For a new host", "vcnctl token create --kind join --for 1h > join.token"),
		Args: exactly(0, "no arguments"),
		RunE: a.run(func(ctx context.Context, _ []string) error {
			req.Kind = api.TokenKind(kind)
			if errs := req.Defaults().Validate(); len(errs) > 0 {
				for i := range errs {
					errs[i].Field = "--" + errs[i].Field
				}
				return usage("the token is not right", "Try: vcnctl token create --help", errs...)
			}
			t, err := asking(ctx, a, "the token", func(c *client.Client) (api.Token, error) { return c.CreateToken(ctx, req) })
			if err != nil {
				return err
			}
			return a.print(t, func() {
				a.note("token %s (%s), until %s; its text is shown this once:", t.ID, t.Kind, a.clockTime(t.Expires))
				fmt.Fprintln(a.stdout, t.Secret)
			})
		}),
	}
	c.Flags().StringVar(&kind, "kind", "", "operator, project or join")
	c.Flags().StringVar(&req.Project, "project", "", "project of a project token")
	c.Flags().StringVar(&req.Note, "note", "", "what it is for")
	c.Flags().StringVar(&req.For, "for", "", "its life, 1m-10y (default 1h for join, 90d for project, 1y for operator)")
	_ = c.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions([]string{"operator", "project", "join"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) tokenListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tokens", Long: "Lists tokens, without their secrets.",
		Example: examples("List them", "vcnctl token list"),
		Args:    exactly(0, "no arguments"),
		RunE: a.run(func(ctx context.Context, _ []string) error {
			list, err := asking(ctx, a, "the list", func(c *client.Client) ([]api.Token, error) { return c.ListTokens(ctx) })
			if err != nil {
				return err
			}
			return printList(a, list, []string{"ID", "KIND", "PROJECT", "EXPIRES", "NOTE"}, func(t api.Token) []string {
				expires := a.clockTime(t.Expires)
				if !t.Expires.IsZero() && t.Expires.Before(a.now()) {
					expires += " (expired)"
				}
				return []string{t.ID, string(t.Kind), t.Project, expires, t.Note}
			})
		}),
	}
}

func (a *app) tokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "Revoke a token", Long: "Makes a token worthless at once. Reservations made with it stay.",
		Example: examples("Revoke it", "vcnctl token revoke 0198c1"),
		Args:    exactly(1, "the ID of a token"),
		RunE: a.run(func(ctx context.Context, args []string) error {
			_, err := asking(ctx, a, "the revocation", func(c *client.Client) (struct{}, error) { return struct{}{}, c.RevokeToken(ctx, args[0]) })
			if err != nil {
				return err
			}
			return a.print(struct {
				Revoked string `json:"revoked"`
			}{args[0]}, func() { fmt.Fprintf(a.stdout, "Revoked %s.\n", args[0]) })
		}),
	}
}
