package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"vcn/api"
	"vcn/daemon/httpapi/agentclient"
	"vcn/fsm"
)

// headerRemote carries the first asker's address to the leader.
const headerRemote = "X-Vcn-Remote"

// State is the replicated state of this host: up to date at the leader, a
// little behind at other peers, empty at hosts outside the Raft group.
type State interface {
	View() *fsm.View
	WatchIndex(ctx context.Context, after uint64) uint64
	WatchReservation(ctx context.Context, id string, after uint64) *fsm.View
	WatchHost(ctx context.Context, host string, after uint64) *fsm.View
}

// Control is what only the leader does. Errors are *api.Problem where the
// asker can do something about them.
type Control interface {
	Reserve(ctx context.Context, spec api.Spec, project, owner, key string) (*fsm.Reservation, error)
	DryRun(ctx context.Context, spec api.Spec, project string) (api.Plan, error)
	Release(ctx context.Context, id, by string) (*fsm.Reservation, error)
	ReserveWait(ctx context.Context, spec api.Spec, waitFor, project, owner, key string) (*fsm.Reservation, error)
	ReserveSeries(ctx context.Context, spec api.Spec, partial, dryRun bool, project, owner, key string) (api.SeriesResult, *fsm.Series, error)
	ChangeSeries(ctx context.Context, id string, ch api.Change, dryRun bool, by string, sees func(string) bool) (api.SeriesResult, error)
	CancelSeries(ctx context.Context, id, by string) error
	Offers(ctx context.Context, req api.OfferRequest, project, owner string) (api.OfferList, error)
	Offer(id string) (api.Offer, error)
	ReleaseOffer(ctx context.Context, id string) error
	TakeOffer(ctx context.Context, id, name, project, owner, key string) (*fsm.Reservation, error)
	Change(ctx context.Context, id string, ch api.Change, by, lossOf string, sees func(string) bool) (*fsm.Reservation, error)
	PlanChange(id string, ch api.Change, sees func(string) bool) (api.ChangePlan, error)
	Park(ctx context.Context, id string, req api.ParkRequest, by string) (*fsm.Reservation, error)
	Resume(ctx context.Context, id string, slot api.Slot, key string) (*fsm.Reservation, error)
	PlanResume(id string, slot api.Slot) (api.Plan, error)
	Explain(id string, sees func(string) bool) (api.Explanation, error)
	Calendar(from, until time.Time, project string, sees func(string) bool) (api.Calendar, error)
	CalendarSlots(from, until time.Time, project string, sees func(string) bool) []api.CalendarSlot
	CreateFeed(ctx context.Context, req api.FeedRequest, project, by string) (api.Feed, error)
	Policy() api.Policy
	SetPolicy(ctx context.Context, p api.Policy) error
	CreateToken(ctx context.Context, req api.TokenRequest, by string) (api.Token, error)
	RevokeToken(ctx context.Context, id string) error
	WantImages(ctx context.Context, req api.ImageRequest) ([]string, error)
	SignJoin(ctx context.Context, req api.JoinRequest, remote string) (api.JoinResponse, error)
	RegisterHost(ctx context.Context, h fsm.Host) error
	Report(ctx context.Context, r fsm.HostReport) error
	// Rolls lists the rolls this host knows.
	Rolls() []api.Roll
	// HostKey is the public ssh host key of a node, to pin; empty if there is none.
	HostKey(r fsm.Reservation, node string) string
	// Health says why what it does cannot go well on this host; nil for nothing.
	Health() error
}

// Cluster is this host's sight of the other hosts.
type Cluster interface {
	// IsLeader is true while this host leads and its state has caught up.
	IsLeader() bool
	// IsPeer is true when this host is in the Raft group, so that it has state.
	IsPeer() bool
	// Barrier returns nil once this host, leading, has applied everything that
	// was committed before the call; an error anywhere else.
	Barrier(ctx context.Context) error
	// Leader is who leads as far as this host knows.
	Leader() (hostID, addr string, ok bool)
	// LastContact is how long ago this peer heard from the leader (0 at the leader).
	LastContact() (ago time.Duration, ok bool)
	// HTTPClient connects to another host's internal listener, whatever the
	// host in the URL says.
	HTTPClient(hostID string) *http.Client
	// Members lists the hosts as gossip sees them.
	Members() []Member
}

// Member is a host as gossip sees it.
type Member struct {
	HostID string
	Status string // alive, suspect, dead, left
	Raft   string // leader, voter, spare, follower
	Images []string
}

// Config is what New needs.
type Config struct {
	HostID, HostName, Version string

	State   State
	Control Control
	Cluster Cluster
	// PeerHost is the authenticated host id of who sent an internal request.
	PeerHost func(*http.Request) (hostID string, ok bool)
	// Health says why this host cannot serve, beside the want of a leader; nil
	// for nothing more to say.
	Health func() error
	// Registry is shown at /metrics; this package adds its own to it.
	Registry *prometheus.Registry
	// LeaderWait is how long a request is held while nobody leads; 0 for
	// DefaultLeaderWait.
	LeaderWait time.Duration
	Log        *slog.Logger
}

