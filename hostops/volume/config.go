package volume

import "log/slog"

// FileConfig says where volumes are kept as files.
type FileConfig struct {
	// Dir holds the volumes and nothing else; it is made if it is absent.
	Dir string
	// ReserveBytes is never offered: what the file system keeps for others.
	ReserveBytes int64
	Log          *slog.Logger
}
