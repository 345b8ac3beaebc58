package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"vcn/hostops/images"
)

const (
	rootName   = "root.img"
	kernelName = "vmlinuz"
	initrdName = "initrd" // modules only: a machine's agent is added at its start
	rootsKept  = 2        // newest by use
	lockPoll   = 200 * time.Millisecond
	workPrefix = "work-"
	outputTail = 4 << 10
)

// rootScript builds the tree and packs it. It is part of the digest.
//
//go:embed root.sh
var rootScript string

// rootPackages are those of a lab machine, beside what Debian says is required.
var rootPackages = []string{
	"linux-image-cloud-amd64", "tiny-initramfs", // the kernel wants one that makes an initrd: this is the smallest
	"systemd", "systemd-sysv", "udev", "dbus", "kmod", "procps", "strace", "mount", "e2fsprogs", "xfsprogs",
	"iproute2", "iputils-ping", "nftables", "tcpdump", "openssh-client", "ca-certificates",
	"lvm2", "thin-provisioning-tools", "open-iscsi", "libiscsi-bin", "tgt", "sg3-utils",
	"qemu-utils", "qemu-block-extra", "qemu-system-x86",
	"libvirt-daemon", "libvirt-daemon-system", "libvirt-daemon-driver-qemu", "libvirt-clients",
}

// rootModules are what the initrd needs to reach the root and the host. udev loads the rest.
var rootModules = []string{"virtio_pci", "virtio_blk", "ext4", "virtio_net", "virtio_rng"}

// Root is what machines start from. Nothing in it is ever written.
type Root struct {
	Digest, Image, Kernel, Initrd string // a name, and three paths
}

func rootDigest(release string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{
		release, strings.Join(rootPackages, " "), strings.Join(rootModules, " "), rootScript,
	}, "\n")))
	return hex.EncodeToString(sum[:])
}

func rootAt(dir, digest string) Root {
	d := filepath.Join(dir, digest)
	return Root{Digest: digest, Image: filepath.Join(d, rootName), Kernel: filepath.Join(d, kernelName), Initrd: filepath.Join(d, initrdName)}
}

// release is the Debian release of this machine, and so of the lab's.
func release() (string, error) {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", fmt.Errorf("read this machine's release: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(v, `"`), nil
		}
	}
	return "", errors.New("/etc/os-release names no VERSION_CODENAME: the lab wants Debian")
}

// BuildRoot returns the root of the lab's machines below cache (empty: CacheDir),
// and builds it, within about a minute, if it is not there. It wants root and the
// host's package sources. Errors wrap ErrRoot when the build itself fails.
func BuildRoot(ctx context.Context, cache string, progress func(string)) (Root, error) {
	if cache == "" {
		cache = CacheDir()
	}
	rel, err := release()
	if err != nil {
		return Root{}, err
	}
	root := rootAt(cache, rootDigest(rel))
	if used(root) {
		return root, nil
	}
	if os.Geteuid() != 0 {
		return Root{}, fmt.Errorf("build the lab's root: %w: it has files of other owners", ErrNotRoot)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Root{}, err
	}
	unlock, err := lockDir(ctx, cache, progress)
	if err != nil {
		return Root{}, err
	}
	defer unlock()
	if used(root) {
		return root, nil
	}
	began := time.Now()
	if err := buildRoot(ctx, cache, rel, root, progress); err != nil {
		return Root{}, fmt.Errorf("build the lab's root: %w", err)
	}
	progress(fmt.Sprintf("the lab's root is ready after %.0f s", time.Since(began).Seconds()))
	return root, pruneRoots(cache)
}

// used tells whether a root is there, and notes that it is used.
func used(r Root) bool {
	now := time.Now()
	return os.Chtimes(filepath.Dir(r.Image), now, now) == nil
}

