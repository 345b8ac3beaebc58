package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"vcn/cluster"
	"vcn/daemon/control"
	"vcn/daemon/httpapi"
	"vcn/daemon/httpapi/agentclient"
	"vcn/hostops"
)

// pathImage is where hosts fetch images from each other: GET {digest}?boot=true.
const pathImage = "/internal/images/"

// imageSilenceMax is how long an image stream may take in all.
const imageSilenceMax = 30 * time.Minute

// clusterView is the cluster node as the API and the agents' client see it.
type clusterView struct{ *cluster.Node }

// IsLeader is true only once the state has caught up: a leader that answers
// before would miss what was promised in the term before.
func (v clusterView) IsLeader() bool { return v.Leading() }

// Members lists hosts in the API's words.
func (v clusterView) Members() []httpapi.Member {
	leader, _, _ := v.Leader()
	var out []httpapi.Member
	for _, m := range v.Node.Members() {
		out = append(out, httpapi.Member{HostID: m.HostID, Status: string(m.Status), Raft: raftWord(m, leader), Images: m.Images})
	}
	return out
}

func raftWord(m cluster.Member, leader string) string {
	role := m.Configured
	if role == cluster.RoleNone {
		role = m.RaftRole
	}
	switch {
	case m.HostID == leader:
		return "leader"
	case role == cluster.RoleVoter || role == cluster.RoleLeader:
		return "voter"
	case role == cluster.RoleNonvoter:
		return "spare"
	}
	return "follower"
}

// raftPeers are the hosts that have state and are alive.
func (v clusterView) raftPeers() []string {
	var out []string
	for _, m := range v.Node.Members() {
		if m.Status == cluster.StatusAlive && (m.RaftRole == cluster.RoleVoter || m.RaftRole == cluster.RoleLeader || m.RaftRole == cluster.RoleNonvoter) {
			out = append(out, m.HostID)
		}
	}
	return out
}

// controlMembers is the cluster node as the leader's tasks see it.
type controlMembers struct{ *cluster.Node }

// Members lists hosts in control's words.
func (v controlMembers) Members() []control.Member {
	var out []control.Member
	for _, m := range v.Node.Members() {
		status := string(m.Status)
		if m.Status == cluster.StatusAlive && m.Extra[advertBlind] != "" {
			status = advertBlind
		}
		out = append(out, control.Member{HostID: m.HostID, Status: status, Gossip: m.Gossip, Wall: wallOf(m)})
	}
	return out
}

// wallOf is what a host's clock shows now, by its last advert; zero if that says
// nothing that can be read. Among many hosts adverts are minutes apart.
func wallOf(m cluster.Member) time.Time {
	at, err := time.Parse(time.RFC3339Nano, m.Extra[advertWall])
	if err != nil {
		return time.Time{}
	}
	return at.Add(time.Since(m.AdvertAt))
}

// Voters counts who votes, as the Raft configuration says.
func (v controlMembers) Voters() int {
	n := 0
	for _, m := range v.Node.Members() {
		if m.Configured == cluster.RoleVoter || m.Configured == cluster.RoleLeader {
			n++
		}
	}
	return n
}

// agentSource is the agent's way to peers.
type agentSource struct {
	*agentclient.Client
	node *cluster.Node
}

// Image opens an image at another host.
func (s agentSource) Image(ctx context.Context, host, digest string, bootOnly bool) (io.ReadCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, imageSilenceMax)
	u := "https://" + host + pathImage + url.PathEscape(digest) + "?boot=" + strconv.FormatBool(bootOnly)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("ask for image: %w", err)
	}
	res, err := s.node.HTTPClient(host).Do(req)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("ask for image: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		cancel()
		return nil, fmt.Errorf("ask for image: host %s answered %s", host, res.Status)
	}
	return imageReader{res.Body, cancel}, nil
}

// internalHandler is what other hosts may ask of this one.
func (d *Daemon) internalHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", d.web.Internal())
	mux.HandleFunc("GET "+pathImage+"{digest}", d.serveImage)
	return mux
}

// serveImage streams an image of this host's to another. A failure in the
// middle breaks the connection, so that no one takes half an image for a whole.
func (d *Daemon) serveImage(w http.ResponseWriter, r *http.Request) {
	boot, err := strconv.ParseBool(r.URL.Query().Get("boot"))
	if err != nil {
		http.Error(w, "boot: want true or false", http.StatusBadRequest)
		return
	}
	digest := r.PathValue("digest")
	if _, err := d.drv.images.Get(r.Context(), digest); err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, hostops.ErrNotFound) {
			status = http.StatusNotFound
		}
		http.Error(w, err.Error(), status)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := d.drv.images.Export(r.Context(), digest, boot, w); err != nil {
		d.log.Warn("send image", "digest", digest, "err", err)
		panic(http.ErrAbortHandler)
	}
}
