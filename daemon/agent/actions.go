package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"vcn/fsm"
	"vcn/hostops"
	"vcn/internal/passable"
)

type runFunc = func(ctx context.Context, a *Agent, progress func(string)) error

func ensureNetwork(n fsm.NetworkWork) runFunc {
	return func(ctx context.Context, a *Agent, _ func(string)) error {
		spec := hostops.NetworkSpec{Reservation: n.Reservation, VLAN: n.VLAN}
		for _, p := range n.Peers {
			addr, err := netip.ParseAddr(p)
			if err != nil {
				return fmt.Errorf("read peer of network %d: %w", n.VLAN, err)
			}
			spec.Peers = append(spec.Peers, addr)
		}
		if _, err := a.cfg.Networks.Ensure(ctx, spec); err != nil {
			return fmt.Errorf("make network %d: %w", n.VLAN, err)
		}
		a.mu.Lock()
		a.netted[n.VLAN] = digest(n)
		a.mu.Unlock()
		return nil
	}
}

func removeNetwork(vlan int) runFunc {
	return func(ctx context.Context, a *Agent, _ func(string)) error {
		if err := a.cfg.Networks.Remove(ctx, vlan); err != nil {
			return fmt.Errorf("remove network %d: %w", vlan, err)
		}
		a.mu.Lock()
		delete(a.netted, vlan)
		a.mu.Unlock()
		return nil
	}
}

// makeVolume clones and, in the same step, serves: the next round would find
// nothing else to do between the two.
func makeVolume(v fsm.VolumeWork, base string) runFunc {
	return func(ctx context.Context, a *Agent, progress func(string)) error {
		got, err := a.cfg.Volumes.Ensure(ctx, hostops.VolumeSpec{ID: v.ID, SizeBytes: v.SizeBytes, Base: base, Image: v.ImageDigest})
		if err != nil {
			return fmt.Errorf("make volume %s: %w", v.ID, err)
		}
		if len(v.Access) == 0 {
			return nil
		}
		progress("publishing")
		return serveVolume(v, got.Path)(ctx, a, progress)
	}
}

func serveVolume(v fsm.VolumeWork, path string) runFunc {
	return func(ctx context.Context, a *Agent, _ func(string)) error {
		e := hostops.Export{Volume: v.ID, Path: path, IQN: hostops.TargetIQN(v.ID), Generation: v.Generation}
		for _, w := range v.Access {
			addr, err := netip.ParseAddr(w.Addr)
			if err != nil {
				return fmt.Errorf("read access of volume %s: %w", v.ID, err)
			}
			e.Access = append(e.Access, hostops.Access{Initiator: hostops.InitiatorIQN(w.Host), Addr: addr, User: w.User, Secret: w.Secret})
		}
		if err := a.cfg.Targets.Publish(ctx, e); err != nil {
			return fmt.Errorf("serve volume %s: %w", v.ID, err)
		}
		a.mu.Lock()
		a.served[v.ID] = digest(v.Access)
		a.mu.Unlock()
		return nil
	}
}

func withdrawVolume(id string) runFunc {
	return func(ctx context.Context, a *Agent, _ func(string)) error {
		if err := a.cfg.Targets.Withdraw(ctx, id); err != nil {
			return fmt.Errorf("stop serving volume %s: %w", id, err)
		}
		a.mu.Lock()
		delete(a.served, id)
		a.mu.Unlock()
		return nil
	}
}

func removeVolume(id string) runFunc {
	return func(ctx context.Context, a *Agent, p func(string)) error {
		if err := withdrawVolume(id)(ctx, a, p); err != nil {
			return err
		}
		if err := a.cfg.Volumes.Remove(ctx, id); err != nil {
			return fmt.Errorf("remove volume %s: %w", id, err)
		}
		return nil
	}
}

func buildImage(w fsm.ImageWork) runFunc {
	return func(ctx context.Context, a *Agent, progress func(string)) error {
		r, err := a.cfg.Catalog.Resolve(w.Rolls, w.Appliance)
		if err != nil {
			return fmt.Errorf("resolve rolls of image %s: %w", w.Recipe, err)
		}
		if got := r.Digest(); got != w.Recipe {
			return fmt.Errorf("build image %s: this host's rolls make %s: its version of vcnd differs from the leader's", w.Recipe, got)
		}
		if _, err := a.cfg.Images.Build(ctx, hostops.BuildSpec{Recipe: r}, progress); err != nil {
			return fmt.Errorf("build image %s: %w", w.Recipe, err)
		}
		return nil
	}
}

// fetchImage tries the sources in order.
func fetchImage(w fsm.ImageWork) runFunc {
	return func(ctx context.Context, a *Agent, progress func(string)) error {
		var errs []error
		for _, host := range w.Sources {
			if host == a.cfg.HostID {
				continue
			}
			err := fetchFrom(ctx, a, host, w)
			if err == nil {
				return nil
			}
			errs = append(errs, err)
			progress("fetching; one source failed")
		}
		return fmt.Errorf("fetch image %s: %w", w.Digest, errors.Join(errs...))
	}
}

