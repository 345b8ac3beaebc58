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
		t.Error("docs/openapi.json is stale: go test ./daemon/httpapi -update")
	}
}

// document is what these tests look at of an OpenAPI document.
type document struct {
	OpenAPI    string
	Paths      map[string]map[string]struct{ OperationID string }
	Components struct {
		Schemas map[string]struct {
			Properties map[string]struct{ Type any }
			Required   []string
		}
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
		"DELETE /v1/reservations/{id}", "DELETE /v1/tokens/{id}",
		"GET /v1/events", "GET /v1/hosts", "GET /v1/images", "GET /v1/leases", "GET /v1/reservations", "GET /v1/reservations/{id}",
		"GET /v1/reservations/{id}/events", "GET /v1/rolls", "GET /v1/status", "GET /v1/tokens",
		"POST /v1/images", "POST /v1/join", "POST /v1/reservations", "POST /v1/tokens",
	}
	if !slices.Equal(got, want) {
		t.Errorf("routes are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
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
	if _, ok := d.Components.Schemas["Problem"].Properties["code"]; !ok {
		t.Error("Problem has no code")
	}
}
