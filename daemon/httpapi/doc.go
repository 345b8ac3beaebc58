// Package httpapi is the HTTP face of a host: the public API /v1 with its
// OpenAPI document and documentation, health and metrics, and the internal
// routes that agents and other hosts use.
//
// It may import api, api/ical, fsm and its own agentclient,
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
//   - What may be sent twice is sent again to the next leader: reads, dry runs, releases, parking, the policy,
//     and creates whose Idempotency-Key the state keeps. A create without a key whose answer was lost is 504 with a text that says
//     so: the client must look. On 503 nothing was done. (A repeated revocation of a token may answer 404: it is revoked.)
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
//   - A feed's key is the only secret that may stand in an address, because calendar
//     programs can send nothing else. It opens one route and one project; an owner's token
//     is refused there, and the key is refused anywhere else, as a bearer too.
//     Nothing of ours writes a query into a log or a label (the text of a url.Error has
//     one: it is taken out), and answers say no-referrer, and private or no-store.
//   - An offer that is not held any more is 409 expired, whether it was taken, ran out
//     or was another project's: holds leave nothing behind to tell them apart by. 404 is for
//     what cannot be an offer's id. Rejected: a record of past holds.
//   - Keys of reserving, taking an offer and resuming are in the replicated state. Those of
//     changes and of questions for offers are remembered by the process that leads (at most 1024
//     answers, an hour): enough for a client whose connection broke. A request of that kind that was
//     under way when the leader was lost is therefore not sent to the next one, but
//     answered 504 with a text that says so. Rejected: a command of its own in the log
//     for each key, for what is asked a hundred times as often as it is booked.
//   - The index of an answer that changes nothing is read before the answer is made:
//     it may be of a later state, never of an earlier one.
package httpapi
