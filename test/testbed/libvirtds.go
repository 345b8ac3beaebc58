package testbed

import (
	"context"
	"fmt"
	"path/filepath"

	"vcn/hostops/hosttest/libvirtd"
	"vcn/internal/passable"
)

// startLibvirtds gives every host its own libvirtd. The first one probes QEMU,
// which takes seconds; the others take over what it found.
func (t *Testbed) startLibvirtds(ctx context.Context) error {
	first := ""
	for _, h := range t.Hosts {
		if err := passable.Mkdir(h.Dir); err != nil {
			return fmt.Errorf("make directory of %s: %w", h.Name, err)
		}
		dir := filepath.Join(h.Dir, "libvirt")
		inst, err := libvirtd.Start(ctx, libvirtd.Config{Netns: "/run/netns/" + h.NS, Dir: dir, CapsCacheFrom: first})
		if err != nil {
			return fmt.Errorf("start libvirtd of %s: %w", h.Name, err)
		}
		h.socket = inst.Socket()
		if first == "" {
			first = dir
		}
	}
	t.say("%d libvirtds run", len(t.Hosts))
	return nil
}
