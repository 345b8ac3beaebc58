package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	// Version counts changes that agents and hosts must share.
	Version = 1
	// FrameBytesMax is the most that one frame carries.
	FrameBytesMax = 256 << 10
	// WindowBytes is the most of a command's input that is under way.
	WindowBytes = 1 << 20
	// RequestBytesMax bounds a request: arguments and environment.
	RequestBytesMax = 4 << 20
	headBytes       = 5
)

// Types of frames.
const (
	Hello    byte = 'h' // to the host: somebody listens, the request may come
	Stdin    byte = 'i' // to the agent: input, or a file's content
	StdinEnd byte = 'I' // to the agent: no more of it
	Signal   byte = 's' // to the agent: one byte, the signal's number
	Ack      byte = 'a' // to the host: 4 bytes, so much of Stdin was consumed
	Stdout   byte = 'o' // to the host: output, or a file's content
	Stderr   byte = 'e' // to the host
	Exited   byte = 'x' // to the host: Exit as JSON, the last frame
)

// Operations of a Request.
const (
	OpPing = "ping" // answers Exit at once
	OpRun  = "run"
	OpPut  = "put" // Path is written from Stdin frames, with Mode
	OpGet  = "get" // Path is read into Stdout frames
)

var (
	// ErrFrame is a frame that is too long or not expected.
	ErrFrame = errors.New("bad frame")
	// ErrDenied is a request with a wrong token.
	ErrDenied = errors.New("wrong token")
)

// Request opens a connection.
type Request struct {
	Token string
	Op    string
	Argv  []string `json:",omitempty"`
	Env   []string `json:",omitempty"` // added to the agent's own
	Dir   string   `json:",omitempty"`
	Path  string   `json:",omitempty"`
	Mode  uint32   `json:",omitempty"` // permissions
}

// Exit is how it ended.
type Exit struct {
	Code   int    // as a shell says it, if Error is empty
	Signal int    `json:",omitempty"` // number of the signal that ended it
	Error  string `json:",omitempty"` // it could not be done at all
}

// WriteRequest sends the opening of a connection.
func WriteRequest(w io.Writer, r Request) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(b) > RequestBytesMax {
		return fmt.Errorf("write request of %d bytes: %w: at most %d", len(b), ErrFrame, RequestBytesMax)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

// ReadRequest reads the opening of a connection.
func ReadRequest(r io.Reader) (req Request, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return req, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > RequestBytesMax {
		return req, fmt.Errorf("read request of %d bytes: %w: at most %d", n, ErrFrame, RequestBytesMax)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return req, err
	}
	if err := json.Unmarshal(b, &req); err != nil {
		return req, fmt.Errorf("read request: %w", err)
	}
	return req, nil
}

// Writer writes frames, also from several goroutines.
type Writer struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
}

// NewWriter returns a Writer on w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Frame writes data in as many frames as it takes, at least one.
func (w *Writer) Frame(typ byte, data []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		n := min(len(data), FrameBytesMax)
		w.buf = append(w.buf[:0], typ)
		w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(n))
		w.buf = append(w.buf, data[:n]...)
		if _, err := w.w.Write(w.buf); err != nil {
			return err
		}
		if data = data[n:]; len(data) == 0 {
			return nil
		}
	}
}

// Stream is an io.Writer of frames of one type.
func (w *Writer) Stream(typ byte) io.Writer { return stream{w, typ} }

type stream struct {
	w   *Writer
	typ byte
}

func (s stream) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.w.Frame(s.typ, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Exit writes the last frame.
func (w *Writer) Exit(e Exit) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return w.Frame(Exited, b)
}

// Reader reads frames.
type Reader struct {
	r   io.Reader
	buf []byte
}

// NewReader returns a Reader on r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next frame; its data holds until the next call. The end of
// the connection between two frames is io.EOF.
func (r *Reader) Next() (typ byte, data []byte, err error) {
	var head [headBytes]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > FrameBytesMax {
		return 0, nil, fmt.Errorf("read frame %q of %d bytes: %w: at most %d", head[0], n, ErrFrame, FrameBytesMax)
	}
	if cap(r.buf) < int(n) {
		r.buf = make([]byte, n)
	}
	r.buf = r.buf[:n]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // in the middle of a frame
		}
		return 0, nil, fmt.Errorf("read frame %q: %w", head[0], err)
	}
	return head[0], r.buf, nil
}
