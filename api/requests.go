package api

import (
	"fmt"
	"time"
)

// Limits and defaults of requests for offers, parking, feeds and policy.
const (
	HoldMax          = time.Hour
	OfferShapesMax   = 8
	OfferAhead       = 30 * day // how far offers look if nobody says
	FeedLifeMin      = day
	FeedLifeMax      = 10 * year
	PolicyHoldsMax   = 100
	PolicySeriesMax  = SeriesDatesMax
	PolicyWaitMax    = 1000
	PolicyParkedMax  = 1024 * TiB
	defaultHold      = "10m"
	defaultFeedLife  = "1y"
	defaultHoldMax   = "1h"
	defaultParkMax   = "90d"
	defaultHoldsMax  = 10
	defaultSeriesMax = 100
	defaultWaitMax   = 20

	wantHold     = "0s to 1h, such as 10m"
	wantFeedLife = "1d to 10y, such as 1y"
)

// Defaults fills in the specification's defaults, the hold, and of each other
// shape what it leaves out, which is as in the first group.
func (r OfferRequest) Defaults() OfferRequest {
	r.Spec = r.Spec.Defaults()
	if r.Hold == "" {
		r.Hold = defaultHold
	}
	var first NodeShape
	if len(r.Spec.Workers) > 0 {
		first = r.Spec.Workers[0].NodeShape
	}
	shapes := r.Shapes
	r.Shapes = nil
	for _, s := range shapes {
		r.Shapes = append(r.Shapes, s.over(first))
	}
	return r
}

// over is the shape with what it leaves out taken from another.
func (n NodeShape) over(below NodeShape) NodeShape {
	if n.CPUs == 0 {
		n.CPUs = below.CPUs
	}
	if n.Memory == 0 {
		n.Memory = below.Memory
	}
	if n.Disk == 0 {
		n.Disk = below.Disk
	}
	return n
}

// Validate checks a request for offers after Defaults.
func (r OfferRequest) Validate() []FieldError {
	var c checker
	for _, e := range r.Spec.Validate() {
		c.bad("spec."+e.Field, e.Value, e.Want)
	}
	slot, slotErrs := r.Spec.Slot.parse()
	if r.Spec.Slot.Repeat != "" {
		c.bad("spec.slot.repeat", r.Spec.Slot.Repeat, "nothing: offers are for one slot")
	}
	if len(slotErrs) == 0 {
		r.ranges(&c, slot)
	}
	total := 0
	for _, g := range r.Spec.Workers {
		total += min(max(g.Count, 0), WorkersMax)
	}
	c.number("workersMin", r.WorkersMin, 0, min(total, WorkersMax))
	if len(r.Shapes) > OfferShapesMax {
		c.bad("shapes", fmt.Sprintf("%d shapes", len(r.Shapes)), fmt.Sprintf("at most %d", OfferShapesMax))
	} else {
		for i, s := range r.Shapes {
			c.shape(fmt.Sprintf("shapes[%d]", i), s)
		}
	}
	c.length("hold", r.Hold, 0, HoldMax, wantHold)
	return c.errs
}

// ranges checks the shortest length and the latest start against the slot.
func (r OfferRequest) ranges(c *checker, slot parsedSlot) {
	length := slot.length
	if length == 0 && !slot.asap {
		length = slot.end.Sub(slot.start)
	}
	if r.LengthMin != "" {
		d, err := ParseDuration(r.LengthMin)
		switch {
		case err != nil:
			c.bad("lengthMin", r.LengthMin, wantOf(err))
		case d < SlotLengthMin:
			c.bad("lengthMin", r.LengthMin, "at least 1m")
		case length > 0 && d > length:
			c.bad("lengthMin", r.LengthMin, "at most the slot's own length, "+FormatDuration(length))
		}
	}
	if r.Latest == "" {
		return
	}
	latest, err := ParseTimeIn(r.Latest, slot.zone)
	switch {
	case err != nil:
		c.bad("latest", r.Latest, wantOf(err))
	case r.Spec.Slot.Latest != "":
		c.bad("latest", r.Latest, "only one of latest and spec.slot.latest, which is "+r.Spec.Slot.Latest)
	case !slot.asap && latest.Before(slot.start):
		c.bad("latest", r.Latest, "a time that is not before the start, "+r.Spec.Slot.Start)
	case slot.asap && slot.length == 0:
		c.bad("latest", r.Latest, "slot.for instead of slot.end: with a fixed end nobody knows how long a slot that starts later shall be")
	}
}

