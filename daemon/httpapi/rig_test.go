package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vcn/api"
	"vcn/daemon/control/controltest"
	"vcn/daemon/httpapi"
)

// world is some hosts' servers in one process: they find each other through
// it, without sockets, so that virtual time works. Host 0 has the state.
type world struct {
	t      *testing.T
	rig    *controltest.Rig
	mu     sync.Mutex
	leader string
	hosts  map[string]*host
	log    bytes.Buffer
}

// host is one host's sight of the world.
type host struct {
	w      *world
	id     string
	peer   bool
	server *httpapi.Server
	broken func(*http.Request) error // of its internal listener
	ago    time.Duration             // since it heard from the leader
}

func newWorld(t *testing.T, o controltest.Options, hosts int) *world {
	t.Helper()
	w := &world{t: t, hosts: map[string]*host{}, leader: controltest.HostID(0)}
	w.rig = controltest.New(t, o)
	for i := range hosts {
		w.add(controltest.HostID(i), w.rig, i < 2)
	}
	return w
}

// add makes a server on the state of rig.
func (w *world) add(id string, rig *controltest.Rig, peer bool) *host {
	h := &host{w: w, id: id, peer: peer}
	s, err := httpapi.New(httpapi.Config{
		HostID: id, HostName: "name-of-" + id, Version: "test", State: rig.FSM, Control: rig.Control, Cluster: h,
		PeerHost: func(r *http.Request) (string, bool) {
			p, ok := r.Context().Value(peerKey{}).(string)
			return p, ok
		},
		Registry: prometheus.NewRegistry(),
		Log:      slog.New(slog.NewTextHandler(&lockedWriter{w: w}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	h.server = s
	w.hosts[id] = h
	return h
}

type lockedWriter struct{ w *world }

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.w.log.Write(b)
}

type peerKey struct{}

func (w *world) setLeader(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leader = id
}

func (h *host) Barrier(context.Context) error {
	if !h.IsLeader() {
		return errors.New("does not lead")
	}
	return nil
}
func (h *host) IsLeader() bool { h.w.mu.Lock(); defer h.w.mu.Unlock(); return h.w.leader == h.id }
func (h *host) IsPeer() bool   { return h.peer }
func (h *host) Leader() (string, string, bool) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	return h.w.leader, "addr", h.w.leader != ""
}
func (h *host) LastContact() (time.Duration, bool) { return h.ago, h.peer }
func (h *host) Members() []httpapi.Member {
	var out []httpapi.Member
	for id := range h.w.hosts {
		out = append(out, httpapi.Member{HostID: id, Status: "alive", Raft: "voter"})
	}
	return out
}

// HTTPClient goes to another host's internal handler, as this host.
func (h *host) HTTPClient(id string) *http.Client {
	return &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		to := h.w.hosts[id]
		if to == nil {
			return nil, fmt.Errorf("no host %q", id)
		}
		if to.broken != nil {
			if err := to.broken(r); err != nil {
				return nil, err
			}
		}
		in := r.Clone(context.WithValue(r.Context(), peerKey{}, h.id))
		in.RequestURI, in.RemoteAddr = r.URL.RequestURI(), "10.9.0.1:1"
		if in.Body == nil {
			in.Body = http.NoBody
		}
		rec := httptest.NewRecorder()
		to.server.Internal().ServeHTTP(rec, in)
		return rec.Result(), nil
	})}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answer is what a host's public API said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) problem(t *testing.T) api.Problem {
	t.Helper()
	var p api.Problem
	if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
		t.Fatalf("answer %d has type %q: %s; want application/problem+json", a.status, ct, a.body)
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatalf("answer %d: %v: %s", a.status, err, a.body)
	}
	if p.Status != a.status || p.Code == "" || p.Detail == "" {
		t.Errorf("problem is %+v with status %d, want the same status, a code and a detail", p, a.status)
	}
	return p
}

func decode[T any](t *testing.T, a answer, status int) T {
	t.Helper()
	var v T
	if a.status != status {
		t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	return v
}

// ask sends a request to a host's public API. body may be a string, or
// anything that becomes JSON.
func (w *world) ask(hostID, token, method, path string, body any, header ...string) answer {
	w.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		j, err := json.Marshal(b)
		if err != nil {
			w.t.Fatal(err)
		}
		r = bytes.NewReader(j)
	}
	req := httptest.NewRequest(method, path, r)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.hosts[hostID].server.Public().ServeHTTP(rec, req)
	return answer{rec.Code, rec.Header(), rec.Body.Bytes()}
}

// op asks host 0 with the operator's token.
func (w *world) op(method, path string, body any, header ...string) answer {
	w.t.Helper()
	return w.ask(controltest.HostID(0), w.rig.Operator, method, path, body, header...)
}

// token makes a token through the API.
func (w *world) token(kind api.TokenKind, project string) api.Token {
	w.t.Helper()
	return decode[api.Token](w.t, w.op("POST", api.PathTokens, api.TokenRequest{Kind: kind, Project: project}), 201)
}

// unchanged runs f and fails if any command was applied meanwhile.
func (w *world) unchanged(f func()) {
	w.t.Helper()
	before := w.rig.Applier.Index()
	f()
	if after := w.rig.Applier.Index(); after != before {
		w.t.Errorf("%d commands were applied, want none", after-before)
	}
}

func (w *world) reserve(spec api.Spec) api.Reservation {
	w.t.Helper()
	return decode[api.Reservation](w.t, w.op("POST", api.PathReservations, spec), 201)
}

// brokenForever is a listener that nobody reaches.
func brokenForever(*http.Request) error {
	return &net.OpError{Op: "dial", Err: errors.New("no route to host")}
}
