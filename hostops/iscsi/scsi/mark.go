package scsi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Mark remembers, through a loss of power, that a volume had writes which were
// answered and not flushed. Calls do not overlap.
type Mark interface {
	// Set makes the mark; when it returns nil, the mark is durable.
	Set() error
	// Clear takes it away; that this may be lost does no harm.
	Clear() error
}

// cleanInterval is how long a mark stays at least: two small fsyncs in this time
// are what marking costs a volume at most.
const cleanInterval = 10 * time.Second

// marker keeps a Mark at what it must be.
type marker struct {
	dirty   atomic.Bool   // the mark is set
	writes  atomic.Uint64 // that were answered without being durable
	durable atomic.Uint64 // of those

	mu   sync.Mutex
	last time.Time // the mark was set
	told bool      // that it cannot be set
}

// unflushed is called before a write is answered that is not durable. The first
// one after a flush waits for the mark.
func (u *Unit) unflushed() {
	m := &u.mark
	if u.cfg.Mark == nil {
		return
	}
	m.writes.Add(1)
	if m.dirty.Load() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirty.Load() {
		return
	}
	if err := u.cfg.Mark.Set(); err != nil {
		if !m.told { // the disk goes on: the mark serves those who look after it
			m.told = true
			u.cfg.Log.Error("writes of a volume are not marked: a loss of power would go unnoticed", "volume", u.cfg.VolumeID, "err", err)
		}
		return
	}
	m.told, m.last = false, time.Now()
	m.dirty.Store(true)
}

// flushed is called after a flush that succeeded; writes is how many there were
// before it began.
func (u *Unit) flushed(writes uint64) {
	m := &u.mark
	m.durable.Store(writes)
	if u.cfg.Mark == nil || !m.dirty.Load() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirty.Load() || time.Since(m.last) < cleanInterval {
		return
	}
	// From here on a write makes the mark anew, and waits for us.
	m.dirty.Store(false)
	if m.writes.Load() != writes {
		m.dirty.Store(true)
		return
	}
	if err := u.cfg.Mark.Clear(); err != nil {
		u.cfg.Log.Warn("mark of a volume stays", "volume", u.cfg.VolumeID, "err", err)
		m.dirty.Store(true)
	}
}

// closeMark clears the mark at the end of a unit that is clean.
func (u *Unit) closeMark() {
	m := &u.mark
	if u.cfg.Mark == nil || !m.dirty.Load() || m.writes.Load() != m.durable.Load() {
		return
	}
	if err := u.cfg.Mark.Clear(); err != nil {
		u.cfg.Log.Warn("mark of a volume stays", "volume", u.cfg.VolumeID, "err", err)
	}
}

const (
	bootIDPath = "/proc/sys/kernel/random/boot_id"
	markLost   = "lost" // a line of a mark file; the other one is a boot id
)

// FileMark is a Mark in a file that holds the id of the boot in which it was
// made. A mark of an earlier boot means that the host went down with writes
// unflushed; one of this boot only that the process did, whose writes the page
// cache still has. That something was lost stays in the file until Forget.
type FileMark struct {
	path, boot string

	mu   sync.Mutex
	lost bool
	set  bool
}

// OpenMark reads the mark at path, whose directory must exist.
func OpenMark(path string) (*FileMark, error) {
	boot, err := os.ReadFile(bootIDPath)
	if err != nil {
		return nil, fmt.Errorf("open mark: %w", err)
	}
	m := &FileMark{path: path, boot: strings.TrimSpace(string(boot))}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open mark: %w", err)
	}
	for l := range strings.Lines(string(b)) {
		switch strings.TrimSpace(l) {
		case m.boot:
			m.set = true
		default: // markLost, another boot, or a file that nobody of us wrote
			m.lost = true
		}
	}
	return m, nil
}

// Lost says whether the host has gone down with unflushed writes since the last
// Forget.
func (m *FileMark) Lost() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lost
}

// Forget says that whoever had to know of the loss knows.
func (m *FileMark) Forget() error { return m.change(func() { m.lost = false }) }

// Set implements Mark.
func (m *FileMark) Set() error { return m.change(func() { m.set = true }) }

// Clear implements Mark.
func (m *FileMark) Clear() error { return m.change(func() { m.set = false }) }

// change applies f and writes the file, so that a crash leaves the old or the
// new one. What could not be written counts as unchanged.
func (m *FileMark) change(f func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	lost, set := m.lost, m.set
	f()
	if err := m.save(); err != nil {
		m.lost, m.set = lost, set
		return fmt.Errorf("write mark: %w", err)
	}
	return nil
}

func (m *FileMark) save() error {
	text := ""
	if m.lost {
		text = markLost + "\n"
	}
	if m.set {
		text += m.boot + "\n"
	}
	if text == "" {
		if err := os.Remove(m.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil // that it may come back after a crash errs on the safe side
	}
	f, err := os.OpenFile(m.path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(m.path+".new", m.path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(m.path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
