package api

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// constants is the values of the constants of a type, as this package's source
// has them.
func constants(t *testing.T, file, typ string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		if id, ok := v.Type.(*ast.Ident); ok && id.Name == typ {
			s, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, s)
		}
		return true
	})
	if len(out) == 0 {
		t.Fatalf("no constants of type %s in %s", typ, file)
	}
	slices.Sort(out)
	return out
}

// What the contract says may come is what may come.
func TestEnumsNameEveryValue(t *testing.T) {
	enum := func(v any, field string) []string {
		f, ok := reflect.TypeOf(v).FieldByName(field)
		if !ok {
			t.Fatalf("no field %s in %T", field, v)
		}
		values := strings.Split(f.Tag.Get("enum"), ",")
		slices.Sort(values)
		return values
	}
	states := constants(t, "types.go", "State")
	for _, got := range [][]string{enum(Reservation{}, "State"), enum(Explanation{}, "State"), enum(CalendarSlot{}, "State")} {
		if d := cmp.Diff(states, got); d != "" {
			t.Error(d)
		}
	}
	codes := slices.DeleteFunc(constants(t, "errors.go", "Code"), func(s string) bool {
		return s == string(CodeUnavailable) || s == string(CodeInterrupted) // no host sends these
	})
	if d := cmp.Diff(codes, enum(Problem{}, "Code")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(constants(t, "types.go", "TokenKind"), enum(Token{}, "Kind")); d != "" {
		t.Error(d)
	}
	offers := []string{OfferExact, OfferFewer, OfferLater, OfferShape, OfferShorter, OfferSplit}
	if d := cmp.Diff(offers, enum(Offer{}, "Kind")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{HowInPlace, HowLosesData, HowReplace, HowRolling}, enum(FieldChange{}, "How")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{EndPark, EndRelease}, enum(AtEnd{}, "Action")); d != "" {
		t.Error(d)
	}
}

// Everything that the calendar's routes answer survives JSON.
func TestCalendarAnswersRoundTrip(t *testing.T) {
	now := time.Date(2026, 11, 23, 8, 0, 0, 5, time.UTC)
	shape := NodeShape{2, GiB, 4 * GiB}
	r := Reservation{ID: "1", State: StateParked, Early: new(int64(-3)), Wait: &Wait{now, now, 1, 2, "m"}, ParkedUntil: &now,
		Change: &PendingChange{[]string{"a-1"}, []string{"a-2"}, &now, "m"}, Zone: "Europe/Berlin", Series: "s", Nodes: []Node{}, Rolls: []string{}, Spec: good(t)}
	for _, in := range []any{
		r,
		OfferList{[]Offer{{ID: "o", Kind: OfferSplit, Parts: []OfferPart{{now, now, now, now}}, Shape: shape, Expires: &now}}, []string{"r"}},
		ChangePlan{"a", []FieldChange{{"rolls", "a", "b", HowReplace, "n"}}, true, now, now, []Node{{Name: "a-1"}}},
		SeriesResult{&Series{ID: "s", Except: []string{"2026-12-24"}, Created: now, Reservations: []Reservation{r}}, []SeriesDate{{"a", now, now, nil}}, []SeriesDate{{"b", now, now, []string{"r"}}}},
		Explanation{"1", "a", StateBooked, []string{"l"}, []NodeWhy{{"a-1", "h", "h", "w", []string{"p"}}}, []string{"b"}, &now},
		Calendar{now, now, []CalendarHost{{Name: "h", Classes: []Class{ClassCompute}, Spans: []CalendarSpan{{From: now, Until: now, Kind: "hold", CPUs: 1, Memory: GiB}}}},
			[]CalendarSlot{{ID: "1", State: StateWaitlisted, Start: now, End: now, Zone: "UTC"}}, []CalendarFree{{now, 1, GiB, TiB}}},
		Feed{"f", "studio", PathFeed + "?feed=x", now},
		Problem{Status: 409, Code: CodeNoFit, Nearest: []Offer{{Summary: "s", Parts: []OfferPart{}}}, Until: "u"},
	} {
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		back := reflect.New(reflect.TypeOf(in))
		if err := json.Unmarshal(b, back.Interface()); err != nil {
			t.Fatalf("%v in %s", err, b)
		}
		if d := cmp.Diff(in, back.Elem().Interface()); d != "" {
			t.Errorf("%T: %s", in, d)
		}
	}
}

// A specification with everything of the calendar reads back as it was written,
// also from YAML that leaves dates and times without quotes.
func TestCalendarSpecRoundTrips(t *testing.T) {
	s := good(t)
	text := strings.Replace(goodSpec, "slot: {start: 2026-12-01T09:00+09:00, for: 30d}", `slot:
  start: 2026-12-01T09:00:00
  for: 8h
  zone: Asia/Tokyo
  repeat: FREQ=WEEKLY;COUNT=5
  except: [2026-12-08, 2026-12-15T09:00]
atEnd: {action: park, warn: [1d, 10m]}
notify: {webhook: https://chat.example.org/hooks/1, mail: alice@example.org}`, 1)
	got, err := ReadSpec(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	s.Slot = Slot{Start: "2026-12-01T09:00:00", For: "8h", Zone: "Asia/Tokyo", Repeat: "FREQ=WEEKLY;COUNT=5", Except: []string{"2026-12-08", "2026-12-15T09:00"}}
	s.AtEnd = &AtEnd{Action: EndPark, Grace: "0s", ParkFor: "30d", Warn: []string{"1d", "10m"}}
	s.Notify = &Notify{"https://chat.example.org/hooks/1", "alice@example.org"}
	got = got.Defaults()
	if d := cmp.Diff(s, got); d != "" {
		t.Error(d)
	}
	if errs := got.Validate(); errs != nil {
		t.Error(errs)
	}
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := ReadSpec(strings.NewReader(string(b))); err != nil || cmp.Diff(got, back) != "" {
		t.Error(err, cmp.Diff(got, back))
	}
}
