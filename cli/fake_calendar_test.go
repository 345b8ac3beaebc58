package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"vcn/api"
)

// fakeCalendar is what the fake host knows of offers, series and the rest.
type fakeCalendar struct {
	offers []api.Offer
	asked  api.Spec // of the offers
	series []api.Series
	policy api.Policy
	last   string
	stall  bool // answer nothing
	split  bool
	none   bool
	parks  bool // parks what is provisioning
	silent bool // its calendar does not say from when until when it is
}

// note remembers a request, and puts its body back.
func (c *fakeCalendar) note(r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	c.last = strings.TrimSpace(r.Method + " " + r.URL.String() + " " + string(body))
	if r.Method == http.MethodPost || r.Method == http.MethodPatch {
		keyed := "without a key"
		if r.Header.Get(api.HeaderIdempotencyKey) != "" {
			keyed = "with a key"
		}
		c.last += " " + keyed
	}
}

func (f *fakeAPI) calendarRoutes(m *http.ServeMux) {
	m.HandleFunc("POST "+api.PathOffers, f.findOffers)
	m.HandleFunc("GET "+api.PathOffers+"/{id}", f.getOffer)
	m.HandleFunc("DELETE "+api.PathOffers+"/{id}", f.releaseOffer)
	m.HandleFunc("PATCH "+api.PathReservations+"/{ref}", f.change)
	m.HandleFunc("POST "+api.PathReservations+"/{ref}/park", f.park)
	m.HandleFunc("POST "+api.PathReservations+"/{ref}/resume", f.resume)
	m.HandleFunc("GET "+api.PathReservations+"/{ref}/explain", f.explain)
	m.HandleFunc("GET "+api.PathSeries, func(w http.ResponseWriter, r *http.Request) {
		fakeAnswer(w, 200, api.List[api.Series]{Items: f.calendar.series})
	})
	m.HandleFunc("GET "+api.PathSeries+"/{ref}", f.getSeries)
	m.HandleFunc("PATCH "+api.PathSeries+"/{ref}", f.changeSeries)
	m.HandleFunc("DELETE "+api.PathSeries+"/{ref}", f.cancelSeries)
	m.HandleFunc("GET "+api.PathCalendar, f.showCalendar)
	m.HandleFunc("GET "+api.PathFeed, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/calendar")
		io.WriteString(w, "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nEND:VCALENDAR\r\n")
	})
	m.HandleFunc("POST "+api.PathFeeds, func(w http.ResponseWriter, r *http.Request) {
		var req api.FeedRequest
		if !fakeRead(w, r, &req) {
			return
		}
		fakeAnswer(w, 201, api.Feed{ID: "f1", Project: "studio", URL: api.PathFeed + "?feed=k3y", Expires: fakeNow.AddDate(1, 0, 0)})
	})
	m.HandleFunc("GET "+api.PathPolicy, func(w http.ResponseWriter, r *http.Request) { fakeAnswer(w, 200, f.policyNow()) })
	m.HandleFunc("PUT "+api.PathPolicy, func(w http.ResponseWriter, r *http.Request) {
		if text, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer vcn."); !strings.HasPrefix(text, string(api.TokenOperator)) {
			fakeProblem(w, 403, api.CodeForbidden, "a project token may not set the policy", "")
			return
		}
		if fakeRead(w, r, &f.calendar.policy) {
			fakeAnswer(w, 200, f.policyNow())
		}
	})
}

func (f *fakeAPI) policyNow() api.Policy {
	if f.calendar.policy == (api.Policy{}) {
		return api.DefaultPolicy()
	}
	return f.calendar.policy
}

// fakeRead reads a body as strictly as a host.
func fakeRead(w http.ResponseWriter, r *http.Request, v any) bool {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		fakeProblem(w, 422, api.CodeInvalid, err.Error(), "")
		return false
	}
	return true
}

func fakeInvalid(w http.ResponseWriter, errs []api.FieldError) bool {
	if len(errs) > 0 {
		fakeAnswer(w, 422, api.Invalid("the request is not right", errs))
	}
	return len(errs) > 0
}

// lead sets how long provisioning takes: two minutes before a start to come,
// and forty seconds from now on.
func (f *fakeAPI) lead(r *api.Reservation) {
	r.Zone = r.Spec.Slot.Zone
	if r.Start.After(fakeNow.Add(2 * time.Minute)) {
		r.Lead, r.Provision = "2m", r.Start.Add(-2*time.Minute)
		return
	}
	at := fakeNow.Add(40 * time.Second)
	r.Lead, r.Expected, r.Held = "40s", &at, true
}

func (f *fakeAPI) waitlist(r *api.Reservation, waitFor string) {
	d, _ := api.ParseDuration(waitFor)
	r.State, r.Held, r.Expected = api.StateWaitlisted, false, nil
	r.Wait = &api.Wait{Earliest: r.Start, Latest: r.Start.Add(d), Position: 2, Passed: 1, Message: "40 cores are short"}
	for i := range r.Nodes {
		r.Nodes[i].Host, r.Nodes[i].Storage = "", ""
	}
}

