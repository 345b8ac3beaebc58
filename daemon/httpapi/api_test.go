package httpapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vcn/api"
	"vcn/daemon/control/controltest"
)

func TestReserveShowRelease(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	made := w.op("POST", api.PathReservations, controltest.Spec("lab", 2))
	res := decode[api.Reservation](t, made, 201)
	if made.header.Get("Location") != api.PathReservations+"/"+res.ID || made.header.Get(api.HeaderIndex) == "" {
		t.Errorf("headers are %v, want Location and index", made.header)
	}
	if len(res.Nodes) != 3 || res.Nodes[0].Host != "h0" || res.Nodes[0].Storage == "" || res.Spec.Workers[0].CPUs != 1 {
		t.Errorf("reservation is %+v", res)
	}
	if res.Frontend == nil || res.Frontend.Address != "192.0.2.10" || !strings.HasPrefix(res.Frontend.HostKey, "ssh-ed25519 ") {
		t.Errorf("frontend is %+v, want an address and an ssh host key", res.Frontend)
	}
	for _, key := range []string{res.ID, "lab"} {
		got := decode[api.Reservation](t, w.op("GET", api.PathReservations+"/"+key, nil), 200)
		if got.ID != res.ID {
			t.Errorf("%s gets %s", key, got.ID)
		}
	}
	list := decode[api.List[api.Reservation]](t, w.op("GET", api.PathReservations+"?project=studio&state=provisioning", nil), 200)
	if len(list.Items) != 1 {
		t.Errorf("%d listed, want 1", len(list.Items))
	}
	leases := decode[api.List[api.Lease]](t, w.op("GET", api.PathLeases, nil), 200)
	if len(leases.Items) != 7 { // VLAN, subnet, four MACs, public address
		t.Errorf("%d leases, want 7: %+v", len(leases.Items), leases.Items)
	}
	hosts := decode[api.List[api.Host]](t, w.op("GET", api.PathHosts, nil), 200)
	if h := hosts.Items[0]; len(hosts.Items) != 3 || h.Name != "h0" || h.FreeCPUs >= h.CPUs || h.FreeMemory >= h.Memory || h.Status != "alive" {
		t.Errorf("hosts are %+v, want some of h0 taken", hosts.Items)
	}
	events := decode[api.EventList](t, w.op("GET", api.PathReservations+"/lab/events", nil), 200)
	if len(events.Items) == 0 || events.Items[0].Kind != "reservation.booked" || events.Index < events.Items[0].Index {
		t.Errorf("events are %+v", events)
	}
	gone := decode[api.Reservation](t, w.op("DELETE", api.PathReservations+"/lab", nil), 202)
	if gone.State != api.StateEnding {
		t.Errorf("released, it is %s, want ending", gone.State)
	}
	w.rig.Settle()
	if l := decode[api.List[api.Reservation]](t, w.op("GET", api.PathReservations, nil), 200); len(l.Items) != 0 {
		t.Errorf("%d live, want none", len(l.Items))
	}
	if l := decode[api.List[api.Reservation]](t, w.op("GET", api.PathReservations+"?all=true", nil), 200); len(l.Items) != 1 {
		t.Errorf("%d in all, want 1", len(l.Items))
	}
	if got := decode[api.Reservation](t, w.op("GET", api.PathReservations+"/lab", nil), 200); got.State != api.StateCancelled && got.State != api.StateEnded {
		t.Errorf("by name after its end it is %s", got.State)
	}
}

func TestYAMLBody(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	yaml := "name: lab\nproject: studio\nslot: {start: asap, for: 8h}\nfrontend: {memory: 1GiB}\nworkers: [{count: 1}]\nusers:\n  - {name: alice, keys: [\"" + controltest.Key + "\"]}\n"
	decode[api.Reservation](t, w.op("POST", api.PathReservations, yaml, "Content-Type", "application/yaml"), 201)
}

