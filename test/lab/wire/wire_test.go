package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRequestsAndFramesComeBackAsTheyWere(t *testing.T) {
	var b bytes.Buffer
	want := Request{Token: "t", Op: OpRun, Argv: []string{"a", "b c"}, Env: []string{"X=1"}, Dir: "/"}
	if err := WriteRequest(&b, want); err != nil {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte("x"), FrameBytesMax+1)
	w := NewWriter(&b)
	for _, data := range [][]byte{nil, []byte("small"), big} {
		if err := w.Frame(Stdout, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Exit(Exit{Code: 3}); err != nil {
		t.Fatal(err)
	}
	got, err := ReadRequest(&b)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("request: %v %s", err, diff)
	}
	r := NewReader(&b)
	for i, n := range []int{0, 5, FrameBytesMax, 1} {
		if typ, data, err := r.Next(); typ != Stdout || len(data) != n || err != nil {
			t.Errorf("frame %d: %q, %d bytes, %v; want %d bytes", i, typ, len(data), err, n)
		}
	}
	if typ, data, err := r.Next(); typ != Exited || string(data) != `{"Code":3}` || err != nil {
		t.Errorf("last frame: %q %s %v", typ, data, err)
	}
	if _, _, err := r.Next(); err != io.EOF {
		t.Errorf("after the last frame: %v, want %v", err, io.EOF)
	}
}

func TestLengthsBeyondTheLimitAreRefusedBeforeMemoryIsTaken(t *testing.T) {
	huge := binary.BigEndian.AppendUint32([]byte{Stdin}, 1<<31)
	if _, _, err := NewReader(bytes.NewReader(huge)).Next(); !errors.Is(err, ErrFrame) {
		t.Errorf("frame: %v, want %v", err, ErrFrame)
	}
	if _, err := ReadRequest(bytes.NewReader(huge[1:])); !errors.Is(err, ErrFrame) {
		t.Errorf("request: %v, want %v", err, ErrFrame)
	}
	if err := WriteRequest(io.Discard, Request{Argv: []string{string(make([]byte, RequestBytesMax))}}); !errors.Is(err, ErrFrame) {
		t.Errorf("write request: %v, want %v", err, ErrFrame)
	}
}

func TestACutFrameIsNoEnd(t *testing.T) {
	var b bytes.Buffer
	if err := NewWriter(&b).Frame(Stdout, []byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	for n := 1; n < b.Len(); n++ {
		if _, _, err := NewReader(bytes.NewReader(b.Bytes()[:n])).Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("after %d bytes: %v, want %v", n, err, io.ErrUnexpectedEOF)
		}
	}
}
