package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"vcn/cluster"
	"vcn/daemon/agent"
	"vcn/daemon/control"
	"vcn/daemon/httpapi"
	"vcn/daemon/httpapi/agentclient"
	"vcn/daemon/notify"
	"vcn/fsm"
	"vcn/rolls"
)

// Version is set at build time; a build without it is "dev".
var Version = "dev"

const (
	stopTimeMax       = 10 * time.Second
	registerEvery     = time.Minute
	advertEvery       = 5 * time.Second
	advertWall        = "wall"  // this host's wall clock, RFC 3339
	advertBlind       = "blind" // there if this host cannot see what it runs
	headerReadTimeMax = 10 * time.Second
	idleConnTimeMax   = 2 * time.Minute
	memoryLimitBytes  = 2 << 30 // soft: the garbage collector works harder before
	workerDelayTCG    = 4 * time.Second
	// niceness puts vcnd before the guests, which are children of libvirtd: a
	// host that is busy with them must not lose its place in the Raft group.
	niceness = -10
)

// Daemon is one running vcnd.
type Daemon struct {
	cfg      Config
	confPath string
	id       Identity
	log      *slog.Logger
	drv      *drivers
	catalog  *rolls.Catalog
	state    *fsm.FSM
	node     *cluster.Node
	ctl      *control.Control
	web      *httpapi.Server
	agents   *agentclient.Client
	agent    *agent.Agent
	tell     *notify.Queue
	members  chan struct{} // membership may have changed, for control
	images   atomic.Pointer[[]string]
	room     storeRoom
}

// Run is "vcnd run": it returns when ctx ends and everything has stopped, or
// when something that it cannot do without fails.
func Run(ctx context.Context, c Config, confPath string, log *slog.Logger) error {
	debug.SetMemoryLimit(memoryLimitBytes)
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, niceness); err != nil {
		log.Warn("guests and vcnd share processors alike: cannot raise our priority", "err", err)
	}
	id, err := loadIdentity(c.DataDir)
	if err != nil {
		return err
	}
	if id.Name != c.Name {
		return fmt.Errorf("name: %q: want %q, which this host had when it joined", c.Name, id.Name)
	}
	d := &Daemon{cfg: c, confPath: confPath, id: id, log: log.With("host", c.Name), members: make(chan struct{}, 1)}
	if d.catalog, err = rolls.Builtin(); err != nil {
		return fmt.Errorf("read built-in rolls: %w", err)
	}
	if d.drv, err = openDrivers(ctx, c, id, d.log); err != nil {
		return err
	}
	defer d.drv.domains.Close()
	defer func() {
		if d.tell != nil {
			d.tell.Close()
		}
	}()
	if err := d.build(); err != nil {
		if d.node != nil {
			err = errors.Join(err, d.node.Shutdown(context.WithoutCancel(ctx)))
		}
		return err
	}
	return d.serve(ctx)
}

// build puts the rooms together; nothing of ours serves yet.
func (d *Daemon) build() error {
	d.state = fsm.New(d.log.With("room", "fsm"))
	if err := d.buildNode(); err != nil {
		return err
	}
	var err error
	if d.tell, err = openNotifier(d.cfg.Notify, d.state, d.log.With("room", "notify")); err != nil {
		return err
	}
	d.ctl, err = control.New(control.Config{
		Notifier: notifier{d.tell},
		Applier:  d.node, State: d.state, Members: controlMembers{d.node}, Catalog: d.catalog, Changed: d.members,
		Errors: control.Errors{
			NotLeader: func(err error) bool {
				return errors.Is(err, cluster.ErrNotLeader) || errors.Is(err, cluster.ErrNoLeader)
			},
			Unknown: func(err error) bool { return errors.Is(err, cluster.ErrOutcomeUnknown) },
		},
		Log: d.log.With("room", "control"),
	})
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	view := clusterView{d.node}
	d.web, err = httpapi.New(httpapi.Config{
		HostID: d.id.HostID, HostName: d.cfg.Name, Version: Version,
		State: d.state, Control: d.ctl, Cluster: view, PeerHost: cluster.PeerHost, Registry: registry, Log: d.log.With("room", "httpapi"),
		Health: d.room.health,
	})
	if err != nil {
		return fmt.Errorf("make API: %w", err)
	}
	d.agents = agentclient.New(agentclient.Config{
		Host: d.id.HostID, Peers: view, RaftPeers: view.raftPeers, Local: d.web, Log: d.log.With("room", "agentclient"),
	})
	delay := time.Duration(0)
	if d.drv.facts.Accel == "tcg" {
		delay = workerDelayTCG
	}
	if d.cfg.WorkerDelay != "" {
		if delay, err = time.ParseDuration(d.cfg.WorkerDelay); err != nil {
			return fmt.Errorf("workerDelay: %w", err)
		}
	}
	conf := agent.Config{
		HostID: d.id.HostID, DataDir: d.cfg.DataDir, PublicBridge: d.cfg.Network.PublicBridge, GuestMTU: d.cfg.Network.MTU, WorkerDelay: delay,
		Source: agentSource{d.agents, d.node}, Catalog: d.catalog,
		Domains: d.drv.domains, Guests: d.drv.domains, Networks: d.drv.networks, Volumes: d.drv.volumes, Initiators: d.drv.initiators, Images: d.drv.images,
		Log: d.log.With("room", "agent"), OnImages: d.setImages,
	}
	if d.drv.targets != nil {
		conf.Targets = d.drv.targets
	}
	d.agent, err = agent.New(conf)
	return err
}

