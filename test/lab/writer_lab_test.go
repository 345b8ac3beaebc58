//go:build lab

package lab_test

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

const (
	blockBytes  = 4096
	writtenMax  = 2048 // blocks of a volume that are written to
	batchBlocks = 8    // at the same time
	flushEvery  = 4    // batches
	pauseMin    = 3 * time.Second
	writerMagic = 0x76636e6c6966653f
)

// writer writes versions of blocks through QEMU's initiator and knows which of
// them must be there: at least the last that a flush covered, at most the last
// that was sent.
type writer struct {
	name    string
	disk    *nbd
	through bool // every acknowledged write must be there
	rng     *rand.Rand

	floor, acked, sent [writtenMax]uint32
	Ops, Flushes       atomic.Int64
	Pauses             []time.Duration
	Lost               int // acknowledged, not flushed, and gone
	paused             chan time.Duration
}

func newWriter(name string, disk *nbd, through bool, seed uint64) *writer {
	return &writer{name: name, disk: disk, through: through, rng: rand.New(rand.NewPCG(seed, 1)), paused: make(chan time.Duration, 64)}
}

// content is what version v of a block is; version 0 is zeroes.
func (w *writer) content(block int, v uint32) []byte {
	b := make([]byte, blockBytes)
	if v == 0 {
		return b
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d %d", w.name, block, v)
	rng := rand.New(rand.NewPCG(h.Sum64(), 2))
	binary.BigEndian.PutUint64(b, writerMagic)
	binary.BigEndian.PutUint32(b[8:], uint32(block))
	binary.BigEndian.PutUint32(b[12:], v)
	for i := 16; i < blockBytes; i += 8 {
		binary.BigEndian.PutUint64(b[i:], rng.Uint64())
	}
	return b
}

// run writes until stop is closed, then flushes. The first error ends it.
func (w *writer) run(stop <-chan struct{}) error {
	for batch := 1; ; batch++ {
		select {
		case <-stop:
			return w.flush()
		default:
		}
		if err := w.batch(); err != nil {
			return err
		}
		if batch%flushEvery == 0 {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
}

// batch writes some blocks at once and waits for all of them.
func (w *writer) batch() error {
	blocks := w.rng.Perm(writtenMax)[:batchBlocks]
	began := time.Now()
	var done []<-chan error
	for _, i := range blocks {
		w.sent[i]++
		done = append(done, w.disk.write(int64(i)*blockBytes, w.content(i, w.sent[i])))
	}
	for n, i := range blocks {
		if err := <-done[n]; err != nil {
			return fmt.Errorf("%s: write of block %d: %w", w.name, i, err)
		}
		w.acked[i] = w.sent[i]
		if w.through {
			w.floor[i] = w.sent[i]
		}
		w.Ops.Add(1)
	}
	return w.pause(time.Since(began))
}

// flush covers every write: none is under way. One that lasted over a pause was
// answered by a target that may never have seen them, and promises nothing here.
func (w *writer) flush() error {
	began := time.Now()
	if err := <-w.disk.flush(); err != nil {
		return fmt.Errorf("%s: flush: %w", w.name, err)
	}
	w.Flushes.Add(1)
	took := time.Since(began)
	if took < pauseMin {
		w.floor = w.acked
	}
	return w.pause(took)
}

// pause checks everything after an operation that took long.
func (w *writer) pause(took time.Duration) error {
	if took < pauseMin {
		return nil
	}
	w.Pauses = append(w.Pauses, took)
	if err := w.verify(); err != nil {
		return fmt.Errorf("after a pause of %v: %w", took.Round(100*time.Millisecond), err)
	}
	w.paused <- took
	return nil
}

// verify reads all blocks. What it finds is what counts from now on.
func (w *writer) verify() error {
	for at := 0; at < writtenMax; at += batchBlocks {
		var bufs [batchBlocks][]byte
		var done [batchBlocks]<-chan error
		for n := range bufs {
			bufs[n] = make([]byte, blockBytes)
			done[n] = w.disk.read(int64(at+n)*blockBytes, bufs[n])
		}
		for n := range bufs {
			if err := <-done[n]; err != nil {
				return fmt.Errorf("%s: read of block %d: %w", w.name, at+n, err)
			}
			if err := w.check(at+n, bufs[n]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *writer) check(i int, b []byte) error {
	v := uint32(0)
	if binary.BigEndian.Uint64(b) == writerMagic {
		v = binary.BigEndian.Uint32(b[12:])
	}
	if string(b) != string(w.content(i, v)) {
		return fmt.Errorf("%s: block %d is torn, or of another block: %x", w.name, i, b[:32])
	}
	if v < w.floor[i] || v > w.sent[i] {
		return fmt.Errorf("%s: block %d is of version %d: version %d was promised, %d acknowledged, %d sent", w.name, i, v, w.floor[i], w.acked[i], w.sent[i])
	}
	if v < w.acked[i] {
		w.Lost++
	}
	w.acked[i] = v
	return nil
}
