package iscsi

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // CHAP
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"vcn/hostops/iscsi/initiator"
	"vcn/hostops/iscsi/scsi"
)

func TestWriteAndRead(t *testing.T) {
	for name, extra := range map[string][][2]string{
		"defaults":     nil,
		"only R2T":     {{"InitialR2T", "Yes"}, {"ImmediateData", "No"}},
		"small bursts": {{"MaxBurstLength", "4096"}, {"FirstBurstLength", "512"}},
		"small PDUs":   {{"MaxRecvDataSegmentLength", "512"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			c := r.config()
			c.Extra = extra
			k, err := initiator.Login(c)
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			data := make([]byte, 300*512)
			for i := range data {
				data[i] = byte(rand.Uint32())
			}
			a, err := k.Write(7, data)
			good(t, a, err)
			a, err = k.Read(7, 300)
			good(t, a, err)
			if !bytes.Equal(a.Data, data) {
				t.Fatal("read back something else")
			}
		})
	}
}

// A NOP-Out takes a command number; the next command must not be dropped.
func TestNopOutCountsAsACommand(t *testing.T) {
	r := newRig(t, Config{})
	k := r.login()
	for range 3 {
		p := &initiator.PDU{Data: []byte("ping")}
		p.H[0], p.H[1] = 0x00, 0x80
		p.Put(16, 0x1234)
		p.Put(20, 0xffffffff)
		p.Put(24, k.CmdSN)
		k.CmdSN++
		if err := k.Send(p); err != nil {
			t.Fatal(err)
		}
		a, err := k.Receive()
		if err != nil || a.H[0] != 0x20 || string(a.Data) != "ping" || a.U32(28) != k.CmdSN {
			t.Fatalf("ping: %+v, %v", a, err)
		}
		b, err := k.Read(0, 1)
		good(t, b, err)
	}
}

// The session that a login replaces is drained before the login is answered,
// also if it comes with another ISID, as libiscsi does after a lost connection.
func TestReinstatementDrains(t *testing.T) {
	for name, isid := range map[string]byte{"the same ISID": 0, "another ISID": 9} {
		t.Run(name, func(t *testing.T) { reinstatementDrains(t, isid) })
	}
}

func reinstatementDrains(t *testing.T, isid byte) {
	r := newRig(t, Config{})
	old := r.login()
	hold, entered := make(chan struct{}), make(chan struct{})
	r.faults.Inject(func(op scsi.Op, _, _ int64) error {
		if op == scsi.OpWrite {
			close(entered)
			<-hold
		}
		return nil
	})
	go func() { _, _ = old.Write(0, make([]byte, 512)) }()
	<-entered
	in := make(chan error, 1)
	go func() {
		c := r.config()
		c.ISID[5] += isid
		k, err := initiator.Login(c)
		if err == nil {
			_ = k.Close()
		}
		in <- err
	}()
	select {
	case err := <-in:
		t.Fatalf("logged in (%v) beside a command of the old session", err)
	case <-time.After(200 * time.Millisecond):
	}
	close(hold)
	if err := <-in; err != nil {
		t.Fatal(err)
	}
}

func TestMutualCHAP(t *testing.T) {
	r := newRig(t, Config{})
	prove := func(echo bool) (map[string]string, error) {
		k, err := initiator.Dial(r.config())
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		send := func(flags byte, kv ...[2]string) (map[string]string, error) {
			if err := k.Send(k.LoginPDU(flags, kv...)); err != nil {
				return nil, err
			}
			p, err := k.Receive()
			if err != nil {
				return nil, err
			}
			if p.H[36] != 0 {
				return nil, &initiator.Refused{Class: p.H[36], Detail: p.H[37]}
			}
			m := map[string]string{}
			for e := range strings.SplitSeq(string(p.Data), "\x00") {
				if a, b, ok := strings.Cut(e, "="); ok {
					m[a] = b
				}
			}
			return m, nil
		}
		if _, err = send(1, [2]string{"InitiatorName", rigInitiator}, [2]string{"TargetName", rigName}, [2]string{"AuthMethod", "None,CHAP"}); err != nil {
			t.Fatal(err)
		}
		m, err := send(1, [2]string{"CHAP_A", "7,5"})
		if err != nil {
			t.Fatal(err)
		}
		var id byte
		if _, err := fmt.Sscan(m["CHAP_I"], &id); err != nil {
			t.Fatal(err)
		}
		ch, err := hex.DecodeString(m["CHAP_C"][2:])
		if err != nil {
			t.Fatal(err)
		}
		sum := md5.Sum(append(append([]byte{id}, "secret-of-the-user"...), ch...)) //nolint:gosec // CHAP
		ours := "0x0102030405060708"
		if echo {
			ours = m["CHAP_C"]
		}
		return send(0x81, [2]string{"CHAP_N", "user"}, [2]string{"CHAP_R", fmt.Sprintf("0x%x", sum)}, [2]string{"CHAP_I", "9"}, [2]string{"CHAP_C", ours})
	}
	m, err := prove(false)
	if err != nil {
		t.Fatal(err)
	}
	sum := md5.Sum(append([]byte("\x09secret-of-the-target"), 1, 2, 3, 4, 5, 6, 7, 8)) //nolint:gosec // CHAP
	if m["CHAP_N"] != "target" || m["CHAP_R"] != fmt.Sprintf("0x%x", sum) {
		t.Fatalf("the target proves nothing: %v", m)
	}
	// Our own challenge sent back would make us compute a proof for a stranger.
	var re *initiator.Refused
	if _, err := prove(true); !errors.As(err, &re) {
		t.Fatalf("reflected challenge: %v, want a refusal", err)
	}
}

