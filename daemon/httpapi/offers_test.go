package httpapi_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vcn/api"
	"vcn/daemon/control/controltest"
)

// later is a specification for a slot that begins so long from now.
func later(name, project string, workers int, in time.Duration, length string) api.Spec {
	s := controltest.Spec(name, workers)
	s.Project = project
	s.Slot = api.Slot{Start: time.Now().Add(in).UTC().Truncate(time.Minute).Format(time.RFC3339), For: length}
	return s
}

// full is a specification that takes nearly all of the three hosts' 48 cores.
func full(name, project string, in time.Duration, length string) api.Spec {
	s := later(name, project, 3, in, length)
	s.Workers[0].NodeShape.CPUs = 12
	return s
}

func (w *world) offers(token string, req api.OfferRequest, header ...string) api.OfferList {
	w.t.Helper()
	return decode[api.OfferList](w.t, w.ask(controltest.HostID(0), token, "POST", api.PathOffers, req, header...), 200)
}

func TestOffersAreHeldAndOneIsTaken(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	w.reserve(full("before", "forge", 0, "8h"))
	spec := full("lab", "studio", time.Hour, "4h")
	a := w.op("POST", api.PathOffers, api.OfferRequest{Spec: spec, WorkersMin: 1})
	if a.header.Get(api.HeaderIndex) == "" {
		t.Errorf("headers are %v, want the index", a.header)
	}
	list := decode[api.OfferList](t, a, 200)
	if len(list.Items) < 1 || len(list.Reasons) == 0 || list.Items[0].Kind != api.OfferLater || list.Items[0].Project != "studio" || list.Items[0].Expires == nil {
		t.Fatalf("offers are %+v, want one for later that is held, and why not now", list)
	}
	first := list.Items[0]
	got := decode[api.Offer](t, w.op("GET", api.PathOffers+"/"+first.ID, nil), 200)
	if got.ID != first.ID || got.Summary != first.Summary {
		t.Errorf("the offer is %+v, want %+v", got, first)
	}
	take := func(name string) answer {
		return w.op("POST", api.PathReservations+"?offer="+first.ID+"&name="+name, nil, api.HeaderIdempotencyKey, "take")
	}
	made := take("other")
	res := decode[api.Reservation](t, made, 201)
	if res.Name != "other" || !res.Start.Equal(first.Parts[0].Start) || made.header.Get("Location") != api.PathReservations+"/"+res.ID {
		t.Errorf("taken, it is %+v with headers %v", res, made.header)
	}
	w.unchanged(func() {
		if again := decode[api.Reservation](t, take("other"), 201); again.ID != res.ID { // an operator's token has no project of its own
			t.Errorf("repeated, it is %s, want %s", again.ID, res.ID)
		}
		if p := take("another").problem(t); p.Code != api.CodeConflict {
			t.Errorf("another name under the same key: %+v", p)
		}
		if p := w.op("POST", api.PathReservations+"?offer="+first.ID, nil).problem(t); p.Status != 409 || p.Code != api.CodeExpired {
			t.Errorf("taken twice: %+v, want 409 expired", p)
		}
		for _, method := range []string{"GET", "DELETE"} {
			if p := w.op(method, api.PathOffers+"/"+first.ID, nil).problem(t); p.Status != 409 || p.Code != api.CodeExpired {
				t.Errorf("%s of a taken offer: %+v, want 409 expired", method, p)
			}
		}
	})
}

func TestOffersThatAreNotHeldChangeNothing(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	w.unchanged(func() {
		list := w.offers(w.rig.Operator, api.OfferRequest{Spec: later("lab", "studio", 2, time.Hour, "4h"), Hold: "0s"})
		if len(list.Items) != 1 || list.Items[0].Kind != api.OfferExact || list.Items[0].ID != "" || list.Items[0].Expires != nil {
			t.Errorf("offers are %+v, want the exact one, not held", list)
		}
	})
}

func TestAHoldIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 1)
		ask := func() string {
			return w.offers(w.rig.Operator, api.OfferRequest{Spec: full("lab", "studio", time.Hour, "4h"), Hold: "10m"}).Items[0].ID
		}
		free := func() bool {
			return w.op("POST", api.PathReservations+"?dryRun=true", full("x", "forge", time.Hour, "4h")).status == 200
		}
		id := ask()
		if free() {
			t.Error("what is held is free all the same")
		}
		if a := w.op("DELETE", api.PathOffers+"/"+id, nil); a.status != 204 || len(a.body) != 0 {
			t.Errorf("given back: %d %s, want 204 and nothing", a.status, a.body)
		}
		if !free() {
			t.Error("what was given back is not free")
		}
		id = ask()
		time.Sleep(11 * time.Minute)
		w.advance()
		if p := w.op("GET", api.PathOffers+"/"+id, nil).problem(t); p.Code != api.CodeExpired || p.Status != 409 {
			t.Errorf("after its time it is %+v, want expired", p)
		}
	})
}

func TestAQuestionRepeatedUnderItsKeyHoldsOnce(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 3)
	req := api.OfferRequest{Spec: later("lab", "studio", 2, time.Hour, "4h")}
	first := w.offers(w.rig.Operator, req, api.HeaderIdempotencyKey, "k")
	w.unchanged(func() {
		if again := w.offers(w.rig.Operator, req, api.HeaderIdempotencyKey, "k"); again.Items[0].ID != first.Items[0].ID {
			t.Errorf("repeated, it is %+v, want %+v", again, first)
		}
		through := decode[api.OfferList](t, w.ask(controltest.HostID(2), w.rig.Operator, "POST", api.PathOffers, req, api.HeaderIdempotencyKey, "k"), 200)
		if through.Items[0].ID != first.Items[0].ID {
			t.Error("the key does not go through another host")
		}
		req.WorkersMin = 1
		if p := w.op("POST", api.PathOffers, req, api.HeaderIdempotencyKey, "k").problem(t); p.Code != api.CodeConflict {
			t.Errorf("another question under the same key: %+v", p)
		}
	})
	req.WorkersMin = 0
	if other := w.offers(w.token(api.TokenProject, "studio").Secret, req, api.HeaderIdempotencyKey, "k"); other.Items[0].ID == first.Items[0].ID {
		t.Error("one token's key finds another token's answer")
	}
	if h := w.rig.FSM.View().Holds(); len(h) != 2 {
		t.Errorf("%d holds, want 2", len(h))
	}
	bad := api.OfferRequest{Spec: later("lab", "studio", 2, time.Hour, "4h"), Hold: "9h"}
	w.op("POST", api.PathOffers, bad, api.HeaderIdempotencyKey, "second").problem(t)
	bad.Hold = "5m"
	if a := w.op("POST", api.PathOffers, bad, api.HeaderIdempotencyKey, "second"); a.status != 200 {
		t.Errorf("after a refusal the key is used up: %d %s", a.status, a.body)
	}
}

