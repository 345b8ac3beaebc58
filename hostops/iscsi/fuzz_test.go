package iscsi

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vcn/hostops/iscsi/initiator"
	"vcn/hostops/iscsi/scsi"
)

// panics fails a test when somebody logs an error: panics of connections and
// devices are caught, and told nowhere else.
type panics struct{ slog.Handler }

func (panics) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (p panics) WithAttrs([]slog.Attr) slog.Handler         { return p }
func (p panics) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	r.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&b, " %s=%v", a.Key, a.Value); return true })
	panic(r.Message + b.String())
}

const fuzzTimeout = 20 * time.Second

// bench is a server without a listener: connections are pipes.
type bench struct {
	s    *Server
	unit *scsi.Unit
}

func newBench(f *testing.F) *bench {
	f.Helper()
	path := filepath.Join(f.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		f.Fatal(err)
	}
	if err := os.Truncate(path, 1<<20); err != nil {
		f.Fatal(err)
	}
	file, err := scsi.OpenFile(path)
	if err != nil {
		f.Fatal(err)
	}
	log := slog.New(panics{})
	b := &bench{s: NewServer(Config{Log: log, LoginTimeout: fuzzTimeout, DataTimeout: fuzzTimeout})}
	if b.unit, err = scsi.NewUnit(file, scsi.Config{VolumeID: "fuzz", Log: log}); err != nil {
		f.Fatal(err)
	}
	t := Target{Name: rigName, Device: b.unit, Epoch: 1, Access: []Access{{
		Initiator: rigInitiator, Addr: netip.MustParseAddr("127.0.0.1"), CHAP: CHAP{User: "user", Secret: "secret-of-the-user", TargetUser: "t", TargetSecret: "secret-of-the-target"},
	}}}
	if err := b.s.Publish(f.Context(), t); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		b.s.Close()
		if err := b.unit.Close(); err != nil {
			f.Error(err)
		}
	})
	return b
}

// dial makes a connection that comes from an address with access. What the
// target sends has to be read.
func (b *bench) dial() (*initiator.Conn, *conn) {
	near, far := net.Pipe()
	c := newConn(b.s, far)
	c.remote = netip.MustParseAddrPort("127.0.0.1:3260")
	b.s.mu.Lock()
	b.s.conns[c] = struct{}{}
	b.s.wg.Add(1)
	b.s.mu.Unlock()
	go c.serve()
	return initiator.Over(near, initiator.Config{
		Initiator: rigInitiator, Target: rigName, LUN: scsi.LUN, User: "user", Secret: "secret-of-the-user", Timeout: fuzzTimeout,
	}), c
}

// over waits for the end of a connection and checks that nothing is left of it.
func (b *bench) over(t *testing.T, c *conn) {
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(fuzzTimeout):
		t.Fatal("the connection does not end")
	}
	if !b.s.memory.TryAcquire(b.s.cfg.MaxBytes) {
		t.Fatal("memory is still held")
	}
	b.s.memory.Release(b.s.cfg.MaxBytes)
	if !b.s.running.TryAcquire(serverRunning) {
		t.Fatal("commands still count as running")
	}
	b.s.running.Release(serverRunning)
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	if len(b.s.conns) != 0 || len(b.s.sessions) != 0 || len(b.s.slots.pending) != 0 {
		t.Fatalf("%d connections, %d sessions, %d slots are left", len(b.s.conns), len(b.s.sessions), len(b.s.slots.pending))
	}
}

