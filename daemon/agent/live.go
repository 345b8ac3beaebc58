package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"vcn/fsm"
	"vcn/hostops"
	"vcn/internal/durable"
)

// liveFile, among a node's files, says which configuration the node was last
// given: with its seed, or while it ran.
const liveFile = "live.json"

// savedMax bounds how many of the owner's files are named in a node's message.
const savedMax = 8

// liveState is the content of liveFile.
type liveState struct {
	// Cluster is the clusterSum of what it was made from. While that stands
	// nothing has to be rendered to know that nothing has changed.
	Cluster string `json:"cluster"`
	// Tar is the digest of the live part; empty if it is not known.
	Tar string `json:"tar,omitempty"`
	// Trying is the digest of one that was pushed and has not succeeded.
	Trying string `json:"trying,omitempty"`
	// Saved are the copies of what the owner had edited and that was replaced.
	Saved []string `json:"saved,omitempty"`
}

// message says what the node's owner should know of the last update.
func (l liveState) message() string {
	if len(l.Saved) == 0 {
		return ""
	}
	return "files its owner had edited were replaced when the cluster changed, and kept as " + strings.Join(l.Saved, ", ")
}

// clusterSum names all that a cluster's seeds are rendered from, empty if that
// cannot be read.
func clusterSum(c fsm.ClusterWork) string {
	data, err := clusterData(c)
	if err != nil {
		return ""
	}
	return digest([]any{data, c.Rolls})
}

// clusterSums are those of an assignment, made once: they hash every secret.
func clusterSums(as fsm.Assignment) map[string]string {
	sums := make(map[string]string, len(as.Clusters))
	for id, c := range as.Clusters {
		sums[id] = clusterSum(c)
	}
	return sums
}

// readLive returns nil if the node's files say nothing of its configuration: it
// was started by a release that did not keep it.
func readLive(dir string) (*liveState, error) {
	b, err := os.ReadFile(filepath.Join(dir, liveFile))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration of node: %w", err)
	}
	var l liveState
	if json.Unmarshal(b, &l) != nil {
		return &liveState{}, nil // damaged: pushing once more does no harm
	}
	return &l, nil
}

func writeLive(dir string, l liveState) error {
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("encode configuration of node: %w", err)
	}
	return durable.WriteFile(filepath.Join(dir, liveFile), b, 0o600)
}

// diffLive adds to a ready node's action what brings its live files up to date.
// The node stays ready meanwhile.
func diffLive(in diffInput, n fsm.NodeWork, act *action) {
	want := in.sums[n.Reservation]
	if want == "" || !in.answers(n) {
		return
	}
	have := in.seen.lives[nodeKey(n.Reservation, n.Node)]
	switch {
	case have == nil:
		act.what, act.run = "note configuration", noteLive(n, want)
	case have.Cluster != want:
		act.what, act.pool = "update configuration to "+want, guestSteps
		act.run = pushLive(n, in.assign.Clusters[n.Reservation], in.seen.images[n.ImageDigest], *have)
		act.object.Message = "updating its configuration"
	default:
		act.object.Message = have.message()
	}
}

// noteLive takes a node of an older release as up to date: nothing in it could
// take an update.
func noteLive(n fsm.NodeWork, sum string) runFunc {
	return func(_ context.Context, a *Agent, _ func(string)) error {
		dir, _ := a.nodeFiles(n.Reservation, n.Node)
		return writeLive(dir, liveState{Cluster: sum})
	}
}

// pushLive writes the live files of the present assignment into a running node.
func pushLive(n fsm.NodeWork, c fsm.ClusterWork, image hostops.Image, have liveState) runFunc {
	return func(ctx context.Context, a *Agent, _ func(string)) error {
		fail := func(err error) error { return fmt.Errorf("update configuration of node %s: %w", n.Node, err) }
		dir, _ := a.nodeFiles(n.Reservation, n.Node)
		made, err := a.render(n, c, image)
		if err != nil {
			return fail(err)
		}
		now := made.state
		if now.Tar == have.Tar && have.Trying == "" {
			now.Saved = have.Saved // what has changed concerns no live file
			return writeLive(dir, now)
		}
		if have.Trying == now.Tar {
			now.Saved = have.Saved
		}
		// First, and without a cluster's sum: should the cluster return to what it was
		// before, that is pushed as well, whatever came of this one.
		tries := liveState{Tar: have.Tar, Trying: now.Tar, Saved: now.Saved}
		if err := writeLive(dir, tries); err != nil {
			return fail(err)
		}
		out, err := a.inGuest(ctx, n, made.live, liveProgram, now.Tar)
		now.Saved = addSaved(now.Saved, out)
		if err != nil {
			tries.Saved = now.Saved
			return fail(errors.Join(err, writeLive(dir, tries)))
		}
		for _, s := range now.Saved {
			a.log.Warn("replaced what the owner had edited", "object", nodeKey(n.Reservation, n.Node), "copy", s)
		}
		return writeLive(dir, now)
	}
}

// addSaved reads "saved FILE COPY" lines. They are the guest's word.
func addSaved(have []string, out string) []string {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "saved" || !strings.HasPrefix(f[2], "/") {
			continue
		}
		if name := words(f[2]); len(have) < savedMax && !slices.Contains(have, name) {
			have = append(have, name)
		}
	}
	return have
}

func tarDigest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