func TestUnknownLUN(t *testing.T) {
	r := newRig(t, Config{})
	c := r.config()
	c.LUN = 0
	k, err := initiator.Login(c)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	a, err := k.Read(0, 1)
	if err != nil || a.Status != 2 {
		t.Fatalf("read of LUN 0: %+v, %v", a, err)
	}
	if key, asc := a.Key(); key != 5 || asc != 0x2500 {
		t.Fatalf("sense %x/%x", key, asc)
	}
	a, err = k.Command([]byte{0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0}, nil, 64)
	good(t, a, err)
	if want := []byte{0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}; !bytes.Equal(a.Data, want) {
		t.Fatalf("REPORT LUNS %x, want %x", a.Data, want)
	}
	a, err = k.Command([]byte{0x12, 0, 0, 0, 36, 0}, nil, 36)
	good(t, a, err)
	if a.Data[0] != 0x7f {
		t.Fatalf("INQUIRY of LUN 0 says %#x", a.Data[0])
	}
}

// More memory than a server has is TASK SET FULL, not the end of anything.
func TestMemoryIsBounded(t *testing.T) {
	r := newRig(t, Config{MaxBytes: 1 << 20})
	k := r.login()
	a, err := k.Write(0, make([]byte, 512<<10))
	good(t, a, err)
	p := k.CommandPDU([]byte{0x2a, 0, 0, 0, 0, 0, 0, 0x10, 0, 0}, make([]byte, 2<<20), 0)
	if err := k.Send(p); err != nil {
		t.Fatal(err)
	}
	if a, err = k.Await(nil); err != nil || a.Status != scsi.StatusTaskSetFull {
		t.Fatalf("answer %+v, %v; want TASK SET FULL", a, err)
	}
	a, err = k.Read(0, 1024)
	good(t, a, err)
	a, err = k.Write(0, make([]byte, 512<<10)) // everything was given back
	good(t, a, err)
}

func TestTooManyConnections(t *testing.T) {
	r := newRig(t, Config{MaxConnections: 2})
	r.login()
	second, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	third, err := initiator.Dial(r.config())
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if err := third.Login(); err == nil {
		t.Fatal("a third connection was served")
	}
}

func TestSilentLoginIsCut(t *testing.T) {
	r := newRig(t, Config{LoginTimeout: 100 * time.Millisecond})
	nc, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	var ne net.Error
	if _, err := nc.Read(make([]byte, 1)); err == nil || errors.As(err, &ne) && ne.Timeout() {
		t.Fatalf("a silent connection is kept: %v", err)
	}
}

func TestResetTellsEveryNexus(t *testing.T) {
	r := newRig(t, Config{})
	one := r.login()
	other := r.target.Access[0]
	other.Initiator += "-other"
	r.target.Access = append(r.target.Access, other)
	if err := r.s.Publish(t.Context(), r.target); err != nil {
		t.Fatal(err)
	}
	c := r.config()
	c.Initiator = other.Initiator
	two, err := initiator.Login(c)
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	p := &initiator.PDU{}
	p.H[0], p.H[1], p.H[9] = 0x42, 0x85, 1
	p.Put(16, 0x77)
	p.Put(24, one.CmdSN)
	if err := one.Send(p); err != nil {
		t.Fatal(err)
	}
	if a, err := one.Receive(); err != nil || a.H[0] != 0x22 || a.H[2] != 0 {
		t.Fatalf("reset: %+v, %v", a, err)
	}
	for _, k := range []*initiator.Conn{one, two} {
		a, err := k.Read(0, 1)
		if err != nil {
			t.Fatal(err)
		}
		if key, asc := a.Key(); key != 6 || asc != 0x2900 {
			t.Fatalf("sense %x/%04x, want a unit attention", key, asc)
		}
		a, err = k.Read(0, 1)
		good(t, a, err)
	}
}

