package notify

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"mime/quotedprintable"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	addressBytesMax = 254 // RFC 5321 4.5.3.1.3, without the brackets
	localBytesMax   = 64
	subjectTextMax  = 120 // bytes of the text's first line
	plainHeaderMax  = 60  // bytes that need no folding
	wordBytesMax    = 39  // of text in an encoded word: 52 of base64, 12 around it, and "Subject: " are at most 76
)

// localPattern is part of dot-atom: see the package's decisions for what is left out.
var localPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_+=~'-]*(\.[A-Za-z0-9_+=~'-]+)*$`)

// CheckMail tells whether an address, without a name, is one that mail is sent to.
// Errors wrap ErrRefused.
func CheckMail(address string) error {
	local, domain, ok := strings.Cut(address, "@")
	if !ok || len(address) > addressBytesMax || len(local) > localBytesMax ||
		!localPattern.MatchString(local) || !isName(strings.ToLower(domain)) {
		return fmt.Errorf("mail address %q: want name@domain in ASCII, at most %d bytes: %w", clip(address), addressBytesMax, ErrRefused)
	}
	return nil
}

func (s *Sender) checkRecipient(address string) error {
	if len(s.cfg.MailCommand) == 0 {
		return fmt.Errorf("mail is off: no command is configured: %w", ErrRefused)
	}
	return CheckMail(address)
}

// mail delivers by the command.
func (s *Sender) mail(ctx context.Context, m Message) error {
	if err := s.checkRecipient(m.Mail); err != nil {
		return err
	}
	b, err := s.compose(m)
	if err != nil {
		return fmt.Errorf("compose mail: %w: %w", err, ErrRefused)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.MailTimeout)
	defer cancel()
	if err := run(ctx, s.cfg.MailCommand, b); err != nil {
		return fmt.Errorf("mail by %s: %w", s.cfg.MailCommand[0], err)
	}
	return nil
}

// compose makes the message (RFC 5322), with LF at the ends of lines. Every value was
// checked by clean, checkRecipient or New, or is encoded.
func (s *Sender) compose(m Message) ([]byte, error) {
	var b bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\n", name, value) }
	text, encoding, err := encodeText(s.text(m))
	if err != nil {
		return nil, err
	}
	header("From", encodeHeader(s.cfg.Site, true)+"\n <"+s.cfg.MailFrom+">")
	header("To", m.Mail)
	header("Subject", encodeHeader(s.subject(m), false))
	header("Date", m.Time.UTC().Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	header("Message-ID", "<"+m.ID+"@"+s.domain+">")
	header("Auto-Submitted", "auto-generated")
	header("X-Vcn-Event", m.Kind)
	header("X-Vcn-Delivery", m.ID)
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", encoding)
	b.WriteByte('\n')
	b.Write(text)
	return b.Bytes(), nil
}

func (s *Sender) subject(m Message) string {
	what, _, _ := strings.Cut(strings.TrimSpace(m.Text), "\n")
	what, cut := cutBytes(strings.ReplaceAll(what, "\t", " "), subjectTextMax)
	if what == "" {
		what = m.Kind
	}
	if cut {
		what += "…"
	}
	if m.Name != "" {
		what = m.Name + ": " + what
	}
	return "[" + s.cfg.Site + "] " + what
}

func (s *Sender) text(m Message) string {
	var b strings.Builder
	if m.Text != "" {
		b.WriteString(strings.TrimRight(m.Text, "\n") + "\n\n")
	}
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-12s %s\n", name+":", value)
		}
	}
	line("Reservation", m.Name)
	line("ID", m.Reservation)
	line("Project", m.Project)
	line("State", m.State)
	line("Start", showTime(m.Start, m.Zone))
	line("End", showTime(m.End, m.Zone))
	line("Event", m.Kind+" at "+showTime(m.Time, m.Zone))
	line("Site", s.cfg.Site)
	return b.String()
}

// showTime shows a time in a zone, and in UTC beside it. "Local" would be the
// leader's own, by chance.
func showTime(t time.Time, zone string) string {
	if t.IsZero() {
		return ""
	}
	utc := t.UTC().Format("2006-01-02 15:04 MST")
	z, err := time.LoadLocation(zone)
	if err != nil || zone == "" || zone == "UTC" || zone == "Local" {
		return utc
	}
	return t.In(z).Format("2006-01-02 15:04 MST") + " " + zone + " (" + utc + ")"
}

// encodeHeader makes a header's text of any text. What is long, not ASCII or could be
// taken for an encoded word becomes encoded words (RFC 2047), one a line; so no
// byte of it can end the header. A phrase is the name in From.
func encodeHeader(s string, phrase bool) string {
	plain := len(s) <= plainHeaderMax && !strings.Contains(s, "=?") && s == strings.TrimSpace(s)
	for _, r := range s {
		plain = plain && r >= ' ' && r <= '~' && !(phrase && (r == '"' || r == '\\'))
	}
	if plain && phrase {
		return `"` + s + `"`
	}
	if plain {
		return s
	}
	var words []string
	for s = strings.ToValidUTF8(s, "\uFFFD"); s != ""; {
		n := 0
		for n < len(s) {
			_, size := utf8.DecodeRuneInString(s[n:])
			if n+size > wordBytesMax {
				break
			}
			n += size
		}
		words = append(words, "=?utf-8?B?"+base64.StdEncoding.EncodeToString([]byte(s[:n]))+"?=")
		s = s[n:]
	}
	return strings.Join(words, "\n ")
}

// encodeText makes a body of lines of at most 76 bytes. Quoted-printable can be read as it is,
// but leaves lines that start with "." or "From ", which some mail programs
// change or take as the end; base64 has none.
func encodeText(s string) (text []byte, encoding string, err error) {
	var b bytes.Buffer
	w := quotedprintable.NewWriter(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		return nil, "", err
	}
	if err := w.Close(); err != nil {
		return nil, "", err
	}
	text = bytes.ReplaceAll(b.Bytes(), []byte("\r\n"), []byte("\n"))
	risky := false
	for line := range bytes.Lines(text) {
		risky = risky || line[0] == '.' || bytes.HasPrefix(line, []byte("From "))
	}
	if !risky {
		return text, "quoted-printable", nil
	}
	// Canonical text has CRLF (RFC 2046 4.1.1), which nothing on the way restores here.
	all := base64.StdEncoding.EncodeToString([]byte(strings.ReplaceAll(s, "\n", "\r\n")))
	b.Reset()
	for len(all) > 0 {
		n := min(len(all), 76)
		b.WriteString(all[:n] + "\n")
		all = all[n:]
	}
	return b.Bytes(), "base64", nil
}
