// Package cli is vcnctl, the command of owners, users and operators.
//
// It may import api, api/client, cobra and go-pretty, and nothing else of ours:
// whatever it does, any program can do over /v1.
//
//	args, env, config.yaml ──▶ settings{hosts, CA, token} ──▶ api/client ──▶ any host
//	spec.yaml / flags ──▶ api.Spec ──Validate──▶ reserve ──▶ progress until ready
//	question with ranges ──▶ when ──▶ offers ──▶ reserve --offer ID
//	flags of a change + what is there ──▶ api.Change ──▶ plan (--dry-run), or change until done (--wait)
//	calendar ──▶ chart{row per host, column per step} ──▶ blocks in colour | letters
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
// Times are shown in the reader's zone (TZ, or the machine's), with their
// offset. Times that are written without one are the reader's, or --zone's; a
// slot carries that zone's name to the hosts, so that a series keeps its hour
// when clocks change. A change has no place for a zone, so its local times are
// made absolute here: they are the reader's, not those of the zone that the
// slot was once booked in.
//
// Short forms of a change (workers N, cpus N, --grace) build on what is there:
// it is read first, and groups are named from it. A change that somebody else
// makes in between is not noticed; hosts check the result again. What is left
// out of a shape is left out of the request, and stays.
//
// The chart shows per cell one holder and one amount, as a row per host has no
// room for more: who holds most of the host's scarcest resource over the
// column's time, and the most that is held at once. (Rejected: a line of names
// and one of amounts for each host, which doubles the height; the mean amount,
// which hides the hour in which nothing fits.) Colours tell reservations apart
// on a terminal that shows UTF-8; anywhere else letters do, and nothing depends
// on colour alone. The width is bounded to 40-500 columns, the time to 10 years.
//
// ssh is the system's own, with the frontend's host key pinned from the API by
// a temporary known_hosts file: no question asked, nothing left behind.
//
// What vcnctl simulate asks is plugged in by whoever calls [Main] ([WithSimulator]): it
// is the code that decides on the hosts, which this package may not know. (Rejected:
// a question to the hosts, as a simulation takes a leader's processor for minutes.)
//
// The reference docs/cli.md is written from the command tree ([Reference]); a
// test fails when it is stale.
package cli
