package httpapi_test

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vcn/api"
	"vcn/daemon/control/controltest"
)

func TestCalendarTellsOthersOnlyTimesAndAmounts(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	hidden := w.reserve(later("secret-lab", "studio", 2, 2*time.Hour, "4h"))
	mine := w.reserve(later("mine", "forge", 2, 24*time.Hour, "4h"))
	held := w.offers(w.rig.Operator, api.OfferRequest{Spec: later("secret-offer", "studio", 2, time.Hour, "1h")})
	forge, h := w.token(api.TokenProject, "forge").Secret, controltest.HostID(0)
	a := w.ask(h, forge, "GET", api.PathCalendar, nil)
	c := decode[api.Calendar](t, a, 200)
	if len(c.Hosts) != 3 || len(c.Slots) != 1 || c.Slots[0].ID != mine.ID || len(c.Free) < 3 || a.header.Get(api.HeaderIndex) == "" || c.Until.Sub(c.From) != 7*24*time.Hour {
		t.Errorf("the calendar is %+v", c)
	}
	hides(t, a, hidden)
	if strings.Contains(string(a.body), "secret-offer") || strings.Contains(string(a.body), held.Items[0].ID[:36]) {
		t.Errorf("another project's offer is in the calendar: %s", a.body)
	}
	kinds := map[string]int{}
	for _, host := range c.Hosts {
		for _, s := range host.Spans {
			who := "own"
			if s.Reservation == "" {
				who = "others'"
			}
			kinds[who+" "+s.Kind]++
			if (s.Reservation == "") != (s.Name == "" && s.Project == "") || s.CPUs+int(s.Memory)+int(s.Storage) == 0 || !s.Until.After(s.From) {
				t.Errorf("a span is %+v", s)
			}
		}
	}
	if kinds["own reservation"] == 0 || kinds["others' reservation"] == 0 || kinds["others' hold"] == 0 {
		t.Errorf("spans by kind are %v, want own and others' reservations, and others' holds", kinds)
	}
	all := decode[api.Calendar](t, w.op("GET", api.PathCalendar, nil), 200)
	if len(all.Slots) != 2 || !strings.Contains(string(w.op("GET", api.PathCalendar, nil).body), "secret-lab") {
		t.Errorf("an operator sees slots %+v, want both", all.Slots)
	}
	if c := decode[api.Calendar](t, w.op("GET", api.PathCalendar+"?project=studio", nil), 200); len(c.Slots) != 1 || c.Slots[0].ID != hidden.ID {
		t.Errorf("of one project, slots are %+v", c.Slots)
	}
	if p := w.ask(h, forge, "GET", api.PathCalendar+"?project=studio", nil).problem(t); p.Code != api.CodeForbidden {
		t.Errorf("a foreign project's: %+v", p)
	}
	year := "?from=" + time.Now().UTC().Format(time.RFC3339) + "&until=" + time.Now().Add(365*24*time.Hour).UTC().Format(time.RFC3339)
	if c := decode[api.Calendar](t, w.ask(h, forge, "GET", api.PathCalendar+year, nil), 200); len(c.Slots) != 1 {
		t.Errorf("of a year, slots are %+v", c.Slots)
	}
}

// feed makes a feed's address through the API.
func (w *world) feed(project string) api.Feed {
	w.t.Helper()
	f := decode[api.Feed](w.t, w.op("POST", api.PathFeeds, api.FeedRequest{Project: project}), 201)
	if f.Project != project || !strings.HasPrefix(f.URL, api.PathFeed+"?feed=vcn.feed.") {
		w.t.Fatalf("the feed is %+v", f)
	}
	return f
}

// keyOf is the key in a feed's address.
func keyOf(f api.Feed) string { _, key, _ := strings.Cut(f.URL, "="); return key }

