package cluster

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// peersFile remembers gossip addresses over a restart, so that a host finds the
// others again without being told. Losing it costs nothing but that.
type peersFile struct {
	path string // empty: memory only
	mu   sync.Mutex
	have []string
}

func openPeersFile(dir string, log *slog.Logger) *peersFile {
	p := &peersFile{}
	if dir == "" {
		return p
	}
	p.path = filepath.Join(dir, "peers.json")
	b, err := os.ReadFile(p.path)
	if err != nil {
		return p
	}
	if err := json.Unmarshal(b, &p.have); err != nil {
		log.Warn("remembered peers are unreadable, going on without", "file", p.path, "err", err)
		p.have = nil
	}
	return p
}

func (p *peersFile) list() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.have)
}

func (p *peersFile) add(addrs []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range addrs {
		if !slices.Contains(p.have, a) && len(p.have) < savedPeersMax {
			p.have = append(p.have, a)
		}
	}
}

// save replaces the list and writes it if it changed. An empty list is not news.
func (p *peersFile) save(addrs []string) error {
	slices.Sort(addrs)
	addrs = slices.Compact(addrs)
	if len(addrs) > savedPeersMax {
		addrs = addrs[:savedPeersMax]
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(addrs) == 0 || slices.Equal(addrs, p.have) {
		return nil
	}
	p.have = addrs
	if p.path == "" {
		return nil
	}
	b, err := json.Marshal(addrs)
	if err != nil {
		return fmt.Errorf("save peers: %w", err)
	}
	if err := writeFile(p.path, b); err != nil {
		return fmt.Errorf("save peers: %w", err)
	}
	return nil
}

// writeFile replaces a file so that after a crash either the old or the new one is there.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
