package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFww42rnJFnxFvwLTcBP342e4VxcULtOxmbzAdazSWkf alice@studio"

const goodSpec = `
name: rendering
project: studio
slot: {start: 2026-12-01T09:00+09:00, for: 30d}
frontend: {cpus: 2, memory: 4GiB, disk: 40GiB}
workers:
  - {name: compute, count: 100, cpus: 4, memory: 8GiB, disk: 40GiB}
  - {name: bigmem, count: 2, cpus: 8, memory: 64GiB, disk: 40GiB, appliance: compute}
rolls: [slurm, openmpi, ganglia, render@1.2]
home: 200GiB
users:
  - {name: alice, keys: ["` + testKey + `"], admin: true}
`

func good(t testing.TB) Spec {
	s, err := ReadSpec(strings.NewReader(goodSpec))
	if err != nil {
		t.Fatal(err)
	}
	return s.Defaults()
}

func TestReadSpecReadsEverything(t *testing.T) {
	want := Spec{
		Name: "rendering", Project: "studio", Slot: Slot{Start: "2026-12-01T09:00+09:00", For: "30d"},
		Frontend: NodeShape{2, 4 * GiB, 40 * GiB},
		Workers: []WorkerGroup{
			{"compute", 100, NodeShape{4, 8 * GiB, 40 * GiB}, ""},
			{"bigmem", 2, NodeShape{8, 64 * GiB, 40 * GiB}, "compute"},
		},
		Rolls: []string{"slurm", "openmpi", "ganglia", "render@1.2"}, Home: 200 * GiB,
		Users: []User{{"alice", []string{testKey}, true}},
	}
	got, err := ReadSpec(strings.NewReader(goodSpec))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if errs := got.Defaults().Validate(); errs != nil {
		t.Error(errs)
	}
	// What is written as JSON reads back the same, by the strict reader too.
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	back, err := ReadSpec(strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got, back); d != "" {
		t.Error(d)
	}
}

