package controltest

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"vcn/api"
	"vcn/cluster/pki"
	"vcn/daemon/control"
	"vcn/fsm"
	"vcn/fsm/fsmtest"
	"vcn/rolls"
)

// Rig is one replicated state with a control that leads.
type Rig struct {
	FSM      *fsm.FSM
	Applier  *fsmtest.Local
	Gossip   *Gossip
	Control  *control.Control
	Catalog  *rolls.Catalog
	Operator string // the text of an operator's token
	CA       pki.CA
	tb       testing.TB
}

// Options say what New makes. Zero values: three hosts, formed.
type Options struct {
	ClusterID string // default cluster-1
	Hosts     int
	Forming   bool
	CPUs      int            // of each host; default 16
	Pools     fsm.Pools      // default: VLANs 100-199, 10.64.0.0/12 by /24, 192.0.2.10-250
	Catalog   *rolls.Catalog // default: the built-in rolls
	Delay     time.Duration  // of a commit
	// Now is the true time; default time.Now. For tests that drive time themselves.
	Now      func() time.Time
	Notifier control.Notifier
	Log      *slog.Logger
}

// Gossip is a stand-in for what gossip says of hosts.
type Gossip struct {
	mu       sync.Mutex
	members  []control.Member
	voters   int
	changed  chan struct{}
	skew     map[string]time.Duration
	mute     map[string]bool
	now      func() time.Time
	Internal map[string]string
}

// Members lists the hosts. Each says the time, unless it is made mute.
func (g *Gossip) Members() []control.Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := append([]control.Member(nil), g.members...)
	for i := range out {
		if m := &out[i]; !g.mute[m.HostID] {
			m.Wall = g.now().Add(g.skew[m.HostID])
		}
	}
	return out
}

// leaderNow is the wall clock of the first host, which leads.
func (g *Gossip) leaderNow() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now().Add(g.skew[HostID(0)])
}

// SetClock sets how far a host's wall clock is ahead of the true time. The first
// host leads.
func (g *Gossip) SetClock(host string, ahead time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.skew[host], g.mute[host] = ahead, false
}

// Mute makes a host say no time, as one that has not advertised yet.
func (g *Gossip) Mute(host string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mute[host] = true
}

// Voters counts the voters.
func (g *Gossip) Voters() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.voters
}

// SetVoters says how many there are.
func (g *Gossip) SetVoters(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.voters = n
}

