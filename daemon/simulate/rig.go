package simulate

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"vcn/api"
	"vcn/daemon/control"
	"vcn/fsm"
	"vcn/rolls"
)

// rig is a state of its own, a control that leads, and hosts that do at once
// what they are told.
type rig struct {
	now     time.Time // the virtual clock
	fsm     *fsm.FSM
	control *control.Control
	index   uint64
}

// applier commits without a log.
type applier struct{ r *rig }

func (a applier) Apply(ctx context.Context, cmd []byte) (any, uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	a.r.index++
	return a.r.fsm.ApplyCommand(a.r.index, cmd), a.r.index, nil
}

// members are two hosts whose clocks are right: control asks a majority when
// time jumps.
type members struct{ r *rig }

func (m members) Members() []control.Member {
	return []control.Member{{HostID: "a", Status: fsm.HostAlive, Wall: m.r.now}, {HostID: "b", Status: fsm.HostAlive, Wall: m.r.now}}
}

func (members) Voters() int { return 3 }

func newRig(ctx context.Context, s *Scenario, hosts []Host, start time.Time) (*rig, error) {
	log := slog.New(slog.DiscardHandler)
	r := &rig{now: start, fsm: fsm.New(log)}
	catalog, err := rolls.NewCatalog()
	if err != nil {
		return nil, err
	}
	r.control, err = control.New(control.Config{Applier: applier{r}, State: r.fsm, Members: members{r}, Catalog: catalog,
		Now: func() time.Time { return r.now }, Lead: s.Lead, Log: log})
	if err != nil {
		return nil, err
	}
	clusters, waitMax := s.Clusters, s.WaitMax
	if clusters == 0 {
		clusters = ClustersMax
	}
	if waitMax == 0 {
		waitMax = api.PolicyWaitMax
	}
	setup := []fsm.Command{
		fsm.ClusterInit{Meta: fsm.Meta{ClusterID: "simulation", Name: "simulation", Expect: 1, Pools: pools(clusters)},
			Token: fsm.Token{ID: "simulation", Kind: api.TokenOperator, Hash: make([]byte, 32), Expires: start.AddDate(19, 0, 0)}},
		fsm.PolicySet{Policy: fsm.Policy{HoldMax: fsm.HoldMax, HoldsMax: fsm.HoldsMax, ParkMax: fsm.ParkMax, SeriesMax: fsm.SeriesMax, WaitMax: waitMax}},
		fsm.Formed{},
	}
	for i, h := range hosts {
		setup = append(setup, fsm.HostRegister{Host: h.record(i)})
	}
	for _, cmd := range setup {
		if err := r.apply(ctx, cmd); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	return r, r.buildImages(ctx, catalog)
}

// record is the n-th host as it would register.
func (h *Host) record(n int) fsm.Host {
	id := hostID(n)
	rec := fsm.Host{ID: id, Name: h.Name, Classes: h.Classes, FailureDomain: h.FailureDomain, CPUs: h.CPUs,
		MemoryBytes: int64(h.Memory), StorageBytes: int64(h.Storage), Internal: id, API: id, Underlay: id, Accel: "kvm", Network: "vlan", Version: "simulation"}
	if slices.Contains(h.Classes, api.ClassStorage) {
		rec.Storage = id
	} else {
		rec.StorageBytes = 0
	}
	return rec
}

func hostID(n int) string { return fmt.Sprintf("host-%06d", n+1) }

// pools are identifiers of so many clusters, each of up to 1000 workers.
func pools(clusters int) fsm.Pools {
	n := uint32(100<<24|64<<16) + uint32(clusters) // the last address, from 100.64.0.1 on
	return fsm.Pools{VLANFirst: 1, VLANLast: clusters, Subnets: "10.0.0.0/8", SubnetBits: 21,
		PublicFirst: "100.64.0.1", PublicLast: fmt.Sprintf("%d.%d.%d.%d", n>>24, n>>16&255, n>>8&255, n&255), PublicBits: 12, MACPrefix: "02:76:63"}
}

func (r *rig) apply(ctx context.Context, cmd fsm.Command) error {
	entry, err := fsm.Encode(cmd, r.now)
	if err != nil {
		return err
	}
	answer, _, err := applier{r}.Apply(ctx, entry)
	if err != nil {
		return err
	}
	return answer.(fsm.Result).Err
}

// buildImages has the images of frontends and workers there before anything is
// asked for: building them is not what is simulated.
func (r *rig) buildImages(ctx context.Context, catalog *rolls.Catalog) error {
	for _, appliance := range []api.Role{api.RoleFrontend, api.RoleWorker} {
		recipe, err := catalog.Resolve(nil, string(appliance))
		if err != nil {
			return err
		}
		if err := r.apply(ctx, fsm.ImageWant{Recipe: recipe.Digest(), Appliance: string(appliance), Rolls: recipe.Names(), Builder: hostID(0)}); err != nil {
			return fmt.Errorf("ask for the image of %s: %w", appliance, err)
		}
	}
	return r.report(ctx, hostID(0))
}

// report has hosts say that they hold what they should of images, and otherwise
// nothing: whatever has ended is gone.
func (r *rig) report(ctx context.Context, hosts ...string) error {
	var entries [][]byte
	for _, host := range hosts {
		rep := fsm.HostReport{Host: host, Applied: r.index}
		if host == hostID(0) {
			for _, img := range r.fsm.View().Images() {
				rep.Objects = append(rep.Objects, fsm.Object{Kind: fsm.KindImage, ID: img.Recipe, State: fsm.ObjReady, Digest: img.Recipe, SizeBytes: 1 << 30})
			}
		}
		entry, err := fsm.Encode(rep, r.now)
		if err != nil {
			return err
		}
		entries = append(entries, entry)
	}
	if err := ctx.Err(); err != nil || len(entries) == 0 {
		return err
	}
	results := r.fsm.ApplyCommands(r.index+1, entries)
	r.index += uint64(len(entries))
	for i, res := range results {
		if res.Err != nil {
			return fmt.Errorf("report of %s: %w", hosts[i], res.Err)
		}
	}
	return nil
}

// settle lets hosts report until what has ended on them is over: first that no
// node runs any more, then that nothing is left.
func (r *rig) settle(ctx context.Context, hosts []string) error {
	slices.Sort(hosts)
	hosts = slices.Compact(hosts)
	for range 2 {
		if err := r.report(ctx, hosts...); err != nil {
			return err
		}
	}
	return nil
}

// hostsOf lists the hosts that a reservation has a share of.
func hostsOf(res *fsm.Reservation) []string {
	var out []string
	for i := range res.Nodes {
		for _, h := range []string{res.Nodes[i].Host, res.Nodes[i].Storage} {
			if h != "" && !slices.Contains(out, h) {
				out = append(out, h)
			}
		}
	}
	return out
}

// sshKey is of a pair that is made of nothing: no guest ever sees it.
var sshKey = func() string {
	public := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	blob := append([]byte("\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"), public...)
	return "ssh-ed25519 " + base64.StdEncoding.EncodeToString(blob) + " simulation"
}()

// spec is the n-th request as its owner would write it.
func (r *Request) spec(n int, now time.Time) api.Spec {
	slot := api.Slot{Start: api.StartAsap, For: api.FormatDuration(max(r.Length, time.Second))}
	if r.Earliest.After(now) {
		slot.Start = r.Earliest.UTC().Format(time.RFC3339)
	}
	return api.Spec{Name: fmt.Sprintf("r-%d", n+1), Project: r.project(), Slot: slot, Frontend: r.Frontend, Workers: r.groups(),
		Users: []api.User{{Name: "simulation", Keys: []string{sshKey}}}, AtEnd: &api.AtEnd{Warn: []string{"0s"}}}
}

func (r *Request) project() string {
	if p := strings.ToLower(r.Project); p != "" {
		return p
	}
	return "p"
}
