package rolls

import (
	"errors"
	"fmt"
	"strings"
)

// Sentinels of this package. Every error it returns wraps one of them.
var (
	ErrInvalid   = errors.New("invalid roll")             // Load: a field is wrong (see FieldError)
	ErrMissing   = errors.New("no such roll")             // Resolve: name or version unknown
	ErrCycle     = errors.New("rolls require each other") // Resolve
	ErrConflict  = errors.New("rolls conflict")           // Resolve: declared with conflicts
	ErrVersion   = errors.New("roll versions disagree")   // Resolve: two versions of one roll wanted
	ErrClash     = errors.New("rolls clash")              // Resolve: one path or unit claimed twice
	ErrAppliance = errors.New("no such appliance")        // Resolve
	ErrDuplicate = errors.New("roll is already there")    // NewCatalog
	ErrSecret    = errors.New("no such secret")           // Render
	ErrCluster   = errors.New("invalid cluster")          // Render, MakeSecrets
	ErrRender    = errors.New("cannot render")            // Render
	ErrOwner     = errors.New("no such owner")            // Render: user or group not in the image
	ErrTooLarge  = errors.New("too large")                // Load, Render: a limit is passed
)

// FieldError names the roll, the field, its value, and what would be right.
type FieldError struct {
	Roll  string // name, or the directory when the name is not known yet
	Field string // such as apply.worker.seed[2].mode
	Value string
	Want  string
}

func (e *FieldError) Error() string {
	v := e.Value
	if len(v) > 120 {
		v = v[:120] + "…"
	}
	if v == "" {
		return fmt.Sprintf("roll %s: %s: want %s", e.Roll, e.Field, e.Want)
	}
	return fmt.Sprintf("roll %s: %s: %q: want %s", e.Roll, e.Field, v, e.Want)
}

// Unwrap returns ErrInvalid.
func (e *FieldError) Unwrap() error { return ErrInvalid }

// ResolveError says which chain of requirements led to the trouble.
type ResolveError struct {
	Kind   error    // one of ErrMissing, ErrCycle, ErrConflict, ErrVersion, ErrClash
	Chain  []string // who asked, first to last; first is the name the owner gave
	Detail string   // for people
}

func (e *ResolveError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: %s", e.Kind, e.Detail)
	if len(e.Chain) > 1 {
		b.WriteString(" (wanted by " + strings.Join(e.Chain, " → ") + ")")
	}
	return b.String()
}

// Unwrap returns the sentinel.
func (e *ResolveError) Unwrap() error { return e.Kind }
