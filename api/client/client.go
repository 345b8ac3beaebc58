package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"vcn/api"
)

// Bounds of one call.
const (
	// RetryForDefault is how long a call goes on trying when no host answers.
	RetryForDefault = 30 * time.Second

	dialTimeout       = 3 * time.Second
	attemptTimeout    = 20 * time.Second // one attempt of a call that does not wait
	longPollSlack     = 10 * time.Second // beyond what the server was asked to wait
	retryPauseMin     = 250 * time.Millisecond
	retryPauseMax     = 5 * time.Second
	hostsMax          = 100
	responseSizeMax   = 64 << 20 // bytes
	problemSizeMax    = 1 << 20  // bytes
	http2PingAfter    = 5 * time.Second
	http2PingTimeout  = 4 * time.Second
	idleConnTimeout   = 30 * time.Second
	connectionsPerKey = 16
)

var (
	// ErrUnavailable: no host answered within RetryFor. It wraps the last
	// failure.
	ErrUnavailable = errors.New("no host of the cluster answers")
	// ErrWrongCluster: the server's certificate is of another cluster of hosts
	// than the pinned CA or the token's fingerprint.
	ErrWrongCluster = errors.New("host of another cluster")
)

// Config says which cluster of hosts to speak to.
type Config struct {
	// Hosts are API addresses: https://10.0.0.1:7443 or 10.0.0.1:7443; 1-100.
	Hosts []string
	// CA is the cluster's CA certificate in PEM.
	CA []byte
	// Token is the bearer token's text. It may be empty for /healthz only.
	Token string
	// RetryFor bounds how long one call goes on when no host answers; 0 means
	// RetryForDefault. Waiting inside an answered long poll does not count.
	RetryFor time.Duration
	// OnRetry, if not nil, is told of each failed attempt.
	OnRetry func(host string, err error)
}

// Client is safe for concurrent use. Close it when done.
type Client struct {
	hosts    []string // scheme://host:port
	token    string
	retryFor time.Duration
	onRetry  func(string, error)
	http     *http.Client
	current  atomic.Int64 // index into hosts of the one that answered last
}