func TestFeedShowsOneProjectByItsKeyAlone(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 3)
	hidden := w.reserve(later("secret-lab", "studio", 2, 2*time.Hour, "4h"))
	mine := w.reserve(later("mine", "forge", 2, 24*time.Hour, "4h"))
	f := w.feed("forge")
	for _, id := range []string{controltest.HostID(0), controltest.HostID(1), controltest.HostID(2)} { // through others, too
		a := w.ask(id, "", "GET", f.URL, nil)
		if a.status != 200 || a.header.Get("Content-Type") != "text/calendar; charset=utf-8" || a.header.Get(api.HeaderIndex) == "" {
			t.Fatalf("through %s: %d %v %s", id, a.status, a.header, a.body)
		}
		if !bytes.HasPrefix(a.body, []byte("BEGIN:VCALENDAR\r\n")) || strings.Count(string(a.body), "BEGIN:VEVENT") != 1 || !bytes.Contains(a.body, []byte(mine.ID)) {
			t.Errorf("through %s: %s", id, a.body)
		}
		hides(t, a, hidden)
		if a.header.Get("Cache-Control") != "private, max-age=60" || a.header.Get("Referrer-Policy") != "no-referrer" || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("through %s the headers are %v", id, a.header)
		}
	}
	h, forge := controltest.HostID(0), w.token(api.TokenProject, "forge").Secret
	for token, want := range map[string]int{forge: 1, w.rig.Operator: 2} {
		if a := w.ask(h, token, "GET", api.PathFeed, nil); a.status != 200 || strings.Count(string(a.body), "BEGIN:VEVENT") != want {
			t.Errorf("with a token: %d %s, want %d events", a.status, a.body, want)
		}
	}
	if a := w.op("GET", api.PathFeed+"?project=studio", nil); strings.Count(string(a.body), "BEGIN:VEVENT") != 1 {
		t.Errorf("an operator asks for one project: %s", a.body)
	}
	// The operator's token beside the key does not widen what the key shows.
	hides(t, w.op("GET", f.URL, nil), hidden)
	for _, token := range []string{"", forge} {
		path := api.PathFeed + "?project=studio"
		if token == "" {
			path = f.URL + "&project=studio"
		}
		if p := w.ask(h, token, "GET", path, nil).problem(t); p.Code != api.CodeForbidden {
			t.Errorf("a foreign project's feed: %+v", p)
		}
	}
}

func TestFeedsAreMadeForTheOwnProject(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	forge, h := w.token(api.TokenProject, "forge").Secret, controltest.HostID(0)
	a := w.ask(h, forge, "POST", api.PathFeeds, `{}`)
	if f := decode[api.Feed](t, a, 201); f.Project != "forge" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("the feed is %+v with headers %v", f, a.header)
	}
	w.unchanged(func() {
		if p := w.ask(h, forge, "POST", api.PathFeeds, api.FeedRequest{Project: "studio"}).problem(t); p.Code != api.CodeForbidden {
			t.Errorf("a feed of a foreign project: %+v", p)
		}
	})
}

