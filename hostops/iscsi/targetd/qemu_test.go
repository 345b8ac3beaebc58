package targetd

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// QEMU's initiator pings every 5 s with a NOP-Out that takes a command number.
// A target that does not count it never runs a command again.
func TestQEMUIdleThenIO(t *testing.T) {
	t.Parallel()
	qemuIdleThenIO(t, newRig(t))
}

func qemuIdleThenIO(t *testing.T, r *rig) {
	e := r.publish(testExport("idle", newVolume(t, 16<<20), 1))
	out, err := qemuIO(t, r.portal, e, "write -P 1 0 64k", "sleep 7000", "write -P 2 64k 64k", "read -P 1 0 64k", "read -P 2 64k 64k", "flush")
	if err != nil || strings.Contains(out, "failed") || strings.Contains(out, "rror") {
		t.Fatalf("%v\n%s", err, out)
	}
}

var lbaStatus = regexp.MustCompile(`(?m)^qemu-io: iSCSI GET_LBA_STATUS failed .*$`)

func TestQEMUZeroesAndDiscard(t *testing.T) {
	t.Parallel()
	qemuZeroesAndDiscard(t, newRig(t))
}

func qemuZeroesAndDiscard(t *testing.T, r *rig) {
	path := newVolume(t, 16<<20)
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xff}, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	e := r.publish(testExport("zeroes", path, 1))
	status := "map"
	if r.kernel { // LIO has no GET LBA STATUS: QEMU says so and takes all as allocated
		status = "flush"
	}
	out, err := qemuIO(t, r.portal, e,
		"write -z 0 1M", "read -P 0 0 1M", "write -z -u 1M 1M", "read -P 0 1M 1M",
		"discard 2M 1M", "read -P 0 2M 1M", "write -z 3146240 3072", "read -P 0 3146240 3072",
		"read -P 0xff 3145728 512", "read -P 0xff 4M 12M", status, "flush")
	if r.kernel {
		out = lbaStatus.ReplaceAllString(out, "")
	}
	if err != nil || strings.Contains(out, "failed") || strings.Contains(out, "rror") {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{0xff}, 16<<20)
	clear(want[:3<<20])
	clear(want[3146240 : 3146240+3072])
	if !bytes.Equal(b, want) {
		t.Fatal("the file does not hold what the initiator was told")
	}
}

// convert -n skips or zeroes what the source has as holes: zeroes that a target
// only pretends to write leave the last tenant's data on the volume.
func TestQEMUConvertOntoOldData(t *testing.T) {
	t.Parallel()
	qemuConvertOntoOldData(t, newRig(t))
}

func qemuConvertOntoOldData(t *testing.T, r *rig) {
	const size = 8 << 20
	path := newVolume(t, size)
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xff}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	source := newVolume(t, size)
	want := make([]byte, size)
	copy(want[1<<20:], bytes.Repeat([]byte("new"), 100000))
	f, err := os.OpenFile(source, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(want[1<<20:2<<20], 1<<20); err != nil { // holes around it
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	e := r.publish(testExport("convert", path, 1))
	o := qemuOpts(r.portal, e, testInitiator, testSecret)
	start := time.Now()
	out, err := tool(t, "qemu-img", "convert", "-n", o[0], o[1], "--target-image-opts", "-f", "raw", source, o[3])
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("convert took %v", time.Since(start))
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, want) {
		t.Fatalf("volume differs from the image (%v)", err)
	}
}