func TestReadSpecRefuses(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"an unknown field, naming the near one":  {"name: a\nworkers: [{cout: 3}]", `workers[0].cout: want a known field; did you mean "count"?`},
		"an unknown field inside the frontend":   {"frontend: {memroy: 4GiB}", `frontend.memroy: want a known field; did you mean "memory"?`},
		"a word for another field":               {"frontend: {ram: 4GiB}", `did you mean "memory"?`},
		"another case of a field":                {"Name: a", `Name: want a known field; did you mean "name"?`},
		"a field like no other, listing all":     {"slot: {zzzzzz: 1}", "the fields here are end, except, for, latest, repeat, start, zone"},
		"a decimal unit":                         {"frontend: {memory: 4GB}", `frontend.memory: "4GB": want 4GiB`},
		"a number for a size":                    {"home: 4096", `home: "4096": want a unit`},
		"a list for a size":                      {"home: [1]", `home: "[1]": want a whole number with`},
		"text for a number":                      {"workers: [{count: many}]", `workers[0].count: "many": want a whole number`},
		"a fraction for a number":                {"workers: [{count: 1.5}]", `workers[0].count: "1.5": want a whole number`},
		"a huge number":                          {"workers: [{count: 1e99}]", "workers[0].count"},
		"a number for a name":                    {"name: 12", `name: "12": want 1-40 of a-z`},
		"a switch for a name that quotes save":   {"name: yes", `name: "true": want text; put it in quotes`},
		"a number for a user":                    {"users: [{name: 7}]", `users[0].name: "7": want 1-31 of a-z`},
		"a number for a length":                  {"slot: {for: 2}", `slot.for: "2": want a length such as 90m`},
		"a number for a start":                   {"slot: {start: 2030}", `slot.start: "2030": want asap, or a time with a zone`},
		"a number for a roll":                    {"rolls: [1.2]", `rolls[0]: "1.2": want a roll's name`},
		"a number in quotes":                     {`frontend: {cpus: "1"}`, `frontend.cpus: "1": want a whole number, without quotes: 1`},
		"no cores":                               {"frontend: {cpus: 0}", `frontend.cpus: "0": want 1 to 255`},
		"no cores of a worker":                   {"workers: [{count: 1, cpus: 0}]", `workers[0].cpus: "0": want 1 to 255`},
		"no memory":                              {"frontend: {memory: 0}", `frontend.memory: "0": want 256MiB to 4TiB`},
		"memory of no bytes":                     {"frontend: {memory: 0MiB}", `frontend.memory: "0MiB": want 256MiB to 4TiB`},
		"no disk":                                {`workers: [{disk: ""}]`, "workers[0].disk: want 4GiB to 16TiB"},
		"a number for a zone":                    {"slot: {zone: 1}", `slot.zone: "1": want an IANA time zone`},
		"another word for the zone":              {"slot: {timezone: Europe/Berlin}", `did you mean "zone"?`},
		"another word for the rule":              {"slot: {rrule: FREQ=DAILY}", `did you mean "repeat"?`},
		"one exception for a list":               {"slot: {except: 2030-12-24}", `slot.except: "2030-12-24": want a list: [2030-12-24]`},
		"a number for an exception":              {"slot: {except: [20301224]}", `slot.except[0]: "20301224": want a date, such as 2030-12-24`},
		"text for what happens at the end":       {"atEnd: park", `atEnd: "park": want fields: action, grace, parkFor, warn`},
		"a number for a grace":                   {"atEnd: {grace: 10}", `atEnd.grace: "10": want 0s to 1h`},
		"one warning for a list":                 {"atEnd: {warn: 1d}", `atEnd.warn: "1d": want a list: [1d]`},
		"a list for a webhook":                   {"notify: {webhook: [a]}", `: want an https URL`},
		"an unknown field of notify":             {"notify: {email: a@b}", `notify.email: want a known field; did you mean "mail"?`},
		"one thing for a list":                   {"rolls: slurm", `rolls: "slurm": want a list: [slurm]`},
		"text for fields":                        {"slot: tomorrow", `slot: "tomorrow": want fields: end, except, for, latest, repeat, start, zone`},
		"text for a switch":                      {"users: [{admin: perhaps}]", `want true or false`},
		"a key twice":                            {"name: a\nname: b", "already set"},
		"no YAML":                                {"{", "cannot read the text as YAML or JSON"},
		"nothing":                                {"", "the text is empty"},
		"a bare word":                            {"hello", `want fields: atEnd, frontend`},
		"two documents":                          {"name: a\n---\nname: b\n", "more than one YAML document"},
		"two documents, the first on the marker": {"--- {name: a}\n--- {name: b}\n", "more than one YAML document"},
		"a bomb of aliases":                      {aliasBomb(), "excessive aliasing"},
		"endless depth":                          {strings.Repeat("[", 100_000), "max depth"},
		"too much":                               {"name: " + strings.Repeat("a", SpecSizeMax), "larger than 1MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadSpec(strings.NewReader(c.in))
			var p *Problem
			if !errors.As(err, &p) || !strings.Contains(p.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// aliasBomb is a small document that stands for 9^9 values.
func aliasBomb() string {
	b, last := "a0: &a0 [x,x,x,x,x,x,x,x,x]\n", "a0"
	for i := 1; i < 9; i++ {
		b += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat("*"+last+",", 9), ","))
		last = fmt.Sprintf("a%d", i)
	}
	return b
}

func TestReadSpecReportsAllErrorsAtOnce(t *testing.T) {
	_, err := ReadSpec(strings.NewReader("nam: a\nhome: 4GB\nworkers: [{count: x}]"))
	var p *Problem
	if !errors.As(err, &p) || len(p.Errors) != 3 || p.Code != CodeInvalid || p.Status != 422 {
		t.Fatalf("%v", err)
	}
	many := "x: [" + strings.Repeat("1,", 10) + "]\n"
	for i := range 200 {
		many += fmt.Sprintf("zzzzzzzz%d: 1\n", i)
	}
	if _, err := ReadSpec(strings.NewReader(many)); !errors.As(err, &p) || len(p.Errors) != fieldErrorsMax {
		t.Fatalf("%d errors, want them bounded", len(p.Errors))
	}
}

func TestReadSpecTakesOneDocumentWithMarker(t *testing.T) {
	if s, err := ReadSpec(strings.NewReader("# mine\n---\nname: a\nhome: 0\n")); err != nil || s.Name != "a" || s.Home != 0 {
		t.Fatal(s, err)
	}
}

func TestDefaultsFillAndShareNothing(t *testing.T) {
	s := Spec{Workers: []WorkerGroup{{Count: 2}}}
	d := s.Defaults()
	want := WorkerGroup{"compute", 2, NodeShape{1, 512 * MiB, 4 * GiB}, "worker"}
	if d.Workers[0] != want || d.Frontend != want.NodeShape {
		t.Errorf("%+v", d)
	}
	if s.Workers[0].Name != "" {
		t.Error("Defaults changed its receiver")
	}
	if got := d.NodeNames(); !reflect.DeepEqual(got, []string{"frontend", "compute-0", "compute-1"}) {
		t.Error(got)
	}
}

func TestNodeNamesAreUnique(t *testing.T) {
	s := Spec{Workers: []WorkerGroup{{Name: "a", Count: 12}, {Name: "a-1", Count: 12}, {Name: "a1", Count: 12}}}
	seen := map[string]bool{}
	for _, n := range s.NodeNames() {
		if seen[n] {
			t.Error("twice:", n)
		}
		seen[n] = true
	}
	if len(seen) != 37 {
		t.Error(len(seen))
	}
}

func TestValidateRefuses(t *testing.T) {
	long := strings.Repeat("a", 41)
	for name, c := range map[string]struct {
		change func(*Spec)
		field  string // that it names, and nothing else
	}{
		"no name":                        {func(s *Spec) { s.Name = "" }, "name"},
		"a long name":                    {func(s *Spec) { s.Name = long }, "name"},
		"capitals":                       {func(s *Spec) { s.Name = "Rendering" }, "name"},
		"a dash at the end":              {func(s *Spec) { s.Name = "a-" }, "name"},
		"a line end after the name":      {func(s *Spec) { s.Name = "a\n" }, "name"},
		"a wrong project":                {func(s *Spec) { s.Project = "a b" }, "project"},
		"no start":                       {func(s *Spec) { s.Slot.Start = "" }, "slot.start"},
		"a start without zone":           {func(s *Spec) { s.Slot.Start = "2026-12-01T09:00" }, "slot.start"},
		"neither end nor for":            {func(s *Spec) { s.Slot.For = "" }, "slot.for"},
		"both end and for":               {func(s *Spec) { s.Slot.End = "2027-12-01T09:00Z" }, "slot.end"},
		"end before start":               {func(s *Spec) { s.Slot.For, s.Slot.End = "", "2026-11-01T09:00Z" }, "slot.end"},
		"end at start":                   {func(s *Spec) { s.Slot.For, s.Slot.End = "", "2026-12-01T00:00Z" }, "slot.end"},
		"end too soon":                   {func(s *Spec) { s.Slot.For, s.Slot.End = "", "2026-12-01T00:00:59Z" }, "slot.end"},
		"end too late":                   {func(s *Spec) { s.Slot.For, s.Slot.End = "", "2036-12-01T00:00Z" }, "slot.end"},
		"a wrong length":                 {func(s *Spec) { s.Slot.For = "8 hours" }, "slot.for"},
		"no length":                      {func(s *Spec) { s.Slot.For = "0h" }, "slot.for"},
		"a huge length":                  {func(s *Spec) { s.Slot.For = "6y" }, "slot.for"},
		"no cores":                       {func(s *Spec) { s.Frontend.CPUs = -1 }, "frontend.cpus"},
		"too many cores":                 {func(s *Spec) { s.Workers[1].CPUs = 257 }, "workers[1].cpus"},
		"too little memory":              {func(s *Spec) { s.Frontend.Memory = 255 * MiB }, "frontend.memory"},
		"too much memory":                {func(s *Spec) { s.Workers[0].Memory = 4*TiB + 1 }, "workers[0].memory"},
		"too small a disk":               {func(s *Spec) { s.Workers[0].Disk = 4*GiB - 1 }, "workers[0].disk"},
		"too large a disk":               {func(s *Spec) { s.Frontend.Disk = 17 * TiB }, "frontend.disk"},
		"no groups":                      {func(s *Spec) { s.Workers = nil }, "workers"},
		"too many groups":                {func(s *Spec) { s.Workers = make([]WorkerGroup, 101) }, "workers"},
		"no workers in a group":          {func(s *Spec) { s.Workers[0].Count = 0 }, "workers[0].count"},
		"too many workers in a group":    {func(s *Spec) { s.Workers[0].Count = 1001 }, "workers[0].count"},
		"too many workers in all":        {func(s *Spec) { s.Workers[0].Count = 999 }, "workers"},
		"a group called frontend":        {func(s *Spec) { s.Workers[0].Name = "frontend" }, "workers[0].name"},
		"two groups of a name":           {func(s *Spec) { s.Workers[1].Name = "compute" }, "workers[1].name"},
		"a wrong group name":             {func(s *Spec) { s.Workers[0].Name = "a_b" }, "workers[0].name"},
		"a wrong appliance":              {func(s *Spec) { s.Workers[0].Appliance = "../x" }, "workers[0].appliance"},
		"workers as frontends":           {func(s *Spec) { s.Workers[0].Appliance = "frontend" }, "workers[0].appliance"},
		"a wrong roll":                   {func(s *Spec) { s.Rolls[0] = "Slurm!" }, "rolls[0]"},
		"a roll with an empty version":   {func(s *Spec) { s.Rolls[0] = "slurm@" }, "rolls[0]"},
		"a roll twice":                   {func(s *Spec) { s.Rolls[1] = "slurm@2" }, "rolls[1]"},
		"too many rolls":                 {func(s *Spec) { s.Rolls = make([]string, 51) }, "rolls"},
		"too small a home":               {func(s *Spec) { s.Home = 1 * MiB }, "home"},
		"too large a home":               {func(s *Spec) { s.Home = 17 * TiB }, "home"},
		"no users":                       {func(s *Spec) { s.Users = nil }, "users"},
		"too many users":                 {func(s *Spec) { s.Users = make([]User, 201) }, "users"},
		"root":                           {func(s *Spec) { s.Users[0].Name = "root" }, "users[0].name"},
		"a system user":                  {func(s *Spec) { s.Users[0].Name = "slurm" }, "users[0].name"},
		"systemd's":                      {func(s *Spec) { s.Users[0].Name = "systemd-network" }, "users[0].name"},
		"a user name with a colon":       {func(s *Spec) { s.Users[0].Name = "a:b" }, "users[0].name"},
		"a user twice":                   {func(s *Spec) { s.Users = append(s.Users, s.Users[0]) }, "users[1].name"},
		"no keys":                        {func(s *Spec) { s.Users[0].Keys = nil }, "users[0].keys"},
		"too many keys":                  {func(s *Spec) { s.Users[0].Keys = make([]string, 51) }, "users[0].keys"},
		"no key at all":                  {func(s *Spec) { s.Users[0].Keys[0] = "hello" }, "users[0].keys[0]"},
		"a cut key":                      {func(s *Spec) { s.Users[0].Keys[0] = testKey[:40] }, "users[0].keys[0]"},
		"two keys in one":                {func(s *Spec) { s.Users[0].Keys[0] = testKey + "\n" + testKey }, "users[0].keys[0]"},
		"a private key":                  {func(s *Spec) { s.Users[0].Keys[0] = "-----BEGIN OPENSSH PRIVATE KEY-----" }, "users[0].keys[0]"},
		"a key with a tab":               {func(s *Spec) { s.Users[0].Keys[0] = strings.Replace(s.Users[0].Keys[0], " ", "\t", 1) }, "users[0].keys[0]"},
		"a huge key":                     {func(s *Spec) { s.Users[0].Keys[0] = testKey + strings.Repeat("x", KeySizeMax) }, "users[0].keys[0]"},
		"a range's end being right here": {func(s *Spec) { s.Workers[0].Count = 998; s.Frontend.CPUs = 255; s.Frontend.Memory = 4 * TiB }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := good(t)
			c.change(&s)
			errs := s.Validate()
			switch {
			case c.field == "" && errs != nil:
				t.Error(errs)
			case c.field != "" && (len(errs) != 1 || errs[0].Field != c.field || errs[0].Want == ""):
				t.Errorf("got %v, want one about %s", errs, c.field)
			}
			for _, e := range errs {
				if strings.Contains(e.String(), "PRIVATE") {
					t.Error("repeats a private key")
				}
			}
		})
	}
}

