package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"vcn/fsm"
	"vcn/hostops"
	"vcn/internal/durable"
)

// volumeFile, among a node's files, names the volume whose unit is attached for
// it: what removes the node, perhaps after a restart, detaches it.
const volumeFile = "volume"

// readDisk returns the IQN of the disk that a node was given, or nothing.
func readDisk(dir string) (iqn string, err error) {
	b, err := os.ReadFile(filepath.Join(dir, volumeFile))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read volume of node: %w", err)
	}
	volume := strings.TrimSpace(string(b))
	if hostops.CheckVolumeID(volume) != nil {
		return "", nil // nothing of ours; a node's removal must not fail on it for ever
	}
	return hostops.TargetIQN(volume), nil
}

// attachDisk attaches a node's disk and returns its device. A domain that holds
// another session's device, of an older generation or of a session that has
// ended, is stopped first: it can do nothing with it any more, and while it
// runs the session cannot be replaced.
func (a *Agent) attachDisk(ctx context.Context, n fsm.NodeWork, s seen, dir string, d hostops.ISCSIDisk) (string, error) {
	if err := durable.WriteFile(filepath.Join(dir, volumeFile), []byte(n.Volume+"\n"), 0o600); err != nil {
		return "", err
	}
	var stopped error
	if dom, ok := s.domains[nodeKey(n.Reservation, n.Node)]; ok {
		ended := dom.State == hostops.DomainPaused && s.attached[d.IQN].Path == ""
		if dom.Generation < n.Generation || ended {
			stopped = a.cfg.Domains.Stop(ctx, n.Reservation, n.Node, 0)
		}
	}
	// A killed hypervisor may wait for I/O that only the end of its session ends:
	// attaching decides, not the stop.
	path, err := a.cfg.Initiators.Attach(ctx, d)
	if err != nil {
		return "", errors.Join(err, stopped)
	}
	return path, nil
}

// removeDomain removes a node's domain and then detaches its disk, if it has one
// that this host attached.
func (a *Agent) removeDomain(ctx context.Context, reservation, node, dir string) error {
	removed := a.cfg.Domains.Remove(ctx, reservation, node)
	if a.cfg.Initiators == nil {
		return removed
	}
	iqn, err := readDisk(dir)
	if err != nil || iqn == "" {
		return errors.Join(removed, err)
	}
	// Also after a failure: a killed hypervisor may wait for I/O that only the
	// end of its session ends. One that lives keeps its disk: that is ErrBusy.
	if err := a.cfg.Initiators.Detach(ctx, iqn); err != nil {
		return errors.Join(removed, fmt.Errorf("detach its disk: %w", err))
	}
	if removed != nil {
		return a.cfg.Domains.Remove(ctx, reservation, node)
	}
	return nil
}

func detachDisk(iqn string) runFunc {
	return func(ctx context.Context, a *Agent, _ func(string)) error {
		if err := a.cfg.Initiators.Detach(ctx, iqn); err != nil {
			return fmt.Errorf("detach a disk that no node has: %w", err)
		}
		return nil
	}
}

// diffDisks finds what is attached and belongs neither to an assigned node nor
// to one that is being removed. It is reported as the volume it is, unless this
// host carves a volume of that name itself.
func diffDisks(in diffInput) []action {
	if !in.attaches {
		return nil
	}
	kept := map[string]bool{}
	assigned := map[string]bool{}
	for _, n := range in.assign.Nodes {
		assigned[nodeKey(n.Reservation, n.Node)] = true
		if n.Portal != "" {
			kept[hostops.TargetIQN(n.Volume)] = true
		}
	}
	for key, iqn := range in.seen.disks {
		if !assigned[key] {
			kept[iqn] = true // the step that removes the node detaches it
		}
	}
	carved := map[string]bool{}
	for _, v := range in.assign.Volumes {
		carved[v.ID] = true
	}
	var acts []action
	for iqn := range in.seen.attached {
		if kept[iqn] {
			continue
		}
		act := action{key: "disk/" + iqn, removes: true}
		id := strings.TrimPrefix(iqn, hostops.TargetIQN(""))
		if _, here := in.seen.volumes[id]; !here && !carved[id] {
			act.object = fsm.Object{Kind: fsm.KindVolume, ID: id, State: fsm.ObjStopping}
		}
		if in.live {
			act.what, act.run = "detach disk", detachDisk(iqn)
		}
		acts = append(acts, act)
	}
	return acts
}
