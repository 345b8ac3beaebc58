// Package httpapi is the HTTP face of a host: the public API /v1 with its
// OpenAPI document and documentation, health and metrics, and the internal
// routes that agents and other hosts use.
//
// It may import api, fsm and its own agentclient,
// huma, which is used nowhere else, and the Prometheus client. What it needs of
// control and cluster it declares as interfaces (see server.go).
//
//	public TLS listener                         internal mTLS listener
//	  │                                           │
//	  ├─ /docs /openapi.json /healthz /metrics    ├─ /internal/… agents: assignment, report, register
//	  └─ /v1/… ── route                           └─ /v1/…  forwarded by another host
//	       │ body ≤ 1 MiB, read whole                  │ sender's certificate = X-Vcn-Forwarded
//	       ├─ this host leads ─────────┐               ├─ this host leads ──┐
//	       ├─ a leader is known ── forward, one hop ──▶│                    │
//	       ├─ none: held ≤ 5 s         │               └─ else: 503, not    ▼
//	       └─ still none: GET at a peer├──▶ token ──▶ operation ──▶ Control │ View ──▶ api types
//	          from own state, X-Vcn-Stale   (checked by who answers)
//	          else 503 no_leader
//
// # Decisions and trade-offs
//
//   - Requests are passed on whole, with the answer read whole before its first byte
//     is passed back: a leader that dies half-way gives a clean retry. Rejected:
//     redirects (the client may not reach the leader, and would pin another name).
//   - What may be sent twice is sent again to the next leader: reads, releases,
//     and creates with an Idempotency-Key. A create without a key whose answer was lost is 503 with a text that says
//     so: the client must look. (A repeated revocation of a token may answer 404: it is revoked.)
//   - Reads are the leader's too, so that who has written reads its own writes,
//     whatever host it asks. A leader that has just lost its term may answer from old state for at
//     most its lease; rejected: a Raft round for each read.
//   - The bearer token is checked where the answer is made; a host without state
//     could not. Hosts trust each other as far as their certificates: the host that passes
//     on an agent's report vouches for who sent it.
//   - Bodies are read by the contract's own strict reader (api.ReadStrict), not by huma: the
//     same messages for files, flags and requests, JSON or YAML. huma gives
//     parameters, schemas and the document. Its error maker is a package
//     variable of its own, which this package sets.
//   - Agents' assignments come from any Raft peer that has heard from its leader
//     within freshMax; a peer that is cut off says so, and the agent keeps what it has.
//   - The documentation page is made here, in plain HTML: huma's own loads a
//     script from elsewhere, and hosts may be offline.
//   - Everything shown is built field by field; a test looks for every secret
//     of a populated state in every answer and in the log.
package httpapi