// stepCalendar moves on what waits, parks or is changed.
func (f *fakeAPI) stepCalendar(r *api.Reservation, at time.Time) bool {
	switch {
	case r.State == api.StateWaitlisted && r.Wait.Position > 1:
		r.Wait.Position--
	case r.State == api.StateWaitlisted:
		r.State, r.Wait = api.StateBooked, nil
	case r.State == api.StateProvisioning && f.calendar.parks:
		r.State, r.Message = api.StateParked, "parked by t7"
	case r.State == api.StateEnding && r.ParkedUntil != nil:
		r.State, r.Nodes, r.Phases, r.Frontend = api.StateParked, nil, nil, nil
	case r.Change != nil && len(r.Change.Leaving) > 1:
		r.Change.Leaving = r.Change.Leaving[1:]
	case r.Change != nil:
		r.Change = nil
	default:
		return false
	}
	return true
}

func (f *fakeAPI) findOffers(w http.ResponseWriter, r *http.Request) {
	var req api.OfferRequest
	if !fakeRead(w, r, &req) {
		return
	}
	req = req.Defaults()
	if fakeInvalid(w, req.Validate()) {
		return
	}
	reasons := []string{"compute: 40 cores short from 08:00 to 16:00"}
	if f.calendar.none {
		fakeAnswer(w, 200, api.OfferList{Reasons: reasons})
		return
	}
	win, err := req.Window(fakeNow)
	if err != nil {
		fakeProblem(w, 422, api.CodeInvalid, err.Error(), "")
		return
	}
	part := func(start time.Time, length time.Duration) api.OfferPart {
		p := api.OfferPart{Start: start, End: start.Add(length), Provision: start.Add(-2 * time.Minute), Expected: start}
		if !p.Provision.After(fakeNow) {
			p.Provision, p.Expected = start, start.Add(95*time.Second)
		}
		return p
	}
	g := req.Spec.Workers[0]
	f.calendar.asked = req.Spec
	f.calendar.offers = []api.Offer{{Kind: api.OfferLater, Parts: []api.OfferPart{part(win.Earliest.Add(6*time.Hour), win.Length)}, Workers: g.Count, Shape: g.NodeShape, Summary: "6h later"}}
	if req.WorkersMin > 0 && req.WorkersMin < g.Count {
		f.calendar.offers = append([]api.Offer{{Kind: api.OfferFewer, Parts: []api.OfferPart{part(win.Earliest, win.Length)}, Workers: req.WorkersMin, Shape: g.NodeShape}}, f.calendar.offers...)
	}
	for _, s := range req.Shapes {
		f.calendar.offers = append(f.calendar.offers, api.Offer{Kind: api.OfferShape, Parts: []api.OfferPart{part(win.Earliest, win.Length)}, Workers: g.Count, Shape: s})
	}
	if req.Split && f.calendar.split {
		half := win.Length / 2
		f.calendar.offers = []api.Offer{{Kind: api.OfferSplit, Parts: []api.OfferPart{part(win.Earliest, half), part(win.Earliest.Add(24*time.Hour), half)}, Workers: g.Count, Shape: g.NodeShape}}
	}
	for i := range f.calendar.offers {
		if req.HoldFor() > 0 {
			until := fakeNow.Add(req.HoldFor())
			f.calendar.offers[i].ID, f.calendar.offers[i].Expires = fmt.Sprintf("o%d", i+1), &until
		}
	}
	fakeAnswer(w, 200, api.OfferList{Items: f.calendar.offers, Reasons: reasons})
}

func (f *fakeAPI) heldOffer(w http.ResponseWriter, id string) *api.Offer {
	for i := range f.calendar.offers {
		if f.calendar.offers[i].ID == id {
			return &f.calendar.offers[i]
		}
	}
	if id == "old" {
		fakeProblem(w, 409, api.CodeExpired, "the hold of offer old ended at 2026-11-23T07:00Z", "")
		return nil
	}
	fakeProblem(w, 404, api.CodeNotFound, fmt.Sprintf("there is no offer %q", id), "")
	return nil
}

func (f *fakeAPI) getOffer(w http.ResponseWriter, r *http.Request) {
	if o := f.heldOffer(w, r.PathValue("id")); o != nil {
		fakeAnswer(w, 200, o)
	}
}

func (f *fakeAPI) releaseOffer(w http.ResponseWriter, r *http.Request) {
	if f.heldOffer(w, r.PathValue("id")) != nil {
		f.calendar.offers = nil
		w.WriteHeader(204)
	}
}

