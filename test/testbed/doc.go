// Package testbed makes several hosts on one machine: each a real vcnd with its
// own network namespace, libvirtd, data directory and addresses, joined by one
// private LAN and, for gateways, one public LAN that the operator's shell can
// reach. The demo and the end-to-end tests stand on it.
//
// It may import daemon (configuration only), hostops/hosttest/libvirtd and
// internal leaves. It needs root.
//
//	operator's shell (the machine's own namespace)
//	  NAME-lan 198.18.K.254     NAME-pub 198.19.K.1
//	     │                         │
//	┌────┴─────── NAME-sw ─────────┴────┐
//	│  bridge lan (MTU 9000)  bridge pub│
//	└──┬───────────┬───────────┬────┬───┘
//	 eth0.1      eth0.2      eth0.3 └─ br-pub (gateways)
//	 NAME-h1     NAME-h2     NAME-h3     each: libvirtd, vcnd, vcnd target, QEMU
//
// Everything a testbed makes is in namespaces, links and one directory that
// carry its name, so that Down finds and removes all of it, also from another
// process and after a crash.
package testbed
