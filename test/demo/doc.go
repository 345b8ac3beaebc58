// Command demo is "make demo": three hosts on this machine, one reservation,
// real guests, a real scheduler that runs a real job.
//
// It may import api and test/testbed.
//
//	up:   testbed up ─▶ images ─▶ vcnctl reserve at a host that does not lead ─▶ ssh srun -N2 hostname
//	down: testbed down; images and packages stay in the demo's cache, so the next up is warm
package main