func TestOffersOfOthersAreAsIfThereWereNone(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	h, studio, forge := controltest.HostID(0), w.token(api.TokenProject, "studio").Secret, w.token(api.TokenProject, "forge").Secret
	spec := later("lab", "", 2, time.Hour, "4h")
	id := w.offers(studio, api.OfferRequest{Spec: spec}).Items[0].ID
	none := strings.Repeat("0", 8) + "-0000-7000-8000-" + strings.Repeat("0", 12) + "-1"
	w.unchanged(func() {
		for _, c := range [][2]string{{"GET", api.PathOffers + "/"}, {"DELETE", api.PathOffers + "/"}, {"POST", api.PathReservations + "?offer="}} {
			foreign, missing := w.ask(h, forge, c[0], c[1]+id, nil).problem(t), w.ask(h, forge, c[0], c[1]+none, nil).problem(t)
			if foreign.Status != 409 || foreign.Code != api.CodeExpired || foreign.Error() != missing.Error() {
				t.Errorf("%s: a foreign offer is %+v, one that never was %+v; want the same", c, foreign, missing)
			}
			if p := w.ask(h, forge, c[0], c[1]+"lab", nil).problem(t); p.Status != 404 || p.Code != api.CodeNotFound {
				t.Errorf("%s of what is no id: %+v, want 404", c, p)
			}
		}
		if p := w.ask(h, forge, "POST", api.PathReservations+"?offer="+id, nil, api.HeaderIdempotencyKey, "k").problem(t); p.Code != api.CodeExpired {
			t.Errorf("a foreign offer with a key: %+v", p)
		}
		spec.Project = "studio"
		if p := w.ask(h, forge, "POST", api.PathOffers, api.OfferRequest{Spec: spec}).problem(t); p.Code != api.CodeForbidden {
			t.Errorf("a question for a foreign project: %+v", p)
		}
	})
	if r := decode[api.Reservation](t, w.ask(h, studio, "POST", api.PathReservations+"?offer="+id, nil), 201); r.Project != "studio" {
		t.Errorf("its owner takes it: %+v", r)
	}
}

