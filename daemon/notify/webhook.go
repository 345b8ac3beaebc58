package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	urlBytesMax            = 2 << 10
	addressesMax           = 8 // of one name that are looked at
	responseHeaderBytesMax = 16 << 10
	responseBodyBytesMax   = 4 << 10
)

// target is a webhook's URL in parts.
type target struct {
	url   *url.URL
	host  string // lower case, without a last dot; or an address
	addr  netip.Addr
	port  string
	plain bool // http
}

// parseTarget accepts what the operator's list may accept. Errors quote nothing:
// a webhook's URL is often a secret.
func parseTarget(raw string) (target, error) {
	var t target
	refuse := func(why string) (target, error) { return t, fmt.Errorf("webhook URL %s: %w", why, ErrRefused) }
	if len(raw) > urlBytesMax {
		return refuse(fmt.Sprintf("has more than %d bytes", urlBytesMax))
	}
	if strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return refuse("has characters that need %-encoding (in a name: xn--)")
	}
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" || u.Host == "" {
		return refuse("is none")
	}
	t.plain = u.Scheme == "http"
	switch {
	case !t.plain && u.Scheme != "https":
		return refuse("is not https")
	case u.User != nil:
		return refuse("has a user in it")
	case u.Fragment != "" || u.RawFragment != "":
		return refuse("has a fragment")
	}
	t.host = strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if t.port = u.Port(); t.port == "" {
		t.port = "443"
		if t.plain {
			t.port = "80"
		}
	}
	if n, err := strconv.ParseUint(t.port, 10, 16); err != nil || n == 0 || strings.HasSuffix(u.Host, ":") {
		return refuse("has no usable port")
	}
	if a, err := netip.ParseAddr(t.host); err == nil {
		t.addr = a.Unmap()
	} else if !isName(t.host) {
		return refuse("has no usable host name")
	}
	// As it is sent in the Host header; a default port is left out.
	u.Host = net.JoinHostPort(t.host, t.port)
	if t.plain && t.port == "80" || !t.plain && t.port == "443" {
		u.Host = strings.TrimSuffix(u.Host, ":"+t.port)
	}
	t.url = u
	return t, nil
}

func (s *Sender) checkWebhook(raw string) error {
	_, err := s.target(raw)
	return err
}

// target checks what needs no look-up.
func (s *Sender) target(raw string) (target, error) {
	if s.cfg.WebhookDisabled {
		return target{}, fmt.Errorf("webhooks are off: %w", ErrRefused)
	}
	t, err := parseTarget(raw)
	if err != nil {
		return t, err
	}
	if t.addr.IsValid() {
		if err := s.policy.check(t.host, t.addr, t.plain); err != nil {
			return t, fmt.Errorf("webhook %s: %w", t.host, err)
		}
	} else if !strings.Contains(t.host, ".") && !s.policy.named(t.host) {
		return t, fmt.Errorf("webhook %s: not a full name, and not in the operator's list: %w", t.host, ErrRefused)
	}
	return t, nil
}

// addresses returns those of a target that may be dialled, at least one. It asks the
// resolver once: what it returns is what is dialled.
func (s *Sender) addresses(ctx context.Context, t target) ([]netip.Addr, error) {
	if t.addr.IsValid() {
		return []netip.Addr{t.addr}, nil // target has checked it
	}
	name := t.host
	if !s.policy.named(name) {
		name += "." // complete: the machine's search list is for the operator's names
	}
	all, err := s.cfg.Resolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		why := "failed"
		var dns *net.DNSError
		if errors.As(err, &dns) { // only the reason: the rest names our resolver
			why = dns.Err
		}
		s.cfg.Log.Debug("webhook look-up failed", "host", t.host, "error", err)
		return nil, fmt.Errorf("look up: %s: %w", why, ErrLater)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("look up: no address: %w", ErrLater)
	}
	var good []netip.Addr
	var refused error
	for _, a := range all[:min(len(all), addressesMax)] {
		if err := s.policy.check(t.host, a, t.plain); err != nil {
			s.cfg.Log.Debug("webhook address refused", "host", t.host, "address", a.String(), "error", err)
			refused = err
			continue
		}
		good = append(good, a.Unmap())
	}
	if len(good) == 0 {
		return nil, refused
	}
	return good, nil
}

