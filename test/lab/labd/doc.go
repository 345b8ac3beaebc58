// Command labd is the first and the lasting program of a lab machine: as init of
// its initial RAM disk it mounts the root, and under systemd it is the agent that
// runs commands as root and moves files for the host.
//
// It may import test/lab/wire and nothing else of ours.
//
//	kernel ─▶ /init (labd, PID 1 of the initrd)
//	            modules ─▶ root on /dev/vda ─▶ lab0's address ─▶ /run/lab/{labd,config}
//	            ─▶ unit in /run/systemd/system ─▶ systemd becomes PID 1
//	systemd ─▶ labd agent ─▶ TCP port on lab0 ─▶ one command or file per connection
//
// It comes with the initrd, not with the root file system: changing it rebuilds
// no root, and a machine always has the agent of its own lab.
//
// Each command has a control group of its own. When the connection that asked for it
// ends early, the whole group is killed, with all that the command started and put
// into the background. When the command itself ends, what it left in the background
// lives on, as on any host.
package main