// FuzzLogin sends login requests: records of flags and text, parted by 0xfe. In
// the text, "@R" stands for the right CHAP response. Nobody gets in without it.
func FuzzLogin(f *testing.F) {
	names := "InitiatorName=" + rigInitiator + "\x00TargetName=" + rigName + "\x00SessionType=Normal\x00AuthMethod=CHAP,None\x00"
	prove := "\xfe\x81CHAP_N=user\x00CHAP_R=@R\x00"
	f.Add([]byte("\x01" + names + "\xfe\x01CHAP_A=5\x00" + prove + "\xfe\x87HeaderDigest=CRC32C,None\x00InitialR2T=No\x00"))
	f.Add([]byte("\x01" + names + "\xfe\x01CHAP_A=6,5\x00\xfe\x83CHAP_N=user\x00CHAP_R=@R\x00CHAP_I=7\x00CHAP_C=0x0102030405060708\x00"))
	f.Add([]byte("\x01InitiatorName=" + rigInitiator + "\x00SessionType=Discovery\x00AuthMethod=CHAP\x00\xfe\x01CHAP_A=5\x00" + prove + "\xfe\x87\x00"))
	f.Add([]byte("\x41" + names[:40] + "\xfe\x01" + names[40:] + "\xfe\x01CHAP_A=5\x00\xfe\x81CHAP_N=user\x00CHAP_R=0b@R\x00"))
	f.Add([]byte("\x87" + names))
	f.Add([]byte("\x01" + names + "\xfe\x87MaxRecvDataSegmentLength=0\x00"))
	b := newBench(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		k, c := b.dial()
		defer b.over(t, c)
		defer k.Close()
		proved, response := false, "0x00"
		for _, rec := range bytes.SplitN(in, []byte{0xfe}, maxLoginExchanges+8) {
			if len(rec) == 0 {
				continue
			}
			if bytes.Contains(rec, []byte("@R")) {
				proved = true
				rec = bytes.ReplaceAll(rec, []byte("@R"), []byte(response))
			}
			p := k.LoginPDU(rec[0])
			p.Data = rec[1:]
			if k.Send(p) != nil {
				return
			}
			r, err := k.Receive()
			if err != nil {
				return
			}
			if r.H[0] != 0x23 {
				t.Fatalf("login answered by %x", r.H)
			}
			if r.H[36] != 0 {
				continue // refused; the end comes
			}
			if r.H[1]&0x83 == 0x83 {
				if !proved {
					t.Fatalf("logged in without a proof: %q", in)
				}
				return
			}
			if s := challengeIn(r.Data); s != "" {
				response = s
			}
		}
	})
}

// challengeIn computes the response to the challenge of a login answer.
func challengeIn(b []byte) string {
	x, err := parseText(b)
	if err != nil {
		return ""
	}
	v, err := hex.DecodeString(strings.TrimPrefix(x.get("CHAP_C"), "0x"))
	if err != nil || len(v) == 0 {
		return ""
	}
	c := challenge{byte(number(x.get("CHAP_I"), 0, 255)), v}
	return fmt.Sprintf("0x%x", c.response("secret-of-the-user"))
}

