package volume

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

const (
	defaultPool        = "vcn"
	defaultWarnPercent = 80
	defaultFullPercent = 95
	// vgNameBytesMax bounds a volume group's name, its hyphens counted twice as
	// device-mapper writes them: with our longest name of a logical volume it
	// makes the 127 bytes that a device's name may have (DM_NAME_LEN).
	vgNameBytesMax   = 127 - 1 - lvNameBytesMax
	poolNameBytesMax = 32
)

// LVMConfig says where volumes are kept as thin logical volumes.
type LVMConfig struct {
	// VolumeGroup is the operator's; it may hold other logical volumes, which
	// are never touched.
	VolumeGroup string
	// Pool is the thin pool within it, "vcn" if empty. It is made if it is absent.
	Pool string
	// Owner says whose the pool is, as FileConfig.Owner does: one line of 1-255
	// bytes that no other host has. It is written into a tag of the pool.
	Owner string
	// Known says that this owner has had its pool here before. Then it is never
	// made anew: without it the store is refused (ErrGone).
	Known bool
	// PoolBytes is the size of the pool when it is made; 0 means what the group
	// has free, less the pool's metadata, its spare, and 1 % to grow metadata by.
	PoolBytes int64
	// MetadataBytes is the size of the pool's metadata when it is made; 0 means
	// enough for every block of the pool to be mapped twice.
	MetadataBytes int64
	// ReserveBytes of the pool are never offered.
	ReserveBytes int64
	// WarnPercent of the pool's data or metadata in use (1-100; 0 means 80)
	// raise the alarm, FullPercent (0 means 95) refuse new volumes.
	WarnPercent, FullPercent int
	Log                      *slog.Logger
}

// fill sets what is left out and checks the rest.
func (c *LVMConfig) fill() error {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Pool == "" {
		c.Pool = defaultPool
	}
	if c.WarnPercent == 0 {
		c.WarnPercent = defaultWarnPercent
	}
	if c.FullPercent == 0 {
		c.FullPercent = defaultFullPercent
	}
	if err := checkLVMName("volume group", c.VolumeGroup, vgNameBytesMax); err != nil {
		return err
	}
	if err := checkLVMName("pool", c.Pool, poolNameBytesMax); err != nil {
		return err
	}
	if strings.HasPrefix(c.Pool, volumePrefix) || strings.HasPrefix(c.Pool, imagePrefix) {
		return fmt.Errorf("pool %q: names that begin with %s or %s are volumes'", c.Pool, volumePrefix, imagePrefix)
	}
	if err := checkOwner(c.Owner); err != nil {
		return err
	}
	if c.PoolBytes < 0 || c.MetadataBytes < 0 || c.ReserveBytes < 0 {
		return errors.New("sizes of the pool, its metadata and its reserve cannot be negative")
	}
	if c.WarnPercent < 1 || c.FullPercent > 100 || c.WarnPercent > c.FullPercent {
		return fmt.Errorf("alarm at %d %%, full at %d %%: want 1 <= alarm <= full <= 100", c.WarnPercent, c.FullPercent)
	}
	return nil
}
