// Command vcnctl reserves and uses virtual clusters. All of it is in package cli;
// here it meets the process.
//
// It may import cli, and nothing else of ours.
//
//	SIGINT, SIGTERM ──▶ context ──┐
//	arguments, environment ───────┼──▶ cli.Main ──▶ exit code
//	stdin, stdout, stderr ────────┘
package main
