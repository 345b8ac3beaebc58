package targetd

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"vcn/hostops"
	"vcn/hostops/iscsi/scsi"
)

func TestEngineIsNamed(t *testing.T) {
	t.Parallel()
	for asked, c := range map[string]Config{
		"embedded":             {Engine: EngineEmbedded},
		"auto, own files":      {Open: scsi.OpenFile},
		"auto, writes through": {Engine: EngineAuto, WriteThrough: true},
	} {
		r := &rig{}
		r.start(t, c)
		name, why, err := r.client.Engine(t.Context())
		if err != nil || name != EngineEmbedded || why == "" {
			t.Errorf("%s: %q, %q, %v; want embedded, and why", asked, name, why, err)
		}
	}
}

func TestEngineThatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	for text, c := range map[string]Config{
		"want auto, embedded or lio": {Engine: "tgtd"},
		"cannot write through":       {Engine: EngineLIO, WriteThrough: true},
	} {
		dir := t.TempDir()
		c.Socket, c.StateDir, c.Log = filepath.Join(dir, "s"), dir, quiet()
		c.Listen = []netip.AddrPort{netip.AddrPortFrom(loopback, 0)}
		s, err := New(c)
		if err == nil {
			s.Close()
		}
		if !errors.Is(err, hostops.ErrInvalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%q %v: %v, want ErrInvalid and %q", c.Engine, c.WriteThrough, err, text)
		}
	}
}
