package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMachinesThatCannotBeAreRefused(t *testing.T) {
	for name, c := range map[string]Config{
		"no name":           {},
		"name with a slash": {Name: "a/b"},
		"too little memory": {Name: "a", MemoryBytes: 1 << 20},
		"too many CPUs":     {Name: "a", CPUs: 1000},
		"tiny disk":         {Name: "a", Disks: []Disk{{SizeBytes: 1}}},
		"odd disk":          {Name: "a", Disks: []Disk{{SizeBytes: 1<<20 + 1}}},
		"cache mode":        {Name: "a", Disks: []Disk{{SizeBytes: 1 << 20, Cache: "none,file=/etc/shadow"}}},
		"detached on cable": {Name: "a", Detached: true, NICs: []NIC{{}}},
	} {
		if err := c.defaults(); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v, want %v", name, err, ErrConfig)
		}
	}
}

// pcap makes a capture file of frames, in the order that QEMU writes.
func pcap(frames ...[]byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, pcapMagic)
	b = append(b, make([]byte, pcapHeadBytes-4)...)
	for i, f := range frames {
		for _, v := range []int{i, 5, len(f), len(f) + 100} {
			b = binary.LittleEndian.AppendUint32(b, uint32(v))
		}
		b = append(b, f...)
	}
	return b
}

func TestCapturesShowTagsAndTolerateTheirEnd(t *testing.T) {
	macs := []byte{1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2}
	plain := append(append([]byte{}, macs...), 0x08, 0x00, 'p')
	tagged := append(append([]byte{}, macs...), 0x81, 0x00, 0xa0, 7, 0x08, 0x06, 't')
	double := append(append([]byte{}, macs...), 0x88, 0xa8, 0, 9, 0x81, 0x00, 0x1f, 0xff, 0x86, 0xdd)
	whole := pcap(plain, tagged, double)
	for cut, want := range map[int]int{0: 3, 1: 2, len(double) + pcapFrameBytes: 2, len(double) + pcapFrameBytes + 1: 1} {
		fs, err := parseCapture(whole[:len(whole)-cut])
		if err != nil || len(fs) != want {
			t.Errorf("without the last %d bytes: %d frames, %v; want %d", cut, len(fs), err, want)
		}
	}
	fs, err := parseCapture(whole)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, f := range fs {
		got += fmt.Sprintf("%v %04x %q %d; ", f.Tags, f.EtherType, f.Payload, f.Bytes)
	}
	const want = `[] 0800 "p" 115; [7] 0806 "t" 119; [9 4095] 86dd "" 122; `
	if got != want {
		t.Errorf("frames %s\nwant   %s", got, want)
	}
	for _, bad := range [][]byte{nil, make([]byte, 100), pcap([]byte("short"))} {
		if _, err := parseCapture(bad); err == nil {
			t.Errorf("%d bytes that are no capture are read", len(bad))
		}
	}
}

func TestAProcessIsKnownByItsStart(t *testing.T) {
	pid := os.Getpid()
	at, err := startTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	if !sameProcess(pid, at) || sameProcess(pid, at+1) || sameProcess(1<<30, at) {
		t.Error("another process passes for this one, or this one not for itself")
	}
}

func TestSweepRemovesOnlyMachinesOfDeadProcesses(t *testing.T) {
	dir := t.TempDir()
	own, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for name, st := range map[string]state{
		"mine":     {Owner: os.Getpid(), Since: own},
		"detached": {},
		"dead":     {Owner: os.Getpid(), Since: own + 1},
		"ending":   {Owner: os.Getpid(), Since: own + 1, PID: os.Getpid(), Started: own},
	} {
		m := &Machine{dir: filepath.Join(dir, name), st: st}
		if err := os.Mkdir(m.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := m.save(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "being made"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := sweep(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mine", "detached", "ending", "being made"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "dead")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("dead: still there: %v", err)
	}
}

func TestOldRootsGoAndTheNewestStay(t *testing.T) {
	dir := t.TempDir()
	for i := range 4 {
		d := filepath.Join(dir, fmt.Sprintf("%064x", i))
		at := time.Now().Add(-time.Duration(i) * time.Hour)
		if err := errors.Join(os.Mkdir(d, 0o755), os.Chtimes(d, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "other"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := pruneRoots(dir); err != nil {
		t.Fatal(err)
	}
	ds, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(ds) != rootsKept+1 || ds[0].Name() != fmt.Sprintf("%064x", 0) || ds[1].Name() != fmt.Sprintf("%064x", 1) {
		t.Errorf("left: %v; want the two newest and what is no root", ds)
	}
}
