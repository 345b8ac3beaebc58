package cli

import (
	"context"
	"fmt"
	"strings"

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
		Use: "revoke ID", Short: "Revoke a token",
		Long: fmt.Sprintf(`Makes a token worthless at once. Reservations made with it stay. Of the ID, the
first %d characters or more are enough where no other token's begins like that.`, tokenPrefixMin),
		Example: examples("Revoke it", "vcnctl token revoke 0198c1f2-7a"),
		Args:    exactly(1, "the ID of a token"),
		RunE: a.run(func(ctx context.Context, args []string) error {
			id, err := asking(ctx, a, "the revocation", func(c *client.Client) (string, error) {
				id, err := tokenID(ctx, c, args[0])
				if err != nil {
					return "", err
				}
				return id, c.RevokeToken(ctx, id)
			})
			if err != nil {
				return err
			}
			return a.print(struct {
				Revoked string `json:"revoked"`
			}{id}, func() { fmt.Fprintf(a.stdout, "Revoked %s.\n", id) })
		}),
	}
}

const (
	// tokenPrefixMin is how many characters of a token's id are enough to look
	// for it, so that a slip of the hand does not find one.
	tokenPrefixMin = 6
	tokenIDLength  = 36 // a UUID's
)

// tokenID is the id that begins with ref, if it is one token's. Where there is
// none it is ref, for the hosts to refuse.
func tokenID(ctx context.Context, c *client.Client, ref string) (string, error) {
	if len(ref) < tokenPrefixMin || len(ref) >= tokenIDLength {
		return ref, nil
	}
	list, err := c.ListTokens(ctx)
	if err != nil {
		return "", err
	}
	var found []api.Token
	for _, t := range list {
		if t.ID == ref {
			return ref, nil
		}
		if strings.HasPrefix(t.ID, strings.ToLower(ref)) {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 0:
		return ref, nil
	case 1:
		return found[0].ID, nil
	}
	p := &api.Problem{Title: "Usage", Status: 400, Code: api.CodeInvalid, Detail: fmt.Sprintf("%d tokens begin with %s", len(found), ref),
		Next: "Nothing was revoked. Give more of the id."}
	for _, t := range found {
		p.Reasons = append(p.Reasons, strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s", t.ID, t.Kind, t.Project, t.Note)), " "))
	}
	return "", p
}
