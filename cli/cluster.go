package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vcn/api"
	"vcn/api/client"
)

// listOf is a command that lists something of the cluster of hosts.
func listOf[T any](a *app, short, long, example string, ask func(context.Context, *client.Client) ([]T, error), header []string, row func(T) []string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: short, Long: long, Example: examples(short, example),
		Args: exactly(0, "no arguments"),
		RunE: a.run(func(ctx context.Context, _ []string) error {
			items, err := asking(ctx, a, "the list", func(c *client.Client) ([]T, error) { return ask(ctx, c) })
			if err != nil {
				return err
			}
			return printList(a, items, header, row)
		}),
	}
}

func (a *app) hostCommand() *cobra.Command {
	return group("host", "Look at the hosts", "Looks at the hosts of the cluster.", examples("List the hosts", "vcnctl host list"),
		listOf(a, "List the hosts", "Lists the hosts: class, state, free and whole capacity.", "vcnctl host list",
			func(ctx context.Context, c *client.Client) ([]api.Host, error) { return c.ListHosts(ctx) },
			[]string{"NAME", "CLASSES", "STATUS", "RAFT", "CPUS", "MEMORY", "STORAGE", "ACCEL", "NETWORK", "API", "VERSION"},
			func(h api.Host) []string {
				var classes []string
				for _, c := range h.Classes {
					classes = append(classes, string(c))
				}
				return []string{h.Name, strings.Join(classes, ","), h.Status, h.Raft, fmt.Sprintf("%d/%d", h.FreeCPUs, h.CPUs),
					h.FreeMemory.Short() + "/" + h.Memory.Short(), h.FreeStorage.Short() + "/" + h.Storage.Short(),
					h.Accel, h.Network, h.APIAddress, h.Version}
			}))
}

func (a *app) leaseCommand() *cobra.Command {
	return group("lease", "Look at leased identifiers", "Looks at the VLANs, subnets and addresses that reservations hold.", examples("List the leases", "vcnctl lease list"),
		listOf(a, "List the leases", "Lists the VLANs, subnets and addresses that reservations hold.", "vcnctl lease list",
			func(ctx context.Context, c *client.Client) ([]api.Lease, error) { return c.ListLeases(ctx) },
			[]string{"KIND", "VALUE", "RESERVATION", "NODE"},
			func(l api.Lease) []string { return []string{l.Kind, l.Value, l.Reservation, l.Node} }))
}

func (a *app) rollCommand() *cobra.Command {
	return group("roll", "Look at the rolls", "Looks at the rolls: bundles of software that clusters are made of.", examples("List the rolls", "vcnctl roll list"),
		listOf(a, "List the rolls", "Lists the rolls that a specification may name.", "vcnctl roll list",
			func(ctx context.Context, c *client.Client) ([]api.Roll, error) { return c.ListRolls(ctx) },
			[]string{"NAME", "VERSION", "APPLIANCES", "REQUIRES", "DESCRIPTION"},
			func(r api.Roll) []string {
				return []string{r.Name, r.Version, strings.Join(r.Appliances, ","), strings.Join(r.Requires, ","), r.Description}
			}))
}

var imageHeader = []string{"APPLIANCE", "ROLLS", "STATE", "SIZE", "HOSTS", "RECIPE", "MESSAGE"}

func imageRow(m api.Image) []string {
	return []string{m.Appliance, strings.Join(m.Rolls, ","), m.State, m.Size.Short(), strings.Join(m.Hosts, ","), fmt.Sprintf("%.12s", m.Recipe), m.Message}
}

func (a *app) imageCommand() *cobra.Command {
	return group("image", "Look at images, and build them", "Looks at the bootable images of nodes, and builds them ahead of need.",
		examples("Build those of a cluster with Slurm", "vcnctl image build --rolls slurm"),
		listOf(a, "List the images", "Lists the images that are wanted, being built, or ready.", "vcnctl image list",
			func(ctx context.Context, c *client.Client) ([]api.Image, error) { return c.ListImages(ctx) }, imageHeader, imageRow),
		a.imageBuildCommand())
}

func (a *app) imageBuildCommand() *cobra.Command {
	var req api.ImageRequest
	var noWait bool
	c := &cobra.Command{
		Use: "build --rolls ROLL,...", Short: "Build images ahead of need",
		Long: `Asks that the images of these rolls exist and waits until they do, with progress.
Images that exist are not built again. Ctrl-C ends the waiting, not the build.`,
		Example: examples("Frontend and worker with Slurm", "vcnctl image build --rolls slurm"),
		Args:    exactly(0, "no arguments"),
		RunE:    a.run(func(ctx context.Context, _ []string) error { return a.imageBuild(ctx, req, noWait) }),
	}
	c.Flags().StringSliceVar(&req.Rolls, "rolls", nil, "rolls, as slurm or slurm@1.2, with commas")
	c.Flags().StringSliceVar(&req.Appliances, "appliances", nil, "appliances (default frontend,worker)")
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until they are built")
	return c
}

func (a *app) imageBuild(ctx context.Context, req api.ImageRequest, noWait bool) error {
	if errs := req.Validate(); len(errs) > 0 {
		for i := range errs {
			errs[i].Field = "--" + errs[i].Field
		}
		return usage("the request is not right", "Try: vcnctl image build --help", errs...)
	}
	return a.withClient(ctx, func(c *client.Client) error {
		began := a.now()
		images, err := c.BuildImages(ctx, req)
		if err != nil {
			return err
		}
		if !noWait {
			if images, err = a.waitImages(ctx, c, images); err != nil {
				return err
			}
			a.note("done in %s", span(a.now().Sub(began)))
		}
		if err := printList(a, images, imageHeader, imageRow); err != nil {
			return err
		}
		for _, m := range images {
			if m.State == "failed" {
				return &api.Problem{Status: 500, Code: api.CodeInternal, Detail: fmt.Sprintf("the image of %s failed: %s", m.Appliance, m.Message),
					Next: "See what happened: vcnctl events"}
			}
		}
		return nil
	})
}

