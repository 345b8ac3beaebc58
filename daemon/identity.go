package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"vcn/fsm"
	"vcn/internal/durable"
	"vcn/internal/passable"
)

// Identity is who this host is, kept in DataDir/identity.json (0600).
type Identity struct {
	ClusterID string
	HostID    string
	Name      string
	CA        []byte // PEM
	Cert      []byte // PEM
	Key       []byte // PEM
	GossipKey []byte
	Peers     []string // gossip addresses known when it joined
	// Bootstrap is the first command ever, at the host that made the cluster
	// of hosts, until it has been applied.
	Bootstrap *fsm.ClusterInit `json:",omitempty"`
}

// ErrIdentity: init or join on a host that already belongs to a cluster.
var ErrIdentity = errors.New("this host already belongs to a cluster of hosts")

// ErrNoIdentity: run on a host that belongs to none.
var ErrNoIdentity = errors.New("this host belongs to no cluster of hosts yet: run \"vcnd init\" on the first, \"vcnd join\" on others")

func identityPath(dataDir string) string { return filepath.Join(dataDir, "identity.json") }

func loadIdentity(dataDir string) (Identity, error) {
	var id Identity
	b, err := os.ReadFile(identityPath(dataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return id, ErrNoIdentity
	}
	if err != nil {
		return id, fmt.Errorf("read identity: %w", err)
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, fmt.Errorf("read identity %s: %w", identityPath(dataDir), err)
	}
	return id, nil
}

// saveIdentity writes it whole; with fresh it refuses to replace another.
func saveIdentity(dataDir string, id Identity, fresh bool) error {
	// QEMU, which is not root, passes through it to its guests' files.
	if err := passable.Mkdir(dataDir); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	path := identityPath(dataDir)
	if _, err := os.Stat(path); fresh && err == nil {
		return fmt.Errorf("write %s: %w", path, ErrIdentity)
	}
	b, err := json.MarshalIndent(id, "", " ")
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	return durable.WriteFile(path, b, 0o600)
}

// certNames splits what the certificate must be valid for.
func certNames(c Config) (dns []string, ips []net.IP) {
	seen := map[string]bool{}
	add := func(s string) {
		if s == "" || seen[s] {
			return
		}
		seen[s] = true
		if ip := net.ParseIP(s); ip != nil {
			if !ip.IsUnspecified() {
				ips = append(ips, ip)
			}
			return
		}
		dns = append(dns, s)
	}
	add(c.Name)
	add(c.Address)
	if h, _, err := net.SplitHostPort(c.API.Listen); err == nil {
		add(h)
	}
	for _, n := range c.API.Names {
		add(n)
	}
	return dns, ips
}
