package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	idBytesMax    = 128
	kindBytesMax  = 64
	fieldBytesMax = 256
	textBytesMax  = 4 << 10
)

// Both go into headers of HTTP and mail, the first also into a Message-ID
// (dot-atom of RFC 5322).
var (
	idPattern   = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
	kindPattern = regexp.MustCompile(`^[a-z0-9_-]+(\.[a-z0-9_-]+)*$`)
)

// Message says what happened to a reservation, and whom to tell.
type Message struct {
	ID   string // unique, 1-128 of letters, digits, '_', '-' and single inner dots
	Kind string // dotted word such as reservation.ready, at most 64 bytes
	Time time.Time

	// At most 256 bytes each, without control characters.
	Reservation, Name, Project, State string
	Text                              string // for people; more than 4 KiB is cut
	Start, End                        time.Time
	Zone                              string // IANA name that Start and End are shown in; unknown: UTC

	Webhook string // https URL; empty: none
	Mail    string // address; empty: none
}

// body is what a webhook gets. Times are RFC 3339, UTC.
type body struct {
	ID          string    `json:"id"`
	Kind        string    `json:"kind"`
	Time        time.Time `json:"time"`
	Site        string    `json:"site"`
	Reservation string    `json:"reservation,omitempty"`
	Name        string    `json:"name,omitempty"`
	Project     string    `json:"project,omitempty"`
	State       string    `json:"state,omitempty"`
	Text        string    `json:"text,omitempty"`
	Start       time.Time `json:"start,omitzero"`
	End         time.Time `json:"end,omitzero"`
	Zone        string    `json:"zone,omitempty"`
}

func (m Message) json(site string) ([]byte, error) {
	return json.Marshal(body{
		ID: m.ID, Kind: m.Kind, Time: m.Time.UTC(), Site: site, Reservation: m.Reservation, Name: m.Name,
		Project: m.Project, State: m.State, Text: m.Text, Start: m.Start.UTC(), End: m.End.UTC(), Zone: m.Zone,
	})
}

// clean returns the message with a text fit to be sent, or ErrRefused if another
// field is not.
func (m Message) clean() (Message, error) {
	if len(m.ID) > idBytesMax || !idPattern.MatchString(m.ID) {
		return m, fmt.Errorf("check message: id %q: %w", clip(m.ID), ErrRefused)
	}
	if len(m.Kind) > kindBytesMax || !kindPattern.MatchString(m.Kind) {
		return m, fmt.Errorf("check message: kind %q: %w", clip(m.Kind), ErrRefused)
	}
	for _, f := range []struct{ name, value string }{
		{"reservation", m.Reservation}, {"name", m.Name}, {"project", m.Project}, {"state", m.State}, {"zone", m.Zone},
	} {
		if len(f.value) > fieldBytesMax || !utf8.ValidString(f.value) || hasControl(f.value) {
			return m, fmt.Errorf("check message: %s %q: more than %d bytes or not plain text: %w", f.name, clip(f.value), fieldBytesMax, ErrRefused)
		}
	}
	if m.Time.IsZero() {
		return m, fmt.Errorf("check message: it has no time: %w", ErrRefused)
	}
	for _, t := range []time.Time{m.Time, m.Start, m.End} {
		if y := t.UTC().Year(); y < 1 || y > 9998 { // what JSON and RFC 5322 can show, in any zone
			return m, fmt.Errorf("check message: year %d: %w", y, ErrRefused)
		}
	}
	if len(m.Webhook) > urlBytesMax || len(m.Mail) > addressBytesMax {
		return m, fmt.Errorf("check message: target is too long: %w", ErrRefused)
	}
	m.Text = cleanText(m.Text)
	return m, nil
}

// cleanText keeps lines and tabs; other control characters may steer a terminal.
func cleanText(s string) string {
	s, cut := cutBytes(s, textBytesMax)
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u2028", "\n", "\u2029", "\n").Replace(s)
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return '\uFFFD'
		}
		return r
	}, s)
	if cut {
		s += "…"
	}
	return strings.Clone(s) // a short piece must not keep a long text alive
}

// cutBytes cuts between runes.
func cutBytes(s string, most int) (string, bool) {
	if len(s) <= most {
		return s, false
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most], true
}

func clip(s string) string {
	if c, cut := cutBytes(s, 80); cut {
		return c + "…"
	}
	return s
}

// hasControl: the line and paragraph separators count, some readers break lines there.
func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' })
}

// Send delivers a message to both of its targets that are set, at the same time, with one
// try each. The errors of both are joined; each wraps ErrRefused or ErrLater. So ask
// for ErrLater first; and who sends such a message again should leave out the target
// that has it: Queue does.
func (s *Sender) Send(ctx context.Context, m Message) error {
	m, err := m.clean()
	if err != nil {
		return err
	}
	var byWeb, byMail error
	var wg sync.WaitGroup
	if m.Webhook != "" {
		wg.Go(func() { byWeb = s.post(ctx, m) })
	}
	if m.Mail != "" {
		wg.Go(func() { byMail = s.mail(ctx, m) })
	}
	wg.Wait()
	return errors.Join(byWeb, byMail)
}

// Check tells, without reaching anything, whether targets could be delivered to:
// for an early answer to who writes them down. Empty ones are well. Errors wrap ErrRefused.
func (s *Sender) Check(webhook, mail string) error {
	var errs []error
	if webhook != "" {
		errs = append(errs, s.checkWebhook(webhook))
	}
	if mail != "" {
		errs = append(errs, s.checkRecipient(mail))
	}
	return errors.Join(errs...)
}
