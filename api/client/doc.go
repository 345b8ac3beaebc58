// Package client speaks /v1 to a cluster of hosts over HTTPS. It survives the
// loss of any host: it holds a list of addresses, stays with the one that
// answered last, and goes on to the next when a host cannot be reached or
// answers that it cannot serve now.
//
// It imports api and the standard library.
//
//	call ──▶ attempt on host i ──▶ answer 2xx/4xx ──▶ result or *api.Problem
//	            │ no connection, 502, 503, 504
//	            ▼
//	         host i+1 … after a whole round: wait (Retry-After, bounded) ──▶ again, until RetryFor is over
//
// # Decisions and trade-offs
//
// The cluster's CA is pinned, and it is the only one trusted. A host's
// certificate must be signed by it for server use; its names are not compared
// with the address dialled. Only hosts get server certificates from this CA,
// every host may answer every request, and operators reach hosts by whatever
// address their network gives them (NAT, port forwards), which hosts cannot
// know. So which host answers is of no consequence, and that it is one of the
// cluster's is checked.
//
// Every create carries an idempotency key, made once per call and repeated on
// each attempt; the state machine remembers it. So a create whose answer was
// lost is repeated without harm. A POST that the server may not remember (a
// token) is repeated only if it cannot have been taken: no connection, or 503.
//
// A change by how much longer or shorter is relative to what there is, and a
// question for offers may leave a hold that stands in the way of its own
// repetition: both carry a key, but are treated as the token is. Other changes
// made twice are the same as made once, and are repeated.
//
// Proxies of the environment are not used: hosts are dialled directly. Redirects
// are not followed, so that a token never leaves the pinned cluster.
//
// HTTP/2 with pings finds a dead host under a long poll within ten seconds;
// otherwise each attempt is bounded by a time of its own.
package client
