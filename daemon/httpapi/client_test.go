package httpapi_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"vcn/api"
	"vcn/api/client"
	"vcn/daemon/control/controltest"
)

// newClient is the client that vcnctl uses, on a real TLS listener of a host that
// passes on to the one that leads.
func newClient(t *testing.T, w *world, token string) *client.Client {
	t.Helper()
	srv := httptest.NewTLSServer(w.hosts[controltest.HostID(2)].server.Public())
	t.Cleanup(srv.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	c, err := client.New(client.Config{Hosts: []string{srv.URL}, CA: ca, Token: token, RetryFor: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// must is a call that has to go well.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%T: %v", v, err)
		}
		return v
	}
}

// codeOf is the code of a refusal.
func codeOf(err error) api.Code {
	var p *api.Problem
	if !errors.As(err, &p) {
		return ""
	}
	return p.Code
}

func TestTheClientAndTheServerAgreeOnOffersAndChanges(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 3)
	ctx, c := t.Context(), newClient(t, w, w.token(api.TokenProject, "studio").Secret)
	list := must[api.OfferList](t)(c.Offers(ctx, api.OfferRequest{Spec: later("lab", "", 2, 24*time.Hour, "4h")}))
	id := list.Items[0].ID
	if o := must[api.Offer](t)(c.Offer(ctx, id)); o.ID != id {
		t.Errorf("the offer is %+v", o)
	}
	res := must[api.Reservation](t)(c.TakeOffer(ctx, id, "mine", "k"))
	if again := must[api.Reservation](t)(c.TakeOffer(ctx, id, "mine", "k")); again.ID != res.ID || again.Name != "mine" {
		t.Errorf("taken twice: %+v", again)
	}
	if _, err := c.TakeOffer(ctx, id, "", ""); codeOf(err) != api.CodeExpired {
		t.Errorf("without the key: %v", err)
	}
	second := must[api.OfferList](t)(c.Offers(ctx, api.OfferRequest{Spec: later("x", "", 2, 24*time.Hour, "4h")})).Items[0].ID
	if err := c.ReleaseOffer(ctx, second); err != nil {
		t.Error(err)
	}
	if _, err := c.Offer(ctx, second); codeOf(err) != api.CodeExpired {
		t.Errorf("given back: %v", err)
	}
	if _, err := c.Offer(ctx, "nonsense/1"); codeOf(err) != api.CodeNotFound {
		t.Errorf("no id at all: %v", err)
	}
	extend := "1h"
	if p := must[api.ChangePlan](t)(c.PlanChange(ctx, "mine", api.Change{Extend: &extend})); len(p.Fields) != 1 || p.End.Sub(res.End) != time.Hour {
		t.Errorf("the plan is %+v", p)
	}
	for i := 1; i <= 2; i++ { // two calls are two changes
		if r := must[api.Reservation](t)(c.Change(ctx, "mine", api.Change{Extend: &extend}, "")); r.End.Sub(res.End) != time.Duration(i)*time.Hour {
			t.Errorf("after %d calls it ends at %v", i, r.End)
		}
	}
	if e := must[api.Explanation](t)(c.Explain(ctx, res.ID)); e.ID != res.ID || len(e.Nodes) != 3 {
		t.Errorf("the explanation is %+v", e)
	}
	if _, err := c.Explain(ctx, "nothing"); codeOf(err) != api.CodeNotFound {
		t.Errorf("of none: %v", err)
	}
	must[api.Reservation](t)(c.Reserve(ctx, full("first", "", 48*time.Hour, "4h"), ""))
	if r := must[api.Reservation](t)(c.ReserveWaiting(ctx, full("wide", "", 48*time.Hour, "4h"), "1h", "")); r.State != api.StateWaitlisted {
		t.Errorf("it is %s, want waitlisted", r.State)
	}
}