// Set says how a host is, and tells control.
func (g *Gossip) Set(host, status string) {
	g.mu.Lock()
	for i := range g.members {
		if g.members[i].HostID == host {
			g.members[i].Status = status
		}
	}
	g.mu.Unlock()
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// HostID is the id of the n-th host, from 0.
func HostID(n int) string { return fmt.Sprintf("host-%03d", n) }

// Spec is a small valid specification.
func Spec(name string, workers int) api.Spec {
	return api.Spec{
		Name: name, Project: "studio", Slot: api.Slot{Start: api.StartAsap, For: "8h"},
		Workers: []api.WorkerGroup{{Count: workers}},
		Rolls:   []string{"slurm"},
		Users:   []api.User{{Name: "alice", Keys: []string{Key}, Admin: true}},
	}
}

// Key is an ssh public key.
const Key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHJYC6GAkjHpDLpdzivMq3+FJOwJCwK1mTEoT/mlTEmQ alice@studio"

// New makes a rig.
func New(tb testing.TB, o Options) *Rig {
	tb.Helper()
	if o.ClusterID == "" {
		o.ClusterID = "cluster-1"
	}
	if o.Hosts == 0 {
		o.Hosts = 3
	}
	if o.CPUs == 0 {
		o.CPUs = 16
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Pools == (fsm.Pools{}) {
		o.Pools = fsm.Pools{VLANFirst: 100, VLANLast: 199, Subnets: "10.64.0.0/12", SubnetBits: 24,
			PublicFirst: "192.0.2.10", PublicLast: "192.0.2.250", PublicBits: 24, PublicGateway: "192.0.2.1", MACPrefix: "02:76:63"}
	}
	r := &Rig{tb: tb, FSM: fsm.New(o.Log), Catalog: o.Catalog, Gossip: &Gossip{
		changed: make(chan struct{}, 1), voters: o.Hosts, skew: map[string]time.Duration{}, mute: map[string]bool{}, now: o.Now,
	}}
	r.Applier = &fsmtest.Local{FSM: r.FSM, Delay: o.Delay}
	var err error
	if r.Catalog == nil {
		r.Catalog, err = rolls.Builtin()
		r.must(err)
	}
	r.CA, err = pki.NewCA(o.ClusterID, "lab")
	r.must(err)
	text, row, err := control.NewToken(o.ClusterID, r.CA.CertPEM, api.TokenOperator)
	r.must(err)
	row.Expires = o.Now().Add(365 * 24 * time.Hour)
	r.Operator = text
	r.Apply(fsm.ClusterInit{Token: row, Meta: fsm.Meta{ClusterID: o.ClusterID, Name: "lab", CACert: r.CA.CertPEM, CAKey: r.CA.KeyPEM,
		GossipKey: []byte("0123456789abcdef0123456789abcdef"), Expect: min(o.Hosts, 3), Pools: o.Pools}})
	r.addHosts(o)
	if !o.Forming {
		r.Apply(fsm.Formed{})
	} else {
		r.Gossip.SetVoters(1)
	}
	r.Control, err = control.New(control.Config{Applier: r.Applier, State: r.FSM, Members: r.Gossip, Catalog: r.Catalog,
		Changed: r.Gossip.changed, Now: r.Gossip.leaderNow, Notifier: o.Notifier, Log: o.Log})
	r.must(err)
	return r
}

func (r *Rig) addHosts(o Options) {
	for i := range o.Hosts {
		classes := []api.Class{api.ClassCompute, api.ClassStorage}
		if i%3 == 0 {
			classes = []api.Class{api.ClassCompute, api.ClassGateway}
		}
		if o.Hosts == 1 {
			classes = []api.Class{api.ClassCompute, api.ClassGateway, api.ClassStorage}
		}
		r.Apply(fsm.HostRegister{Host: fsm.Host{ID: HostID(i), Name: fmt.Sprintf("h%d", i), Classes: classes,
			Internal: fmt.Sprintf("10.9.%d.%d:7443", i/250, i%250+1), API: fmt.Sprintf("10.9.%d.%d:8443", i/250, i%250+1),
			Storage: fmt.Sprintf("10.9.%d.%d:3260", i/250, i%250+1), Underlay: fmt.Sprintf("10.9.%d.%d", i/250, i%250+1),
			CPUs: o.CPUs, MemoryBytes: 64 << 30, StorageBytes: 2 << 40, Accel: "tcg", Network: "vxlan", Version: "test"}})
		r.Gossip.members = append(r.Gossip.members, control.Member{HostID: HostID(i), Status: fsm.HostAlive, Gossip: fmt.Sprintf("10.9.%d.%d:7946", i/250, i%250+1)})
	}
}

func (r *Rig) must(err error) {
	r.tb.Helper()
	if err != nil {
		r.tb.Fatal(err)
	}
}

// Apply2 commits a command past the Applier's hook, for use inside it.
func (r *Rig) Apply2(cmd fsm.Command) {
	before := r.Applier.Hook()
	r.Applier.SetHook(nil)
	defer func() { r.Applier.SetHook(before) }()
	r.Apply(cmd)
}

// Apply commits a command and fails the test if it is refused.
func (r *Rig) Apply(cmd fsm.Command) fsm.Result {
	r.tb.Helper()
	entry, err := fsm.Encode(cmd, r.Gossip.now())
	r.must(err)
	answer, _, err := r.Applier.Apply(context.Background(), entry)
	r.must(err)
	res := answer.(fsm.Result)
	r.must(res.Err)
	return res
}

// Report says for a host, whatever it is asked to hold, that it holds it well.
// It returns the index of the assignment it reported on.
func (r *Rig) Report(host string) uint64 {
	r.tb.Helper()
	a := r.FSM.View().AssignmentFor(host)
	rep := fsm.HostReport{Host: host, Applied: a.Index}
	for _, n := range a.Networks {
		rep.Objects = append(rep.Objects, fsm.Object{Kind: fsm.KindNetwork, ID: fmt.Sprint(n.VLAN), Reservation: n.Reservation, State: fsm.ObjReady})
	}
	for _, i := range a.Images {
		rep.Objects = append(rep.Objects, fsm.Object{Kind: fsm.KindImage, ID: i.Recipe, State: fsm.ObjReady, Digest: "sha256-" + i.Recipe[:16], SizeBytes: 1 << 30})
	}
	for _, v := range a.Volumes {
		rep.Objects = append(rep.Objects, fsm.Object{Kind: fsm.KindVolume, ID: v.ID, Reservation: v.Reservation, Generation: v.Generation, State: fsm.ObjReady})
	}
	for _, n := range a.Nodes {
		if n.Run && !n.Stop {
			rep.Objects = append(rep.Objects, fsm.Object{Kind: fsm.KindNode, ID: n.Reservation + "/" + n.Node, Reservation: n.Reservation, Node: n.Node, Generation: n.Generation, State: fsm.ObjReady})
		}
	}
	r.Apply(rep)
	return a.Index
}

// SettleOnce lets every host that is alive report once.
func (r *Rig) SettleOnce() {
	r.tb.Helper()
	for _, h := range r.FSM.View().Hosts() {
		if h.Status == fsm.HostAlive {
			r.Report(h.ID)
		}
	}
}

// Settle lets every host report until nothing changes but the index.
func (r *Rig) Settle() {
	r.tb.Helper()
	for range 6 {
		r.SettleOnce()
	}
}
