package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"vcn/api"
	"vcn/api/recur"
	"vcn/fsm"
)

// ReserveSeries books the dates of a recurring slot as one: all of them, or with
// partial those that fit. A dry run says which fit.
func (c *Control) ReserveSeries(ctx context.Context, spec api.Spec, partial, dryRun bool, project, owner, key string) (api.SeriesResult, *fsm.Series, error) {
	none := api.SeriesResult{}
	if err := checkKey(key); err != nil {
		return none, nil, err
	}
	spec, err := settleSpec(spec, project)
	if err != nil {
		return none, nil, err
	}
	hash, err := keyHash(key, spec)
	if err != nil {
		return none, nil, err
	}
	if r, err := c.replay(hash, spec.Project, key); err != nil || r != nil && !dryRun {
		if err != nil {
			return none, nil, err
		}
		return c.seriesResult(r.Series)
	}
	for try := 1; ; try++ {
		now := c.now()
		drafts, err := c.dates(spec, owner, now)
		if err != nil {
			return none, nil, err
		}
		result, fit, err := c.fitting(drafts, now)
		if err != nil || dryRun {
			return result, nil, err
		}
		if len(result.Missing) > 0 && !partial || len(fit) == 0 {
			return none, nil, missingDates(result)
		}
		s, err := newSeries(spec, owner)
		if err != nil {
			return none, nil, err
		}
		r, err := c.book(ctx, bookRequest{drafts: fit, series: s, key: key, hash: hash})
		if no := (*noFitError)(nil); errors.As(err, &no) && try < replanTriesMax {
			continue // somebody was faster: look again which dates fit
		}
		if err != nil {
			return none, nil, err
		}
		made, row, err := c.seriesResult(r.Series)
		made.Missing = result.Missing
		return made, row, err
	}
}

func newSeries(spec api.Spec, owner string) (*fsm.Series, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make series id: %w", err)
	}
	return &fsm.Series{ID: id.String(), Name: spec.Name, Project: spec.Project, Owner: owner, Spec: spec}, nil
}

