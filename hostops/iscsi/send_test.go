package iscsi

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vcn/hostops/iscsi/initiator"
	"vcn/hostops/iscsi/scsi"
)

func read16(lba uint64, n uint32) []byte {
	c := make([]byte, 16)
	c[0] = 0x88
	binary.BigEndian.PutUint64(c[2:], lba)
	binary.BigEndian.PutUint32(c[10:], n)
	return c
}

// An initiator that reads nothing for a while still gets its commands taken: the
// reader must not wait for what is sent.
func TestReaderGoesOnWhileNobodyReads(t *testing.T) {
	r := newRig(t, Config{})
	k := r.login()
	if err := k.NC.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	block := bytes.Repeat([]byte{0x77}, 512)
	const reads, lba = 12, 4000
	const most = 1 << 20
	for range reads { // more than the sockets take
		if err := k.Send(k.CommandPDU(read16(0, most/512), nil, most)); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 { // these come by the quick way
		if err := k.Send(k.CommandPDU(read16(0, 128), nil, 64<<10)); err != nil {
			t.Fatal(err)
		}
	}
	p := k.CommandPDU([]byte{0x2a, 0, 0, 0, lba >> 8, lba & 0xff, 0, 0, 1, 0}, block, 0)
	p.Data = block
	if err := k.Send(p); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the write is carried out", func() bool {
		b := make([]byte, 512)
		if _, err := r.faults.File.ReadAt(b, lba*512); err != nil {
			t.Fatal(err)
		}
		return bytes.Equal(b, block)
	})
	// Nothing is lost either.
	for range reads + 4 + 1 {
		if a, err := k.Await(nil); err != nil || a.Status != 0 {
			t.Fatalf("answer %+v, %v", a, err)
		}
	}
}

