package fsm

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"vcn/api"
)

// refusal is one way in which a command may be wrong.
type refusal[C Command] struct {
	name string
	edit func(*C)
	want error
}

// refuse checks that each edit of a good command is refused with its sentinel
// (do checks that nothing is left behind) and that the good one passes.
func refuse[C Command](t *testing.T, start func(*testing.T) *world, good func(*world) C, cases []refusal[C]) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			w := start(t)
			c := good(w)
			tc.edit(&c)
			if res := w.do(c); !errors.Is(res.Err, tc.want) {
				t.Fatalf("error %v, want %v", res.Err, tc.want)
			}
			w.must(good(w))
		})
	}
}

func labWorld(t *testing.T) *world { return formed(t) }

func TestReservationBookRefuses(t *testing.T) {
	type C = ReservationBook
	lab := func(w *world) C { return w.lab("lab") }
	node := func(i int, f func(*Node)) func(*C) { return func(c *C) { f(&c.Reservations[0].Nodes[i]) } }
	res := func(f func(*Reservation)) func(*C) { return func(c *C) { f(&c.Reservations[0]) } }
	refuse(t, labWorld, lab, []refusal[C]{
		{"nothing", func(c *C) { c.Reservations = nil }, ErrInvalid},
		{"no id", res(func(r *Reservation) { r.ID = "" }), ErrInvalid},
		{"a name with a slash", res(func(r *Reservation) { r.Name = "a/b" }), ErrInvalid},
		{"an end before the start", res(func(r *Reservation) { r.End = r.Start.Add(-1) }), ErrInvalid},
		{"an end in the past", res(func(r *Reservation) {
			r.Provision, r.Start, r.End = epoch.Add(-3*time.Hour), epoch.Add(-2*time.Hour), epoch.Add(-time.Hour)
		}), ErrInvalid},
		{"a start before provisioning", res(func(r *Reservation) { r.Provision = r.Start.Add(1) }), ErrInvalid},
		{"a grace of a day", res(func(r *Reservation) { r.Grace = 24 * time.Hour }), ErrInvalid},
		{"parking for ever", res(func(r *Reservation) { r.Spec.AtEnd = &api.AtEnd{Action: api.EndPark, ParkFor: "10y"} }), ErrInvalid},
		{"no nodes", res(func(r *Reservation) { r.Nodes = nil }), ErrInvalid},
		{"no frontend first", node(0, func(n *Node) { n.Role = api.RoleWorker }), ErrInvalid},
		{"two frontends", node(1, func(n *Node) { n.Role = api.RoleFrontend }), ErrInvalid},
		{"two nodes of one name", node(2, func(n *Node) { n.Name = "compute-0" }), ErrInvalid},
		{"a node without cores", node(1, func(n *Node) { n.CPUs = 0 }), ErrInvalid},
		{"a size that overflows sums", node(1, func(n *Node) { n.MemoryBytes = 1 << 62 }), ErrInvalid},
		{"generation 0", node(1, func(n *Node) { n.Generation = 0 }), ErrInvalid},
		{"an unknown host", node(1, func(n *Node) { n.Host = "z" }), ErrUnknownHost},
		{"no host", node(1, func(n *Node) { n.Host = "" }), ErrUnknownHost},
		{"a frontend off the gateways", node(0, func(n *Node) { n.Host = "b" }), ErrHostUnfit},
		{"a volume off the storage hosts", node(0, func(n *Node) { n.Storage = "c" }), ErrHostUnfit},
		{"more cores than a host has", node(1, func(n *Node) { n.CPUs = 9 }), ErrNoCapacity},
		{"more memory than a host has", node(1, func(n *Node) { n.MemoryBytes = 17 * gib }), ErrNoCapacity},
		{"more storage than a host has", node(0, func(n *Node) { n.DiskBytes = 101 * gib }), ErrNoCapacity},
		{"a volume too few", func(c *C) { c.Bind.Volumes = c.Bind.Volumes[1:] }, ErrInvalid},
		{"a volume of no node", func(c *C) { c.Bind.Volumes[0].Node = "nobody" }, ErrInvalid},
		{"two volumes of one node", func(c *C) { c.Bind.Volumes[0].Node = "compute-0" }, ErrInvalid},
		{"one volume for two nodes", func(c *C) { c.Bind.Volumes[1].ID = c.Bind.Volumes[0].ID }, ErrInvalid},
		{"a volume of another reservation", func(c *C) { c.Bind.Volumes[1].Reservation = "r9" }, ErrInvalid},
		{"a short CHAP secret", func(c *C) { c.Bind.Volumes[0].Secret = "short" }, ErrInvalid},
		{"an unknown image", func(c *C) { c.Images = c.Images[:1] }, ErrUnknownImage},
		{"an unknown builder", func(c *C) { c.Images[0].Builder = "z" }, ErrUnknownHost},
		{"a series that is not there", res(func(r *Reservation) { r.Series = "s" }), ErrNotFound},
		{"a hold that is not there", func(c *C) { c.Hold = "h" }, ErrNoHold},
		{"reservations of two projects", func(c *C) {
			other := c.Reservations[0]
			other.ID, other.Project = "r99", "other"
			c.Reservations = append(c.Reservations, other)
		}, ErrInvalid},
	})
}