// FuzzPDU sends PDUs to a session: records of a mode, a header and data. The
// mode says what is made right in the header: 1 the length of the data, 2 the
// command number, 4 the transfer tag of the last R2T, 8 that the target's
// answers are read first; the high bits are how much data follows (times 64).
func FuzzPDU(f *testing.F) {
	rec := func(mode byte, data int, set func(*initiator.PDU)) []byte {
		p := &initiator.PDU{}
		p.H[9] = scsi.LUN
		p.Put(16, 0x10)
		p.Put(20, 0xffffffff)
		set(p)
		return append(append([]byte{mode | byte(data/64)<<4}, p.H[:]...), make([]byte, data)...)
	}
	command := func(flags byte, n uint32, cdb ...byte) func(*initiator.PDU) {
		return func(p *initiator.PDU) {
			p.H[0], p.H[1] = 0x01, flags
			p.Put(20, n)
			copy(p.H[32:], cdb)
		}
	}
	read := rec(3, 0, command(0xc1, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1))
	write := rec(3, 0, command(0xa1, 512, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1))
	out := func(last byte) []byte { return rec(13, 512, func(p *initiator.PDU) { p.H[0], p.H[1] = 0x05, last }) }
	nop := rec(3, 64, func(p *initiator.PDU) { p.H[0], p.H[1] = 0x40, 0x80 })
	reset := rec(3, 0, func(p *initiator.PDU) { p.H[0], p.H[1] = 0x42, 0x85 })
	text := rec(3, 64, func(p *initiator.PDU) { p.H[0], p.H[1] = 0x04, 0x80 })
	logout := rec(3, 0, func(p *initiator.PDU) { p.H[0], p.H[1] = 0x46, 0x80 })
	f.Add(byte(0), bytes.Join([][]byte{read, write, out(0x80), nop, logout}, nil))
	f.Add(byte(0), bytes.Join([][]byte{write, reset, out(0x80), read}, nil))
	f.Add(byte(0), bytes.Join([][]byte{write, write, out(0x00), text}, nil))
	f.Add(byte(1), bytes.Join([][]byte{rec(3, 512, command(0xa1, 512, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1)), read}, nil))
	f.Add(byte(1), rec(3, 0, command(0x21, 4096, 0x2a, 0, 0, 0, 0, 0, 0, 0, 8)))
	f.Add(byte(2), rec(1, 0, command(0xc1, 255, 0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 1)))
	b := newBench(f)
	f.Fuzz(func(t *testing.T, kind byte, in []byte) {
		k, c := b.dial()
		defer b.over(t, c)
		defer k.Close()
		if err := b.login(k, kind); err != nil {
			t.Fatal(err)
		}
		x := newExchange(k)
		defer x.end()
		for n := 0; len(in) > 0 && n < 64; n++ {
			mode := in[0]
			p := &initiator.PDU{}
			in = in[1+copy(p.H[:], in[1:]):]
			size := min(len(in), int(mode>>4)*64)
			p.Data, in = in[:size], in[size:]
			if x.send(p, mode) != nil {
				return
			}
		}
	})
}

// login makes a session; kind varies what is agreed upon.
func (b *bench) login(k *initiator.Conn, kind byte) error {
	var extra [][2]string
	switch kind % 3 {
	case 1:
		extra = [][2]string{{"InitialR2T", "No"}, {"FirstBurstLength", "1024"}, {"MaxBurstLength", "2048"}}
	case 2:
		extra = [][2]string{{"InitialR2T", "Yes"}, {"ImmediateData", "No"}, {"MaxRecvDataSegmentLength", "512"}}
	}
	return k.LoginWith(extra...)
}

// exchange reads what the target sends, beside what is sent to it.
type exchange struct {
	k     *initiator.Conn
	r2t   chan uint32 // tags of R2Ts that nobody used yet
	ended chan struct{}
	some  chan struct{}
}

func newExchange(k *initiator.Conn) *exchange {
	x := &exchange{k: k, r2t: make(chan uint32, 256), ended: make(chan struct{}), some: make(chan struct{}, 1)}
	go func() {
		defer close(x.ended)
		for {
			p, err := k.Receive()
			if err != nil {
				return
			}
			if p.H[0] == opR2T {
				select {
				case x.r2t <- p.U32(offTTT):
				default:
				}
			}
			select {
			case x.some <- struct{}{}:
			default:
			}
		}
	}()
	return x
}

func (x *exchange) send(p *initiator.PDU, mode byte) error {
	const patience = 2 * time.Millisecond
	if mode&8 != 0 {
		select {
		case <-x.some:
		case <-time.After(patience):
		}
	}
	if mode&4 != 0 {
		select {
		case tag := <-x.r2t:
			p.Put(offTTT, tag)
		default:
		}
	}
	if mode&2 != 0 {
		p.Put(offCmdSN, x.k.CmdSN)
		if p.H[0]&0x40 == 0 && p.H[0]&0x3f != opDataOut {
			x.k.CmdSN++
		}
	}
	w := x.k.Wire(p)
	if mode&1 == 0 && len(p.Data) > 0 {
		w = append(w[:len(w):len(w)], p.Data...) // more than was said
	}
	_, err := x.k.NC.Write(w)
	return err
}

func (x *exchange) end() {
	_ = x.k.Close()
	<-x.ended
}
