package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds and defaults of Config.
const (
	HTTPTimeoutDefault = 10 * time.Second
	HTTPTimeoutMax     = time.Minute
	MailTimeoutDefault = 30 * time.Second
	MailTimeoutMax     = 5 * time.Minute
	TimeoutMin         = time.Second
	SecretBytesMin     = 16

	siteBytesMax     = 64
	allowEntriesMax  = 256
	commandWordsMax  = 64
	commandBytesMax  = 4 << 10
	projectKeyPrefix = "vcn webhook key\x00"
)

// What became of a message that was not delivered. ErrRefused and ErrLater are
// wrapped by what Send returns, the others by what a Queue reports.
var (
	// ErrRefused: trying again would not help.
	ErrRefused = errors.New("refused")
	// ErrLater: it may work later.
	ErrLater = errors.New("not delivered yet")
	// ErrGaveUp: it did not work for GiveUpAfter.
	ErrGaveUp = errors.New("gave up")
	// ErrDropped: there was no room for it.
	ErrDropped = errors.New("dropped")
)

// Resolver finds the addresses of a name; *net.Resolver does.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Dialer connects to an address, which is never a name; *net.Dialer does.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Config is what a Sender needs.
type Config struct {
	// MailCommand gets the whole message on its stdin. Its first word is an absolute
	// path; no shell is used. Empty: no mail.
	MailCommand []string
	// MailFrom is the sender's address; needed with MailCommand.
	MailFrom string
	// WebhookAllow is what may be reached although it is not public, and by http: names,
	// "*.example.com" (every name below it), addresses, CIDRs; at most 256.
	WebhookAllow []string
	// WebhookDisabled refuses every webhook.
	WebhookDisabled bool
	// HTTPTimeout is for one webhook in whole, 1 s … 1 min; 0: 10 s.
	HTTPTimeout time.Duration
	// MailTimeout is for one run of the command, 1 s … 5 min; 0: 30 s.
	MailTimeout time.Duration
	// Site names the installation in From, Subject and User-Agent, 1-64 bytes.
	Site string
	// Secret is the key of webhook signatures, at least 16 bytes; empty: none are made.
	Secret []byte
	// SecretPerProject signs with ProjectKey(Secret, project) instead.
	SecretPerProject bool
	// RootCAs verify receivers; nil: the system's.
	RootCAs *x509.CertPool
	// Internal tells whether an address is one of the installation's own (hosts,
	// cluster networks), to be refused although it is public; called at each delivery,
	// from several goroutines. May be nil.
	Internal func(netip.Addr) bool

	Log      *slog.Logger     // nil: slog.Default
	Now      func() time.Time // of signatures and dates; nil: time.Now
	Resolver Resolver         // nil: net.DefaultResolver
	Dialer   Dialer           // nil: a net.Dialer
}

// Sender delivers messages, one try each. It has no goroutines of its own and
// may be used by several.
type Sender struct {
	cfg    Config
	policy policy
	domain string // of MailFrom, for Message-ID
	agent  string // User-Agent
}

// New checks a configuration and returns its Sender. An error names the field.
func New(c Config) (*Sender, error) {
	s := &Sender{cfg: c}
	err := s.complete()
	if err != nil {
		return nil, fmt.Errorf("check notify configuration: %w", err)
	}
	return s, nil
}

func (s *Sender) complete() error {
	c := &s.cfg
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	if c.Dialer == nil {
		c.Dialer = &net.Dialer{}
	}
	if err := timeout("HTTPTimeout", &c.HTTPTimeout, HTTPTimeoutDefault, HTTPTimeoutMax); err != nil {
		return err
	}
	if err := timeout("MailTimeout", &c.MailTimeout, MailTimeoutDefault, MailTimeoutMax); err != nil {
		return err
	}
	if c.Site == "" || len(c.Site) > siteBytesMax || !utf8.ValidString(c.Site) || hasControl(c.Site) {
		return fmt.Errorf("field Site: %q: want 1-%d bytes of text without control characters", c.Site, siteBytesMax)
	}
	if n := len(c.Secret); n > 0 && n < SecretBytesMin {
		return fmt.Errorf("field Secret: has %d bytes: want at least %d, or none", n, SecretBytesMin)
	}
	if err := s.checkMail(); err != nil {
		return err
	}
	s.agent = "vcn (" + asciiWord(c.Site) + ")"
	var err error
	s.policy, err = newPolicy(c.WebhookAllow, c.Internal)
	return err
}

func timeout(name string, d *time.Duration, def, most time.Duration) error {
	if *d == 0 {
		*d = def
	}
	if *d < TimeoutMin || *d > most {
		return fmt.Errorf("%s: %s: want %s-%s, or nothing for %s", name, *d, TimeoutMin, most, def)
	}
	return nil
}

func (s *Sender) checkMail() error {
	c := &s.cfg
	if len(c.MailCommand) == 0 {
		return nil
	}
	size := 0
	for _, w := range c.MailCommand {
		size += len(w) + 1
		if strings.ContainsRune(w, 0) {
			return fmt.Errorf("MailCommand: %q: has a zero byte", w)
		}
	}
	if len(c.MailCommand) > commandWordsMax || size > commandBytesMax {
		return fmt.Errorf("MailCommand: %d words, %d bytes: want at most %d and %d", len(c.MailCommand), size, commandWordsMax, commandBytesMax)
	}
	if !filepath.IsAbs(c.MailCommand[0]) {
		return fmt.Errorf("MailCommand: %q: want an absolute path first, such as /usr/sbin/sendmail", c.MailCommand[0])
	}
	if err := CheckMail(c.MailFrom); err != nil {
		return fmt.Errorf("MailFrom: %w", err)
	}
	_, s.domain, _ = strings.Cut(c.MailFrom, "@")
	return nil
}

// asciiWord is what of a text may stand in a comment of a User-Agent.
func asciiWord(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= ' ' && r <= '~' && !strings.ContainsRune(`()\"`, r) {
			return r
		}
		return '_'
	}, s)
}

// ProjectKey is the key that a project's webhooks are signed with under
// SecretPerProject: 64 hex digits, to be used as they are. It tells nothing of
// secret nor of other projects' keys.
func ProjectKey(secret []byte, project string) string {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(projectKeyPrefix + project))
	return hex.EncodeToString(h.Sum(nil))
}
