package fsm

import (
	"errors"
	"fmt"
)

// Refusals shared by several commands; each command's own are in its file. All
// come back in Result.Err, wrapped, and leave nothing but clock and index
// changed.
var (
	// ErrNotInitialized: no ClusterInit has been applied yet.
	ErrNotInitialized = errors.New("cluster is not initialized")
	// ErrInvalid: a field is missing or out of range; the text names it.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound: no record of that id.
	ErrNotFound = errors.New("not found")
	// ErrUnknownHost: no host of that id is registered.
	ErrUnknownHost = errors.New("unknown host")
	// ErrNameTaken: the name is held by another live record.
	ErrNameTaken = errors.New("name is taken")
	// ErrExists: a record of that id exists already.
	ErrExists = errors.New("exists already")
	// ErrState: the record's state does not allow it.
	ErrState = errors.New("state does not allow it")
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
