package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"vcn/hostops"
	"vcn/internal/passable"
	"vcn/rolls"
)

// Names of an image's files.
const (
	rootName     = "root.img"
	kernelName   = "kernel"
	initrdName   = "initrd"
	manifestName = "manifest.json"
	lockName     = "lock.json"
	contentsName = "contents.json"

	buildPrefix  = ".build-"
	importPrefix = ".import-"
)

var (
	// ErrNotRoot: building needs root.
	ErrNotRoot = errors.New("building an image needs root")
	// ErrTool: a program that building needs is not installed.
	ErrTool = errors.New("a needed program is missing")
	// ErrCorrupt: a stream or an image does not have the digest it should have.
	ErrCorrupt = errors.New("content does not have its digest")
	// ErrBuild: a step of a build failed.
	ErrBuild = errors.New("build failed")
)

// Config says where a host's images are.
type Config struct {
	// Dir holds finished images. It belongs to one daemon.
	Dir string
	// CacheDir holds packages and base trees. Several daemons of one machine
	// may share it. Its file system must be able to carry an overlay's upper
	// directory (ext4 and xfs can, another overlay cannot).
	CacheDir string
	// InitPath is the static vcn-init program that becomes the initrd's init.
	InitPath string
	// Release is the Debian release of the images, such as bookworm. Empty
	// means the host's own.
	Release string
	// DiskBytes is the size of root disks that are built; 0 means 4 GiB. A tree
	// that does not fit makes the disk larger.
	DiskBytes int64
	// FetchNetns is the path of the network namespace from which the package
	// sources are reached; empty means the process's own.
	FetchNetns string
	Log        *slog.Logger
}

// Store builds and keeps images. It is safe for concurrent use.
type Store struct {
	cfg Config
	log *slog.Logger
	// building holds one build at a time; a channel, so that waiting ends with
	// the context.
	building chan struct{}
	mu       sync.Mutex // guards renames into and removals from Dir
	damaged  sync.Map   // digests of damaged images that were logged
}

var _ hostops.Images = (*Store)(nil)

// New opens the store, making its directories, and removes what an import that
// never ended has left there.
func New(cfg Config) (*Store, error) {
	if cfg.Dir == "" || cfg.CacheDir == "" {
		return nil, errors.New("open image store: Dir and CacheDir are needed")
	}
	for _, d := range []*string{&cfg.Dir, &cfg.CacheDir} {
		abs, err := filepath.Abs(*d)
		if err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
		if strings.ContainsAny(abs, ":,\\ \t\n\"'") {
			return nil, fmt.Errorf("open image store: %q: want a path without spaces, quotes, commas and colons", abs)
		}
		*d = abs
	}
	// QEMU, which is not root, passes through the one to kernels and initial RAM
	// disks. The other has whole systems in it, set-uid programs and all: nobody
	// else goes there.
	if err := passable.Mkdir(cfg.Dir); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	if err := privateDir(cfg.CacheDir); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.DiskBytes == 0 {
		cfg.DiskBytes = diskBytesDefault
	}
	s := &Store{cfg: cfg, log: cfg.Log, building: make(chan struct{}, 1)}
	return s, removeMatching(cfg.Dir, importPrefix)
}

func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	fi, err := os.Stat(dir)
	if err != nil || fi.Mode().Perm()&0o077 == 0 {
		return err
	}
	return os.Chmod(dir, fi.Mode().Perm()&^0o077)
}

var digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

func checkDigest(digest string) error {
	if !digestPattern.MatchString(digest) {
		return fmt.Errorf("image digest %q: want 64 hex digits", digest)
	}
	return nil
}

// Get returns the image with that digest. What is listed was complete when it
// was renamed into place; Root is empty if only its boot files are here.
func (s *Store) Get(ctx context.Context, digest string) (hostops.Image, error) {
	if err := errors.Join(ctx.Err(), checkDigest(digest)); err != nil {
		return hostops.Image{}, err
	}
	im, err := s.open(digest)
	if errors.Is(err, fs.ErrNotExist) {
		return im, fmt.Errorf("get image %.12s: %w", digest, hostops.ErrNotFound)
	}
	if err != nil {
		return im, fmt.Errorf("get image %.12s: %w", digest, err)
	}
	return im, nil
}

