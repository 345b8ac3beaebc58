package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vcn/hostops"
	"vcn/hostops/volume"
)

func TestAStoreThatIsNotMountedIsMissed(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	dir := filepath.Join(t.TempDir(), "volumes")
	c := Config{DataDir: t.TempDir(), Storage: StorageConfig{Dir: dir + "/"}}
	id := Identity{ClusterID: "c-1", HostID: "h-1"}
	for range 2 {
		vols, err := openStore(t.Context(), c, id, log)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vols.Ensure(t.Context(), hostops.VolumeSpec{ID: "v", SizeBytes: 1 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(dir, dir+"-elsewhere"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(t.Context(), c, id, log); !errors.Is(err, volume.ErrGone) || !strings.Contains(err.Error(), "is its file system mounted?") {
		t.Errorf("a store that is not mounted: %v", err)
	}
	other := c
	other.Storage.Dir = filepath.Join(t.TempDir(), "new")
	if _, err := openStore(t.Context(), other, id, log); err != nil {
		t.Errorf("another directory: %v", err)
	}
	if _, err := openStore(t.Context(), c, id, log); !errors.Is(err, volume.ErrGone) {
		t.Errorf("the first was forgotten for the second: %v", err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+"-elsewhere", dir); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(t.Context(), c, id, log); err != nil {
		t.Errorf("mounted again: %v", err)
	}
	moved := Identity{ClusterID: "c-2", HostID: "h-1"}
	if _, err := openStore(t.Context(), c, moved, log); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("a host of another cluster took the store: %v", err)
	}
}

func TestARecordThatCannotBeReadIsNoReasonToBeginAnew(t *testing.T) {
	c := Config{DataDir: t.TempDir(), Storage: StorageConfig{Dir: filepath.Join(t.TempDir(), "volumes")}}
	if err := os.WriteFile(storePath(c.DataDir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(t.Context(), c, Identity{ClusterID: "c", HostID: "h"}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("taken")
	}
	if _, err := os.Stat(c.Storage.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a store was made: %v", err)
	}
}

// brokenStore has room once, and then no word of it.
type brokenStore struct {
	hostops.Volumes
	asked int
}

func (b *brokenStore) Capacity(context.Context) (total, free int64, err error) {
	if b.asked++; b.asked > 1 {
		return 0, 0, volume.ErrPool
	}
	return 2 << 30, 1 << 30, nil
}

func TestABrokenStoreIsSaidInHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var room storeRoom
		store := &brokenStore{}
		for range 3 {
			if total, free := room.look(t.Context(), store); total != 2<<30 || free != 1<<30 || store.asked != 1 || room.health() != nil {
				t.Errorf("%d free of %d after %d questions, health %v", free, total, store.asked, room.health())
			}
		}
		time.Sleep(roomEvery)
		if total, free := room.look(t.Context(), store); total != 0 || free != 0 || !errors.Is(room.health(), volume.ErrPool) {
			t.Errorf("%d free of %d, health %v", free, total, room.health())
		}
	})
}
