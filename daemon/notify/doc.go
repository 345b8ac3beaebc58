// Package notify tells owners what happens to their reservations: by webhook (an
// https POST of JSON) and by mail (the operator's command).
//
// It imports nothing of ours, knows no replicated state, and decides nothing about
// what is worth a message. Whoever leads hands messages over and hears of each one
// whether it is settled.
//
//	Add ──▶ lane of a webhook ──┐ slots of webhooks           ┌─▶ resolve ─▶ check each address ─▶ dial it ─▶ TLS ─▶ POST
//	    ├─▶ lane of a webhook ──┼────────────────▶ Send ──────┤
//	    └─▶ lane of an address ─┘ slots of mails              └─▶ compose ─▶ command's stdin ─▶ exit status
//	              ▲                                  │
//	              └── ErrLater: 1 s … 10 min ◀───────┼──▶ delivered, ErrRefused, ErrGaveUp, ErrDropped ──▶ Settled
//
// # What a receiver gets
//
// A webhook gets the message as JSON (see body) with the headers X-Vcn-Event (kind),
// X-Vcn-Delivery (the message's id, the same on retries: receivers drop what they
// have seen), X-Vcn-Timestamp (seconds since 1970, UTC, of this attempt) and, where there
// is a secret, X-Vcn-Signature: "sha256=" and the hex HMAC-SHA256 (RFC 2104) of
// timestamp, ".", body. 2xx is delivered. 408, 425, 429 and 5xx mean later, and
// Retry-After in seconds is honoured up to 10 minutes. All else, redirects too, means never.
//
// A mail is RFC 5322 with MIME headers, UTF-8, and Auto-Submitted (RFC 3834). Its
// Message-ID is made of the message's id, its Date is the event's. Both are the same on retries.
//
// # Bounds
//
//   - Text 4 KiB (longer is cut), other fields 256 bytes, URL 2 KiB, address 254 bytes.
//   - A webhook 10 s (1 s … 1 min) with everything, its response 16 KiB of header and
//     4 KiB of body. A mail 30 s (1 s … 5 min), 4 KiB of its output are kept.
//   - 8 webhooks and 4 mails in flight, 4096 deliveries waiting, 256 for one target. So
//     at most about 40 MiB.
//   - 24 h from Add to giving up.
//
// # What a webhook may reach
//
// A name is resolved once, each address is checked, and the connection is made to
// an address that was checked: a second answer of a hostile DNS server is never
// asked for. Refused are all special-purpose addresses of the registries of RFC 6890
// (loopback, private, link-local, shared, documentation, benchmarking, reserved,
// multicast, …), those embedded in NAT64, 6to4 and ISATAP ones, every IPv6 address outside
// 2000::/3, the addresses of this machine, and what Config.Internal says. WebhookAllow
// opens what is needed:
//
//	            public, https   private, internal   loopback, link-local   http   unspecified, multicast
//	nothing          yes               no                    no             no              no
//	a name           yes              yes                    no             yes             no
//	a CIDR           yes              yes                   yes             yes             no
//
// There are no redirects, no proxies from the environment, no kept connections, no
// TLS session resumption. Errors name neither the resolved address nor the resolver,
// nor the URL's path (often a secret), because an owner may get to read them.
//
// # Decisions and trade-offs
//
//   - An owner who may make a name resolve to a public and a private address gets the
//     public one. Rejected: refusing such names; split-horizon names are like that, and
//     nothing is reached that was not checked.
//   - A name in WebhookAllow does not open loopback and link-local addresses: that is
//     where services without a password and cloud metadata are, and "*.example.com"
//     may hold names that others made. Who wants them writes the CIDR.
//   - A transport is made for each delivery. Rejected: one with kept connections; they
//     would outlive the check, and messages are rare.
//   - The webhook key is one for all, or with SecretPerProject one for each project,
//     derived from the secret. With the former every receiver that can verify can also
//     forge for others; so the latter is right where projects do not trust each other.
//   - Mail goes to a command, with lines ended by LF: what programs with sendmail's
//     interface take on their stdin. Rejected: an SMTP client; queues, TLS policy and
//     authentication are what the operator's mail system already has. Rejected: CRLF; some
//     of these programs then store CR CR LF.
//   - A field with a control character that would go into a header is refused, not
//     cleaned: API names cannot have any, so something is wrong. Text is cleaned, because
//     it may quote a program.
//   - An address is narrower than RFC 5321: no quoting, '|', '/', '%', '!', '@' routes nor
//     address literals, which old mail systems take as programs, files and relays.
//   - On success what the command left behind keeps running (mail systems deliver in the
//     background); on timeout its process group is killed.
//   - Messages to one target keep their order: a first one that cannot be delivered yet
//     holds back the next ones of that target, no others. Rejected: order by
//     reservation; a receiver that is down is down for all of them.
//   - Slots: kinds have their own; in each at most half are for targets that failed
//     last time, and at most half for one project. So dead receivers and one owner's
//     thousand slow ones leave the others room. Slots are taken by targets that work first.
//   - When there is no room left, the oldest message of the longest lane is dropped:
//     a flood is at its own expense. Rejected: the oldest of all, which is likely that of
//     another owner's receiver that will be back soon.
//   - Ages and retries use Go's monotonic time, not Now: a corrected wall clock must not
//     make everything give up.
//   - Delivery is at least once: a leader that dies after a POST and before it is
//     recorded sends it again, with the same id.
//
// # Weak spots
//
// A network with a NAT64 prefix of its own, other than 64:ff9b::/96, needs that prefix in
// Config.Internal. Nothing limits the port of a public receiver. The command runs as
// the daemon's user. A receiver that talks before it is asked makes net/http print a line with
// the start of what it said to the standard logger.
package notify