// dates makes one draft of each date.
func (c *Control) dates(spec api.Spec, owner string, now time.Time) ([]*draft, error) {
	m, _ := c.cfg.State.View().Meta()
	occurrences, err := recur.Expand(spec.Slot, now, m.Policy.OrDefault().SeriesMax)
	if err != nil {
		return nil, slotProblem(err)
	}
	var out []*draft
	for _, o := range occurrences {
		one := spec
		one.Name = o.Name(spec.Name)
		one.Slot = api.Slot{Start: o.Start.Format(time.RFC3339), End: o.End.Format(time.RFC3339), Zone: spec.Slot.Zone}
		d, err := newDraft(c.recipes, one, spec.Project, owner, "", now)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// fitting finds which of the dates fit, each beside those before it.
func (c *Control) fitting(drafts []*draft, now time.Time) (api.SeriesResult, []*draft, error) {
	result := api.SeriesResult{Booked: []api.SeriesDate{}}
	v, inv := c.planner.snapshot()
	if err := formed(v); err != nil {
		return result, nil, err
	}
	starving := queue(v.Waitlist()).starving()
	var fit []*draft
	for _, d := range drafts {
		date := api.SeriesDate{Name: d.spec.Name, Start: d.window.Earliest, End: d.window.EndOf(d.window.Earliest)}
		err := admit(v, []*draft{d})
		if err == nil {
			var b booking
			b.times, b.plan, err = findFirst(inv, d, c.planner.leadOf(v, d, now), now, starving)
			if err == nil {
				inv.Add(b.plan.Bookings(d.request(b.times))...)
				result.Booked, fit = append(result.Booked, date), append(fit, d)
				continue
			}
			err = noFit(err)
		}
		var p *api.Problem
		if !errors.As(err, &p) {
			return result, nil, err
		}
		date.Reasons = whyNot(p)
		result.Missing = append(result.Missing, date)
	}
	return result, fit, nil
}

func missingDates(r api.SeriesResult) error {
	p := &api.Problem{Status: 409, Code: api.CodeNoFit, Detail: fmt.Sprintf("%d of %d dates do not fit, and nothing was booked", len(r.Missing), len(r.Missing)+len(r.Booked)),
		Next: "book those that fit with --partial, leave dates out with --except, or ask for less"}
	for i, d := range r.Missing {
		if i == blockersMax {
			p.Reasons = append(p.Reasons, fmt.Sprintf("and %d more", len(r.Missing)-blockersMax))
			break
		}
		for _, why := range d.Reasons {
			p.Reasons = append(p.Reasons, d.Name+": "+why)
		}
	}
	return p
}

// seriesResult says what a series has booked.
func (c *Control) seriesResult(id string) (api.SeriesResult, *fsm.Series, error) {
	v := c.cfg.State.View()
	s, ok := v.Series(id)
	if !ok {
		return api.SeriesResult{}, nil, noSeries(id)
	}
	out := api.SeriesResult{Booked: []api.SeriesDate{}}
	for _, r := range v.OfSeries(id) {
		if r.Live() {
			out.Booked = append(out.Booked, api.SeriesDate{Name: r.Name, Start: r.Start, End: r.End})
		}
	}
	return out, &s, nil
}

func noSeries(id string) *api.Problem {
	return &api.Problem{Status: 404, Code: api.CodeNotFound, Detail: "there is no series " + id, Next: "vcnctl series list shows those there are"}
}

// ChangeSeries changes all dates of a series that have not begun, one after
// another; those for which it is not possible stay as they are and are named. A
// new start moves each date to that time of day in the series' zone.
func (c *Control) ChangeSeries(ctx context.Context, id string, ch api.Change, dryRun bool, by string, sees func(string) bool) (api.SeriesResult, error) {
	v := c.cfg.State.View()
	s, ok := v.Series(id)
	if !ok {
		return api.SeriesResult{}, noSeries(id)
	}
	if ch.Name != nil || ch.End != nil {
		return api.SeriesResult{}, api.Invalid("one field is wrong", []api.FieldError{{Field: "end", Want: "for, extend or shorten: the dates differ (and each keeps its name)"}})
	}
	if errs := ch.Validate(); len(errs) > 0 && ch.Start == nil {
		return api.SeriesResult{}, api.Invalid(countFields(errs), errs)
	}
	out := api.SeriesResult{Booked: []api.SeriesDate{}}
	var invalid error // if it is so for all dates, then the change is at fault
	for _, r := range v.OfSeries(id) {
		if r.State != api.StateBooked {
			continue
		}
		date, err := c.changeDate(ctx, &r, ch, zoneOf(s.Spec.Slot.Zone), dryRun, by, sees)
		if err == nil {
			out.Booked = append(out.Booked, date)
			continue
		}
		var p *api.Problem
		if !errors.As(err, &p) || p.Status >= 500 {
			return out, err
		}
		if p.Code == api.CodeInvalid {
			invalid = err
		}
		date.Reasons = whyNot(p)
		out.Missing = append(out.Missing, date)
	}
	if invalid != nil && len(out.Booked) == 0 {
		return api.SeriesResult{}, invalid
	}
	return out, nil
}

// changeDate changes one date, or says what that would do.
func (c *Control) changeDate(ctx context.Context, r *fsm.Reservation, ch api.Change, zone *time.Location, dryRun bool, by string,
	sees func(string) bool) (api.SeriesDate, error) {
	date := api.SeriesDate{Name: r.Name, Start: r.Start, End: r.End}
	one, err := ofDate(ch, r, zone)
	if err != nil {
		return date, err
	}
	if dryRun {
		plan, err := c.PlanChange(r.ID, one, sees)
		if err == nil {
			date.Start, date.End = plan.Start, plan.End
		}
		return date, err
	}
	now, err := c.Change(ctx, r.ID, one, by, "", sees)
	if err == nil {
		date.Start, date.End = now.Start, now.End
	}
	return date, err
}

// whyNot is a problem as reasons.
func whyNot(p *api.Problem) []string {
	if len(p.Reasons) > 0 {
		return p.Reasons
	}
	for _, e := range p.Errors {
		return []string{e.Error()}
	}
	return []string{p.Detail}
}

// ofDate is the change of one date: a time of day becomes a time of that day. One
// that the clocks leave out on that day is refused where it is read.
func ofDate(ch api.Change, r *fsm.Reservation, zone *time.Location) (api.Change, error) {
	if ch.Start == nil {
		return ch, nil
	}
	clock, err := time.Parse("15:04", *ch.Start)
	if err != nil {
		return ch, api.Invalid("one field is wrong", []api.FieldError{{Field: "start", Value: *ch.Start, Want: "a time of day, such as 09:30, in the series' zone"}})
	}
	at, err := api.ParseTimeIn(r.Start.In(zone).Format(time.DateOnly)+"T"+clock.Format("15:04"), zone)
	if err != nil {
		return ch, slotProblem(err)
	}
	text := at.Format(time.RFC3339)
	ch.Start = &text
	return ch, nil
}

// CancelSeries cancels all dates of a series that have not begun.
func (c *Control) CancelSeries(ctx context.Context, id, by string) error {
	v := c.cfg.State.View()
	if _, ok := v.Series(id); !ok {
		return noSeries(id)
	}
	for _, r := range v.OfSeries(id) {
		if r.State == api.StateBooked || r.State == api.StateWaitlisted {
			if _, err := c.Release(ctx, r.ID, by); err != nil {
				return err
			}
		}
	}
	return nil
}
