// Package api is the contract between vcn's surfaces: the types that cross the
// wire under /v1, the error codes, and the strict reading of quantities, times
// and reservation specifications.
//
// It may import the standard library, sigs.k8s.io/yaml and
// golang.org/x/crypto/ssh (to parse public keys), and nothing of ours.
//
//	YAML / JSON ──ReadSpec──▶ Spec ──Defaults──▶ Validate ──▶ POST /v1/reservations ──▶ Reservation
//	flags ──────────────────▶  │                                      │
//	                           └─ ResolveSlot(now), NodeNames         └── Problem{code, field errors}
//
// # Decisions and trade-offs
//
// Reading is strict and reports everything at once. A specification is turned
// into a plain tree first and checked against the Go types by reflection, so
// that each unknown field and each value of the wrong kind becomes a
// [FieldError] with its path; encoding/json stops at the first and knows no
// path for values that unmarshal themselves.
//
// A [Quantity] has binary units only. Decimal ones (4GB) are refused, with the
// right unit in the answer, rather than rounded to something nobody meant. It
// implements encoding.TextMarshaler and TextUnmarshaler: its JSON is a string,
// and a schema generator should treat it as a string (huma does so by itself
// for a TextUnmarshaler). There is no Schema method, because huma lives only
// in the daemon.
//
// Nothing here reads a clock: whatever depends on the present takes it as an
// argument.
package api
