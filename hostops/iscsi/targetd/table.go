package targetd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vcn/hostops"
)

const (
	tableName   = "exports.json"
	lockName    = "lock"
	marksName   = "marks" // directory of the volumes with unflushed writes
	tableFormat = 1
)

// row is one export as it is kept on disk.
type row struct {
	hostops.Export
	Failed string `json:",omitempty"` // the unit has failed for good, and why
}

type table struct {
	Format  int
	Exports []row
}

// loadTable reads the table; none at all is an empty one.
func loadTable(dir string) (map[string]row, error) {
	rows := map[string]row{}
	b, err := os.ReadFile(filepath.Join(dir, tableName))
	if errors.Is(err, fs.ErrNotExist) {
		return rows, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read export table: %w", err)
	}
	var t table
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("read export table: %w", err)
	}
	if t.Format != tableFormat {
		return nil, fmt.Errorf("read export table: format %d is unknown", t.Format)
	}
	for _, r := range t.Exports {
		if err := validate(r.Export); err != nil {
			return nil, fmt.Errorf("read export table: %w", err)
		}
		rows[r.Volume] = r
	}
	return rows, nil
}

// saveTable writes the table so that a crash leaves the old or the new one. It
// holds secrets: 0600.
func saveTable(dir string, rows map[string]row) (err error) {
	t := table{Format: tableFormat, Exports: make([]row, 0, len(rows))}
	for _, r := range rows {
		t.Exports = append(t.Exports, r)
	}
	slices.SortFunc(t.Exports, func(a, b row) int { return strings.Compare(a.Volume, b.Volume) })
	b, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return fmt.Errorf("write export table: %w", err)
	}
	tmp := filepath.Join(dir, tableName+".new")
	if err := writeSynced(tmp, b); err != nil {
		return fmt.Errorf("write export table: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, tableName)); err != nil {
		return fmt.Errorf("write export table: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write export table: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("write export table: %w", err)
	}
	return nil
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// lockState keeps a second target process off the same volumes.
func lockState(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock target state: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if err == unix.EWOULDBLOCK {
			err = ErrRunning
		}
		return nil, fmt.Errorf("lock target state %s: %w", dir, err)
	}
	return f, nil
}

// Held tells whether a target process, one that starts or drains included,
// holds the state directory now.
func Held(dir string) (bool, error) {
	if _, err := os.Stat(filepath.Join(dir, lockName)); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	f, err := lockState(dir)
	if errors.Is(err, ErrRunning) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	return false, f.Close()
}
