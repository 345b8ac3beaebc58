package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"vcn/api"
)

func keyOr(key string) string {
	if key == "" {
		return NewKey()
	}
	return key
}

func reservationPath(ref, below string) string {
	return api.PathReservations + "/" + url.PathEscape(ref) + below
}

// ReserveWaiting books a specification, or puts it on the waitlist until it
// fits: waitFor is how long after its earliest start it may start at the
// latest, such as 12h. key is as in Reserve. The answer is booked or
// waitlisted. Errors are those of Reserve.
func (c *Client) ReserveWaiting(ctx context.Context, s api.Spec, waitFor, key string) (api.Reservation, error) {
	var r api.Reservation
	_, err := c.do(ctx, call{method: http.MethodPost, path: api.PathReservations, query: url.Values{"waitFor": {waitFor}},
		body: s, key: keyOr(key), repeatable: true, out: &r})
	return r, err
}

// ReserveSeries books a specification whose slot repeats: all its dates, or,
// with partial, those that fit. key is as in Reserve. The error of a series of
// which a date does not fit has code no_fit.
func (c *Client) ReserveSeries(ctx context.Context, s api.Spec, partial bool, key string) (api.SeriesResult, error) {
	var r api.SeriesResult
	k := call{method: http.MethodPost, path: api.PathReservations, body: s, key: keyOr(key), repeatable: true, out: &r}
	if partial {
		k.query = url.Values{"partial": {"true"}}
	}
	_, err := c.do(ctx, k)
	return r, err
}

// PlanSeries answers what ReserveSeries would book, date by date, and books
// nothing.
func (c *Client) PlanSeries(ctx context.Context, s api.Spec, partial bool) (api.SeriesResult, error) {
	var r api.SeriesResult
	q := url.Values{"dryRun": {"true"}}
	if partial {
		q.Set("partial", "true")
	}
	_, err := c.do(ctx, call{method: http.MethodPost, path: api.PathReservations, query: q, body: s, repeatable: true, out: &r})
	return r, err
}

// TakeOffer books a held offer; name, if not empty, replaces the name that the
// question had. key is as in Reserve. Of an offer that is split over two slots it
// answers the first; the second is a reservation of its own, NAME-2. The error
// of an offer that is not held any more has code expired or not_found.
func (c *Client) TakeOffer(ctx context.Context, id, name, key string) (api.Reservation, error) {
	q := url.Values{"offer": {id}}
	if name != "" {
		q.Set("name", name)
	}
	var r api.Reservation
	_, err := c.do(ctx, call{method: http.MethodPost, path: api.PathReservations, query: q, key: keyOr(key), repeatable: true, out: &r})
	return r, err
}

// Offers asks when a specification could be had. It is not repeated once it
// may have been taken, unless nothing is to be held: the hold of a lost answer
// would stand in the way of the next.
func (c *Client) Offers(ctx context.Context, r api.OfferRequest) (api.OfferList, error) {
	hold, err := api.ParseDuration(r.Hold)
	var l api.OfferList
	_, err = c.do(ctx, call{method: http.MethodPost, path: api.PathOffers, body: r, key: NewKey(), repeatable: err == nil && hold == 0, out: &l})
	return l, err
}

// Offer gets a held offer.
func (c *Client) Offer(ctx context.Context, id string) (api.Offer, error) {
	var o api.Offer
	_, err := c.get(ctx, api.PathOffers+"/"+url.PathEscape(id), nil, &o)
	return o, err
}

// ReleaseOffer gives a hold back, and with it all offers of its question.
func (c *Client) ReleaseOffer(ctx context.Context, id string) error {
	_, err := c.do(ctx, call{method: http.MethodDelete, path: api.PathOffers + "/" + url.PathEscape(id), repeatable: true})
	return err
}

// again: the same change made twice is the same as once. Extend and Shorten
// are relative to what there is.
func again(ch api.Change) bool { return ch.Extend == nil && ch.Shorten == nil }

// Change changes a reservation. allowDataLoss is its name, typed by whoever
// knows that disks will be deleted; empty otherwise, and the error then has
// code data_loss. An extension that does not fit has code no_fit and the
// longest possible end. A change by how much longer or shorter is not repeated
// once it may have been taken.
func (c *Client) Change(ctx context.Context, ref string, ch api.Change, allowDataLoss string) (api.Reservation, error) {
	var r api.Reservation
	k := call{method: http.MethodPatch, path: reservationPath(ref, ""), body: ch, key: NewKey(), repeatable: again(ch), out: &r}
	if allowDataLoss != "" {
		k.query = url.Values{"allowDataLoss": {allowDataLoss}}
	}
	_, err := c.do(ctx, k)
	return r, err
}

// PlanChange answers what Change would do, field by field, and changes nothing.
func (c *Client) PlanChange(ctx context.Context, ref string, ch api.Change) (api.ChangePlan, error) {
	var p api.ChangePlan
	_, err := c.do(ctx, call{method: http.MethodPatch, path: reservationPath(ref, ""), query: url.Values{"dryRun": {"true"}},
		body: ch, repeatable: true, out: &p})
	return p, err
}

