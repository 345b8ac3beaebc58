package lio

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vcn/hostops"
)

const (
	blockBytes = 512
	// pathBytesMax is what the kernel's fileio keeps of a path (FD_MAX_DEV_NAME).
	pathBytesMax = 255
	hbaTries     = 64
	// unmapBlocksMax is the most one descriptor gives back: 512 MiB.
	unmapBlocksMax = 1 << 20
	blockPlugin    = "iblock"
	filePlugin     = "fileio"
)

// medium is what is at a volume's path.
type medium struct {
	plugin   string
	identity string // of the device or file, which another at the same path has not
	size     int64  // bytes, whole blocks
}

func look(path string) (medium, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return medium{}, fmt.Errorf("open volume: %w", err)
	}
	st, ok := fi.Sys().(*unix.Stat_t)
	if !ok {
		st = new(unix.Stat_t)
		if err := unix.Stat(path, st); err != nil {
			return medium{}, fmt.Errorf("open volume %s: %w", path, err)
		}
	}
	m := medium{plugin: filePlugin, identity: fmt.Sprintf("file %d:%d", st.Dev, st.Ino), size: fi.Size()}
	switch {
	case fi.Mode().IsRegular():
	case fi.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice:
		m.plugin, m.identity = blockPlugin, fmt.Sprintf("device %d", st.Rdev)
		if m.size, err = deviceSize(path); err != nil {
			return medium{}, fmt.Errorf("size of volume: %w", err)
		}
	default:
		return medium{}, fmt.Errorf("open volume: %s is neither a file nor a block device: %w", path, hostops.ErrInvalid)
	}
	m.size &^= blockBytes - 1
	if m.size < blockBytes {
		return medium{}, fmt.Errorf("open volume: %s is smaller than a block: %w", path, hostops.ErrInvalid)
	}
	return m, nil
}

// deviceSize opens for reading only: to close a device that was open for
// writing makes udev look into the guest's data.
func deviceSize(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	n, err := f.Seek(0, io.SeekEnd)
	return n, errors.Join(err, f.Close())
}

// sameStore tells whether the backstore in the kernel is this very medium.
func (e *Engine) sameStore(v *volume, path string, m medium) bool {
	if !strings.HasPrefix(filepath.Base(filepath.Dir(v.dev)), m.plugin+"_") {
		return false
	}
	for attr, want := range map[string]string{"udev_path": path, "alias": m.identity, "enable": "1"} {
		if is, err := get(filepath.Join(v.dev, attr)); err != nil || strings.TrimSpace(is) != want {
			return false
		}
	}
	return true
}

// makeStore makes a volume's backstore, in an adapter of its own: the kernel
// locks an adapter while it opens or closes one of its devices.
func (e *Engine) makeStore(ctx context.Context, v *volume, path string, m medium) (err error) {
	name := e.alias(v.id)
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	var hba string
	for try := range hbaTries {
		hba = filepath.Join(e.root, "core", m.plugin+"_"+strconv.Itoa(int(h.Sum32()>>2)+try))
		if err = os.Mkdir(hba, 0o755); err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make adapter: %w", err)
		}
		// One of ours that a crash left empty.
		if l, lerr := list(hba); lerr == nil && len(l) == 0 {
			err = nil
			break
		}
	}
	if err != nil {
		return fmt.Errorf("make adapter: %w", err)
	}
	v.dev = filepath.Join(hba, name)
	if err := e.fillStore(ctx, v, path, m); err != nil {
		if ctx.Err() == nil { // else a later call removes it
			err = errors.Join(err, e.removeStore(ctx, v))
		}
		return err
	}
	v.size = m.size
	return nil
}

// attribute is one to be written in order.
type attribute struct {
	name, value string
	optional    bool // not every kernel has it
}

func (e *Engine) fillStore(ctx context.Context, v *volume, path string, m medium) error {
	if err := mkdir(v.dev); err != nil {
		return fmt.Errorf("make backstore: %w", err)
	}
	control := "udev_path=" + path
	if m.plugin == filePlugin {
		// Buffered: the kernel says that there is a write cache, and flushes it by
		// fdatasync when it is asked to.
		control = fmt.Sprintf("fd_dev_name=%s,fd_dev_size=%d,fd_buffered_io=1", path, m.size)
	}
	if err := putAll(v.dev, []attribute{
		{name: "control", value: control},
		{name: "udev_path", value: path},
		{name: "alias", value: m.identity},
		// As the embedded engine says, so that a guest sees the same disk.
		{name: "wwn/vpd_unit_serial", value: v.id},
		{name: "wwn/vendor_id", value: "VCN", optional: true},
		{name: "wwn/product_id", value: "VOLUME", optional: true},
		{name: "wwn/revision", value: "1", optional: true},
	}); err != nil {
		return fmt.Errorf("make backstore: %w", err)
	}
	if err := e.set(ctx, v, filepath.Join(v.dev, "enable"), "1"); err != nil {
		return fmt.Errorf("open %s in the kernel: %w", path, err)
	}
	if is, err := get(filepath.Join(v.dev, "attrib/block_size")); err != nil || is != strconv.Itoa(blockBytes) {
		return fmt.Errorf("open %s in the kernel: blocks of %q bytes, want %d: %w", path, is, blockBytes, errors.Join(err, hostops.ErrInvalid))
	}
	return e.tuneStore(v, m)
}

