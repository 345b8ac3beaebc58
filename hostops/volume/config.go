package volume

import "log/slog"

// FileConfig says where volumes are kept as files.
type FileConfig struct {
	// Dir holds the volumes and nothing else; it is made if it is absent.
	Dir string
	// Owner says whose the store is: one line of 1-255 bytes that no other host
	// has, of this cluster of hosts or another. It is written into the store on
	// its first use, and a store of another owner is refused.
	Owner string
	// Known says that this owner has had its store in Dir before. Then it is
	// never begun anew: without its mark it is refused (ErrGone).
	Known bool
	// ReserveBytes is never offered: what the file system keeps for others.
	ReserveBytes int64
	Log          *slog.Logger
}
