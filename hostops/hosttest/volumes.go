package hosttest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"vcn/hostops"
)

// VolumesEnv is what one case needs.
type VolumesEnv struct {
	Volumes hostops.Volumes
	// Base makes an image of that size with some data in it.
	Base func(t *testing.T, sizeBytes int64) (path string)
	// Content checks that a volume begins with the base and is zero after it;
	// nil where volumes have no content.
	Content func(t *testing.T, v hostops.Volume, base string)
	// Write changes the volume's content; Written checks that it is still so.
	// nil where volumes have no content.
	Write, Written func(t *testing.T, v hostops.Volume)
}

// TestVolumes checks the contract of hostops.Volumes.
func TestVolumes(t *testing.T, factory func(t *testing.T) VolumesEnv) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, context.Context, VolumesEnv)
	}{
		{"ensure clones and grows to size", volumeClone},
		{"volumes of one image share nothing that is written", volumeImage},
		{"an existing volume keeps its content and only grows", volumeGrow},
		{"a blank volume", volumeBlank},
		{"remove, twice", volumeRemove},
		{"too large is refused, and nothing is left", volumeNoSpace},
		{"nonsense is refused", volumeInvalid},
		{"callers at once make one volume", volumeConcurrent},
		{"an ended context ends the call, and nothing is left", volumeContext},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*Patience)
			defer cancel()
			c.run(t, ctx, factory(t))
		})
	}
}

const mib = 1 << 20

func volume(t *testing.T, ctx context.Context, e VolumesEnv, id string) *hostops.Volume {
	t.Helper()
	all, err := e.Volumes.List(ctx)
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	for _, v := range all {
		if v.ID == id {
			return &v
		}
	}
	return nil
}

func ensureVolume(t *testing.T, ctx context.Context, e VolumesEnv, s hostops.VolumeSpec) hostops.Volume {
	t.Helper()
	v, err := e.Volumes.Ensure(ctx, s)
	if err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	if seen := volume(t, ctx, e, s.ID); seen == nil || *seen != v {
		t.Fatalf("Ensure returned %+v, List shows %+v", v, seen)
	}
	return v
}

func volumeClone(t *testing.T, ctx context.Context, e VolumesEnv) {
	base := e.Base(t, 8*mib)
	v := ensureVolume(t, ctx, e, hostops.VolumeSpec{ID: "node-1", SizeBytes: 16 * mib, Base: base})
	if v.SizeBytes != 16*mib || v.Path == "" {
		t.Errorf("%+v", v)
	}
	if e.Content != nil {
		e.Content(t, v, base)
	}
}

// volumeImage also asks for a size that no extent divides: a volume may be
// somewhat larger than asked for, and is so for good.
func volumeImage(t *testing.T, ctx context.Context, e VolumesEnv) {
	base := e.Base(t, 8*mib)
	const odd, over = 13*mib + 512, 64 * mib
	spec := func(id string) hostops.VolumeSpec {
		return hostops.VolumeSpec{ID: id, SizeBytes: odd, Base: base, Image: "0123456789abcdef"}
	}
	first := ensureVolume(t, ctx, e, spec("node-1"))
	if first.SizeBytes < odd || first.SizeBytes > odd+over {
		t.Errorf("asked for %d: %+v", odd, first)
	}
	if e.Write != nil {
		e.Write(t, first)
	}
	second := ensureVolume(t, ctx, e, spec("node-2"))
	if first.Path == second.Path {
		t.Errorf("two volumes, one path: %s", first.Path)
	}
	if e.Content != nil {
		e.Content(t, second, base)
	}
	if err := e.Volumes.Remove(ctx, "node-2"); err != nil {
		t.Errorf("Remove: %v", err)
	}
	if again := ensureVolume(t, ctx, e, spec("node-1")); again != first {
		t.Errorf("%+v, then %+v", first, again)
	}
	if e.Written != nil {
		e.Written(t, first)
	}
	if all, err := e.Volumes.List(ctx); err != nil || len(all) != 1 {
		t.Errorf("an image's volume is listed: %+v, %v", all, err)
	}
}

func volumeGrow(t *testing.T, ctx context.Context, e VolumesEnv) {
	base := e.Base(t, 8*mib)
	s := hostops.VolumeSpec{ID: "node-1", SizeBytes: 16 * mib, Base: base}
	v := ensureVolume(t, ctx, e, s)
	if e.Write != nil {
		e.Write(t, v)
	}
	for _, want := range []struct{ ask, get int64 }{{16 * mib, 16 * mib}, {32 * mib, 32 * mib}, {8 * mib, 32 * mib}} {
		s.SizeBytes = want.ask
		got := ensureVolume(t, ctx, e, s)
		if got.SizeBytes != want.get || got.Path != v.Path {
			t.Errorf("asked for %d: %+v", want.ask, got)
		}
		if e.Written != nil {
			e.Written(t, got)
		}
	}
}