// waitImages looks again and again until all are ready or failed, and says
// what changes.
func (a *app) waitImages(ctx context.Context, c *client.Client, images []api.Image) ([]api.Image, error) {
	told := map[string]string{}
	since := map[string]time.Time{}
	beat := a.now()
	for {
		open := 0
		for _, m := range images {
			now := a.now()
			say := m.State + dash(m.Message)
			if _, ok := since[m.Recipe]; !ok {
				since[m.Recipe] = now
			}
			if m.State != "ready" && m.State != "failed" {
				open++
			}
			if told[m.Recipe] != say || open > 0 && now.Sub(beat) >= a.beatEvery {
				a.note("image of %s: %s (%s)", m.Appliance, printable(say), span(now.Sub(since[m.Recipe])))
				told[m.Recipe], beat = say, now
			}
		}
		if open == 0 {
			return images, nil
		}
		if !pause(ctx, a.pollEvery) {
			a.note("the build goes on; see: vcnctl image list")
			return images, context.Cause(ctx)
		}
		all, err := c.ListImages(ctx)
		if err != nil {
			return images, err
		}
		for i, m := range images {
			if j := slices.IndexFunc(all, func(x api.Image) bool { return x.Recipe == m.Recipe }); j >= 0 {
				images[i] = all[j]
			}
		}
	}
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the cluster of hosts at a glance", Long: "Shows the cluster of hosts at a glance: who leads, how many hosts live.",
		Example: examples("At a glance", "vcnctl status", "Is there a leader?", "vcnctl status -o json | jq -r .leader"),
		Args:    exactly(0, "no arguments"),
		RunE: a.run(func(ctx context.Context, _ []string) error {
			s, err := asking(ctx, a, "the status", func(c *client.Client) (api.Status, error) { return c.Status(ctx) })
			if err != nil {
				return err
			}
			return a.print(s, func() {
				state := "ready"
				switch {
				case s.Forming:
					state = fmt.Sprintf("forming: %d of %d voters are here", s.Voters, s.Expect)
				case s.Leader == "":
					state = "without a leader: read only"
				}
				leader := s.Leader
				if leader == "" {
					leader = "none"
				}
				a.pairs("Cluster", s.Name+" ("+s.ClusterID+")", "State", state, "Answered by", s.Host, "Leader", leader,
					"Voters", fmt.Sprintf("%d of %d", s.Voters, s.Expect), "Hosts", fmt.Sprintf("%d alive of %d", s.HostsAlive, s.Hosts),
					"Reservations", strconv.Itoa(s.Reservations), "Index", strconv.FormatUint(s.Index, 10), "Version", s.Version)
			})
		}),
	}
}

func (a *app) eventsCommand() *cobra.Command {
	var follow bool
	var after uint64
	c := &cobra.Command{
		Use: "events [NAME]", Short: "Show what happened", Long: "Shows what happened, on the whole or to one reservation; with --follow also what happens from now on, until Ctrl-C.",
		Example: examples("What happened to it", "vcnctl events mine", "All that happens", "vcnctl events --follow"),
		Args:    atMost(1, "at most a NAME"), ValidArgsFunction: a.completeReservation,
		RunE: a.run(func(ctx context.Context, args []string) error {
			ref := ""
			if len(args) == 1 {
				ref = args[0]
			}
			return a.events(ctx, ref, after, follow)
		}),
	}
	c.Flags().BoolVarP(&follow, "follow", "F", false, "go on with what happens")
	c.Flags().Uint64Var(&after, "after", 0, "only what came after this index")
	return c
}

func (a *app) events(ctx context.Context, ref string, after uint64, follow bool) error {
	return a.withClient(ctx, func(c *client.Client) error {
		done := a.patience("the events")
		page, err := c.Events(ctx, ref, after, 0)
		done()
		if err != nil {
			return err
		}
		if !follow {
			if page.Items == nil {
				page.Items = []api.Event{}
			}
			return a.print(page, func() { a.eventLines(page.Items) })
		}
		for {
			if err := a.eventsFollowed(page.Items); err != nil {
				return err
			}
			after = max(after, page.Index)
			empty := len(page.Items) == 0
			if page, err = c.Events(ctx, ref, after, pollWait); err != nil {
				return err
			}
			if empty && len(page.Items) == 0 && !pause(ctx, 200*time.Millisecond) {
				return context.Cause(ctx)
			}
		}
	})
}

// eventsFollowed writes events as they come: lines, or a document each.
func (a *app) eventsFollowed(items []api.Event) error {
	if a.flags.output == outputTable {
		a.eventLines(items)
		return nil
	}
	v := &documentView{form: a.flags.output, out: a.stdout}
	for _, e := range items {
		v.write(e)
	}
	return nil
}

func (a *app) eventLines(items []api.Event) {
	for _, e := range items {
		about := strings.TrimSpace(e.Reservation + " " + e.Host)
		line := fmt.Sprintf("%s  %-24s  %s%s", e.Time.In(a.zone).Format("2006-01-02T15:04:05Z07:00"), e.Kind, e.Message, bracket(about))
		fmt.Fprintln(a.stdout, strings.ReplaceAll(printable(line), "\n", " "))
	}
}

func bracket(s string) string {
	if s == "" {
		return ""
	}
	return " [" + s + "]"
}