// New makes a client. It does not connect.
func New(cfg Config) (*Client, error) {
	if len(cfg.Hosts) == 0 || len(cfg.Hosts) > hostsMax {
		return nil, fmt.Errorf("make client: %d host addresses: want 1 to %d", len(cfg.Hosts), hostsMax)
	}
	c := &Client{token: strings.TrimSpace(cfg.Token), retryFor: cfg.RetryFor, onRetry: cfg.OnRetry}
	if c.retryFor == 0 {
		c.retryFor = RetryForDefault
	}
	for _, h := range cfg.Hosts {
		u, err := NormalizeHost(h)
		if err != nil {
			return nil, fmt.Errorf("make client: %w", err)
		}
		c.hosts = append(c.hosts, u)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(cfg.CA) {
		return nil, errors.New("make client: no CA certificate in PEM given to pin")
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSClientConfig:     pinned(pool),
			TLSHandshakeTimeout: 2 * dialTimeout,
			ForceAttemptHTTP2:   true,
			IdleConnTimeout:     idleConnTimeout,
			MaxConnsPerHost:     connectionsPerKey,
			HTTP2:               &http.HTTP2Config{SendPingTimeout: http2PingAfter, PingTimeout: http2PingTimeout},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Current is the address of the host that answered last, or of the first.
func (c *Client) Current() string { return c.hosts[c.current.Load()] }

// Hosts is the addresses in use, in their given order.
func (c *Client) Hosts() []string { return append([]string(nil), c.hosts...) }

// NormalizeHost makes https://host:port of an address. A port is required:
// hosts listen where their operator says.
func NormalizeHost(h string) (string, error) {
	text := strings.TrimSpace(h)
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return "", api.FieldError{Field: "host", Value: h, Want: "an address such as https://192.0.2.10:7443"}
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil || port < 1 || port > 65535 {
		return "", api.FieldError{Field: "host", Value: h, Want: "an address with a port, such as https://192.0.2.10:7443"}
	}
	return "https://" + u.Host, nil
}

// NewKey makes an idempotency key: 32 random hex digits.
func NewKey() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}

// call is one request to whichever host answers.
type call struct {
	method, path string
	query        url.Values
	body         any           // JSON, if not nil
	key          string        // idempotency key
	repeatable   bool          // may be sent again although it may have been taken
	wait         time.Duration // the server was asked to wait this long
	out          any           // JSON answer goes here, if not nil
}

// do runs a call until a host answers for good. It returns the answer's
// headers.
func (c *Client) do(ctx context.Context, k call) (http.Header, error) {
	var body []byte
	if k.body != nil {
		var err error
		if body, err = json.Marshal(k.body); err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
	}
	deadline := time.Now().Add(c.retryFor)
	pause := retryPauseMin
	for {
		round := failures{}
		for range c.hosts {
			i := c.current.Load()
			host := c.hosts[i]
			header, err := c.attempt(ctx, host, k, body)
			if err == nil || ctx.Err() != nil {
				return header, errOrCause(ctx, err)
			}
			next, again := round.add(err, k.repeatable)
			if !next {
				return nil, err
			}
			if c.onRetry != nil {
				c.onRetry(host, err)
			}
			// Only move on if no other call has done so meanwhile.
			c.current.CompareAndSwap(i, (i+1)%int64(len(c.hosts)))
			if !again || !time.Now().Before(deadline) {
				return nil, round.err(c.hosts)
			}
		}
		if round.hopeless() {
			return nil, round.err(c.hosts)
		}
		wait := min(max(pause, round.retryAfter), retryPauseMax)
		if time.Now().Add(wait).After(deadline) {
			return nil, round.err(c.hosts)
		}
		select {
		case <-ctx.Done():
			return nil, errOrCause(ctx, ctx.Err())
		case <-time.After(wait):
		}
		pause = min(pause*2, retryPauseMax)
	}
}

func errOrCause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// attempt sends the request to one host.
func (c *Client) attempt(ctx context.Context, host string, k call, body []byte) (http.Header, error) {
	timeout := attemptTimeout
	if k.wait > 0 {
		timeout = k.wait + longPollSlack
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, &connectError{host: host, err: fmt.Errorf("no answer within %s", timeout)})
	defer cancel()
	u := host + k.path
	if len(k.query) > 0 {
		u += "?" + k.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, k.method, u, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if k.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if k.key != "" {
		req.Header.Set(api.HeaderIdempotencyKey, k.key)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, asConnectError(ctx, host, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, readProblem(host, resp)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, responseSizeMax+1))
	if err != nil {
		return nil, asConnectError(ctx, host, err)
	}
	if len(data) > responseSizeMax {
		return nil, fmt.Errorf("read answer of %s: larger than %s", host, api.Quantity(responseSizeMax))
	}
	return resp.Header, decode(host, k, data)
}

func decode(host string, k call, data []byte) error {
	switch out := k.out.(type) {
	case nil:
		return nil
	case *string:
		*out = string(data)
		return nil
	}
	if err := json.Unmarshal(data, k.out); err != nil {
		return fmt.Errorf("read answer of %s to %s %s: %w", host, k.method, k.path, err)
	}
	return nil
}

func pinned(pool *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Names are not compared (see the package doc); the chain is, below.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return verifyChain(cs.PeerCertificates, pool)
		},
	}
}

// verifyChain checks that the leaf is a server certificate of a CA in pool.
func verifyChain(chain []*x509.Certificate, pool *x509.CertPool) error {
	if len(chain) == 0 {
		return errors.New("the server shows no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("%w: its certificate is not signed by the pinned CA", ErrWrongCluster)
	}
	return err
}
