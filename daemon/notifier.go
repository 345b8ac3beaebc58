package daemon

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"vcn/api"
	"vcn/daemon/control"
	"vcn/daemon/notify"
	"vcn/fsm"
)

// NotifyConfig is how owners are told what happens to their reservations. It is
// the same on every host, as any may lead.
type NotifyConfig struct {
	// MailCommand gets each mail on its stdin, without a shell, such as
	// [/usr/sbin/sendmail, -t, -i]; empty: no mail.
	MailCommand []string `json:"mailCommand,omitempty"`
	MailFrom    string   `json:"mailFrom,omitempty"`
	MailTimeout string   `json:"mailTimeout,omitempty"` // of one mail, 1s-5m; default 30s
	// WebhookAllow is what webhooks may reach although it is not public: names,
	// *.example.com, addresses, CIDRs.
	WebhookAllow    []string `json:"webhookAllow,omitempty"`
	WebhookDisabled bool     `json:"webhookDisabled,omitempty"`
	WebhookTimeout  string   `json:"webhookTimeout,omitempty"` // of one delivery, 1s-1m; default 10s
	WebhookCAFile   string   `json:"webhookCAFile,omitempty"`  // PEM; default: the system's
	// SecretFile holds the key of webhook signatures, at least 16 bytes. Each
	// project's is derived from it.
	SecretFile string `json:"secretFile,omitempty"`
	Site       string `json:"site,omitempty"` // names this installation; default vcn
}

const notifySecretBytesMax = 4096

// checkNotify checks what needs no file.
func (c *Config) checkNotify(bad func(field string, value any, want string)) {
	n := c.Notify
	if len(n.MailCommand) > 0 {
		if !filepath.IsAbs(n.MailCommand[0]) {
			bad("notify.mailCommand", n.MailCommand[0], "an absolute path first, such as /usr/sbin/sendmail")
		}
		if notify.CheckMail(n.MailFrom) != nil {
			bad("notify.mailFrom", n.MailFrom, "an address, because there is a mailCommand")
		}
	}
	for _, f := range []struct {
		name, value string
		most        time.Duration
	}{{"notify.mailTimeout", n.MailTimeout, 5 * time.Minute}, {"notify.webhookTimeout", n.WebhookTimeout, time.Minute}} {
		if d, err := api.ParseDuration(f.value); f.value != "" && (err != nil || d < time.Second || d > f.most) {
			bad(f.name, f.value, "1s to "+api.FormatDuration(f.most))
		}
	}
	for _, f := range []struct{ name, value string }{{"notify.webhookCAFile", n.WebhookCAFile}, {"notify.secretFile", n.SecretFile}} {
		if f.value != "" && !filepath.IsAbs(f.value) {
			bad(f.name, f.value, "an absolute path")
		}
	}
}

// notifier is a queue of messages as control knows it.
type notifier struct{ *notify.Queue }

// Tell takes a message.
func (n notifier) Tell(m control.Telling) error {
	err := n.Add(notify.Message{ID: m.ID, Kind: m.Kind, Time: m.Time, Reservation: m.Reservation, Name: m.Name, Project: m.Project,
		State: m.State, Text: m.Text, Start: m.Start, End: m.End, Zone: m.Zone, Webhook: m.Webhook, Mail: m.Mail})
	if errors.Is(err, notify.ErrRefused) {
		return errors.Join(control.ErrUntellable, err)
	}
	return err
}

// openNotifier reads the files that the configuration names.
func openNotifier(n NotifyConfig, state *fsm.FSM, log *slog.Logger) (*notify.Queue, error) {
	c := notify.Config{MailCommand: n.MailCommand, MailFrom: n.MailFrom, WebhookAllow: n.WebhookAllow, WebhookDisabled: n.WebhookDisabled,
		Site: n.Site, SecretPerProject: true, Log: log, Internal: func(a netip.Addr) bool { return ourAddress(state.View(), a) }}
	if c.Site == "" {
		c.Site = "vcn"
	}
	for _, f := range []struct {
		text string
		to   *time.Duration
	}{{n.MailTimeout, &c.MailTimeout}, {n.WebhookTimeout, &c.HTTPTimeout}} {
		if f.text != "" {
			d, err := api.ParseDuration(f.text)
			if err != nil {
				return nil, fmt.Errorf("read notify: %w", err)
			}
			*f.to = d
		}
	}
	if n.SecretFile != "" {
		b, err := os.ReadFile(n.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("read notify.secretFile: %w", err)
		}
		if len(b) > notifySecretBytesMax {
			return nil, fmt.Errorf("read notify.secretFile: it has %d bytes, want at most %d", len(b), notifySecretBytesMax)
		}
		c.Secret = b
	}
	if n.WebhookCAFile != "" {
		b, err := os.ReadFile(n.WebhookCAFile)
		if err != nil {
			return nil, fmt.Errorf("read notify.webhookCAFile: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("read notify.webhookCAFile: %s holds no certificate in PEM", n.WebhookCAFile)
		}
	}
	s, err := notify.New(c)
	if err != nil {
		return nil, fmt.Errorf("make notifier: %w", err)
	}
	return s.Queue(notify.QueueConfig{Settled: func(o notify.Outcome) {
		if o.Err != nil && !errors.Is(o.Err, notify.ErrDropped) {
			log.Warn("an owner was not told", "message", o.ID, "attempts", o.Attempts, "err", o.Err)
		}
	}})
}

// ourAddress is true of the installation's own addresses: owners' webhooks have
// no business there.
func ourAddress(v *fsm.View, a netip.Addr) bool {
	m, ok := v.Meta()
	if !ok {
		return true
	}
	if p, err := netip.ParsePrefix(m.Pools.Subnets); err == nil && p.Contains(a) {
		return true
	}
	if lo, err := netip.ParseAddr(m.Pools.PublicFirst); err == nil {
		if p, err := lo.Prefix(m.Pools.PublicBits); err == nil && p.Contains(a) {
			return true
		}
	}
	for _, h := range v.Hosts() {
		for _, at := range []string{h.Internal, h.API, h.Storage} {
			if ap, err := netip.ParseAddrPort(at); err == nil && ap.Addr() == a {
				return true
			}
		}
		if u, err := netip.ParseAddr(h.Underlay); err == nil && u == a {
			return true
		}
	}
	return false
}
