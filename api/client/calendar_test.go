package client

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"vcn/api"
)

func TestCalendarCallsUseTheirRoutes(t *testing.T) {
	ca := newAuthority(t)
	var got, key string
	s := ca.server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got, key = strings.TrimSpace(r.Method+" "+r.URL.String()+" "+string(body)), r.Header.Get(api.HeaderIdempotencyKey)
		io.WriteString(w, `{}`)
	}))
	c := connect(t, ca.pem(), time.Second, s.URL)
	ctx := t.Context()
	end, at := "2030-12-01T09:00Z", time.Date(2030, 12, 1, 9, 0, 0, 0, time.FixedZone("", 9*3600))
	for _, k := range []struct {
		want  string
		keyed bool
		call  func() error
	}{
		{"GET /v1/offers/o%201", false, func() error { _, err := c.Offer(ctx, "o 1"); return err }},
		{"DELETE /v1/offers/o1", false, func() error { return c.ReleaseOffer(ctx, "o1") }},
		{"POST /v1/reservations?name=n&offer=o1", true, func() error { _, err := c.TakeOffer(ctx, "o1", "n", ""); return err }},
		{"POST /v1/reservations?offer=o1", true, func() error { _, err := c.TakeOffer(ctx, "o1", "", ""); return err }},
		{`PATCH /v1/reservations/x {"end":"2030-12-01T09:00Z"}`, true, func() error { _, err := c.Change(ctx, "x", api.Change{End: &end}, ""); return err }},
		{`PATCH /v1/reservations/x?allowDataLoss=x {}`, true, func() error { _, err := c.Change(ctx, "x", api.Change{}, "x"); return err }},
		{`PATCH /v1/reservations/x?dryRun=true {}`, false, func() error { _, err := c.PlanChange(ctx, "x", api.Change{}); return err }},
		{`POST /v1/reservations/x/park {"for":"7d"}`, true, func() error { _, err := c.Park(ctx, "x", api.ParkRequest{For: "7d"}); return err }},
		{`POST /v1/reservations/x/resume {"start":"asap","for":"8h"}`, true, func() error {
			_, err := c.Resume(ctx, "x", api.Slot{Start: "asap", For: "8h"}, "")
			return err
		}},
		{`POST /v1/reservations/x/resume?dryRun=true {"start":"asap","for":"8h"}`, false, func() error {
			_, err := c.PlanResume(ctx, "x", api.Slot{Start: "asap", For: "8h"})
			return err
		}},
		{"GET /v1/reservations/x/explain", false, func() error { _, err := c.Explain(ctx, "x"); return err }},
		{"GET /v1/series", false, func() error { _, err := c.ListSeries(ctx); return err }},
		{"GET /v1/series/s1", false, func() error { _, err := c.Series(ctx, "s1"); return err }},
		{"PATCH /v1/series/s1 {}", true, func() error { _, err := c.ChangeSeries(ctx, "s1", api.Change{}, false); return err }},
		{"PATCH /v1/series/s1?dryRun=true {}", false, func() error { _, err := c.ChangeSeries(ctx, "s1", api.Change{}, true); return err }},
		{"DELETE /v1/series/s1", false, func() error { _, err := c.CancelSeries(ctx, "s1"); return err }},
		{"GET /v1/calendar?from=2030-12-01T00%3A00%3A00Z&project=p&until=2030-12-01T01%3A00%3A00Z", false, func() error {
			_, err := c.Calendar(ctx, at, at.Add(time.Hour), "p")
			return err
		}},
		{"GET /v1/calendar", false, func() error { _, err := c.Calendar(ctx, time.Time{}, time.Time{}, ""); return err }},
		{"GET /v1/calendar.ics?project=p", false, func() error { _, err := c.ICalendar(ctx, "p"); return err }},
		{`POST /v1/feeds {"for":"1y"}`, true, func() error { _, err := c.CreateFeed(ctx, api.FeedRequest{For: "1y"}); return err }},
		{"GET /v1/policy", false, func() error { _, err := c.Policy(ctx); return err }},
	} {
		if err := k.call(); err != nil || got != k.want || (key != "") != k.keyed {
			t.Errorf("%s: got %s with key %q, %v", k.want, got, key, err)
		}
	}
	for prefix, call := range map[string]func() error{
		"POST /v1/reservations?waitFor=12h {":              func() error { _, err := c.ReserveWaiting(ctx, api.Spec{}, "12h", ""); return err },
		"POST /v1/reservations {":                          func() error { _, err := c.ReserveSeries(ctx, api.Spec{}, false, ""); return err },
		"POST /v1/reservations?partial=true {":             func() error { _, err := c.ReserveSeries(ctx, api.Spec{}, true, ""); return err },
		"POST /v1/reservations?dryRun=true {":              func() error { _, err := c.PlanSeries(ctx, api.Spec{}, false); return err },
		"POST /v1/reservations?dryRun=true&partial=true {": func() error { _, err := c.PlanSeries(ctx, api.Spec{}, true); return err },
		"POST /v1/offers {":                                func() error { _, err := c.Offers(ctx, api.OfferRequest{}); return err },
		`PUT /v1/policy {"holdMax":"20m"`:                  func() error { _, err := c.SetPolicy(ctx, api.Policy{HoldMax: "20m"}); return err },
	} {
		if err := call(); err != nil || !strings.HasPrefix(got, prefix) {
			t.Errorf("%s: got %s, %v", prefix, got, err)
		}
	}
}

