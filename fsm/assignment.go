package fsm

import (
	"maps"
	"slices"
	"strings"
	"time"

	"vcn/api"
)

// Assignment is everything one host has to hold, computed from a snapshot. It
// is the whole desired state: what is not in it has to go.
type Assignment struct {
	Index uint64 // Raft index it was computed at
	// Version is the Raft index at which this host's assignment last may have
	// changed. While it stands, everything below but Index is the same, on
	// every peer; FSM.WatchHost waits for it to rise.
	Version  uint64
	Host     string
	Networks []NetworkWork
	Volumes  []VolumeWork
	Nodes    []NodeWork
	Images   []ImageWork
	Clusters map[string]ClusterWork // by reservation, for the nodes above
}

// NetworkWork is one private network to hold.
type NetworkWork struct {
	Reservation string
	VLAN        int
	Peers       []string // underlay addresses of the other hosts that carry it
}

// VolumeWork is one volume to hold on this storage host.
type VolumeWork struct {
	ID          string
	Reservation string
	Node        string
	SizeBytes   int64
	Recipe      string
	ImageDigest string // empty while the image is not built
	Generation  uint64
	// Made is Volume.Made: what is not there any more must not be cloned again.
	Made bool
	// Access is who may log in; empty if the node runs on this same host and
	// opens the volume directly.
	Access []AccessWork
}

// AccessWork is hostops.Access as data.
type AccessWork struct {
	Host   string // host ID, from which its initiator's name is made
	Addr   string
	User   string
	Secret string
}

// NodeWork is one node to run on this host.
type NodeWork struct {
	Reservation string
	Node        string
	Generation  uint64
	CPUs        int
	MemoryBytes int64
	VLAN        int
	PrivateMAC  string
	PublicMAC   string // frontend only
	ImageDigest string // whose kernel and initrd boot it
	Appliance   string
	Frontend    bool
	Volume      string
	Portal      string // address:port of the storage host; empty if the volume is local
	User        string // CHAP
	Secret      string
	// Run is true once the volume is ready under this generation. Wait says
	// what is missing while it is false.
	Run  bool
	Wait string
	// Stop: it is to be powered off cleanly and then not to run; its volume stays.
	Stop bool
}

// ImageWork is one image to build, or to have.
type ImageWork struct {
	Recipe    string
	Appliance string
	Rolls     []string // name@version
	Digest    string
	Build     bool     // build it here
	BootOnly  bool     // kernel and initrd suffice
	Sources   []string // host IDs that have the whole image
}

// ClusterWork is what the seeds of a cluster's nodes are rendered from.
type ClusterWork struct {
	ID, Name, Project string
	Subnet            string
	PublicBits        int
	PublicGateway     string
	Nodes             []Node
	Users             []User
	Rolls             []string
	Secrets           map[string][]byte
	// Drain and Notices are for the frontend's host alone; nil elsewhere.
	Drain   []DrainWork
	Notices []NoticeWork
}

// DrainWork is a worker that is to be given no more jobs by the cluster's
// scheduler. What is not listed, and was drained by vcn, is to be given jobs
// again. Reported as an object of KindDrain with the worker's nodeID: ready when
// no job runs on it, working while one does, waiting while that is not known.
type DrainWork struct {
	Node   string
	Reason string
}

// NoticeWork is a text to be shown to the cluster's users, once.
type NoticeWork struct {
	ID   string
	Text string
}

// AssignmentFor computes the whole desired state of one host. Its lists are
// sorted. An unknown host has an empty one.
//
// It depends on: the host's placed reservations and their volumes, the
// addresses and names of the hosts they share, the images they use with the
// hosts that have them, and the state (not the message) of their volumes. Every
// command that changes one of these touches the hosts concerned; a property
// test compares, after every apply, all assignments with their versions.
func (v *View) AssignmentFor(host string) Assignment {
	a := Assignment{Index: v.st.Index, Host: host, Clusters: map[string]ClusterWork{}}
	if row, ok := first[touchedRow](v.reader, tabTouched, "id", key(host)); ok {
		a.Version = row.Index
	}
	w := &work{View: v, a: &a, self: host, images: map[string]*ImageWork{}}
	for _, r := range w.placed() {
		parks := r.Kept || r.Outcome == api.StateParked
		if r.State == api.StateEnding && r.NodesGone && !parks || r.State == api.StateEnding && !r.Bound {
			continue
		}
		w.volumes(r)
		if r.Kept || r.State == api.StateEnding && r.NodesGone {
			continue
		}
		w.network(r)
		if r.State != api.StateEnding || !r.StopAt.IsZero() || parks {
			w.nodes(r)
		}
	}
	w.builds()
	for _, recipe := range slices.Sorted(maps.Keys(w.images)) {
		a.Images = append(a.Images, *w.images[recipe])
	}
	return a
}

// work is one assignment being computed.
type work struct {
	*View
	a      *Assignment
	self   string
	images map[string]*ImageWork
}

// placed returns the reservations that have a part on this host now, by id.
func (w *work) placed() []*Reservation {
	var out []*Reservation
	for b := range scan[Booking](w.reader, tabBookings, "host", key(w.self)) {
		if r, err := w.reservation(b.Owner); err == nil && r.Placed() {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *Reservation) int { return strings.Compare(a.ID, b.ID) })
	return slices.Compact(out) // it may hold several spans of time
}

