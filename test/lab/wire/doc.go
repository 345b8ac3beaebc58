// Package wire is how the host and the agent in a lab machine talk: one TCP
// connection per command or file, so that several run side by side and closing
// one ends exactly what it started.
//
// It imports nothing of ours, and the agent and the lab alone import it.
//
//	host                                       agent
//	 │ ◀──────────────────────────── 'h' hello │
//	 │ Request: 4-byte length, JSON ─────────▶ │ checks the token
//	 │ 'i' stdin …  'I' end of it  's' signal ▶ │ runs, or writes a file
//	 │ ◀──────────── 'a' bytes of 'i' consumed │
//	 │ ◀───────────────── 'o' stdout 'e' stderr │
//	 │ ◀──────────────────────── 'x' Exit JSON │ and closes
//
// A frame is one byte of type, four bytes of length (big endian), and so many
// bytes, at most FrameBytesMax. The host has at most WindowBytes of 'i' under
// way that were not answered by 'a': a command that does not read its input
// thereby never keeps signals from being read. Files are sent as 'i' frames without
// a window: TCP's own does.
//
// The agent speaks first, because a connection that QEMU's user network has taken need not
// reach the machine: QEMU listens with a queue of one, and under a burst of
// connections this host's kernel resets some and forgets others (measured: 27 of 200).
// Until hello has come nothing was asked, so the host tries again, and a process opens one
// connection at a time.
//
// Decisions: no multiplexing and no compression, since both ends are one
// machine; the token is in clear, since the port is on loopback and what it keeps
// away is the other machine's client by mistake and other local users.
package wire