func TestDryRun(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	w.unchanged(func() {
		plan := decode[api.Plan](t, w.op("POST", api.PathReservations+"?dryRun=true", controltest.Spec("lab", 2)), 200)
		if len(plan.Nodes) != 3 || len(plan.Images) != 2 || plan.Lead == "" {
			t.Errorf("plan is %+v", plan)
		}
	})
}

func TestIdempotencyKeyReplays(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	post := func(workers int, key string) answer {
		return w.op("POST", api.PathReservations, controltest.Spec("lab", workers), api.HeaderIdempotencyKey, key)
	}
	first := decode[api.Reservation](t, post(1, "k"), 201)
	w.unchanged(func() {
		if again := decode[api.Reservation](t, post(1, "k"), 201); again.ID != first.ID {
			t.Errorf("repeated, it is %s, want %s", again.ID, first.ID)
		}
		if p := post(2, "k").problem(t); p.Code != api.CodeConflict {
			t.Errorf("another specification under the same key: %+v", p)
		}
		if p := post(1, "other").problem(t); p.Code != api.CodeConflict {
			t.Errorf("the same name under another key: %+v", p)
		}
		if p := post(1, strings.Repeat("k", 201)).problem(t); p.Code != api.CodeInvalid || p.Errors[0].Field != "Idempotency-Key" {
			t.Errorf("a key too long: %+v", p)
		}
	})
}

// good is a valid specification as JSON, with one field replaced.
func good(old, now string) string {
	b, _ := json.Marshal(controltest.Spec("lab", 2))
	s := string(b)
	if !strings.Contains(s, old) {
		panic("no " + old + " in " + s)
	}
	return strings.Replace(s, old, now, 1)
}

