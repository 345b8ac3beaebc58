package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// files keeps Raft's log in boltdb and its snapshots in files under one directory.
//
//	raft/raft.db           log, term and vote, group id
//	raft/snapshots/…       the last two
//	raft.old               the data set aside last, for a post-mortem
type files struct {
	dir string
	log *slog.Logger
}

func (f files) Exists() (bool, error) {
	_, err := os.Stat(filepath.Join(f.dir, "raft.db"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for raft data: %w", err)
	}
	return true, nil
}

func (f files) Open() (RaftStores, error) {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return RaftStores{}, fmt.Errorf("open raft data: %w", err)
	}
	db, err := raftboltdb.New(raftboltdb.Options{
		Path: filepath.Join(f.dir, "raft.db"), MsgpackUseNewTimeFormat: true,
		BoltOptions: &bbolt.Options{Timeout: 5 * time.Second}, // of waiting for the file's lock
	})
	if err != nil {
		return RaftStores{}, fmt.Errorf("open raft data in %s (is another process using it?): %w", f.dir, err)
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(f.dir, snapshotsRetained, raftLogger(f.log, "snapshot"))
	if err != nil {
		db.Close()
		return RaftStores{}, fmt.Errorf("open raft snapshots: %w", err)
	}
	return RaftStores{Log: db, Stable: db, Snapshots: snaps, Closer: db}, nil
}

func (f files) SetAside() error {
	old := f.dir + ".old"
	if err := os.RemoveAll(old); err != nil {
		return fmt.Errorf("set raft data aside: %w", err)
	}
	err := os.Rename(f.dir, old)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("set raft data aside: %w", err)
	}
	if err := syncDir(filepath.Dir(f.dir)); err != nil {
		return fmt.Errorf("set raft data aside: %w", err)
	}
	return nil
}

// marker is written at the one host that bootstraps. It outlives the Raft
// data, so that losing the data does not lead to a second group.
type marker struct {
	Group string `json:"group"` // hex
	Done  bool   `json:"done"`
}

func (n *Node) markerPath() string { return filepath.Join(n.cfg.DataDir, "bootstrap.json") }

func (n *Node) readMarker() (marker, error) {
	var m marker
	b, err := os.ReadFile(n.markerPath())
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		return m, fmt.Errorf("read bootstrap marker: %w", err)
	}
	return m, nil
}

func (n *Node) writeMarker(m marker) error {
	b, err := json.Marshal(m)
	if err == nil {
		err = writeFile(n.markerPath(), b)
	}
	if err != nil {
		return fmt.Errorf("write bootstrap marker: %w", err)
	}
	return nil
}
