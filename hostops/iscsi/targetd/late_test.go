package targetd

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"vcn/hostops"
)

// At boot a logical volume may come after the target: nobody is to hear meanwhile
// that it does not exist.
func TestStartWaitsForDisksThatComeLate(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/dev/shm", "vcn") // below /dev, as devices are
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	late := filepath.Join(dir, "late")
	rows := map[string]row{
		"late": {Export: hostops.Export{Path: late}},
		"gone": {Export: hostops.Export{Path: filepath.Join(t.TempDir(), "file")}}, // no device: nobody waits for it
	}
	time.AfterFunc(300*time.Millisecond, func() {
		if err := os.WriteFile(late, nil, 0o600); err != nil {
			t.Error(err)
		}
	})
	began := time.Now()
	awaitDevices(rows)
	if _, err := os.Stat(late); err != nil || time.Since(began) > lateMax/2 {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}
