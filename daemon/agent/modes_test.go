package agent

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
)

// QEMU does not run as root: it must reach a node's files, by name, and read
// nothing that libvirt has not given to it.
func TestGuestReachesItsFilesAndNobodyReadsSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		files := 0
		err := filepath.WalkDir(r.agent.cfg.DataDir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			fi, err := os.Stat(path)
			if err != nil {
				return err
			}
			if e.IsDir() {
				if path != r.agent.cfg.DataDir && fi.Mode().Perm() != 0o711 { // that one is the test's own
					t.Errorf("%s has mode %o, want 711", path, fi.Mode().Perm())
				}
				return nil
			}
			files++
			if fi.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %o, want 600", path, fi.Mode().Perm())
			}
			return nil
		})
		if err != nil || files < 2 { // the assignment, with its secrets, and a seed
			t.Errorf("%d files, %v", files, err)
		}
	})
}

// A release before made them for root alone.
func TestDirectoriesOfBeforeAreOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readyRig(t)
		defer r.end()
		dir := filepath.Dir(r.agent.nodesDir())
		for _, d := range []string{dir, r.agent.nodesDir()} {
			if err := os.Chmod(d, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := New(r.agent.cfg); err != nil {
			t.Fatal(err)
		}
		for _, d := range []string{dir, r.agent.nodesDir()} {
			if fi, err := os.Stat(d); err != nil || fi.Mode().Perm() != 0o711 {
				t.Errorf("%s: %v, %v", d, fi.Mode(), err)
			}
		}
	})
}
