package agent

import (
	"context"
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
}

// observe reads the host. Any part that cannot be read whole makes the round
// void: acting on a short list would remove what is merely unseen.
func observe(ctx context.Context, c Config, nodesDir string) (seen, error) {
	s := seen{
		domains: map[string]hostops.Domain{}, networks: map[int]hostops.Network{},
		volumes: map[string]hostops.Volume{}, exports: map[string]hostops.ExportStatus{},
		images: map[string]hostops.Image{}, recipes: map[string]string{}, files: map[string]bool{},
		attached: map[string]hostops.Attachment{}, disks: map[string]string{},
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
		s.files[key] = true
		if s.disks[key], err = readDisk(d); err != nil {
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
