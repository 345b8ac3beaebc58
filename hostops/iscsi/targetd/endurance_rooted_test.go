//go:build rooted

package targetd

// Enough for a leak of a few bytes or one goroutine in a thousand to show.
const enduranceLogins = 100_000