func TestKeysAndTokensDoNotStandInForEachOther(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	h, f := controltest.HostID(0), w.feed("forge")
	key, join := keyOf(f), w.token(api.TokenJoin, "").Secret
	project := w.token(api.TokenProject, "forge").Secret
	other := controltest.New(t, controltest.Options{ClusterID: "cluster-2"})
	bare := "vcn.feed." + strings.Repeat("x", 40)
	w.unchanged(func() {
		for name, c := range map[string]struct {
			path, token string
			status      int
		}{
			"operator's token in the address":   {api.PathFeed + "?feed=" + w.rig.Operator, "", 403},
			"project's token in the address":    {api.PathFeed + "?feed=" + project, "", 403},
			"join token in the address":         {api.PathFeed + "?feed=" + join, "", 403},
			"beside a good token":               {api.PathFeed + "?feed=" + project, project, 403},
			"another cluster's in the address":  {api.PathFeed + "?feed=" + other.Operator, "", 421},
			"no key":                            {api.PathFeed, "", 401},
			"an empty key":                      {api.PathFeed + "?feed=", "", 401},
			"no token at all in the address":    {api.PathFeed + "?feed=" + bare, "", 401},
			"a key made into an operator's":     {api.PathFeed + "?feed=" + strings.Replace(key, "vcn.feed.", "vcn.operator.", 1), "", 401},
			"a project's token made into a key": {api.PathFeed + "?feed=" + strings.Replace(project, "vcn.project.", "vcn.feed.", 1), "", 401},
			"a very long key":                   {api.PathFeed + "?feed=" + key + strings.Repeat("0", 4000), "", 401},
			"the key as a token for the feed":   {api.PathFeed, key, 403},
			"a join token for the feed":         {api.PathFeed, join, 403},
			"the key as a token for calendars":  {api.PathCalendar, key, 403},
			"the key as a token for lists":      {api.PathReservations, key, 403},
			"the key as a token for status":     {api.PathStatus, key, 403},
			"the key in a calendar's address":   {api.PathCalendar + "?feed=" + key, "", 401},
			"the same beside a good token":      {api.PathCalendar + "?feed=" + key, project, 422},
			"the key in a list's address":       {api.PathReservations + "?feed=" + key, project, 422},
		} {
			a := w.ask(h, c.token, "GET", c.path, nil)
			p := a.problem(t)
			if p.Status != c.status || p.Next == "" {
				t.Errorf("%s: %+v, want %d and a next step", name, p, c.status)
			}
			for _, secret := range []string{key[len(key)-100:], secretOf(t, key), secretOf(t, project), secretOf(t, w.rig.Operator)} {
				if bytes.Contains(a.body, []byte(secret)) {
					t.Errorf("%s: a secret is repeated: %s", name, a.body)
				}
			}
			if a.header.Get("Referrer-Policy") != "no-referrer" || a.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: headers are %v", name, a.header)
			}
		}
	})
	w.unchanged(func() {
		for _, c := range [][2]string{{"POST", api.PathFeeds}, {"POST", api.PathReservations}, {"POST", api.PathOffers}, {"PUT", api.PathPolicy}, {"POST", api.PathJoin}, {"POST", api.PathTokens}} {
			if p := w.ask(h, key, c[0], c[1], `{}`).problem(t); p.Status != 403 {
				t.Errorf("%v with a feed's key: %d, want 403", c, p.Status)
			}
		}
		if p := w.ask(h, project, "PUT", api.PathPolicy, `{"holdsMax":3}`).problem(t); p.Status != 403 {
			t.Errorf("a project's token sets the policy: %+v", p)
		}
	})
}

// secretOf is the secret part of a token's text.
func secretOf(t *testing.T, text string) string {
	t.Helper()
	tok, err := api.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	return tok.Secret
}

func TestRevokedAndExpiredFeedsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 1)
		h, revoked := controltest.HostID(0), w.feed("forge")
		short := decode[api.Feed](t, w.op("POST", api.PathFeeds, api.FeedRequest{Project: "forge", For: "1d"}), 201)
		for _, f := range []api.Feed{revoked, short} {
			if a := w.ask(h, "", "GET", f.URL, nil); a.status != 200 {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
		if l := decode[api.List[api.Token]](t, w.op("GET", api.PathTokens, nil), 200); len(l.Items) != 3 || strings.Contains(string(w.op("GET", api.PathTokens, nil).body), secretOf(t, keyOf(short))) {
			t.Errorf("tokens are %+v, want feeds among them, without secrets", l.Items)
		}
		if a := w.op("DELETE", api.PathTokens+"/"+revoked.ID, nil); a.status != 204 {
			t.Fatalf("revoke: %d %s", a.status, a.body)
		}
		if p := w.ask(h, "", "GET", revoked.URL, nil).problem(t); p.Status != 401 || !strings.Contains(p.Next, "vcnctl calendar feed") {
			t.Errorf("a revoked feed: %+v", p)
		}
		time.Sleep(time.Until(short.Expires) - time.Second)
		if a := w.ask(h, "", "GET", short.URL, nil); a.status != 200 {
			t.Errorf("a second before its end: %d %s", a.status, a.body)
		}
		time.Sleep(time.Second)
		if p := w.ask(h, "", "GET", short.URL, nil).problem(t); p.Status != 401 || !strings.Contains(p.Detail, "expired") {
			t.Errorf("an expired feed: %+v", p)
		}
	})
}

