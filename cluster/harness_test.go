package cluster

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"vcn/cluster/pki"
)

// ledger is a state machine that remembers every command with its index, so
// that a lost, doubled or reordered one shows.
type ledger struct {
	mu      sync.Mutex
	entries []entry
	fault   string
}

type entry struct {
	Index uint64
	Data  string
}

func (l *ledger) Apply(e *raft.Log) any {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := len(l.entries); k > 0 && l.entries[k-1].Index >= e.Index && l.fault == "" {
		l.fault = fmt.Sprintf("index %d applied after %d", e.Index, l.entries[k-1].Index)
	}
	l.entries = append(l.entries, entry{e.Index, string(e.Data)})
	return len(l.entries)
}

func (l *ledger) Snapshot() (raft.FSMSnapshot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, err := json.Marshal(l.entries)
	return ledgerSnapshot(b), err
}

func (l *ledger) Restore(r io.ReadCloser) error {
	defer r.Close()
	var entries []entry
	if err := json.NewDecoder(r).Decode(&entries); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = entries
	return nil
}

func (l *ledger) all() []entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]entry{}, l.entries...)
}

type ledgerSnapshot []byte

func (s ledgerSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s); err != nil {
		sink.Cancel()
		return err
	}
	return sink.Close()
}

func (ledgerSnapshot) Release() {}

// memoryDisk survives the death of its host's process.
type memoryDisk struct {
	mu     sync.Mutex
	stores *RaftStores
	aside  int
}

func (d *memoryDisk) Exists() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stores != nil, nil
}

func (d *memoryDisk) Open() (RaftStores, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stores == nil {
		s := raft.NewInmemStore()
		d.stores = &RaftStores{Log: s, Stable: s, Snapshots: raft.NewInmemSnapshotStore()}
	}
	return *d.stores, nil
}

func (d *memoryDisk) SetAside() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stores = nil
	d.aside++
	return nil
}

func (d *memoryDisk) timesAside() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.aside
}

// world is a cluster under test.
type world struct {
	t      testing.TB
	ca     pki.CA
	key    []byte
	sim    *simNet // nil: real sockets on loopback
	hosts  []*host
	log    *slog.Logger
	config func(*Config)
	// measured keeps the default timing on real sockets too.
	measured bool
}

type host struct {
	w     *world
	cfg   Config
	ip    string
	disk  *memoryDisk
	fsm   *ledger
	*Node // nil while down
}

const testCluster = "c1"

func newWorld(t testing.TB, sim bool) *world {
	t.Helper()
	ca, err := pki.NewCA(testCluster, "test")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ca: ca, key: []byte("0123456789abcdef0123456789abcdef"), log: slog.New(slog.DiscardHandler)}
	if sim {
		w.sim = newSimNet()
	}
	if os.Getenv("VCN_TEST_LOG") != "" {
		w.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	t.TempDir() // so that directories are removed after what is cleaned up next: hosts still write to theirs
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *world) stop() {
	var wg sync.WaitGroup
	for _, h := range w.hosts {
		if h.Node != nil {
			wg.Go(func() {
				if err := h.Node.close(); err != nil {
					w.t.Errorf("close %s: %v", h.cfg.HostID, err)
				}
			})
		}
	}
	wg.Wait()
	for _, h := range w.hosts {
		if h.fsm.fault != "" {
			w.t.Errorf("state machine of %s: %s", h.cfg.HostID, h.fsm.fault)
		}
		h.Node = nil
	}
}

