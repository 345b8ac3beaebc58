package scsi

import (
	"fmt"
	"sync"
)

// flusher lets flushes that wait at the same time share one fdatasync.
type flusher struct {
	mu            sync.Mutex
	current, next *flushRound // running; not begun yet
}

type flushRound struct {
	done chan struct{}
	err  error
}

// do runs f after the call began: on its own, or once for all who wait while an
// earlier run, that may have missed their writes, is still going on.
func (l *flusher) do(f func() error) error {
	l.mu.Lock()
	if r := l.next; r != nil {
		l.mu.Unlock()
		<-r.done
		return r.err
	}
	r := &flushRound{done: make(chan struct{}), err: fmt.Errorf("flush did not end")}
	if was := l.current; was != nil {
		l.next = r
		l.mu.Unlock()
		<-was.done
		l.mu.Lock()
		l.next = nil
	}
	l.current = r
	l.mu.Unlock()
	defer func() { // also when f panics: the others must not wait for ever
		l.mu.Lock()
		l.current = nil
		l.mu.Unlock()
		close(r.done)
	}()
	r.err = f()
	return r.err
}

// Sync makes every completed write durable. After one failure it fails for
// good.
func (u *Unit) Sync() error { return u.flush.do(u.syncFile) }

// settle ends a command that wrote: what must be durable is made so.
func (u *Unit) settle(fua bool) Result {
	if fua || u.cfg.WriteThrough {
		if err := u.Sync(); err != nil {
			return writeError(err)
		}
		return Result{}
	}
	u.unflushed()
	return Result{}
}

func (u *Unit) syncFile() error {
	if why := u.Failed(); why != "" {
		// Nobody hears of the failure before OnFail has returned.
		u.failMu.Lock()
		defer u.failMu.Unlock()
		return fmt.Errorf("sync volume %s: unit has failed: %s", u.cfg.VolumeID, why)
	}
	// The kernel tells of lost pages once. A sync that runs beside the one that is
	// told must not find the pages clean and answer before that one is noted.
	u.failMu.Lock()
	defer u.failMu.Unlock()
	if why := u.Failed(); why != "" {
		return fmt.Errorf("sync volume %s: unit has failed: %s", u.cfg.VolumeID, why)
	}
	writes := u.mark.writes.Load()
	err := u.file.Sync()
	if err == nil {
		u.flushed(writes)
		return nil
	}
	err = fmt.Errorf("sync volume %s: %w", u.cfg.VolumeID, err)
	why := err.Error()
	if u.failed.CompareAndSwap(nil, &why) {
		u.cfg.Log.Error("volume has failed for good: data that was written may be lost", "volume", u.cfg.VolumeID, "err", err)
		if u.cfg.OnFail != nil {
			u.cfg.OnFail(err)
		}
	}
	return err
}
