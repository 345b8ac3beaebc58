package scsi

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestFileShorterThanAsked(t *testing.T) {
	p := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(p, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := f.ReadAt(make([]byte, 512), 512); n != 488 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("read %d, %v; want 488 and ErrUnexpectedEOF", n, err)
	}
	if n, err := f.ReadAt(make([]byte, 488), 512); n != 488 || err != nil {
		t.Fatalf("read up to the end: %d, %v", n, err)
	}
	if _, _, err := f.Extent(1000); err == nil {
		t.Fatal("an extent behind the end")
	}
}

func TestOpenRefusesWhatIsNoDisk(t *testing.T) {
	for _, p := range []string{t.TempDir(), "/dev/null", filepath.Join(t.TempDir(), "absent")} {
		if f, err := OpenFile(p); err == nil {
			_ = f.Close()
			t.Errorf("%s was opened", p)
		}
	}
}

func TestBuffersAreBigEnough(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, 4097, 1 << 20, 1<<24 - 1, 1 << 24, 1<<24 + 1} {
		b := NewBuffer(n)
		if len(b.B) != n {
			t.Errorf("%d bytes for %d", len(b.B), n)
		}
		b.Free()
	}
}
