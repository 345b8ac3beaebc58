package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"vcn/api"
	"vcn/fsm"
	"vcn/hostops"
	"vcn/hostops/fake"
	"vcn/rolls"
)

// peer is a Source in memory: it hands out what set gave it and keeps reports.
type peer struct {
	mu      sync.Mutex
	assign  fsm.Assignment
	changed chan struct{}
	down    error
	reports []fsm.HostReport
	images  map[string]hostops.Images // by host id
}

func newPeer() *peer { return &peer{changed: make(chan struct{}), images: map[string]hostops.Images{}} }

func (p *peer) set(a fsm.Assignment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.assign = a
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *peer) Assignment(ctx context.Context, after uint64) (fsm.Assignment, error) {
	for {
		p.mu.Lock()
		a, ch, down := p.assign, p.changed, p.down
		p.mu.Unlock()
		if down != nil {
			return fsm.Assignment{}, down
		}
		if a.Version > after {
			return a, nil
		}
		select {
		case <-ctx.Done():
			return fsm.Assignment{}, ctx.Err()
		case <-ch:
		}
	}
}

func (p *peer) Report(_ context.Context, r fsm.HostReport) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down != nil {
		return p.down
	}
	p.reports = append(p.reports, r)
	return nil
}

func (p *peer) Image(ctx context.Context, host, digest string, bootOnly bool) (io.ReadCloser, error) {
	var b bytes.Buffer
	if err := p.images[host].Export(ctx, digest, bootOnly, &b); err != nil {
		return nil, err
	}
	return io.NopCloser(&b), nil
}

// last returns the latest report's object of a kind, nil if it has none.
func (p *peer) last(kind string) *fsm.Object {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.reports) == 0 {
		return nil
	}
	objs := p.reports[len(p.reports)-1].Objects
	if i := slices.IndexFunc(objs, func(o fsm.Object) bool { return o.Kind == kind }); i >= 0 {
		return &objs[i]
	}
	return nil
}

func (p *peer) stateOf(kind string) string {
	if o := p.last(kind); o != nil {
		return o.State
	}
	return "absent"
}

// oneRoll is a catalog whose every recipe is one small roll.
type oneRoll struct{ roll *rolls.Roll }

func newOneRoll(t *testing.T) oneRoll {
	t.Helper()
	r, err := rolls.Load(fstest.MapFS{
		"base/roll.yaml": &fstest.MapFile{Data: []byte("name: base\nversion: \"1\"\ndescription: for tests\napply:\n  \"*\":\n    seed: [{path: /etc/hostname, source: hostname}, {path: /etc/hosts, source: hosts, live: true}]\n    reload: [\"true {{.Node.Name}}\"]\n")},
		"base/hosts":     &fstest.MapFile{Data: []byte("{{range .Nodes}}{{.Name}} {{end}}\n")},
		"base/hostname":  &fstest.MapFile{Data: []byte("{{.Node.Name}}\n")},
	}, "base")
	if err != nil {
		t.Fatal(err)
	}
	return oneRoll{r}
}

func (c oneRoll) Resolve(_ []string, appliance string) (rolls.Recipe, error) {
	return rolls.Recipe{Appliance: appliance, Rolls: []*rolls.Roll{c.roll}}, nil
}

// rig is one agent on a fake host, in a bubble of virtual time.
type rig struct {
	t       *testing.T
	host    *fake.Host
	peer    *peer
	catalog oneRoll
	dir     string
	stop    context.CancelFunc
	done    chan struct{}
	image   hostops.Image
	agent   *Agent // of the last start
	// initiators is nil where the hypervisor's own initiator is used.
	initiators hostops.Initiators
}

const volumeID = "v-1"