// A long list of targets comes in pieces.
func TestLongDiscovery(t *testing.T) {
	r := newRig(t, Config{})
	want := map[string]bool{rigName: true}
	for i := range 100 {
		n := r.target
		n.Name = fmt.Sprintf("%s-%03d-%s", rigName, i, strings.Repeat("x", 100))
		if err := r.s.Publish(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		want[n.Name] = true
	}
	c := r.config()
	c.Target = ""
	k, err := initiator.Login(c)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	var text []byte
	tag := uint32(noTag)
	for pieces := 0; ; pieces++ {
		p := &initiator.PDU{}
		p.H[0], p.H[1] = 0x04, 0x80
		p.Put(16, 5)
		p.Put(20, tag)
		p.Put(24, k.CmdSN)
		k.CmdSN++
		if tag == noTag {
			p.Data = []byte("SendTargets=All\x00")
		}
		if err := k.Send(p); err != nil {
			t.Fatal(err)
		}
		a, err := k.Receive()
		if err != nil || a.H[0] != 0x24 {
			t.Fatalf("%+v, %v", a, err)
		}
		text = append(text, a.Data...)
		if tag = a.U32(20); tag == noTag {
			break
		}
		if pieces > 100 {
			t.Fatal("the list does not end")
		}
	}
	for l := range strings.SplitSeq(string(text), "\x00") {
		if n, ok := strings.CutPrefix(l, "TargetName="); ok {
			delete(want, n)
		}
	}
	if len(want) != 0 {
		t.Fatalf("%d targets are missing", len(want))
	}
}

// Logins, cuts and changes of access under I/O: nothing deadlocks, nothing
// leaks, and afterwards it serves.
func TestLoginsUnderIO(t *testing.T) {
	r := newRig(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			c := r.config()
			c.ISID[5] = byte(i / 2) // two at a time fight for one session
			b := make([]byte, 16<<10)
			for ctx.Err() == nil {
				k, err := initiator.Login(c)
				if err != nil {
					continue
				}
				for range 50 {
					if _, err = k.Write(uint64(i)*64, b); err == nil {
						_, err = k.Read(uint64(i)*64, 32)
					}
					if err != nil {
						break
					}
				}
				_ = k.Close()
			}
		})
	}
	for epoch := uint64(2); ctx.Err() == nil; epoch++ {
		n := r.target
		n.Epoch = epoch
		if err := r.s.Publish(t.Context(), n); err != nil {
			t.Error(err)
		}
		for _, s := range r.s.Sessions(rigName) {
			if s.Epoch > epoch {
				t.Errorf("a session of epoch %d in epoch %d", s.Epoch, epoch)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	wg.Wait()
	r.alive()
}

// Between the start of a login and its end the access may be taken away.
func TestAccessWithdrawnDuringLogin(t *testing.T) {
	r := newRig(t, Config{})
	k, err := initiator.Dial(r.config())
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	step := func(flags byte, kv ...[2]string) *initiator.PDU {
		if err := k.Send(k.LoginPDU(flags, kv...)); err != nil {
			t.Fatal(err)
		}
		p, err := k.Receive()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	step(1, [2]string{"InitiatorName", rigInitiator}, [2]string{"TargetName", rigName}, [2]string{"AuthMethod", "CHAP"})
	m := string(step(1, [2]string{"CHAP_A", "5"}).Data)
	var id byte
	_, after, _ := strings.Cut(m, "CHAP_I=")
	if _, err := fmt.Sscanf(after, "%d\x00", &id); err != nil {
		t.Fatal(err)
	}
	_, after, _ = strings.Cut(m, "CHAP_C=0x")
	ch, err := hex.DecodeString(strings.TrimRight(after, "\x00"))
	if err != nil {
		t.Fatal(err)
	}
	sum := md5.Sum(append(append([]byte{id}, "secret-of-the-user"...), ch...)) //nolint:gosec // CHAP
	if p := step(0x81, [2]string{"CHAP_N", "user"}, [2]string{"CHAP_R", fmt.Sprintf("0x%x", sum)}); p.H[36] != 0 {
		t.Fatalf("CHAP refused: %x", p.H[36:38])
	}
	n := r.target
	n.Epoch = 2
	n.Access = []Access{{Initiator: rigInitiator, Addr: netip.MustParseAddr("127.0.0.1"), CHAP: CHAP{User: "user", Secret: "another-secret-now"}}}
	if err := r.s.Publish(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if p := step(0x87); p.H[36] == 0 {
		t.Fatal("logged in with an access that was taken away")
	}
	if l := r.s.Sessions(rigName); len(l) != 0 {
		t.Fatalf("sessions: %+v", l)
	}
}
