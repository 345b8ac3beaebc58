package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// The package's own requests between hosts, JSON under /_cluster/. Every one is
// made by an authenticated host of this cluster.
//
//	POST raft/start   leader → host: run Raft of this group, empty if you have nothing
//	POST raft/stop    leader → host: I think you are out; the host asks back before it believes it
//	GET  raft/member  host → leader: am I in the configuration? Answered only with a quorum's consent
//	GET  raft/stats   leader → peer: how far are you
//	POST raft/leave   peer → leader: take me out
type startRequest struct {
	Group string `json:"group"`
}

type leaveRequest struct {
	Seq uint64 `json:"seq"` // of the last advert
}

type memberReply struct {
	Member bool `json:"member"`
}

type statsReply struct {
	LastContactMS int64  `json:"lastContactMs"` // -1: never
	LastTerm      uint64 `json:"lastTerm"`
	LastIndex     uint64 `json:"lastIndex"`
}

type empty struct{}

func (n *Node) routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /_cluster/raft/start", handle(n.onStart))
	mux.HandleFunc("POST /_cluster/raft/stop", handle(n.onStop))
	mux.HandleFunc("GET /_cluster/raft/member", handle(n.onMember))
	mux.HandleFunc("GET /_cluster/raft/stats", handle(n.onStats))
	mux.HandleFunc("POST /_cluster/raft/leave", handle(n.onLeave))
	mux.HandleFunc("/_cluster/", http.NotFound)
}

// handle decodes, calls and encodes.
func handle[In, Out any](f func(ctx context.Context, peer string, in In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		peer, _ := PeerHost(r) // requirePeer has seen to it
		var in In
		if r.Method == http.MethodPost {
			if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, internalBodyMax)).Decode(&in); err != nil {
				http.Error(w, "body: "+err.Error(), http.StatusBadRequest)
				return
			}
		}
		out, err := f(r.Context(), peer, in)
		switch {
		case errors.Is(err, ErrNotLeader), errors.Is(err, ErrNoLeader), errors.Is(err, ErrShutdown), errors.Is(err, ErrOutcomeUnknown):
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case err != nil:
			http.Error(w, err.Error(), http.StatusConflict)
		default:
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(out) // the peer sees a broken body as its own error
		}
	}
}

// ask makes one request to one host.
func ask[Out any](ctx context.Context, n *Node, hostID, method, path string, in any) (Out, error) {
	var out Out
	body, err := json.Marshal(in)
	if err != nil {
		return out, fmt.Errorf("ask host %s: %w", hostID, err)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+hostID+"/_cluster/"+path, bytes.NewReader(body))
	if err != nil {
		return out, fmt.Errorf("ask host %s: %w", hostID, err)
	}
	resp, err := n.HTTPClient(hostID).Do(req)
	if err != nil {
		return out, fmt.Errorf("ask host %s: %w", hostID, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, internalBodyMax))
	if err != nil {
		return out, fmt.Errorf("ask host %s: %w", hostID, err)
	}
	if resp.StatusCode != http.StatusOK {
		return out, fmt.Errorf("ask host %s %s: %s: %w", hostID, path, strings.TrimSpace(string(b)), ErrRefused)
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, fmt.Errorf("ask host %s %s: %w", hostID, path, err)
	}
	return out, nil
}

func (n *Node) askStart(ctx context.Context, hostID string, id groupID) error {
	_, err := ask[empty](ctx, n, hostID, http.MethodPost, "raft/start", startRequest{Group: id.String()})
	return err
}

func (n *Node) askStop(ctx context.Context, hostID string) error {
	_, err := ask[empty](ctx, n, hostID, http.MethodPost, "raft/stop", empty{})
	return err
}

func (n *Node) onStart(_ context.Context, peer string, in startRequest) (empty, error) {
	id, err := parseGroupID(in.Group)
	if err != nil {
		return empty{}, err
	}
	n.groupMu.Lock()
	defer n.groupMu.Unlock()
	switch g := n.group.Load(); {
	case n.closing():
		return empty{}, ErrShutdown
	case n.leaving.Load() || n.cfg.NeverPeer:
		return empty{}, fmt.Errorf("start raft: this host is not to be a peer: %w", ErrRefused)
	case g != nil && g.id == id:
		return empty{}, nil
	case g != nil:
		return empty{}, fmt.Errorf("start raft: this host is in group %v: %w", g.id, ErrRefused)
	}
	n.log.Info("asked to join the raft group", "by", peer, "group", id)
	return empty{}, n.startGroup(&id, false)
}

// onStop sets Raft aside if the leader, asked back, confirms with a quorum
// that we are out. The lock is held throughout, and a leader adds a host only after
// raft/start has gone through the same lock: an old order cannot stop a host that is in again.
func (n *Node) onStop(ctx context.Context, peer string, _ empty) (empty, error) {
	n.groupMu.Lock()
	defer n.groupMu.Unlock()
	g := n.group.Load()
	if g == nil {
		return empty{}, nil
	}
	if g.raft.State() == raft.Leader {
		return empty{}, fmt.Errorf("stop raft: this host leads: %w", ErrRefused)
	}
	ctx, cancel := context.WithTimeout(ctx, rpcTime)
	defer cancel()
	reply, err := ask[memberReply](ctx, n, peer, http.MethodGet, "raft/member", nil)
	if err != nil {
		return empty{}, fmt.Errorf("stop raft: %w", err)
	}
	if reply.Member {
		return empty{}, fmt.Errorf("stop raft: this host is in the group: %w", ErrRefused)
	}
	n.log.Info("removed from the raft group, a follower again", "by", peer)
	return empty{}, n.abandonGroup()
}

// abandonGroup stops Raft and sets its data aside; groupMu is held.
func (n *Node) abandonGroup() error {
	return errors.Join(n.stopGroup(), n.storage.SetAside())
}

func (n *Node) onMember(ctx context.Context, peer string, _ empty) (memberReply, error) {
	if err := n.VerifyLeader(ctx); err != nil {
		return memberReply{}, err
	}
	g, err := n.leading()
	if err != nil {
		return memberReply{}, err
	}
	for _, s := range g.servers() {
		if string(s.ID) == peer {
			return memberReply{Member: true}, nil
		}
	}
	return memberReply{}, nil
}

func (n *Node) onStats(context.Context, string, empty) (statsReply, error) {
	g := n.group.Load()
	if g == nil {
		return statsReply{}, ErrNotPeer
	}
	return g.stats()
}

func (g *group) stats() (statsReply, error) {
	st := g.raft.Stats()
	term, err := strconv.ParseUint(st["last_log_term"], 10, 64)
	if err != nil {
		return statsReply{}, fmt.Errorf("read raft stats: %w", err)
	}
	out := statsReply{LastTerm: term, LastIndex: g.raft.LastIndex(), LastContactMS: -1}
	if g.raft.State() == raft.Leader {
		out.LastContactMS = 0
	} else if at := g.raft.LastContact(); !at.IsZero() {
		out.LastContactMS = time.Since(at).Milliseconds()
	}
	return out, nil
}

func (n *Node) fetchStats(ctx context.Context, hostID string) (statsReply, error) {
	if hostID == n.cfg.HostID {
		return n.onStats(ctx, hostID, empty{})
	}
	return ask[statsReply](ctx, n, hostID, http.MethodGet, "raft/stats", nil)
}

func (n *Node) onLeave(ctx context.Context, peer string, in leaveRequest) (empty, error) {
	return empty{}, n.expel(ctx, peer, in.Seq)
}