func newRig(t *testing.T, c fake.Config) *rig {
	t.Helper()
	r := &rig{t: t, host: fake.New(c), peer: newPeer(), catalog: newOneRoll(t), dir: t.TempDir()}
	t.Cleanup(func() { r.host.Close() })
	recipe, err := r.catalog.Resolve(nil, "frontend")
	if err != nil {
		t.Fatal(err)
	}
	if r.image, err = r.host.Images().Build(t.Context(), hostops.BuildSpec{Recipe: recipe}, nil); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) start() {
	r.t.Helper()
	a, err := New(Config{
		HostID: "h1", DataDir: r.dir, PublicBridge: "br-pub", GuestMTU: 1450, Source: r.peer, Catalog: r.catalog,
		Domains: r.host.Domains(), Networks: r.host.Networks(), Volumes: r.host.Volumes(),
		Targets: r.host.Targets(), Images: r.host.Images(), WorkerDelay: 4 * time.Second,
		Initiators: r.initiators, Guests: r.host.Guests(),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.agent = a
	ctx, cancel := context.WithCancel(context.Background())
	r.stop, r.done = cancel, make(chan struct{})
	go func() {
		defer close(r.done)
		if err := a.Run(ctx); err != nil {
			r.t.Error(err)
		}
	}()
}

func (r *rig) end() {
	r.stop()
	<-r.done
}

// cluster is an assignment with a frontend whose volume is on the same host.
func (r *rig) cluster(index, generation uint64) fsm.Assignment {
	const res = "res-1"
	node := fsm.Node{Name: "frontend", Role: api.RoleFrontend, Appliance: "frontend", CPUs: 1, MemoryBytes: 1 << 29,
		PrivateMAC: "02:76:63:00:00:01", PrivateIP: "10.64.0.1", PublicMAC: "02:76:63:00:00:02", PublicIP: "192.0.2.10"}
	return fsm.Assignment{
		Version: index, Host: "h1",
		Networks: []fsm.NetworkWork{{Reservation: res, VLAN: 100}},
		Volumes:  []fsm.VolumeWork{{ID: volumeID, Reservation: res, Node: "frontend", SizeBytes: 4 << 30, Recipe: r.image.Recipe, ImageDigest: r.image.Digest, Generation: generation}},
		Nodes: []fsm.NodeWork{{Reservation: res, Node: "frontend", Generation: generation, CPUs: 1, MemoryBytes: 1 << 29, VLAN: 100,
			PrivateMAC: node.PrivateMAC, PublicMAC: node.PublicMAC, ImageDigest: r.image.Digest, Appliance: "frontend", Frontend: true, Volume: volumeID, Run: true}},
		Images:   []fsm.ImageWork{{Recipe: r.image.Recipe, Appliance: "frontend", Digest: r.image.Digest}},
		Clusters: map[string]fsm.ClusterWork{res: {ID: res, Name: "c", Project: "p", Subnet: "10.64.0.0/20", PublicBits: 24, Nodes: []fsm.Node{node}}},
	}
}

// await lets virtual time pass until ok, and fails after a long while.
func (r *rig) await(what string, ok func() bool) {
	r.t.Helper()
	for range 3000 {
		synctest.Wait()
		if ok() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	r.t.Fatalf("waited in vain for %s; last report %+v", what, r.peer.reports[max(0, len(r.peer.reports)-1):])
}

func (r *rig) nothingLeft() bool {
	ctx := r.t.Context()
	d, e1 := r.host.Domains().List(ctx)
	n, e2 := r.host.Networks().List(ctx)
	v, e3 := r.host.Volumes().List(ctx)
	x, e4 := r.host.Targets().List(ctx)
	if err := errors.Join(e1, e2, e3, e4); err != nil {
		r.t.Fatal(err)
	}
	return len(d)+len(n)+len(v)+len(x) == 0
}

func TestAssignedClusterIsMadeReportedReadyAndRemovedWhenDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fake.Config{})
		r.start()
		defer r.end()
		r.peer.set(r.cluster(1, 1))
		r.await("the node to be ready", func() bool { return r.peer.stateOf(fsm.KindNode) == fsm.ObjReady })
		for _, kind := range []string{fsm.KindNetwork, fsm.KindVolume, fsm.KindImage} {
			if s := r.peer.stateOf(kind); s != fsm.ObjReady {
				t.Errorf("%s is %s, want ready", kind, s)
			}
		}
		r.peer.set(fsm.Assignment{Version: 2, Host: "h1"})
		r.await("everything to go", func() bool {
			return r.nothingLeft() && r.peer.stateOf(fsm.KindNode)+r.peer.stateOf(fsm.KindVolume)+r.peer.stateOf(fsm.KindNetwork) == "absentabsentabsent"
		})
		if left, _ := filepath.Glob(filepath.Join(r.dir, "nodes", "*")); len(left) != 0 {
			t.Errorf("files of nodes are left: %v", left)
		}
	})
}

