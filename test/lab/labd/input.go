package main

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"

	"vcn/test/lab/wire"
)

var errWindow = errors.New("more input than the window allows")

// input feeds a command. It takes what comes, up to the window, and a goroutine
// writes it into the pipe, so that a command which does not read delays no signal.
type input struct {
	read, write *os.File
	out         *wire.Writer

	mu     sync.Mutex
	more   *sync.Cond
	queue  []byte
	closed bool // no more comes
}

func newInput(out *wire.Writer) (*input, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	in := &input{read: r, write: w, out: out}
	in.more = sync.NewCond(&in.mu)
	go in.feed()
	return in, nil
}

func (in *input) add(data []byte) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.queue)+len(data) > wire.WindowBytes+wire.FrameBytesMax {
		return errWindow
	}
	if !in.closed {
		in.queue = append(in.queue, data...)
	}
	in.more.Signal()
	return nil
}

// close says that no more comes; what is queued is still written.
func (in *input) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.more.Signal()
}

// end throws away what is queued, because nobody reads it any more.
func (in *input) end() {
	in.close()
	in.mu.Lock()
	in.queue = nil
	in.mu.Unlock()
	_ = in.write.Close() // wakes a write that waits
}

func (in *input) feed() {
	defer in.write.Close()
	var buf []byte
	for {
		in.mu.Lock()
		for len(in.queue) == 0 && !in.closed {
			in.more.Wait()
		}
		if len(in.queue) == 0 {
			in.mu.Unlock()
			return
		}
		buf, in.queue = in.queue, buf[:0]
		in.mu.Unlock()
		_, err := in.write.Write(buf)
		// The host goes on sending even if the command has closed its input.
		if aerr := in.out.Frame(wire.Ack, binary.BigEndian.AppendUint32(nil, uint32(len(buf)))); aerr != nil {
			return
		}
		if err != nil {
			in.mu.Lock()
			in.queue = nil
			in.mu.Unlock()
		}
	}
}
