package scsi

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// loud panics when somebody logs an error: a handler's own panic is caught, and
// told nowhere else.
type loud struct{ slog.Handler }

func (loud) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (l loud) WithAttrs([]slog.Attr) slog.Handler         { return l }
func (loud) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	r.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&b, " %s=%v", a.Key, a.Value); return true })
	panic(r.Message + b.String())
}

// FuzzCDB runs pairs of commands on one unit from two initiators: records of a
// CDB (16 bytes) and a number of 64-byte steps of data-out that follow it. No
// handler panics, answers keep to what was asked for, the volume keeps its size.
func FuzzCDB(f *testing.F) {
	const bytesMax = 4 << 20
	path := filepath.Join(f.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		f.Fatal(err)
	}
	if err := os.Truncate(path, bytesMax); err != nil {
		f.Fatal(err)
	}
	for _, c := range commands {
		seed := append([]byte(c.usage), make([]byte, 16-len(c.usage))...)
		if c.action != noAction {
			seed[1] = byte(c.action)
		}
		quiet := make([]byte, 16)
		copy(quiet, seed[:2])
		if c.action == noAction {
			quiet[1] = 0
		}
		quiet[8], quiet[13] = 1, 1
		f.Add(append(append(seed, 8), make([]byte, 512)...), uint16(4096))
		f.Add(append(append(quiet, 8), make([]byte, 512)...), uint16(512))
	}
	c, out := prOut(saRegister, 0, 0, 5)
	r, keyed := prOut(saReserve, prExclusiveAccess, 5, 0)
	one := append(append(c, 1), append(out, make([]byte, 40)...)...)
	f.Add(append(one, append(append(r, 1), append(keyed, make([]byte, 40)...)...)...), uint16(0))
	f.Fuzz(func(t *testing.T, in []byte, inMax uint16) {
		file, err := OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		u, err := NewUnit(file, Config{VolumeID: "fuzz", Log: slog.New(loud{})})
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		for _, n := range []string{"a", "b"} {
			u.Attach(n, "iqn."+n)
			attentions(u, n)
		}
		for n := 0; len(in) > 16 && n < 16; n++ {
			cdb := bytes.Clone(in[:16])
			size := min(len(in)-17, int(in[16]&0x1f)*64)
			out := in[17 : 17+size]
			nexus := "ab"[in[16]>>7:][:1]
			in = in[17+size:]
			checkAnswer(t, u, nexus, cdb, out, int(inMax))
		}
		if len(u.res.keys) > maxRegistrations || u.pending.Load() < 0 {
			t.Fatalf("%d registrations, %d attentions", len(u.res.keys), u.pending.Load())
		}
		if size, err := file.Size(); err != nil || size != bytesMax {
			t.Fatalf("volume of %d bytes, %v", size, err)
		}
	})
}

func checkAnswer(t *testing.T, u *Unit, nexus string, cdb, out []byte, inMax int) {
	t.Helper()
	if n := u.OutBytes(cdb); n < 0 || n > 1<<41 {
		t.Fatalf("%x takes %d bytes", cdb, n)
	}
	r := u.Exec(nexus, cdb, out, inMax)
	defer r.Free()
	switch r.Status {
	case StatusGood, StatusConflict:
		if len(r.Sense) != 0 {
			t.Fatalf("%x: status %#x with sense", cdb, r.Status)
		}
	case StatusCheckCondition:
		if len(r.Sense) != 18 || r.Sense[2]&0x0f == 0 {
			t.Fatalf("%x: sense %x", cdb, r.Sense)
		}
	default:
		t.Fatalf("%x: status %#x", cdb, r.Status)
	}
	if r.Total != 0 && len(r.Data) > r.Total || len(r.Data) > max(inMax+blockBytes, 1<<16+64) {
		t.Fatalf("%x: %d bytes of %d, %d were asked for", cdb, len(r.Data), r.Total, inMax)
	}
}
