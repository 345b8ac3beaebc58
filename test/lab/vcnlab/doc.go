// Command vcnlab, built as build/vcn-lab, runs a lab machine from the shell, and the
// test binaries of go test in it.
//
// It may import test/lab and nothing else of ours.
//
//	vcn-lab up ─▶ lab.Start, detached ─▶ .lab/NAME/{machine.json console.log spareN.img}
//	go test -exec "$PWD/build/vcn-lab exec" -tags=lab PACKAGE
//	   └─▶ vcn-lab exec BINARY -test.…     (in the package's directory)
//	         ─▶ put BINARY and testdata into a new /tmp/exec.XXXXXX
//	         ─▶ run there, streams and signals passed through
//	         ─▶ get profiles ─▶ remove the directory ─▶ its exit code
//	vcn-lab down ─▶ checks the process's number with its start time ─▶ kills it
//
// One machine runs one test binary after the other (go test -p 1): tests of drivers change
// the whole machine.
//
// Decisions: QEMU is a process without a parent, so that there is no daemon of ours to
// look after; a number that another process has got meanwhile is not signalled, because its
// start time differs. Signals reach the program first and it has five seconds; a second
// signal, or losing vcn-lab in any other way, ends the connection, upon which the agent
// kills the program's whole control group.
package main