func TestReservationBookRefusesWhatOthersHold(t *testing.T) {
	type C = ReservationBook
	taken := func(t *testing.T) *world {
		w := formed(t)
		w.must(w.lab("first"))
		return w
	}
	lab := func(w *world) C { return w.lab("lab") }
	refuse(t, taken, lab, []refusal[C]{
		{"its id", func(c *C) { c.Reservations[0].ID = "r1" }, ErrExists},
		{"its name", func(c *C) { c.Reservations[0].Name = "first" }, ErrNameTaken},
		{"its volume", func(c *C) { c.Bind.Volumes[0].ID = "r1-frontend-1" }, ErrExists},
		{"its cores", func(c *C) { c.Reservations[0].Nodes[0].CPUs = 8 }, ErrNoCapacity},
	})
}

func TestReservationsShareAHostAtDifferentTimes(t *testing.T) {
	w := formed(t)
	day := want{name: "one", front: "a", workers: []string{"b"}, disks: []string{"b"}, cpus: 8, so: 24 * time.Hour}
	w.must(w.create(day))
	day.name, day.in = "two", 24*time.Hour
	if res := w.do(w.create(day)); !errors.Is(res.Err, ErrNoCapacity) {
		t.Fatalf("no turnaround was kept: %v", res.Err)
	}
	day.in += Turnaround
	w.must(w.create(day))
	day.name, day.in, day.so = "between", 12*time.Hour, time.Minute
	if res := w.do(w.create(day)); !errors.Is(res.Err, ErrNoCapacity) {
		t.Fatalf("double booked: %v", res.Err)
	}
}

func TestReservationThatOverrunsKeepsItsHosts(t *testing.T) {
	w := formed(t)
	q := want{name: "one", front: "a", workers: []string{"b"}, disks: []string{"b"}, cpus: 8, so: time.Hour}
	w.must(w.create(q))
	w.work(3, "a", "b")
	w.pass(2 * time.Hour)
	w.state("r1", api.StateEnding)
	q.name = "two"
	if res := w.do(w.create(q)); !errors.Is(res.Err, ErrNoCapacity) {
		t.Fatalf("its hosts were given away before they were clean: %v", res.Err)
	}
	for _, b := range w.f.View().Bookings() {
		if !b.Until.After(w.f.View().Clock()) {
			t.Fatalf("booking %+v is over, and held", b)
		}
	}
	w.work(2, "a", "b")
	w.state("r1", api.StateEnded)
	w.must(w.create(q))
}

func TestIdempotencyKeyAnswersWithTheFirst(t *testing.T) {
	w := formed(t)
	c := w.lab("lab")
	c.Key, c.RequestHash = "k", []byte("hash")
	w.must(c)
	again := w.lab("lab")
	again.Key, again.RequestHash = "k", []byte("hash")
	if r := w.must(again).Reservation; r == nil || r.ID != "r1" {
		t.Fatalf("repeated create answered %+v", r)
	}
	again.RequestHash = []byte("other")
	if res := w.do(again); !errors.Is(res.Err, ErrKeyReused) {
		t.Fatalf("error %v", res.Err)
	}
	again.Reservations[0].Project = "other" // keys are a project's own
	w.must(again)
	w.pass(KeyLife + time.Second)
	third := w.create(want{name: "third", front: "a", workers: []string{"b"}, disks: []string{"b"}, so: time.Hour})
	third.Key, third.RequestHash = "k", []byte("third")
	w.must(third)
}

