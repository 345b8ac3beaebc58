package api

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWhatHappensAtTheEnd(t *testing.T) {
	for name, c := range map[string]struct {
		in       *AtEnd
		grace    time.Duration
		park     time.Duration
		warnings []time.Duration
	}{
		"nobody said":            {nil, 0, 0, []time.Duration{day, time.Hour, 10 * time.Minute}},
		"nothing said":           {&AtEnd{}, 0, 0, []time.Duration{day, time.Hour, 10 * time.Minute}},
		"park, for the default":  {&AtEnd{Action: EndPark}, 0, 30 * day, []time.Duration{day, time.Hour, 10 * time.Minute}},
		"park for a year":        {&AtEnd{Action: EndPark, ParkFor: "1y", Grace: "10m"}, 10 * time.Minute, 365 * day, []time.Duration{day, time.Hour, 10 * time.Minute}},
		"no warnings":            {&AtEnd{Warn: []string{"0s"}}, 0, 0, nil},
		"warnings, longest last": {&AtEnd{Warn: []string{"5m", "2h", "30d"}, Grace: "1h"}, time.Hour, 0, []time.Duration{30 * day, 2 * time.Hour, 5 * time.Minute}},
	} {
		t.Run(name, func(t *testing.T) {
			s := good(t)
			s.AtEnd = c.in
			for _, s := range []Spec{s, s.Defaults()} {
				if errs := s.Validate(); errs != nil {
					t.Fatal(errs)
				}
				if s.Grace() != c.grace || s.ParkFor() != c.park || !slices.Equal(s.Warnings(), c.warnings) {
					t.Error(s.Grace(), s.ParkFor(), s.Warnings())
				}
			}
		})
	}
}

func TestAtEndDefaultsFillAndShareNothing(t *testing.T) {
	given := &AtEnd{Action: EndPark}
	s := Spec{AtEnd: given}.Defaults()
	want := AtEnd{Action: EndPark, Grace: "0s", ParkFor: "30d", Warn: []string{"1d", "1h", "10m"}}
	if d := cmp.Diff(want, *s.AtEnd); d != "" {
		t.Error(d)
	}
	if given.Grace != "" || given.Warn != nil {
		t.Error("Defaults changed its receiver's")
	}
	s.AtEnd.Warn[0] = "9d"
	if again := (AtEnd{}).Defaults(); again.Warn[0] != "1d" || again.Action != EndRelease || again.ParkFor != "" {
		t.Errorf("%+v", again)
	}
	if d := cmp.Diff(AtEnd{Action: EndRelease, Grace: "0s", Warn: []string{"1d", "1h", "10m"}}, (AtEnd{}).Defaults().Defaults()); d != "" {
		t.Error("twice is not as once:", d)
	}
}

func TestValidateRefusesEndsAndAddresses(t *testing.T) {
	for name, c := range map[string]struct {
		end    AtEnd
		notify Notify
		field  string
	}{
		"another action":             {end: AtEnd{Action: "keep"}, field: "atEnd.action"},
		"a long grace":               {end: AtEnd{Grace: "61m"}, field: "atEnd.grace"},
		"a negative grace":           {end: AtEnd{Grace: "-1m"}, field: "atEnd.grace"},
		"parkFor without park":       {end: AtEnd{ParkFor: "30d"}, field: "atEnd.parkFor"},
		"short parking":              {end: AtEnd{Action: EndPark, ParkFor: "59m"}, field: "atEnd.parkFor"},
		"long parking":               {end: AtEnd{Action: EndPark, ParkFor: "366d"}, field: "atEnd.parkFor"},
		"six warnings":               {end: AtEnd{Warn: []string{"1m", "2m", "3m", "4m", "5m", "6m"}}, field: "atEnd.warn"},
		"an early warning":           {end: AtEnd{Warn: []string{"31d"}}, field: "atEnd.warn[0]"},
		"a warning of no length":     {end: AtEnd{Warn: []string{"soon"}}, field: "atEnd.warn[0]"},
		"a warning twice, in words":  {end: AtEnd{Warn: []string{"1h", "60m"}}, field: "atEnd.warn[1]"},
		"never, and others":          {end: AtEnd{Warn: []string{"1h", "0s"}}, field: "atEnd.warn[1]"},
		"http":                       {notify: Notify{Webhook: "http://a.example/"}, field: "notify.webhook"},
		"a file":                     {notify: Notify{Webhook: "file:///etc/passwd"}, field: "notify.webhook"},
		"no scheme":                  {notify: Notify{Webhook: "a.example/x"}, field: "notify.webhook"},
		"no host":                    {notify: Notify{Webhook: "https:///x"}, field: "notify.webhook"},
		"a port and no host":         {notify: Notify{Webhook: "https://:443/x"}, field: "notify.webhook"},
		"an opaque address":          {notify: Notify{Webhook: "https:a.example"}, field: "notify.webhook"},
		"a password":                 {notify: Notify{Webhook: "https://u:hunter2@a.example/"}, field: "notify.webhook"},
		"a fragment":                 {notify: Notify{Webhook: "https://a.example/#x"}, field: "notify.webhook"},
		"an empty fragment":          {notify: Notify{Webhook: "https://a.example/#"}, field: "notify.webhook"},
		"a space":                    {notify: Notify{Webhook: "https://a.example/a b"}, field: "notify.webhook"},
		"a line end":                 {notify: Notify{Webhook: "https://a.example/\r\nX: y"}, field: "notify.webhook"},
		"a host in other letters":    {notify: Notify{Webhook: "https://ä.example/"}, field: "notify.webhook"},
		"a long address":             {notify: Notify{Webhook: "https://a.example/" + strings.Repeat("a", 2048)}, field: "notify.webhook"},
		"no at":                      {notify: Notify{Mail: "alice"}, field: "notify.mail"},
		"nobody":                     {notify: Notify{Mail: "@example.org"}, field: "notify.mail"},
		"two":                        {notify: Notify{Mail: "a@b.example,c@d.example"}, field: "notify.mail"},
		"a name before it":           {notify: Notify{Mail: "Alice <a@b.example>"}, field: "notify.mail"},
		"an option":                  {notify: Notify{Mail: "-oQ/tmp@b.example"}, field: "notify.mail"},
		"dots in a row":              {notify: Notify{Mail: "a..b@b.example"}, field: "notify.mail"},
		"a mail line end":            {notify: Notify{Mail: "a@b.example\nBcc: x"}, field: "notify.mail"},
		"a mail to an address":       {notify: Notify{Mail: "a@[192.0.2.1]"}, field: "notify.mail"},
		"a domain that ends in dash": {notify: Notify{Mail: "a@b-.example"}, field: "notify.mail"},
		"a long name in mail":        {notify: Notify{Mail: strings.Repeat("a", 65) + "@b.example"}, field: "notify.mail"},
		"fine ones":                  {AtEnd{Grace: "0s", Warn: []string{"0s"}}, Notify{"https://a.example:8443/x?y=%20&z=@", "alice.b+c-d@mail.example.org"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := good(t)
			s.AtEnd, s.Notify = &c.end, &c.notify
			errs := s.Validate()
			if c.field == "" && errs != nil || c.field != "" && (len(errs) != 1 || errs[0].Field != c.field || errs[0].Want == "") {
				t.Errorf("got %v, want one about %q", errs, c.field)
			}
			for _, e := range errs {
				if strings.Contains(e.String(), "hunter2") {
					t.Error("repeats a password")
				}
			}
		})
	}
}
