package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"vcn/api"
	"vcn/api/client"
)

func (a *app) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use: "explain NAME", Short: "Say why a reservation is where it is",
		Long: `Says why each node of a reservation is on its host and which hosts were passed
over, or why there is no place for it; how long the slot could be, and what
stands in the way of a longer one.`,
		Example: examples("Why is it there?", "vcnctl explain mine", "How long could it be?", "vcnctl explain mine -o json | jq -r .until"),
		Args:    exactly(1, "a NAME"), ValidArgsFunction: a.completeReservation,
		RunE: a.run(func(ctx context.Context, args []string) error {
			e, err := asking(ctx, a, "the explanation", func(c *client.Client) (api.Explanation, error) { return c.Explain(ctx, args[0]) })
			if err != nil {
				return err
			}
			return a.print(e, func() { a.showExplanation(e) })
		}),
	}
}

func (a *app) showExplanation(e api.Explanation) {
	fmt.Fprintf(a.stdout, "%s (%s) is %s.\n", oneLine(e.Name), e.ID, e.State)
	for _, l := range e.Lines {
		fmt.Fprintln(a.stdout, oneLine(l))
	}
	if len(e.Nodes) > 0 {
		rows := make([][]string, len(e.Nodes))
		for i, n := range e.Nodes {
			rows[i] = []string{n.Node, n.Host, n.Storage, n.Why, strings.Join(n.Passed, "; ")}
		}
		fmt.Fprint(a.stdout, "\n"+renderTable([]string{"NODE", "HOST", "STORAGE", "WHY", "PASSED OVER"}, rows)+"\n")
	}
	if e.Until != nil {
		fmt.Fprintf(a.stdout, "The longest end that is possible now: %s\n", a.clockTime(*e.Until))
	}
	for i, b := range e.Blocked {
		if i == 0 {
			fmt.Fprintln(a.stdout, "In the way of a longer slot:")
		}
		fmt.Fprintln(a.stdout, "  "+oneLine(b))
	}
}
