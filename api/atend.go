package api

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Limits of what happens at the end of a slot, and of who is told.
const (
	GraceMax       = time.Hour
	ParkMin        = time.Hour
	ParkMax        = year
	WarnBeforeMax  = 30 * day
	WarningsMax    = 5
	WebhookSizeMax = 2048 // bytes
	MailSizeMax    = 254  // bytes (RFC 5321 4.5.3.1.3, without the brackets)

	defaultGrace = "0s"
	defaultPark  = "30d"

	wantAction  = "release or park"
	wantGrace   = "0s to 1h, such as 10m"
	wantPark    = "1h to 1y, such as 30d"
	wantWarn    = "lengths before the end, each 0s to 30d, such as 1h"
	wantWebhook = "an https URL, such as https://chat.example.org/hooks/1"
	wantMail    = "a mail address, such as alice@example.org"
)

// defaultWarn is when warnings are given where nobody said.
var defaultWarn = []string{"1d", "1h", "10m"}

// Defaults fills in what is left out. It shares nothing that it changes.
func (a AtEnd) Defaults() AtEnd {
	if a.Action == "" {
		a.Action = EndRelease
	}
	if a.Grace == "" {
		a.Grace = defaultGrace
	}
	if a.ParkFor == "" && a.Action == EndPark {
		a.ParkFor = defaultPark
	}
	if len(a.Warn) == 0 {
		a.Warn = slices.Clone(defaultWarn)
	}
	return a
}

// end is what happens at the end, with defaults.
func (s Spec) end() AtEnd {
	if s.AtEnd == nil {
		return AtEnd{}.Defaults()
	}
	return s.AtEnd.Defaults()
}

// Grace is for how long after the end users can still save their work, of a
// valid specification.
func (s Spec) Grace() time.Duration { return mustDuration(s.end().Grace) }

// ParkFor is for how long volumes are kept after the end, of a valid
// specification; 0: they are deleted.
func (s Spec) ParkFor() time.Duration {
	if e := s.end(); e.Action == EndPark {
		return mustDuration(e.ParkFor)
	}
	return 0
}

// Warnings is how long before the end to warn, longest first, of a valid
// specification; none if warnings are switched off.
func (s Spec) Warnings() []time.Duration {
	var out []time.Duration
	for _, w := range s.end().Warn {
		if d := mustDuration(w); d > 0 {
			out = append(out, d)
		}
	}
	slices.Sort(out)
	slices.Reverse(out)
	return out
}

// mustDuration is a length that has been validated; else 0.
func mustDuration(s string) time.Duration {
	d, err := ParseDuration(s)
	if err != nil {
		return 0
	}
	return d
}

// length checks a length and returns it.
func (c *checker) length(field, value string, lo, hi time.Duration, want string) time.Duration {
	d, err := ParseDuration(value)
	if err != nil || d < lo || d > hi {
		c.bad(field, value, want)
	}
	return d
}

// atEnd checks an AtEnd, whose defaults may be filled in or not.
func (c *checker) atEnd(field string, a *AtEnd) {
	if a == nil {
		return
	}
	switch a.Action {
	case "", EndRelease:
		if a.ParkFor != "" {
			c.bad(field+".parkFor", a.ParkFor, "nothing, or action: park")
		}
	case EndPark:
		if a.ParkFor != "" {
			c.length(field+".parkFor", a.ParkFor, ParkMin, ParkMax, wantPark)
		}
	default:
		c.bad(field+".action", a.Action, wantAction)
	}
	if a.Grace != "" {
		c.length(field+".grace", a.Grace, 0, GraceMax, wantGrace)
	}
	if len(a.Warn) > WarningsMax {
		c.bad(field+".warn", fmt.Sprintf("%d lengths", len(a.Warn)), fmt.Sprintf("at most %d", WarningsMax))
		return
	}
	seen := map[time.Duration]bool{}
	for i, w := range a.Warn {
		at := fmt.Sprintf("%s.warn[%d]", field, i)
		d, err := ParseDuration(w)
		switch {
		case err != nil || d > WarnBeforeMax:
			c.bad(at, w, wantWarn)
		case d == 0 && len(a.Warn) > 1:
			c.bad(at, w, "0s alone: it means that no warnings are given")
		case seen[d]:
			c.bad(at, w, "each length once")
		}
		seen[d] = true
	}
}

// mailShape is the plain part of RFC 5321's addresses: no quotes, no comments,
// no addresses of machines. It does not begin with '-', so that no mail command
// takes it for an option.
var mailShape = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+/=?^_`{|}~][A-Za-z0-9!#$%&'*+/=?^_`{|}~-]*" +
	"([.][A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*" +
	"@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?([.][A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$")

func (c *checker) notify(field string, n *Notify) {
	if n == nil {
		return
	}
	if n.Webhook != "" {
		if want := checkWebhook(n.Webhook); want != "" {
			c.bad(field+".webhook", hideUser(n.Webhook), want)
		}
	}
	if n.Mail != "" {
		local, _, _ := strings.Cut(n.Mail, "@")
		if len(n.Mail) > MailSizeMax || len(local) > 64 || !mailShape.MatchString(n.Mail) {
			c.bad(field+".mail", n.Mail, wantMail)
		}
	}
}

// checkWebhook says what is wrong with a webhook's address, or nothing. Whether
// it may be reached is the operator's to say.
func checkWebhook(s string) string {
	if len(s) > WebhookSizeMax {
		return fmt.Sprintf("at most %d bytes", WebhookSizeMax)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "https" || u.Opaque != "":
		return wantWebhook
	case u.User != nil:
		return wantWebhook + ", without a user or password in it"
	case u.Hostname() == "":
		return wantWebhook + ", with a host"
	case u.Fragment != "" || strings.Contains(s, "#"):
		return wantWebhook + ", without a fragment (#…): it is never sent"
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return wantWebhook + ", in ASCII and without spaces"
	}
	return ""
}

// hideUser keeps a password out of the answer.
func hideUser(s string) string {
	if _, after, ok := strings.Cut(s, "@"); ok {
		return "…@" + after
	}
	return s
}