func TestResolveSlot(t *testing.T) {
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		slot       Slot
		start, end time.Duration // after now
		asap       bool
		field      string
	}{
		"asap for a length":        {Slot{Start: "asap", For: "8h"}, 0, 8 * time.Hour, true, ""},
		"asap until a time":        {Slot{Start: "asap", End: "2026-11-24T08:00Z"}, 0, 24 * time.Hour, true, ""},
		"from a time for a length": {Slot{Start: "2026-11-23T17:30+09:00", For: "90m"}, 30 * time.Minute, 2 * time.Hour, false, ""},
		"from a time to a time":    {Slot{Start: "2026-11-23T09:00Z", End: "2026-11-23T10:00Z"}, time.Hour, 2 * time.Hour, false, ""},
		"a moment ago":             {Slot{Start: "2026-11-23T07:59:30Z", For: "1h"}, -30 * time.Second, 59*time.Minute + 30*time.Second, false, ""},
		"start past":               {Slot{Start: "2026-11-23T07:58Z", For: "1h"}, 0, 0, false, "slot.start"},
		"start far":                {Slot{Start: "2037-11-23T07:58Z", For: "1h"}, 0, 0, false, "slot.start"},
		"asap until the past":      {Slot{Start: "asap", End: "2026-11-23T07:00Z"}, 0, 0, true, "slot.end"},
		"asap until very soon":     {Slot{Start: "asap", End: "2026-11-23T08:00:30Z"}, 0, 0, true, "slot.end"},
		"asap until far":           {Slot{Start: "asap", End: "2036-11-23T08:00:30Z"}, 0, 0, true, "slot.end"},
		"what Validate refuses":    {Slot{Start: "asap"}, 0, 0, true, "slot.for"},
	} {
		t.Run(name, func(t *testing.T) {
			start, end, asap, err := Spec{Slot: c.slot}.ResolveSlot(now)
			var f FieldError
			if c.field != "" {
				if !errors.As(err, &f) || f.Field != c.field {
					t.Fatalf("got %v, want an error about %s", err, c.field)
				}
				return
			}
			if err != nil || !start.Equal(now.Add(c.start)) || !end.Equal(now.Add(c.end)) || asap != c.asap {
				t.Fatal(start, end, asap, err)
			}
		})
	}
}

