// Package claims lets calls for one name follow each other, while calls for
// others go on.
//
// It imports nothing of ours.
//
//	Claim(name) ── free? ──▶ work ──▶ release
//	               └ wait, until the context ends
//
// Nothing is kept of a name that nobody works on. Who waits gets its turn in no
// particular order.
package claims
