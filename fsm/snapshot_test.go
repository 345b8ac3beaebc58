package fsm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func busy(t *testing.T) *world {
	w := formed(t)
	c := w.lab("lab")
	c.Key, c.RequestHash = "k", []byte("h")
	w.must(c)
	w.work(2, "a", "b", "c")
	w.must(w.create(want{name: "next", front: "a", workers: []string{"b"}, disks: []string{"b"}, in: 9 * time.Hour, so: time.Hour}))
	w.must(RollsRegister{[]Roll{{Name: "base", Version: "1", Digest: "x"}}})
	w.must(HostStatusSet{"c", HostDead})
	return w
}

func TestSnapshotRestoresTheSameState(t *testing.T) {
	w := busy(t)
	saved := w.bytes()
	g := New(quiet())
	if err := g.Restore(io.NopCloser(bytes.NewReader(saved))); err != nil {
		t.Fatal(err)
	}
	v := &world{t: t, f: g, now: w.now, check: true, before: map[string]Assignment{}, log: w.log, serial: w.serial}
	if err := CheckInvariants(g.View()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(v.bytes(), saved) {
		t.Fatal("the restored state writes another snapshot")
	}
	// Both go on alike.
	for _, x := range []*world{w, v} {
		x.must(HostStatusSet{"c", HostAlive})
		x.work(3, "a", "b", "c")
		x.must(ReservationRelease{ID: "r1"})
		x.work(3, "a", "b", "c")
		x.must(x.lab("again"))
	}
	if !bytes.Equal(v.bytes(), w.bytes()) {
		t.Fatal("the restored state went another way")
	}
}

func TestRestoreWakesWatchers(t *testing.T) {
	w := busy(t)
	saved := w.bytes()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	g := New(quiet())
	done := make(chan *View, 1)
	go func() { done <- g.WatchHost(ctx, "a", 0) }()
	if err := g.Restore(io.NopCloser(bytes.NewReader(saved))); err != nil {
		t.Fatal(err)
	}
	if v := <-done; v.Index() != w.f.Index() {
		t.Fatalf("woke at %d, want %d", v.Index(), w.f.Index())
	}
}

func TestDamagedSnapshotIsRefusedAndChangesNothing(t *testing.T) {
	w := busy(t)
	good := string(w.bytes())
	for name, bad := range map[string]string{
		"empty":            "",
		"cut":              good[:len(good)/2],
		"without its end":  good[:strings.LastIndex(good[:len(good)-1], "\n")+1],
		"one letter off":   strings.Replace(good, `"Name":"host-a"`, `"Name":"host-z"`, 1),
		"another format":   strings.Replace(good, `"Format":2`, `"Format":3`, 1),
		"a foreign file":   strings.Replace(good, `"Snapshot":"vcn"`, `"Snapshot":"xyz"`, 1),
		"a row too few":    strings.Replace(good, `{"Table":"hosts","Rows":3}`, `{"Table":"hosts","Rows":2}`, 1),
		"a table missing":  strings.Replace(good, `{"Table":"hosts"`, `{"Table":"meta"`, 1),
		"an unknown field": strings.Replace(good, `"FailureDomain":""`, `"FailureDomainX":""`, 1),
		"bytes after it":   good + "x",
		"another cluster":  strings.Replace(good, `"cl-1"`, `"cl-2"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if bad == good {
				t.Fatal("the damage is none")
			}
			before := w.bytes()
			if err := w.f.Restore(io.NopCloser(strings.NewReader(bad))); !errors.Is(err, ErrSnapshot) {
				t.Fatalf("error %v", err)
			}
			if !bytes.Equal(before, w.bytes()) {
				t.Fatal("the state changed")
			}
		})
	}
}

// TestEveryByteOfASnapshotCounts flips single bits all over it.
func TestEveryByteOfASnapshotCounts(t *testing.T) {
	w := busy(t)
	good := w.bytes()
	for at := 0; at < len(good); at += max(1, len(good)/150) {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		if err := New(quiet()).Restore(io.NopCloser(bytes.NewReader(bad))); err == nil {
			t.Fatalf("bit flipped at %d of %d was not noticed: %q", at, len(good), bad[max(0, at-20):min(len(bad), at+20)])
		}
	}
}

func TestSnapshotOfAnotherClusterIsRefused(t *testing.T) {
	w := busy(t)
	other := newWorld(t)
	init := sampleInit()
	init.Meta.ClusterID = "cl-2"
	other.must(init)
	err := w.f.Restore(io.NopCloser(bytes.NewReader(other.bytes())))
	if !errors.Is(err, ErrSnapshot) || !strings.Contains(err.Error(), "cl-2") {
		t.Fatalf("error %v", err)
	}
}

// sink is a raft.SnapshotSink in memory.
type sink struct {
	bytes.Buffer
	fail, cancelled, closed bool
}

func (s *sink) ID() string    { return "s" }
func (s *sink) Cancel() error { s.cancelled = true; return nil }
func (s *sink) Close() error  { s.closed = true; return nil }
func (s *sink) Write(b []byte) (int, error) {
	if s.fail {
		return 0, io.ErrShortWrite
	}
	return s.Buffer.Write(b)
}

func TestPersistWritesTheStateOfItsIndexWhileApplyGoesOn(t *testing.T) {
	w := busy(t)
	want := w.bytes()
	s, err := w.f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	w.must(ReservationRelease{ID: "r1"})
	good, bad := &sink{}, &sink{fail: true}
	if err := s.Persist(good); err != nil || !good.closed || !bytes.Equal(good.Bytes(), want) {
		t.Fatalf("persist: %v, closed %v, %d bytes of %d", err, good.closed, good.Len(), len(want))
	}
	if err := s.Persist(bad); err == nil || !bad.cancelled {
		t.Fatalf("a failed write: error %v, cancelled %v", err, bad.cancelled)
	}
	s.Release()
}
