package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"vcn/hostops"
	"vcn/hostops/volume"
	"vcn/internal/durable"
)

// storeRecord is DataDir/store.json: what this host remembers of its volume
// stores outside of them, so that one that is not mounted is missed.
type storeRecord struct {
	Owner string   `json:"owner"`
	Dirs  []string `json:"dirs"` // every place that was its store: a directory, or lvm:GROUP/POOL
}

func storePath(dataDir string) string { return filepath.Join(dataDir, "store.json") }

// storeOwner names this host for its store, as no other host of any cluster is.
func storeOwner(id Identity) string {
	return "cluster " + id.ClusterID + " host " + id.HostID
}

// openStore opens the volume store and remembers that there is one. A place
// that has been this host's store is never begun anew.
func openStore(ctx context.Context, c Config, id Identity, log *slog.Logger) (hostops.Volumes, error) {
	rec, err := loadStore(c.DataDir, storeOwner(id))
	if err != nil {
		return nil, err
	}
	place := storePlace(c)
	known := slices.Contains(rec.Dirs, place)
	vols, err := openVolumes(ctx, c, rec.Owner, known, log)
	if err != nil {
		return nil, err
	}
	if known {
		return vols, nil
	}
	// Should we die before this is written, the mark in the store still is ours.
	rec.Dirs = append(rec.Dirs, place)
	b, err := json.MarshalIndent(rec, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", storePath(c.DataDir), err)
	}
	if err := durable.WriteFile(storePath(c.DataDir), append(b, '\n'), 0o600); err != nil {
		return nil, fmt.Errorf("remember volume store: %w", err)
	}
	return vols, nil
}

// roomEvery is how often the store is asked for its room: with LVM that takes
// two commands.
const roomEvery = 15 * time.Second

// storeRoom remembers what the store last said of its room.
type storeRoom struct {
	mu                    sync.Mutex
	asked                 time.Time
	totalBytes, freeBytes int64
	err                   error
}

// look is what the store has, and has free: nothing if it cannot say. Then it
// gets nothing new, and what it holds goes on.
func (r *storeRoom) look(ctx context.Context, v hostops.Volumes) (totalBytes, freeBytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if since := time.Since(r.asked); r.asked.IsZero() || since >= roomEvery {
		r.totalBytes, r.freeBytes, r.err = v.Capacity(ctx)
		r.asked = time.Now()
	}
	return r.totalBytes, r.freeBytes
}

// health says what is wrong with the store, nil for nothing.
func (r *storeRoom) health() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// storePlace names where the volumes are.
func storePlace(c Config) string {
	if c.VolumeDriver() == "lvm" {
		return "lvm:" + c.Storage.VolumeGroup + "/" + c.Storage.ThinPool
	}
	return filepath.Clean(c.Storage.Dir)
}

func openVolumes(ctx context.Context, c Config, owner string, known bool, log *slog.Logger) (hostops.Volumes, error) {
	reserve := int64(c.Storage.Reserve)
	if c.VolumeDriver() == "lvm" {
		return volume.NewLVM(ctx, volume.LVMConfig{
			VolumeGroup: c.Storage.VolumeGroup, Pool: c.Storage.ThinPool, Owner: owner, Known: known, ReserveBytes: reserve, Log: log,
		})
	}
	return volume.NewFile(volume.FileConfig{Dir: filepath.Clean(c.Storage.Dir), Owner: owner, Known: known, ReserveBytes: reserve, Log: log})
}

// loadStore reads what is remembered for this owner. What another identity of
// this data directory remembered does not count.
func loadStore(dataDir, owner string) (storeRecord, error) {
	var rec storeRecord
	b, err := os.ReadFile(storePath(dataDir))
	if err == nil {
		err = json.Unmarshal(b, &rec)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return rec, fmt.Errorf("read %s: %w", storePath(dataDir), err)
	}
	if rec.Owner != owner {
		rec = storeRecord{Owner: owner}
	}
	return rec, nil
}
