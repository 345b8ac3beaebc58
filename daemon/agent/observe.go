package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"vcn/hostops"
)

// seen is everything of ours on the host, read at once.
type seen struct {
	domains  map[string]hostops.Domain // by nodeKey
	networks map[int]hostops.Network
	volumes  map[string]hostops.Volume
	exports  map[string]hostops.ExportStatus
	images   map[string]hostops.Image      // by digest
	recipes  map[string]string             // recipe to digest of a whole image
	files    map[string]bool               // by nodeKey: seed and console log are here
	attached map[string]hostops.Attachment // by IQN
	disks    map[string]string             // by nodeKey: IQN of the disk it was given
	lives    map[string]*liveState         // by nodeKey: configuration it was given; nil: not known
	drains   map[string]string             // by nodeKey: drainListed, drainNone or not known
	notices  map[string]string             // by nodeKey: digest of those shown, noticesNone or not known
}

// observe reads the host. Any part that cannot be read whole makes the round
// void: acting on a short list would remove what is merely unseen.
func observe(ctx context.Context, c Config, nodesDir string) (seen, error) {
	s := seen{
		domains: map[string]hostops.Domain{}, networks: map[int]hostops.Network{},
		volumes: map[string]hostops.Volume{}, exports: map[string]hostops.ExportStatus{},
		images: map[string]hostops.Image{}, recipes: map[string]string{}, files: map[string]bool{},
		attached: map[string]hostops.Attachment{}, disks: map[string]string{},
		lives: map[string]*liveState{}, drains: map[string]string{}, notices: map[string]string{},
	}
	domains, err := c.Domains.List(ctx)
	if err != nil {
		return s, fmt.Errorf("list domains: %w", err)
	}
	for _, d := range domains {
		s.domains[nodeKey(d.Reservation, d.Node)] = d
	}
	dirs, err := filepath.Glob(filepath.Join(nodesDir, "*", "*"))
	if err != nil {
		return s, fmt.Errorf("list files of nodes: %w", err)
	}
	for _, d := range dirs {
		key := nodeKey(filepath.Base(filepath.Dir(d)), filepath.Base(d))
		if err := s.nodeDir(key, d); err != nil {
			return s, err
		}
	}
	if c.Initiators != nil {
		attached, err := c.Initiators.List(ctx)
		if err != nil {
			return s, fmt.Errorf("list attached disks: %w", err)
		}
		for _, at := range attached {
			s.attached[at.IQN] = at
		}
	}
	networks, err := c.Networks.List(ctx)
	if err != nil {
		return s, fmt.Errorf("list networks: %w", err)
	}
	for _, n := range networks {
		s.networks[n.VLAN] = n
	}
	images, err := c.Images.List(ctx)
	if err != nil {
		return s, fmt.Errorf("list images: %w", err)
	}
	for _, im := range images {
		s.images[im.Digest] = im
		if im.Root != "" {
			s.recipes[im.Recipe] = im.Digest
		}
	}
	if c.Volumes == nil {
		return s, nil
	}
	volumes, err := c.Volumes.List(ctx)
	if err != nil {
		return s, fmt.Errorf("list volumes: %w", err)
	}
	for _, v := range volumes {
		s.volumes[v.ID] = v
	}
	exports, err := c.Targets.List(ctx)
	if err != nil {
		return s, fmt.Errorf("list exports: %w", err)
	}
	for _, e := range exports {
		s.exports[e.Volume] = e
	}
	return s, nil
}

// nodeDir reads what a node's files say of it.
func (s *seen) nodeDir(key, dir string) error {
	s.files[key] = true
	var err1, err2, err3, err4 error
	s.disks[key], err1 = readDisk(dir)
	s.lives[key], err2 = readLive(dir)
	s.drains[key], err3 = readWord(dir, drainFile)
	s.notices[key], err4 = readWord(dir, noticesFile)
	return errors.Join(err1, err2, err3, err4)
}

// wholeImages are the digests of images here that have a root disk, sorted.
func (s seen) wholeImages() []string {
	var out []string
	for d, im := range s.images {
		if im.Root != "" {
			out = append(out, d)
		}
	}
	slices.Sort(out)
	return out
}

// nodeKey names a node on a host.
func nodeKey(reservation, node string) string { return reservation + "/" + node }