func TestBadInputIsRefusedClearlyAndChangesNothing(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	for name, c := range map[string]struct {
		method, path string
		body         any
		status       int
		code         api.Code
		field        string
		says         string
	}{
		"unknown field":         {"POST", api.PathReservations, good(`"name"`, `"naem"`), 422, api.CodeInvalid, "naem", `did you mean "name"`},
		"unknown nested field":  {"POST", api.PathReservations, good(`"count":2`, `"count":2,"ram":"4GiB"`), 422, api.CodeInvalid, "workers[0].ram", `did you mean "memory"`},
		"wrong unit":            {"POST", api.PathReservations, good(`"count":2`, `"count":2,"memory":"4GB"`), 422, api.CodeInvalid, "workers[0].memory", "4GiB"},
		"no unit":               {"POST", api.PathReservations, good(`"count":2`, `"count":2,"memory":4096`), 422, api.CodeInvalid, "workers[0].memory", "unit"},
		"text for a number":     {"POST", api.PathReservations, good(`"count":2`, `"count":"two"`), 422, api.CodeInvalid, "workers[0].count", "whole number"},
		"more than exists":      {"POST", api.PathReservations, good(`"count":2`, `"count":200`), 409, api.CodeNoFit, "", "compute"},
		"more than a subnet":    {"POST", api.PathReservations, good(`"count":2`, `"count":999`), 409, api.CodeNoFit, "", "room for 246 nodes"},
		"a host too small":      {"POST", api.PathReservations, good(`"count":2`, `"count":2,"cpus":200`), 409, api.CodeNoFit, "", "core"},
		"out of range":          {"POST", api.PathReservations, good(`"count":2`, `"count":2000`), 422, api.CodeInvalid, "workers[0].count", "1 to 1000"},
		"end before start":      {"POST", api.PathReservations, good(`{"start":"asap","for":"8h"}`, `{"start":"2999-01-02T00:00Z","end":"2999-01-01T00:00Z"}`), 422, api.CodeInvalid, "slot.end", "after the start"},
		"start without zone":    {"POST", api.PathReservations, good(`"start":"asap"`, `"start":"2999-01-02T00:00"`), 422, api.CodeInvalid, "slot.start", "zone"},
		"start long ago":        {"POST", api.PathReservations, good(`"start":"asap"`, `"start":"2001-01-02T00:00Z"`), 422, api.CodeInvalid, "slot.start", "a time to come"},
		"unknown roll":          {"POST", api.PathReservations, good(`["slurm"]`, `["slrum"]`), 422, api.CodeInvalid, "rolls[0]", "slurm"},
		"unknown appliance":     {"POST", api.PathReservations, good(`"count":2`, `"count":2,"appliance":"toaster"`), 422, api.CodeInvalid, "workers[0].appliance", "appliance"},
		"private key":           {"POST", api.PathReservations, good(controltest.Key, "-----BEGIN OPENSSH PRIVATE KEY-----"), 422, api.CodeInvalid, "users[0].keys[0]", "public key"},
		"not JSON":              {"POST", api.PathReservations, `{"name": `, 422, api.CodeInvalid, "", ""},
		"empty body":            {"POST", api.PathReservations, ``, 0, api.CodeInvalid, "", ""},
		"body too large":        {"POST", api.PathReservations, strings.Repeat(" ", 1<<20+1), 413, api.CodeTooLarge, "", "1048576 bytes"},
		"wrong query value":     {"POST", api.PathReservations + "?dryRun=perhaps", good("lab", "lab"), 422, api.CodeInvalid, "dryRun", ""},
		"unknown query":         {"GET", api.PathReservations + "?projcet=studio", nil, 422, api.CodeInvalid, "projcet", ""},
		"wrong state":           {"GET", api.PathReservations + "?state=sleeping", nil, 422, api.CodeInvalid, "state", "provisioning"},
		"wrong wait":            {"GET", api.PathEvents + "?wait=forever", nil, 422, api.CodeInvalid, "wait", "30s"},
		"wrong index":           {"GET", api.PathEvents + "?after=-1", nil, 422, api.CodeInvalid, "after", ""},
		"no such reservation":   {"GET", api.PathReservations + "/nothing", nil, 404, api.CodeNotFound, "", "nothing"},
		"release of none":       {"DELETE", api.PathReservations + "/nothing", nil, 404, api.CodeNotFound, "", "nothing"},
		"no such route":         {"GET", "/v1/clusters", nil, 404, api.CodeNotFound, "", "/v1/clusters"},
		"no such page":          {"GET", "/nothing", nil, 404, api.CodeNotFound, "", "/nothing"},
		"method not taken":      {"DELETE", api.PathHosts, nil, 405, api.CodeInvalid, "", "DELETE"},
		"token of no kind":      {"POST", api.PathTokens, `{"kind":"king"}`, 422, api.CodeInvalid, "kind", "operator"},
		"token for ever":        {"POST", api.PathTokens, `{"kind":"join","for":"100y"}`, 422, api.CodeInvalid, "for", "10y"},
		"token without project": {"POST", api.PathTokens, `{"kind":"project"}`, 422, api.CodeInvalid, "project", ""},
		"revoke of none":        {"DELETE", api.PathTokens + "/nothing", nil, 404, api.CodeNotFound, "", "nothing"},
		"images of no roll":     {"POST", api.PathImages, `{"rolls":["nope"]}`, 422, api.CodeInvalid, "rolls[0]", "nope"},
		"join with another's":   {"POST", api.PathJoin, `{}`, 403, api.CodeForbidden, "", "operator"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.unchanged(func() {
				p := w.op(c.method, c.path, c.body).problem(t)
				if (c.status != 0 && p.Status != c.status) || p.Code != c.code {
					t.Errorf("it is %d %s, want %d %s: %+v", p.Status, p.Code, c.status, c.code, p)
				}
				all := p.Error()
				if c.field != "" && (len(p.Errors) == 0 || p.Errors[0].Field != c.field || p.Errors[0].Want == "") {
					t.Errorf("field errors are %+v, want %s and what it should be", p.Errors, c.field)
				}
				if !strings.Contains(all, c.says) {
					t.Errorf("it says %q, want %q in it", all, c.says)
				}
			})
		})
	}
}