// Window is when offers may start, at the moment now, of a request that is
// valid and has its defaults: its Latest is never zero, and with a length. Where
// the slot is from asap to a fixed end, the length is what is left of it now.
// Errors are FieldErrors, as of ResolveWindow.
func (r OfferRequest) Window(now time.Time) (Window, error) {
	w, err := r.Spec.ResolveWindow(now)
	if err != nil {
		return Window{}, err
	}
	if w.Length == 0 {
		w.Length, w.End = w.End.Sub(w.Earliest), time.Time{}
	}
	switch {
	case r.Latest != "":
		slot, _ := r.Spec.Slot.parse()
		if w.Latest, err = ParseTimeIn(r.Latest, slot.zone); err != nil {
			return Window{}, FieldError{"latest", r.Latest, wantOf(err)}
		}
		w.Latest = w.Latest.Truncate(time.Second)
	case r.Spec.Slot.Latest == "":
		w.Latest = w.Earliest.Add(OfferAhead)
	}
	switch {
	case w.Latest.Before(w.Earliest):
		return Window{}, FieldError{"latest", r.Latest, "a time to come (it is " + now.UTC().Format(time.RFC3339) + " now)"}
	case w.Latest.Sub(now) > SlotAheadMax && r.Latest != "":
		return Window{}, FieldError{"latest", r.Latest, "at most 10 years ahead"}
	}
	return w, nil
}

// Shortest is the shortest length that would do of a slot of this length.
func (r OfferRequest) Shortest(length time.Duration) time.Duration {
	if d := mustDuration(r.LengthMin); d > 0 {
		return min(d, length)
	}
	return length
}

// HoldFor is how long the offers are held, of a valid request with defaults.
func (r OfferRequest) HoldFor() time.Duration { return mustDuration(r.Hold) }

// Defaults fills in how long volumes are kept.
func (r ParkRequest) Defaults() ParkRequest {
	if r.For == "" {
		r.For = defaultPark
	}
	return r
}

// Validate checks a request to park after Defaults.
func (r ParkRequest) Validate() []FieldError {
	var c checker
	c.length("for", r.For, ParkMin, ParkMax, wantPark)
	return c.errs
}

// Defaults fills in the life of the address.
func (r FeedRequest) Defaults() FeedRequest {
	if r.For == "" {
		r.For = defaultFeedLife
	}
	return r
}

// Validate checks a request for a feed after Defaults.
func (r FeedRequest) Validate() []FieldError {
	var c checker
	if r.Project != "" && !nameShape.MatchString(r.Project) {
		c.bad("project", r.Project, wantName)
	}
	c.length("for", r.For, FeedLifeMin, FeedLifeMax, wantFeedLife)
	return c.errs
}

// DefaultPolicy is the policy that holds until an operator sets another.
func DefaultPolicy() Policy {
	return Policy{HoldMax: defaultHoldMax, HoldsMax: defaultHoldsMax, ParkMax: defaultParkMax, SeriesMax: defaultSeriesMax, WaitMax: defaultWaitMax}
}

// Defaults fills in what cannot be nothing. Numbers of holds and of those that
// wait can be 0: to keep what a text leaves out, read it with ReadStrict into
// the policy that holds now, or into DefaultPolicy.
func (p Policy) Defaults() Policy {
	if p.HoldMax == "" {
		p.HoldMax = defaultHoldMax
	}
	if p.ParkMax == "" {
		p.ParkMax = defaultParkMax
	}
	if p.SeriesMax == 0 {
		p.SeriesMax = defaultSeriesMax
	}
	return p
}

// Validate checks a policy after Defaults.
func (p Policy) Validate() []FieldError {
	var c checker
	c.length("holdMax", p.HoldMax, 0, HoldMax, wantHold)
	c.number("holdsMax", p.HoldsMax, 0, PolicyHoldsMax)
	c.length("parkMax", p.ParkMax, ParkMin, ParkMax, wantPark)
	c.quantity("parkBytes", p.ParkBytes, 0, PolicyParkedMax)
	c.number("seriesMax", p.SeriesMax, 1, PolicySeriesMax)
	c.number("waitMax", p.WaitMax, 0, PolicyWaitMax)
	return c.errs
}
