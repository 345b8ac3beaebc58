package cluster

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"fmt"
	"io"
)

// RaftRole is what a host is to the Raft group, as itself says.
type RaftRole string

// The roles. A follower in DESIGN's words has RoleNone.
const (
	RoleNone     RaftRole = ""
	RoleNonvoter RaftRole = "nonvoter"
	RoleVoter    RaftRole = "voter"
	RoleLeader   RaftRole = "leader"
	// RoleOutside: Raft runs, but the host is (no longer, or not yet) in the configuration it knows.
	RoleOutside RaftRole = "outside"
)

// Advert is what a host tells all others about itself. The caller of SetAdvert
// fills the first group; the package fills the second. At most AdvertBytesMax
// when encoded.
type Advert struct {
	Classes       []string `json:"classes,omitempty"` // gateway, compute, storage
	API           string   `json:"api,omitempty"`     // ip:port of the public API
	Storage       string   `json:"storage,omitempty"` // ip:port of the storage target
	Public        string   `json:"public,omitempty"`  // address on the public LAN, gateways only
	Underlay      string   `json:"underlay,omitempty"`
	CPUs          int      `json:"cpus,omitempty"`
	MemoryBytes   int64    `json:"memoryBytes,omitempty"`
	StorageBytes  int64    `json:"storageBytes,omitempty"`
	FreeCPUs      int      `json:"freeCpus,omitempty"`
	FreeMemory    int64    `json:"freeMemoryBytes,omitempty"`
	FreeStorage   int64    `json:"freeStorageBytes,omitempty"`
	Images        []string `json:"images,omitempty"` // digests held
	Version       string   `json:"version,omitempty"`
	BootID        string   `json:"bootId,omitempty"`
	Accelerator   string   `json:"accelerator,omitempty"` // kvm or tcg
	NetworkDriver string   `json:"networkDriver,omitempty"`
	// Extra is for what this package need not know.
	Extra map[string]string `json:"extra,omitempty"`

	HostID        string   `json:"hostId"`
	Name          string   `json:"name,omitempty"`
	FailureDomain string   `json:"failureDomain,omitempty"`
	Internal      string   `json:"internal,omitempty"` // ip:port of the mTLS listener
	Gossip        string   `json:"gossip,omitempty"`   // ip:port
	NeverPeer     bool     `json:"neverPeer,omitempty"`
	RaftRole      RaftRole `json:"raftRole,omitempty"`
	RaftGroup     string   `json:"raftGroup,omitempty"`  // hex of the group id, peers only
	LeaderHint    string   `json:"leaderHint,omitempty"` // host id of who leads, peers only
	Term          uint64   `json:"term,omitempty"`       // Raft term of the hint
	Leaving       bool     `json:"leaving,omitempty"`    // said before a deliberate leave
	Seq           uint64   `json:"seq"`                  // grows with every change, also across restarts
}

// encode packs an advert: JSON under DEFLATE (RFC 1951).
func (a *Advert) encode() ([]byte, error) {
	plain, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("encode advert: %w", err)
	}
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("encode advert: %w", err)
	}
	if _, err := w.Write(plain); err != nil {
		return nil, fmt.Errorf("encode advert: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("encode advert: %w", err)
	}
	if b.Len() > AdvertBytesMax || len(plain) > 8*AdvertBytesMax {
		return nil, fmt.Errorf("encode advert: %d bytes (%d packed): %w", len(plain), b.Len(), ErrTooLarge)
	}
	return b.Bytes(), nil
}

func decodeAdvert(packed []byte) (Advert, error) {
	var a Advert
	if len(packed) > AdvertBytesMax {
		return a, fmt.Errorf("decode advert: %d bytes: %w", len(packed), ErrTooLarge)
	}
	r := flate.NewReader(bytes.NewReader(packed))
	plain, err := io.ReadAll(io.LimitReader(r, 8*AdvertBytesMax+1))
	if err != nil {
		return a, fmt.Errorf("decode advert: %w", err)
	}
	if len(plain) > 8*AdvertBytesMax {
		return a, fmt.Errorf("decode advert: %w", ErrTooLarge)
	}
	if err := json.Unmarshal(plain, &a); err != nil {
		return a, fmt.Errorf("decode advert: %w", err)
	}
	if !idPattern.MatchString(a.HostID) {
		return a, fmt.Errorf("decode advert: host id %q is malformed", a.HostID)
	}
	return a, nil
}
