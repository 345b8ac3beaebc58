package agentclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"vcn/fsm"
)

// The internal routes.
const (
	PathAssignment = "/internal/assignment" // GET ?index=N&wait=30s: fsm.Assignment
	PathReport     = "/internal/report"     // POST fsm.HostReport: 204
	PathRegister   = "/internal/register"   // POST fsm.HostRegister: 204
)

// Bounds.
const (
	DefaultWait = 30 * time.Second // long poll of an assignment

	answerBytesMax  = 64 << 20
	requestTimeMax  = 10 * time.Second // of reports and registrations, and slack of a long poll
	backoffFirst    = 100 * time.Millisecond
	backoffMax      = 3 * time.Second
	refusalBytesMax = 4 << 10
)

// ErrRefused: the peer understood and will not do it; repeating is no use.
var ErrRefused = errors.New("refused")

// Peers finds Raft peers and connects to them.
type Peers interface {
	// Leader returns the leader's host id and internal address.
	Leader() (hostID, addr string, ok bool)
	// HTTPClient returns a client whose every connection goes to that host.
	HTTPClient(hostID string) *http.Client
}

// Local is this host's own replicated state, where it is a Raft peer.
type Local interface {
	// Fresh tells whether this host is a peer that hears from its leader.
	Fresh() bool
	// Assignment is what the internal route answers.
	Assignment(ctx context.Context, host string, after uint64, wait time.Duration) (fsm.Assignment, error)
}

// Config is what New needs.
type Config struct {
	Host  string // this host's id
	Peers Peers
	// RaftPeers returns the host ids of the Raft peers that are known and alive.
	RaftPeers func() []string
	Local     Local         // nil at a host that is never a peer
	Wait      time.Duration // of a long poll; default DefaultWait
	Log       *slog.Logger
}

// Client is an agent's way to the replicated state. It may be used by many
// goroutines.
type Client struct{ cfg Config }

// New makes a client.
func New(cfg Config) *Client {
	if cfg.Wait <= 0 {
		cfg.Wait = DefaultWait
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{cfg}
}

// Assignment returns what this host has to hold, as soon as its version is
// above after, or as it is when the long poll has ended. With after 0 the leader
// itself answers at once. It tries until ctx ends.
func (c *Client) Assignment(ctx context.Context, after uint64) (fsm.Assignment, error) {
	var a fsm.Assignment
	err := c.retry(ctx, "get assignment", func(ctx context.Context, peer string) error {
		if peer == c.cfg.Host && after > 0 {
			var err error
			a, err = c.cfg.Local.Assignment(ctx, c.cfg.Host, after, c.cfg.Wait)
			return err
		}
		url := "https://" + peer + PathAssignment + "?index=" + strconv.FormatUint(after, 10) + "&wait=" + c.cfg.Wait.String()
		ctx, cancel := context.WithTimeout(ctx, c.cfg.Wait+requestTimeMax)
		defer cancel()
		a = fsm.Assignment{}
		return c.do(ctx, peer, http.MethodGet, url, nil, &a)
	}, after > 0)
	if err == nil && a.Host != c.cfg.Host {
		return fsm.Assignment{}, fmt.Errorf("get assignment: it is of host %q: %w", a.Host, ErrRefused)
	}
	return a, err
}

// Report hands the host's account to the leader. It tries until ctx ends.
func (c *Client) Report(ctx context.Context, r fsm.HostReport) error {
	return c.post(ctx, "report", PathReport, r)
}

// Register makes the host known, or updates it. It tries until ctx ends.
func (c *Client) Register(ctx context.Context, h fsm.HostRegister) error {
	return c.post(ctx, "register host", PathRegister, h)
}

func (c *Client) post(ctx context.Context, what, path string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return c.retry(ctx, what, func(ctx context.Context, peer string) error {
		ctx, cancel := context.WithTimeout(ctx, requestTimeMax)
		defer cancel()
		return c.do(ctx, peer, http.MethodPost, "https://"+peer+path, body, nil)
	}, false)
}

// candidates are the peers to ask, best first. Where reads may be answered from
// this host's own state, it comes first if that is fresh, and not at all if not.
func (c *Client) candidates(local bool) []string {
	var ids []string
	own := c.cfg.Local != nil && c.cfg.Local.Fresh()
	if local && own {
		ids = append(ids, c.cfg.Host)
	}
	if id, _, ok := c.cfg.Peers.Leader(); ok {
		ids = append(ids, id)
	}
	if c.cfg.RaftPeers != nil {
		ids = append(ids, c.cfg.RaftPeers()...)
	}
	var out []string
	for _, id := range ids {
		if slices.Contains(out, id) || local && !own && id == c.cfg.Host {
			continue
		}
		out = append(out, id)
	}
	return out
}

func (c *Client) retry(ctx context.Context, what string, f func(context.Context, string) error, local bool) error {
	backoff := backoffFirst
	for {
		err := errors.New("no Raft peer is known")
		for _, peer := range c.candidates(local) {
			if err = f(ctx, peer); err == nil {
				return nil
			}
			if errors.Is(err, ErrRefused) {
				return fmt.Errorf("%s at %s: %w", what, peer, err)
			}
			if ctx.Err() != nil {
				break
			}
			c.cfg.Log.Debug("peer failed", "what", what, "peer", peer, "err", err)
		}
		t := time.NewTimer(backoff/2 + rand.N(backoff))
		select {
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%s: %w (last: %w)", what, context.Cause(ctx), err)
		case <-t.C:
		}
		backoff = min(2*backoff, backoffMax)
	}
}

func (c *Client) do(ctx context.Context, peer, method, url string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.cfg.Peers.HTTPClient(peer).Do(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", peer, err)
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		return refusal(res)
	}
	if out == nil {
		io.Copy(io.Discard, io.LimitReader(res.Body, refusalBytesMax))
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, answerBytesMax)).Decode(out); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

func refusal(res *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(res.Body, refusalBytesMax))
	var p struct{ Detail string }
	if json.Unmarshal(text, &p) == nil && p.Detail != "" {
		text = []byte(p.Detail)
	}
	switch c := res.StatusCode; {
	case c == http.StatusRequestTimeout, c == http.StatusMisdirectedRequest, c == http.StatusTooManyRequests, c >= 500:
		return fmt.Errorf("answer %s: %s", res.Status, bytes.TrimSpace(text))
	}
	return fmt.Errorf("answer %s: %s: %w", res.Status, bytes.TrimSpace(text), ErrRefused)
}
