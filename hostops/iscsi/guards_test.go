package iscsi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"vcn/hostops/iscsi/initiator"
	"vcn/hostops/iscsi/scsi"
)

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// held is what the buffers of all sessions come to.
func (r *rig) idle() bool {
	if !r.s.memory.TryAcquire(r.s.cfg.MaxBytes) {
		return false
	}
	r.s.memory.Release(r.s.cfg.MaxBytes)
	return true
}

// A session that stops sending what it was asked for is cut, whatever else it
// does, and its buffers are given back.
func TestDataOutHasADeadline(t *testing.T) {
	write := []byte{0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0}
	ping := func(k *initiator.Conn) error {
		p := header(0x40, 0x80, nil)
		p.Put(16, 0x99)
		if err := k.Send(p); err != nil {
			return err
		}
		_, err := k.Receive()
		return err
	}
	start := func(t *testing.T, k *initiator.Conn) {
		if err := k.Send(k.CommandPDU(write, make([]byte, 4096), 0)); err != nil {
			t.Fatal(err)
		}
		if p, err := k.Receive(); err != nil || p.H[0] != 0x31 {
			t.Fatalf("no R2T: %+v, %v", p, err)
		}
	}
	for name, act := range map[string]func(*testing.T, *initiator.Conn){
		"silent": func(t *testing.T, k *initiator.Conn) { start(t, k) },
		"pings on": func(t *testing.T, k *initiator.Conn) {
			start(t, k)
			for ping(k) == nil {
				time.Sleep(5 * time.Millisecond)
			}
		},
		"writes on": func(t *testing.T, k *initiator.Conn) {
			start(t, k)
			for {
				if _, err := k.Write(9, make([]byte, 1024)); err != nil {
					return
				}
			}
		},
		"unsolicited data": func(t *testing.T, k *initiator.Conn) {
			p := k.CommandPDU(write, make([]byte, 4096), 0)
			p.H[1] &^= 0x80 // more comes by itself
			if err := k.Send(p); err != nil {
				t.Fatal(err)
			}
		},
		"half of the immediate data": func(t *testing.T, k *initiator.Conn) {
			p := k.CommandPDU(write, make([]byte, 4096), 0)
			p.Data = make([]byte, 4096)
			if _, err := k.NC.Write(k.Wire(p)[:2000]); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{DataTimeout: 300 * time.Millisecond})
			k := r.login()
			begin := time.Now()
			act(t, k)
			_ = k.NC.SetReadDeadline(time.Now().Add(20 * time.Second))
			var ne net.Error
			if _, err := io.Copy(io.Discard, k.NC); errors.As(err, &ne) && ne.Timeout() {
				t.Fatal("the session is kept")
			}
			if took := time.Since(begin); took < 250*time.Millisecond {
				t.Fatalf("cut after %s", took)
			}
			eventually(t, "buffers are given back", r.idle)
			r.alive()
		})
	}
}

// A slow initiator that answers in order is not cut, though all its bursts
// together take longer than one may.
func TestSlowDataOutIsServed(t *testing.T) {
	const timeout = 400 * time.Millisecond
	r := newRig(t, Config{DataTimeout: timeout})
	k := r.login()
	const commands = 8
	for i := range commands {
		if err := k.Send(k.CommandPDU([]byte{0x2a, 0, 0, 0, 0, byte(i), 0, 0, 1, 0}, make([]byte, 512), 0)); err != nil {
			t.Fatal(err)
		}
	}
	var asked []*initiator.PDU
	for range commands {
		p, err := k.Receive()
		if err != nil || p.H[0] != 0x31 {
			t.Fatalf("no R2T: %+v, %v", p, err)
		}
		asked = append(asked, p)
	}
	for _, q := range asked {
		time.Sleep(timeout / 2)
		p := header(0x05, 0x80, bytes.Repeat([]byte{3}, 512))
		copy(p.H[16:24], q.H[16:24])
		if err := k.Send(p); err != nil {
			t.Fatal(err)
		}
	}
	for range commands {
		if p, err := k.Receive(); err != nil || p.H[0] != 0x21 || p.H[3] != 0 {
			t.Fatalf("answer %+v, %v", p, err)
		}
	}
	time.Sleep(2 * timeout) // idle is no reason
	a, err := k.Read(0, 1)
	good(t, a, err)
}

