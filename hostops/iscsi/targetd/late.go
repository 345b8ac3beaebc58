package targetd

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"
)

const (
	// lateMax is how long a start waits for disks that are still being found: as
	// long as nobody listens, initiators try again. It is less than what vcnd
	// gives a target process to answer.
	lateMax  = 10 * time.Second
	latePoll = 50 * time.Millisecond
	devices  = "/dev/"
)

// awaitDevices waits until the device of each volume is there, at most lateMax: at
// boot, LVM's volumes may come after us. A volume that does not come is said to have
// failed as ever.
func awaitDevices(rows map[string]row) {
	deadline := time.Now().Add(lateMax)
	for _, r := range rows {
		for strings.HasPrefix(r.Path, devices) && time.Now().Before(deadline) {
			if _, err := os.Stat(r.Path); !errors.Is(err, fs.ErrNotExist) {
				break
			}
			time.Sleep(latePoll)
		}
	}
}
