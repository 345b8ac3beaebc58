package scsi

import (
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Every write answered by a write-through unit is followed by a sync that began
// after it, and many of them share one.
func TestWriteThrough(t *testing.T) {
	u, f := newTestUnit(t)
	u.cfg.WriteThrough = true
	var syncs, inFile, covered atomic.Int64
	f.Inject(func(op Op, _, _ int64) error {
		switch op {
		case OpWrite, OpZero:
			inFile.Add(1)
		case OpSync:
			n := inFile.Load()
			syncs.Add(1)
			time.Sleep(2 * time.Millisecond)
			covered.Store(n)
		}
		return nil
	})
	const writers, each = 16, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				c, out := cdb16(opWrite16, 0, uint64(w), 1), make([]byte, blockBytes)
				switch i % 4 {
				case 1:
					c, out = cdb16(opWriteSame16, 1, uint64(w), 1), nil
				case 2:
					c, out = unmapList(blockRange{uint64(w), 1})
				case 3:
					c = cdb16(opOrWrite16, 0, uint64(w), 1)
				}
				if r := u.Exec("n", c, out, 0); r.Status != StatusGood {
					t.Errorf("command %x: %+v", c, r)
				}
			}
		})
	}
	wg.Wait()
	if n := covered.Load(); n < writers*each {
		t.Fatalf("%d of %d writes were answered before a sync covered them", writers*each-n, writers*each)
	}
	if n := syncs.Load(); n > writers*each/2 {
		t.Fatalf("%d syncs for %d writes: they should share", n, writers*each)
	}
	if d := want(t, u, cdb(opModeSense6, 8, 0x08, 0, 255), nil, 0, 0); d[6]&0x04 != 0 {
		t.Fatalf("caching page %x: the write cache is off", d)
	}
	f.Inject(func(op Op, _, _ int64) error {
		if op == OpSync {
			return syscall.EIO
		}
		return nil
	})
	want(t, u, cdb16(opWrite16, 0, 0, 1), make([]byte, blockBytes), 3, 0x0c00)
	if u.Failed() == "" {
		t.Fatal("the unit goes on after a sync that failed")
	}
}

// A flush that begins while another one runs must not be answered by that one:
// it may have missed the latest write.
func TestFlushIsNotAnsweredByAnEarlierOne(t *testing.T) {
	var l flusher
	first, begun := make(chan struct{}), make(chan struct{})
	var runs atomic.Int32
	go func() { _ = l.do(func() error { close(begun); <-first; runs.Add(1); return nil }) }()
	<-begun
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := l.do(func() error { runs.Add(1); return syscall.EIO }); err != syscall.EIO {
				t.Errorf("a flush that waited: %v, want that of the second run", err)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	close(first)
	wg.Wait()
	if n := runs.Load(); n < 2 || n > 8 {
		t.Fatalf("%d runs", n)
	}
}

func TestFlushThatPanicsHoldsUpNobody(t *testing.T) {
	var l flusher
	func() {
		defer func() { _ = recover() }()
		_ = l.do(func() error { panic("sync") })
	}()
	if err := l.do(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
}