func fetchFrom(ctx context.Context, a *Agent, host string, w fsm.ImageWork) error {
	body, err := a.cfg.Source.Image(ctx, host, w.Digest, w.BootOnly)
	if err != nil {
		return fmt.Errorf("open image at host %s: %w", host, err)
	}
	defer body.Close()
	im, err := a.cfg.Images.Import(ctx, body)
	if err != nil {
		return fmt.Errorf("read image from host %s: %w", host, err)
	}
	if im.Digest != w.Digest {
		return fmt.Errorf("host %s sent image %s", host, im.Digest)
	}
	return nil
}

// nodeFiles are where a node's seed and console log are.
func (a *Agent) nodeFiles(reservation, node string) (dir, console string) {
	dir = filepath.Join(a.nodesDir(), reservation, node)
	return dir, filepath.Join(dir, "console.log")
}

func startNode(n fsm.NodeWork, c fsm.ClusterWork, s seen) runFunc {
	image := s.images[n.ImageDigest]
	volume := s.volumes[n.Volume]
	return func(ctx context.Context, a *Agent, progress func(string)) error {
		dir, console := a.nodeFiles(n.Reservation, n.Node)
		// QEMU, which is not root, passes through both to the seed.
		for _, d := range []string{filepath.Dir(dir), dir} {
			if err := passable.Mkdir(d); err != nil {
				return fmt.Errorf("make node directory: %w", err)
			}
		}
		seedPath, err := a.keepSeed(dir, n, c, image)
		if err != nil {
			return err
		}
		spec := hostops.DomainSpec{
			Reservation: n.Reservation, Node: n.Node, Generation: n.Generation,
			CPUs: n.CPUs, MemoryBytes: n.MemoryBytes,
			Kernel: image.Kernel, Initrd: image.Initrd, Cmdline: image.Manifest.Cmdline,
			SeedPath: seedPath, ConsolePath: console,
			NICs: []hostops.NIC{{MAC: n.PrivateMAC, Bridge: hostops.BridgeName(n.VLAN), MTU: a.cfg.GuestMTU}},
		}
		if n.PublicMAC != "" {
			if a.cfg.PublicBridge == "" {
				return fmt.Errorf("start node %s: it needs the public network and this host has no public bridge configured", n.Node)
			}
			spec.NICs = append(spec.NICs, hostops.NIC{MAC: n.PublicMAC, Bridge: a.cfg.PublicBridge})
		}
		if spec.Disk, err = nodeDisk(n, volume, a.cfg.HostID); err != nil {
			return err
		}
		if spec.Disk.ISCSI != nil && a.cfg.Initiators != nil {
			progress("attaching its disk")
			path, err := a.attachDisk(ctx, n, s, dir, *spec.Disk.ISCSI)
			if err != nil {
				return fmt.Errorf("attach disk of node %s: %w", n.Node, err)
			}
			spec.Disk = hostops.Disk{Path: path}
			progress("starting")
		}
		if err := a.cfg.Domains.Ensure(ctx, spec); err != nil {
			return fmt.Errorf("start node %s: %w", n.Node, err)
		}
		return nil
	}
}

// nodeDisk is the volume itself where it is on this host, else its export.
func nodeDisk(n fsm.NodeWork, local hostops.Volume, host string) (hostops.Disk, error) {
	if n.Portal == "" {
		return hostops.Disk{Path: local.Path}, nil
	}
	portal, err := netip.ParseAddrPort(n.Portal)
	if err != nil {
		return hostops.Disk{}, fmt.Errorf("read portal of node %s: %w", n.Node, err)
	}
	return hostops.Disk{ISCSI: &hostops.ISCSIDisk{
		Portal: portal, IQN: hostops.TargetIQN(n.Volume), LUN: 1,
		Initiator: hostops.InitiatorIQN(host), User: n.User, Secret: n.Secret,
	}}, nil
}

// stopGrace is how long a node may take to power off: to end its jobs, write
// what it holds and unmount.
const stopGrace = 60 * time.Second

func stopNode(reservation, node string) runFunc {
	return func(ctx context.Context, a *Agent, p func(string)) error {
		if err := a.cfg.Domains.Stop(ctx, reservation, node, stopGrace); err != nil {
			return fmt.Errorf("stop node %s: %w", node, err)
		}
		return removeNode(reservation, node)(ctx, a, p)
	}
}

func removeNode(reservation, node string) runFunc {
	return func(ctx context.Context, a *Agent, _ func(string)) error {
		dir, _ := a.nodeFiles(reservation, node)
		if err := a.removeDomain(ctx, reservation, node, dir); err != nil {
			return fmt.Errorf("remove node %s: %w", node, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove files of node %s: %w", node, err)
		}
		// The reservation's own directory goes with its last node.
		_ = os.Remove(filepath.Dir(dir))
		return nil
	}
}