func (f *fakeAPI) takeOffer(w http.ResponseWriter, r *http.Request) {
	o := f.heldOffer(w, r.URL.Query().Get("offer"))
	if o == nil {
		return
	}
	if r.Header.Get(api.HeaderIdempotencyKey) == "" {
		fakeProblem(w, 422, api.CodeInvalid, "no idempotency key", "")
		return
	}
	spec := f.calendar.asked
	if n := r.URL.Query().Get("name"); n != "" {
		spec.Name = n
	}
	spec.Workers = slices.Clone(spec.Workers)
	spec.Workers[0].Count = o.Workers
	for i, p := range o.Parts {
		s := spec
		s.Slot = api.Slot{Start: p.Start.Format(time.RFC3339), End: p.End.Format(time.RFC3339)}
		if i > 0 {
			s.Name += "-" + strconv.Itoa(i+1)
		}
		f.add(f.plan(s))
	}
	fakeAnswer(w, 201, f.res[len(f.res)-len(o.Parts)])
	f.calendar.offers = nil
}

func (f *fakeAPI) add(r *api.Reservation) *api.Reservation {
	r.ID = fmt.Sprintf("r%d", len(f.res)+1)
	f.index++
	f.res = append(f.res, r)
	return r
}

// reserveSeries books three weekly dates, of which the second does not fit.
func (f *fakeAPI) reserveSeries(w http.ResponseWriter, r *http.Request, s api.Spec) {
	if fakeInvalid(w, s.Defaults().Validate()) {
		return
	}
	win, err := s.ResolveWindow(fakeNow)
	if err != nil {
		fakeProblem(w, 422, api.CodeInvalid, err.Error(), "")
		return
	}
	query := r.URL.Query()
	var out api.SeriesResult
	made := api.Series{ID: "s1", Name: s.Name, Project: "studio", Zone: s.Slot.Zone, Repeat: s.Slot.Repeat, Except: s.Slot.Except, Created: fakeNow}
	var booked []*api.Reservation
	for i := range 3 {
		start := win.Earliest.In(win.Zone).AddDate(0, 0, 7*i)
		date := api.SeriesDate{Name: s.Name + "-" + start.Format("20060102"), Start: start, End: start.Add(win.Length)}
		if i == 1 && s.Name != "fits" {
			date.Reasons = []string{"compute: 8 cores short"}
			out.Missing = append(out.Missing, date)
			continue
		}
		one := s
		one.Name, one.Slot = date.Name, api.Slot{Start: start.Format(time.RFC3339), For: s.Slot.For, Zone: s.Slot.Zone}
		res := f.plan(one)
		res.Series = made.ID
		booked = append(booked, res)
		out.Booked = append(out.Booked, date)
	}
	if len(out.Missing) > 0 && query.Get("partial") != "true" && query.Get("dryRun") != "true" {
		fakeProblem(w, 409, api.CodeNoFit, "1 of 3 dates does not fit", "Book those that fit with --partial", out.Missing[0].Name+": "+out.Missing[0].Reasons[0])
		return
	}
	if query.Get("dryRun") == "true" {
		fakeAnswer(w, 200, out)
		return
	}
	for _, res := range booked {
		made.Reservations = append(made.Reservations, *f.add(res))
	}
	f.calendar.series = append(f.calendar.series, made)
	out.Series = &made
	fakeAnswer(w, 201, out)
}

func (f *fakeAPI) findSeries(w http.ResponseWriter, ref string, byName bool) *api.Series {
	for i := range f.calendar.series {
		if s := &f.calendar.series[i]; s.ID == ref || byName && s.Name == ref {
			return s
		}
	}
	fakeProblem(w, 404, api.CodeNotFound, fmt.Sprintf("there is no series %q", ref), "")
	return nil
}

func (f *fakeAPI) getSeries(w http.ResponseWriter, r *http.Request) {
	if s := f.findSeries(w, r.PathValue("ref"), true); s != nil {
		fakeAnswer(w, 200, s)
	}
}

// changeSeries changes all dates but the last.
func (f *fakeAPI) changeSeries(w http.ResponseWriter, r *http.Request) {
	s := f.findSeries(w, r.PathValue("ref"), false)
	var ch api.Change
	if s == nil || !fakeRead(w, r, &ch) {
		return
	}
	ch.Start = nil // a time of day
	if fakeInvalid(w, ch.Validate()) {
		return
	}
	var out api.SeriesResult
	for i, res := range s.Reservations {
		date := api.SeriesDate{Name: res.Name, Start: res.Start, End: res.End}
		if i == len(s.Reservations)-1 || ch.Extend != nil && *ch.Extend == "1y" {
			date.Reasons = []string{"h2 is held by another project"}
			out.Missing = append(out.Missing, date)
			continue
		}
		out.Booked = append(out.Booked, date)
	}
	if r.URL.Query().Get("dryRun") != "true" {
		out.Series = s
	}
	fakeAnswer(w, 200, out)
}

func (f *fakeAPI) cancelSeries(w http.ResponseWriter, r *http.Request) {
	s := f.findSeries(w, r.PathValue("ref"), false)
	if s == nil {
		return
	}
	for i := range s.Reservations[1:] {
		s.Reservations[i+1].State = api.StateCancelled
	}
	fakeAnswer(w, 202, s)
}
