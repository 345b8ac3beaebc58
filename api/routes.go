package api

// The routes under a host's API address. Lists answer List[T]. Errors are
// Problem (application/problem+json). Every request but Join, health, metrics
// and documentation carries "Authorization: Bearer TOKEN".
const (
	PathStatus       = "/v1/status"       // GET Status
	PathReservations = "/v1/reservations" // GET List[Reservation] (?project= &all=true); POST Spec (?dryRun=true answers Plan; header Idempotency-Key) 201 Reservation
	// PathReservations/{id or name}: GET Reservation (?index=N&wait=30s waits for a change after N); DELETE 202 Reservation
	// PathReservations/{id or name}/events: GET EventList (?after=N&wait=30s)
	// PathReservations/{id or name}: PATCH Change (?dryRun=true answers ChangePlan; ?allowDataLoss=NAME) 200 Reservation
	// PathReservations/{id or name}/park: POST ParkRequest 202 Reservation
	// PathReservations/{id or name}/resume: POST Slot (?dryRun=true answers Plan; header Idempotency-Key) 200 Reservation
	// PathReservations/{id or name}/explain: GET Explanation
	// POST takes ?offer=ID instead of a body (?name= renames) and ?waitFor=DURATION; a Spec with slot.repeat answers 201 SeriesResult (?partial=true books those that fit)
	PathOffers   = "/v1/offers"       // POST OfferRequest: OfferList; GET /{id} Offer; DELETE /{id} 204 gives a hold back
	PathSeries   = "/v1/series"       // GET List[Series]; GET /{id or name} Series; PATCH /{id} Change (of all that have not begun; ?dryRun=true) SeriesResult; DELETE /{id} cancels what has not begun, 202 Series
	PathCalendar = "/v1/calendar"     // GET Calendar (?from= &until= &project=)
	PathFeed     = "/v1/calendar.ics" // GET iCalendar (RFC 5545); an operator's or project's token as bearer, or ?feed=KEY
	PathFeeds    = "/v1/feeds"        // POST FeedRequest 201 Feed: a URL that shows one project's calendar and nothing else
	PathPolicy   = "/v1/policy"       // GET Policy; PUT Policy (operators)
	PathEvents   = "/v1/events"       // GET EventList (?after=N&wait=30s)
	PathHosts    = "/v1/hosts"        // GET List[Host]
	PathLeases   = "/v1/leases"       // GET List[Lease]
	PathImages   = "/v1/images"       // GET List[Image]; POST ImageRequest 202 List[Image]
	PathRolls    = "/v1/rolls"        // GET List[Roll]
	PathTokens   = "/v1/tokens"       // GET List[Token]; POST TokenRequest 201 Token; DELETE /{id} 204
	PathJoin     = "/v1/join"         // POST JoinRequest with a join token: JoinResponse
	PathHealth   = "/healthz"         // GET, no token: 200 when the host can serve, 503 with why
	PathMetric   = "/metrics"         // GET, no token
	PathDocs     = "/docs"            // GET, no token; the OpenAPI document is at /openapi.json
)

// Headers.
const (
	HeaderIndex          = "X-Vcn-Index"     // Raft index an answer reflects
	HeaderStale          = "X-Vcn-Stale"     // "true": answered without a leader
	HeaderForwarded      = "X-Vcn-Forwarded" // host id; a request is forwarded at most once
	HeaderIdempotencyKey = "Idempotency-Key"
)

// List is the body of every list answer.
type List[T any] struct {
	Items []T `json:"items"`
}

// EventList is a page of events and the index to ask after next.
type EventList struct {
	Items []Event `json:"items"`
	Index uint64  `json:"index"`
}

// ImageRequest asks that images of these rolls exist for these appliances.
type ImageRequest struct {
	Rolls      []string `json:"rolls"`
	Appliances []string `json:"appliances,omitempty" doc:"default: frontend and worker"`
}