func TestAuthentication(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	other := controltest.New(t, controltest.Options{ClusterID: "cluster-2"})
	project := w.token(api.TokenProject, "studio")
	revoked := w.token(api.TokenProject, "studio")
	if a := w.op("DELETE", api.PathTokens+"/"+revoked.ID, nil); a.status != 204 {
		t.Fatalf("revoke: %d %s", a.status, a.body)
	}
	last := project.Secret[len(project.Secret)-64-1-64:]
	forged := strings.Replace(project.Secret, last[:64], strings.Repeat("0", 64), 1)
	promoted := strings.Replace(project.Secret, "vcn.project.", "vcn.operator.", 1)
	for name, c := range map[string]struct {
		token  string
		status int
		code   api.Code
		says   string
	}{
		"none":                    {"", 401, api.CodeUnauthorized, "token"},
		"not a token":             {"hello", 401, api.CodeUnauthorized, "not a vcn token"},
		"another cluster's":       {other.Operator, 421, api.CodeWrongCluster, "cluster-2"},
		"revoked":                 {revoked.Secret, 401, api.CodeUnauthorized, "revoked"},
		"wrong secret":            {forged, 401, api.CodeUnauthorized, "unknown"},
		"kind changed by hand":    {promoted, 401, api.CodeUnauthorized, "unknown"},
		"project token for hosts": {project.Secret, 403, api.CodeForbidden, "operator"},
	} {
		t.Run(name, func(t *testing.T) {
			w.unchanged(func() {
				a := w.ask(controltest.HostID(0), c.token, "GET", api.PathHosts, nil)
				p := a.problem(t)
				if p.Status != c.status || p.Code != c.code || !strings.Contains(p.Detail+p.Next, c.says) {
					t.Errorf("it is %d %s %q, want %d %s and %q", p.Status, p.Code, p.Detail, c.status, c.code, c.says)
				}
				if (p.Status == 401) != (a.header.Get("WWW-Authenticate") != "") {
					t.Errorf("%d with WWW-Authenticate %q", p.Status, a.header.Get("WWW-Authenticate"))
				}
			})
		})
	}
}

func TestExpiredTokenSaysWhenItExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 1)
		tok := decode[api.Token](t, w.op("POST", api.PathTokens, api.TokenRequest{Kind: api.TokenProject, Project: "studio", For: "1h"}), 201)
		if a := w.ask(controltest.HostID(0), tok.Secret, "GET", api.PathReservations, nil); a.status != 200 {
			t.Fatalf("before it expires: %d %s", a.status, a.body)
		}
		time.Sleep(time.Until(tok.Expires))
		w.unchanged(func() {
			p := w.ask(controltest.HostID(0), tok.Secret, "GET", api.PathReservations, nil).problem(t)
			if p.Status != 401 || !strings.Contains(p.Detail, tok.Expires.UTC().Format(time.RFC3339)) {
				t.Errorf("it is %+v, want 401 and the time %v", p, tok.Expires)
			}
		})
	})
}