// A Data-Out that is missing, as the numbers say, fails its command and nothing
// else.
func TestMissingDataOutFailsItsCommand(t *testing.T) {
	r := newRig(t, Config{})
	k := r.login()
	if err := k.Send(k.CommandPDU([]byte{0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0}, make([]byte, 1024), 0)); err != nil {
		t.Fatal(err)
	}
	q, err := k.Receive()
	if err != nil || q.H[0] != 0x31 {
		t.Fatalf("no R2T: %+v, %v", q, err)
	}
	for i, sn := range []uint32{1, 2} {
		p := header(0x05, byte(i)<<7, bytes.Repeat([]byte{4}, 512))
		copy(p.H[16:24], q.H[16:24])
		p.Put(36, sn)
		p.Put(40, uint32(i)*512)
		if err := k.Send(p); err != nil {
			t.Fatal(err)
		}
	}
	a, err := k.Await(nil)
	if err != nil {
		t.Fatal(err)
	}
	if key, asc := a.Key(); key != 0xb || asc != 0x4705 {
		t.Fatalf("sense %x/%04x, want an aborted command", key, asc)
	}
	a, err = k.Read(0, 1)
	good(t, a, err)
	if a.Data[0] != 0 {
		t.Fatal("half a write reached the disk")
	}
	eventually(t, "buffers are given back", r.idle)
}

// Strangers leave room for those whom access lists name; and whoever is named
// leaves room for the others.
func TestStrangersCannotTakeAllConnections(t *testing.T) {
	r := newRig(t, Config{MaxConnections: 160})
	hold := func(from string, n int) (held int) {
		for range n {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
			nc, err := d.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = nc.Close() })
			_ = nc.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
			var ne net.Error
			if _, err := nc.Read(make([]byte, 1)); errors.As(err, &ne) && ne.Timeout() {
				held++
			}
		}
		return held
	}
	if n := hold("127.0.0.9", strangerSlots+4); n != strangerSlots {
		t.Fatalf("one stranger holds %d connections, want %d", n, strangerSlots)
	}
	all := strangerSlots
	for i := range 3 {
		all += hold(fmt.Sprintf("127.0.1.%d", i+1), strangerSlots)
	}
	if all != 160/strangerShare {
		t.Fatalf("strangers hold %d connections, want %d", all, 160/strangerShare)
	}
	k := r.login() // becomes a session: it counts as pending no more
	if n := hold("127.0.0.1", 160/pendingShare+4); n != 160/pendingShare {
		t.Fatalf("a known address holds %d logins, want %d", n, 160/pendingShare)
	}
	a, err := k.Read(0, 1)
	good(t, a, err)
	// Another known address is not shut out by it.
	other := r.target.Access[0]
	other.Addr = netip.MustParseAddr("127.0.0.2")
	r.target.Access = append(r.target.Access, other)
	if err := r.s.Publish(t.Context(), r.target); err != nil {
		t.Fatal(err)
	}
	c := r.config()
	c.LocalAddr = "127.0.0.2"
	k2, err := initiator.Login(c)
	if err != nil {
		t.Fatalf("a known initiator is shut out: %v", err)
	}
	_ = k2.Close()
}

// Slots are given back: what is counted ends at nothing.
func TestSlotsAreGivenBack(t *testing.T) {
	r := newRig(t, Config{LoginTimeout: time.Second})
	for i := range 60 {
		c := r.config()
		switch i % 4 {
		case 1:
			c.Secret = "not the secret at all"
		case 2:
			c.Target = ""
		case 3:
			c.LocalAddr = "127.0.0.7"
		}
		if k, err := initiator.Login(c); err == nil {
			_ = k.Close()
		}
	}
	eventually(t, "all slots are free", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return len(r.s.conns) == 0 && len(r.s.slots.pending) == 0 && r.s.slots.strangers == 0 && len(r.s.slots.known) == 1
	})
	if err := r.s.Withdraw(t.Context(), rigName); err != nil {
		t.Fatal(err)
	}
	if n := len(r.s.slots.known); n != 0 {
		t.Fatalf("%d addresses are known without a target", n)
	}
}

