package images

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// initrdModules are what a node needs before its root is there: the machine's
// buses, its disk, its cards, the guest agent's port, and the CD-ROM with the seed. What they
// need comes with them. Those that a kernel has built in are left out. The CD-ROM's
// bus is first: it is probed in the background, and slowly.
var initrdModules = []string{
	"ata_piix", "sr_mod", "virtio_pci", "virtio_blk", "ext4", "virtio_net", "virtio_console", "virtio_rng", "isofs",
}

// modules is a kernel's modules.dep: paths by module name, and what each needs.
type modules struct {
	path  map[string]string
	needs map[string][]string // by path, in modules.dep's order
	built map[string]bool
}

func moduleName(p string) string {
	n, _, _ := strings.Cut(path.Base(p), ".ko")
	return strings.ReplaceAll(n, "-", "_")
}

// parseModules reads modules.dep and modules.builtin (depmod(8)).
func parseModules(dep, builtin string) (*modules, error) {
	m := &modules{path: map[string]string{}, needs: map[string][]string{}, built: map[string]bool{}}
	for i, line := range strings.Split(dep, "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		p, needs, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("modules.dep line %d: no colon", i+1)
		}
		m.path[moduleName(p)] = p
		m.needs[p] = strings.Fields(needs)
	}
	for _, p := range strings.Fields(builtin) {
		m.built[moduleName(p)] = true
	}
	return m, nil
}

// order returns the files of the wanted modules, each after what it needs. A
// module that is neither a file nor built in is an error, unless optional.
func (m *modules) order(want []string) ([]string, error) {
	var out []string
	state := map[string]int{} // 1 visiting, 2 done
	var visit func(p string) error
	visit = func(p string) error {
		switch state[p] {
		case 1:
			return fmt.Errorf("modules.dep: %s needs itself", p)
		case 2:
			return nil
		}
		state[p] = 1
		for _, n := range m.needs[p] {
			if err := visit(n); err != nil {
				return err
			}
		}
		state[p] = 2
		out = append(out, p)
		return nil
	}
	for _, name := range want {
		p, ok := m.path[name]
		if !ok {
			if m.built[name] {
				continue
			}
			return nil, fmt.Errorf("the kernel has no module %s", name)
		}
		if err := visit(p); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// initrdFiles returns the module files that an initrd needs, in loading order.
func initrdFiles(dep, builtin string) ([]string, error) {
	m, err := parseModules(dep, builtin)
	if err != nil {
		return nil, err
	}
	return m.order(initrdModules)
}

// packInitrd makes the initrd: the init program, the modules below dir and the
// list of their order.
func packInitrd(initPath, dir string, files []string) ([]byte, error) {
	init, err := os.ReadFile(initPath)
	if err != nil {
		return nil, fmt.Errorf("read init program: %w", err)
	}
	var buf bytes.Buffer
	w := newCpioWriter(&buf)
	for _, d := range []string{"dev", "proc", "sys", "m", "newroot", "iso"} {
		w.dir(d, 0o755)
	}
	w.file("init", 0o755, init)
	var list strings.Builder
	for _, f := range files {
		if !strings.HasSuffix(f, ".ko") {
			return nil, fmt.Errorf("module %s is compressed, which the init cannot load", f)
		}
		b, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			return nil, err
		}
		name := "m/" + path.Base(f)
		w.file(name, 0o644, b)
		list.WriteString("/" + name + "\n")
	}
	w.file("modules", 0o644, []byte(list.String()))
	if err := w.close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
