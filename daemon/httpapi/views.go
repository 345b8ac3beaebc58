package httpapi

import (
	"cmp"
	"slices"
	"time"

	"vcn/api"
	"vcn/fsm"
)

// What the API shows is built here, field by field, from the state's rows:
// nothing secret can slip out by being added to a row. CHAP secrets, private
// keys and token hashes are in no type of the API.

// shower builds API types from one view.
type shower struct {
	v       *fsm.View
	names   map[string]string // hosts by id
	hostKey func(r fsm.Reservation, node string) string
	waiting map[string]int // places in the waitlist by id, once one was asked for
}

func (srv *Server) newShower(v *fsm.View) *shower {
	s := &shower{v: v, names: map[string]string{}, hostKey: srv.cfg.Control.HostKey}
	for _, h := range v.Hosts() {
		s.names[h.ID] = h.Name
	}
	return s
}

func (s *shower) host(id string) string { return cmp.Or(s.names[id], id) }

func (s *shower) reservation(r fsm.Reservation) api.Reservation {
	out := api.Reservation{
		ID: r.ID, Name: r.Name, Project: r.Project, Owner: r.Owner, State: r.State, Message: r.Message,
		Conditions: r.Conditions, Start: r.Start, End: r.End, Provision: r.Provision, Created: r.Created,
		Zone: r.Zone, Lead: api.FormatDuration(r.Lead), Held: r.Bound && r.Live(), Series: r.Series, ParkedUntil: timeOrNil(r.ParkedUntil),
		ReadyAt: timeOrNil(r.ReadyAt), VLAN: r.VLAN, Subnet: r.Subnet, Phases: r.Phases,
		Rolls: orEmpty(r.Rolls), Spec: r.Spec, Nodes: make([]api.Node, 0, len(r.Nodes)),
	}
	for _, n := range r.Nodes {
		out.Nodes = append(out.Nodes, api.Node{
			Name: n.Name, Role: n.Role, Host: s.host(n.Host), Storage: s.host(n.Storage),
			PrivateIP: n.PrivateIP, PublicIP: n.PublicIP, MAC: n.PrivateMAC,
			CPUs: n.CPUs, Memory: api.Quantity(n.MemoryBytes), Disk: api.Quantity(n.DiskBytes),
			Generation: n.Generation, State: n.State, Since: n.Since, Message: n.Message,
		})
		if n.Role == api.RoleFrontend && n.PublicIP != "" {
			out.Frontend = &api.Frontend{Address: n.PublicIP, HostKey: s.hostKey(r, n.Name)}
		}
	}
	out.Spec.Rolls = slices.Clone(r.Spec.Rolls)
	s.times(&out, &r)
	out.Change = pending(&r)
	return out
}

// times adds what is said about the slot beyond its start and end.
func (s *shower) times(out *api.Reservation, r *fsm.Reservation) {
	switch {
	case !r.ReadyAt.IsZero() && r.Provision.Before(r.Start): // what started at once was neither
		early := int64(r.Start.Sub(r.ReadyAt) / time.Second)
		out.Early = &early
	case r.State == api.StateBooked || r.State == api.StateProvisioning:
		done := r.Provision.Add(r.Lead)
		if done.Before(r.Start) {
			done = r.Start
		}
		out.Expected = &done
	case r.State == api.StateWaitlisted:
		w := &api.Wait{Earliest: r.Wait.Earliest, Latest: r.Wait.Latest, Passed: r.Wait.Passed, Message: r.Wait.Message}
		if s.waiting == nil {
			s.waiting = map[string]int{}
			for i, o := range s.v.Waitlist() {
				s.waiting[o.ID] = i + 1
			}
		}
		w.Position = s.waiting[r.ID]
		out.Wait = w
	}
	if r.State != api.StateParked && !r.Kept {
		out.ParkedUntil = nil
	}
}

