package iscsi

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"vcn/hostops/iscsi/initiator"
)

// header makes a PDU with op and flags.
func header(op, flags byte, data []byte) *initiator.PDU {
	p := &initiator.PDU{Data: data}
	p.H[0], p.H[1] = op, flags
	p.Put(16, 0x55)
	p.Put(20, 0xffffffff)
	return p
}

func TestMalformedPDUsKillNobody(t *testing.T) {
	r := newRig(t, Config{LoginTimeout: 2 * time.Second})
	type conn = *initiator.Conn
	read := []byte{0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}
	write := []byte{0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0}
	for name, c := range map[string]struct {
		login bool
		send  func(k conn) error
	}{
		"command before login": {false, func(k conn) error { return k.Send(k.CommandPDU(read, nil, 512)) }},
		"logout before login":  {false, func(k conn) error { return k.Send(header(0x46, 0x80, nil)) }},
		"login of 16 MiB": {false, func(k conn) error {
			p := k.LoginPDU(0x87)
			p.H[5], p.H[6], p.H[7] = 0xff, 0xff, 0xff
			_, err := k.NC.Write(p.H[:])
			return err
		}},
		"login with TSIH": {false, func(k conn) error {
			p := k.LoginPDU(0x87, [2]string{"InitiatorName", rigInitiator}, [2]string{"TargetName", rigName})
			p.H[14], p.H[15] = 0, 7
			return k.Send(p)
		}},
		"login without names":      {false, func(k conn) error { return k.Send(k.LoginPDU(0x87)) }},
		"login text without equal": {false, func(k conn) error { p := k.LoginPDU(0x81); p.Data = []byte("nonsense\x00"); return k.Send(p) }},
		"login to stage 2":         {false, func(k conn) error { return k.Send(k.LoginPDU(0x82, [2]string{"InitiatorName", "a"})) }},
		"login skips security": {false, func(k conn) error {
			return k.Send(k.LoginPDU(0x87, [2]string{"InitiatorName", rigInitiator}, [2]string{"TargetName", rigName}))
		}},
		"continued for ever": {false, func(k conn) error {
			for range 40 {
				if err := k.Send(k.LoginPDU(0x40, [2]string{"a", "b"})); err != nil {
					return nil // cut, as it should be
				}
			}
			return nil
		}},
		"half a header": {false, func(k conn) error { _, err := k.NC.Write([]byte{0x43, 0x87, 0}); return errors.Join(err, k.Close()) }},
		"login again":   {true, func(k conn) error { return k.Send(k.LoginPDU(0x87)) }},
		"read of 4 GiB": {true, func(k conn) error { p := k.CommandPDU(read, nil, 512); p.Put(20, 0xfffffff0); return k.Send(p) }},
		"immediate data over length": {true, func(k conn) error {
			p := k.CommandPDU([]byte{0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0}, make([]byte, 512), 0)
			p.Data = make([]byte, 4096)
			return k.Send(p)
		}},
		"read and write at once": {true, func(k conn) error { p := k.CommandPDU(read, make([]byte, 512), 0); p.H[1] |= 0x60; return k.Send(p) }},
		"data for nobody":        {true, func(k conn) error { return k.Send(header(0x05, 0x80, make([]byte, 1024))) }},
		"data beyond the burst": {true, func(k conn) error {
			if err := k.Send(k.CommandPDU(write, make([]byte, 4096), 0)); err != nil {
				return err
			}
			r2t, err := k.Receive()
			if err != nil || r2t.H[0] != 0x31 {
				return errors.Join(errors.New("no R2T"), err)
			}
			p := header(0x05, 0, make([]byte, 8192))
			copy(p.H[16:24], r2t.H[16:24])
			return k.Send(p)
		}},
		"same tag twice": {true, func(k conn) error {
			a, b := k.CommandPDU(write, make([]byte, 4096), 0), k.CommandPDU(write, make([]byte, 4096), 0)
			copy(b.H[16:20], a.H[16:20])
			return errors.Join(k.Send(a), k.Send(b))
		}},
		"UNMAP without data": {true, func(k conn) error { return k.Send(k.CommandPDU([]byte{0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}, nil, 0)) }},
		"WRITE without data": {true, func(k conn) error { return k.Send(k.CommandPDU(write, nil, 0)) }},
		"COMPARE AND WRITE short": {true, func(k conn) error {
			return k.Send(k.CommandPDU([]byte{0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0}, make([]byte, 512), 0))
		}},
		"header segment": {true, func(k conn) error {
			p := k.CommandPDU(read, nil, 512)
			p.H[4] = 255
			_, err := k.NC.Write(append(p.H[:], make([]byte, 1020)...))
			return err
		}},
		"abort of nothing":  {true, func(k conn) error { return k.Send(header(0x42, 0x81, nil)) }},
		"strange function":  {true, func(k conn) error { return k.Send(header(0x42, 0xff, nil)) }},
		"strange operation": {true, func(k conn) error { return k.Send(header(0x1c, 0x80, make([]byte, 3))) }},
		"text goes on":      {true, func(k conn) error { p := header(0x44, 0x80, nil); p.Put(20, 99); return k.Send(p) }},
		"text continued":    {true, func(k conn) error { return k.Send(header(0x44, 0x40, []byte("SendTargets="))) }},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := initiator.Dial(r.config())
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			if c.login {
				if err := k.Login(); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.send(k); err != nil {
				t.Fatal(err)
			}
			// Whatever comes (an answer, a reject, the end), it comes.
			_ = k.NC.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			_, _ = io.ReadFull(k.NC, make([]byte, 48))
			r.alive()
		})
	}
}