// buildNode opens gossip and, where there is data, Raft.
func (d *Daemon) buildNode() error {
	internal, err1 := netip.ParseAddrPort(d.cfg.Internal.Listen)
	gossip, err2 := netip.ParseAddrPort(d.cfg.Gossip.Listen)
	dead, err3 := time.ParseDuration(d.cfg.Raft.DeadAfter)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	node, err := cluster.New(cluster.Config{
		ClusterID: d.id.ClusterID, HostID: d.id.HostID, Name: d.cfg.Name, DataDir: d.cfg.DataDir,
		CA: d.id.CA, Cert: d.id.Cert, Key: d.id.Key, GossipKey: d.id.GossipKey,
		Bind: internal, GossipBind: gossip, FSM: d.state, FailureDomain: d.cfg.FailureDomain,
		VotersMax: d.cfg.Raft.Voters, NeverPeer: d.cfg.Raft.NeverPeer,
		KnownHosts: d.knownHosts, Bootstrap: d.id.Bootstrap != nil,
		Timing: cluster.Timing{DeadAfter: dead},
		Log:    d.log.With("room", "cluster"),
	})
	if err != nil {
		return fmt.Errorf("open cluster: %w", err)
	}
	d.node = node
	return nil
}

func (d *Daemon) knownHosts() []cluster.KnownHost {
	var out []cluster.KnownHost
	for _, h := range d.state.View().Hosts() {
		out = append(out, cluster.KnownHost{ID: h.ID, Name: h.Name, Internal: h.Internal, FailureDomain: h.FailureDomain})
	}
	return out
}

