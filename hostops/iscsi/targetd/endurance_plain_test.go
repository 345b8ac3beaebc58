//go:build !rooted

package targetd

// What an ordinary test run takes the time for.
const enduranceLogins = 3_000
