package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vcn/api"
	"vcn/api/client"
)

// withClient runs f with a connected client.
func (a *app) withClient(ctx context.Context, f func(c *client.Client) error) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

// asking is withClient for one question: it says so when the answer is slow.
func asking[T any](ctx context.Context, a *app, what string, ask func(*client.Client) (T, error)) (answer T, err error) {
	err = a.withClient(ctx, func(c *client.Client) error {
		done := a.patience(what)
		defer done()
		answer, err = ask(c)
		return err
	})
	return answer, err
}

// completeReservation offers the names of live reservations to the shell.
func (a *app) completeReservation(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, args, func(ctx context.Context, c *client.Client) (names []string, err error) {
		list, err := c.Reservations(ctx, "", false)
		for _, r := range list {
			names = append(names, r.Name)
		}
		return names, err
	})
}

// complete offers names for a command's first argument, if a host answers soon.
func (a *app) complete(cmd *cobra.Command, args []string, ask func(context.Context, *client.Client) ([]string, error)) (names []string, _ cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	_ = a.withClient(ctx, func(c *client.Client) (err error) {
		names, err = ask(ctx, c)
		return err
	})
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) listCommand() *cobra.Command {
	var all bool
	var project string
	c := &cobra.Command{
		Use: "list", Short: "List reservations", Long: "Lists the reservations that the token may see.",
		Example: examples("Live ones", "vcnctl list", "Those that are over too, of one project", "vcnctl list --all --project studio"),
		Args:    exactly(0, "no arguments"),
		RunE: a.run(func(ctx context.Context, _ []string) error {
			list, err := asking(ctx, a, "the list", func(c *client.Client) ([]api.Reservation, error) { return c.Reservations(ctx, project, all) })
			if err != nil {
				return err
			}
			return printList(a, list, []string{"NAME", "PROJECT", "STATE", "START", "END", "NODES", "FRONTEND", "ID", "NOTE"}, func(r api.Reservation) []string {
				return []string{r.Name, r.Project, stateText(r), a.clockTime(r.Start), a.clockTime(r.End), nodesText(r), addressOf(r), r.ID, a.noteOf(r)}
			})
		}),
	}
	c.Flags().BoolVar(&all, "all", false, "also those that are over")
	c.Flags().StringVar(&project, "project", "", "of this project only")
	return c
}

// stateText is the state with its conditions.
func stateText(r api.Reservation) string {
	s := string(r.State)
	for _, c := range r.Conditions {
		s += "," + c.Type
	}
	return s
}

// nodesText is ready nodes of all.
func nodesText(r api.Reservation) string {
	ready := 0
	for _, n := range r.Nodes {
		if n.State == "ready" {
			ready++
		}
	}
	return fmt.Sprintf("%d/%d", ready, len(r.Nodes))
}

func addressOf(r api.Reservation) string {
	if r.Frontend == nil {
		return ""
	}
	return r.Frontend.Address
}

func (a *app) showCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a reservation", Long: "Shows a reservation, by name or id: state, slot, nodes and phases.",
		Example: examples("All about it", "vcnctl show mine", "Its private subnet, for a script", "vcnctl show mine -o json | jq -r .subnet"),
		Args:    exactly(1, "a NAME"), ValidArgsFunction: a.completeReservation,
		RunE: a.run(func(ctx context.Context, args []string) error {
			r, err := asking(ctx, a, "the reservation", func(c *client.Client) (api.Reservation, error) {
				r, _, err := c.Reservation(ctx, args[0], 0, 0)
				return r, err
			})
			if err != nil {
				return err
			}
			return a.print(r, func() { a.showReservation(r) })
		}),
	}
}