// serve runs everything until ctx ends or a part of it fails.
func (d *Daemon) serve(ctx context.Context) error {
	public, err := d.listenAPI()
	if err != nil {
		return errors.Join(err, d.node.Shutdown(context.WithoutCancel(ctx)))
	}
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	api := &http.Server{
		Handler: d.web.Public(), ReadHeaderTimeout: headerReadTimeMax, IdleTimeout: idleConnTimeMax,
		ErrorLog: slog.NewLogLogger(d.log.With("room", "httpapi").Handler(), slog.LevelDebug),
	}
	d.node.ServeHTTP(d.internalHandler())
	d.node.RunAsLeader("control", d.lead)
	var wg sync.WaitGroup
	part := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(run); err != nil && run.Err() == nil {
				stop(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	part("serve API", func(context.Context) error {
		if err := api.Serve(public); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	if d.drv.targets != nil {
		part("target process", func(ctx context.Context) error {
			return keepTarget(ctx, d.cfg, d.confPath, d.drv.targets, d.log)
		})
	}
	part("join", d.join)
	part("register", d.register)
	part("advertise", d.advertise)
	part("agent", d.agent.Run)
	d.log.Info("vcnd runs", "id", d.id.HostID, "cluster", d.id.ClusterID, "api", d.cfg.API.Listen, "version", Version)

	<-run.Done()
	failed := context.Cause(run)
	if ctx.Err() != nil {
		failed = nil
	}
	d.log.Info("stopping; guests, links and disks stay", "why", context.Cause(run))
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeMax)
	defer cancel()
	if err := api.Shutdown(end); err != nil {
		api.Close() // long polls that are still held
	}
	wg.Wait()
	return errors.Join(failed, d.node.Shutdown(end))
}

// listenAPI opens the public API: the host's certificate with its CA behind,
// so that a client that knows only the CA's fingerprint can pin it.
func (d *Daemon) listenAPI() (net.Listener, error) {
	cert, err := tls.X509KeyPair(append(slices.Clone(d.id.Cert), d.id.CA...), d.id.Key)
	if err != nil {
		return nil, fmt.Errorf("read host certificate: %w", err)
	}
	l, err := tls.Listen("tcp", d.cfg.API.Listen, &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
	})
	if err != nil {
		return nil, fmt.Errorf("listen for the API: %w", err)
	}
	return l, nil
}

// lead is the leader's work for one term. The very first leader of all makes
// the cluster's first record.
func (d *Daemon) lead(ctx context.Context) {
	for d.id.Bootstrap != nil && ctx.Err() == nil {
		err := d.firstCommand(ctx)
		if err == nil {
			break
		}
		d.log.Error("make first record", "err", err)
		pause(ctx, time.Second)
	}
	d.ctl.RunLeader(ctx)
}

func (d *Daemon) firstCommand(ctx context.Context) error {
	if _, made := d.state.View().Meta(); !made {
		cmd, err := fsm.Encode(*d.id.Bootstrap, time.Now())
		if err != nil {
			return err
		}
		res, _, err := d.node.Apply(ctx, cmd)
		if err != nil {
			return err
		}
		if r, ok := res.(fsm.Result); ok && r.Err != nil && !errors.Is(r.Err, fsm.ErrInitialized) {
			return r.Err
		}
	}
	d.id.Bootstrap = nil
	if err := saveIdentity(d.cfg.DataDir, d.id, false); err != nil {
		// The state has the record; after a restart it is found there.
		d.log.Warn("forget first record", "err", err)
	}
	return nil
}

// join meets the hosts that were known when this one joined; the node itself
// remembers later ones.
func (d *Daemon) join(ctx context.Context) error {
	for len(d.id.Peers) > 0 && ctx.Err() == nil {
		err := d.node.Join(ctx, d.id.Peers)
		if err == nil {
			return nil
		}
		d.log.Warn("join gossip", "peers", d.id.Peers, "err", err)
		pause(ctx, time.Second)
	}
	return nil
}

// register makes this host known, and keeps its record true.
func (d *Daemon) register(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := d.agents.Register(ctx, fsm.HostRegister{Host: d.describe(ctx)}); err != nil && ctx.Err() == nil {
			d.log.Error("register this host", "err", err)
			pause(ctx, 5*time.Second)
			continue
		}
		pause(ctx, registerEvery)
	}
	return nil
}

// sized is this host's record with the room that its store has now.
func (d *Daemon) sized(ctx context.Context) fsm.Host {
	h := d.drv.record
	if d.drv.volumes == nil {
		return h
	}
	h.StorageBytes, _ = d.room.look(ctx, d.drv.volumes)
	if most := int64(d.cfg.Capacity.Storage); most > 0 {
		h.StorageBytes = min(h.StorageBytes, most)
	}
	return h
}

// describe is sized with what only the target process knows.
func (d *Daemon) describe(ctx context.Context) fsm.Host {
	h := d.sized(ctx)
	if d.drv.targets == nil {
		return h
	}
	ctx, cancel := context.WithTimeout(ctx, targetAnswerMax)
	defer cancel()
	if name, _, err := d.drv.targets.Engine(ctx); err == nil {
		h.TargetEngine = name
	}
	return h
}

// setImages takes what the agent saw.
func (d *Daemon) setImages(digests []string) { d.images.Store(&digests) }

// advertise tells the others by gossip what this host has and has free.
func (d *Daemon) advertise(ctx context.Context) error {
	changed := d.node.WatchMembers(ctx)
	tick := time.NewTicker(advertEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := d.node.SetAdvert(d.advert(ctx)); err != nil {
			d.log.Warn("advertise", "err", err)
		}
	wait:
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				break wait
			case <-changed:
				select {
				case d.members <- struct{}{}:
				default:
				}
			}
		}
	}
	return nil
}

func (d *Daemon) advert(ctx context.Context) cluster.Advert {
	h := d.sized(ctx)
	a := cluster.Advert{
		API: h.API, Storage: h.Storage, Underlay: h.Underlay, CPUs: h.CPUs, MemoryBytes: h.MemoryBytes, StorageBytes: h.StorageBytes,
		FreeCPUs: h.CPUs, FreeMemory: h.MemoryBytes, Version: h.Version, Accelerator: h.Accel, NetworkDriver: h.Network,
	}
	// The leader asks the others' clocks before it believes a jump of its own.
	a.Extra = map[string]string{advertWall: time.Now().UTC().Format(time.RFC3339Nano)}
	if d.agent.Blind() {
		a.Extra[advertBlind] = "true"
	}
	for _, c := range h.Classes {
		a.Classes = append(a.Classes, string(c))
	}
	cpus, memory := d.agent.Held()
	a.FreeCPUs, a.FreeMemory = h.CPUs-cpus, h.MemoryBytes-memory
	if im := d.images.Load(); im != nil {
		a.Images = *im
	}
	if d.drv.volumes != nil {
		_, a.FreeStorage = d.room.look(ctx, d.drv.volumes)
	}
	return a
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
