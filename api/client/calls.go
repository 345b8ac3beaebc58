package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"vcn/api"
)

// WaitMax bounds what a long poll asks the server to wait.
const WaitMax = 5 * time.Minute

func (c *Client) get(ctx context.Context, path string, query url.Values, out any) (http.Header, error) {
	return c.do(ctx, call{method: http.MethodGet, path: path, query: query, repeatable: true, out: out})
}

func list[T any](ctx context.Context, c *Client, path string, query url.Values) ([]T, error) {
	var l api.List[T]
	_, err := c.get(ctx, path, query, &l)
	return l.Items, err
}

// Reserve books a specification. key is the idempotency key; empty makes a new
// one. Give the same key to repeat a call that was interrupted.
func (c *Client) Reserve(ctx context.Context, s api.Spec, key string) (api.Reservation, error) {
	if key == "" {
		key = NewKey()
	}
	var r api.Reservation
	_, err := c.do(ctx, call{method: http.MethodPost, path: api.PathReservations, body: s, key: key, repeatable: true, out: &r})
	return r, err
}

// DryRun answers what Reserve would book, and books nothing.
func (c *Client) DryRun(ctx context.Context, s api.Spec) (api.Plan, error) {
	var p api.Plan
	_, err := c.do(ctx, call{method: http.MethodPost, path: api.PathReservations, query: url.Values{"dryRun": {"true"}},
		body: s, repeatable: true, out: &p})
	return p, err
}

// Reservations lists the live ones, of one project if it is not empty; all
// adds those that are over.
func (c *Client) Reservations(ctx context.Context, project string, all bool) ([]api.Reservation, error) {
	q := url.Values{}
	if project != "" {
		q.Set("project", project)
	}
	if all {
		q.Set("all", "true")
	}
	return list[api.Reservation](ctx, c, api.PathReservations, q)
}

// Reservation gets one by id or name, and the index it reflects. With wait > 0
// the server holds the answer until something changes after index, or wait is
// over; wait is cut to WaitMax.
func (c *Client) Reservation(ctx context.Context, ref string, index uint64, wait time.Duration) (api.Reservation, uint64, error) {
	var r api.Reservation
	k := call{method: http.MethodGet, path: api.PathReservations + "/" + url.PathEscape(ref), repeatable: true, out: &r}
	k.longPoll("index", index, wait)
	h, err := c.do(ctx, k)
	return r, indexOf(h), err
}

// longPoll adds the waiting to a call.
func (k *call) longPoll(name string, index uint64, wait time.Duration) {
	if index > 0 || wait > 0 {
		k.query = url.Values{name: {strconv.FormatUint(index, 10)}}
	}
	if wait > 0 {
		k.wait = min(wait, WaitMax)
		k.query.Set("wait", k.wait.String())
	}
}

func indexOf(h http.Header) uint64 {
	n, _ := strconv.ParseUint(h.Get(api.HeaderIndex), 10, 64)
	return n
}

// Release ends a reservation early.
func (c *Client) Release(ctx context.Context, ref string) (api.Reservation, error) {
	var r api.Reservation
	_, err := c.do(ctx, call{method: http.MethodDelete, path: api.PathReservations + "/" + url.PathEscape(ref),
		repeatable: true, out: &r})
	return r, err
}

// Events lists events after an index, of one reservation if ref is not empty.
// With wait > 0 the server holds the answer until there is one.
func (c *Client) Events(ctx context.Context, ref string, after uint64, wait time.Duration) (api.EventList, error) {
	path := api.PathEvents
	if ref != "" {
		path = api.PathReservations + "/" + url.PathEscape(ref) + "/events"
	}
	var l api.EventList
	k := call{method: http.MethodGet, path: path, repeatable: true, out: &l}
	k.longPoll("after", after, wait)
	_, err := c.do(ctx, k)
	return l, err
}

// Status is the cluster of hosts at a glance.
func (c *Client) Status(ctx context.Context) (api.Status, error) {
	var s api.Status
	_, err := c.get(ctx, api.PathStatus, nil, &s)
	return s, err
}

// ListHosts lists the hosts of the cluster.
func (c *Client) ListHosts(ctx context.Context) ([]api.Host, error) {
	return list[api.Host](ctx, c, api.PathHosts, nil)
}

// ListLeases lists the held identifiers.
func (c *Client) ListLeases(ctx context.Context) ([]api.Lease, error) {
	return list[api.Lease](ctx, c, api.PathLeases, nil)
}

// ListImages lists the images that are known.
func (c *Client) ListImages(ctx context.Context) ([]api.Image, error) {
	return list[api.Image](ctx, c, api.PathImages, nil)
}

// BuildImages asks that images exist and answers those, built or not.
func (c *Client) BuildImages(ctx context.Context, r api.ImageRequest) ([]api.Image, error) {
	var l api.List[api.Image]
	_, err := c.do(ctx, call{method: http.MethodPost, path: api.PathImages, body: r, key: NewKey(), repeatable: true, out: &l})
	return l.Items, err
}

// ListRolls lists the rolls that may be asked for.
func (c *Client) ListRolls(ctx context.Context) ([]api.Roll, error) {
	return list[api.Roll](ctx, c, api.PathRolls, nil)
}

// ListTokens lists the tokens, without secrets.
func (c *Client) ListTokens(ctx context.Context) ([]api.Token, error) {
	return list[api.Token](ctx, c, api.PathTokens, nil)
}

// CreateToken makes a token; its Secret is shown this once. It is not repeated
// once it may have been taken, as a second token would be left over.
func (c *Client) CreateToken(ctx context.Context, r api.TokenRequest) (api.Token, error) {
	var t api.Token
	_, err := c.do(ctx, call{method: http.MethodPost, path: api.PathTokens, body: r, key: NewKey(), out: &t})
	return t, err
}

// RevokeToken makes a token worthless.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	_, err := c.do(ctx, call{method: http.MethodDelete, path: api.PathTokens + "/" + url.PathEscape(id), repeatable: true})
	return err
}

// Join makes a host a member; the client's token must be a join token. The
// answer is the same for a repeated request but for a new certificate.
func (c *Client) Join(ctx context.Context, r api.JoinRequest) (api.JoinResponse, error) {
	var j api.JoinResponse
	_, err := c.do(ctx, call{method: http.MethodPost, path: api.PathJoin, body: r, key: NewKey(), repeatable: true, out: &j})
	return j, err
}

// Health asks whether a host can serve; an error says why not.
func (c *Client) Health(ctx context.Context) (string, error) {
	var text string
	_, err := c.do(ctx, call{method: http.MethodGet, path: api.PathHealth, repeatable: true, out: &text})
	return text, err
}
