package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vcn/api"
	"vcn/cluster"
	"vcn/cluster/pki"
	"vcn/daemon/control"
	"vcn/fsm"
	"vcn/rolls"
)

const (
	clusterID  = "bench"
	hostsCount = 100
	voters     = 3
	waitMax    = 30 * time.Second
)

var (
	gossipKey = []byte("0123456789abcdef0123456789abcdef")
	loopback  = netip.MustParseAddrPort("127.0.0.1:0")
	// wide pools: 4 094 networks are what VLANs allow.
	wide = fsm.Pools{VLANFirst: 1, VLANLast: 4094, Subnets: "10.0.0.0/8", SubnetBits: 24,
		PublicFirst: "100.64.0.1", PublicLast: "100.127.255.254", PublicBits: 10, MACPrefix: "02:76:63"}
)

func hostID(i int) string { return fmt.Sprintf("host-%03d", i) }

// nothing is a state machine that keeps nothing. Its types are those of the
// Raft library, taken from the FSM's methods: only cluster and fsm name the library.
type nothing[L, S any] struct{ snapshot func() (S, error) }

func (nothing[L, S]) Apply(*L) any                  { return nil }
func (n nothing[L, S]) Snapshot() (S, error)        { return n.snapshot() }
func (nothing[L, S]) Restore(r io.ReadCloser) error { return r.Close() }

func nothingLike[L, S any](_ func(*L) any, snapshot func() (S, error)) nothing[L, S] {
	return nothing[L, S]{snapshot}
}

// trio is three voters on loopback: mTLS, gossip, boltdb and files.
type trio struct {
	b       *testing.B
	nodes   []*cluster.Node
	retries atomic.Int64 // of calls, because the leader moved
}

// newTrio starts the hosts; the first bootstraps. change completes each one's configuration.
func newTrio(b *testing.B, ca pki.CA, change func(i int, c *cluster.Config)) *trio {
	b.Helper()
	t := &trio{b: b}
	b.Cleanup(t.close)
	for i := range voters {
		csr, key, err := pki.NewCSR(hostID(i), hostID(i))
		t.must(err)
		cert, err := ca.SignHost(csr, hostID(i), hostID(i), nil, nil)
		t.must(err)
		c := cluster.Config{
			ClusterID: clusterID, HostID: hostID(i), Name: hostID(i), DataDir: b.TempDir(),
			CA: ca.CertPEM, Cert: cert, Key: key, GossipKey: gossipKey, Bind: loopback, GossipBind: loopback, Bootstrap: i == 0,
		}
		change(i, &c)
		n, err := cluster.New(c)
		t.must(err)
		t.nodes = append(t.nodes, n)
		if i > 0 {
			ctx, cancel := context.WithTimeout(context.Background(), waitMax)
			t.must(n.Join(ctx, []string{t.nodes[0].GossipAddr()}))
			cancel()
		}
	}
	t.wait("three voters", func() bool { l := t.leader(); return l >= 0 && votersOf(t.nodes[l]) == voters })
	return t
}

func (t *trio) close() {
	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	defer cancel()
	var wg sync.WaitGroup
	for _, n := range t.nodes {
		wg.Go(func() {
			if err := n.Shutdown(ctx); err != nil {
				t.b.Errorf("shut down: %v", err)
			}
		})
	}
	wg.Wait()
}

func (t *trio) must(err error) {
	t.b.Helper()
	if err != nil {
		t.b.Fatal(err)
	}
}

func (t *trio) wait(what string, ok func() bool) {
	t.b.Helper()
	for end := time.Now().Add(waitMax); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.b.Fatalf("not within %v: %s", waitMax, what)
		}
	}
}

// atLeader makes a call at the leader, again and again while there is none or
// it has just lost its place, as a busy machine's may.
func (t *trio) atLeader(call func(leader int) error) error {
	for end := time.Now().Add(waitMax); ; time.Sleep(5 * time.Millisecond) {
		err := cluster.ErrNoLeader
		if l := t.leader(); l >= 0 {
			err = call(l)
		}
		moved := errors.Is(err, cluster.ErrNoLeader) || errors.Is(err, cluster.ErrNotLeader) || errors.Is(err, cluster.ErrOutcomeUnknown)
		if !moved || time.Now().After(end) {
			return err
		}
		t.retries.Add(1)
	}
}

// leader is which of the nodes leads, -1 if none does.
func (t *trio) leader() int {
	for i, n := range t.nodes {
		if n.IsLeader() {
			return i
		}
	}
	return -1
}

func votersOf(n *cluster.Node) int {
	count := 0
	for _, m := range n.Members() {
		if m.Configured == cluster.RoleVoter || m.Configured == cluster.RoleLeader {
			count++
		}
	}
	return count
}

// site is a trio with state machines and controls: what three vcnd are without
// API and agents. The other 97 hosts are in the state only, and said to be alive.
type site struct {
	*trio
	states   []*fsm.FSM
	controls []*control.Control
	ca       pki.CA
	commits  atomic.Int64
	entry    atomic.Pointer[[]byte] // the largest command committed yet
}

// seen is a Node as control's applier; it counts and keeps what passes.
type seen struct {
	*cluster.Node
	s *site
}

func (a seen) Apply(ctx context.Context, cmd []byte) (any, uint64, error) {
	a.s.commits.Add(1)
	for {
		old := a.s.entry.Load()
		if old != nil && len(*old) >= len(cmd) || a.s.entry.CompareAndSwap(old, &cmd) {
			break
		}
	}
	return a.Node.Apply(ctx, cmd)
}