// TestWhatIsRelativeIsNotRepeated: an answer that is lost may stand for a
// change that was made; an hour more must not become two.
func TestWhatIsRelativeIsNotRepeated(t *testing.T) {
	ca := newAuthority(t)
	more, end := "1h", "2030-12-01T09:00Z"
	for name, k := range map[string]struct {
		asked int
		call  func(c *Client) error
	}{
		"extend": {1, func(c *Client) error { _, err := c.Change(t.Context(), "x", api.Change{Extend: &more}, ""); return err }},
		"shorten": {1, func(c *Client) error {
			_, err := c.Change(t.Context(), "x", api.Change{Shorten: &more}, "")
			return err
		}},
		"extend a series": {1, func(c *Client) error {
			_, err := c.ChangeSeries(t.Context(), "x", api.Change{Extend: &more}, false)
			return err
		}},
		"a held offer":     {1, func(c *Client) error { _, err := c.Offers(t.Context(), api.OfferRequest{Hold: "10m"}); return err }},
		"a hold's default": {1, func(c *Client) error { _, err := c.Offers(t.Context(), api.OfferRequest{}); return err }},
		"a feed":           {1, func(c *Client) error { _, err := c.CreateFeed(t.Context(), api.FeedRequest{}); return err }},
		"an end":           {2, func(c *Client) error { _, err := c.Change(t.Context(), "x", api.Change{End: &end}, ""); return err }},
		"an extension's plan": {2, func(c *Client) error {
			_, err := c.PlanChange(t.Context(), "x", api.Change{Extend: &more})
			return err
		}},
		"an offer that is not held": {2, func(c *Client) error { _, err := c.Offers(t.Context(), api.OfferRequest{Hold: "0s"}); return err }},
		"park":                      {2, func(c *Client) error { _, err := c.Park(t.Context(), "x", api.ParkRequest{}); return err }},
		"resume":                    {2, func(c *Client) error { _, err := c.Resume(t.Context(), "x", api.Slot{}, "k"); return err }},
		"take":                      {2, func(c *Client) error { _, err := c.TakeOffer(t.Context(), "o1", "", "k"); return err }},
	} {
		var lost keys
		s1 := ca.server(t, lost.breaks())
		asked := 0
		s2 := ca.server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked++; io.WriteString(w, "{}") }))
		err := k.call(connect(t, ca.pem(), 5*time.Second, s1.URL, s2.URL))
		if (err == nil) != (k.asked == 2) || len(lost.list)+asked != k.asked {
			t.Errorf("%s was asked %d times, want %d: %v", name, len(lost.list)+asked, k.asked, err)
		}
	}
}

func TestCurrentIsTheHostThatAnswered(t *testing.T) {
	ca := newAuthority(t)
	dead := "https://" + deadAddress(t)
	s := ca.server(t, statusOf("h2"))
	c := connect(t, ca.pem(), 5*time.Second, dead, s.URL)
	if c.Current() != dead {
		t.Error(c.Current())
	}
	if _, err := c.Status(t.Context()); err != nil || c.Current() != s.URL {
		t.Error(c.Current(), err)
	}
}

func TestConnectionErrorsDoNotRepeatTheAddress(t *testing.T) {
	ca := newAuthority(t)
	dead := deadAddress(t)
	c := connect(t, ca.pem(), time.Millisecond, dead)
	end := "2030-12-01T09:00Z"
	for name, call := range map[string]func() error{
		"PATCH": func() error { _, err := c.Change(t.Context(), "x", api.Change{End: &end}, ""); return err },
		"PUT":   func() error { _, err := c.SetPolicy(t.Context(), api.Policy{}); return err },
		"GET":   func() error { _, err := c.Policy(t.Context()); return err },
	} {
		err := call()
		if !errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), "/v1/") || strings.Count(err.Error(), "https://") != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