func TestNothingIsRemovedBeforeAPeerHasAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fake.Config{})
		r.start()
		r.peer.set(r.cluster(1, 1))
		r.await("the node to be ready", func() bool { return r.peer.stateOf(fsm.KindNode) == fsm.ObjReady })
		r.end()
		// A restart alone, with a kept assignment that says less than the host holds.
		if err := saveAssignment(filepath.Join(r.dir, "assignment.json"), fsm.Assignment{Version: 1, Host: "h1"}); err != nil {
			t.Fatal(err)
		}
		r.peer.down = errors.New("no peer answers")
		r.start()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if d, err := r.host.Domains().List(t.Context()); err != nil || len(d) != 1 || d[0].State != hostops.DomainRunning {
			t.Fatalf("domains are %+v, %v; want the running node", d, err)
		}
		r.peer.mu.Lock()
		r.peer.down = nil
		r.peer.mu.Unlock()
		r.peer.set(fsm.Assignment{Version: 2, Host: "h1"})
		r.await("removal on a peer's word", r.nothingLeft)
		r.end()
	})
}

func TestAssignmentOfAPeerThatLagsBehindIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fake.Config{})
		r.start()
		r.peer.set(r.cluster(7, 1))
		r.await("the node to be ready", func() bool { return r.peer.stateOf(fsm.KindNode) == fsm.ObjReady })
		r.end()
		// After the restart a peer answers that has not heard of the cluster yet.
		r.peer.set(fsm.Assignment{Version: 6, Host: "h1"})
		r.start()
		defer r.end()
		time.Sleep(time.Minute)
		synctest.Wait()
		d, err := r.host.Domains().List(t.Context())
		v, err2 := r.host.Volumes().List(t.Context())
		if err != nil || err2 != nil || len(d) != 1 || len(v) != 1 {
			t.Fatalf("domains %+v, %v, volumes %+v, %v: want the node and its disk untouched", d, err, v, err2)
		}
	})
}

func TestHostThatRestartsAloneStartsWhatItRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fake.Config{})
		r.start()
		r.peer.set(r.cluster(1, 1))
		r.await("the node to be ready", func() bool { return r.peer.stateOf(fsm.KindNode) == fsm.ObjReady })
		r.end()
		if err := r.host.Domains().Remove(t.Context(), "res-1", "frontend"); err != nil { // the machine was off
			t.Fatal(err)
		}
		r.peer.down = errors.New("no peer answers")
		r.start()
		defer r.end()
		r.await("the node to run", func() bool {
			d, err := r.host.Domains().List(t.Context())
			return err == nil && len(d) == 1 && d[0].State == hostops.DomainRunning
		})
	})
}

func TestFailureIsReportedAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fake.Config{})
		r.host.Fail("Volumes.Ensure", 3, hostops.ErrNoSpace)
		r.start()
		defer r.end()
		r.peer.set(r.cluster(1, 1))
		r.await("the failure's report", func() bool {
			o := r.peer.last(fsm.KindVolume)
			return o != nil && o.State == fsm.ObjFailed && strings.Contains(o.Message, "no space")
		})
		r.await("the node to be ready all the same", func() bool { return r.peer.stateOf(fsm.KindNode) == fsm.ObjReady })
	})
}

