package targetd

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"vcn/hostops"
)

// ErrRunning: another target process holds the state directory.
var ErrRunning = errors.New("another target process is running")

const (
	maxExports     = 1024
	maxAccess      = 64
	maxNameBytes   = 223 // RFC 7143 4.2.7.1
	minSecretBytes = 12
	maxSecretBytes = 64
	maxUserBytes   = 64
)

func invalid(e hostops.Export, format string, a ...any) error {
	return fmt.Errorf("export of volume %q: %w: %s", e.Volume, hostops.ErrInvalid, fmt.Sprintf(format, a...))
}

// validate checks an export field by field. Access that leaves anything open
// (no address, no secret) is refused: it would admit more than was meant.
func validate(e hostops.Export) error {
	if err := hostops.CheckVolumeID(e.Volume); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if !filepath.IsAbs(e.Path) {
		return invalid(e, "path %q is not absolute", e.Path)
	}
	if !validName(e.IQN) {
		return invalid(e, "target name %q", e.IQN)
	}
	if len(e.Access) > maxAccess {
		return invalid(e, "more than %d access entries", maxAccess)
	}
	for _, a := range e.Access {
		switch {
		case !validName(a.Initiator):
			return invalid(e, "initiator name %q", a.Initiator)
		case !a.Addr.IsValid() || a.Addr.IsUnspecified():
			return invalid(e, "no source address for %s", a.Initiator)
		case a.User == "" || len(a.User) > maxUserBytes || strings.ContainsRune(a.User, 0):
			return invalid(e, "CHAP user of %s", a.Initiator)
		case len(a.Secret) < minSecretBytes || len(a.Secret) > maxSecretBytes:
			return invalid(e, "CHAP secret of %s must have %d-%d characters", a.Initiator, minSecretBytes, maxSecretBytes)
		}
	}
	return nil
}

// validName takes the three kinds of iSCSI names (RFC 7143 4.2.7) without
// looking further into them.
func validName(s string) bool {
	if len(s) > maxNameBytes || strings.ContainsAny(s, " =,\x00\n\r\t") {
		return false
	}
	return len(s) > 4 && (strings.HasPrefix(s, "iqn.") || strings.HasPrefix(s, "eui.") || strings.HasPrefix(s, "naa."))
}
