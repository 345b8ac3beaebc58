package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"vcn/api"
	"vcn/internal/passable"
)

const sysClassNet = "/sys/class/net" // what sysfs says of links

// checkMachine looks, before anything is done, for what the operator provides:
// else the first guest of the first reservation would be what finds it missing.
func checkMachine(c Config, links string, log *slog.Logger) error {
	errs := []error{checkInit(c.Images.Init)}
	if c.Has(api.ClassGateway) {
		errs = append(errs, checkBridge(links, c.Network.PublicBridge))
	}
	dirs := []string{c.DataDir, c.Images.Dir}
	if c.Has(api.ClassStorage) {
		dirs = append(dirs, c.Storage.Dir)
	}
	for _, dir := range dirs {
		at, err := passable.Blocked(filepath.Dir(filepath.Clean(dir))) // itself is ours to open
		if err != nil {
			errs = append(errs, err)
		} else if at != "" && at != filepath.Clean(c.DataDir) {
			// Not an error: libvirt may have been told to run guests as root.
			log.Warn("guests cannot open their files: libvirt runs them as a user who cannot pass through a directory", "directory", at, "on the way to", dir, "next", "chmod o+x "+at)
		}
	}
	return errors.Join(errs...)
}

// checkInit looks for the program that every image boots with.
func checkInit(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("images.init: %w: want the program vcn-init, which \"make install\" puts beside vcnd", err)
	}
	if !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 {
		return fmt.Errorf("images.init: %q: want a program that can be executed", path)
	}
	return nil
}

// checkBridge looks for the public network's bridge, which vcnd does not make.
func checkBridge(links, name string) error {
	if _, err := os.Stat(filepath.Join(links, name)); err != nil {
		return fmt.Errorf("network.publicBridge: %q: want the bridge of the public network, and there is no such link: make it, with the public network's card in it, as the README tells", name)
	}
	if _, err := os.Stat(filepath.Join(links, name, "bridge")); err != nil {
		return fmt.Errorf("network.publicBridge: %q: want a bridge, and this link is none", name)
	}
	return nil
}
