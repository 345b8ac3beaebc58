// Command vcnd is the daemon that every physical host runs. It is flags and
// their help; everything it does is in package daemon.
//
// It may import daemon, api (how a wrong value is told), cobra and pflag.
//
//	vcnd init | join ──▶ identity on disk        vcnd run ──▶ the host        vcnd target ──▶ its disks
package main
