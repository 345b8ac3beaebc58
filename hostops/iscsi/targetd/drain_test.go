package targetd

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/hostops/iscsi/initiator"
	"vcn/hostops/iscsi/scsi"
)

// block holds the writes of a file until release is called; entered tells of
// the first.
func block(f *scsi.Faulty) (release func(), entered chan struct{}) {
	hold, entered := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.Inject(func(op scsi.Op, _, _ int64) error {
		if op == scsi.OpWrite {
			once.Do(func() { close(entered) })
			<-hold
		}
		return nil
	})
	return sync.OnceFunc(func() { close(hold) }), entered
}

func TestWithdrawWhileWriting(t *testing.T) {
	t.Parallel()
	withdrawWhileWriting(t, newRig(t))
}

func withdrawWhileWriting(t *testing.T, r *rig) {
	path := newVolume(t, 1<<20)
	e := r.publish(testExport("withdrawn", path, 1))
	const writers = 4
	done := make(chan error, writers)
	for i := range writers {
		c := r.config(e)
		c.ISID[5] = byte(i)
		k, err := initiator.Login(c)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		go writer(k, done)
	}
	eventually(t, "writes on the volume", func() bool {
		b, err := os.ReadFile(path)
		return err == nil && b[15*8*512] != 0
	})
	if err := r.client.Withdraw(t.Context(), e.Volume); err != nil {
		t.Fatal(err)
	}
	// From here on the file belongs to somebody else.
	mark := bytes.Repeat([]byte{0xee}, 1<<20)
	if err := os.WriteFile(path, mark, 0o600); err != nil {
		t.Fatal(err)
	}
	for range writers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, mark) {
		t.Fatalf("written after Withdraw had returned (%v)", err)
	}
	// LIO closes its portal with the last target.
	if _, err := initiator.Login(r.config(e)); !r.kernel || !errors.Is(err, syscall.ECONNREFUSED) {
		wantRefused(t, err, r.unknown())
	}
	if l, err := r.client.List(t.Context()); err != nil || len(l) != 0 {
		t.Fatalf("list: %+v, %v", l, err)
	}
	if err := r.client.Withdraw(t.Context(), e.Volume); err != nil {
		t.Fatalf("withdraw of the absent: %v", err)
	}
}

// A drain that is given up is not over: nobody is let in, and the next call
// goes on waiting.
func TestDrainGivenUp(t *testing.T) {
	t.Parallel()
	drainGivenUp(t, newRig(t))
}

func drainGivenUp(t *testing.T, r *rig) {
	path := r.volume(1 << 20)
	e := r.publish(testExport("stuck", path, 1))
	release, entered := r.hold(path)
	defer release()
	k := r.login(e)
	go func() { _, _ = k.Write(0, make([]byte, 4096)) }()
	<-entered
	soon := 100 * time.Millisecond
	if r.kernel { // shuts by a process of its own
		soon = 5 * time.Second
	}
	short, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	next := e
	next.Generation = 2
	if err := r.srv.Publish(short, next); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("publish: got %v, want a deadline", err)
	}
	wantRefused(t, r.knock(e), 0x0301)
	short, cancel2 := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel2()
	if err := r.srv.Withdraw(short, e.Volume); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("withdraw: got %v, want a deadline", err)
	}
	wantRefused(t, r.knock(e), r.unknown())
	gone := make(chan error, 1)
	go func() { gone <- r.client.Withdraw(t.Context(), e.Volume) }()
	select {
	case err := <-gone:
		t.Fatalf("withdrawn (%v) while a command was in the device", err)
	case <-time.After(100 * time.Millisecond):
	}
	release()
	if err := <-gone; err != nil {
		t.Fatal(err)
	}
}

func TestErrorsReachTheInitiator(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	path := newVolume(t, 1<<20)
	e := r.publish(testExport("faulty", path, 1))
	k, f := r.login(e), r.faults(path)
	fail := func(which scsi.Op, err error) {
		f.Inject(func(op scsi.Op, _, _ int64) error {
			if op == which {
				return err
			}
			return nil
		})
	}
	block := make([]byte, 512)
	fail(scsi.OpRead, syscall.EIO)
	a, err := k.Read(0, 1)
	wantStatus(t, a, err, 3, 0x1100)
	fail(scsi.OpWrite, syscall.EIO)
	a, err = k.Write(0, block)
	wantStatus(t, a, err, 3, 0x0c00)
	fail(scsi.OpWrite, syscall.ENOSPC)
	a, err = k.Write(0, block)
	wantStatus(t, a, err, 7, 0x2707)
	fail(scsi.OpZero, syscall.ENOSPC)
	a, err = k.Command([]byte{0x41, 0, 0, 0, 0, 0, 0, 0, 8, 0}, block, 0)
	wantStatus(t, a, err, 7, 0x2707)
	f.Inject(nil)
	a, err = k.Write(0, block)
	wantStatus(t, a, err, 0, 0)
	a, err = k.Flush()
	wantStatus(t, a, err, 0, 0)
}

