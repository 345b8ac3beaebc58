package api

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOfferRequestDefaults(t *testing.T) {
	r := OfferRequest{Spec: good(t), Shapes: []NodeShape{{CPUs: 8}, {Memory: 16 * GiB}}}
	given := r.Shapes
	d := r.Defaults()
	want := []NodeShape{{8, 8 * GiB, 40 * GiB}, {4, 16 * GiB, 40 * GiB}}
	if !reflect.DeepEqual(d.Shapes, want) || d.Hold != "10m" || given[0].Memory != 0 {
		t.Errorf("%+v", d)
	}
	if errs := d.Validate(); errs != nil {
		t.Error(errs)
	}
	if d.HoldFor() != 10*time.Minute || d.Shortest(8*time.Hour) != 8*time.Hour {
		t.Error(d.HoldFor(), d.Shortest(8*time.Hour))
	}
}

func TestOfferRequestRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*OfferRequest)
		field  string
	}{
		"a wrong specification": {func(r *OfferRequest) { r.Spec.Name = "" }, "spec.name"},
		"a series":              {func(r *OfferRequest) { r.Spec.Slot.Zone, r.Spec.Slot.Repeat = "UTC", "FREQ=DAILY;COUNT=2" }, "spec.slot.repeat"},
		"a wrong length":        {func(r *OfferRequest) { r.LengthMin = "short" }, "lengthMin"},
		"a very short length":   {func(r *OfferRequest) { r.LengthMin = "1s" }, "lengthMin"},
		"longer than asked for": {func(r *OfferRequest) { r.LengthMin = "31d" }, "lengthMin"},
		"a wrong latest start":  {func(r *OfferRequest) { r.Latest = "never" }, "latest"},
		"two latest starts":     {func(r *OfferRequest) { r.Latest = "2027-01-01T00:00Z"; r.Spec.Slot.Latest = r.Latest }, "latest"},
		"latest before start":   {func(r *OfferRequest) { r.Latest = "2026-11-01T00:00Z" }, "latest"},
		"latest from asap to an end": {func(r *OfferRequest) {
			r.Spec.Slot = Slot{Start: "asap", End: "2027-01-01T00:00Z"}
			r.Latest = "2026-12-01T00:00Z"
		}, "latest"},
		"fewest above all": {func(r *OfferRequest) { r.WorkersMin = 103 }, "workersMin"},
		"negative fewest":  {func(r *OfferRequest) { r.WorkersMin = -1 }, "workersMin"},
		"nine shapes":      {func(r *OfferRequest) { r.Shapes = make([]NodeShape, 9) }, "shapes"},
		"a wrong shape":    {func(r *OfferRequest) { r.Shapes = []NodeShape{{300, GiB, 4 * GiB}} }, "shapes[0].cpus"},
		"a long hold":      {func(r *OfferRequest) { r.Hold = "2h" }, "hold"},
		"no hold, all ranges, is fine": {func(r *OfferRequest) {
			r.Hold, r.LengthMin, r.WorkersMin, r.Latest = "0s", "30d", 102, "2027-01-01T00:00Z"
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := OfferRequest{Spec: good(t)}.Defaults()
			c.change(&r)
			errs := r.Validate()
			if c.field == "" && errs != nil || c.field != "" && (len(errs) != 1 || errs[0].Field != c.field || errs[0].Want == "") {
				t.Errorf("got %v, want one about %q", errs, c.field)
			}
		})
	}
}

func TestOfferWindow(t *testing.T) {
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		slot                       Slot
		latest                     string
		earliest, latestAt, length time.Duration // after now
		field                      string
	}{
		"asap, 30 days by default":    {Slot{Start: "asap", For: "8h"}, "", 0, 30 * day, 8 * time.Hour, ""},
		"asap, until a local time":    {Slot{Start: "asap", For: "8h", Zone: "Asia/Tokyo"}, "2026-11-24T17:00", 0, day, 8 * time.Hour, ""},
		"the slot's own window":       {Slot{Start: "asap", For: "8h", Latest: "2026-11-24T08:00Z"}, "", 0, day, 8 * time.Hour, ""},
		"a fixed slot":                {Slot{Start: "2026-11-24T08:00Z", For: "8h"}, "", day, 31 * day, 8 * time.Hour, ""},
		"a slot by its end":           {Slot{Start: "2026-11-24T08:00Z", End: "2026-11-24T10:00Z"}, "2026-11-25T08:00Z", day, 2 * day, 2 * time.Hour, ""},
		"asap to a fixed end":         {Slot{Start: "asap", End: "2026-11-24T08:00Z"}, "", 0, 30 * day, day, ""},
		"a latest start in the past":  {Slot{Start: "asap", For: "8h"}, "2026-11-22T08:00Z", 0, 0, 0, "latest"},
		"a latest start much too far": {Slot{Start: "asap", For: "8h"}, "2037-11-22T08:00Z", 0, 0, 0, "latest"},
		"a start in the past":         {Slot{Start: "2026-11-22T08:00Z", For: "8h"}, "", 0, 0, 0, "slot.start"},
	} {
		t.Run(name, func(t *testing.T) {
			r := OfferRequest{Spec: good(t), Latest: c.latest}
			r.Spec.Slot = c.slot
			w, err := r.Defaults().Window(now)
			var f FieldError
			if c.field != "" {
				if !errors.As(err, &f) || f.Field != c.field {
					t.Fatalf("got %v, want an error about %s", err, c.field)
				}
				return
			}
			if err != nil || !w.Earliest.Equal(now.Add(c.earliest)) || !w.Latest.Equal(now.Add(c.latestAt)) || w.Length != c.length || !w.End.IsZero() {
				t.Fatalf("%+v %v", w, err)
			}
		})
	}
}