func TestProjectTokenSeesOnlyItsOwn(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	studio, forge := w.token(api.TokenProject, "studio").Secret, w.token(api.TokenProject, "forge").Secret
	h := controltest.HostID(0)
	mine := w.reserve(controltest.Spec("lab", 1))
	for _, path := range []string{api.PathReservations + "/" + mine.ID, api.PathReservations + "/lab", api.PathReservations + "/lab/events"} {
		if a := w.ask(h, studio, "GET", path, nil); a.status != 200 {
			t.Errorf("own %s: %d %s", path, a.status, a.body)
		}
		if p := w.ask(h, forge, "GET", path, nil).problem(t); p.Status != 404 {
			t.Errorf("foreign %s: %d, want 404", path, p.Status)
		}
	}
	for token, want := range map[string]int{studio: 1, forge: 0} {
		if l := decode[api.List[api.Reservation]](t, w.ask(h, token, "GET", api.PathReservations, nil), 200); len(l.Items) != want {
			t.Errorf("%d reservations, want %d", len(l.Items), want)
		}
		if l := decode[api.List[api.Lease]](t, w.ask(h, token, "GET", api.PathLeases, nil), 200); (len(l.Items) > 0) != (want > 0) {
			t.Errorf("%d leases for who has %d reservations", len(l.Items), want)
		}
		if l := decode[api.EventList](t, w.ask(h, token, "GET", api.PathEvents, nil), 200); (len(l.Items) > 0) != (want > 0) {
			t.Errorf("%d events for who has %d reservations", len(l.Items), want)
		}
	}
	w.unchanged(func() {
		if p := w.ask(h, forge, "DELETE", api.PathReservations+"/"+mine.ID, nil).problem(t); p.Status != 404 {
			t.Errorf("release of a foreign one: %d, want 404", p.Status)
		}
		if p := w.ask(h, forge, "GET", api.PathReservations+"?project=studio", nil).problem(t); p.Code != api.CodeForbidden {
			t.Errorf("list of a foreign project: %+v", p)
		}
		if p := w.ask(h, forge, "POST", api.PathReservations, controltest.Spec("x", 1)).problem(t); p.Code != api.CodeForbidden {
			t.Errorf("reserve for a foreign project: %+v", p)
		}
	})
	spec := controltest.Spec("x", 1)
	spec.Project = ""
	if r := decode[api.Reservation](t, w.ask(h, forge, "POST", api.PathReservations, spec), 201); r.Project != "forge" {
		t.Errorf("the project is %q, want the token's", r.Project)
	}
	if a := w.op("GET", api.PathReservations+"/lab?project=forge", nil); a.status != 404 {
		t.Errorf("lab of forge: %d", a.status)
	}
}

func TestLongPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 1)
		begin := time.Now()
		res := w.reserve(controltest.Spec("lab", 1))
		path := api.PathReservations + "/lab"
		got := make(chan answer)
		index := w.op("GET", path, nil).header.Get(api.HeaderIndex)
		go func() { got <- w.op("GET", path+"?wait=30s&index="+index, nil) }()
		time.Sleep(7 * time.Second)
		if _, err := w.rig.Control.Release(t.Context(), res.ID, "x"); err != nil {
			t.Fatal(err)
		}
		if r := decode[api.Reservation](t, <-got, 200); r.State != api.StateEnding || time.Since(begin) != 7*time.Second {
			t.Errorf("after %v it is %s, want ending at once", time.Since(begin), r.State)
		}
		after := decode[api.EventList](t, w.op("GET", api.PathEvents, nil), 200).Index
		begin = time.Now()
		list := decode[api.EventList](t, w.op("GET", fmt.Sprintf("%s?after=%d&wait=10h", api.PathEvents, after), nil), 200)
		if len(list.Items) != 0 || time.Since(begin) != time.Minute {
			t.Errorf("a poll of 10h took %v and has %d events, want 1m and none", time.Since(begin), len(list.Items))
		}
		go func() { got <- w.op("GET", fmt.Sprintf("%s?after=%d&wait=60s", api.PathEvents, after), nil) }()
		time.Sleep(3 * time.Second)
		begin = time.Now()
		w.token(api.TokenJoin, "") // makes no event
		time.Sleep(time.Second)
		w.reserve(controltest.Spec("second", 1))
		if l := decode[api.EventList](t, <-got, 200); len(l.Items) == 0 || time.Since(begin) != time.Second {
			t.Errorf("after %v: %+v, want the new event at once", time.Since(begin), l)
		}
	})
}

