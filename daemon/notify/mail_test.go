package notify

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"mime/quotedprintable"
	netmail "net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// parsed reads a mail back as a mail reader does.
func parsed(t interface{ Fatalf(string, ...any) }, raw []byte) (netmail.Header, string, string) {
	m, err := netmail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("read mail: %v\n%s", err, raw)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "text/plain" || params["charset"] != "utf-8" {
		t.Fatalf("content type %q %v: %v", kind, params, err)
	}
	var r io.Reader = m.Body
	switch m.Header.Get("Content-Transfer-Encoding") {
	case "quoted-printable":
		r = quotedprintable.NewReader(r)
	case "base64":
		r = base64.NewDecoder(base64.StdEncoding, r)
	default:
		t.Fatalf("encoding %q", m.Header.Get("Content-Transfer-Encoding"))
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("decode body: %v", err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil {
		t.Fatalf("decode subject: %v", err)
	}
	return m.Header, subject, strings.ReplaceAll(string(b), "\r\n", "\n")
}

func TestMailIsReadBackFromTheCommandAsItWasMeant(t *testing.T) {
	path, dir := script(t, `cat >"$D/mail"; env >"$D/env"; printf '%s\n' "$#" "$@" >"$D/args"; pwd >"$D/pwd"`)
	t.Setenv("VCN_TEST_SECRET", "hidden")
	for _, text := range []string{
		"Reservation rendering is ready.", "Müller's Cluster ist bereit — ohne Verzögerung, am Ende auch für lange Zeilen: " + strings.Repeat("äöü ", 80),
		".\nFrom here on\n.", "a\tb  \n\n  c", "=?utf-8?q?no?=",
	} {
		s := newSender(t, Config{Site: "Süd-Zentrum", MailCommand: []string{path, "-t", "$(touch " + dir + "/pwned)", "a b"}, MailFrom: "vcn@example.com"})
		m := message()
		m.Text, m.Mail = text, "o'alice+vcn@example.org"
		if err := s.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		raw := read(t, filepath.Join(dir, "mail"))
		h, subject, body := parsed(t, []byte(raw))
		from, err := h.AddressList("From")
		if err != nil || len(from) != 1 || from[0].Name != "Süd-Zentrum" || from[0].Address != "vcn@example.com" {
			t.Errorf("from %v: %v", from, err)
		}
		if to, err := h.AddressList("To"); err != nil || len(to) != 1 || to[0].Address != m.Mail {
			t.Errorf("to %v: %v", to, err)
		}
		if d, err := h.Date(); err != nil || !d.Equal(m.Time) {
			t.Errorf("date %v: %v", d, err)
		}
		for name, want := range map[string]string{"Message-Id": "<1234.0@example.com>", "Mime-Version": "1.0", "Auto-Submitted": "auto-generated",
			"X-Vcn-Event": m.Kind, "X-Vcn-Delivery": m.ID} {
			if got := h.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		first, _, _ := strings.Cut(text, "\n")
		if first, _ = cutBytes(first, subjectTextMax); !strings.HasPrefix(subject, "[Süd-Zentrum] rendering: "+strings.ReplaceAll(first, "\t", " ")) {
			t.Errorf("subject %q", subject)
		}
		if !strings.HasPrefix(body, text+"\n\n") || !strings.Contains(body, "Start:       2026-12-01 09:00 JST Asia/Tokyo (2026-12-01 00:00 UTC)\n") {
			t.Errorf("body %q", body)
		}
		for line := range strings.Lines(raw) {
			if len(line) > 77 || strings.Contains(line, "\r") || line == ".\n" {
				t.Errorf("line %q", line)
			}
		}
	}
	if got := read(t, filepath.Join(dir, "args")); got != "3\n-t\n$(touch "+dir+"/pwned)\na b\n" {
		t.Errorf("arguments %q", got)
	}
	if env := read(t, filepath.Join(dir, "env")); strings.Contains(env, "VCN_TEST_SECRET") || !strings.Contains(env, "PATH=/usr/sbin:") {
		t.Errorf("environment %q", env)
	}
	if _, err := os.Stat(filepath.Join(dir, "pwned")); err == nil {
		t.Error("a shell has read the arguments")
	}
	if got := read(t, filepath.Join(dir, "pwd")); got != "/\n" {
		t.Errorf("directory %q", got)
	}
}

// headersWanted is all a mail may have, in order.
var headersWanted = []string{"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "X-Vcn-Event", "X-Vcn-Delivery", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"}

// TestNoFieldCanAddAHeaderOrARecipient: whatever is in a message, it is refused, or its
// mail has exactly our headers, once each, and the recipient that was checked.
func TestNoFieldCanAddAHeaderOrARecipient(t *testing.T) {
	evil := rapid.OneOf(
		rapid.StringOfN(rapid.RuneFrom([]rune("ab@.:,<>()\"\\ =?\r\n\t\x00\u0085\u2028\u202e;|%!é雪-_+'~")), 0, 40, -1),
		rapid.SampledFrom([]string{"x\r\nBcc: eve@example.net", "x\nBcc: eve@example.net\n\nbody", "x\r\n\r\nbody", "=?utf-8?q?=0d=0aBcc:_eve?=", "a@example.org, eve@example.net",
			"\"a\r\nb\"@example.org", "a@example.org\n", "rendering", "a@example.org", "reservation.ready", "1.2", strings.Repeat("x", 300)}),
		rapid.String(),
	)
	s := newSender(t, Config{Site: "=?lab?= \"x\" <a@b>", MailCommand: []string{"/bin/false"}, MailFrom: "vcn@example.com"})
	var sent, refused int
	rapid.Check(t, func(t *rapid.T) {
		m := message()
		fields := []*string{&m.ID, &m.Kind, &m.Reservation, &m.Name, &m.Project, &m.State, &m.Text, &m.Zone, &m.Mail}
		m.Mail = "alice@example.org"
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, len(fields)-1), 1, 3, rapid.ID[int]).Draw(t, "fields") {
			*fields[i] = evil.Draw(t, "value")
		}
		m, err := m.clean()
		if err == nil {
			err = s.checkRecipient(m.Mail)
		}
		if err != nil {
			if !errors.Is(err, ErrRefused) {
				t.Fatalf("%v", err)
			}
			refused++
			return
		}
		sent++
		raw, err := s.compose(m)
		if err != nil {
			t.Fatalf("compose: %v", err)
		}
		head, _, _ := bytes.Cut(raw, []byte("\n\n"))
		var have []string
		for line := range strings.Lines(string(head)) {
			if strings.ContainsAny(line, "\r\x00") || len(line) > 300 {
				t.Fatalf("line %q", line)
			}
			if line[0] == ' ' {
				continue
			}
			name, _, _ := strings.Cut(line, ":")
			have = append(have, name)
		}
		if !slices.Equal(have, headersWanted) {
			t.Fatalf("headers %q in\n%s", have, head)
		}
		h, subject, body := parsed(t, raw)
		to, err := h.AddressList("To")
		if err != nil || len(to) != 1 || to[0].Address != m.Mail || to[0].Name != "" {
			t.Fatalf("to %v: %v", to, err)
		}
		if from, err := h.AddressList("From"); err != nil || len(from) != 1 || from[0].Address != "vcn@example.com" || from[0].Name != s.cfg.Site {
			t.Fatalf("from %v: %v", from, err)
		}
		if subject != s.subject(m) || body != s.text(m) {
			t.Fatalf("subject %q, want %q; body %q, want %q", subject, s.subject(m), body, s.text(m))
		}
	})
	if sent < 10 || refused < 10 {
		t.Errorf("%d sent, %d refused: the generator proves nothing", sent, refused)
	}
}

func TestAddressesThatMailSystemsTakeOtherwiseAreRefused(t *testing.T) {
	for _, a := range []string{
		"", "alice", "@example.org", "alice@", "a@b@example.org", "alice@example.org ", " alice@example.org", "Alice <alice@example.org>", "alice@example.org,eve@example.net",
		"|/bin/sh@example.org", "/etc/passwd@example.org", "-oQ/tmp@example.org", "a%b@example.org", "b!a@example.org", "\"a b\"@example.org", "a(x)@example.org",
		"alice@[127.0.0.1]", "alice@127.0.0.1", "a..b@example.org", ".a@example.org", "a.@example.org", "alice@exa_mple.org", "alice@-x.org", "ålice@example.org", "alice@exämple.org",
		"a\r\nb@example.org", "alice@example.org\n", "alice@example.org\r\nBcc: eve@example.net", strings.Repeat("a", 65) + "@example.org", "a@" + strings.Repeat("a.", 130) + "org",
		"include:/etc/passwd@example.org", "a;b@example.org", "a`b@example.org", "a$b@example.org",
	} {
		if err := CheckMail(a); !errors.Is(err, ErrRefused) {
			t.Errorf("%q: %v", a, err)
		}
	}
	for _, a := range []string{"alice@example.org", "Alice.B+x@Sub.Example.ORG", "root@localhost", "o'brien@example.org", "_x@a1.example", "a-b=c~d@example.org"} {
		if err := CheckMail(a); err != nil {
			t.Errorf("%q: %v", a, err)
		}
	}
}

func TestExitStatusSaysLaterOrNever(t *testing.T) {
	path, dir := script(t, `cat >/dev/null; echo "no such  user
here" >&2; exit "$(cat "$D/status")"`)
	s := newSender(t, Config{MailCommand: []string{path}, MailFrom: "vcn@example.com"})
	m := message()
	m.Mail = "alice@example.org"
	for status, never := range map[string]bool{"1": false, "64": true, "65": true, "67": true, "68": true, "69": false, "70": false, "71": false, "73": false, "75": false, "77": true, "78": true, "127": false} {
		if err := os.WriteFile(filepath.Join(dir, "status"), []byte(status), 0o600); err != nil {
			t.Fatal(err)
		}
		err := s.Send(t.Context(), m)
		if errors.Is(err, ErrRefused) != never || errors.Is(err, ErrLater) == never || !strings.Contains(err.Error(), "(no such user here)") {
			t.Errorf("status %s: %v", status, err)
		}
	}
	for name, command := range map[string]string{"missing": dir + "/none", "not executable": dir + "/status", "a directory": dir} {
		s := newSender(t, Config{MailCommand: []string{command}, MailFrom: "vcn@example.com"})
		if err := s.Send(t.Context(), m); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := newSender(t, Config{}).Send(t.Context(), m); !errors.Is(err, ErrRefused) {
		t.Errorf("no command: %v", err)
	}
}

func TestOutputOfTheCommandIsBoundedAndInputMayStayUnread(t *testing.T) {
	path, _ := script(t, `i=0; while [ $i -lt 2000 ]; do echo "0123456789012345678901234567890123456789"; i=$((i+1)); done; exit 75`)
	s := newSender(t, Config{MailCommand: []string{path}, MailFrom: "vcn@example.com"})
	m := message()
	m.Mail = "alice@example.org"
	if err := s.Send(t.Context(), m); !errors.Is(err, ErrLater) || len(err.Error()) < outputBytesMax/2 || len(err.Error()) > outputBytesMax+500 {
		t.Errorf("%v", err)
	}
	if err := run(t.Context(), []string{"/bin/true"}, make([]byte, 1<<20)); err != nil {
		t.Errorf("command that reads nothing: %v", err)
	}
}

// TestCommandThatHangsIsKilledWithAllItStarted: also one that ignores a polite request.
func TestCommandThatHangsIsKilledWithAllItStarted(t *testing.T) {
	path, dir := script(t, `trap '' TERM INT HUP
sleep 1000 & echo "$$ $!" >"$D/tmp"; mv "$D/tmp" "$D/pids"; wait; sleep 1000`)
	s := newSender(t, Config{MailCommand: []string{path}, MailFrom: "vcn@example.com"})
	m := message()
	m.Mail = "alice@example.org"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Send(ctx, m) }()
	var pids []string
	eventually(t, "the command runs", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "pids"))
		pids = strings.Fields(string(b))
		return err == nil
	})
	cancel()
	if err := <-done; !errors.Is(err, ErrLater) {
		t.Errorf("%v", err)
	}
	for _, p := range pids {
		eventually(t, p+" has ended", func() bool {
			b, err := os.ReadFile("/proc/" + p + "/stat")
			return err != nil || strings.Contains(string(b), ") Z ")
		})
	}
	if len(pids) != 2 {
		t.Errorf("processes %q", pids)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestTextIsCleanedAndCut(t *testing.T) {
	for in, want := range map[string]string{
		"a\r\nb\rc\td": "a\nb\nc\td", "\x1b[31mred\x07": "\uFFFD[31mred\uFFFD", "\xff": "\uFFFD", "a\u2028b": "a\nb",
		strings.Repeat("é", 3000): strings.Repeat("é", 2048) + "…", "x" + strings.Repeat("é", 3000): "x" + strings.Repeat("é", 2047) + "…",
	} {
		if got := cleanText(in); got != want {
			t.Errorf("%.20q: %.60q (%d bytes), want %d bytes", in, got, len(got), len(want))
		}
	}
}

func TestTimesAreShownInTheirZoneAndUTC(t *testing.T) {
	at := time.Date(2026, 7, 1, 22, 30, 0, 0, time.UTC)
	for zone, want := range map[string]string{
		"Europe/Berlin": "2026-07-02 00:30 CEST Europe/Berlin (2026-07-01 22:30 UTC)", "": "2026-07-01 22:30 UTC", "UTC": "2026-07-01 22:30 UTC",
		"Local": "2026-07-01 22:30 UTC", "Nowhere/Land": "2026-07-01 22:30 UTC", "../../etc/passwd": "2026-07-01 22:30 UTC",
	} {
		if got := showTime(at, zone); got != want {
			t.Errorf("%s: %q, want %q", zone, got, want)
		}
	}
}

func TestEncodedWordsInATextAreNotDecodedToSomethingElse(t *testing.T) {
	for _, s := range []string{"=?utf-8?q?no?=", "a =?utf-8?b?YQ==?= b", " a ", "plain", "", strings.Repeat("long ", 30), "雪" + strings.Repeat("x", 60)} {
		got, err := new(mime.WordDecoder).DecodeHeader(strings.ReplaceAll(encodeHeader(s, false), "\n", ""))
		if err != nil || got != s {
			t.Errorf("%q became %q: %v", s, got, err)
		}
	}
}