// Registrations live as long as the epoch: over reconnects with another ISID,
// not over a new generation.
func TestReservationsFollowTheEpoch(t *testing.T) {
	r := newRig(t, Config{})
	other := r.target.Access[0]
	other.Initiator += "-other"
	r.target.Access = append(r.target.Access, other)
	if err := r.s.Publish(t.Context(), r.target); err != nil {
		t.Fatal(err)
	}
	login := func(name string, isid byte) *initiator.Conn {
		t.Helper()
		c := r.config()
		c.Initiator, c.ISID = name, [6]byte{0x80, 0, 0, 0, 0, isid}
		k, err := initiator.Login(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = k.Close() })
		return k
	}
	out := make([]byte, 24)
	out[15] = 7
	one := login(rigInitiator, 1)
	a, err := one.Command([]byte{0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0}, out, 0)
	good(t, a, err)
	out[7] = 7
	a, err = one.Command([]byte{0x5f, 1, 3, 0, 0, 0, 0, 0, 24, 0}, out, 0)
	good(t, a, err)
	two := login(other.Initiator, 2)
	if a, err := two.Read(0, 1); err != nil || a.Status != scsi.StatusConflict {
		t.Fatalf("read beside an exclusive reservation: %+v, %v", a, err)
	}
	one = login(rigInitiator, 3) // as after a lost connection
	a, err = one.Write(0, make([]byte, 512))
	good(t, a, err)
	r.target.Epoch++
	if err := r.s.Publish(t.Context(), r.target); err != nil {
		t.Fatal(err)
	}
	two = login(other.Initiator, 4)
	a, err = two.Read(0, 1)
	good(t, a, err)
}

func TestFirstCommandHearsWhatHappened(t *testing.T) {
	r := newRig(t, Config{})
	c := r.config()
	c.KeepAttention = true
	for _, want := range []uint16{0x2900, 0x2907} {
		k, err := initiator.Login(c)
		if err != nil {
			t.Fatal(err)
		}
		a, err := k.Read(0, 1)
		if err != nil {
			t.Fatal(err)
		}
		if key, asc := a.Key(); key != 6 || asc != want {
			t.Fatalf("sense %x/%04x, want 6/%04x", key, asc, want)
		}
		a, err = k.Read(0, 1)
		good(t, a, err)
		_ = k.Close()
	}
}

// With digests both ways, all of a session works.
func TestDigestsBothWays(t *testing.T) {
	r := newRig(t, Config{})
	for _, d := range []string{"HeaderDigest", "DataDigest"} {
		c := r.config()
		c.Extra = [][2]string{{d, "CRC32C"}, {"MaxBurstLength", "4096"}, {"FirstBurstLength", "512"}}
		k, err := initiator.Login(c)
		if err != nil {
			t.Fatal(err)
		}
		if k.HeaderDigest != (d == "HeaderDigest") || k.DataDigest != (d == "DataDigest") {
			t.Fatalf("%s was not agreed upon", d)
		}
		data := bytes.Repeat([]byte("digest"), 512*40/6+1)[:512*40]
		a, err := k.Write(3, data)
		good(t, a, err)
		if a, err = k.Read(3, 40); err != nil || !bytes.Equal(a.Data, data) {
			t.Fatalf("read back something else: %v", err)
		}
		// A flipped bit in what we send in answer to an R2T.
		if err := k.Send(k.CommandPDU([]byte{0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0}, make([]byte, 512), 0)); err != nil {
			t.Fatal(err)
		}
		q, err := k.Receive()
		if err != nil {
			t.Fatal(err)
		}
		p := header(0x05, 0x80, bytes.Repeat([]byte{9}, 512))
		copy(p.H[16:24], q.H[16:24])
		w := k.Wire(p)
		if d == "HeaderDigest" {
			w[12] ^= 4
		} else {
			w[300] ^= 4
		}
		if _, err := k.NC.Write(w); err != nil {
			t.Fatal(err)
		}
		if p, err := k.Receive(); err == nil {
			t.Fatalf("%s with a flipped bit was answered: %+v", d, p)
		}
		_ = k.Close()
	}
	k := r.login()
	if a, err := k.Read(0, 1); err != nil || a.Data[0] != 0 {
		t.Fatalf("a damaged write reached the disk: %v", err)
	}
}

// Whoever is refused over and over fills no log.
func TestRefusalsAreToldSeldom(t *testing.T) {
	var q quiet
	now, lines, told := time.Now(), 0, 0
	for range 1000 {
		now = now.Add(failedTell / 100)
		if n, ok := q.tell(now, failedTell); ok {
			lines++
			told += n
		}
	}
	if lines > 11 || told+q.n != 1000 {
		t.Fatalf("%d lines tell of %d, %d are not told yet; there were 1000", lines, told, q.n)
	}
}
