package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vcn/api"
	"vcn/api/client"
)

const whenLong = `Asks when a virtual cluster could be had, and holds the answers for a while: the
earliest exact fit, the same size later, fewer workers now, another worker
shape, a shorter slot, two slots. What it shall be comes from a specification
(-f) or from flags, as for vcnctl reserve; ranges say what else would do:
--for 4h..8h wants eight hours and takes four, --workers 8..16 wants sixteen
workers and takes eight.

The offers of one question share a hold: one of them can be taken, by
vcnctl reserve --offer ID [NAME]. Exits with 3 if there is none, and says why.`

// unnamed is the name of a question's specification that was given none.
const unnamed = "unnamed"

// whenFlags are those of when.
type whenFlags struct {
	specFlags
	workersRange countRange
	workersMin   int
	shapes       []string
	split        bool
	hold         string
}

func (a *app) whenCommand() *cobra.Command {
	f := whenFlags{workersRange: countRange{hi: 1}}
	c := &cobra.Command{
		Use: "when [NAME]", Short: "Ask when a virtual cluster could be had", Long: whenLong,
		Example: examples(
			"Sixteen workers for eight hours in the next two days; eight and four would do", "vcnctl when mine --workers 8..16 --for 4h..8h --latest 2030-12-03T09:00 --key ~/.ssh/id_ed25519.pub",
			"Other worker shapes that would do", "vcnctl when mine --workers 4 --cpus 8 --memory 16GiB --for 8h --shape cpus=4,memory=16GiB --shape cpus=4,memory=8GiB,disk=40GiB",
			"From a specification, over two slots if need be; take the first", "id=$(vcnctl when -f spec.yaml --split -o json | jq -r '.items[0].id') && vcnctl reserve --offer $id"),
		Args: atMost(1, "at most a NAME"),
	}
	c.RunE = a.run(func(ctx context.Context, args []string) error { return a.when(ctx, f, args, c.Flags()) })
	fl := c.Flags()
	f.register(c)
	fl.StringVar(&f.slot.end, "end", "", "end of the slot, a time as for --start")
	fl.StringVar(&f.slot.length, "for", "", "length of the slot, such as 8h, or the shortest and the wanted one, such as 4h..8h")
	fl.Var(&f.workersRange, "workers", "number of workers, such as 16, or the fewest and the wanted one, such as 8..16")
	fl.IntVar(&f.workersMin, "workers-min", 0, "fewest workers that would do, in all groups together; with --file")
	fl.StringArrayVar(&f.shapes, "shape", nil, "another worker shape that would do, as cpus=4,memory=8GiB,disk=40GiB; may be repeated, 8 at most")
	fl.BoolVar(&f.split, "split", false, "two slots that are as long together would do")
	fl.StringVar(&f.hold, "hold", "10m", "how long to hold the offers, up to 1h; 0s: not at all")
	return c
}

func (a *app) when(ctx context.Context, f whenFlags, args []string, set *pflag.FlagSet) error {
	req, err := a.offerRequest(f, args, set)
	if err != nil {
		return err
	}
	list, err := asking(ctx, a, "offers", func(c *client.Client) (api.OfferList, error) { return c.Offers(ctx, req) })
	if err != nil {
		return err
	}
	if len(list.Items) == 0 {
		return &api.Problem{Status: 409, Code: api.CodeNoFit, Detail: "there is no offer for " + req.Spec.Name, Reasons: list.Reasons,
			Next: "Ask for less, a longer time to start in (--latest), or other shapes (--shape), or wait for it: vcnctl reserve --wait-for LENGTH"}
	}
	return a.print(list, func() {
		if len(list.Reasons) > 0 {
			fmt.Fprintln(a.stdout, "What was asked for does not fit as it is:")
			for _, r := range list.Reasons {
				fmt.Fprintln(a.stdout, "  "+oneLine(r))
			}
			fmt.Fprintln(a.stdout)
		}
		a.showOffers(list.Items)
		a.sayHowToTake(list.Items[0], req.Spec.Name)
	})
}