func credentials(t testing.TB, ca pki.CA, id string) (cert, key []byte) {
	t.Helper()
	csr, key, err := pki.NewCSR(id, id)
	if err == nil {
		cert, err = ca.SignHost(csr, id, id, nil, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// add makes a host and starts it; the first bootstraps, the others join it.
func (w *world) add(change ...func(*Config)) *host {
	w.t.Helper()
	i := len(w.hosts)
	h := &host{w: w, ip: "127.0.0.1", fsm: &ledger{}, disk: &memoryDisk{}}
	id := fmt.Sprintf("h%d", i+1)
	h.cfg = Config{
		ClusterID: testCluster, HostID: id, Name: id, DataDir: w.t.TempDir(), CA: w.ca.CertPEM,
		GossipKey: w.key, FSM: h.fsm, Log: w.log, Bootstrap: i == 0,
		Bind: netip.MustParseAddrPort("127.0.0.1:0"), GossipBind: netip.MustParseAddrPort("127.0.0.1:0"),
	}
	if w.sim == nil && !w.measured {
		// Virtual time does not mind a busy machine; real sockets do.
		h.cfg.Timing = Timing{Heartbeat: 2 * time.Second, Election: 2 * time.Second, Lease: time.Second}
	}
	if w.sim != nil {
		h.ip = fmt.Sprintf("10.0.0.%d", i+1)
		h.cfg.Net, h.cfg.Storage = simPort{w.sim, h.ip}, h.disk
		h.cfg.Bind = netip.MustParseAddrPort(h.ip + ":7001")
		h.cfg.GossipBind = netip.MustParseAddrPort(h.ip + ":7002")
	}
	h.cfg.Cert, h.cfg.Key = credentials(w.t, w.ca, id)
	if w.config != nil {
		w.config(&h.cfg)
	}
	for _, c := range change {
		c(&h.cfg)
	}
	w.hosts = append(w.hosts, h)
	h.start()
	if i > 0 {
		h.join(w.hosts[0])
	}
	return h
}

func (h *host) start() {
	h.w.t.Helper()
	n, err := New(h.cfg)
	if err != nil {
		h.w.t.Fatalf("start %s: %v", h.cfg.HostID, err)
	}
	h.Node = n
	// A restart finds the same addresses again, as a real host does.
	h.cfg.Bind = netip.MustParseAddrPort(n.Addr().String())
	h.cfg.GossipBind = netip.MustParseAddrPort(n.GossipAddr())
}

func (h *host) join(other *host) {
	h.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.Join(ctx, []string{other.GossipAddr()}); err != nil {
		h.w.t.Fatal(err)
	}
}

// kill ends a host without any goodbye.
func (h *host) kill() {
	n := h.Node
	h.Node = nil
	if h.w.sim != nil {
		h.w.sim.cut(func(a, b string) bool { return a == h.ip || b == h.ip })
	}
	if err := n.close(); err != nil {
		h.w.t.Errorf("kill %s: %v", h.cfg.HostID, err)
	}
	if h.w.sim != nil {
		h.w.sim.cut(nil)
	}
}

// restart begins anew from disk with an empty state machine.
func (h *host) restart() {
	h.w.t.Helper()
	h.fsm = &ledger{}
	h.cfg.FSM = h.fsm
	h.start()
}

// eventually waits for a condition, and says how long it took.
func (w *world) eventually(what string, within time.Duration, ok func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	if w.sim == nil {
		within = max(within, time.Minute) // a busy machine is no fault
	}
	for !ok() {
		if time.Since(began) > within {
			w.t.Fatalf("not within %v: %s\n%s", within, what, w.dump())
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

func (w *world) dump() string {
	var s string
	for _, h := range w.hosts {
		if h.Node == nil {
			s += fmt.Sprintf("%s: down\n", h.cfg.HostID)
			continue
		}
		id, _, ok := h.Leader()
		s += fmt.Sprintf("%s: role %q, leader %q %v, applied %d:", h.cfg.HostID, h.Role(), id, ok, h.AppliedIndex())
		for _, m := range h.Members() {
			s += fmt.Sprintf(" %s=%s/%s/%s", m.HostID, m.Status, m.RaftRole, m.Configured)
		}
		s += "\n"
	}
	return s
}

func (w *world) up() []*host {
	var out []*host
	for _, h := range w.hosts {
		if h.Node != nil {
			out = append(out, h)
		}
	}
	return out
}

// leader is the one host that leads with a term's duties running.
func (w *world) leader() *host {
	for _, h := range w.up() {
		h.dutyMu.Lock()
		leads := h.term != nil
		h.dutyMu.Unlock()
		if leads && h.IsLeader() {
			return h
		}
	}
	return nil
}

func (w *world) mustLead(within time.Duration) *host {
	w.t.Helper()
	w.eventually("a leader", within, func() bool { return w.leader() != nil })
	return w.leader()
}

// roles counts what the leader's configuration says.
func (w *world) roles() (voters, spares int) {
	l := w.leader()
	if l == nil {
		return 0, 0
	}
	for _, r := range l.configuredRoles() {
		if r == RoleNonvoter {
			spares++
		} else {
			voters++
		}
	}
	return voters, spares
}

func (w *world) wantRoles(voters, spares int, within time.Duration) time.Duration {
	w.t.Helper()
	return w.eventually(fmt.Sprintf("%d voters and %d spares", voters, spares), within, func() bool {
		v, s := w.roles()
		return v == voters && s == spares
	})
}

// commit applies a command at the leader, whoever that is, and returns its index.
func (w *world) commit(data string, within time.Duration) uint64 {
	w.t.Helper()
	var index uint64
	w.eventually("commit "+data, within, func() bool {
		l := w.leader()
		if l == nil {
			return false
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_, i, err := l.Apply(ctx, []byte(data))
		index = i
		return err == nil
	})
	return index
}

// same checks that all peers have the same entries, in the same order.
func (w *world) same(within time.Duration) {
	w.t.Helper()
	w.eventually("equal state machines", within, func() bool {
		l := w.leader()
		if l == nil {
			return false
		}
		want := l.fsm.all()
		for _, h := range w.up() {
			if !h.IsPeer() {
				continue
			}
			got := h.fsm.all()
			if len(got) != len(want) {
				return false
			}
			for i := range got {
				if got[i] != want[i] {
					return false
				}
			}
		}
		return true
	})
}

func payload(i, size int) []byte {
	b := make([]byte, size)
	binary.BigEndian.PutUint64(b, uint64(i))
	return b
}
