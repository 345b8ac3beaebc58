package scsi

import "sync/atomic"

// Op is an operation of a File, as a fault hook sees it.
type Op string

// The operations a hook is asked about.
const (
	OpRead  Op = "read"
	OpWrite Op = "write"
	OpSync  Op = "sync"
	OpZero  Op = "zero"
)

// Hook is asked before each operation; what it returns is the operation's
// error. It may sleep. Offset and length are bytes, 0 for OpSync.
type Hook func(op Op, off, n int64) error

// Faulty is a File with faults, for tests. The zero hook lets all pass.
type Faulty struct {
	File
	hook atomic.Pointer[Hook]
}

// WithFaults wraps a file.
func WithFaults(f File) *Faulty { return &Faulty{File: f} }

// Inject replaces the hook; nil ends all faults.
func (f *Faulty) Inject(h Hook) {
	if h == nil {
		f.hook.Store(nil)
		return
	}
	f.hook.Store(&h)
}

func (f *Faulty) ask(op Op, off, n int64) error {
	if h := f.hook.Load(); h != nil {
		return (*h)(op, off, n)
	}
	return nil
}

// ReadNow is that of the file behind, while there is no hook.
func (f *Faulty) ReadNow(p []byte, off int64) bool {
	r, ok := f.File.(interface{ ReadNow([]byte, int64) bool })
	return ok && f.hook.Load() == nil && r.ReadNow(p, off)
}

// Granularity is that of the file behind, if it has one.
func (f *Faulty) Granularity() int64 { return granularity(f.File) }

// ReadAt implements File.
func (f *Faulty) ReadAt(p []byte, off int64) (int, error) {
	if err := f.ask(OpRead, off, int64(len(p))); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

// WriteAt implements File.
func (f *Faulty) WriteAt(p []byte, off int64) (int, error) {
	if err := f.ask(OpWrite, off, int64(len(p))); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

// Sync implements File.
func (f *Faulty) Sync() error {
	if err := f.ask(OpSync, 0, 0); err != nil {
		return err
	}
	return f.File.Sync()
}

// Zero implements File.
func (f *Faulty) Zero(off, n int64, punch bool) error {
	if err := f.ask(OpZero, off, n); err != nil {
		return err
	}
	return f.File.Zero(off, n, punch)
}