func TestTokenRequest(t *testing.T) {
	for _, k := range []TokenKind{TokenOperator, TokenJoin, TokenProject} {
		r := TokenRequest{Kind: k}
		if k == TokenProject {
			r.Project = "studio"
		}
		if errs := r.Defaults().Validate(); errs != nil {
			t.Error(k, errs)
		}
	}
	for field, r := range map[string]TokenRequest{
		"kind": {Kind: "king", For: "1h"}, "project": {Kind: TokenProject, For: "1h"}, "note": {Kind: TokenJoin, For: "1h", Note: "a\nb"},
		"for": {Kind: TokenJoin, For: "11y"},
	} {
		if errs := r.Validate(); len(errs) != 1 || errs[0].Field != field {
			t.Error(field, errs)
		}
	}
	if errs := (TokenRequest{Kind: TokenOperator, Project: "x", For: "30s"}).Validate(); len(errs) != 2 {
		t.Error(errs)
	}
}

func TestImageRequest(t *testing.T) {
	if errs := (ImageRequest{Rolls: []string{"slurm@1"}, Appliances: []string{"worker"}}).Validate(); errs != nil {
		t.Error(errs)
	}
	if errs := (ImageRequest{}).Validate(); len(errs) != 1 {
		t.Error(errs)
	}
	if errs := (ImageRequest{Rolls: []string{"/"}, Appliances: []string{"/"}}).Validate(); len(errs) != 2 {
		t.Error(errs)
	}
}