func TestSmallRequests(t *testing.T) {
	type request interface{ Validate() []FieldError }
	for name, c := range map[string]struct {
		in    request
		field string
	}{
		"park":                   {ParkRequest{}.Defaults(), ""},
		"park a moment":          {ParkRequest{For: "1m"}.Defaults(), "for"},
		"park for ever":          {ParkRequest{For: "2y"}.Defaults(), "for"},
		"a feed":                 {FeedRequest{}.Defaults(), ""},
		"a feed of ten years":    {FeedRequest{For: "10y", Project: "studio"}.Defaults(), ""},
		"a feed of an hour":      {FeedRequest{For: "1h"}.Defaults(), "for"},
		"a feed of no project":   {FeedRequest{Project: "../x"}.Defaults(), "project"},
		"the policy":             {DefaultPolicy(), ""},
		"an empty policy":        {Policy{}.Defaults(), ""},
		"a policy, not filled":   {Policy{ParkMax: "1d", SeriesMax: 1}, "holdMax"},
		"long holds":             {Policy{HoldMax: "2h"}.Defaults(), "holdMax"},
		"many holds":             {Policy{HoldsMax: 101}.Defaults(), "holdsMax"},
		"long parking":           {Policy{ParkMax: "2y"}.Defaults(), "parkMax"},
		"negative parked volume": {Policy{ParkBytes: -1}.Defaults(), "parkBytes"},
		"long series":            {Policy{SeriesMax: 401}.Defaults(), "seriesMax"},
		"a long waitlist":        {Policy{WaitMax: 1001}.Defaults(), "waitMax"},
	} {
		if errs := c.in.Validate(); c.field == "" && errs != nil || c.field != "" && (len(errs) != 1 || errs[0].Field != c.field || errs[0].Want == "") {
			t.Errorf("%s: got %v, want one about %q", name, errs, c.field)
		}
	}
}

// What the text leaves out of a policy stays as it was, also numbers that can
// be 0.
func TestPolicyReadsOverTheOneThatHolds(t *testing.T) {
	p := Policy{HoldMax: "5m", HoldsMax: 3, ParkMax: "7d", ParkBytes: TiB, SeriesMax: 50, WaitMax: 7}
	if err := ReadStrict(strings.NewReader("{waitMax: 0, parkBytes: 0, holdMax: 1m}"), 1000, &p); err != nil {
		t.Fatal(err)
	}
	if want := (Policy{HoldMax: "1m", HoldsMax: 3, ParkMax: "7d", SeriesMax: 50}); p != want {
		t.Errorf("%+v", p)
	}
}

