package scsi

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// memoryMark counts, and says what a crash now would find.
type memoryMark struct {
	set     atomic.Bool
	changes atomic.Int32
	fail    atomic.Bool
}

func (m *memoryMark) Set() error {
	if m.fail.Load() {
		return errors.New("no disk")
	}
	m.set.Store(true)
	m.changes.Add(1)
	return nil
}

func (m *memoryMark) Clear() error {
	m.set.Store(false)
	m.changes.Add(1)
	return nil
}

func TestMarkFollowsWritesAndFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _ := newTestUnit(t)
		m := &memoryMark{}
		u.cfg.Mark = m
		block := make([]byte, blockBytes)
		write := func() { want(t, u, cdb16(opWrite16, 0, 0, 1), block, 0, 0) }
		flush := func() { want(t, u, cdb(opSyncCache10), nil, 0, 0) }
		flush()
		want(t, u, cdb16(opRead16, 0, 0, 1), nil, 0, 0)
		want(t, u, cdb16(opWrite16, bitFUA, 0, 1), block, 0, 0)
		if m.set.Load() {
			t.Fatal("marked without an unflushed write")
		}
		for _, c := range [][]byte{cdb16(opWriteSame16, 1, 0, 1), cdb16(opOrWrite16, 0, 0, 1), cdb(opUnmap, 0, 0, 0, 0, 0, 0, 0, 24)} {
			_, out := unmapList(blockRange{0, 1})
			if c[0] != opUnmap {
				out = block[:u.OutBytes(c)]
			}
			want(t, u, c, out, 0, 0)
			if !m.set.Load() {
				t.Fatalf("command %x is answered unmarked", c)
			}
			time.Sleep(cleanInterval)
			flush()
			if m.set.Load() {
				t.Fatal("marked after a flush")
			}
		}
		before := m.changes.Load()
		for range 100 { // a database: write, flush, write, flush
			write()
			if !m.set.Load() {
				t.Fatal("a write is answered unmarked")
			}
			flush()
			time.Sleep(cleanInterval / 20)
		}
		if n := m.changes.Load() - before; n > 12 {
			t.Fatalf("%d changes of the mark in 5 intervals", n)
		}
		// A mark that cannot be set stops nobody, and is tried again.
		time.Sleep(cleanInterval)
		flush()
		m.fail.Store(true)
		write()
		m.fail.Store(false)
		write()
		if !m.set.Load() {
			t.Fatal("not tried again")
		}
		u.closeMark()
		if !m.set.Load() {
			t.Fatal("closed without a flush, and clean")
		}
		flush()
		u.closeMark()
		if m.set.Load() {
			t.Fatal("closed after a flush, and marked")
		}
	})
}

// Between writers and flushers no write is ever answered while the mark is
// clear and the write not flushed.
func TestMarkRaces(t *testing.T) {
	u, _ := newTestUnit(t)
	m := &memoryMark{}
	u.cfg.Mark = m
	var wg sync.WaitGroup
	end := time.Now().Add(10 * time.Second)
	goOn := func() bool { return m.changes.Load() < 40 && time.Now().Before(end) }
	for range 4 {
		wg.Go(func() {
			for goOn() {
				time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond) // so that a flush may cover all
				u.Exec("n", cdb16(opWrite16, 0, 0, 1), make([]byte, blockBytes), 0)
				w, d := u.mark.writes.Load(), u.mark.durable.Load()
				if !m.set.Load() && d < w && u.mark.durable.Load() == d && u.mark.writes.Load() == w && !u.mark.dirty.Load() {
					t.Errorf("%d writes, %d of them durable, and no mark", w, d)
				}
			}
		})
	}
	wg.Go(func() {
		for goOn() {
			u.mark.mu.Lock()
			u.mark.last = time.Time{} // as if the interval were over
			u.mark.mu.Unlock()
			u.Exec("n", cdb(opSyncCache10), nil, 0)
		}
	})
	wg.Wait()
	if m.changes.Load() < 4 {
		t.Fatalf("%d changes: nothing was tried", m.changes.Load())
	}
}

func TestFileMark(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mark")
	open := func(lost bool) *FileMark {
		t.Helper()
		m, err := OpenMark(path)
		if err != nil {
			t.Fatal(err)
		}
		if m.Lost() != lost {
			b, _ := os.ReadFile(path)
			t.Fatalf("lost %t, want %t; file %q", m.Lost(), lost, b)
		}
		return m
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	reboot := func() { // the mark of this boot becomes one of an earlier
		t.Helper()
		b, err := os.ReadFile(path)
		ok(err)
		boot, err := os.ReadFile(bootIDPath)
		ok(err)
		ok(os.WriteFile(path, []byte(strings.ReplaceAll(string(b), strings.TrimSpace(string(boot)), "another-boot")), 0o600))
	}
	m := open(false)
	ok(m.Clear())
	ok(m.Set())
	m = open(false) // the process died, the host did not
	ok(m.Clear())
	ok(m.Set())
	reboot()
	m = open(true)
	ok(m.Set()) // goes on before anybody was told
	ok(m.Clear())
	m = open(true)
	ok(m.Forget())
	m = open(false)
	ok(m.Set())
	ok(os.WriteFile(path, nil, 0o600))
	open(false)
	ok(os.WriteFile(path, []byte("garbage"), 0o600))
	open(true)
	if _, err := OpenMark(t.TempDir()); err == nil {
		t.Fatal("a directory is a mark")
	}
	m.path = filepath.Join(path, "below a file")
	if err := m.Set(); err == nil {
		t.Fatal("a mark that is not written is no mark")
	}
}