func (s *Store) open(digest string) (im hostops.Image, err error) {
	dir := filepath.Join(s.cfg.Dir, digest)
	var m rolls.Manifest
	if err := readJSON(filepath.Join(dir, manifestName), &m); err != nil {
		return im, err
	}
	if m.Digest != digest {
		return im, fmt.Errorf("%w: %s says %q", ErrCorrupt, filepath.Join(dir, manifestName), m.Digest)
	}
	im = hostops.Image{
		Recipe: m.Recipe, Digest: digest, Appliance: m.Appliance, Dir: dir, Manifest: m,
		Kernel: filepath.Join(dir, kernelName), Initrd: filepath.Join(dir, initrdName),
	}
	for _, p := range []string{im.Kernel, im.Initrd} {
		if _, err := os.Stat(p); err != nil {
			return hostops.Image{}, fmt.Errorf("%w: %v", ErrCorrupt, err)
		}
	}
	root := filepath.Join(dir, rootName)
	switch fi, err := os.Stat(root); {
	case err == nil:
		im.Root = root
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			im.SizeBytes = st.Blocks * 512 // stat(2) counts in 512 bytes, always
		}
	case !errors.Is(err, fs.ErrNotExist):
		return hostops.Image{}, err
	}
	return im, nil
}

// List returns all images, by digest. A damaged one is as good as absent: it is
// logged, once, and left out, and one that is built or imported takes its place.
func (s *Store) List(ctx context.Context) ([]hostops.Image, error) {
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var ims []hostops.Image
	for _, e := range entries {
		if !digestPattern.MatchString(e.Name()) {
			continue
		}
		im, err := s.Get(ctx, e.Name())
		if errors.Is(err, hostops.ErrNotFound) {
			continue // removed meanwhile
		}
		if errors.Is(err, ErrCorrupt) {
			if _, known := s.damaged.LoadOrStore(e.Name(), true); !known {
				s.log.Error("image is damaged and is not used", "digest", e.Name(), "err", err)
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list images: %w", err)
		}
		ims = append(ims, im)
	}
	return ims, nil
}

// Remove deletes an image. Its directory vanishes from the list at once, by
// rename, and then from the disk.
func (s *Store) Remove(ctx context.Context, digest string) error {
	if err := errors.Join(ctx.Err(), checkDigest(digest)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.drop(digest); err != nil {
		return fmt.Errorf("remove image %.12s: %w", digest, err)
	}
	return nil
}

// drop removes whatever is at a digest's place; nothing there is success.
func (s *Store) drop(digest string) error {
	tmp, err := os.MkdirTemp(s.cfg.Dir, importPrefix)
	if err != nil {
		return err
	}
	err = os.Rename(filepath.Join(s.cfg.Dir, digest), filepath.Join(tmp, digest))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.RemoveAll(tmp)
}

// publish makes a finished directory visible under its digest, in the place of
// a damaged one if there is one. The caller holds mu.
func (s *Store) publish(tmp, digest string) error {
	if err := syncDir(tmp); err != nil {
		return err
	}
	if err := setModes(tmp); err != nil {
		return err
	}
	if _, err := s.open(digest); errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
		if err := s.drop(digest); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, filepath.Join(s.cfg.Dir, digest)); err != nil {
		return err
	}
	s.damaged.Delete(digest)
	return syncDir(s.cfg.Dir)
}

// setModes lets QEMU, which is not root, read what it boots from: several guests
// share one kernel, so that libvirt's owner for one of them does not do.
func setModes(dir string) error {
	for name, mode := range map[string]fs.FileMode{kernelName: 0o644, initrdName: 0o644, rootName: 0o600, "": 0o755} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// removeMatching deletes dir's entries that begin with prefix.
func removeMatching(dir, prefix string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("clean %s: %w", dir, err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("clean %s: %w", dir, err)
			}
		}
	}
	return nil
}

func readJSON(name string, v any) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %s: %v", ErrCorrupt, name, err)
	}
	return nil
}

func writeJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeSynced(name, append(b, '\n'))
}

func writeSynced(name string, b []byte) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
