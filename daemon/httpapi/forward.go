package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"vcn/api"
)

// Bounds of forwarding.
const (
	// BodyBytesMax bounds the body of any request.
	BodyBytesMax = 1 << 20
	// DefaultLeaderWait is how long a request is held while nobody leads.
	DefaultLeaderWait = 5 * time.Second

	bodyTimeMax       = 30 * time.Second      // longest time a request's body may take to come
	leaderPollEvery   = 25 * time.Millisecond // pace of looking for a leader while a request is held
	forwardRetryEvery = 50 * time.Millisecond // pace of asking again after a leader was lost
	waitSecondsMax    = 60                    // longest long poll
	forwardAnswerMax  = 90 * time.Second      // longest time for one forwarded request: a full long poll and slack
	headerNotLeader   = "X-Vcn-Not-Leader"    // a forwarded request was refused before anything was done
	forwardedBytesMax = 64 << 20              // longest answer that is passed on
	queuedRequestsMax = 1024                  // requests served at once on one listener; more are answered 503

	assignmentPollsMax = 4096 // hosts that wait for their assignment at one peer
)

// errNotLeader: the host asked does not lead; nothing was done.
var errNotLeader = errors.New("that host does not lead")

// route decides who answers a /v1 request that came from outside: this host if
// it leads, else the leader, else (GETs, at a Raft peer) this host's own state.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	// Only another host may say that a request was forwarded, and that comes in
	// on the internal listener.
	r.Header.Del(api.HeaderForwarded)
	r.Header.Del(headerSender)
	answerHeaders(w.Header())
	body, err := readBody(w, r, BodyBytesMax)
	if err != nil {
		writeProblem(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), forwardAnswerMax)
	defer cancel()
	deadline := time.Now().Add(s.cfg.LeaderWait)
	unknown := false // a mutation was sent and its answer lost
	for {
		leader, ok := s.awaitLeader(ctx, deadline)
		if !ok {
			break
		}
		if leader == s.cfg.HostID {
			s.serveLocal(w, withBody(r, body))
			return
		}
		begin := time.Now()
		sent, err := s.forward(ctx, w, r, body, leader)
		if err == nil {
			return
		}
		if sent { // what the leader took, as in a long poll, is not waiting for one
			deadline = deadline.Add(time.Since(begin))
		}
		s.cfg.Log.Debug("forward request", "leader", leader, "path", r.URL.Path, "err", err)
		if sent && !repeatable(r) {
			unknown = true
			break
		}
		if time.Now().After(deadline) || !pause(ctx, forwardRetryEvery) {
			break
		}
	}
	switch {
	case unknown:
		text := "the leader was lost before it answered; the request may or may not have been carried out. Look before you repeat it"
		if keepsKeys(r) {
			text += "; with an Idempotency-Key repeating is safe"
		}
		writeProblem(w, outcomeUnknown(text))
	case r.Method == http.MethodGet && s.cfg.Cluster.IsPeer():
		w.Header().Set(api.HeaderStale, "true")
		s.serveLocal(w, withBody(r, body))
	default:
		writeProblem(w, noLeader(fmt.Sprintf("no host leads now (waited %v)", s.cfg.LeaderWait)))
	}
}

// awaitLeader returns the leader's host id, waiting for one until deadline.
func (s *Server) awaitLeader(ctx context.Context, deadline time.Time) (string, bool) {
	for {
		if s.cfg.Cluster.IsLeader() {
			return s.cfg.HostID, true
		}
		// A host that knows itself as leader but is not (any more, or not yet)
		// ready to serve waits like any other.
		if id, _, ok := s.cfg.Cluster.Leader(); ok && id != s.cfg.HostID {
			return id, true
		}
		if !time.Now().Before(deadline) || !pause(ctx, leaderPollEvery) {
			return "", false
		}
	}
}

