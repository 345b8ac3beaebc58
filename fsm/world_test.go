package fsm

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"vcn/api"
)

// tester is what tests and properties have in common.
type tester interface {
	Helper()
	Fatalf(string, ...any)
}

var epoch = time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)

const gib = int64(1) << 30

// world drives one FSM as a leader and its hosts would, and checks it after
// every apply.
type world struct {
	t      tester
	f      *FSM
	now    time.Time
	log    []*raft.Log
	check  bool
	before map[string]Assignment
	serial int
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func newWorld(t tester) *world {
	return &world{t: t, f: New(quiet()), now: epoch, check: true, before: map[string]Assignment{}}
}

var testPools = Pools{
	VLANFirst: 100, VLANLast: 119, Subnets: "10.64.0.0/16", SubnetBits: 24,
	PublicFirst: "192.0.2.10", PublicLast: "192.0.2.40", PublicBits: 24, PublicGateway: "192.0.2.1",
	MACPrefix: "52:54:00",
}

// formed returns a world with three hosts: a (gateway, compute, storage),
// b (compute, storage) and c (compute).
func formed(t tester) *world {
	w := newWorld(t)
	w.must(sampleInit())
	w.must(Formed{})
	w.must(HostRegister{testHost("a", api.ClassGateway, api.ClassCompute, api.ClassStorage)})
	w.must(HostRegister{testHost("b", api.ClassCompute, api.ClassStorage)})
	w.must(HostRegister{testHost("c", api.ClassCompute)})
	return w
}

func sampleInit() ClusterInit {
	return ClusterInit{
		Meta: Meta{ClusterID: "cl-1", Name: "lab", CACert: []byte("ca"), CAKey: []byte("key"),
			GossipKey: []byte("gossip"), Expect: 3, Pools: testPools},
		Token: Token{ID: "op", Kind: api.TokenOperator, Hash: make([]byte, 32), Expires: epoch.Add(365 * 24 * time.Hour)},
	}
}

func testHost(id string, classes ...api.Class) Host {
	h := Host{ID: id, Name: "host-" + id, Classes: classes, Internal: "10.0.0." + id, API: "api-" + id,
		Underlay: "u-" + id, CPUs: 8, MemoryBytes: 16 * gib, StorageBytes: 100 * gib, Accel: "tcg"}
	if slices.Contains(classes, api.ClassStorage) {
		h.Storage = "s-" + id + ":3260"
	}
	return h
}

// do applies a command at w.now, checks all invariants, and returns its result.
func (w *world) do(c Command) Result {
	w.t.Helper()
	b, err := Encode(c, w.now)
	if err != nil {
		w.t.Fatalf("encode %T: %v", c, err)
	}
	l := &raft.Log{Index: uint64(len(w.log) + 1), Type: raft.LogCommand, Data: b}
	w.log = append(w.log, l)
	old := w.f.View()
	res := w.f.Apply(l).(Result)
	if w.check {
		w.verify(old, c, res)
	}
	return res
}

func (w *world) verify(old *View, c Command, res Result) {
	w.t.Helper()
	v := w.f.View()
	if err := CheckInvariants(v); err != nil {
		w.t.Fatalf("after %T at index %d (%v): %v", c, res.Index, res.Err, err)
	}
	if err := checkTransition(old, v, c); err != nil {
		w.t.Fatalf("%T at index %d (%v): %v", c, res.Index, res.Err, err)
	}
	if !v.Clock().After(old.Clock()) || v.Index() != res.Index {
		w.t.Fatalf("after %T: clock %s → %s, index %d of %d", c, old.Clock(), v.Clock(), v.Index(), res.Index)
	}
	if res.Err != nil && !sameBut(old, v) {
		w.t.Fatalf("refused %T (%v) left something behind", c, res.Err)
	}
	for _, h := range v.Hosts() {
		a, was := v.AssignmentFor(h.ID), w.before[h.ID]
		w.before[h.ID] = a
		was.Index, a.Index = 0, 0
		if was.Host != "" && was.Version == a.Version && !reflect.DeepEqual(was, a) {
			w.t.Fatalf("%T changed the assignment of %s without raising its version %d:\n%+v\n%+v", c, h.ID, a.Version, was, a)
		}
	}
}

// sameBut compares all tables but the clock's.
func sameBut(a, b *View) bool {
	for _, t := range storedTables[1:] {
		x, _ := a.txn.Get(t.name, "id")
		y, _ := b.txn.Get(t.name, "id")
		for {
			p, q := x.Next(), y.Next()
			if p == nil && q == nil {
				break
			}
			if p != q { // rows are pointers: the same row is the same pointer
				return false
			}
		}
	}
	return true
}

func (w *world) must(c Command) Result {
	w.t.Helper()
	res := w.do(c)
	if res.Err != nil {
		w.t.Fatalf("apply %T: %v", c, res.Err)
	}
	return res
}

func (w *world) pass(d time.Duration) {
	w.t.Helper()
	w.now = w.now.Add(d)
	w.must(ClockAdvance{})
	w.bind()
}

// want describes a reservation for create.
type want struct {
	name         string
	front        string   // host of the frontend
	workers      []string // hosts of the workers
	disks        []string // storage hosts, used in turn
	in, lead, so time.Duration
	cpus         int
	grace        time.Duration
	atEnd        string
	warn         []string
}

// create makes the command a leader would make of what was placed by hand.
func (w *world) create(q want) ReservationBook {
	w.t.Helper()
	w.serial++
	id := "r" + strconv.Itoa(w.serial)
	start := w.now.Add(q.in)
	r := Reservation{
		ID: id, Name: q.name, Project: "studio", Owner: "op", Provision: start.Add(-q.lead), Lead: q.lead, Start: start, End: start.Add(q.so),
		Grace: q.grace, Rolls: []string{"base@1"}, Users: []User{{Name: "alice", UID: 2000}},
		Recipes: map[string]string{"frontend": "rec-f", "worker": "rec-w"},
		Spec:    api.Spec{Name: q.name, Project: "studio", AtEnd: &api.AtEnd{Action: q.atEnd, ParkFor: "30d", Warn: q.warn}},
	}
	c := ReservationBook{Images: []ImageWant{
		{Recipe: "rec-f", Appliance: "frontend", Rolls: r.Rolls, Builder: "a"},
		{Recipe: "rec-w", Appliance: "worker", Rolls: r.Rolls, Builder: "a"},
	}}
	for i, host := range append([]string{q.front}, q.workers...) {
		r.Nodes = append(r.Nodes, testNode(i, host, q.disks[i%len(q.disks)], max(1, q.cpus)))
	}
	c.Reservations = []Reservation{r}
	if !r.Provision.After(w.now) {
		b := binding(&r)
		c.Bind = &b
	}
	return c
}

// testNode is the i-th node of a cluster: the frontend, compute-0, ...
func testNode(i int, host, storage string, cpus int) Node {
	n := Node{Name: "frontend", Role: api.RoleFrontend, Appliance: "frontend", CPUs: cpus, MemoryBytes: gib,
		DiskBytes: 4 * gib, Host: host, Storage: storage, Generation: 1}
	if i > 0 {
		n.Name, n.Role, n.Group, n.Appliance = fmt.Sprintf("compute-%d", i-1), api.RoleWorker, "compute", "worker"
	}
	return n
}

// binding is what a leader makes at random, without chance.
func binding(r *Reservation) Binding {
	b := Binding{Secrets: map[string][]byte{"munge/key": []byte("s")}}
	for _, n := range r.Nodes {
		id := n.Volume
		if id == "" {
			id = fmt.Sprintf("%s-%s-%d", r.ID, n.Name, n.Generation+r.Modified)
		}
		b.Volumes = append(b.Volumes, Volume{ID: id, Reservation: r.ID, Node: n.Name, User: "u", Secret: "0123456789abcdef"})
	}
	return b
}

// bind begins the provisioning of what is due, as a leader does.
func (w *world) bind() {
	w.t.Helper()
	for _, r := range w.f.View().ToBind(w.now, 100) {
		w.do(ReservationBind{ID: r.ID, Modified: r.Modified, Binding: binding(&r)})
	}
}

// lab is a reservation over all three hosts, starting now.
func (w *world) lab(name string) ReservationBook {
	return w.create(want{name: name, front: "a", workers: []string{"b", "c"}, disks: []string{"a", "b"}, so: 8 * time.Hour})
}

func (w *world) get(id string) Reservation {
	w.t.Helper()
	r, ok := w.f.View().Reservation(id)
	if !ok {
		w.t.Fatalf("no reservation %s", id)
	}
	return r
}

func (w *world) state(id string, want api.State) Reservation {
	w.t.Helper()
	r := w.get(id)
	if r.State != want {
		w.t.Fatalf("reservation %s is %s (%s), want %s", id, r.State, r.Message, want)
	}
	return r
}

// obedient returns the report of a host that has done all that it can of its
// present assignment.
func (w *world) obedient(host string) HostReport {
	a := w.f.View().AssignmentFor(host)
	rep := HostReport{Host: host, Applied: a.Index}
	for _, i := range a.Images {
		if i.Build || i.Digest != "" {
			rep.Objects = append(rep.Objects, Object{Kind: KindImage, ID: i.Recipe, State: ObjReady,
				Digest: "dig-" + i.Recipe, SizeBytes: gib, BootOnly: i.BootOnly})
		}
	}
	for _, n := range a.Networks {
		rep.Objects = append(rep.Objects, Object{Kind: KindNetwork, ID: vlanID(n.VLAN), Reservation: n.Reservation, State: ObjReady})
	}
	for _, v := range a.Volumes {
		if v.ImageDigest != "" {
			rep.Objects = append(rep.Objects, Object{Kind: KindVolume, ID: v.ID, Reservation: v.Reservation,
				Node: v.Node, Generation: v.Generation, State: ObjReady})
		}
	}
	for _, n := range a.Nodes {
		if n.Run && !n.Stop {
			rep.Objects = append(rep.Objects, Object{Kind: KindNode, ID: nodeID(n.Reservation, n.Node),
				Reservation: n.Reservation, Node: n.Node, Generation: n.Generation, State: ObjReady})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(a.Clusters)) {
		for _, d := range a.Clusters[id].Drain {
			rep.Objects = append(rep.Objects, Object{Kind: KindDrain, ID: nodeID(id, d.Node), Reservation: id, Node: d.Node, State: ObjReady})
		}
	}
	return rep
}

// work lets the hosts do their work and report it, in rounds.
func (w *world) work(rounds int, hosts ...string) {
	w.t.Helper()
	for range rounds {
		for _, h := range hosts {
			w.now = w.now.Add(time.Second)
			w.must(w.obedient(h))
		}
	}
}

func (w *world) bytes() []byte {
	w.t.Helper()
	var b bytes.Buffer
	if err := w.f.View().WriteSnapshot(&b); err != nil {
		w.t.Fatalf("write snapshot: %v", err)
	}
	return b.Bytes()
}

var _ tester = (*testing.T)(nil)
