package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"vcn/hostops"
	"vcn/rolls"
)

const (
	diskBytesDefault = 4 << 30
	lockPoll         = 200 * time.Millisecond
	workPrefix       = "work-"
	basePrefix       = "base-"
	baseTreesMax     = 3 // kept in the cache
	// cmdline is what the image itself wants from its kernel: eth0 and eth1 by
	// the order of the cards, and a quiet console.
	cmdline = "quiet net.ifnames=0"
)

// tools are the programs that a build runs, with their Debian packages.
var tools = []struct{ program, pkg string }{
	{"apt-get", "apt"}, {"apt-cache", "apt"}, {"apt-config", "apt"}, {"mmdebstrap", "mmdebstrap"},
	{"mke2fs", "e2fsprogs"}, {"mount", "mount"}, {"chroot", "coreutils"}, {"dpkg", "dpkg"},
}

func checkTools(look func(string) (string, error)) error {
	var errs []error
	for _, t := range tools {
		if _, err := look(t.program); err != nil {
			errs = append(errs, fmt.Errorf("%w: %s (Debian package %s)", ErrTool, t.program, t.pkg))
		}
	}
	return errors.Join(errs...)
}

// Build makes the image of a recipe, or returns the one that is here. One build
// at a time; it needs root. Errors wrap ErrNotRoot, ErrTool, ErrBuild or ErrCorrupt.
func (s *Store) Build(ctx context.Context, spec hostops.BuildSpec, progress func(string)) (hostops.Image, error) {
	if progress == nil {
		progress = func(string) {}
	}
	im, err := s.build(ctx, spec.Recipe, progress)
	if err != nil {
		return hostops.Image{}, fmt.Errorf("build image of %s: %w", spec.Recipe, err)
	}
	return im, nil
}

func (s *Store) build(ctx context.Context, r rolls.Recipe, progress func(string)) (hostops.Image, error) {
	if len(r.Rolls) == 0 {
		return hostops.Image{}, fmt.Errorf("%w: the recipe has no rolls", ErrBuild)
	}
	select {
	case s.building <- struct{}{}:
		defer func() { <-s.building }()
	case <-ctx.Done():
		return hostops.Image{}, ctx.Err()
	}
	if im, ok, err := s.present(ctx, r); ok || err != nil {
		return im, err
	}
	if os.Geteuid() != 0 {
		return hostops.Image{}, fmt.Errorf("%w: file owners, device nodes and mounts cannot be made without it", ErrNotRoot)
	}
	if err := checkTools(exec.LookPath); err != nil {
		return hostops.Image{}, err
	}
	unlock, err := lockDir(ctx, s.cfg.CacheDir, func() { progress("waiting for another build to end") })
	if err != nil {
		return hostops.Image{}, err
	}
	defer unlock()
	if err := s.clean(); err != nil {
		return hostops.Image{}, err
	}
	b := &builder{store: s, recipe: r, progress: progress, started: time.Now()}
	return b.build(ctx)
}

// clean removes what crashed builds have left. Nothing of it can be mounted: see
// the package's doc.
func (s *Store) clean() error {
	return errors.Join(removeMatching(s.cfg.CacheDir, workPrefix), removeMatching(s.cfg.Dir, buildPrefix))
}

// present returns the newest whole image that was made of the recipe with this
// init program, if there is one.
func (s *Store) present(ctx context.Context, r rolls.Recipe) (im hostops.Image, ok bool, err error) {
	ims, err := s.List(ctx)
	if err != nil {
		return im, false, err
	}
	initDigest, err := fileDigest(s.cfg.InitPath)
	if err != nil {
		return im, false, fmt.Errorf("read init program: %w", err)
	}
	var newest time.Time
	for _, i := range ims {
		if i.Recipe != r.Digest() || i.Root == "" {
			continue
		}
		var l Lock
		if err := readJSON(filepath.Join(i.Dir, lockName), &l); err != nil {
			return im, false, err
		}
		if l.Init != initDigest || l.Builder != builderVersion {
			continue
		}
		fi, err := os.Stat(i.Root)
		if err != nil {
			return im, false, err
		}
		if !ok || fi.ModTime().After(newest) {
			im, ok, newest = i, true, fi.ModTime()
		}
	}
	return im, ok, nil
}

// lockDir takes the cache directory for this process.
func lockDir(ctx context.Context, dir string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock cache: %w", err)
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for first := true; ; first = false {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			_ = f.Close()
			return nil, fmt.Errorf("lock cache: %w", err)
		}
		if first {
			waiting()
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// builder is one build.
type builder struct {
	store    *Store
	recipe   rolls.Recipe
	progress func(string)
	started  time.Time

	release string
	work    string // CacheDir/work-*
	out     string // Dir/.build-*
	pool    *pool
	tree    *tree
	lock    Lock
	// basePackages are those of the first roll, which the base tree has.
	basePackages []Package
	baseNames    []string
	man          rolls.Manifest
}

func (b *builder) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	b.store.log.Info("build image", "appliance", b.recipe.Appliance, "step", line, "since_ms", time.Since(b.started).Milliseconds())
	b.progress(line)
}

func (b *builder) build(ctx context.Context) (im hostops.Image, err error) {
	if b.work, err = os.MkdirTemp(b.store.cfg.CacheDir, workPrefix); err != nil {
		return im, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()
	if b.release, err = b.store.release(); err != nil {
		return im, err
	}
	for _, f := range []func(context.Context) error{b.resolve, b.baseTree} {
		if err := f(ctx); err != nil {
			return im, blame(err, b.recipe)
		}
	}
	digest := b.lock.Digest()
	if b.out, err = os.MkdirTemp(b.store.cfg.Dir, buildPrefix); err != nil {
		return im, err
	}
	defer os.RemoveAll(b.out) // nothing there after publish
	for _, f := range []func(context.Context) error{b.install, b.rolls, b.strip, b.describe, b.bootFiles, b.rootDisk} {
		if err := f(ctx); err != nil {
			return im, err
		}
	}
	return b.finish(ctx, digest)
}

// finish writes the descriptions and makes the image visible.
func (b *builder) finish(ctx context.Context, digest string) (im hostops.Image, err error) {
	b.say("computing digests")
	c, err := describeContents(ctx, b.out, []string{rootName, kernelName, initrdName})
	if err != nil {
		return im, err
	}
	b.man.Digest = digest
	for name, v := range map[string]any{lockName: b.lock, contentsName: c, manifestName: b.man} {
		if err := writeJSON(filepath.Join(b.out, name), v); err != nil {
			return im, err
		}
	}
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	if old, err := b.store.open(digest); err == nil && old.Root != "" {
		// Built from another recipe's text, or imported meanwhile: the same lock.
		return old, nil
	} else if err == nil {
		if err := completeImage(old.Dir, b.out); err != nil {
			return im, err
		}
	} else if err := b.store.publish(b.out, digest); err != nil {
		return im, err
	}
	im, err = b.store.open(digest)
	b.say("image %.12s is ready, %d MB, after %.1f s", digest, im.SizeBytes/1e6, time.Since(b.started).Seconds())
	return im, err
}

// release is the Debian release of the images.
func (s *Store) release() (string, error) {
	if s.cfg.Release != "" {
		return s.cfg.Release, nil
	}
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", fmt.Errorf("read the host's release: %w", err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, "VERSION_CODENAME="); ok {
			return strings.Trim(v, `"`), nil
		}
	}
	return "", errors.New("/etc/os-release names no VERSION_CODENAME: say the release in the configuration")
}