func TestOperatorsRoutes(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	st := decode[api.Status](t, w.op("GET", api.PathStatus, nil), 200)
	if st.ClusterID != "cluster-1" || st.Forming || st.Hosts != 3 || st.Host != "name-of-host-000" || st.Expect != 3 || st.Index == 0 {
		t.Errorf("status is %+v", st)
	}
	rolls := decode[api.List[api.Roll]](t, w.op("GET", api.PathRolls, nil), 200)
	if len(rolls.Items) < 4 || rolls.Items[0].Digest == "" {
		t.Errorf("rolls are %+v", rolls.Items)
	}
	images := decode[api.List[api.Image]](t, w.op("POST", api.PathImages, api.ImageRequest{Rolls: []string{"slurm"}}), 202)
	if len(images.Items) != 2 || images.Items[0].State != "wanted" {
		t.Errorf("images are %+v", images.Items)
	}
	w.unchanged(func() { // asked again, nothing is new
		decode[api.List[api.Image]](t, w.op("POST", api.PathImages, api.ImageRequest{Rolls: []string{"slurm"}}), 202)
	})
	if l := decode[api.List[api.Image]](t, w.op("GET", api.PathImages, nil), 200); len(l.Items) != 2 {
		t.Errorf("%d images, want 2", len(l.Items))
	}
	join := w.token(api.TokenJoin, "")
	if l := decode[api.List[api.Token]](t, w.op("GET", api.PathTokens, nil), 200); len(l.Items) != 2 || l.Items[0].Secret+l.Items[1].Secret != "" {
		t.Errorf("tokens are %+v, want two without secrets", l.Items)
	}
	if p := w.ask(controltest.HostID(0), join.Secret, "GET", api.PathStatus, nil).problem(t); p.Code != api.CodeForbidden {
		t.Errorf("status with a join token: %+v", p)
	}
}

func TestPagesWithoutToken(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	h := controltest.HostID(0)
	if a := w.ask(h, "", "GET", api.PathHealth, nil); a.status != 200 {
		t.Errorf("health: %d %s", a.status, a.body)
	}
	w.op("GET", api.PathReservations+"/some-name", nil)
	w.op("PATCH", api.PathReservations+"/some-name", `{}`)
	w.op("PROPFIND", api.PathReservations+"/some-name", nil)
	metrics := w.ask(h, "", "GET", api.PathMetric, nil)
	if !bytes.Contains(metrics.body, []byte(`vcn_http_requests_total{method="GET",route="GET /v1/reservations/{id}",status="404"} 1`)) ||
		!bytes.Contains(metrics.body, []byte(`{method="PATCH",route="PATCH /v1/reservations/{id}",status="404"} 1`)) || !bytes.Contains(metrics.body, []byte(`{method="other",`)) ||
		!bytes.Contains(metrics.body, []byte("vcn_leader 1")) || bytes.Contains(metrics.body, []byte("some-name")) {
		t.Errorf("metrics:\n%s", metrics.body)
	}
	docs := w.ask(h, "", "GET", api.PathDocs, nil)
	page := string(docs.body)
	for _, want := range []string{"POST", "/v1/reservations/{id}", "Idempotency-Key", `id="schema-Spec"`, `id="schema-WorkerGroup"`, "operator or project"} {
		if !strings.Contains(page, want) {
			t.Errorf("the documentation lacks %q", want)
		}
	}
	for path, methods := range openapi(t).Paths {
		for method, op := range methods {
			if !strings.Contains(page, `<section id="`+op.OperationID+`"><h3 class="path"><span class="method">`+strings.ToUpper(method)+`</span>`+path) {
				t.Errorf("the documentation lacks %s %s", method, path)
			}
		}
	}
	for _, want := range []string{`<a href="#schema-Reservation">Reservation</a> or <a href="#schema-ChangePlan">ChangePlan</a>`, "or a feed&#39;s key in the query", `id="schema-Offer"`} {
		if !strings.Contains(page, want) {
			t.Errorf("the documentation lacks %q", want)
		}
	}
	for _, bad := range []string{"http://", "https://", "<script", "//cdn", "@import", "url("} {
		if strings.Contains(page, bad) {
			t.Errorf("the documentation has %q in it: it must need nothing from outside", bad)
		}
	}
	if a := w.ask(h, "", "GET", "/", nil); a.status != http.StatusFound {
		t.Errorf("/: %d, want a redirect to the documentation", a.status)
	}
	w.setLeader("")
	if p := w.ask(h, "", "GET", api.PathHealth, nil).problem(t); p.Status != 503 {
		t.Errorf("health without a leader: %d", p.Status)
	}
}

