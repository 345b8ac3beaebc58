package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// web is the internal HTTP: server side on our listener, client side by host id.
type web struct {
	server    *http.Server
	transport *http.Transport
	handler   atomic.Pointer[http.Handler]
}

func (n *Node) newWeb() *web {
	w := &web{}
	mux := http.NewServeMux()
	n.routes(mux)
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		h := w.handler.Load()
		if h == nil {
			rw.Header().Set("Retry-After", "1")
			http.Error(rw, "starting", http.StatusServiceUnavailable)
			return
		}
		(*h).ServeHTTP(rw, r)
	})
	h2 := &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second}
	w.server = &http.Server{
		Handler:           requirePeer(mux),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		HTTP2:             h2,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	w.transport = &http.Transport{
		ForceAttemptHTTP2:   true,
		HTTP2:               h2,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			hostID, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return n.dialHost(ctx, hostID, protoHTTP2, protoHTTP1)
		},
	}
	return w
}

func (w *web) serve(l net.Listener, log *slog.Logger) {
	if err := w.server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		log.Error("internal HTTP stopped", "err", err)
	}
}

// requirePeer is the belt to the handshake's braces.
func requirePeer(h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if _, ok := PeerHost(r); !ok {
			http.Error(rw, "no host certificate", http.StatusForbidden)
			return
		}
		h.ServeHTTP(rw, r)
	})
}

// PeerHost is the authenticated id of the host that sent an internal request.
func PeerHost(r *http.Request) (hostID string, ok bool) { return peerOf(r.TLS) }

// ServeHTTP sets the handler of internal requests; before that they get 503.
// Paths under /_cluster/ belong to this package.
func (n *Node) ServeHTTP(h http.Handler) { n.web.handler.Store(&h) }

// hostTripper sends every request to one host, whatever the URL's host says.
type hostTripper struct {
	hostID string
	base   http.RoundTripper
}

func (t hostTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	r2 := *r
	r2.URL = new(url.URL)
	*r2.URL = *r.URL
	r2.URL.Scheme, r2.URL.Host = "https", t.hostID
	return t.base.RoundTrip(&r2)
}

// HTTPClient speaks to one host's internal handler, over connections pinned to
// its id: request any https URL, its host part is ignored. It has no timeout of its own:
// give requests a context. Redirects are not followed. Connections are shared
// by all clients of the node and end with it.
func (n *Node) HTTPClient(hostID string) *http.Client {
	return &http.Client{
		Transport:     hostTripper{hostID: hostID, base: n.web.transport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// DialContext opens a TLS connection to a host's listener, pinned to its id,
// with ALPN http/1.1. Errors: ErrUnknownHost, ErrWrongHost, ErrWrongCluster.
func (n *Node) DialContext(ctx context.Context, hostID string) (net.Conn, error) {
	return n.dialHost(ctx, hostID, protoHTTP1)
}

func (n *Node) dialHost(ctx context.Context, hostID string, protos ...string) (net.Conn, error) {
	addr, err := n.addressOf(hostID)
	if err != nil {
		return nil, err
	}
	conn, err := n.dial(ctx, hostID, addr, protos...)
	if err != nil {
		return nil, err // not conn: a nil *tls.Conn is no nil net.Conn
	}
	return conn, nil
}
