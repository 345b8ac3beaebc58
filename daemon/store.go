package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"vcn/hostops/volume"
	"vcn/internal/durable"
)

// storeRecord is DataDir/store.json: what this host remembers of its volume
// stores outside of them, so that one that is not mounted is missed.
type storeRecord struct {
	Owner string   `json:"owner"`
	Dirs  []string `json:"dirs"` // every directory that was its store
}

func storePath(dataDir string) string { return filepath.Join(dataDir, "store.json") }

// storeOwner names this host for its store, as no other host of any cluster is.
func storeOwner(id Identity) string {
	return "cluster " + id.ClusterID + " host " + id.HostID
}

// openStore opens the volume store and remembers that there is one. A
// directory that has been this host's store is never begun anew.
func openStore(c Config, id Identity, log *slog.Logger) (*volume.File, error) {
	rec, err := loadStore(c.DataDir, storeOwner(id))
	if err != nil {
		return nil, err
	}
	dir := filepath.Clean(c.Storage.Dir)
	known := slices.Contains(rec.Dirs, dir)
	vols, err := volume.NewFile(volume.FileConfig{
		Dir: dir, Owner: rec.Owner, Known: known, ReserveBytes: int64(c.Storage.Reserve), Log: log,
	})
	if err != nil || known {
		return vols, err
	}
	// Should we die before this is written, the mark in the store still is ours.
	rec.Dirs = append(rec.Dirs, dir)
	b, err := json.MarshalIndent(rec, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", storePath(c.DataDir), err)
	}
	if err := durable.WriteFile(storePath(c.DataDir), append(b, '\n'), 0o600); err != nil {
		return nil, fmt.Errorf("remember volume store: %w", err)
	}
	return vols, nil
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