// Many commands in flight on one session, of both ways: every answer belongs to
// its question, status numbers have no gap, and aborts do no harm.
func TestManyCommandsInFlight(t *testing.T) {
	for _, d := range []string{"None", "CRC32C"} {
		r := newRig(t, Config{})
		c := r.config()
		c.Extra = [][2]string{{"HeaderDigest", d}, {"DataDigest", d}}
		k, err := initiator.Login(c)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		blocks := make([]byte, 512*512)
		for i := range blocks {
			blocks[i] = byte(rand.Uint32())
		}
		for at := 0; at < len(blocks); at += 64 << 10 {
			a, err := k.Write(uint64(at)/512, blocks[at:at+64<<10])
			good(t, a, err)
		}
		type question struct{ lba, n int }
		asked := map[uint32]question{}
		var mu sync.Mutex
		slots := make(chan struct{}, 32)
		const commands = 1500
		sn := k.ExpStatSN
		answered := make(chan error, 1)
		go func() {
			answered <- readAnswers(k, commands, sn, slots, func(tag uint32, d []byte) bool {
				mu.Lock()
				defer mu.Unlock()
				q, ok := asked[tag]
				delete(asked, tag)
				return ok && bytes.Equal(d, blocks[q.lba*512:(q.lba+q.n)*512])
			})
		}()
		for range commands {
			q := question{rand.IntN(300), 1 + rand.IntN(200)} // some more than the quick way takes
			p := k.CommandPDU(read16(uint64(q.lba), uint32(q.n)), nil, q.n*512)
			mu.Lock()
			asked[p.U32(16)] = q
			mu.Unlock()
			slots <- struct{}{}
			if err := k.Send(p); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
		eventually(t, "memory is given back", r.idle)
	}
}

type wrongAnswer string

func (e wrongAnswer) Error() string { return string(e) }

func readAnswers(k *initiator.Conn, n int, sn uint32, slots chan struct{}, right func(uint32, []byte) bool) error {
	data := map[uint32][]byte{}
	for n > 0 {
		p, err := k.Receive()
		if err != nil {
			return err
		}
		tag := p.U32(16)
		if p.H[0] != 0x25 || int(p.U32(40)) != len(data[tag]) {
			return wrongAnswer("an operation or offset out of order")
		}
		data[tag] = append(data[tag], p.Data...)
		if p.H[1]&0x01 == 0 {
			continue
		}
		if p.U32(24) != sn {
			return wrongAnswer("a gap in the status numbers")
		}
		sn++
		if !right(tag, data[tag]) {
			return wrongAnswer("the answer to another question")
		}
		delete(data, tag)
		<-slots
		n--
	}
	return nil
}

// What is not in memory comes all the same, by the long way.
func TestReadsThatMissMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := scsi.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	now := f.(interface{ ReadNow([]byte, int64) bool })
	b := make([]byte, 64<<10)
	if !now.ReadNow(b, 4096) || !bytes.Equal(b, data[4096:4096+len(b)]) {
		t.Fatal("what was just written is not read from memory")
	}
	if now.ReadNow(b, int64(len(data))-512) {
		t.Fatal("read beyond the end")
	}
	drop, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer drop.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(drop.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	if n, err := f.ReadAt(b, 4096); n != len(b) || err != nil && err != io.EOF || !bytes.Equal(b, data[4096:4096+len(b)]) {
		t.Fatalf("read %d, %v", n, err)
	}
}

func TestWarmth(t *testing.T) {
	var w warmth
	asked := 0
	for range 1000 {
		if w.ask() {
			asked++
			w.learn(false)
		}
	}
	if asked > 30 {
		t.Fatalf("asked %d times in vain", asked)
	}
	for !w.ask() {
	}
	w.learn(true)
	for range 100 {
		if !w.ask() {
			t.Fatal("not asked after a hit")
		}
		w.learn(true)
	}
}

var _ quickDevice = (*scsi.Unit)(nil)

// A session that is cut while much is queued gives everything back.
func TestCutWhileSending(t *testing.T) {
	r := newRig(t, Config{SendTimeout: 300 * time.Millisecond})
	k := r.login()
	if err := k.NC.(*net.TCPConn).SetReadBuffer(8 << 10); err != nil {
		t.Fatal(err)
	}
	for range 60 {
		if err := k.Send(k.CommandPDU(read16(0, 4096), nil, 2<<20)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the stalled session is cut", func() bool { return len(r.s.Sessions(rigName)) == 0 })
	eventually(t, "memory is given back", r.idle)
	r.alive()
}

// An initiator that asks and never listens is made to wait, or cut; it gets no
// memory for it.
func TestWhoNeverListensGetsNoMemory(t *testing.T) {
	ping := func(*initiator.Conn) *initiator.PDU {
		p := header(0x40, 0x80, make([]byte, 64<<10))
		p.Put(16, 0x99)
		return p
	}
	for name, ask := range map[string]func(*initiator.Conn) *initiator.PDU{
		"pings":          ping,
		"strange things": func(*initiator.Conn) *initiator.PDU { return header(0x5c, 0x80, nil) },
		"small reads":    func(k *initiator.Conn) *initiator.PDU { return k.CommandPDU(read16(0, 1), nil, 512) },
		"large reads":    func(k *initiator.Conn) *initiator.PDU { return k.CommandPDU(read16(0, 128), nil, 64<<10) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{SendTimeout: time.Second})
			k := r.login()
			if err := k.NC.(*net.TCPConn).SetReadBuffer(16 << 10); err != nil {
				t.Fatal(err)
			}
			r.s.mu.Lock()
			var c *conn
			for c = range r.s.sessions {
			}
			r.s.mu.Unlock()
			most, stop := 0, make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
						most = max(most, c.queued())
					}
				}
			})
			for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
				if k.Send(ask(k)) != nil {
					break // cut, as it should be
				}
			}
			close(stop)
			wg.Wait()
			if most > 2*maxTasks {
				t.Fatalf("%d answers are queued", most)
			}
			_ = k.NC.(*net.TCPConn).SetLinger(0) // what it sent and nobody read yet is void
			_ = k.Close()
			eventually(t, "the session ends", func() bool { return len(r.s.Sessions(rigName)) == 0 })
			eventually(t, "memory is given back", r.idle)
		})
	}
}