// dial tries checked addresses one after another; each gets its share of the time left.
func (s *Sender) dial(ctx context.Context, addrs []netip.Addr, port string) (net.Conn, error) {
	var errs []error
	for i, a := range addrs {
		one, cancel := ctx, context.CancelFunc(func() {})
		if end, ok := ctx.Deadline(); ok {
			one, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(len(addrs)-i))
		}
		conn, err := s.cfg.Dialer.DialContext(one, "tcp", net.JoinHostPort(a.String(), port))
		cancel()
		if err == nil {
			return conn, nil
		}
		var op *net.OpError
		if errors.As(err, &op) && op.Err != nil {
			err = op.Err // without the address
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// post delivers to the webhook.
func (s *Sender) post(ctx context.Context, m Message) error {
	t, err := s.target(m.Webhook)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.HTTPTimeout)
	defer cancel()
	addrs, err := s.addresses(ctx, t)
	if err != nil {
		return fmt.Errorf("webhook %s: %w", t.host, err)
	}
	req, err := s.request(ctx, t, m)
	if err != nil {
		return fmt.Errorf("webhook %s: make request: %w: %w", t.host, err, ErrRefused)
	}
	tr := &http.Transport{
		Proxy:                  nil, // the environment's would be asked instead of what was checked
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return s.dial(ctx, addrs, t.port) },
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.cfg.RootCAs},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: responseHeaderBytesMax,
	}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req) // not a Client: no redirects, no cookies
	if err != nil {
		s.cfg.Log.Debug("webhook failed", "host", t.host, "error", err)
		return fmt.Errorf("webhook %s: %s: %w", t.host, reason(err), ErrLater)
	}
	defer resp.Body.Close()
	// The status is the answer; the body is read a little so that servers see no reset.
	_, _ = io.CopyN(io.Discard, resp.Body, responseBodyBytesMax)
	if err := verdict(resp); err != nil {
		return fmt.Errorf("webhook %s: %w", t.host, err)
	}
	return nil
}

// reason is what of an error is for who wrote the URL: no addresses, and nothing that
// the receiver said, or a webhook would be a way to read what listens somewhere.
func reason(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	if strings.Contains(err.Error(), "malformed") {
		return "the answer is not HTTP"
	}
	return clip(err.Error())
}

func (s *Sender) request(ctx context.Context, t target, m Message) (*http.Request, error) {
	b, err := m.json(s.cfg.Site)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url.String(), bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	stamp := strconv.FormatInt(s.cfg.Now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", s.agent)
	req.Header.Set("X-Vcn-Event", m.Kind)
	req.Header.Set("X-Vcn-Delivery", m.ID)
	req.Header.Set("X-Vcn-Timestamp", stamp)
	if key := s.cfg.Secret; len(key) > 0 {
		if s.cfg.SecretPerProject {
			key = []byte(ProjectKey(key, m.Project))
		}
		req.Header.Set("X-Vcn-Signature", signature(key, stamp, b))
	}
	return req, nil
}

func signature(key []byte, stamp string, body []byte) string {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(stamp + "."))
	h.Write(body)
	return "sha256=" + hex.EncodeToString(h.Sum(nil))
}

// notBefore is an error that says when to try again at the earliest.
type notBefore struct {
	error
	wait time.Duration
}

func (e notBefore) Unwrap() error { return e.error }

// verdict maps a status (RFC 9110) to delivered, later or never.
func verdict(resp *http.Response) error {
	switch c := resp.StatusCode; {
	case c >= 200 && c < 300:
		return nil
	case c >= 300 && c < 400:
		return fmt.Errorf("status %d: redirects are not followed: %w", c, ErrRefused)
	case c == 408 || c == 425 || c == 429 || c >= 500:
		err := fmt.Errorf("status %d: %w", c, ErrLater)
		if n, bad := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31); bad == nil {
			return notBefore{err, min(time.Duration(n)*time.Second, RetryMax)}
		}
		return err
	default:
		return fmt.Errorf("status %d: %w", c, ErrRefused)
	}
}
