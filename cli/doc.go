// Package cli is vcnctl, the command of owners, users and operators.
//
// It may import api, api/client, cobra and go-pretty, and nothing else of ours:
// whatever it does, any program can do over /v1.
//
//	args, env, config.yaml ──▶ settings{hosts, CA, token} ──▶ api/client ──▶ any host
//	spec.yaml / flags ──▶ api.Spec ──Validate──▶ reserve ──▶ progress until ready
//	answer ──▶ table | json | yaml on stdout      errors ──▶ text | problem object on stderr
//
// # Decisions and trade-offs
//
// [Main] takes everything it touches (arguments, streams, environment) and
// returns the exit code, so tests run whole commands in process.
//
// The answer to a command goes to stdout, all that is said meanwhile (progress,
// notes, errors) to stderr: output can always be piped. With -o json an error
// is the API's problem object on stderr.
//
// A token carries the fingerprint of its cluster's CA, so --host and --token
// alone are enough to connect safely; a context merely remembers them together
// with the certificate.
//
// A specification is validated here first, with the server's own rules (package
// api), so that a typing error costs no round trip and names the flag it came
// from. The server checks again.
//
// ssh is the system's own, with the frontend's host key pinned from the API by
// a temporary known_hosts file: no question asked, nothing left behind.
//
// The reference docs/cli.md is written from the command tree ([Reference]); a
// test fails when it is stale.
package cli