// pending is the change of a running cluster that is still under way.
func pending(r *fsm.Reservation) *api.PendingChange {
	p := &api.PendingChange{}
	for i := range r.Nodes {
		n := &r.Nodes[i]
		switch {
		case n.Leaving:
			p.Leaving = append(p.Leaving, n.Name)
			if !n.LeaveBy.IsZero() {
				p.Deadline = &n.LeaveBy
			}
			p.Message = cmp.Or(p.Message, n.Message)
		case n.Joining:
			p.Joining = append(p.Joining, n.Name)
		}
	}
	if !r.Live() || len(p.Leaving)+len(p.Joining) == 0 {
		return nil
	}
	return p
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// orEmpty keeps lists from being null in JSON.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func (s *shower) hosts(members []Member) []api.Host {
	sight := map[string]Member{}
	for _, m := range members {
		sight[m.HostID] = m
	}
	out := []api.Host{}
	for _, h := range s.v.Hosts() {
		used, m := s.v.Used(h.ID), sight[h.ID]
		out = append(out, api.Host{
			ID: h.ID, Name: h.Name, Classes: orEmpty(h.Classes), Address: h.Internal, APIAddress: h.API, FailureDomain: h.FailureDomain,
			// Gossip knows first; the state's word is for hosts it has lost.
			Status: cmp.Or(m.Status, h.Status), Raft: cmp.Or(m.Raft, "follower"),
			CPUs: h.CPUs, Memory: api.Quantity(h.MemoryBytes), Storage: api.Quantity(h.StorageBytes),
			FreeCPUs:    max(h.CPUs-used.CPUs, 0),
			FreeMemory:  api.Quantity(max(h.MemoryBytes-used.MemoryBytes, 0)),
			FreeStorage: api.Quantity(max(h.StorageBytes-used.StorageBytes, 0)),
			Accel:       h.Accel, Network: h.Network, VolumeDriver: h.VolumeDriver, TargetEngine: h.TargetEngine, Initiator: h.Initiator, Images: m.Images, Version: h.Version,
		})
	}
	slices.SortFunc(out, func(a, b api.Host) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return out
}

func (s *shower) image(i fsm.Image) api.Image {
	out := api.Image{Recipe: i.Recipe, Digest: i.Digest, Appliance: i.Appliance, Rolls: orEmpty(i.Rolls),
		State: i.State, Message: i.Message, Size: api.Quantity(i.SizeBytes)}
	for _, id := range s.v.ImageHosts(i.Recipe) {
		out.Hosts = append(out.Hosts, s.host(id))
	}
	slices.Sort(out.Hosts)
	return out
}

func (s *shower) images() []api.Image {
	out := []api.Image{}
	for _, i := range s.v.Images() {
		out = append(out, s.image(i))
	}
	slices.SortFunc(out, func(a, b api.Image) int {
		return cmp.Or(cmp.Compare(a.Appliance, b.Appliance), cmp.Compare(a.Recipe, b.Recipe))
	})
	return out
}

func (s *shower) event(e fsm.Event) api.Event {
	out := api.Event{Index: e.Index, Time: e.Time, Reservation: e.Reservation, Kind: e.Kind, Message: e.Message}
	if e.Host != "" {
		out.Host = s.host(e.Host)
	}
	return out
}

func showToken(t fsm.Token) api.Token {
	return api.Token{ID: t.ID, Kind: t.Kind, Project: t.Project, Note: t.Note, Created: t.Created, Expires: t.Expires}
}

func (s *Server) status() api.Status {
	v := s.cfg.State.View()
	meta, _ := v.Meta()
	out := api.Status{
		ClusterID: meta.ClusterID, Name: meta.Name, Host: s.cfg.HostName, Forming: !meta.Formed, Expect: meta.Expect,
		Reservations: v.ReservationCount(), Index: v.Index(), Version: s.cfg.Version,
	}
	show := s.newShower(v)
	if s.cfg.Cluster.IsLeader() {
		out.Leader = s.cfg.HostName
	} else if id, _, ok := s.cfg.Cluster.Leader(); ok {
		out.Leader = show.host(id)
	}
	for _, h := range show.hosts(s.cfg.Cluster.Members()) {
		out.Hosts++
		if h.Status == fsm.HostAlive {
			out.HostsAlive++
		}
		if h.Raft == "leader" || h.Raft == "voter" {
			out.Voters++
		}
	}
	return out
}
