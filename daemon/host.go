package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"vcn/api"
	"vcn/fsm"
	"vcn/hostops"
	"vcn/hostops/facts"
	"vcn/hostops/images"
	"vcn/hostops/iscsi/targetd"
	"vcn/hostops/libvirt"
	"vcn/hostops/netlink"
	"vcn/hostops/openiscsi"
)

// drivers are what this host does its work with.
type drivers struct {
	facts      hostops.Facts
	domains    *libvirt.Driver
	networks   hostops.Networks
	volumes    hostops.Volumes    // nil without class storage
	targets    *targetd.Client    // nil without class storage
	initiators hostops.Initiators // nil where nodes use QEMU's
	images     hostops.Images
	record     fsm.Host // what the host registers, but for what may change
}

// openDrivers reads what the machine is and opens a driver for each thing.
func openDrivers(ctx context.Context, c Config, id Identity, log *slog.Logger) (*drivers, error) {
	if err := checkMachine(c, sysClassNet, log); err != nil {
		return nil, err
	}
	d := &drivers{}
	var err error
	if d.facts, err = facts.Read(ctx, facts.Config{Accel: c.Libvirt.Accel}); err != nil {
		return nil, fmt.Errorf("read what this machine is: %w", err)
	}
	log.Info("machine", "cpus", d.facts.CPUs, "memory", api.Quantity(d.facts.MemoryBytes), "accel", d.facts.Accel, "why", d.facts.AccelWhy)
	if d.domains, err = libvirt.New(libvirt.Config{
		Socket: c.Libvirt.Socket, Cluster: id.ClusterID, Accel: c.Libvirt.Accel, Log: log.With("room", "libvirt"),
	}); err != nil {
		return nil, fmt.Errorf("open libvirt: %w", err)
	}
	addr, err := netip.ParseAddr(c.Address)
	if err != nil {
		return nil, fmt.Errorf("read address: %w", err)
	}
	nw, err := netlink.New(netlink.Config{
		Driver: c.Network.Driver, Cluster: id.ClusterID, Underlay: c.Network.Underlay, Local: addr, MTU: c.Network.MTU, Log: log.With("room", "netlink"),
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open networks: %w", err), d.domains.Close())
	}
	d.networks = nw
	driver, why := nw.Driver()
	log.Info("cluster networks", "driver", driver, "why", why)
	if d.images, err = images.New(images.Config{
		Dir: c.Images.Dir, CacheDir: c.Images.Cache, InitPath: c.Images.Init, FetchNetns: c.Images.FetchNetns, Log: log.With("room", "images"),
	}); err != nil {
		return nil, errors.Join(fmt.Errorf("open images: %w", err), d.domains.Close())
	}
	if err := d.openStorage(ctx, c, id, log); err != nil {
		return nil, errors.Join(err, d.domains.Close())
	}
	d.describe(c, id, driver)
	return d, nil
}

// openStorage opens both ends: the volumes of this host, and those of others.
func (d *drivers) openStorage(ctx context.Context, c Config, id Identity, log *slog.Logger) (err error) {
	if c.Initiator == "kernel" {
		d.initiators, err = openiscsi.New(openiscsi.Config{Initiator: hostops.InitiatorIQN(id.HostID), Log: log.With("room", "openiscsi")})
		if err != nil {
			return fmt.Errorf("open initiator: %w", err)
		}
	}
	if !c.Has(api.ClassStorage) {
		return nil
	}
	if d.volumes, err = openStore(ctx, c, id, log.With("room", "volume")); err != nil {
		return fmt.Errorf("open volumes: %w", err)
	}
	if d.targets, err = targetd.Dial(c.TargetSocket()); err != nil {
		return fmt.Errorf("open targets: %w", err)
	}
	return nil
}

// describe fills the record that the host registers.
func (d *drivers) describe(c Config, id Identity, network string) {
	d.record = fsm.Host{
		ID: id.HostID, Name: c.Name, Classes: c.Classes, Internal: c.Internal.Listen, API: c.APIAddress(),
		Underlay: c.Address, FailureDomain: c.FailureDomain,
		CPUs: d.facts.CPUs, MemoryBytes: d.facts.MemoryBytes,
		Accel: d.facts.Accel, Network: network, Initiator: c.Initiator, Version: Version,
	}
	if c.Capacity.CPUs > 0 {
		d.record.CPUs = c.Capacity.CPUs
	}
	if c.Capacity.Memory > 0 {
		d.record.MemoryBytes = int64(c.Capacity.Memory)
	}
	if d.volumes != nil {
		d.record.Storage, d.record.VolumeDriver = c.Storage.Portal, c.VolumeDriver()
	}
}

// RunTarget is "vcnd target": the iSCSI target as a process of its own.
func RunTarget(ctx context.Context, c Config, log *slog.Logger) error {
	if !c.Has(api.ClassStorage) {
		log.Info("this host has not class storage: there is nothing to serve")
		return nil
	}
	portal, err := netip.ParseAddrPort(c.Storage.Portal)
	if err != nil {
		return fmt.Errorf("read storage.portal: %w", err)
	}
	return targetd.Run(ctx, targetd.Config{
		Socket: c.TargetSocket(), StateDir: c.TargetState(), Listen: []netip.AddrPort{portal},
		Engine: c.targetEngine(), WriteThrough: c.Storage.WriteThrough, Log: log,
	})
}

const (
	targetCheckEvery = 2 * time.Second
	targetAnswerMax  = 3 * time.Second
	// targetStartMax is long: a target process waits for its disks, and publishes all
	// that is in its table, before it answers.
	targetStartMax = time.Minute
)

// keepTarget starts the target process where none runs, and again when it is
// lost, until ctx ends. A running one, whoever started it, is left alone, also
// at our end: restarting vcnd never stops a disk. Where systemd keeps one too
// (vcnd-target.service), whichever comes second waits for the first to end.
func keepTarget(ctx context.Context, c Config, confPath string, t hostops.Targets, log *slog.Logger) error {
	if answers(ctx, t) {
		log.Info("target process answers")
	} else if err := startTarget(ctx, c, confPath, t, log); err != nil && ctx.Err() == nil {
		return err
	}
	tick := time.NewTicker(targetCheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if ctx.Err() == nil && !answers(ctx, t) {
			if err := startTarget(ctx, c, confPath, t, log); err != nil && ctx.Err() == nil {
				log.Error("restart target process", "err", err)
			}
		}
	}
}

func answers(ctx context.Context, t hostops.Targets) bool {
	ctx, cancel := context.WithTimeout(ctx, targetAnswerMax)
	defer cancel()
	_, err := t.List(ctx)
	return err == nil
}

// startTarget starts "vcnd target" detached, unless one starts or drains
// already, and waits until one answers. While one runs, no second one is
// started: it would wait behind the first, and each look would add another.
func startTarget(ctx context.Context, c Config, confPath string, t hostops.Targets, log *slog.Logger) error {
	var spawned time.Time // one that ends early is started again
	deadline := time.Now().Add(targetStartMax)
	for { // answers takes its time where nobody does: look for a process first
		if time.Since(spawned) > targetCheckEvery {
			held, err := targetd.Held(c.TargetState())
			if err == nil && !held {
				spawned, err = time.Now(), spawnTarget(c, confPath, log)
			}
			if err != nil {
				return fmt.Errorf("start target process: %w", err)
			}
		}
		if answers(ctx, t) {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("start target process: it does not answer at %s; see %s, or journalctl -u vcnd-target", c.TargetSocket(), targetLog(c))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func targetLog(c Config) string { return filepath.Join(c.DataDir, "target.log") }

func spawnTarget(c Config, confPath string, log *slog.Logger) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(targetLog(c), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(exe, "target", "--config", confPath)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	log.Info("started target process", "pid", cmd.Process.Pid)
	go cmd.Wait() // reaps it if it ends while we live
	return nil
}

// imageReader is a body that also releases what was made for it.
type imageReader struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (r imageReader) Close() error {
	defer r.cancel()
	return r.ReadCloser.Close()
}