func volumeBlank(t *testing.T, ctx context.Context, e VolumesEnv) {
	if v := ensureVolume(t, ctx, e, hostops.VolumeSpec{ID: "home", SizeBytes: 64 * mib}); v.SizeBytes != 64*mib {
		t.Errorf("%+v", v)
	}
}

func volumeRemove(t *testing.T, ctx context.Context, e VolumesEnv) {
	ensureVolume(t, ctx, e, hostops.VolumeSpec{ID: "a", SizeBytes: mib})
	ensureVolume(t, ctx, e, hostops.VolumeSpec{ID: "a-1", SizeBytes: mib})
	for range 2 {
		if err := e.Volumes.Remove(ctx, "a"); err != nil {
			t.Fatalf("Remove: %v", err)
		}
		if v := volume(t, ctx, e, "a"); v != nil {
			t.Fatalf("after Remove: %+v", *v)
		}
	}
	if volume(t, ctx, e, "a-1") == nil {
		t.Error("Remove of one volume removed another")
	}
}

func volumeNoSpace(t *testing.T, ctx context.Context, e VolumesEnv) {
	total, free, err := e.Volumes.Capacity(ctx)
	if err != nil || total <= 0 || free < 0 || free > total {
		t.Fatalf("Capacity: %d, %d, %v", total, free, err)
	}
	size := (total/mib + 2) * mib
	if _, err := e.Volumes.Ensure(ctx, hostops.VolumeSpec{ID: "huge", SizeBytes: size}); !errors.Is(err, hostops.ErrNoSpace) {
		t.Errorf("Ensure: %v, want ErrNoSpace", err)
	}
	if v := volume(t, ctx, e, "huge"); v != nil {
		t.Errorf("made %+v", *v)
	}
	ensureVolume(t, ctx, e, hostops.VolumeSpec{ID: "huge", SizeBytes: mib})
	if _, err := e.Volumes.Ensure(ctx, hostops.VolumeSpec{ID: "huge", SizeBytes: size}); !errors.Is(err, hostops.ErrNoSpace) {
		t.Errorf("growing: %v, want ErrNoSpace", err)
	}
}

func volumeInvalid(t *testing.T, ctx context.Context, e VolumesEnv) {
	for _, s := range []hostops.VolumeSpec{
		{ID: "", SizeBytes: mib}, {ID: "../etc", SizeBytes: mib}, {ID: "A", SizeBytes: mib}, {ID: "a b", SizeBytes: mib},
		{ID: ".part-x", SizeBytes: mib}, {ID: "-a", SizeBytes: mib}, {ID: "a", SizeBytes: 0}, {ID: "a", SizeBytes: -512},
		{ID: "a", SizeBytes: 1000}, {ID: "a", SizeBytes: mib, Base: "relative"}, {ID: "a", SizeBytes: mib, Image: "abc"},
		{ID: "a", SizeBytes: mib, Base: "/base", Image: "../abc"},
	} {
		if _, err := e.Volumes.Ensure(ctx, s); !errors.Is(err, hostops.ErrInvalid) {
			t.Errorf("%+v: %v, want ErrInvalid", s, err)
		}
	}
	if err := e.Volumes.Remove(ctx, "../etc"); !errors.Is(err, hostops.ErrInvalid) {
		t.Errorf("Remove: %v, want ErrInvalid", err)
	}
	if all, err := e.Volumes.List(ctx); err != nil || len(all) != 0 {
		t.Errorf("List: %+v, %v", all, err)
	}
}

func volumeConcurrent(t *testing.T, ctx context.Context, e VolumesEnv) {
	s := hostops.VolumeSpec{ID: "node-1", SizeBytes: 16 * mib, Base: e.Base(t, 8*mib)}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, err := e.Volumes.Ensure(ctx, s); err != nil {
				t.Errorf("Ensure: %v", err)
			}
		})
	}
	wg.Wait()
	if all, err := e.Volumes.List(ctx); err != nil || len(all) != 1 {
		t.Errorf("List: %+v, %v", all, err)
	}
}

func volumeContext(t *testing.T, ctx context.Context, e VolumesEnv) {
	ended, cancel := context.WithCancel(ctx)
	cancel()
	s := hostops.VolumeSpec{ID: "node-1", SizeBytes: 16 * mib, Base: e.Base(t, 8*mib)}
	if _, err := e.Volumes.Ensure(ended, s); !errors.Is(err, context.Canceled) {
		t.Errorf("Ensure: %v", err)
	}
	if v := volume(t, ctx, e, s.ID); v != nil {
		t.Errorf("made %+v", *v)
	}
	ensureVolume(t, ctx, e, s)
}
