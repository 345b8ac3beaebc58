package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"vcn/fsm"
	"vcn/internal/durable"
)

// loadAssignment reads the assignment kept on disk; a missing file is an empty
// assignment.
func loadAssignment(path string) (fsm.Assignment, error) {
	var as fsm.Assignment
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return as, nil
	}
	if err != nil {
		return as, fmt.Errorf("read kept assignment: %w", err)
	}
	if err := json.Unmarshal(b, &as); err != nil {
		return fsm.Assignment{}, fmt.Errorf("read kept assignment %s: %w", path, err)
	}
	return as, nil
}

// saveAssignment writes it whole or not at all. It holds secrets: mode 0600.
func saveAssignment(path string, as fsm.Assignment) error {
	b, err := json.Marshal(as)
	if err != nil {
		return fmt.Errorf("encode assignment: %w", err)
	}
	return durable.WriteFile(path, b, 0o600)
}
