//go:build lab

package lab_test

import (
	"fmt"
	"strings"
	"testing"

	"vcn/hostops"
	"vcn/test/lab"
)

const (
	powerGroup = "power"
	powerBytes = 12 << 20 // of the image's data, in a file twice as large
)

// TestLabVolumePower cuts the power of a host the moment Ensure has said that a
// thin volume is there: after the import of its image, and again after a clone
// of an image that was there before. A volume that exists afterwards has its
// content. The disk has no cache of the host's, and the machine's memory is gone:
// what LVM, dm-thin or the kernel had not written by then is lost.
func TestLabVolumePower(t *testing.T) {
	m := lab.For(t, lab.Config{Name: "power", Disks: []lab.Disk{{SizeBytes: 1 << 30, Cache: "none"}}})
	giveHand(t, m)
	want := sh(t, m, fmt.Sprintf(`vgcreate -q %s /dev/disk/by-id/virtio-spare0 >&2
		head -c %d /dev/urandom > /srv/base; truncate -s %d /srv/base; sha256sum < /srv/base`, powerGroup, powerBytes, 2*powerBytes))
	want = want[strings.LastIndex(want, "\n")+1:]
	for _, id := range []string{"first", "second"} {
		spec := hostops.VolumeSpec{ID: id, SizeBytes: 64 << 20, Base: "/srv/base", Image: "abc"}
		path := hand[string](t, m, "volume", handWork{Group: powerGroup, Volume: &spec})
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := m.Boot(t.Context()); err != nil {
			t.Fatal(err)
		}
		giveHand(t, m)
		if got := sh(t, m, "lvs --noheadings -o lv_tags "+powerGroup); strings.Contains(got, "vcn.making") || !strings.Contains(got, "vcn.volume:"+id) {
			t.Fatalf("after the power was cut behind Ensure, %s has: %s", powerGroup, got)
		}
		// The base went with the machine's root, so this can only find what is there.
		if again := hand[string](t, m, "volume", handWork{Group: powerGroup, Volume: &spec}); again != path {
			t.Errorf("the volume was at %s and is at %s", path, again)
		}
		check := fmt.Sprintf("head -c %d %s | sha256sum; head -c %d %s | tail -c +%d | tr -d '\\0' | wc -c", 2*powerBytes, path, 64<<20, path, 2*powerBytes+1)
		if got := sh(t, m, check); got != want+"\n0" {
			t.Errorf("volume %s after the power was cut: %s, want %s and zeroes", id, got, want)
		}
	}
}
