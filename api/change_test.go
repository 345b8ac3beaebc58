package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestChangeRefuses(t *testing.T) {
	many := map[string]int{}
	for i := range 101 {
		many[fmt.Sprintf("g%d", i)] = 1
	}
	for name, c := range map[string]struct {
		in    Change
		field string
	}{
		"nothing":                     {Change{}, ""},
		"all at once":                 {Change{Start: new("2026-12-01T09:00"), End: new("2026-12-02T09:00"), Workers: map[string]int{"compute": 0, "bigmem": 1000}, Deadline: new("0s"), Rolls: new([]string{})}, ""},
		"a move to as soon as it can": {Change{Start: new("asap"), For: new("2h")}, ""},
		"a move and a longer slot":    {Change{Start: new("2026-12-01T09:00Z"), Extend: new("2h")}, ""},
		"a wrong name":                {Change{Name: new("A")}, "name"},
		"an empty name":               {Change{Name: new("")}, "name"},
		"a wrong start":               {Change{Start: new("soon")}, "start"},
		"an end as soon as it can":    {Change{End: new("asap")}, "end"},
		"end and for":                 {Change{End: new("2026-12-01T09:00Z"), For: new("1h")}, "for"},
		"extend and shorten":          {Change{Extend: new("2h"), Shorten: new("1h")}, "shorten"},
		"for and extend":              {Change{Extend: new("2h"), For: new("1h")}, "extend"},
		"extend by nothing":           {Change{Extend: new("0h")}, "extend"},
		"extend backwards":            {Change{Extend: new("-1h")}, "extend"},
		"shorten by ages":             {Change{Shorten: new("6y")}, "shorten"},
		"a negative count":            {Change{Workers: map[string]int{"compute": -1}}, "workers.compute"},
		"a huge count":                {Change{Workers: map[string]int{"compute": 1001}}, "workers.compute"},
		"too many together":           {Change{Workers: map[string]int{"a": 600, "b": 600}}, "workers"},
		"a group of no name":          {Change{Workers: map[string]int{"A b": 1}}, "workers"},
		"many groups":                 {Change{Workers: many}, "workers"},
		"the frontend as group":       {Change{Workers: map[string]int{"frontend": 1}}, "workers"},
		"remove the frontend":         {Change{Remove: []string{"frontend"}}, "remove[0]"},
		"remove a group":              {Change{Remove: []string{"compute"}}, "remove[0]"},
		"remove by another number":    {Change{Remove: []string{"compute-01"}}, "remove[0]"},
		"remove twice":                {Change{Remove: []string{"compute-1", "compute-1"}}, "remove[1]"},
		"remove a thousand and one":   {Change{Remove: make([]string, 1001)}, "remove"},
		"a wrong deadline":            {Change{Deadline: new("later")}, "deadline"},
		"no shape":                    {Change{Frontend: &NodeShape{}}, "frontend"},
		"a wrong shape":               {Change{Frontend: &NodeShape{CPUs: 300}}, "frontend.cpus"},
		"a wrong shape of a group":    {Change{Shapes: map[string]NodeShape{"compute": {Memory: MiB}}}, "shapes.compute.memory"},
		"a wrong group of a shape":    {Change{Shapes: map[string]NodeShape{"": {CPUs: 1}}}, "shapes"},
		"a wrong roll":                {Change{Rolls: new([]string{"a", "a"})}, "rolls[1]"},
		"a wrong end":                 {Change{AtEnd: &AtEnd{Grace: "2h"}}, "atEnd.grace"},
		"a wrong webhook":             {Change{Notify: &Notify{Webhook: "x"}}, "notify.webhook"},
	} {
		t.Run(name, func(t *testing.T) {
			errs := c.in.Defaults().Validate()
			if c.field == "" && errs != nil || c.field != "" && (len(errs) != 1 || errs[0].Field != c.field || errs[0].Want == "") {
				t.Errorf("got %v, want one about %q", errs, c.field)
			}
		})
	}
}