func TestWrongRequestsOfTimeAreRefusedByField(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	w.reserve(later("lab", "studio", 2, 48*time.Hour, "4h"))
	made := w.op("POST", api.PathReservations, weekly("drill", "studio"))
	decode[api.SeriesResult](t, made, 201)
	offer := func(change func(*api.OfferRequest)) api.OfferRequest {
		r := api.OfferRequest{Spec: later("x", "studio", 2, time.Hour, "4h")}
		change(&r)
		return r
	}
	one, series := api.PathReservations+"/lab", api.PathSeries+"/drill"
	spec := controltest.Spec("x", 1)
	for name, c := range map[string]struct {
		method, path string
		body         any
		field        string
	}{
		"offer: unknown field":       {"POST", api.PathOffers, `{"spec":{},"wokersMin":1}`, "wokersMin"},
		"offer: hold too long":       {"POST", api.PathOffers, offer(func(r *api.OfferRequest) { r.Hold = "2h" }), "hold"},
		"offer: too many workers":    {"POST", api.PathOffers, offer(func(r *api.OfferRequest) { r.WorkersMin = 3 }), "workersMin"},
		"offer: specification":       {"POST", api.PathOffers, offer(func(r *api.OfferRequest) { r.Spec.Workers[0].Count = 0 }), "spec.workers[0].count"},
		"offer: no project":          {"POST", api.PathOffers, offer(func(r *api.OfferRequest) { r.Spec.Project = "" }), "spec.project"},
		"offer: taken with a body":   {"POST", api.PathReservations + "?offer=x", spec, "offer"},
		"offer: taken and dry":       {"POST", api.PathReservations + "?offer=x&dryRun=true", nil, "offer"},
		"name without offer":         {"POST", api.PathReservations + "?name=y", spec, "name"},
		"partial without series":     {"POST", api.PathReservations + "?partial=true", spec, "partial"},
		"waiting dryly":              {"POST", api.PathReservations + "?waitFor=1d&dryRun=true", spec, "waitFor"},
		"waiting for ever":           {"POST", api.PathReservations + "?waitFor=2y", spec, "waitFor"},
		"a series that waits":        {"POST", api.PathReservations + "?waitFor=1d", weekly("y", "studio"), "waitFor"},
		"change: unknown field":      {"PATCH", one, `{"extnd":"2h"}`, "extnd"},
		"change: wrong type":         {"PATCH", one, `{"workers":{"compute":"many"}}`, "workers.compute"},
		"change: no length":          {"PATCH", one, `{"extend":"long"}`, "extend"},
		"change: no such group":      {"PATCH", one, `{"workers":{"big":2}}`, "workers.big"},
		"change: no such roll":       {"PATCH", one, `{"rolls":["slrum"]}`, "rolls[0]"},
		"change: dry, no length":     {"PATCH", one + "?dryRun=true", `{"extend":"long"}`, "extend"},
		"change: wrong parameter":    {"PATCH", one + "?allowLoss=lab", `{"extend":"1h"}`, "allowLoss"},
		"park: too long":             {"POST", one + "/park", `{"for":"9y"}`, "for"},
		"park: unknown field":        {"POST", one + "/park", `{"fro":"9d"}`, "fro"},
		"resume: unknown field":      {"POST", one + "/resume", `{"begin":"asap"}`, "begin"},
		"series: not a time of day":  {"PATCH", series, `{"start":"2030-01-01T00:00Z"}`, "start"},
		"series: unknown field":      {"PATCH", series, `{"strat":"09:00"}`, "strat"},
		"series: an end":             {"PATCH", series, `{"end":"2030-01-01T00:00Z"}`, "end"},
		"calendar: from":             {"GET", api.PathCalendar + "?from=yesterday", nil, "from"},
		"calendar: without a zone":   {"GET", api.PathCalendar + "?until=2030-01-01T00:00", nil, "until"},
		"calendar: ends before":      {"GET", api.PathCalendar + "?from=2030-01-02T00:00Z&until=2030-01-01T00:00Z", nil, "until"},
		"calendar: over a year":      {"GET", api.PathCalendar + "?from=2030-01-01T00:00Z&until=2032-01-01T00:00Z", nil, "until"},
		"calendar: wrong parameter":  {"GET", api.PathCalendar + "?form=2030-01-01T00:00Z", nil, "form"},
		"feed: life":                 {"POST", api.PathFeeds, `{"project":"studio","for":"1h"}`, "for"},
		"feed: no project":           {"POST", api.PathFeeds, `{}`, "project"},
		"feed: unknown field":        {"POST", api.PathFeeds, `{"life":"1h"}`, "life"},
		"policy: hold":               {"PUT", api.PathPolicy, `{"holdMax":"9h"}`, "holdMax"},
		"policy: unknown field":      {"PUT", api.PathPolicy, `{"holdMin":"9h"}`, "holdMin"},
		"policy: number":             {"PUT", api.PathPolicy, `{"waitMax":-1}`, "waitMax"},
		"token: a feed's is not one": {"POST", api.PathTokens, `{"kind":"feed","project":"studio"}`, "kind"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.unchanged(func() {
				p := w.op(c.method, c.path, c.body).problem(t)
				if p.Status != 422 || p.Code != api.CodeInvalid || len(p.Errors) == 0 || p.Errors[0].Field != c.field || p.Errors[0].Want == "" {
					t.Errorf("it is %+v, want 422 and the field %s", p, c.field)
				}
			})
		})
	}
	for _, c := range [][2]string{{"PATCH", one}, {"POST", one + "/resume"}, {"POST", api.PathOffers}, {"PATCH", series}, {"POST", api.PathFeeds}, {"PUT", api.PathPolicy}} {
		w.unchanged(func() {
			if p := w.op(c[0], c[1], nil).problem(t); p.Code != api.CodeInvalid {
				t.Errorf("%v without a body: %+v", c, p)
			}
			if p := w.op(c[0], c[1], strings.Repeat(" ", 1<<20+1)).problem(t); p.Status != 413 {
				t.Errorf("%v with too much: %+v", c, p)
			}
		})
	}
	for _, c := range [][2]string{{"PUT", one}, {"PATCH", api.PathPolicy}, {"DELETE", api.PathCalendar}, {"POST", api.PathFeed}} {
		a := w.op(c[0], c[1], nil)
		if p := a.problem(t); p.Status != 405 || len(a.header.Values("Allow")) == 0 {
			t.Errorf("%v: %+v with Allow %v", c, p, a.header.Values("Allow"))
		}
	}
}
