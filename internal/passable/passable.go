package passable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// enter is the permission to pass through a directory, for everybody.
const enter fs.FileMode = 0o111

// Mkdir makes dir, and what is missing above it, with mode 0711, and adds the
// permission to pass to dir if it is there already. Directories above that are
// there already stay as they are: see Blocked.
func Mkdir(dir string) error {
	ours := []string{dir}
	for up := filepath.Dir(dir); up != filepath.Dir(up); up = filepath.Dir(up) {
		_, err := os.Stat(up)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("make directory %s: %w", dir, err)
		}
		ours = append(ours, up)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("make directory %s: %w", dir, err)
	}
	for _, d := range ours {
		fi, err := os.Stat(d)
		if err != nil {
			return fmt.Errorf("make directory %s: %w", dir, err)
		}
		if fi.Mode()&enter == enter {
			continue
		}
		if err := os.Chmod(d, fi.Mode().Perm()|enter); err != nil {
			return fmt.Errorf("make directory %s: %w", dir, err)
		}
	}
	return nil
}

// Blocked returns the first directory on the way from the root to path, path
// included, that other users may not pass, or "" if there is none. What does
// not exist blocks nobody.
func Blocked(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("look for a blocked directory: %w", err)
	}
	first := ""
	for {
		fi, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return "", fmt.Errorf("look for a blocked directory: %w", err)
		case fi.IsDir() && fi.Mode()&0o001 == 0:
			first = path
		}
		up := filepath.Dir(path)
		if up == path {
			return first, nil
		}
		path = up
	}
}
