package fsm

import "time"

// Limits and periods. Every peer must agree on them, so they are constants: a
// change is a change of the state machine and needs a new command type.
const (
	// Turnaround is kept after a slot's end for cleaning up.
	Turnaround = 5 * time.Minute
	// KeyLife is how long an idempotency key is remembered.
	KeyLife = 24 * time.Hour
	// ClosedLife is how long an ended, failed or cancelled reservation is kept.
	ClosedLife = 30 * 24 * time.Hour
	// TokenGrace is how long an expired token stays listed.
	TokenGrace = 30 * 24 * time.Hour
	// EventsMax is how many events are kept; the oldest go first.
	EventsMax = 100_000
	// LeadMax bounds Start - Provision.
	LeadMax = 7 * 24 * time.Hour
	// SlotMax bounds End - Start.
	SlotMax = 10 * 366 * 24 * time.Hour
	// HorizonMax bounds End - clock.
	HorizonMax = 20 * 366 * 24 * time.Hour
	// GraceMax bounds the time after a slot's end until nodes are stopped.
	GraceMax = time.Hour
	// ParkMax bounds how long volumes are parked, HoldMax how long offers are held.
	ParkMax = 366 * 24 * time.Hour
	HoldMax = time.Hour
	// HoldsMax bounds the holds of one project, OffersMax the offers of one hold,
	// OfferPartsMax the slots of one offer.
	HoldsMax      = 100
	OffersMax     = 16
	OfferPartsMax = 2
	// SeriesMax bounds the dates of one series, WaitlistMax the waitlisted
	// reservations of one project, MovesMax the promises moved by one command.
	SeriesMax   = 400
	WaitlistMax = 1000
	MovesMax    = 1000
	// PassedMax is how often a waitlisted reservation is passed by others.
	PassedMax = 10
	// NodesMax bounds the nodes of one reservation.
	NodesMax = 4096
	// ObjectsMax bounds the objects of one report.
	ObjectsMax = 65_536
	// MessageBytesMax bounds a message taken from a report; the rest is cut.
	MessageBytesMax = 512
	// CPUsMax and BytesMax bound the size of one host, node or volume, so that
	// sums cannot overflow.
	CPUsMax  = 1 << 20
	BytesMax = 1 << 50
	// SourcesMax bounds the sources named for one image in one assignment.
	SourcesMax = 8
	// CommandBytesMax bounds an encoded command.
	CommandBytesMax = 16 << 20
)