// TestNoSecretLeaves fills a state with secrets and looks for each of them in
// every answer of /v1.
func TestNoSecretLeaves(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	res := w.reserve(controltest.Spec("lab", 2))
	w.rig.Settle()
	project := w.token(api.TokenProject, "studio")
	feed := w.feed("studio")
	decode[api.SeriesResult](t, w.op("POST", api.PathReservations, weekly("drill", "studio")), 201)
	offer := w.offers(w.rig.Operator, api.OfferRequest{Spec: later("x", "studio", 1, time.Hour, "1h")}).Items[0].ID
	v := w.rig.FSM.View()
	secrets := map[string]string{"project token": project.Secret, "operator token": w.rig.Operator, "feed's key": keyOf(feed)}
	for _, vol := range v.Volumes("") {
		secrets["CHAP secret of "+vol.Node], secrets["CHAP user of "+vol.Node] = vol.Secret, vol.User
	}
	row, _ := v.Reservation(res.ID)
	for key, s := range row.Secrets {
		if !strings.HasSuffix(key, ".pub") && !strings.Contains(key, ".pub/") {
			secrets[key] = string(s)
		}
	}
	meta, _ := v.Meta()
	secrets["CA key"], secrets["gossip key"] = string(meta.CAKey), string(meta.GossipKey)
	for _, tok := range v.Tokens() {
		secrets["hash of "+tok.ID] = string(tok.Hash)
	}
	if len(secrets) < 12 {
		t.Fatalf("only %d secrets in the state: %v", len(secrets), secrets)
	}
	var said [][]byte
	for _, token := range []string{w.rig.Operator, project.Secret} {
		for _, path := range []string{api.PathStatus, api.PathReservations, api.PathReservations + "?all=true", api.PathReservations + "/lab",
			api.PathReservations + "/lab/events", api.PathEvents, api.PathHosts, api.PathLeases, api.PathImages, api.PathRolls, api.PathTokens,
			api.PathCalendar, api.PathFeed, api.PathSeries, api.PathSeries + "/drill", api.PathOffers + "/" + offer, api.PathPolicy,
			api.PathReservations + "/lab/explain", feed.URL, api.PathMetric, api.PathDocs, "/openapi.json", api.PathHealth} {
			a := w.ask(controltest.HostID(0), token, "GET", path, nil)
			if a.status != 200 && a.status != 403 {
				t.Errorf("%s: %d %s", path, a.status, a.body)
			}
			said = append(said, a.body, []byte(fmt.Sprint(a.header)))
		}
	}
	said = append(said, w.op("POST", api.PathReservations+"?dryRun=true", controltest.Spec("other", 1)).body,
		w.op("PATCH", api.PathReservations+"/lab?dryRun=true", `{"workers":{"compute":3}}`).body, w.op("PATCH", api.PathReservations+"/lab", `{"extend":"1h"}`).body,
		w.op("PATCH", api.PathSeries+"/drill", `{"extend":"1h"}`).body, w.op("DELETE", api.PathSeries+"/drill", nil).body,
		w.op("DELETE", api.PathReservations+"/lab", nil).body)
	w.mu.Lock()
	said = append(said, bytes.Clone(w.log.Bytes()))
	w.mu.Unlock()
	for what, secret := range secrets {
		for _, form := range forms(secret) {
			for _, text := range said {
				if bytes.Contains(text, form) {
					t.Errorf("%s is in an answer or in the log: %.200s", what, text)
				}
			}
		}
	}
	if !bytes.Contains(bytes.Join(said, nil), []byte("ssh-ed25519")) {
		t.Error("the public host key is in no answer: this test does not look at what it should")
	}
}

// forms are the ways in which a secret may appear in a text.
func forms(secret string) [][]byte {
	j, _ := json.Marshal(secret)
	b, _ := json.Marshal([]byte(secret))
	hex := fmt.Sprintf("%x", secret)
	out := [][]byte{[]byte(secret), bytes.Trim(j, `"`), bytes.Trim(b, `"`), []byte(hex)}
	for line := range strings.Lines(secret) { // of a PEM block, any line
		if l := strings.TrimSpace(line); len(l) >= 32 && !strings.HasPrefix(l, "---") && !strings.HasPrefix(l, "b3BlbnNzaC1rZXk") {
			out = append(out, []byte(l))
		}
	}
	return out
}
