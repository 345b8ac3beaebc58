// Package api is the contract between vcn's surfaces: the types that cross the
// wire under /v1, the error codes, and the strict reading of quantities, times
// and reservation specifications.
//
// It may import the standard library, sigs.k8s.io/yaml, golang.org/x/crypto/ssh
// (to parse public keys) and github.com/teambition/rrule-go (to parse recurrence
// rules), and nothing of ours. Its sub-packages import it: client calls a host,
// recur turns a slot that repeats into dates, ical writes slots for calendar
// programs.
//
//	YAML / JSON ──ReadStrict──▶ Spec, Change, OfferRequest, … ──Defaults──▶ Validate ──▶ POST, PATCH ──▶ Reservation, …
//	flags ────────────────────▶  │                                              │
//	                             ├─ ResolveWindow(now), NodeNames               └── Problem{code, field errors}
//	   zoneinfo.zip ──LoadZone──▶┘   Change.Apply(Spec), Change.ResolveSlot
//
// # Times
//
// A time has an offset from UTC, or is what clocks show in slot.zone. Where
// clocks are put back, a time exists twice: it is the first of the two, as in
// RFC 5545 3.3.5; an offset says the second. Where clocks are put forward, a time
// may not exist: that is an error which names the minutes before and after. A day
// in a length is 24 hours. Parts of seconds are cut; whole seconds are kept, as
// callers that compute a start from the present have them, though everything
// that vcn offers by itself is in whole minutes.
//
// # Bounds
//
// Texts are read up to a size that the caller gives (specifications: 1MiB), an
// answer carries at most 50 field errors, and each list, name and number has its
// limit as a constant beside its check. Slots last 1 minute to 5 years and start
// at most 10 years ahead; series have at most 400 dates within 5 years.
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
// Time zones come from a database that is built in (zoneinfo.zip, as the Go
// distribution carries it), and never from the machine, as time.LoadLocation
// would: a client and all hosts of one version mean the same moment by the same
// text, on machines without any zone files too, and fsm can use this package.
// The price is 400KiB in every program, and that a government's new rules come
// with a new version of vcn: "go generate ./api" takes the file of the Go
// distribution at hand. Moments that were resolved before stay what they were.
//
// A recurrence rule's text is checked here, so that Validate reports it with
// everything else; its dates are recur's, as only who books them needs them.
//
// With a fixed end a latest start is refused, because it does not say whether
// the end moves or the slot shrinks.
//
// In a [Change] a group's count that is nothing (null) is an error and not 0,
// which would remove the group.
//
// Mail addresses are checked by a pattern that is narrower than RFC 5321, not by
// net/mail: that imports net, and fsm uses this package.
//
// Nothing here reads a clock: whatever depends on the present takes it as an
// argument.
package api
