package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"vcn/hostops"
)

type volumes struct{ h *Host }

func (f volumes) Ensure(ctx context.Context, s hostops.VolumeSpec) (hostops.Volume, error) {
	if err := s.Validate(); err != nil {
		return hostops.Volume{}, fmt.Errorf("ensure volume: %w", err)
	}
	if err := f.h.enter(ctx, "Volumes", "Ensure", s.ID); err != nil {
		return hostops.Volume{}, err
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	v := f.h.volumes[s.ID]
	if v.SizeBytes >= s.SizeBytes {
		return v, nil
	}
	if grow := s.SizeBytes - v.SizeBytes; grow > f.h.freeBytes() {
		return hostops.Volume{}, fmt.Errorf("ensure volume %s: want %d bytes, free are %d: %w", s.ID, grow, f.h.freeBytes(), hostops.ErrNoSpace)
	}
	v = hostops.Volume{ID: s.ID, Path: "/fake/" + f.h.cfg.Name + "/volumes/" + s.ID, SizeBytes: s.SizeBytes}
	f.h.volumes[s.ID] = v
	return v, nil
}

func (f volumes) Remove(ctx context.Context, id string) error {
	if err := hostops.CheckVolumeID(id); err != nil {
		return fmt.Errorf("remove volume: %w", err)
	}
	if err := f.h.enter(ctx, "Volumes", "Remove", id); err != nil {
		return err
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	delete(f.h.volumes, id)
	return nil
}

func (f volumes) List(ctx context.Context) ([]hostops.Volume, error) {
	if err := f.h.enter(ctx, "Volumes", "List", ""); err != nil {
		return nil, err
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	var out []hostops.Volume
	for _, id := range slices.Sorted(maps.Keys(f.h.volumes)) {
		out = append(out, f.h.volumes[id])
	}
	return out, nil
}

func (f volumes) Capacity(ctx context.Context) (total, free int64, err error) {
	if err := f.h.enter(ctx, "Volumes", "Capacity", ""); err != nil {
		return 0, 0, err
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	return f.h.cfg.TotalBytes, f.h.freeBytes(), nil
}

// freeBytes counts every volume at its full size; h.mu is held.
func (h *Host) freeBytes() int64 {
	free := h.cfg.TotalBytes
	for _, v := range h.volumes {
		free -= v.SizeBytes
	}
	return max(0, free)
}
