package images

import (
	"context"
	"fmt"
	"io"
	"os/exec"
)

// What follows is for those who make other machines than nodes: the lab of the
// tests builds its root file system and initrd with the same means.

// FetchOptions returns the host's ways of fetching packages (proxies,
// certificates, time checks), as lines of an apt.conf. Hooks and all else that the
// host configures for itself stay out.
func FetchOptions(ctx context.Context) (string, error) {
	dump, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return "", fmt.Errorf("read the host's apt configuration: %w", err)
	}
	return fetchOptions(string(dump)), nil
}

// ModuleFiles returns the files, as modules.dep names them, that the wanted modules
// need, in loading order. Those that the kernel has built in are left out; one
// that it does not have at all is an error.
func ModuleFiles(dep, builtin string, want []string) ([]string, error) {
	m, err := parseModules(dep, builtin)
	if err != nil {
		return nil, err
	}
	return m.order(want)
}

// InitrdFile is a member of an initial RAM disk; a directory if it has no data
// and Dir is set.
type InitrdFile struct {
	Name string // without a leading slash; its directory comes before it
	Mode uint32 // permissions
	Dir  bool
	Data []byte
}

// WriteInitrd writes an archive in the format that the kernel unpacks as
// initramfs. Several in a row are one.
func WriteInitrd(w io.Writer, files []InitrdFile) error {
	c := newCpioWriter(w)
	for _, f := range files {
		if f.Dir {
			c.dir(f.Name, f.Mode)
		} else {
			c.file(f.Name, f.Mode, f.Data)
		}
	}
	return c.close()
}
