package targetd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"vcn/hostops"
)

const (
	callTimeout  = 2 * time.Minute // of a context without a deadline
	absentMax    = 15 * time.Second
	retryMin     = 20 * time.Millisecond
	retryMax     = 500 * time.Millisecond
	maxReplySize = 16 << 20
	// sun_path has 108 bytes with its NUL; ".new" is put behind it for a moment.
	maxSocketPath = 103
)

// Client drives a target process. It implements hostops.Targets and rides out
// a restart of the process.
type Client struct {
	socket string
	http   *http.Client
}

var _ hostops.Targets = (*Client)(nil)

// Dial makes a client of the target process behind a unix socket. It connects
// when it is first used, so the process need not run yet.
func Dial(socket string) (*Client, error) {
	if socket == "" || len(socket) > maxSocketPath {
		return nil, fmt.Errorf("dial target process: socket path of %d bytes: want 1-%d", len(socket), maxSocketPath)
	}
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		MaxIdleConns: 4, IdleConnTimeout: 30 * time.Second,
	}
	return &Client{socket: socket, http: &http.Client{Transport: t}}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Publish implements hostops.Targets.
func (c *Client) Publish(ctx context.Context, e hostops.Export) error {
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("publish volume %s: %w", e.Volume, err)
	}
	return c.call(ctx, http.MethodPut, "/v1/exports/"+url.PathEscape(e.Volume), b, nil)
}

// Withdraw implements hostops.Targets.
func (c *Client) Withdraw(ctx context.Context, volume string) error {
	return c.call(ctx, http.MethodDelete, "/v1/exports/"+url.PathEscape(volume), nil, nil)
}

// List implements hostops.Targets.
func (c *Client) List(ctx context.Context) ([]hostops.ExportStatus, error) {
	var l []hostops.ExportStatus
	if err := c.call(ctx, http.MethodGet, "/v1/exports", nil, &l); err != nil {
		return nil, err
	}
	return l, nil
}

// Resize implements hostops.Targets.
func (c *Client) Resize(ctx context.Context, volume string) error {
	return c.call(ctx, http.MethodPost, "/v1/exports/"+url.PathEscape(volume)+"/resize", nil, nil)
}

// Engine names the engine that serves and says why it is that one.
func (c *Client) Engine(ctx context.Context) (name, why string, err error) {
	var i engineInfo
	if err := c.call(ctx, http.MethodGet, "/v1/engine", nil, &i); err != nil {
		return "", "", err
	}
	return i.Name, i.Why, nil
}

// call repeats a request while the process is away: every call is idempotent.
func (c *Client) call(ctx context.Context, method, path string, body []byte, into any) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	giveUp := time.Now().Add(absentMax)
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		err := c.once(ctx, method, path, body, into)
		if err == nil || !away(err) || ctx.Err() != nil || time.Now().After(giveUp) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// away: nobody listens at the moment, or the process ended while it worked.
func away(err error) bool {
	for _, e := range []error{syscall.ECONNREFUSED, syscall.ENOENT, syscall.ECONNRESET, syscall.EPIPE, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (c *Client) once(ctx context.Context, method, path string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://target"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("call target process: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("call target process at %s: %w", c.socket, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReplySize))
	if err != nil {
		return fmt.Errorf("call target process at %s: %w", c.socket, err)
	}
	if resp.StatusCode != http.StatusOK {
		return remote(resp.StatusCode, b)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("read answer of target process: %w", err)
	}
	return nil
}

// remoteError is an error of the process with the identity it had there.
type remoteError struct {
	message string
	is      error
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.is }

func remote(status int, b []byte) error {
	var f failure
	if json.Unmarshal(b, &f) != nil || f.Message == "" {
		return fmt.Errorf("target process answered %d: %.200s", status, b)
	}
	for _, c := range codes {
		if c.code == f.Code {
			return &remoteError{f.Message, c.err}
		}
	}
	return errors.New(f.Message)
}