func buildRoot(ctx context.Context, cache, rel string, root Root, progress func(string)) (err error) {
	// Nothing of an earlier build is mounted: mounts were in its own namespace.
	old, err := filepath.Glob(filepath.Join(cache, workPrefix+"*"))
	if err != nil {
		return err
	}
	for _, d := range old {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	work, err := os.MkdirTemp(cache, workPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	sources, err := aptSources()
	if err != nil {
		return err
	}
	options, err := images.FetchOptions(ctx)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(work, "apt.conf"), []byte(options+"APT::Install-Recommends \"false\";\n"), 0o644); err != nil {
		return err
	}
	progress(fmt.Sprintf("building the lab's root: %d packages and what they need, about a minute", len(rootPackages)))
	if err := runRootScript(ctx, work, rel, sources, progress); err != nil {
		return err
	}
	out := filepath.Join(work, "out")
	if err := packModules(work, filepath.Join(out, initrdName)); err != nil {
		return err
	}
	return os.Rename(out, filepath.Dir(root.Image))
}

// runRootScript runs the build in namespaces of its own: when it is cancelled, the kernel
// ends its processes and takes its mounts.
func runRootScript(ctx context.Context, work, rel string, sources []string, progress func(string)) error {
	args := append([]string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--ipc", "--uts",
		"bash", "-c", rootScript, "root.sh"}, sources...)
	cmd := exec.CommandContext(ctx, "unshare", args...)
	cmd.Env = append(os.Environ(), "WORK="+work, "RELEASE="+rel, "PACKAGES="+strings.Join(rootPackages, ","),
		"LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "TMPDIR="+work)
	var tail tailWriter
	cmd.Stderr, cmd.WaitDelay = &tail, killWait
	cmd.Stdout = lineWriter(progress)
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %v\n%s", ErrRoot, err, tail.String())
	}
	return nil
}

// aptSources are the files that say where this machine gets its packages.
func aptSources() ([]string, error) {
	var files []string
	for _, glob := range []string{"/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources"} {
		m, err := filepath.Glob(glob)
		if err != nil {
			return nil, err
		}
		files = append(files, m...)
	}
	if len(files) == 0 {
		return nil, errors.New("this machine has no package sources in /etc/apt")
	}
	return files, nil
}

// packModules makes the initrd without the agent.
func packModules(work, file string) error {
	mods := filepath.Join(work, "modules")
	dep, err := os.ReadFile(filepath.Join(mods, "modules.dep"))
	if err != nil {
		return err
	}
	builtin, err := os.ReadFile(filepath.Join(mods, "modules.builtin"))
	if err != nil {
		return err
	}
	paths, err := images.ModuleFiles(string(dep), string(builtin), rootModules)
	if err != nil {
		return err
	}
	var files []images.InitrdFile
	for _, d := range []string{"dev", "proc", "sys", "m", "newroot"} {
		files = append(files, images.InitrdFile{Name: d, Mode: 0o755, Dir: true})
	}
	var list strings.Builder
	for _, p := range paths {
		b, err := os.ReadFile(filepath.Join(mods, p))
		if err != nil {
			return err
		}
		files = append(files, images.InitrdFile{Name: "m/" + path.Base(p), Mode: 0o644, Data: b})
		list.WriteString("/m/" + path.Base(p) + "\n")
	}
	files = append(files, images.InitrdFile{Name: "modules", Mode: 0o644, Data: []byte(list.String())})
	var buf bytes.Buffer
	if err := images.WriteInitrd(&buf, files); err != nil {
		return err
	}
	return os.WriteFile(file, buf.Bytes(), 0o644)
}

// pruneRoots removes roots that were not used for longest. A machine that runs on one
// keeps it open, but could not be started again: hence more than one is kept.
func pruneRoots(cache string) error {
	dirs, err := filepath.Glob(filepath.Join(cache, strings.Repeat("[0-9a-f]", 64)))
	if err != nil {
		return err
	}
	age := map[string]time.Time{}
	for _, d := range dirs {
		fi, err := os.Stat(d)
		if err != nil {
			return err
		}
		age[d] = fi.ModTime()
	}
	slices.SortFunc(dirs, func(a, b string) int { return age[b].Compare(age[a]) })
	var errs []error
	for _, d := range dirs[min(rootsKept, len(dirs)):] {
		errs = append(errs, os.RemoveAll(d))
	}
	return errors.Join(errs...)
}

// lockDir takes the cache for this process.
func lockDir(ctx context.Context, dir string, progress func(string)) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the lab's cache: %w", err)
	}
	for first := true; ; first = false {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			return nil, errors.Join(fmt.Errorf("lock the lab's cache: %w", err), f.Close())
		}
		if first {
			progress("waiting for another build of the lab's root")
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(lockPoll):
		}
	}
}