func TestTokenText(t *testing.T) {
	x := TokenText{TokenProject, "c1", "t1", strings.Repeat("a", 64), strings.Repeat("b", 64)}
	if back, err := ParseToken(" " + x.String() + "\n"); err != nil || back != x {
		t.Fatal(back, err)
	}
	for _, bad := range []string{"", "vcn", "x" + x.String(), x.String() + ".x", strings.Replace(x.String(), "project", "king", 1), strings.Replace(x.String(), ".t1.", "..", 1), x.String()[:80]} {
		if _, err := ParseToken(bad); !errors.Is(err, ErrTokenFormat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Everything the API answers must survive JSON.
func TestAnswersRoundTrip(t *testing.T) {
	now := time.Date(2026, 11, 23, 8, 0, 0, 5, time.UTC)
	r := Reservation{ID: "1", Name: "a", State: StateReady, Start: now, End: now, Provision: now, Created: now, ReadyAt: &now,
		Conditions: []Condition{{"degraded", "m", now}}, Frontend: &Frontend{"192.0.2.1", "ssh-ed25519 A"},
		Nodes:  []Node{{Name: "frontend", Role: RoleFrontend, Memory: 512 * MiB, Disk: 4*GiB + 1, Since: now}},
		Phases: []Phase{{"boot", now, nil, ""}, {"images", now, &now, "cached"}}, Rolls: []string{"base@1"}, Spec: good(t)}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Reservation
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r, back); d != "" {
		t.Error(d)
	}
	if !strings.Contains(string(b), `"disk":"4294967297B"`) || !strings.Contains(string(b), `"memory":"512MiB"`) {
		t.Errorf("quantities are not text: %s", b)
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		n    int
	}{{"", "abc", 3}, {"abc", "", 3}, {"memroy", "memory", 2}, {"kitten", "sitting", 3}, {"same", "same", 0}} {
		if got := editDistance(c.a, c.b); got != c.n {
			t.Errorf("%s %s: %d, want %d", c.a, c.b, got, c.n)
		}
	}
}

// FuzzReadSpec: no input panics, and what is read and valid reads back the
// same from its JSON.
func FuzzReadSpec(f *testing.F) {
	f.Add(goodSpec)
	f.Add(`{"name":"a","home":0,"workers":[null]}`)
	f.Add("a: &a [*a]\n")
	f.Add("--- \n...\nname: [")
	f.Add("workers: [{count: 0x10, memory: 4GB}]\nslot: 2026-12-01")
	f.Fuzz(func(t *testing.T, in string) {
		s, err := ReadSpec(strings.NewReader(in))
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		s = s.Defaults()
		if len(s.Validate()) > 0 {
			return
		}
		if n := len(s.NodeNames()); n < 2 || n > WorkersMax+1 {
			t.Errorf("%d nodes in a valid specification", n)
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ReadSpec(strings.NewReader(string(b)))
		if err != nil {
			t.Fatalf("%v in %s", err, b)
		}
		if d := cmp.Diff(s, back); d != "" {
			t.Error(d)
		}
	})
}