// Server answers the public API and the internal one.
type Server struct {
	cfg      Config
	api      huma.API
	local    *http.ServeMux // the /v1 operations, on this host's state
	public   http.Handler
	internal http.Handler
	docs     []byte
	openapi  []byte
	replies  replies
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// New makes a server. It starts nothing.
func New(cfg Config) (*Server, error) {
	installErrors()
	if cfg.LeaderWait <= 0 {
		cfg.LeaderWait = DefaultLeaderWait
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Registry == nil {
		cfg.Registry = prometheus.NewRegistry()
	}
	s := &Server{cfg: cfg, local: http.NewServeMux()}
	if err := s.registerMetrics(); err != nil {
		return nil, err
	}
	s.api = humago.New(s.local, apiConfig(cfg.Version))
	s.api.UseMiddleware(s.guard)
	s.registerOperations()
	s.local.HandleFunc("/", s.noRoute)
	var err error
	if s.openapi, err = json.MarshalIndent(s.api.OpenAPI(), "", " "); err != nil {
		return nil, fmt.Errorf("encode OpenAPI document: %w", err)
	}
	if s.docs, err = renderDocs(s.api.OpenAPI()); err != nil {
		return nil, err
	}
	s.public, s.internal = s.publicMux(), s.internalMux()
	return s, nil
}

// Public is the handler of the public API's TLS listener.
func (s *Server) Public() http.Handler { return s.public }

// Internal is the handler of the mTLS listener: the agents' routes, and what
// other hosts forward. The caller adds its own routes beside it.
func (s *Server) Internal() http.Handler { return s.internal }

// OpenAPI is the OpenAPI 3.1 document, in JSON.
func (s *Server) OpenAPI() []byte { return s.openapi }

func (s *Server) publicMux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/", s.route)
	mux.HandleFunc("GET "+api.PathHealth, s.serveHealth)
	mux.Handle("GET "+api.PathMetric, promhttp.HandlerFor(s.cfg.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET "+api.PathDocs, s.serveDocs)
	mux.HandleFunc("GET /openapi.json", s.serveOpenAPI)
	mux.HandleFunc("/", s.noRoute)
	return s.bounded(mux)
}

func (s *Server) internalMux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/", s.serveForwarded)
	mux.HandleFunc("GET "+agentclient.PathAssignment, s.serveAssignment)
	mux.HandleFunc("POST "+agentclient.PathReport, s.serveReport)
	mux.HandleFunc("POST "+agentclient.PathRegister, s.serveRegister)
	mux.HandleFunc("/", s.noRoute)
	return s.bounded(mux)
}

// serveLocal answers a /v1 request from this host's own state.
func (s *Server) serveLocal(w http.ResponseWriter, r *http.Request) {
	s.local.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), remoteKey{}, r.RemoteAddr)))
}

// bounded counts requests, bounds how many are served at once, and turns a
// panic into an answer. Each listener has its own bound: whatever the public does,
// the hosts reach each other. So have the polls for assignments, of which every
// host holds one all the time.
func (s *Server) bounded(next http.Handler) http.Handler {
	requests, polls := make(chan struct{}, queuedRequestsMax), make(chan struct{}, assignmentPollsMax)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		begin := time.Now()
		defer func() {
			if v := recover(); v != nil {
				if v == http.ErrAbortHandler {
					panic(v)
				}
				s.cfg.Log.Error("panic in a request", "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
				if rec.status == 0 {
					writeProblem(rec, errors.New("panic"))
				}
			}
			s.observe(r, rec.status, time.Since(begin))
		}()
		slots := requests
		if r.URL.Path == agentclient.PathAssignment {
			slots = polls
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			w.Header().Set("Retry-After", fmt.Sprint(retryAfterSeconds))
			writeProblem(rec, newProblem(http.StatusServiceUnavailable, api.CodeInternal,
				fmt.Sprintf("this host serves %d requests already", cap(slots)), "try again in a moment, or ask another host"))
			return
		}
		next.ServeHTTP(rec, r)
	})
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// methods are those that routes take.
var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// noRoute answers for paths and methods there are not.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/" && r.Method == http.MethodGet {
		http.Redirect(w, r, api.PathDocs, http.StatusFound)
		return
	}
	for _, m := range methods {
		probe := r.Clone(r.Context())
		probe.Method = m
		if _, pattern := s.local.Handler(probe); pattern != "/" && pattern != "" && m != r.Method {
			w.Header().Add("Allow", m)
		}
	}
	if allow := w.Header().Values("Allow"); len(allow) > 0 {
		writeProblem(w, newProblem(http.StatusMethodNotAllowed, api.CodeInvalid,
			fmt.Sprintf("%s does not take %s", r.URL.Path, r.Method), fmt.Sprintf("it takes %v; see /docs", allow)))
		return
	}
	writeProblem(w, newProblem(http.StatusNotFound, api.CodeNotFound, "there is no "+r.URL.Path, "see /docs for what there is"))
}

// serveHealth says whether this host can serve: it knows a leader, and nothing
// else is wrong with it.
func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	checks := []func() error{s.cfg.Control.Health}
	if s.cfg.Health != nil {
		checks = append(checks, s.cfg.Health)
	}
	for _, check := range checks {
		if err := check(); err != nil {
			writeProblem(w, newProblem(http.StatusServiceUnavailable, api.CodeInternal, err.Error(), ""))
			return
		}
	}
	if _, _, ok := s.cfg.Cluster.Leader(); !ok && !s.cfg.Cluster.IsLeader() {
		writeProblem(w, noLeader("no host leads now"))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, "ok")
}

// writeProblem answers with err: as it is if it is a problem, else as an
// internal error whose text stays in the log.
func writeProblem(w http.ResponseWriter, err error) {
	p := asProblem(err)
	h := w.Header()
	for k, vs := range problemHeaders(p) {
		h[k] = vs
	}
	h.Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

// asProblem finds the problem in err.
func asProblem(err error) *api.Problem {
	var p *api.Problem
	if errors.As(err, &p) {
		q := *p
		if q.Status == 0 {
			q.Status = http.StatusInternalServerError
		}
		if q.Title == "" {
			q.Title = http.StatusText(q.Status)
		}
		return &q
	}
	return newProblem(http.StatusInternalServerError, api.CodeInternal, "something went wrong inside vcnd",
		"the host's log says more (journalctl -u vcnd); if it is repeatable, it is a bug")
}