// TestTheFeedsKeyIsInNoLog asks with it in all the ways that log something: well,
// through another host, through one that fails to reach the leader, and with a panic.
func TestTheFeedsKeyIsInNoLogAndNoMetric(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 3)
		f := w.feed("forge")
		wrong := strings.Replace(f.URL, "vcn.feed.", "vcn.project.", 1)
		for _, path := range []string{f.URL, wrong, f.URL + "&what=ever", strings.Replace(f.URL, "calendar.ics", "calendar.icz", 1), strings.Replace(f.URL, "/v1/", "/", 1)} {
			for _, id := range []string{controltest.HostID(0), controltest.HostID(2)} {
				w.ask(id, "", "GET", path, nil)
				w.ask(id, "", "POST", path, nil)
			}
		}
		failed := 0
		w.hosts[controltest.HostID(0)].broken = func(*http.Request) error {
			failed++
			return errors.New("connection reset")
		}
		if p := w.ask(controltest.HostID(2), "", "GET", f.URL, nil).problem(t); p.Code != api.CodeNoLeader {
			t.Errorf("through a host that does not reach the leader: %+v", p)
		}
		w.hosts[controltest.HostID(0)].broken = func(*http.Request) error { panic("on the way") }
		if p := w.ask(controltest.HostID(2), "", "GET", f.URL, nil).problem(t); p.Code != api.CodeInternal {
			t.Errorf("a panic: %+v", p)
		}
		w.mu.Lock()
		log := w.log.String()
		w.mu.Unlock()
		for _, want := range []string{"forward request", "connection reset", "panic in a request", api.PathFeed} {
			if !strings.Contains(log, want) {
				t.Errorf("the log lacks %q: this test does not look at what it should", want)
			}
		}
		metrics := w.ask(controltest.HostID(0), "", "GET", api.PathMetric, nil)
		for _, text := range []string{log, string(metrics.body)} {
			if strings.Contains(text, secretOf(t, keyOf(f))) || strings.Contains(text, "feed=") {
				t.Errorf("the key of a feed is in the log or in a metric: %.2000s", text)
			}
		}
		if !bytes.Contains(metrics.body, []byte(`route="GET /v1/calendar.ics",status="200"`)) {
			t.Errorf("metrics do not count the feed: %s", metrics.body)
		}
	})
}

func TestReadsOfTimeWithoutALeaderAreStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 3)
		w.reserve(later("lab", "studio", 2, 24*time.Hour, "4h"))
		decode[api.SeriesResult](t, w.op("POST", api.PathReservations, weekly("drill", "studio")), 201)
		offer := w.offers(w.rig.Operator, api.OfferRequest{Spec: later("x", "studio", 1, time.Hour, "1h")}).Items[0].ID
		f := w.feed("studio")
		w.setLeader("")
		w.unchanged(func() {
			peer := controltest.HostID(1)
			for _, path := range []string{api.PathCalendar, api.PathFeed, f.URL, api.PathSeries, api.PathSeries + "/drill", api.PathOffers + "/" + offer,
				api.PathPolicy, api.PathReservations + "/lab/explain"} {
				a := w.ask(peer, w.rig.Operator, "GET", path, nil)
				if a.status != 200 || a.header.Get(api.HeaderStale) != "true" || a.header.Get(api.HeaderIndex) == "" {
					t.Errorf("%s: %d %v %.200s, want a peer's own state, marked stale", path, a.status, a.header, a.body)
				}
				if p := w.ask(controltest.HostID(2), w.rig.Operator, "GET", path, nil).problem(t); p.Code != api.CodeNoLeader {
					t.Errorf("%s at a host without state: %+v", path, p)
				}
			}
			for _, c := range [][3]string{{"PATCH", api.PathReservations + "/lab", `{"extend":"1h"}`}, {"PATCH", api.PathReservations + "/lab?dryRun=true", `{"extend":"1h"}`},
				{"POST", api.PathOffers, `{}`}, {"DELETE", api.PathOffers + "/" + offer, ""}, {"PATCH", api.PathSeries + "/drill", `{"for":"1h"}`},
				{"DELETE", api.PathSeries + "/drill", ""}, {"POST", api.PathFeeds, `{"project":"studio"}`}, {"PUT", api.PathPolicy, `{}`}} {
				if p := w.ask(peer, w.rig.Operator, c[0], c[1], c[2]).problem(t); p.Code != api.CodeNoLeader || p.Status != 503 {
					t.Errorf("%v: %+v, want no_leader", c, p)
				}
			}
		})
	})
}