func TestApply(t *testing.T) {
	for name, c := range map[string]struct {
		in    Change
		want  func(*Spec)
		field string
	}{
		"nothing":                        {in: Change{}, want: func(*Spec) {}},
		"a name":                         {in: Change{Name: new("b")}, want: func(s *Spec) { s.Name = "b" }},
		"a count":                        {in: Change{Workers: map[string]int{"compute": 5}}, want: func(s *Spec) { s.Workers[0].Count = 5 }},
		"a group less":                   {in: Change{Workers: map[string]int{"bigmem": 0}}, want: func(s *Spec) { s.Workers = s.Workers[:1] }},
		"workers by name":                {in: Change{Remove: []string{"compute-3", "compute-7", "bigmem-0"}}, want: func(s *Spec) { s.Workers[0].Count, s.Workers[1].Count = 98, 1 }},
		"the last of a group":            {in: Change{Remove: []string{"bigmem-1", "bigmem-0"}}, want: func(s *Spec) { s.Workers = s.Workers[:1] }},
		"by name, and a count":           {in: Change{Remove: []string{"compute-3"}, Workers: map[string]int{"compute": 100}}, want: func(*Spec) {}},
		"part of a shape":                {in: Change{Shapes: map[string]NodeShape{"bigmem": {CPUs: 16}}, Frontend: &NodeShape{Memory: 8 * GiB}}, want: func(s *Spec) { s.Workers[1].CPUs, s.Frontend.Memory = 16, 8*GiB }},
		"rolls":                          {in: Change{Rolls: new([]string{"slurm"})}, want: func(s *Spec) { s.Rolls = []string{"slurm"} }},
		"what happens at the end":        {in: Change{AtEnd: &AtEnd{Action: EndPark}}, want: func(s *Spec) { s.AtEnd = new(AtEnd{Action: EndPark}.Defaults()) }},
		"who is told":                    {in: Change{Notify: &Notify{Mail: "a@b.example"}}, want: func(s *Spec) { s.Notify = &Notify{Mail: "a@b.example"} }},
		"nobody is told":                 {in: Change{Notify: &Notify{}}, want: func(*Spec) {}},
		"an unknown group":               {in: Change{Workers: map[string]int{"gpu": 1}}, field: "workers.gpu"},
		"an unknown group of a shape":    {in: Change{Shapes: map[string]NodeShape{"gpu": {CPUs: 1}}}, field: "shapes.gpu"},
		"a worker of an unknown group":   {in: Change{Remove: []string{"gpu-1"}}, field: "remove[0]"},
		"no workers at all":              {in: Change{Workers: map[string]int{"compute": 0, "bigmem": 0}}, field: "workers"},
		"more than all groups may have":  {in: Change{Workers: map[string]int{"compute": 1000}}, field: "workers"},
		"a long name of a single series": {in: Change{Name: new(strings.Repeat("a", 40))}, want: func(s *Spec) { s.Name = strings.Repeat("a", 40) }},
	} {
		t.Run(name, func(t *testing.T) {
			before := good(t)
			if errs := c.in.Validate(); errs != nil {
				t.Fatal(errs)
			}
			got, errs := c.in.Apply(before)
			if d := cmp.Diff(good(t), before); d != "" {
				t.Error("Apply changed what it was given:", d)
			}
			if c.field != "" {
				if len(errs) != 1 || errs[0].Field != c.field || errs[0].Want == "" {
					t.Errorf("got %v, want one about %s", errs, c.field)
				}
				return
			}
			want := good(t)
			c.want(&want)
			if d := cmp.Diff(want, got); d != "" || errs != nil {
				t.Error(errs, d)
			}
		})
	}
}

func TestGroupOf(t *testing.T) {
	for node, want := range map[string]string{"compute-0": "compute", "a-1-12": "a-1", "frontend": "", "compute-": "", "compute-x": "", "-1": "", "a-007": ""} {
		if got := GroupOf(node); got != want {
			t.Errorf("%s: %q, want %q", node, got, want)
		}
	}
}

