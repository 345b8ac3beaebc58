package iscsi

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"vcn/hostops/iscsi/initiator"
	"vcn/hostops/iscsi/scsi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	rigName      = "iqn.2026-01.net.example:disk"
	rigInitiator = "iqn.2026-01.net.example:ini"
	rigBytes     = 4 << 20
)

// rig is a server with one unit on a temporary file.
type rig struct {
	t      testing.TB
	s      *Server
	addr   string
	unit   *scsi.Unit
	faults *scsi.Faulty
	target Target
}

func newRig(t testing.TB, c Config) *rig {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, rigBytes); err != nil {
		t.Fatal(err)
	}
	f, err := scsi.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	r := &rig{t: t, faults: scsi.WithFaults(f), s: NewServer(c)}
	if r.unit, err = scsi.NewUnit(r.faults, scsi.Config{VolumeID: "disk", Log: c.Log}); err != nil {
		t.Fatal(err)
	}
	r.target = Target{Name: rigName, Device: r.unit, Epoch: 1, Access: []Access{{
		Initiator: rigInitiator, Addr: netip.MustParseAddr("127.0.0.1"),
		CHAP: CHAP{User: "user", Secret: "secret-of-the-user", TargetUser: "target", TargetSecret: "secret-of-the-target"},
	}}}
	if err := r.s.Publish(t.Context(), r.target); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- r.s.Serve(l) }()
	t.Cleanup(func() {
		r.s.Close()
		<-served
		if err := r.unit.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) config() initiator.Config {
	return initiator.Config{
		Addr: r.addr, Initiator: rigInitiator, Target: rigName, LUN: scsi.LUN,
		User: "user", Secret: "secret-of-the-user", ISID: [6]byte{0x80, 0, 0, 0, 0, 1},
	}
}

func (r *rig) login() *initiator.Conn {
	r.t.Helper()
	k, err := initiator.Login(r.config())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = k.Close() })
	return k
}

// alive: the server still serves a fresh session.
func (r *rig) alive() {
	r.t.Helper()
	k, err := initiator.Login(r.config())
	if err != nil {
		r.t.Fatalf("the target does not serve any more: %v", err)
	}
	defer k.Close()
	if a, err := k.Read(0, 1); err != nil || a.Status != 0 {
		r.t.Fatalf("the target does not serve any more: %+v, %v", a, err)
	}
}

func good(t testing.TB, a *initiator.Answer, err error) {
	t.Helper()
	if err != nil || a.Status != scsi.StatusGood {
		t.Fatalf("answer %+v, %v; want GOOD", a, err)
	}
}