func TestQEMUSeesErrors(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	path := newVolume(t, 1<<20)
	e := r.publish(testExport("qfaulty", path, 1))
	for _, c := range []struct {
		op        scsi.Op
		err       error
		cmd, want string
	}{
		{scsi.OpRead, syscall.EIO, "read 0 4k", "Input/output error"},
		{scsi.OpWrite, syscall.EIO, "write 0 4k", "Input/output error"},
		{scsi.OpWrite, syscall.ENOSPC, "write 0 4k", "No space left on device"},
		{scsi.OpZero, syscall.ENOSPC, "write -z 0 4k", "No space left on device"},
	} {
		r.faults(path).Inject(func(op scsi.Op, _, _ int64) error {
			if op == c.op {
				return c.err
			}
			return nil
		})
		out, _ := qemuIO(t, r.portal, e, c.cmd)
		if !bytes.Contains([]byte(out), []byte(c.want)) {
			t.Errorf("%s with %v: QEMU says %q, want %q", c.cmd, c.err, out, c.want)
		}
		r.faults(path).Inject(nil)
	}
}

// After a failed fdatasync a later one succeeds without the data being there.
func TestFailedFlushFailsTheUnitForGood(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	path := newVolume(t, 1<<20)
	e := r.publish(testExport("flushed", path, 1))
	k, f := r.login(e), r.faults(path)
	f.Inject(func(op scsi.Op, _, _ int64) error {
		if op == scsi.OpSync {
			return syscall.EIO
		}
		return nil
	})
	a, err := k.Flush()
	wantStatus(t, a, err, 3, 0x0c00)
	f.Inject(nil)
	for range 2 {
		a, err = k.Flush()
		wantStatus(t, a, err, 3, 0x0c00)
		a, err = k.Write(0, make([]byte, 512))
		wantStatus(t, a, err, 3, 0x0c00)
	}
	a, err = k.Read(0, 1)
	wantStatus(t, a, err, 0, 0)
	failed := func() string {
		l, err := r.client.List(t.Context())
		if err != nil || len(l) != 1 {
			t.Fatalf("list: %+v, %v", l, err)
		}
		return l[0].Failed
	}
	if failed() == "" {
		t.Fatal("the list does not tell of the failure")
	}
	e.Generation++ // neither a new generation
	r.publish(e)
	a, err = r.login(e).Flush()
	wantStatus(t, a, err, 3, 0x0c00)
	rows, err := loadTable(r.srv.cfg.StateDir) // nor a new process forgets it
	if err != nil || rows[e.Volume].Failed == "" {
		t.Fatalf("the table does not tell of the failure: %+v, %v", rows, err)
	}
	if err := r.client.Withdraw(t.Context(), e.Volume); err != nil {
		t.Fatal(err)
	}
	r.publish(e)
	if failed() != "" {
		t.Fatal("the failure outlives Withdraw")
	}
}

// The last flush of a process may fail as well, and is remembered like any other.
func TestFlushThatFailsAtTheEndIsRemembered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	path := newVolume(t, 1<<20)
	e := r.publish(testExport("last", path, 1))
	r.faults(path).Inject(func(op scsi.Op, _, _ int64) error {
		if op == scsi.OpSync {
			return syscall.EIO
		}
		return nil
	})
	done := make(chan struct{})
	go func() { r.srv.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("the target does not close")
	}
	if rows, err := loadTable(r.srv.cfg.StateDir); err != nil || rows[e.Volume].Failed == "" {
		t.Fatalf("the table does not tell of the failure: %+v, %v", rows, err)
	}
}

func TestResizeTellsTheInitiator(t *testing.T) {
	t.Parallel()
	resizeTellsTheInitiator(t, newRig(t))
}

func resizeTellsTheInitiator(t *testing.T, r *rig) {
	path := newVolume(t, 1<<20)
	e := r.publish(testExport("grown", path, 1))
	other := r.publish(testExport("other", newVolume(t, 1<<20), 1))
	k, ok := r.login(e), r.login(other)
	if err := r.client.Resize(t.Context(), "absent"); !errors.Is(err, hostops.ErrNotFound) {
		t.Fatalf("resize of the absent: %v, want ErrNotFound", err)
	}
	if err := os.Truncate(path, 2<<20); err != nil {
		t.Fatal(err)
	}
	a, err := k.Read(2048, 1)
	wantStatus(t, a, err, 5, 0x2100) // not told yet
	if err := r.client.Resize(t.Context(), e.Volume); err != nil {
		t.Fatal(err)
	}
	if !r.kernel { // LIO tells nobody; whoever asks hears it
		a, err = k.Read(2048, 1)
		wantStatus(t, a, err, 6, 0x2a09)
	}
	a, err = k.Read(2048, 1)
	wantStatus(t, a, err, 0, 0)
	a, err = k.Command([]byte{0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil, 8)
	wantStatus(t, a, err, 0, 0)
	if want := []byte{0, 0, 0x0f, 0xff, 0, 0, 2, 0}; !bytes.Equal(a.Data, want) {
		t.Fatalf("capacity %x, want %x", a.Data, want)
	}
	a, err = ok.Read(0, 1)
	wantStatus(t, a, err, 0, 0)
	if err := os.Truncate(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := r.client.Resize(t.Context(), e.Volume); err == nil {
		t.Fatal("a volume that shrank is accepted")
	}
}