// alive is gossip in which every host is alive.
type alive struct{ n *cluster.Node }

func (alive) Members() []control.Member {
	out := make([]control.Member, hostsCount)
	for i := range out {
		out[i] = control.Member{HostID: hostID(i), Status: fsm.HostAlive}
	}
	return out
}

func (a alive) Voters() int { return votersOf(a.n) }

func newSite(b *testing.B) *site {
	b.Helper()
	ca, err := pki.NewCA(clusterID, "bench")
	if err != nil {
		b.Fatal(err)
	}
	s := &site{ca: ca}
	for range voters {
		s.states = append(s.states, fsm.New(slog.New(slog.DiscardHandler)))
	}
	s.trio = newTrio(b, ca, func(i int, c *cluster.Config) {
		state := s.states[i]
		c.FSM = state
		c.KnownHosts = func() (out []cluster.KnownHost) {
			for _, h := range state.View().Hosts() {
				out = append(out, cluster.KnownHost{ID: h.ID, Name: h.Name, Internal: h.Internal, FailureDomain: h.FailureDomain})
			}
			return out
		}
	})
	catalog, err := rolls.Builtin()
	s.must(err)
	_, token, err := control.NewToken(clusterID, ca.CertPEM, api.TokenOperator)
	s.must(err)
	token.Expires = time.Now().Add(time.Hour)
	s.commit(fsm.ClusterInit{Token: token, Meta: fsm.Meta{ClusterID: clusterID, Name: "bench", CACert: ca.CertPEM, CAKey: ca.KeyPEM,
		GossipKey: gossipKey, Expect: voters, Pools: wide}})
	for i, n := range s.nodes {
		c, err := control.New(control.Config{
			Applier: seen{n, s}, State: s.states[i], Members: alive{n}, Catalog: catalog,
			Errors: control.Errors{
				NotLeader: func(err error) bool {
					return errors.Is(err, cluster.ErrNotLeader) || errors.Is(err, cluster.ErrNoLeader)
				},
				Unknown: func(err error) bool { return errors.Is(err, cluster.ErrOutcomeUnknown) },
			},
		})
		s.must(err)
		s.controls = append(s.controls, c)
		n.RunAsLeader("control", c.RunLeader)
	}
	s.wait("the cluster is formed", func() bool { m, _ := s.states[s.leading()].View().Meta(); return m.Formed })
	for i := range hostsCount {
		s.commit(fsm.HostRegister{Host: s.host(i)})
	}
	s.haveImages()
	return s
}

// leading is the leader, waited for.
func (s *site) leading() int {
	s.b.Helper()
	s.wait("a leader", func() bool { return s.leader() >= 0 })
	return max(s.leader(), 0)
}

// commit applies one command at the leader and wants it accepted.
func (s *site) commit(cmd fsm.Command) {
	s.b.Helper()
	entry, err := fsm.Encode(cmd, time.Now())
	s.must(err)
	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	defer cancel()
	s.must(s.atLeader(func(l int) error {
		answer, _, err := s.nodes[l].Apply(ctx, entry)
		if err != nil {
			return err
		}
		return answer.(fsm.Result).Err
	}))
}

// host is a large host of every class.
func (s *site) host(i int) fsm.Host {
	internal := fmt.Sprintf("10.9.0.%d:7443", i+1)
	if i < len(s.nodes) {
		internal = s.nodes[i].Addr().String()
	}
	return fsm.Host{ID: hostID(i), Name: fmt.Sprintf("h%d", i), Classes: []api.Class{api.ClassCompute, api.ClassGateway, api.ClassStorage},
		Internal: internal, API: fmt.Sprintf("10.9.0.%d:8443", i+1), Storage: fmt.Sprintf("10.9.0.%d:3260", i+1), Underlay: fmt.Sprintf("10.9.0.%d", i+1),
		CPUs: 1 << 16, MemoryBytes: 1 << 46, StorageBytes: 1 << 48, Accel: "tcg", Network: "vxlan", Version: "bench"}
}

// haveImages reserves and releases one cluster, and says for the hosts that
// build its images that they are ready.
func (s *site) haveImages() {
	s.b.Helper()
	ctl, state := s.controls[s.leading()], s.states[s.leading()]
	r, err := ctl.Reserve(context.Background(), spec("images"), "", "op", "")
	s.must(err)
	for _, h := range state.View().Hosts() {
		a := state.View().AssignmentFor(h.ID)
		rep := fsm.HostReport{Host: h.ID, Applied: a.Index}
		for _, im := range a.Images {
			rep.Objects = append(rep.Objects, fsm.Object{Kind: fsm.KindImage, ID: im.Recipe, State: fsm.ObjReady, Digest: "sha256-" + im.Recipe[:16], SizeBytes: 1 << 30})
		}
		s.commit(rep)
	}
	_, err = ctl.Release(context.Background(), r.ID, "op")
	s.must(err)
	for _, im := range state.View().Images() {
		if im.State != fsm.ImageReady {
			s.b.Fatalf("image of %s is %s after all hosts have reported", im.Appliance, im.State)
		}
	}
}

// spec is a frontend and two workers with Slurm, from tomorrow on.
func spec(name string) api.Spec {
	return api.Spec{
		Name: name, Project: "studio", Slot: api.Slot{Start: time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339), For: "8h"},
		Workers: []api.WorkerGroup{{Count: 2}}, Rolls: []string{"slurm"},
		Users: []api.User{{Name: "alice", Admin: true,
			Keys: []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHJYC6GAkjHpDLpdzivMq3+FJOwJCwK1mTEoT/mlTEmQ alice@studio"}}},
	}
}