func TestNothingBeforeTheClusterIsMadeAndFormed(t *testing.T) {
	w := newWorld(t)
	if res := w.do(HostRegister{testHost("a")}); !errors.Is(res.Err, ErrNotInitialized) {
		t.Fatalf("error %v", res.Err)
	}
	w.must(sampleInit())
	if res := w.do(sampleInit()); !errors.Is(res.Err, ErrInitialized) {
		t.Fatalf("error %v", res.Err)
	}
	w.must(HostRegister{testHost("a", api.ClassGateway, api.ClassCompute, api.ClassStorage)})
	c := w.create(want{name: "lab", front: "a", workers: []string{"a"}, disks: []string{"a"}, so: time.Hour})
	if res := w.do(c); !errors.Is(res.Err, ErrNotFormed) {
		t.Fatalf("error %v", res.Err)
	}
	w.must(Formed{})
	w.must(Formed{})
	w.must(c)
}

func TestClusterInitRefuses(t *testing.T) {
	type C = ClusterInit
	pool := func(f func(*Pools)) func(*C) { return func(c *C) { f(&c.Meta.Pools) } }
	refuse(t, func(t *testing.T) *world { return newWorld(t) }, func(*world) C { return sampleInit() }, []refusal[C]{
		{"no cluster id", func(c *C) { c.Meta.ClusterID = "" }, ErrInvalid},
		{"no voters", func(c *C) { c.Meta.Expect = 0 }, ErrInvalid},
		{"VLAN 4095", pool(func(p *Pools) { p.VLANLast = 4095 }), ErrInvalid},
		{"VLANs backwards", pool(func(p *Pools) { p.VLANFirst = 200 }), ErrInvalid},
		{"subnets that are no network", pool(func(p *Pools) { p.Subnets = "10.0.0.1/8" }), ErrInvalid},
		{"subnets larger than the pool", pool(func(p *Pools) { p.SubnetBits = 8 }), ErrInvalid},
		{"public addresses backwards", pool(func(p *Pools) { p.PublicLast = "192.0.2.1" }), ErrInvalid},
		{"public addresses in two networks", pool(func(p *Pools) { p.PublicLast = "192.0.3.1" }), ErrInvalid},
		{"the public network's own address", pool(func(p *Pools) { p.PublicFirst, p.PublicGateway = "192.0.2.0", "" }), ErrInvalid},
		{"the public broadcast address", pool(func(p *Pools) { p.PublicLast = "192.0.2.255" }), ErrInvalid},
		{"a gateway in the pool", pool(func(p *Pools) { p.PublicGateway = "192.0.2.40" }), ErrInvalid},
		{"a gateway in another network", pool(func(p *Pools) { p.PublicGateway = "192.0.3.1" }), ErrInvalid},
		{"a gateway that is a broadcast address", pool(func(p *Pools) { p.PublicGateway = "192.0.2.255" }), ErrInvalid},
		{"a gateway of another family", pool(func(p *Pools) { p.PublicGateway = "2001:db8::1" }), ErrInvalid},
		{"subnets that hold the public network", pool(func(p *Pools) { p.Subnets = "192.0.0.0/16" }), ErrInvalid},
		{"subnets within the public network", pool(func(p *Pools) { p.Subnets, p.SubnetBits = "192.0.2.128/25", 28 }), ErrInvalid},
		{"a universal MAC prefix", pool(func(p *Pools) { p.MACPrefix = "00:16:3e" }), ErrInvalid},
		{"a multicast MAC prefix", pool(func(p *Pools) { p.MACPrefix = "53:54:00" }), ErrInvalid},
		{"a token without a hash", func(c *C) { c.Token.Hash = nil }, ErrInvalid},
	})
}

func TestHostRegisterRefuses(t *testing.T) {
	type C = HostRegister
	good := func(*world) C { return C{testHost("d", api.ClassStorage)} }
	refuse(t, labWorld, good, []refusal[C]{
		{"another host's name", func(c *C) { c.Host.Name = "host-a" }, ErrNameTaken},
		{"no id", func(c *C) { c.Host.ID = "" }, ErrInvalid},
		{"no cores", func(c *C) { c.Host.CPUs = 0 }, ErrInvalid},
		{"an unknown class", func(c *C) { c.Host.Classes = []api.Class{"gpu"} }, ErrInvalid},
		{"storage without an address", func(c *C) { c.Host.Storage = "" }, ErrInvalid},
	})
}