// offerRequest makes the question.
func (a *app) offerRequest(f whenFlags, args []string, set *pflag.FlagSet) (api.OfferRequest, error) {
	if set.Changed("workers-min") && f.file == "" {
		return api.OfferRequest{}, usage("--workers-min is for --file", "Give a range: --workers 8..16")
	}
	lengthMin, length, err := rangeOf(f.slot.length)
	if err != nil {
		return api.OfferRequest{}, usage("the question is not right", "Try: vcnctl when --help", err.(api.FieldError))
	}
	f.slot.length, f.workers = length, f.workersRange.hi
	if len(args) == 0 && f.file == "" {
		args = []string{unnamed}
	}
	spec, err := a.specOf(f.specFlags, args, set, "vcnctl when")
	if err != nil {
		return api.OfferRequest{}, err
	}
	if spec.Slot.Repeat != "" {
		return api.OfferRequest{}, usage("there are no offers for a series", "See which dates fit: vcnctl reserve --dry-run --partial")
	}
	req := api.OfferRequest{Spec: spec, LengthMin: lengthMin, Latest: spec.Slot.Latest, WorkersMin: f.workersRange.lo, Split: f.split, Hold: f.hold}
	// The question has a place of its own for it: one truth is enough.
	req.Spec.Slot.Latest = ""
	if f.workersMin > 0 {
		req.WorkersMin = f.workersMin
	}
	for _, text := range f.shapes {
		n := api.NodeShape{}
		if len(spec.Workers) > 0 {
			n = spec.Workers[0].NodeShape
		}
		if err := parseShape("--shape", text, &n); err != nil {
			return req, usage("the question is not right", "Try: vcnctl when --help", err.(api.FieldError))
		}
		req.Shapes = append(req.Shapes, n)
	}
	errs := req.Defaults().Validate()
	for i, e := range errs {
		errs[i].Field = offerFlag(e.Field)
	}
	if len(errs) > 0 {
		return req, usage("the question is not right", "Try: vcnctl when --help", errs...)
	}
	return req, nil
}

// offerFlag is the flag that a wrong field of a question came from.
func offerFlag(field string) string {
	switch {
	case field == "lengthMin":
		return "--for"
	case field == "workersMin":
		return "--workers"
	case strings.HasPrefix(field, "shapes"):
		return "--shape"
	case strings.HasPrefix(field, "spec."):
		return toFlags([]api.FieldError{{Field: strings.TrimPrefix(field, "spec.")}})[0].Field
	}
	return "--" + field
}

// parseShape reads cpus=4,memory=8GiB,disk=40GiB over what n is. The error is a
// FieldError.
func parseShape(field, text string, n *api.NodeShape) error {
	bad := api.FieldError{Field: field, Value: text, Want: "cpus=N, memory=SIZE and disk=SIZE with commas, such as cpus=4,memory=8GiB"}
	for _, part := range strings.Split(text, ",") {
		key, value, ok := strings.Cut(part, "=")
		if !ok {
			return bad
		}
		var err error
		switch strings.TrimSpace(key) {
		case "cpus":
			n.CPUs, err = strconv.Atoi(value)
			if err != nil || n.CPUs < 1 || n.CPUs > api.CPUsMax {
				err = api.FieldError{Want: fmt.Sprintf("1 to %d", api.CPUsMax)}
			}
		case "memory":
			n.Memory, err = sizeBetween(value, api.MemoryMin, api.MemoryMax)
		case "disk":
			n.Disk, err = sizeBetween(value, api.DiskMin, api.DiskMax)
		default:
			return bad
		}
		if f, wrong := err.(api.FieldError); wrong {
			return api.FieldError{Field: field + " " + key, Value: value, Want: f.Want}
		}
	}
	return nil
}

func sizeBetween(text string, lo, hi api.Quantity) (api.Quantity, error) {
	q, err := api.ParseQuantity(text)
	if err == nil && (q < lo || q > hi) {
		err = api.FieldError{Want: fmt.Sprintf("%s to %s", lo, hi)}
	}
	return q, err
}

func shapeText(n api.NodeShape) string {
	return fmt.Sprintf("%d cpus, %s, %s disk", n.CPUs, n.Memory.Short(), n.Disk.Short())
}