func (a *app) showReservation(r api.Reservation) {
	vlan := ""
	if r.VLAN != 0 {
		vlan = strconv.Itoa(r.VLAN)
	}
	state := string(r.State)
	if r.Message != "" {
		state += " (" + r.Message + ")"
	}
	begins := a.clockTime(r.Provision)
	if r.State == api.StateWaitlisted || r.State == api.StateParked {
		begins = "" // nothing is booked
	}
	a.pairs("Name", r.Name, "ID", r.ID, "Project", r.Project, "State", state,
		"Slot", a.clockTime(r.Start)+" to "+a.clockTime(r.End), "Zone", r.Zone, "Series", r.Series,
		"Provisioning from", begins, "Lead time", r.Lead, "Usable", a.usableLine(r), "Hosts", a.heldText(r),
		"Waitlist", a.waitLine(r), "At end", atEndText(r.Spec.AtEnd), "Parked until", a.parkedUntil(r), "Change", a.changeText(r.Change),
		"Rolls", strings.Join(r.Rolls, " "), "VLAN", vlan, "Subnet", r.Subnet, "Frontend", addressOf(r))
	for _, c := range r.Conditions {
		a.pairs("Condition", fmt.Sprintf("%s since %s: %s", c.Type, a.clockTime(c.Since), c.Message))
	}
	if len(r.Nodes) > 0 {
		fmt.Fprint(a.stdout, "\n"+a.nodeTable(r.Nodes))
	}
	if len(r.Phases) > 0 {
		fmt.Fprint(a.stdout, "\n"+a.phaseTable(r.Phases))
	}
	if r.State == api.StateReady || r.State == api.StateActive {
		fmt.Fprintln(a.stdout)
		a.showLogin(r)
	}
}

func (a *app) nodeTable(nodes []api.Node) string {
	rows := make([][]string, len(nodes))
	for i, n := range nodes {
		rows[i] = []string{n.Name, n.State, n.Host, n.Storage, n.PrivateIP, n.PublicIP, strconv.Itoa(n.CPUs), n.Memory.Short(), n.Disk.Short(), n.Message}
	}
	return renderTable([]string{"NODE", "STATE", "HOST", "STORAGE", "PRIVATE", "PUBLIC", "CPUS", "MEMORY", "DISK", "MESSAGE"}, rows)
}

func (a *app) phaseTable(phases []api.Phase) string {
	rows := make([][]string, len(phases))
	for i, p := range phases {
		rows[i] = []string{p.Name, p.Start.In(a.zone).Format("15:04:05"), a.phaseTook(p), p.Note}
	}
	return renderTable([]string{"PHASE", "SINCE", "TOOK", "NOTE"}, rows)
}

func (a *app) phaseTook(p api.Phase) string {
	if p.End == nil {
		return span(a.now().Sub(p.Start)) + " so far"
	}
	return span(p.End.Sub(p.Start))
}

func (a *app) showLogin(r api.Reservation) {
	if r.Frontend == nil {
		return
	}
	user := ""
	if len(r.Spec.Users) > 0 {
		user = " (as " + r.Spec.Users[0].Name + ")"
	}
	fmt.Fprintf(a.stdout, "Log in: vcnctl ssh %s%s\n", r.Name, user)
}

func (a *app) showPlan(name string, p api.Plan) {
	fmt.Fprintf(a.stdout, "%s fits. Nothing was booked.\n", oneLine(name))
	a.pairs("Slot", a.clockTime(p.Start)+" to "+a.clockTime(p.End), "Provisioning from", a.clockTime(p.Provision),
		"Lead time", p.Lead, "Usable", a.planUsable(p), "Rolls", strings.Join(p.Rolls, " "))
	fmt.Fprint(a.stdout, "\n"+a.nodeTable(p.Nodes))
	if len(p.Images) > 0 {
		rows := make([][]string, len(p.Images))
		for i, m := range p.Images {
			rows[i] = imageRow(m)
		}
		fmt.Fprint(a.stdout, "\n"+renderTable(imageHeader, rows))
	}
}

func (a *app) releaseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "release NAME", Short: "End a reservation now",
		Long:    "Ends a reservation now, by name or id, in whatever state: its nodes stop and its disks are deleted.",
		Example: examples("Give it back", "vcnctl release mine", "And see it go", "vcnctl release mine && vcnctl watch mine"),
		Args:    exactly(1, "a NAME"), ValidArgsFunction: a.completeReservation,
		RunE: a.run(func(ctx context.Context, args []string) error {
			r, err := asking(ctx, a, "the release", func(c *client.Client) (api.Reservation, error) { return c.Release(ctx, args[0]) })
			if err != nil {
				return err
			}
			return a.print(r, func() { fmt.Fprintf(a.stdout, "Released %s (%s): %s.\n", r.Name, r.ID, r.State) })
		}),
	}
}