// Park ends a slot now and keeps its volumes.
func (c *Client) Park(ctx context.Context, ref string, p api.ParkRequest) (api.Reservation, error) {
	var r api.Reservation
	_, err := c.do(ctx, call{method: http.MethodPost, path: reservationPath(ref, "/park"), body: p, key: NewKey(), repeatable: true, out: &r})
	return r, err
}

// Resume brings a parked reservation back for a new slot. key is as in Reserve.
func (c *Client) Resume(ctx context.Context, ref string, s api.Slot, key string) (api.Reservation, error) {
	var r api.Reservation
	_, err := c.do(ctx, call{method: http.MethodPost, path: reservationPath(ref, "/resume"), body: s, key: keyOr(key), repeatable: true, out: &r})
	return r, err
}

// PlanResume answers what Resume would book, and books nothing.
func (c *Client) PlanResume(ctx context.Context, ref string, s api.Slot) (api.Plan, error) {
	var p api.Plan
	_, err := c.do(ctx, call{method: http.MethodPost, path: reservationPath(ref, "/resume"), query: url.Values{"dryRun": {"true"}},
		body: s, repeatable: true, out: &p})
	return p, err
}

// Explain says why a reservation's nodes are where they are.
func (c *Client) Explain(ctx context.Context, ref string) (api.Explanation, error) {
	var e api.Explanation
	_, err := c.get(ctx, reservationPath(ref, "/explain"), nil, &e)
	return e, err
}

// ListSeries lists the series that the token may see.
func (c *Client) ListSeries(ctx context.Context) ([]api.Series, error) {
	return list[api.Series](ctx, c, api.PathSeries, nil)
}

// Series gets one by id or name.
func (c *Client) Series(ctx context.Context, ref string) (api.Series, error) {
	var s api.Series
	_, err := c.get(ctx, api.PathSeries+"/"+url.PathEscape(ref), nil, &s)
	return s, err
}

// ChangeSeries changes all reservations of a series that have not begun, or,
// with dryRun, says which could be changed. It is repeated as Change is.
func (c *Client) ChangeSeries(ctx context.Context, id string, ch api.Change, dryRun bool) (api.SeriesResult, error) {
	var r api.SeriesResult
	k := call{method: http.MethodPatch, path: api.PathSeries + "/" + url.PathEscape(id), body: ch, repeatable: again(ch), out: &r}
	if dryRun {
		k.query, k.repeatable = url.Values{"dryRun": {"true"}}, true
	} else {
		k.key = NewKey()
	}
	_, err := c.do(ctx, k)
	return r, err
}

// CancelSeries cancels all reservations of a series that have not begun.
func (c *Client) CancelSeries(ctx context.Context, id string) (api.Series, error) {
	var s api.Series
	_, err := c.do(ctx, call{method: http.MethodDelete, path: api.PathSeries + "/" + url.PathEscape(id), repeatable: true, out: &s})
	return s, err
}

// calendarQuery leaves out what is zero.
func calendarQuery(from, until time.Time, project string) url.Values {
	q := url.Values{}
	if !from.IsZero() {
		q.Set("from", from.UTC().Format(time.RFC3339))
	}
	if !until.IsZero() {
		q.Set("until", until.UTC().Format(time.RFC3339))
	}
	if project != "" {
		q.Set("project", project)
	}
	return q
}

// Calendar is who holds what between two times, to seconds; the host has
// defaults for those that are zero. project, if not empty, is the only one
// whose slots are listed.
func (c *Client) Calendar(ctx context.Context, from, until time.Time, project string) (api.Calendar, error) {
	var cal api.Calendar
	_, err := c.get(ctx, api.PathCalendar, calendarQuery(from, until, project), &cal)
	return cal, err
}

// ICalendar is a project's feed as text (RFC 5545).
func (c *Client) ICalendar(ctx context.Context, project string) (string, error) {
	var text string
	_, err := c.get(ctx, api.PathFeed, calendarQuery(time.Time{}, time.Time{}, project), &text)
	return text, err
}

// CreateFeed makes the address of a project's feed. The answer's URL has no
// host; see Current. It is not repeated once it may have been taken, as a
// second address would be left over.
func (c *Client) CreateFeed(ctx context.Context, r api.FeedRequest) (api.Feed, error) {
	var f api.Feed
	_, err := c.do(ctx, call{method: http.MethodPost, path: api.PathFeeds, body: r, key: NewKey(), out: &f})
	return f, err
}

// Policy is what the operator has set for all projects.
func (c *Client) Policy(ctx context.Context) (api.Policy, error) {
	var p api.Policy
	_, err := c.get(ctx, api.PathPolicy, nil, &p)
	return p, err
}

// SetPolicy replaces the whole policy and answers what holds now.
func (c *Client) SetPolicy(ctx context.Context, p api.Policy) (api.Policy, error) {
	var now api.Policy
	_, err := c.do(ctx, call{method: http.MethodPut, path: api.PathPolicy, body: p, repeatable: true, out: &now})
	return now, err
}
