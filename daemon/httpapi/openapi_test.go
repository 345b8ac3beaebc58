package httpapi_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"vcn/api"
	"vcn/daemon/control/controltest"
	"vcn/fsm"
)

var update = flag.Bool("update", false, "write docs/openapi.json anew")

const committed = "../../docs/openapi.json"

func TestOpenAPIDocumentIsCommitted(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	got := append(w.hosts[controltest.HostID(0)].server.OpenAPI(), '\n')
	if *update {
		if err := os.WriteFile(committed, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(committed)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/openapi.json is stale: make update")
	}
}

// document is what these tests look at of an OpenAPI document.
type document struct {
	OpenAPI    string
	Paths      map[string]map[string]operation
	Components struct {
		Schemas map[string]schema
	}
}

type schema struct {
	Ref        string `json:"$ref"`
	OneOf      []schema
	Type       any
	Enum       []string
	Items      *schema
	Properties map[string]schema
	Required   []string
}

// named: it is a schema with a name, or one of some.
func (s schema) named() bool {
	for _, one := range s.OneOf {
		if one.Ref == "" {
			return false
		}
	}
	return s.Ref != "" || len(s.OneOf) > 0
}

// is tells whether it is one of these types, in their order.
func (s schema) is(names ...string) bool {
	all := s.OneOf
	if len(all) == 0 {
		all = []schema{s}
	}
	return slices.EqualFunc(all, names, func(one schema, name string) bool { return one.Ref == "#/components/schemas/"+name })
}

type content map[string]struct{ Schema schema }

type operation struct {
	OperationID string
	Parameters  []struct{ Name, In string }
	Security    []map[string][]string
	RequestBody *struct {
		Content  content
		Required bool
	}
	Responses map[string]struct {
		Content content
		Headers map[string]struct{ Schema schema }
	}
}

func openapi(t *testing.T) document {
	t.Helper()
	w := newWorld(t, controltest.Options{}, 1)
	var d document
	if err := json.Unmarshal(w.ask(controltest.HostID(0), "", "GET", "/openapi.json", nil).body, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOpenAPIHasEveryRouteOfTheContract(t *testing.T) {
	d := openapi(t)
	if !strings.HasPrefix(d.OpenAPI, "3.1") {
		t.Errorf("version is %s, want 3.1", d.OpenAPI)
	}
	var got []string
	for p, methods := range d.Paths {
		for m := range methods {
			got = append(got, strings.ToUpper(m)+" "+p)
		}
	}
	slices.Sort(got)
	want := []string{
		"DELETE /v1/offers/{id}", "DELETE /v1/reservations/{id}", "DELETE /v1/series/{id}", "DELETE /v1/tokens/{id}",
		"GET /v1/calendar", "GET /v1/calendar.ics", "GET /v1/events", "GET /v1/hosts", "GET /v1/images", "GET /v1/leases",
		"GET /v1/offers/{id}", "GET /v1/policy", "GET /v1/reservations", "GET /v1/reservations/{id}",
		"GET /v1/reservations/{id}/events", "GET /v1/reservations/{id}/explain", "GET /v1/rolls", "GET /v1/series", "GET /v1/series/{id}",
		"GET /v1/status", "GET /v1/tokens",
		"PATCH /v1/reservations/{id}", "PATCH /v1/series/{id}",
		"POST /v1/feeds", "POST /v1/images", "POST /v1/join", "POST /v1/offers", "POST /v1/reservations",
		"POST /v1/reservations/{id}/park", "POST /v1/reservations/{id}/resume", "POST /v1/tokens",
		"PUT /v1/policy",
	}
	if !slices.Equal(got, want) {
		t.Errorf("routes are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestOpenAPISaysWhatIsAnswered: no answer without a schema, and every status
// and header that a program has to reckon with.
func TestOpenAPISaysWhatIsAnswered(t *testing.T) {
	d := openapi(t)
	for path, methods := range d.Paths {
		for method, op := range methods {
			want := []string{"401", "403", "421", "422", "503"}
			if strings.HasSuffix(path, "{id}") {
				want = append(want, "404")
			}
			if strings.HasPrefix(path, api.PathReservations+"/{id}") || strings.HasPrefix(path, api.PathOffers+"/{id}") || strings.HasPrefix(path, api.PathSeries+"/{id}") {
				want = append(want, "404", "409")
			}
			if method == "post" || method == "patch" {
				want = append(want, "504") // passed on, and the answer lost
			}
			if op.RequestBody != nil {
				want = append(want, "409", "413")
				for _, form := range []string{"application/json", "application/yaml"} {
					if op.RequestBody.Content[form].Schema.Ref == "" {
						t.Errorf("%s %s: the body has no schema as %s", method, path, form)
					}
				}
			}
			for _, status := range want {
				if _, ok := op.Responses[status]; !ok {
					t.Errorf("%s %s: %s is not described", method, path, status)
				}
			}
			good := 0
			for status, answer := range op.Responses {
				if status < "300" {
					good++
					if _, ok := answer.Headers[api.HeaderStale]; ok != (method == "get") {
						t.Errorf("%s %s: %s described: %v", method, path, api.HeaderStale, ok)
					}
				}
				if status == "204" {
					continue // has no body
				}
				if len(answer.Content) == 0 {
					t.Errorf("%s %s: %s has no content", method, path, status)
				}
				for form, c := range answer.Content {
					if path == api.PathFeed && status == "200" && form == "text/calendar" && c.Schema.Type == "string" {
						continue // its schema is RFC 5545, which JSON Schema cannot say
					}
					if !c.Schema.named() {
						t.Errorf("%s %s: %s has no schema as %s", method, path, status, form)
					}
				}
				if _, ok := answer.Headers[api.HeaderIndex]; !ok && status < "300" {
					t.Errorf("%s %s: %s lacks %s", method, path, status, api.HeaderIndex)
				}
			}
			if good == 0 {
				t.Errorf("%s %s has no good answer", method, path)
			}
		}
	}
	reserve := d.Paths[api.PathReservations]["post"].Responses
	if got := reserve["200"].Content["application/json"].Schema; !got.is("Plan", "SeriesResult") {
		t.Errorf("a dry run answers %v, want a Plan or SeriesResult", got)
	}
	if got := reserve["201"].Content["application/json"].Schema; !got.is("Reservation", "SeriesResult") {
		t.Errorf("a reservation answers %v", got)
	}
	one := api.PathReservations + "/{id}"
	if got := d.Paths[one]["patch"].Responses["200"].Content["application/json"].Schema; !got.is("Reservation", "ChangePlan") {
		t.Errorf("a change answers %v", got)
	}
	if got := d.Paths[one+"/resume"]["post"].Responses["200"].Content["application/json"].Schema; !got.is("Reservation", "Plan") {
		t.Errorf("resuming answers %v", got)
	}
	for path, want := range map[string]bool{api.PathReservations: false, one + "/park": false, one + "/resume": true, api.PathOffers: true} {
		if got := d.Paths[path]["post"].RequestBody.Required; got != want {
			t.Errorf("POST %s: body required: %v, want %v", path, got, want)
		}
	}
	feed := d.Paths[api.PathFeed]["get"]
	for _, p := range feed.Parameters {
		if p.In == "header" {
			t.Errorf("the feed has a parameter %s in the header; OpenAPI says that by its security", p.Name)
		}
	}
	if len(feed.Security) != 2 || feed.Security[0]["token"] == nil || feed.Security[1]["feed"] == nil {
		t.Errorf("the feed's security is %v, want token or feed", feed.Security)
	}
	if _, ok := reserve["201"].Headers["Location"]; !ok {
		t.Error("a reservation's answer lacks Location")
	}
}

// TestEnumsAreTheWordsInUse: the lists in the document are those of the code.
func TestEnumsAreTheWordsInUse(t *testing.T) {
	d := openapi(t)
	allStates := words(api.StateWaitlisted, api.StateBooked, api.StateProvisioning, api.StateReady, api.StateActive,
		api.StateEnding, api.StateParked, api.StateEnded, api.StateFailed, api.StateCancelled)
	for _, c := range []struct {
		schema, field string
		want          []string
	}{
		{"Reservation", "state", allStates},
		{"CalendarSlot", "state", allStates},
		{"Explanation", "state", allStates},
		{"CalendarSpan", "kind", []string{"reservation", "hold", "parked"}},
		{"Offer", "kind", []string{api.OfferExact, api.OfferLater, api.OfferFewer, api.OfferShape, api.OfferShorter, api.OfferSplit}},
		{"FieldChange", "how", []string{api.HowInPlace, api.HowRolling, api.HowReplace, api.HowLosesData}},
		{"AtEnd", "action", []string{api.EndRelease, api.EndPark}},
		{"Node", "state", []string{fsm.NodeWaiting, fsm.NodeVolume, fsm.NodeStarting, fsm.NodeBooting, fsm.NodeReady, fsm.NodeDraining, fsm.NodeStopping, fsm.NodeGone, fsm.NodeLost}},
		{"Node", "role", words(api.RoleFrontend, api.RoleWorker)},
		{"Host", "classes", words(api.ClassGateway, api.ClassCompute, api.ClassStorage)},
		{"Host", "status", []string{fsm.HostAlive, fsm.HostDead, fsm.HostLeft, "unknown"}},
		{"Token", "kind", words(api.TokenOperator, api.TokenProject, api.TokenJoin, api.TokenFeed)},
		{"TokenRequest", "kind", words(api.TokenOperator, api.TokenProject, api.TokenJoin)}, // feeds are made at their own route
		{"Problem", "code", words(api.CodeInvalid, api.CodeUnauthorized, api.CodeForbidden, api.CodeNotFound, api.CodeConflict, api.CodeNoFit,
			api.CodeExpired, api.CodeDataLoss, api.CodeForming, api.CodeNoLeader, api.CodeTooLarge, api.CodeInternal, api.CodeWrongCluster)},
	} {
		f := d.Components.Schemas[c.schema].Properties[c.field]
		if f.Items != nil {
			f = *f.Items
		}
		if !slices.Equal(f.Enum, c.want) {
			t.Errorf("%s.%s is one of %v, want %v", c.schema, c.field, f.Enum, c.want)
		}
	}
}

func words[T ~string](ws ...T) (out []string) {
	for _, w := range ws {
		out = append(out, string(w))
	}
	return out
}

// TestSchemasAreTheContract guards the two types whose schema is not made from
// the contract's own type.
func TestSchemasAreTheContract(t *testing.T) {
	d := openapi(t)
	var names []string
	for n := range d.Components.Schemas["WorkerGroup"].Properties {
		names = append(names, n)
	}
	slices.Sort(names)
	var want []string
	for _, t := range []reflect.Type{reflect.TypeFor[api.WorkerGroup](), reflect.TypeFor[api.NodeShape]()} {
		for i := range t.NumField() {
			if n, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); n != "" {
				want = append(want, n)
			}
		}
	}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("WorkerGroup has %v, the contract %v", names, want)
	}
	if typ := d.Components.Schemas["NodeShape"].Properties["memory"].Type; typ != "string" {
		t.Errorf("memory is of type %v, want string", typ)
	}
	problem := d.Components.Schemas["Problem"].Properties
	if _, ok := problem["code"]; !ok {
		t.Error("Problem has no code")
	}
	if items := problem["nearest"].Items; items == nil || !items.is("Offer") {
		t.Errorf("Problem.nearest is %+v, want a list of Offer", problem["nearest"])
	}
	if problem["until"].Type != "string" {
		t.Errorf("Problem.until is %+v, want a string", problem["until"])
	}
}
