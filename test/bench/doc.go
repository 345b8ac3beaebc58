// Package bench measures the whole: what no single room can say about itself.
// Every figure stands beside a peer or a physical limit of the same run,
// because the clock of a busy machine says little alone.
//
//	BenchmarkReserve      clients ─▶ control ─▶ Node.Apply ─▶ 3 × (boltdb, FSM)
//	                      beside     the same bytes ─▶ Node.Apply ─▶ 3 × (boltdb, nothing)
//	BenchmarkProvision    vcnctl reserve ─▶ 3 vcnd ─▶ 1+2 guests ─▶ srun     ─┐ one
//	                      beside     one QEMU, the same image from a file     │ testbed
//	BenchmarkDaemonIdle   /proc of each vcnd and target, beside its libvirtd ─┘
//
// The last two need root and are behind the build tag "rooted". They find vcnd,
// vcnctl and vcn-init in build/, and keep images and packages in the directory
// named by VCN_CACHE (default .cache): the first run builds the images, outside
// of what is timed.
//
// It holds benchmarks and the tests of their helpers only. It may import api,
// cluster, daemon/control, fsm, rolls and test/testbed.
//
// # Decisions and trade-offs
//
//   - BenchmarkReserve has its three replicas in one process, over real mTLS and
//     real files, so that planner, Raft and three state machines share the
//     machine's processors. Three machines would do better; the ratio, too, is
//     therefore the worst case.
//   - Only reserves are timed. Releases and raw applies take turns with them,
//     so that the pools do not run dry and the machine's moods hit both.
//   - A call that finds no leader is made again, and its time goes on: on a busy
//     machine three hosts in one process may well lose a heartbeat. "retries" counts them.
//   - Wall times say what a busy machine allowed. Processor times per reserve and
//     per guest stand beside them, and the log names the load.
//   - The raw peer applies a recorded ReservationBook, byte for byte, to a state machine
//     that does nothing. Rejected: a small refused command on the real FSM, whose
//     cost would be taken off ours. Node.Apply beside bare Raft is cluster's benchmark.
//   - The bare boot uses the seed of the very frontend that was reserved, its kernel,
//     its command line and its memory. It ends with "vcn: phase home" on the console:
//     the scheduler's readiness, the next phase, needs workers.
package bench
