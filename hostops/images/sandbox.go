package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	tailLinesMax = 15
	tailBytesMax = 64 << 10
	outputMax    = 64 << 20
	killWait     = 10 * time.Second
)

// tree is a base tree with an overlay on it. It is mounted inside steps only.
type tree struct {
	base string // lower, read-only
	dir  string // holds upper, work, root
	repo string // flat repository, bound to /run/vcn/repo inside
}

func newTree(base, dir, repo string) (*tree, error) {
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	return &tree{base: base, dir: dir, repo: repo}, nil
}

// overlayScript mounts the tree at $ROOT. Modes and owner of the upper directory
// are those of the merged root.
const overlayScript = `set -eu
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$DIR/upper,workdir=$DIR/work" "$ROOT" || {
	echo "cannot mount an overlay on $DIR: the cache directory wants ext4 or xfs below it"; exit 1; }
`

// chrootScript makes the tree a place to run programs in: kernel file systems,
// a few devices, and memory for what must not reach the image.
const chrootScript = overlayScript + `
mount -t proc -o nosuid,nodev,noexec proc "$ROOT/proc"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$ROOT/sys"
mount -t tmpfs -o mode=0755 tmpfs "$ROOT/run"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
mount -t tmpfs -o mode=0755 tmpfs "$ROOT/dev"
for n in null zero full random urandom tty; do
	: >"$ROOT/dev/$n"; mount --bind "/dev/$n" "$ROOT/dev/$n"
done
ln -s /proc/self/fd "$ROOT/dev/fd"
ln -s fd/0 "$ROOT/dev/stdin"; ln -s fd/1 "$ROOT/dev/stdout"; ln -s fd/2 "$ROOT/dev/stderr"
mkdir -p "$ROOT/dev/shm" "$ROOT/dev/pts" "$ROOT/run/lock" "$ROOT/run/vcn/repo"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$ROOT/dev/pts"
ln -s pts/ptmx "$ROOT/dev/ptmx"
mount --bind -o ro "$REPO" "$ROOT/run/vcn/repo"
exec chroot "$ROOT" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1 \
	VCN_APPLIANCE="${VCN_APPLIANCE-}" VCN_ROLL="${VCN_ROLL-}" "$@"
`

func (t *tree) env() []string {
	return []string{"BASE=" + t.base, "DIR=" + t.dir, "REPO=" + t.repo, "ROOT=" + filepath.Join(t.dir, "root")}
}

// inside runs a command in the tree.
func (t *tree) inside(ctx context.Context, s step) ([]byte, error) {
	s.script, s.env = chrootScript, append(t.env(), s.env...)
	return s.run(ctx)
}

// merged runs a shell script beside the tree, mounted at $ROOT with nothing in
// it but its own files.
func (t *tree) merged(ctx context.Context, s step) ([]byte, error) {
	s.script, s.env = overlayScript+s.script, append(t.env(), s.env...)
	return s.run(ctx)
}

// step is one isolated run of a shell script.
type step struct {
	name   string
	script string
	args   []string
	env    []string
	stdin  io.Reader
}

// run runs the script as the first process of new mount, process, network, IPC
// and host-name namespaces, and returns its standard output. When ctx ends it
// is killed, and the kernel takes everything in the namespaces with it.
func (s step) run(ctx context.Context) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", s.script, "sh"}, s.args...)...)
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root"}, s.env...)
	cmd.Dir = "/"
	cmd.Stdin = s.stdin
	var out limitedBuffer
	var tail tailBuffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, &tail), &tail
	cmd.WaitDelay = killWait
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		// Should this process be killed, its step must not live on.
		Pdeathsig: syscall.SIGKILL,
	}
	err := runLocked(cmd)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s: %w", s.name, ctx.Err())
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v\n%s", ErrBuild, s.name, err, tail.String())
	}
	return out.Bytes(), nil
}

// runLocked runs cmd on a thread that lives as long as cmd: the parent-death
// signal is sent when the starting thread ends, not the process.
func runLocked(cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	return <-done
}

// limitedBuffer refuses to grow beyond outputMax.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > outputMax {
		return 0, errors.New("too much output")
	}
	return b.Buffer.Write(p)
}

// tailBuffer keeps the last lines written to it.
type tailBuffer struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailBytesMax; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.buf)), "\n")
	if n := len(lines); n > tailLinesMax {
		lines = lines[n-tailLinesMax:]
	}
	return strings.Join(lines, "\n")
}
