// Package api is the contract between vcn's surfaces: the types that cross the
// wire under /v1, the error codes, and the strict reading of quantities, times
// and reservation specifications.
//
// It may import the standard library and sigs.k8s.io/yaml, and nothing of ours.
//
//	YAML / flags ──▶ Spec ──Validate──▶ POST /v1/reservations ──▶ Reservation
//	                                         └── Problem{code, field errors}
package api