func TestTheClientAndTheServerAgreeOnParking(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 3)
	ctx, c := t.Context(), newClient(t, w, w.token(api.TokenProject, "studio").Secret)
	spec := controltest.Spec("lab", 1)
	must[api.Reservation](t)(c.Reserve(ctx, spec, ""))
	w.rig.Settle()
	rolls := []string{"home"}
	if _, err := c.Change(ctx, "lab", api.Change{Rolls: &rolls}, ""); codeOf(err) != api.CodeDataLoss {
		t.Errorf("a change that loses data: %v", err)
	}
	w.advance()
	must[api.Reservation](t)(c.Park(ctx, "lab", api.ParkRequest{For: "2d"}))
	w.stopNodes()
	slot := api.Slot{Start: time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339), For: "2h"}
	if p := must[api.Plan](t)(c.PlanResume(ctx, "lab", slot)); len(p.Nodes) != 2 {
		t.Errorf("the plan is %+v", p)
	}
	r := must[api.Reservation](t)(c.Resume(ctx, "lab", slot, "k"))
	if again := must[api.Reservation](t)(c.Resume(ctx, "lab", slot, "k")); r.State != api.StateBooked || again.ID != r.ID {
		t.Errorf("resumed: %+v and %+v", r, again)
	}
}

func TestTheClientAndTheServerAgreeOnSeriesAndCalendars(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 3)
	ctx, c, op := t.Context(), newClient(t, w, w.token(api.TokenProject, "studio").Secret), newClient(t, w, w.rig.Operator)
	if r := must[api.SeriesResult](t)(c.PlanSeries(ctx, weekly("drill", ""), true)); len(r.Booked) != 3 || r.Series != nil {
		t.Errorf("the plan is %+v", r)
	}
	made := must[api.SeriesResult](t)(c.ReserveSeries(ctx, weekly("drill", ""), false, ""))
	if got := must[api.Series](t)(c.Series(ctx, "drill")); got.ID != made.Series.ID {
		t.Errorf("the series is %+v", got)
	}
	if l := must[[]api.Series](t)(c.ListSeries(ctx)); len(l) != 1 {
		t.Errorf("the series are %+v", l)
	}
	start := "10:00"
	for _, dry := range []bool{true, false} {
		if r := must[api.SeriesResult](t)(c.ChangeSeries(ctx, made.Series.ID, api.Change{Start: &start}, dry)); len(r.Booked) != 3 || (r.Series == nil) != dry {
			t.Errorf("dry %v: %+v", dry, r)
		}
	}
	now := time.Now()
	cal := must[api.Calendar](t)(c.Calendar(ctx, now, now.Add(60*24*time.Hour), "studio"))
	if len(cal.Slots) != 3 || len(cal.Hosts) != 3 {
		t.Errorf("the calendar is %+v", cal)
	}
	must[api.Calendar](t)(c.Calendar(ctx, time.Time{}, time.Time{}, ""))
	if text := must[string](t)(c.ICalendar(ctx, "studio")); strings.Count(text, "BEGIN:VEVENT") != 3 {
		t.Errorf("the feed is %s", text)
	}
	if s := must[api.Series](t)(c.CancelSeries(ctx, "drill")); len(s.Reservations) != 3 || s.Reservations[0].State != api.StateCancelled {
		t.Errorf("cancelled: %+v", s)
	}
	f := must[api.Feed](t)(c.CreateFeed(ctx, api.FeedRequest{For: "2d"}))
	if text := fetch(t, w, f); !strings.HasPrefix(text, "BEGIN:VCALENDAR") {
		t.Errorf("the feed is %s", text)
	}
	p := must[api.Policy](t)(c.Policy(ctx))
	p.HoldsMax = 2
	if _, err := c.SetPolicy(ctx, p); codeOf(err) != api.CodeForbidden {
		t.Errorf("a project's token sets the policy: %v", err)
	}
	if now := must[api.Policy](t)(op.SetPolicy(ctx, p)); now != p {
		t.Errorf("the policy is %+v, want %+v", now, p)
	}
}

// fetch gets a feed as a calendar program does, which knows the address only.
func fetch(t *testing.T, w *world, f api.Feed) string {
	t.Helper()
	srv := httptest.NewTLSServer(w.hosts[controltest.HostID(2)].server.Public())
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", srv.URL+f.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if u, err := url.Parse(srv.URL + f.URL); err != nil || u.Query().Get("feed") != keyOf(f) {
		t.Errorf("the address is %s: %v, want a key that needs no escapes", f.URL, err)
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var b bytes.Buffer
	if _, err := io.Copy(&b, res.Body); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
