package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"vcn/api"
	"vcn/fsm"
)

// freshMax is how long a peer may not have heard from its leader and still
// hand out assignments. An agent of a cut-off peer keeps the last one it got.
const freshMax = 5 * time.Second

// errStale: this host is outside the Raft group, or cut off from its leader.
var errStale = errors.New("this host's state is not fresh")

// Fresh tells whether this host's own state is good enough for agents.
func (s *Server) Fresh() bool {
	ago, ok := s.cfg.Cluster.LastContact()
	return ok && ago <= freshMax
}

// Assignment waits until the version of the host's assignment is above after,
// or wait has passed, and returns the assignment as it is then.
//
// With after 0 the asker knows nothing yet, and would take an old state for the
// truth and remove what it does not name. A peer that has just started has an
// old state and does not know it: heartbeats do not say how far the log is. So
// only the leader answers that, at once, after a barrier. Later ones may come
// from any peer, since versions only rise and the agent takes no lower one.
func (s *Server) Assignment(ctx context.Context, host string, after uint64, wait time.Duration) (fsm.Assignment, error) {
	ctx, cancel := context.WithTimeout(ctx, min(max(wait, time.Second), waitSecondsMax*time.Second))
	defer cancel()
	if after == 0 {
		if err := s.cfg.Cluster.Barrier(ctx); err != nil {
			return fsm.Assignment{}, fmt.Errorf("%w: %w", errStale, err)
		}
		return s.cfg.State.View().AssignmentFor(host), nil
	}
	if !s.Fresh() {
		return fsm.Assignment{}, errStale
	}
	v := s.cfg.State.WatchHost(ctx, host, after)
	// A host that is cut off while it waits must not call its old state new.
	if !s.Fresh() {
		return fsm.Assignment{}, errStale
	}
	return v.AssignmentFor(host), nil
}

// peer returns the authenticated host that sends an internal request.
func (s *Server) peer(w http.ResponseWriter, r *http.Request) (string, bool) {
	id, ok := s.cfg.PeerHost(r)
	if !ok {
		writeProblem(w, newProblem(http.StatusForbidden, api.CodeForbidden, "this is for hosts of the cluster, by their certificate", ""))
	}
	return id, ok
}

func (s *Server) serveAssignment(w http.ResponseWriter, r *http.Request) {
	host, ok := s.peer(w, r)
	if !ok {
		return
	}
	q := r.URL.Query()
	after, err := strconv.ParseUint(q.Get("index"), 10, 64)
	if err != nil && q.Get("index") != "" {
		writeProblem(w, api.Invalid("one field is wrong", []api.FieldError{{Field: "index", Value: q.Get("index"), Want: "a whole number"}}))
		return
	}
	wait, err := WaitIn{q.Get("wait")}.duration()
	if err != nil {
		writeProblem(w, err)
		return
	}
	a, err := s.Assignment(r.Context(), host, after, wait)
	if err != nil {
		w.Header().Set(headerNotLeader, "true")
		writeProblem(w, noLeader(err.Error()+"; ask another Raft peer"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set(api.HeaderIndex, strconv.FormatUint(a.Index, 10))
	if err := json.NewEncoder(w).Encode(a); err != nil {
		s.cfg.Log.Debug("send assignment", "host", host, "err", err)
	}
}

func (s *Server) serveReport(w http.ResponseWriter, r *http.Request) {
	var in fsm.HostReport
	s.serveAgent(w, r, &in, func(ctx context.Context, sender string) error {
		if in.Host != sender {
			return foreign(sender, in.Host)
		}
		return s.cfg.Control.Report(ctx, in)
	})
}

func (s *Server) serveRegister(w http.ResponseWriter, r *http.Request) {
	var in fsm.HostRegister
	s.serveAgent(w, r, &in, func(ctx context.Context, sender string) error {
		if in.Host.ID != sender {
			return foreign(sender, in.Host.ID)
		}
		return s.cfg.Control.RegisterHost(ctx, in.Host)
	})
}

func foreign(sender, named string) *api.Problem {
	return newProblem(http.StatusForbidden, api.CodeForbidden,
		fmt.Sprintf("host %s may not speak for host %.64s", sender, named), "")
}

// serveAgent takes what an agent tells: here if this host leads, else at the
// leader, one hop on.
func (s *Server) serveAgent(w http.ResponseWriter, r *http.Request, in any, do func(ctx context.Context, sender string) error) {
	peer, ok := s.peer(w, r)
	if !ok {
		return
	}
	body, err := readBody(w, r, reportBytesMax)
	if err != nil {
		writeProblem(w, err)
		return
	}
	if err := json.Unmarshal(body, in); err != nil {
		writeProblem(w, api.Invalid("the body cannot be read: "+err.Error(), nil))
		return
	}
	// A host that passes on a request vouches for its sender: every member is
	// known by its certificate, and is trusted as far as that.
	sender := peer
	forwarded := r.Header.Get(api.HeaderForwarded)
	if forwarded != "" {
		if forwarded != peer {
			writeProblem(w, foreign(peer, forwarded))
			return
		}
		sender = r.Header.Get(headerSender)
	}
	if s.cfg.Cluster.IsLeader() {
		if err := do(r.Context(), sender); err != nil {
			p := asProblem(err)
			if p.Code == api.CodeInternal {
				s.cfg.Log.Error("agent's request failed", "path", r.URL.Path, "host", sender, "err", err)
			}
			writeProblem(w, p)
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if forwarded != "" {
		w.Header().Set(headerNotLeader, "true")
		writeProblem(w, noLeader("this host does not lead, and a request is forwarded only once"))
		return
	}
	s.passOn(w, r, body, sender)
}

// headerSender names the host whose report or registration another passes on.
const headerSender = "X-Vcn-Sender"

// reportBytesMax bounds a report: fsm.ObjectsMax objects are some 16 MiB.
const reportBytesMax = 16 << 20

// passOn hands an agent's request to the leader. The agent itself repeats it
// when that fails, so nothing is held here.
func (s *Server) passOn(w http.ResponseWriter, r *http.Request, body []byte, sender string) {
	leader, _, ok := s.cfg.Cluster.Leader()
	if !ok || leader == s.cfg.HostID {
		writeProblem(w, noLeader("no host leads now"))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), forwardAnswerMax)
	defer cancel()
	r = r.Clone(ctx)
	r.Header.Set(headerSender, sender)
	if _, err := s.forward(ctx, w, r, body, leader); err != nil {
		writeProblem(w, noLeader("the leader could not be asked: "+err.Error()))
	}
}
