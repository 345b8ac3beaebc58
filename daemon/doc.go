// Package daemon is one host's vcnd put together: configuration, identity,
// bootstrap and join, and the wiring of the rooms. It decides nothing that a
// room could decide.
//
// It may import every room; nothing but the main in daemon/vcnd imports it.
//
//	vcnd init ──▶ identity + CA + first command on disk ┐
//	vcnd join ──▶ identity signed by the leader ────────┤
//	                                                    ▼
//	vcnd run: cluster.Node ◀─▶ fsm ◀─ control (leader only)
//	             │                        ▲
//	             ├─ internal mTLS ─▶ httpapi (agents, forwarded calls, images)
//	             │  API over TLS  ─▶ httpapi (/v1)
//	             └─ agent ──▶ libvirt, netlink, volume, images, target process
//	vcnd target: the iSCSI target, a process of its own
//
// Order of stopping, which matters: the API stops taking requests, the agent
// ends its steps, leadership is handed over by Raft's own shutdown, the state
// closes. Guests, links and disks stay (SIGTERM is not leave), and so does the
// target process.
package daemon