func TestSCSIInDiscoveryIsRejected(t *testing.T) {
	r := newRig(t, Config{})
	c := r.config()
	c.Target = ""
	k, err := initiator.Login(c)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if err := k.Send(k.CommandPDU([]byte{0x12, 0, 0, 0, 36, 0}, nil, 36)); err != nil {
		t.Fatal(err)
	}
	if p, err := k.Receive(); err != nil || p.H[0] != 0x3f {
		t.Fatalf("got %+v, %v; want a reject", p, err)
	}
}

// With digests a flipped bit ends the session before it reaches the disk.
func TestDigests(t *testing.T) {
	r := newRig(t, Config{})
	session := func() *initiator.Conn {
		c := r.config()
		c.Extra = [][2]string{{"HeaderDigest", "CRC32C,None"}, {"DataDigest", "CRC32C"}}
		k, err := initiator.Login(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = k.Close() })
		return k
	}
	wire := func(k *initiator.Conn, data []byte) []byte {
		p := k.CommandPDU([]byte{0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0}, data, 0)
		p.Data = data
		q := &pdu{h: p.H, data: data}
		var b bytes.Buffer
		bufs := appendPDU(nil, q, digests{true, true})
		_, _ = bufs.WriteTo(&b)
		return b.Bytes()
	}
	k := session()
	if _, err := k.NC.Write(wire(k, bytes.Repeat([]byte{7}, 512))); err != nil {
		t.Fatal(err)
	}
	var a pdu
	rd := bufio.NewReader(k.NC)
	if err := readHeader(rd, &a, digests{true, true}); err != nil || a.op() != opResponse || a.h[3] != 0 {
		t.Fatalf("write with digests: %+v, %v", a, err)
	}
	for name, at := range map[string]int{"header": 20, "data": 100} {
		k := session()
		b := wire(k, bytes.Repeat([]byte{9}, 512))
		b[at] ^= 1
		if _, err := k.NC.Write(b); err != nil {
			t.Fatal(err)
		}
		_ = k.NC.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := k.NC.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Fatalf("%s with a flipped bit was answered", name)
		}
	}
	k2 := r.login()
	x, err := k2.Read(0, 1)
	good(t, x, err)
	if !bytes.Equal(x.Data, bytes.Repeat([]byte{7}, 512)) {
		t.Fatal("a damaged write reached the disk")
	}
}

// FuzzText reads keys and values of logins and text requests, and negotiates
// with them.
func FuzzText(f *testing.F) {
	f.Add([]byte("InitiatorName=iqn.a:b\x00TargetName=iqn.c:d\x00SessionType=Normal\x00AuthMethod=CHAP,None\x00"))
	f.Add([]byte("CHAP_N=u\x00CHAP_R=0x00ff\x00CHAP_I=256\x00CHAP_C=0bAAAA\x00"))
	f.Add([]byte("MaxRecvDataSegmentLength=0x7fffffff\x00MaxBurstLength=-1\x00FirstBurstLength=16777216\x00HeaderDigest=CRC32C,None\x00"))
	f.Add([]byte("\x00\x00=\x00a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := parseText(b)
		if err != nil {
			return
		}
		if len(x.keys) != len(x.values) || len(x.keys) > maxTextKeys {
			t.Fatalf("%d keys, %d values", len(x.keys), len(x.values))
		}
		p := defaultParams()
		var out pairs
		p.negotiate(x, &out)
		if p.maxSend < minSegmentBytes || p.maxSend > maxSendBytes || p.maxBurst < minSegmentBytes || p.maxBurst > maxBurstBytes || p.firstBurst > p.maxBurst || p.firstBurst > firstBurstBytes {
			t.Fatalf("parameters out of range: %+v", p)
		}
		if _, err := parseText(out); err != nil {
			t.Fatalf("our answer %q does not parse: %v", out, err)
		}
		for _, k := range x.keys {
			if v, err := binaryValue(x.get(k)); err == nil && len(v) > maxCHAPValue {
				t.Fatalf("binary value of %d bytes", len(v))
			}
		}
	})
}

func FuzzReadPDU(f *testing.F) {
	plain := header(0x43, 0x87, nil).H
	f.Add(plain[:], byte(0))
	f.Add(append(plain[:], make([]byte, 64)...), byte(3))
	long := plain
	long[4], long[7] = 255, 9
	f.Add(append(long[:], make([]byte, 2048)...), byte(1))
	var whole bytes.Buffer
	bufs := appendPDU(nil, &pdu{h: plain, data: []byte("hello")}, digests{true, true})
	_, _ = bufs.WriteTo(&whole)
	f.Add(whole.Bytes(), byte(3))
	f.Fuzz(func(t *testing.T, b []byte, mode byte) {
		d := digests{mode&1 != 0, mode&2 != 0}
		r := bufio.NewReaderSize(bytes.NewReader(b), 64)
		var p pdu
		if err := readHeader(r, &p, d); err != nil {
			return
		}
		if p.dataBytes() > maxLoginBytes {
			return
		}
		data := make([]byte, p.dataBytes())
		if err := readData(r, data, d); err != nil {
			return
		}
		if p.h[4] != 0 {
			return // header segments are dropped, not repeated
		}
		// What was read is what we would write.
		var again bytes.Buffer
		q := p
		q.data = data
		bufs := appendPDU(nil, &q, d)
		_, _ = bufs.WriteTo(&again)
		n := headerBytes
		if d.header {
			n += 4
		}
		if !bytes.Equal(again.Bytes()[:n+len(data)], b[:n+len(data)]) {
			t.Fatalf("read %x, wrote %x", b, again.Bytes())
		}
		if binary.BigEndian.Uint32(p.h[16:]) != p.itt() {
			t.Fatal("task tag")
		}
	})
}
