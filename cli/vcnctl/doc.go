// Command vcnctl reserves and uses virtual clusters. All of it is in package cli;
// here it meets the process, and the simulator, which is of the daemon's code.
//
// It may import api, cli and daemon/simulate, and nothing else of ours.
//
//	SIGINT, SIGTERM ──▶ context ──┐
//	arguments, environment ───────┼──▶ cli.Main ──▶ exit code
//	stdin, stdout, stderr ────────┤        │
//	simulator ────────────────────┘        └─ vcnctl simulate ──▶ simulator ──▶ daemon/simulate
package main