func TestWhatMayBeDoneTwiceIsRepeatedAfterALostLeader(t *testing.T) {
	for name, c := range map[string]struct {
		method, path, body, key string
		status                  int
	}{
		"a change, even with a key":   {"PATCH", api.PathReservations + "/lab", `{"extend":"1h"}`, "k", 504},
		"a change's dry run":          {"PATCH", api.PathReservations + "/lab?dryRun=true", `{"extend":"1h"}`, "", 200},
		"a question, even with a key": {"POST", api.PathOffers, "offer", "k", 504},
		"a feed, even with a key":     {"POST", api.PathFeeds, `{"project":"studio"}`, "k", 504},
		"a reservation's dry run":     {"POST", api.PathReservations + "?dryRun=true", "spec", "", 200},
		"the policy":                  {"PUT", api.PathPolicy, `{"holdsMax":5}`, "", 200},
		"parking":                     {"POST", api.PathReservations + "/lab/park", ``, "", 409}, // it is not ready: answered by the leader
		"resuming with a key":         {"POST", api.PathReservations + "/lab/resume", `{"start":"asap","for":"1h"}`, "k", 409},
		"resuming without":            {"POST", api.PathReservations + "/lab/resume", `{"start":"asap","for":"1h"}`, "", 504},
		"a series' change with a key": {"PATCH", api.PathSeries + "/drill", `{"extend":"1h"}`, "k", 504},
		"cancelling a series":         {"DELETE", api.PathSeries + "/drill", "", "", 202},
		"the calendar":                {"GET", api.PathCalendar, "", "", 200},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, controltest.Options{}, 3)
				w.reserve(later("lab", "studio", 2, 48*time.Hour, "4h"))
				decode[api.SeriesResult](t, w.op("POST", api.PathReservations, weekly("drill", "studio")), 201)
				failed := 0
				w.hosts[controltest.HostID(0)].broken = func(*http.Request) error {
					if failed++; failed == 1 {
						return errors.New("connection reset")
					}
					return nil
				}
				body := any(c.body)
				switch c.body {
				case "":
					body = nil
				case "spec":
					body = later("x", "studio", 1, time.Hour, "1h")
				case "offer":
					body = api.OfferRequest{Spec: later("x", "studio", 1, time.Hour, "1h")}
				}
				a := w.ask(controltest.HostID(2), w.rig.Operator, c.method, c.path, body, api.HeaderIdempotencyKey, c.key)
				if a.status != c.status || (c.status == 504) != strings.Contains(string(a.body), "may or may not") {
					t.Errorf("it is %d %s, want %d", a.status, a.body, c.status)
				}
			})
		})
	}
}

func TestPolicyIsShownAndSet(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	forge, h := w.token(api.TokenProject, "forge").Secret, controltest.HostID(0)
	before := decode[api.Policy](t, w.ask(h, forge, "GET", api.PathPolicy, nil), 200)
	if before.HoldsMax == 0 || before.HoldMax != "1h" {
		t.Errorf("the policy is %+v", before)
	}
	now := decode[api.Policy](t, w.op("PUT", api.PathPolicy, `{"holdsMax":1,"waitMax":0}`), 200)
	want := before
	want.HoldsMax, want.WaitMax = 1, 0
	if now != want {
		t.Errorf("set, it is %+v, want %+v: what is left out stays", now, want)
	}
	ask := func() answer {
		return w.ask(h, forge, "POST", api.PathOffers, api.OfferRequest{Spec: later("x", "", 1, time.Hour, "1h")})
	}
	decode[api.OfferList](t, ask(), 200)
	w.unchanged(func() {
		if again := decode[api.Policy](t, w.op("GET", api.PathPolicy, nil), 200); again != want {
			t.Errorf("asked again, it is %+v", again)
		}
	})
	if p := ask().problem(t); p.Code != api.CodeConflict {
		t.Errorf("a second hold: %+v, want a refusal", p)
	}
}
