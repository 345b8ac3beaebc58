package scsi

import (
	"math/bits"
	"sync"
)

const (
	minBufferShift = 12 // 4 KiB
	maxBufferShift = 24 // 16 MiB; larger ones are not kept
)

var bufferPools [maxBufferShift - minBufferShift + 1]sync.Pool

// Buffer is a byte slice from a pool of powers of two. Its content is what its
// last user left: fill it before it is sent anywhere.
type Buffer struct {
	B    []byte
	pool *sync.Pool
}

// NewBuffer takes a buffer of n bytes, n >= 0.
func NewBuffer(n int) *Buffer {
	shift := minBufferShift
	if n > 1<<minBufferShift {
		shift = bits.Len(uint(n - 1))
	}
	if shift > maxBufferShift {
		return &Buffer{B: make([]byte, n)}
	}
	p := &bufferPools[shift-minBufferShift]
	if b, ok := p.Get().(*Buffer); ok {
		b.B = b.B[:n]
		return b
	}
	return &Buffer{B: make([]byte, n, 1<<shift), pool: p}
}

// Free gives the buffer back; nobody may use it after that. A nil buffer is
// allowed.
func (b *Buffer) Free() {
	if b != nil && b.pool != nil {
		b.pool.Put(b)
	}
}