// tuneStore sets what a guest may do.
func (e *Engine) tuneStore(v *volume, m medium) error {
	l := []attribute{
		// A reservation would outlive its generation; a copy by the target could
		// name units that the initiator may not use.
		{name: "attrib/emulate_pr", value: "0", optional: true},
		{name: "attrib/emulate_3pc", value: "0"},
		{name: "attrib/is_nonrot", value: "1"},
	}
	if m.plugin == filePlugin {
		// Holes read as zeroes, always.
		l = append(l,
			attribute{name: "attrib/emulate_tpu", value: "1"},
			attribute{name: "attrib/emulate_tpws", value: "1"},
			attribute{name: "attrib/unmap_zeroes_data", value: "1", optional: true},
			attribute{name: "attrib/max_unmap_lba_count", value: strconv.Itoa(unmapBlocksMax)},
			attribute{name: "attrib/unmap_granularity", value: "8"},
		)
	}
	if err := putAll(v.dev, l); err != nil {
		return fmt.Errorf("tune backstore: %w", err)
	}
	if m.plugin == filePlugin {
		return nil
	}
	// A device may forget discards, so nothing is promised of what they leave,
	// and zeroes are written. One without discard has no unmap either.
	if err := put(filepath.Join(v.dev, "attrib/emulate_tpu"), "1"); errors.Is(err, unix.ENOSYS) {
		return nil
	} else if err != nil {
		return fmt.Errorf("tune backstore: %w", err)
	}
	return putAll(v.dev, []attribute{
		{name: "attrib/emulate_tpws", value: "0"},
		{name: "attrib/unmap_zeroes_data", value: "0", optional: true},
	})
}

func putAll(dir string, l []attribute) error {
	for _, a := range l {
		write := put
		if a.optional {
			write = putIfThere
		}
		if err := write(filepath.Join(dir, a.name), a.value); err != nil {
			return err
		}
	}
	return nil
}

// removeStore closes the volume in the kernel.
func (e *Engine) removeStore(ctx context.Context, v *volume) error {
	if v.dev == "" {
		return nil
	}
	if err := e.rmdir(ctx, v, v.dev); err != nil {
		return fmt.Errorf("remove backstore: %w", err)
	}
	if err := remove(filepath.Dir(v.dev)); err != nil {
		return fmt.Errorf("remove adapter: %w", err)
	}
	v.dev = ""
	return nil
}

// Resize takes over that the volume has grown. Initiators are not told: they
// see it when they ask for the capacity.
func (e *Engine) Resize(ctx context.Context, id string) error {
	v, err := e.acquire(ctx, id, "")
	if err != nil {
		return fmt.Errorf("resize volume %s in LIO: %w", id, err)
	}
	defer e.release(v)
	if v.dev == "" {
		return fmt.Errorf("resize volume %s in LIO: %w", id, hostops.ErrNotFound)
	}
	path, err := get(filepath.Join(v.dev, "udev_path"))
	if err != nil {
		return fmt.Errorf("resize volume %s in LIO: %w", id, err)
	}
	m, err := look(strings.TrimSpace(path))
	if err != nil {
		return fmt.Errorf("resize volume %s in LIO: %w", id, err)
	}
	old, err := e.servedSize(v, m)
	if err != nil {
		return fmt.Errorf("resize volume %s in LIO: %w", id, err)
	}
	if m.size < old {
		return fmt.Errorf("resize volume %s in LIO: it shrank from %d to %d bytes", id, old, m.size)
	}
	if m.plugin == filePlugin && m.size > old {
		if err := put(filepath.Join(v.dev, "control"), fmt.Sprintf("fd_dev_size=%d", m.size)); err != nil {
			return fmt.Errorf("resize volume %s in LIO: %w", id, err)
		}
	}
	v.size = m.size
	return nil
}

// servedSize is what initiators are told, in bytes. The kernel follows a
// device by itself; of a file it keeps what it was told.
func (e *Engine) servedSize(v *volume, m medium) (int64, error) {
	if m.plugin == blockPlugin {
		return v.size, nil
	}
	info, err := get(filepath.Join(v.dev, "info"))
	if err != nil {
		return 0, err
	}
	return fileSize(info)
}

// fileSize reads "...  Size: 4194304  Mode: ..." of a fileio backstore, whose
// "SectorSize: 512" comes before.
func fileSize(info string) (int64, error) {
	_, rest, ok := strings.Cut(info, " Size: ")
	n, err := strconv.ParseInt(strings.TrimSpace(strings.SplitN(rest, " ", 2)[0]), 10, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("no size in %q", info)
	}
	return n, nil
}