// showOffers is a table with a row for each slot: an offer of two has two.
func (a *app) showOffers(items []api.Offer) {
	var rows [][]string
	for _, o := range items {
		held := "not held"
		if o.Expires != nil {
			held = a.clockTime(*o.Expires)
		}
		for i, p := range o.Parts {
			id, kind, workers, shape := o.ID, o.Kind, strconv.Itoa(o.Workers), shapeText(o.Shape)
			if i > 0 {
				id, kind, workers, shape, held = "and", "", "", "", ""
			}
			rows = append(rows, []string{id, kind, a.clockTime(p.Start), a.clockTime(p.End), span(p.End.Sub(p.Start)), workers, shape, held})
		}
	}
	fmt.Fprint(a.stdout, renderTable([]string{"ID", "KIND", "START", "END", "LENGTH", "WORKERS", "SHAPE", "HELD UNTIL"}, rows))
}

func (a *app) sayHowToTake(o api.Offer, name string) {
	if len(o.Parts) > 0 && !o.Parts[0].Provision.After(a.now()) && o.Parts[0].Expected.After(a.now()) {
		fmt.Fprintln(a.stdout, "\nThe first starts at once. "+a.expectedText(o.Parts[0].Expected))
	} else {
		fmt.Fprintln(a.stdout)
	}
	if o.ID == "" {
		fmt.Fprintln(a.stdout, "Nothing is held. Hold offers with --hold 10m, and take one of them.")
		return
	}
	if name == unnamed {
		name = "NAME"
	}
	fmt.Fprintf(a.stdout, "Take the first: vcnctl reserve --offer %s %s\n", o.ID, name)
}

func (a *app) offerCommand() *cobra.Command {
	return group("offer", "Look at a held offer, or give it back", "Looks at an offer that vcnctl when has held, or gives it back before its time.",
		examples("Give it back", "vcnctl offer release 0198c1f2"), a.offerShowCommand(), a.offerReleaseCommand())
}

func (a *app) offerShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a held offer", Long: "Shows an offer while it is held.",
		Example: examples("What was it?", "vcnctl offer show 0198c1f2"),
		Args:    exactly(1, "the ID of an offer"),
		RunE: a.run(func(ctx context.Context, args []string) error {
			o, err := asking(ctx, a, "the offer", func(c *client.Client) (api.Offer, error) { return c.Offer(ctx, args[0]) })
			if err != nil {
				return offerGone(err)
			}
			return a.print(o, func() { a.showOffers([]api.Offer{o}); a.sayHowToTake(o, unnamed) })
		}),
	}
}

func (a *app) offerReleaseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "release ID", Short: "Give a hold back",
		Long:    "Gives the hold of an offer back before its time, and with it that of the other offers of its question.",
		Example: examples("Give it back", "vcnctl offer release 0198c1f2"),
		Args:    exactly(1, "the ID of an offer"),
		RunE: a.run(func(ctx context.Context, args []string) error {
			_, err := asking(ctx, a, "the release", func(c *client.Client) (struct{}, error) { return struct{}{}, c.ReleaseOffer(ctx, args[0]) })
			if err != nil {
				return offerGone(err)
			}
			return a.print(struct {
				Released string `json:"released"`
			}{args[0]}, func() { fmt.Fprintf(a.stdout, "Released the hold of %s.\n", oneLine(args[0])) })
		}),
	}
}

// offerGone says what to do about an offer that is not there, instead of what
// helps with reservations.
func offerGone(err error) error {
	if p, ok := err.(*api.Problem); ok && p.Code == api.CodeNotFound && p.Next == "" {
		p.Next = "Offers end with their hold. Ask again with: vcnctl when"
	}
	return err
}

// oneLine is text of others, fit for a line of output.
func oneLine(s string) string { return strings.ReplaceAll(printable(s), "\n", " ") }

// offersText is offers as lines of an error, in the reader's zone.
func (a *app) offersText(items []api.Offer) []string {
	var lines []string
	for _, o := range items {
		var slots []string
		for _, p := range o.Parts {
			slots = append(slots, a.clockTime(p.Start)+" to "+a.clockTime(p.End))
		}
		if len(slots) == 0 {
			slots = []string{o.Summary}
		}
		lines = append(lines, fmt.Sprintf("%s: %s, %d workers of %s", o.Kind, strings.Join(slots, " and "), o.Workers, shapeText(o.Shape)))
	}
	return lines
}