func TestHostRegisterKeepsStatusAndSaysWhenItShrank(t *testing.T) {
	w := formed(t)
	w.must(HostStatusSet{"b", HostDead})
	before, _ := w.f.View().Host("b")
	h := testHost("b", api.ClassCompute, api.ClassStorage)
	h.Underlay, h.Status, h.Cordoned = "new", HostLeft, "made up"
	w.must(HostRegister{h})
	after, _ := w.f.View().Host("b")
	if after.Status != HostDead || after.Registered != before.Registered || after.Cordoned != "" || after.Underlay != "new" {
		t.Fatalf("host %+v", after)
	}
	w.must(HostStatusSet{"b", HostAlive})
	w.must(w.create(want{name: "lab", front: "a", workers: []string{"b"}, disks: []string{"b"}, cpus: 4, in: time.Hour, so: time.Hour}))
	h.CPUs = 3
	w.must(HostRegister{h})
	if got, _ := w.f.View().Host("b"); got.Short == "" {
		t.Fatal("a host that shrank below its bookings does not say so")
	}
	if r := w.get("r1"); len(r.Conditions) != 1 || r.Conditions[0].Type != "missing_resources" {
		t.Fatalf("conditions %+v", r.Conditions)
	}
	h.CPUs = 8
	w.must(HostRegister{h})
	if r := w.get("r1"); len(r.Conditions) != 0 {
		t.Fatalf("conditions %+v", r.Conditions)
	}
}

func TestHostStatusSetAndReportRefuse(t *testing.T) {
	refuse(t, labWorld, func(*world) HostStatusSet { return HostStatusSet{"a", HostDead} }, []refusal[HostStatusSet]{
		{"an unknown host", func(c *HostStatusSet) { c.Host = "z" }, ErrUnknownHost},
		{"an unknown status", func(c *HostStatusSet) { c.Status = "ill" }, ErrInvalid},
	})
	good := func(*world) HostReport {
		return HostReport{Host: "a", Objects: []Object{{Kind: KindNetwork, ID: "1", State: ObjReady}}}
	}
	refuse(t, labWorld, good, []refusal[HostReport]{
		{"an unknown host", func(c *HostReport) { c.Host = "z" }, ErrUnknownHost},
		{"an index that is not yet", func(c *HostReport) { c.Applied = 1 << 40 }, ErrInvalid},
		{"an object without a state", func(c *HostReport) { c.Objects[0].State = "" }, ErrInvalid},
	})
}

func TestHostReportTeachesImages(t *testing.T) {
	w := formed(t)
	whole := Object{Kind: KindImage, ID: "rec-w", State: ObjReady, Digest: "d1", SizeBytes: gib}
	boot := whole
	boot.BootOnly = true
	w.must(HostReport{Host: "c", Objects: []Object{boot}})
	if n := len(w.f.View().Images()); n != 0 {
		t.Fatal("boot files alone are no image")
	}
	w.must(HostReport{Host: "b", Objects: []Object{whole}})
	i, ok := w.f.View().Image("rec-w")
	if !ok || i.State != ImageReady || i.Digest != "d1" {
		t.Fatalf("a cached image was not learned: %+v", i)
	}
	w.must(ImageWant{Recipe: "rec-w", Appliance: "worker", Rolls: []string{"base@1"}, Builder: "a"})
	if i, _ = w.f.View().Image("rec-w"); i.Appliance != "worker" || i.Digest != "d1" || i.Builder != "" {
		t.Fatalf("image %+v", i)
	}
	if res := w.do(ImageAssign{"rec-w", "c"}); !errors.Is(res.Err, ErrState) {
		t.Fatalf("a built image was assigned: %v", res.Err)
	}
	w.must(HostReport{Host: "b"})
	w.must(ImageAssign{"rec-w", "c"})
	if i, _ = w.f.View().Image("rec-w"); i.Digest != "" || i.Builder != "c" || i.State != ImageWanted {
		t.Fatalf("image %+v", i)
	}
}

func TestImageBuildProgressIsToldWithoutFlooding(t *testing.T) {
	w := formed(t)
	w.must(ImageWant{Recipe: "rec-w", Appliance: "worker", Builder: "a"})
	step := func(state, msg string) {
		w.must(HostReport{Host: "a", Objects: []Object{{Kind: KindImage, ID: "rec-w", State: state, Message: msg}}})
	}
	for range 5 {
		step(ObjWorking, "unpacking")
		step(ObjWorking, "running scripts")
	}
	step(ObjFailed, "script 3 failed")
	if i, _ := w.f.View().Image("rec-w"); i.State != ImageFailed || i.Message != "script 3 failed" || i.Builder != "a" {
		t.Fatalf("image %+v", i)
	}
	var kinds []string
	for _, e := range w.f.View().Events(0, 1000, "") {
		if e.Kind[:5] == "image" {
			kinds = append(kinds, e.Kind)
		}
	}
	if want := []string{"image.wanted", "image.building", "image.failed"}; !slices.Equal(kinds, want) {
		t.Fatalf("events %v, want %v", kinds, want)
	}
	if res := w.do(ImageAssign{"rec-x", "b"}); !errors.Is(res.Err, ErrNotFound) {
		t.Fatalf("error %v", res.Err)
	}
	w.must(ImageAssign{"rec-w", "b"})
	if !w.f.View().AssignmentFor("b").Images[0].Build || len(w.f.View().AssignmentFor("a").Images) != 0 {
		t.Fatal("the build did not move from a to b")
	}
}

