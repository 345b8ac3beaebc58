//go:build lab

package lab_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// The NBD protocol (https://github.com/NetworkBlockDevice/nbd, doc/proto.md), as far as
// qemu-nbd needs it: what goes through it is what a guest's disk does, QEMU's
// block layer and its iSCSI initiator included.
const (
	nbdMagic      = 0x4e42444d41474943 // "NBDMAGIC"
	nbdOption     = 0x49484156454f5054 // "IHAVEOPT"
	nbdExportName = 1
	nbdNewstyle   = 1 // of the handshake's flags, with nbdNoZeroes
	nbdNoZeroes   = 2
	nbdRequest    = 0x25609513
	nbdReply      = 0x67446698
	nbdRead       = 0
	nbdWrite      = 1
	nbdFlush      = 3
)

// nbd is one connection; its calls may run at the same time.
type nbd struct {
	conn net.Conn
	Size int64

	mu      sync.Mutex // of writing, and of what follows
	next    uint64
	waiting map[uint64]*nbdCall
	err     error
}

type nbdCall struct {
	into []byte // of a read
	done chan error
}

func dialNBD(socket string) (*nbd, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	n := &nbd{conn: conn, waiting: map[uint64]*nbdCall{}}
	if err := n.handshake(); err != nil {
		return nil, errors.Join(fmt.Errorf("greet NBD server: %w", err), conn.Close())
	}
	go n.receive()
	return n, nil
}

func (n *nbd) handshake() error {
	var hello [18]byte
	if _, err := io.ReadFull(n.conn, hello[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint64(hello[:]) != nbdMagic || binary.BigEndian.Uint64(hello[8:]) != nbdOption {
		return errors.New("it speaks otherwise")
	}
	b := binary.BigEndian.AppendUint32(nil, nbdNewstyle|nbdNoZeroes)
	b = binary.BigEndian.AppendUint64(b, nbdOption)
	b = binary.BigEndian.AppendUint32(b, nbdExportName)
	b = binary.BigEndian.AppendUint32(b, 0) // the export without a name
	if _, err := n.conn.Write(b); err != nil {
		return err
	}
	var export [10]byte
	if _, err := io.ReadFull(n.conn, export[:]); err != nil {
		return err
	}
	n.Size = int64(binary.BigEndian.Uint64(export[:]))
	return nil
}

// receive hands answers to whoever waits, until the connection ends.
func (n *nbd) receive() {
	for {
		var head [16]byte
		_, err := io.ReadFull(n.conn, head[:])
		if err == nil && binary.BigEndian.Uint32(head[:]) != nbdReply {
			err = errors.New("no NBD reply")
		}
		var c *nbdCall
		if err == nil {
			id := binary.BigEndian.Uint64(head[8:])
			n.mu.Lock()
			c = n.waiting[id]
			delete(n.waiting, id)
			n.mu.Unlock()
			if c == nil {
				err = errors.New("NBD reply that nobody waits for")
			}
		}
		if err != nil {
			n.fail(err)
			return
		}
		if code := binary.BigEndian.Uint32(head[4:]); code != 0 {
			c.done <- fmt.Errorf("NBD error %d", code)
			continue
		}
		_, err = io.ReadFull(n.conn, c.into)
		c.done <- err
	}
}

func (n *nbd) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = fmt.Errorf("NBD connection: %w", err)
	for id, c := range n.waiting {
		c.done <- n.err
		delete(n.waiting, id)
	}
}

// start sends a request; its outcome comes through the channel.
func (n *nbd) start(command uint16, off int64, length int, data, into []byte) <-chan error {
	c := &nbdCall{into: into, done: make(chan error, 1)}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		c.done <- n.err
		return c.done
	}
	n.next++
	b := binary.BigEndian.AppendUint32(nil, nbdRequest)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, n.next)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	n.waiting[n.next] = c
	if _, err := n.conn.Write(append(b, data...)); err != nil {
		delete(n.waiting, n.next)
		c.done <- err
	}
	return c.done
}

func (n *nbd) write(off int64, b []byte) <-chan error { return n.start(nbdWrite, off, len(b), b, nil) }
func (n *nbd) read(off int64, b []byte) <-chan error  { return n.start(nbdRead, off, len(b), nil, b) }
func (n *nbd) flush() <-chan error                    { return n.start(nbdFlush, 0, 0, nil, nil) }
func (n *nbd) Close() error                           { return n.conn.Close() }