// network is held where a node of the cluster is; its peers are the others.
func (w *work) network(r *Reservation) {
	carries, others := false, map[string]bool{}
	for _, n := range r.Nodes {
		if n.Host == w.self {
			carries = true
		} else if h, err := w.host(n.Host); err == nil && h.Underlay != "" {
			others[h.Underlay] = true
		}
	}
	if carries {
		w.a.Networks = append(w.a.Networks, NetworkWork{
			Reservation: r.ID, VLAN: r.VLAN, Peers: slices.Sorted(maps.Keys(others)),
		})
	}
}

func (w *work) volumes(r *Reservation) {
	for _, vol := range w.Volumes(r.ID) {
		if vol.Host != w.self {
			continue
		}
		work := VolumeWork{
			ID: vol.ID, Reservation: r.ID, Node: vol.Node, SizeBytes: vol.SizeBytes,
			Recipe: vol.Recipe, Generation: vol.Generation, Made: vol.Made,
		}
		work.ImageDigest, _ = w.imageFor(vol.ID)
		if n, ok := nodeNamed(r, vol.Node); ok && n.Host != w.self && !r.Kept && !r.NodesGone {
			if h, err := w.host(n.Host); err == nil {
				work.Access = []AccessWork{{
					Host: h.ID, Addr: h.Underlay, User: vol.User, Secret: vol.Secret,
				}}
			}
		}
		w.a.Volumes = append(w.a.Volumes, work)
		if r.State != api.StateEnding && !r.Kept {
			w.need(vol.Recipe, false)
		}
	}
}

func nodeNamed(r *Reservation, name string) (*Node, bool) {
	for i := range r.Nodes {
		if r.Nodes[i].Name == name {
			return &r.Nodes[i], true
		}
	}
	return nil, false
}

func (w *work) nodes(r *Reservation) {
	mine := false
	for i := range r.Nodes {
		n := &r.Nodes[i]
		if n.Host != w.self || n.LeftIndex != 0 {
			continue
		}
		mine = true
		work := NodeWork{
			Reservation: r.ID, Node: n.Name, Generation: n.Generation,
			CPUs: n.CPUs, MemoryBytes: n.MemoryBytes, VLAN: r.VLAN,
			PrivateMAC: n.PrivateMAC, PublicMAC: n.PublicMAC,
			Appliance: n.Appliance, Frontend: n.Role == api.RoleFrontend, Volume: n.Volume,
		}
		vol, _ := w.Volume(n.Volume)
		if vol.ID != "" && vol.Host != w.self {
			work.User, work.Secret = vol.User, vol.Secret
			if h, err := w.host(vol.Host); err == nil {
				work.Portal = h.Storage
			}
		}
		work.Run, work.Wait = w.volumeReady(n.Volume, n.Generation)
		digest, why := w.imageFor(n.Volume)
		if work.ImageDigest = digest; digest == "" {
			work.Run, work.Wait = false, why
		}
		work.Stop = r.State == api.StateEnding && r.StopAt.IsZero() && (i > 0 || r.FrontendStops)
		w.a.Nodes = append(w.a.Nodes, work)
		w.need(vol.Recipe, true) // not that of the reservation: rolls may have been changed since
	}
	if mine {
		w.cluster(r)
	}
}

func (w *work) cluster(r *Reservation) {
	m, _ := w.Meta()
	c := ClusterWork{
		ID: r.ID, Name: r.Name, Project: r.Project, Subnet: r.Subnet,
		PublicBits: m.Pools.PublicBits, PublicGateway: m.Pools.PublicGateway,
		Nodes: bare(r.Nodes), Users: r.Users, Rolls: r.Rolls, Secrets: r.Secrets,
	}
	if r.Nodes[0].Host == w.self {
		c.Notices = r.Notices
		for i := range r.Nodes {
			if r.Nodes[i].Leaving {
				c.Drain = append(c.Drain, DrainWork{Node: r.Nodes[i].Name, Reason: "leaves the cluster"})
			}
		}
	}
	w.a.Clusters[r.ID] = c
}

// bare leaves out what changes while a cluster lives and no seed is made of, and
// the workers that have been stopped to leave it.
func bare(nodes []Node) []Node {
	out := slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return n.LeftIndex != 0 })
	for i := range out {
		n := &out[i]
		n.State, n.Message, n.Since = "", "", time.Time{}
		n.Leaving, n.LeaveBy, n.LeaveDue, n.LeaveIndex, n.Joining = false, time.Time{}, false, 0, false
	}
	return out
}

// need says that this host has to have an image.
func (w *work) need(recipe string, bootOnly bool) *ImageWork {
	have, ok := w.images[recipe]
	if !ok {
		img, _ := w.Image(recipe)
		have = &ImageWork{
			Recipe: recipe, Appliance: img.Appliance, Rolls: img.Rolls, Digest: img.Digest, BootOnly: bootOnly,
		}
		if img.Digest != "" {
			have.Sources = w.sources(&img, w.self, SourcesMax)
		}
		w.images[recipe] = have
	}
	have.BootOnly = have.BootOnly && bootOnly
	return have
}

// builds adds what this host is to build, for whoever wants it.
func (w *work) builds() {
	for img := range scan[Image](w.reader, tabImages, "id", nil) {
		if img.Builder == w.self && img.Digest == "" {
			w.need(img.Recipe, false).Build = true
		}
	}
}
