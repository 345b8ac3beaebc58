package fake

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"vcn/hostops"
	"vcn/rolls"
)

// image is an image in the fake store; without root, only its boot files are
// here.
type image struct {
	Recipe   string
	Manifest rolls.Manifest
	Root     bool
}

type images struct{ h *Host }

func (f images) Build(ctx context.Context, s hostops.BuildSpec, progress func(string)) (hostops.Image, error) {
	recipe := s.Recipe.Digest()
	if err := f.h.enter(ctx, "Images", "Build", recipe); err != nil {
		return hostops.Image{}, err
	}
	select {
	case f.h.building <- struct{}{}:
		defer func() { <-f.h.building }()
	case <-ctx.Done():
		return hostops.Image{}, fmt.Errorf("build image: %w", ctx.Err())
	}
	sum := sha256.Sum256([]byte("fake image of " + recipe))
	digest := hex.EncodeToString(sum[:])
	f.h.mu.Lock()
	have := f.h.images[digest]
	f.h.mu.Unlock()
	if have != nil && have.Root {
		return f.h.seenImage(digest, have), nil
	}
	for _, step := range []string{"base tree", "packages", "file system"} {
		if progress != nil {
			progress(step)
		}
		if err := sleep(ctx, f.h.cfg.BuildTakes/3); err != nil {
			return hostops.Image{}, fmt.Errorf("build image: %s: %w", step, err)
		}
	}
	var names []string
	for _, r := range s.Recipe.Rolls {
		names = append(names, r.Name+"@"+r.Version)
	}
	made := &image{Recipe: recipe, Root: true, Manifest: rolls.Manifest{
		Recipe: recipe, Digest: digest, Appliance: s.Recipe.Appliance, Rolls: names,
		Packages: map[string]string{}, Users: map[string]rolls.ID{"root": {}}, Groups: map[string]int{"root": 0},
		Kernel: "fake",
	}}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	f.h.images[digest] = made
	return f.h.seenImage(digest, made), nil
}

func (h *Host) seenImage(digest string, i *image) hostops.Image {
	dir := "/fake/" + h.cfg.Name + "/images/" + digest
	out := hostops.Image{
		Recipe: i.Recipe, Digest: digest, Appliance: i.Manifest.Appliance, Dir: dir,
		Kernel: dir + "/vmlinuz", Initrd: dir + "/initrd", Manifest: i.Manifest,
	}
	if i.Root {
		out.Root, out.SizeBytes = dir+"/root.raw", h.cfg.ImageBytes
	}
	return out
}

func (f images) Get(ctx context.Context, digest string) (hostops.Image, error) {
	if err := f.h.enter(ctx, "Images", "Get", digest); err != nil {
		return hostops.Image{}, err
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	i := f.h.images[digest]
	if i == nil {
		return hostops.Image{}, fmt.Errorf("get image %s: %w", digest, hostops.ErrNotFound)
	}
	return f.h.seenImage(digest, i), nil
}

func (f images) List(ctx context.Context) ([]hostops.Image, error) {
	if err := f.h.enter(ctx, "Images", "List", ""); err != nil {
		return nil, err
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	var out []hostops.Image
	for _, digest := range slices.Sorted(maps.Keys(f.h.images)) {
		out = append(out, f.h.seenImage(digest, f.h.images[digest]))
	}
	return out, nil
}

func (f images) Export(ctx context.Context, digest string, bootOnly bool, w io.Writer) error {
	if err := f.h.enter(ctx, "Images", "Export", digest); err != nil {
		return err
	}
	f.h.mu.Lock()
	i := f.h.images[digest]
	f.h.mu.Unlock()
	if i == nil {
		return fmt.Errorf("export image %s: %w", digest, hostops.ErrNotFound)
	}
	if !bootOnly && !i.Root {
		return fmt.Errorf("export image %s: only its boot files are here: %w", digest, hostops.ErrNotFound)
	}
	out := *i
	out.Root = !bootOnly
	if err := json.NewEncoder(w).Encode(out); err != nil {
		return fmt.Errorf("export image %s: %w", digest, err)
	}
	return nil
}

func (f images) Import(ctx context.Context, r io.Reader) (hostops.Image, error) {
	if err := f.h.enter(ctx, "Images", "Import", ""); err != nil {
		return hostops.Image{}, err
	}
	var in image
	if err := json.NewDecoder(r).Decode(&in); err != nil {
		return hostops.Image{}, fmt.Errorf("import image: %w", err)
	}
	digest := in.Manifest.Digest
	sum := sha256.Sum256([]byte("fake image of " + in.Recipe))
	if digest != hex.EncodeToString(sum[:]) {
		return hostops.Image{}, fmt.Errorf("import image: %q does not match its content", digest)
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	have := f.h.images[digest]
	if have == nil {
		have = &in
		f.h.images[digest] = have
	} else if in.Root && !have.Root {
		f.h.images[digest] = &in
		have = &in
	}
	return f.h.seenImage(digest, have), nil
}

func (f images) Remove(ctx context.Context, digest string) error {
	if err := f.h.enter(ctx, "Images", "Remove", digest); err != nil {
		return err
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	delete(f.h.images, digest)
	return nil
}