func TestReadStrictReadsPointersAndMaps(t *testing.T) {
	text := `
name: b
extend: 2h
workers: {compute: 8, bigmem: 0}
remove: [compute-3]
frontend: {memory: 8GiB}
shapes: {compute: {cpus: 2}}
rolls: []
atEnd: {action: park}
notify: {}
`
	var c Change
	if err := ReadStrict(strings.NewReader(text), 1000, &c); err != nil {
		t.Fatal(err)
	}
	want := Change{Name: new("b"), Extend: new("2h"), Workers: map[string]int{"compute": 8, "bigmem": 0}, Remove: []string{"compute-3"},
		Frontend: &NodeShape{Memory: 8 * GiB}, Shapes: map[string]NodeShape{"compute": {CPUs: 2}}, Rolls: new([]string{}),
		AtEnd: &AtEnd{Action: EndPark}, Notify: &Notify{}}
	if d := cmp.Diff(want, c); d != "" {
		t.Error(d)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var back Change
	if err := ReadStrict(strings.NewReader(string(b)), 1000, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(c, back); d != "" {
		t.Error(d)
	}
}

func TestReadStrictSaysWhatIsWrongInRequests(t *testing.T) {
	for name, c := range map[string]struct {
		into     any
		in, want string
	}{
		"a number for a name":            {&Change{}, "name: 12", `name: "12": want 1-40 of a-z`},
		"a name that YAML took for true": {&Change{}, "name: on", `name: "true": want text; put it in quotes`},
		"a number for a length":          {&Change{}, "extend: 2", `extend: "2": want a length such as 90m`},
		"a number for counts":            {&Change{}, "workers: 8", `workers: "8": want the new count by worker group`},
		"text for a count":               {&Change{}, "workers: {compute: many}", `workers.compute: "many": want a whole number`},
		"a count in quotes":              {&Change{}, `workers: {compute: "8"}`, `want a whole number, without quotes: 8`},
		"no count is not zero":           {&Change{}, "workers: {compute: }", `workers.compute: want a value; the new count`},
		"no shape is not the default":    {&Change{}, "shapes: {compute: }", `shapes.compute: want a value; the new shape`},
		"a list for shapes":              {&Change{}, "shapes: [{cpus: 1}]", `want the new shape by worker group`},
		"an unknown field of a shape":    {&Change{}, "shapes: {compute: {ram: 1GiB}}", `shapes.compute.ram: want a known field; did you mean "memory"?`},
		"a zero in a shape":              {&Change{}, "shapes: {compute: {cpus: 0}}", `shapes.compute.cpus: "0": want 1 to 255`},
		"a decimal unit in a pointer":    {&Change{}, "frontend: {memory: 4GB}", `frontend.memory: "4GB": want 4GiB`},
		"text for fields in a pointer":   {&Change{}, "frontend: large", `frontend: "large": want fields: cpus, disk, memory`},
		"one roll for a list":            {&Change{}, "rolls: slurm", `rolls: "slurm": want a list: [slurm]`},
		"a number for a roll":            {&Change{}, "rolls: [1]", `rolls[0]: "1": want a roll's name`},
		"a number for a worker":          {&Change{}, "remove: [1]", `remove[0]: "1": want a worker's node name`},
		"a number for a deadline":        {&Change{}, "deadline: 8", `deadline: "8": want 0s to 1y`},
		"a number for parking":           {&ParkRequest{}, "for: 30", `for: "30": want 1h to 1y`},
		"a number for a feed":            {&FeedRequest{}, "for: 30", `for: "30": want 1d to 10y`},
		"no dates":                       {&Policy{}, "seriesMax: 0", `seriesMax: "0": want 1 to 400`},
		"a number for a hold":            {&Policy{}, "holdMax: 3", `holdMax: "3": want 0s to 1h`},
		"a hold of an offer":             {&OfferRequest{}, "hold: 3", `hold: "3": want 0s to 1h`},
		"something deep in an offer":     {&OfferRequest{}, "spec: {workers: [{count: x}]}", `spec.workers[0].count: "x": want a whole number`},
	} {
		t.Run(name, func(t *testing.T) {
			err := ReadStrict(strings.NewReader(c.in), 1000, c.into)
			var p *Problem
			if !errors.As(err, &p) || !strings.Contains(p.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// FuzzReadChange: no input panics, and what is read and valid reads back the
// same from its JSON and applies without a panic.
func FuzzReadChange(f *testing.F) {
	f.Add("workers: {compute: 3}\nremove: [compute-1]\nextend: 2h")
	f.Add("workers: {a: null}\nshapes: {b: {cpus: 0}}")
	f.Add(`{"rolls":null,"atEnd":{"warn":["1d",null]},"notify":{"webhook":"https://a/"}}`)
	f.Add("workers: {1: 2, ~: 3}\nshapes: []")
	f.Fuzz(func(t *testing.T, in string) {
		var c Change
		if err := ReadStrict(strings.NewReader(in), 10_000, &c); err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		if len(c.Validate()) > 0 {
			return
		}
		if s, errs := c.Apply(good(t)); len(errs) == 0 && len(s.Validate()) > 0 {
			t.Errorf("%+v is not valid: %v", s, s.Validate())
		}
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var back Change
		if err := ReadStrict(strings.NewReader(string(b)), 20_000, &back); err != nil {
			t.Fatalf("%v in %s", err, b)
		}
		again, err := json.Marshal(back)
		if err != nil || string(again) != string(b) {
			t.Errorf("%s, then %s: %v", b, again, err)
		}
	})
}