func TestStepThatStillRunsCountsAsHeldUntilItHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fake.Config{})
		r.host.Delay("Volumes.Ensure", 1, time.Hour)
		r.start()
		defer r.end()
		r.peer.set(r.cluster(1, 1))
		r.await("the clone to be reported", func() bool { return r.peer.stateOf(fsm.KindVolume) == fsm.ObjWorking })
		began := time.Now()
		r.peer.set(fsm.Assignment{Version: 2, Host: "h1"})
		r.await("everything to go", func() bool { return r.nothingLeft() && r.peer.stateOf(fsm.KindVolume) == "absent" })
		if took := time.Since(began); took > time.Minute {
			t.Errorf("the unwanted clone was waited for, %v: want it cancelled", took)
		}
		r.peer.mu.Lock()
		defer r.peer.mu.Unlock()
		for _, rep := range r.peer.reports {
			for _, o := range rep.Objects {
				if rep.Applied == 2 && o.Kind == fsm.KindVolume && o.ID != volumeID {
					t.Errorf("reported volume %q", o.ID)
				}
			}
		}
	})
}

func TestNewGenerationReplacesTheRunningNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fake.Config{})
		r.start()
		defer r.end()
		r.peer.set(r.cluster(1, 1))
		r.await("the node to be ready", func() bool { return r.peer.stateOf(fsm.KindNode) == fsm.ObjReady })
		r.peer.set(r.cluster(2, 2))
		r.await("generation 2 to be ready", func() bool {
			o := r.peer.last(fsm.KindNode)
			return o != nil && o.State == fsm.ObjReady && o.Generation == 2
		})
	})
}

func TestWorkerLetsTheFrontendBootFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fake.Config{ReadyAfter: time.Second})
		as := r.cluster(1, 1)
		as.Nodes[0].Frontend, as.Nodes[0].PublicMAC = false, ""
		r.start()
		defer r.end()
		began := time.Now()
		r.peer.set(as)
		r.await("the worker to be ready", func() bool { return r.peer.stateOf(fsm.KindNode) == fsm.ObjReady })
		if took := time.Since(began); took < 5*time.Second || took > 7*time.Second {
			t.Errorf("ready after %v, want the delay of 4 s and the boot of 1 s", took)
		}
	})
}

func TestMissingImageIsFetchedFromTheHostThatHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fake.Config{})
		other := fake.New(fake.Config{Name: "other"})
		defer other.Close()
		recipe, _ := r.catalog.Resolve(nil, "frontend")
		if _, err := other.Images().Build(t.Context(), hostops.BuildSpec{Recipe: recipe}, nil); err != nil {
			t.Fatal(err)
		}
		if err := r.host.Images().Remove(t.Context(), r.image.Digest); err != nil {
			t.Fatal(err)
		}
		r.peer.images["broken"] = fake.New(fake.Config{Name: "broken"}).Images()
		r.peer.images["other"] = other.Images()
		as := r.cluster(1, 1)
		as.Images[0].Sources = []string{"broken", "other"}
		r.start()
		defer r.end()
		r.peer.set(as)
		r.await("the node to be ready", func() bool { return r.peer.stateOf(fsm.KindNode) == fsm.ObjReady })
	})
}

func TestDeadHypervisorKeepsTheAgentFromActingAndItRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fake.Config{})
		r.start()
		defer r.end()
		r.peer.set(r.cluster(1, 1))
		r.await("the node to be ready", func() bool { return r.peer.stateOf(fsm.KindNode) == fsm.ObjReady })
		r.host.Fail("Domains.List", 1000, errors.New("connection refused"))
		r.peer.set(fsm.Assignment{Version: 2, Host: "h1"})
		time.Sleep(time.Minute)
		synctest.Wait()
		if n, err := r.host.Networks().List(t.Context()); err != nil || len(n) != 1 {
			t.Fatalf("networks are %+v, %v: want nothing removed on a partial read", n, err)
		}
		r.host.Heal("Domains.List")
		r.await("everything to go", r.nothingLeft)
	})
}