// forward sends the whole request to the leader and copies the answer. sent is
// true when the leader may have acted on it.
func (s *Server) forward(ctx context.Context, w http.ResponseWriter, r *http.Request, body []byte, leader string) (sent bool, err error) {
	out, err := http.NewRequestWithContext(ctx, r.Method, "https://"+leader+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return false, fmt.Errorf("make request: %w", err)
	}
	for _, h := range []string{"Authorization", "Content-Type", "Accept", api.HeaderIdempotencyKey, headerSender} {
		if v := r.Header.Values(h); len(v) > 0 {
			out.Header[http.CanonicalHeaderKey(h)] = v
		}
	}
	out.Header.Set(api.HeaderForwarded, s.cfg.HostID)
	out.Header.Set(headerRemote, r.RemoteAddr)
	res, err := s.cfg.Cluster.HTTPClient(leader).Do(out)
	if err != nil {
		// The text of a url.Error has the whole address in it, and with it the
		// key of a feed.
		var in *url.Error
		if errors.As(err, &in) {
			err = in.Err
		}
		return !neverSent(err), fmt.Errorf("ask %s: %w", leader, err)
	}
	defer res.Body.Close()
	if res.Header.Get(headerNotLeader) != "" {
		return false, fmt.Errorf("ask %s: %w", leader, errNotLeader)
	}
	// The answer is read whole before its first byte is passed on, so that a
	// leader lost half-way is a clean retry and not a torn body.
	answer, err := io.ReadAll(io.LimitReader(res.Body, forwardedBytesMax))
	if err != nil {
		return true, fmt.Errorf("read answer of %s: %w", leader, err)
	}
	for _, h := range []string{"Content-Type", "Retry-After", "WWW-Authenticate", "Allow", "Cache-Control", api.HeaderIndex, api.HeaderStale, "Location"} {
		if v := res.Header.Values(h); len(v) > 0 {
			w.Header()[http.CanonicalHeaderKey(h)] = v
		}
	}
	w.WriteHeader(res.StatusCode)
	w.Write(answer)
	return true, nil
}

// answerHeaders sets what every answer of /v1 carries: some have secrets in them,
// of which no copy is to be kept, and the address of a feed is a secret by itself,
// which is to be told to nobody.
func answerHeaders(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
}

// repeatable tells whether a request may be sent twice, the second time to
// another leader. Keys that only the process of the lost leader knew (see
// replies) do not help there.
func repeatable(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodDelete, http.MethodPut:
		return true
	}
	if strings.HasSuffix(r.URL.Path, "/park") && strings.HasPrefix(r.URL.Path, api.PathReservations+"/") {
		return true // what is parked is not parked again
	}
	return r.URL.Query().Get("dryRun") == "true" || keepsKeys(r) && r.Header.Get(api.HeaderIdempotencyKey) != ""
}

// keepsKeys tells whether the replicated state remembers a request by its key.
func keepsKeys(r *http.Request) bool {
	return r.Method == http.MethodPost && (r.URL.Path == api.PathReservations ||
		strings.HasPrefix(r.URL.Path, api.PathReservations+"/") && strings.HasSuffix(r.URL.Path, "/resume"))
}

// neverSent tells errors of connecting from errors after it.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// serveForwarded answers a request another host forwarded. It never forwards
// again.
func (s *Server) serveForwarded(w http.ResponseWriter, r *http.Request) {
	peer, ok := s.cfg.PeerHost(r)
	if !ok || r.Header.Get(api.HeaderForwarded) != peer {
		writeProblem(w, newProblem(http.StatusForbidden, api.CodeForbidden,
			"only hosts of this cluster forward requests, and each only in its own name", "use the host's API address"))
		return
	}
	if !s.cfg.Cluster.IsLeader() {
		w.Header().Set(headerNotLeader, "true")
		writeProblem(w, noLeader("this host does not lead, and a request is forwarded only once"))
		return
	}
	body, err := readBody(w, r, BodyBytesMax)
	if err != nil {
		writeProblem(w, err)
		return
	}
	r.RemoteAddr = r.Header.Get(headerRemote)
	s.serveLocal(w, withBody(r, body))
}

// readBody reads a whole request body, at most bytesMax bytes of it, within
// bodyTimeMax: who dribbles would hold a slot for ever.
func readBody(w http.ResponseWriter, r *http.Request, bytesMax int64) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	ctl := http.NewResponseController(w)
	if err := ctl.SetReadDeadline(time.Now().Add(bodyTimeMax)); err == nil {
		// What follows may take longer: a long poll is held, and reading on is how
		// the end of the connection is noticed.
		defer ctl.SetReadDeadline(time.Time{})
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bytesMax))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, newProblem(http.StatusRequestEntityTooLarge, api.CodeTooLarge,
			fmt.Sprintf("the request's body is over %d bytes", bytesMax), "send less: large content belongs into rolls")
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.Header().Set("Connection", "close") // the rest of the body is no request
		return nil, newProblem(http.StatusRequestTimeout, api.CodeInvalid,
			fmt.Sprintf("the request's body did not come within %v", bodyTimeMax), "send it again")
	case err != nil:
		return nil, newProblem(http.StatusBadRequest, api.CodeInvalid, "the request's body ended early", "send it again")
	}
	return body, nil
}

func withBody(r *http.Request, body []byte) *http.Request {
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	return r
}

// pause waits d; false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