func TestChangeResolveSlot(t *testing.T) {
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	berlin := zone(t, "Europe/Berlin")
	h := time.Hour
	for name, c := range map[string]struct {
		in         Change
		start, end time.Duration // of the slot, after now
		from, to   time.Duration // wanted
		asap       bool
		field      string
	}{
		"nothing":                       {Change{}, h, 3 * h, h, 3 * h, false, ""},
		"a slot that runs, longer":      {Change{Extend: new("2h")}, -h, h, -h, 3 * h, false, ""},
		"shorter":                       {Change{Shorten: new("30m")}, -h, h, -h, 30 * time.Minute, false, ""},
		"a new end, in the zone":        {Change{End: new("2026-11-23T12:00")}, -h, h, -h, 3 * h, false, ""},
		"a new length":                  {Change{For: new("5h")}, -h, h, -h, 4 * h, false, ""},
		"moved":                         {Change{Start: new("2026-11-23T12:00")}, h, 3 * h, 3 * h, 5 * h, false, ""},
		"moved and longer":              {Change{Start: new("2026-11-23T11:00Z"), Extend: new("1h")}, h, 3 * h, 3 * h, 6 * h, false, ""},
		"moved to both":                 {Change{Start: new("2026-11-23T11:00Z"), End: new("2026-11-23T12:00Z")}, h, 3 * h, 3 * h, 4 * h, false, ""},
		"as soon as it can":             {Change{Start: new("asap")}, h, 3 * h, 0, 2 * h, true, ""},
		"to a start that is past":       {Change{Start: new("2026-11-23T07:00Z")}, h, 3 * h, 0, 0, false, "start"},
		"to a start far off":            {Change{Start: new("2037-11-23T07:00Z")}, h, 3 * h, 0, 0, false, "start"},
		"to a start that never is":      {Change{Start: new("2027-03-28T02:30")}, h, 3 * h, 0, 0, false, "start"},
		"to an end that is past":        {Change{End: new("2026-11-23T07:30Z")}, -h, h, 0, 0, false, "end"},
		"to an end before the start":    {Change{End: new("2026-11-23T08:30Z")}, h, 3 * h, 0, 0, false, "end"},
		"shorter than nothing":          {Change{Shorten: new("2h")}, h, 3 * h, 0, 0, false, "shorten"},
		"shorter than has run":          {Change{Shorten: new("90m")}, -h, h, 0, 0, false, "shorten"},
		"longer than a slot may be":     {Change{Extend: new("5y")}, h, 3 * h, 0, 0, false, "extend"},
		"a length that has run already": {Change{For: new("30m")}, -h, h, 0, 0, false, "for"},
	} {
		t.Run(name, func(t *testing.T) {
			if errs := c.in.Validate(); errs != nil {
				t.Fatal(errs)
			}
			from, to, asap, err := c.in.ResolveSlot(now, now.Add(c.start), now.Add(c.end), berlin)
			if c.field != "" {
				var f FieldError
				if !errors.As(err, &f) || f.Field != c.field || f.Want == "" {
					t.Fatalf("got %v, want an error about %s", err, c.field)
				}
				return
			}
			if err != nil || !from.Equal(now.Add(c.from)) || !to.Equal(now.Add(c.to)) || asap != c.asap {
				t.Fatal(from, to, asap, err)
			}
			if c.in.MovesSlot() == (name == "nothing") {
				t.Error("MovesSlot", c.in.MovesSlot())
			}
		})
	}
}

// A change that is applied twice is as one applied once, but for workers that
// are removed by name; what is not mentioned stays.
func TestApplyingAgainChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := Spec{Name: "a", Slot: Slot{Start: "asap", For: "1h"}, Users: []User{{Name: "alice", Keys: []string{testKey}}},
			Workers: []WorkerGroup{{Name: "a", Count: 5}, {Name: "b", Count: 3}, {Name: "a-1", Count: 1}}}.Defaults()
		var c Change
		groups := rapid.SampledFrom([]string{"a", "b", "a-1"})
		if rapid.Bool().Draw(t, "counts") {
			c.Workers = rapid.MapOf(groups, rapid.IntRange(0, 300)).Draw(t, "workers")
		}
		if rapid.Bool().Draw(t, "shapes") {
			c.Shapes = rapid.MapOf(groups, rapid.Custom(func(t *rapid.T) NodeShape {
				return NodeShape{CPUs: rapid.IntRange(1, CPUsMax).Draw(t, "cpus"), Memory: Quantity(rapid.IntRange(0, 1).Draw(t, "memory")) * GiB}
			})).Draw(t, "shapes")
		}
		if errs := c.Validate(); errs != nil {
			t.Fatal(errs)
		}
		once, errs := c.Apply(spec)
		if errs != nil {
			return
		}
		for g, n := range c.Workers {
			if n == 0 {
				delete(c.Workers, g)
				delete(c.Shapes, g) // there is none left to change
			}
		}
		twice, errs := c.Apply(once)
		a, _ := json.Marshal(once)
		b, _ := json.Marshal(twice)
		if errs != nil || string(a) != string(b) {
			t.Fatalf("%s, then %s: %v", a, b, errs)
		}
		for _, g := range once.Workers {
			if n, given := c.Workers[g.Name]; given && n != g.Count {
				t.Fatalf("%s: %d, want %d", g.Name, g.Count, n)
			}
		}
	})
}