func TestTokensAreUniqueBoundedAndRevocable(t *testing.T) {
	type C = TokenCreate
	good := func(*world) C {
		return C{Token{ID: "t1", Kind: api.TokenProject, Project: "studio", Hash: make([]byte, 32), Expires: epoch.Add(time.Hour)}}
	}
	refuse(t, labWorld, good, []refusal[C]{
		{"an id in use", func(c *C) { c.Token.ID = "op" }, ErrExists},
		{"an unknown kind", func(c *C) { c.Token.Kind = "root" }, ErrInvalid},
		{"no project", func(c *C) { c.Token.Project = "" }, ErrInvalid},
		{"a short hash", func(c *C) { c.Token.Hash = []byte("x") }, ErrInvalid},
		{"an expiry in the past", func(c *C) { c.Token.Expires = epoch.Add(-time.Hour) }, ErrInvalid},
	})
	w := formed(t)
	w.must(good(w))
	w.must(TokenRevoke{"t1"})
	if res := w.do(TokenRevoke{"t1"}); !errors.Is(res.Err, ErrNotFound) {
		t.Fatalf("error %v", res.Err)
	}
	w.must(good(w))
	w.pass(time.Hour + TokenGrace)
	if _, ok := w.f.View().TokenByID("t1"); ok {
		t.Fatal("an expired token is kept for ever")
	}
}

func TestRollsRegisterTellsOnlyWhatIsNew(t *testing.T) {
	w := formed(t)
	w.must(RollsRegister{[]Roll{{Name: "slurm", Version: "1", Digest: "x"}}})
	n := len(w.f.View().Events(0, 1000, ""))
	w.must(RollsRegister{[]Roll{{Name: "slurm", Version: "1", Digest: "x"}}})
	if len(w.f.View().Events(0, 1000, "")) != n {
		t.Fatal("an event for nothing new")
	}
	w.must(RollsRegister{[]Roll{{Name: "slurm", Version: "1", Digest: "y"}, {Name: "slurm", Version: "2", Digest: "z"}}})
	if r := w.f.View().Rolls(); len(r) != 2 || r[0].Digest != "y" {
		t.Fatalf("rolls %+v", r)
	}
	if res := w.do(RollsRegister{[]Roll{{Name: "slurm"}}}); !errors.Is(res.Err, ErrInvalid) {
		t.Fatalf("error %v", res.Err)
	}
}

func TestReservationFailEndsOnlyWhatIsNotReady(t *testing.T) {
	w := formed(t)
	if res := w.do(ReservationFail{ID: "r9"}); !errors.Is(res.Err, ErrNotFound) {
		t.Fatalf("error %v", res.Err)
	}
	w.must(w.lab("lab"))
	w.work(3, "a", "b", "c")
	if res := w.do(ReservationFail{ID: "r1"}); !errors.Is(res.Err, ErrState) {
		t.Fatalf("error %v", res.Err)
	}
	w.must(w.create(want{name: "later", front: "a", workers: []string{"b"}, disks: []string{"b"}, in: time.Hour, so: time.Hour}))
	w.must(ReservationFail{ID: "r2", Message: "image of worker cannot be built"})
	if r := w.state("r2", api.StateFailed); r.Message != "image of worker cannot be built" {
		t.Fatalf("message %q", r.Message)
	}
}

func TestUnreadableEntriesStopTheProcess(t *testing.T) {
	good, err := Encode(Formed{}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(f func(b []byte) []byte) []byte { return f(slices.Clone(good)) }
	for name, data := range map[string][]byte{
		"unknown type":   edit(func(b []byte) []byte { b[1] = 0xff; return b }),
		"unknown format": edit(func(b []byte) []byte { b[0] = 9; return b }),
		"malformed body": edit(func(b []byte) []byte { return append(b, '}') }),
		"cut header":     good[:5],
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Fatal("the process went on")
				}
			}()
			New(quiet()).Apply(&raft.Log{Index: 1, Data: data})
		})
	}
}
