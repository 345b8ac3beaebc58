package fsm

import (
	"time"

	"vcn/api"
)

// Type is a command's number. Numbers are append-only: never reused, never
// reordered; a golden file pins them. An unknown number stops the process.
type Type uint16

// The commands. Each has one file of its own with its apply and its errors.
const (
	TypeClusterInit        Type = 1
	TypeHostRegister       Type = 2
	TypeHostStatusSet      Type = 3
	TypeHostReport         Type = 4
	TypeTokenCreate        Type = 5
	TypeTokenRevoke        Type = 6
	TypeReservationCreate  Type = 7
	TypeReservationRelease Type = 8
	TypeReservationFail    Type = 9
	TypeClockAdvance       Type = 10
	TypeImageWant          Type = 11
	TypeImageAssign        Type = 12
	TypeRollsRegister      Type = 13
	TypeFormed             Type = 14
)

// Command is the data of one log entry.
type Command interface{ Type() Type }

// ClusterInit is the first command ever: it makes the cluster of hosts. A
// second one is refused (ErrInitialized).
type ClusterInit struct {
	Meta  Meta
	Token Token // the operator's
}

// HostRegister adds or updates a host. Status, registration time and cordon
// are kept by the FSM.
type HostRegister struct{ Host Host }

// HostStatusSet is the leader's word on hosts: alive, dead or left.
type HostStatusSet struct {
	Host   string
	Status string
}

// HostReport is a host's full account of what it holds.
type HostReport struct {
	Host    string
	Applied uint64
	Objects []Object
}

// TokenCreate adds a token.
type TokenCreate struct{ Token Token }

// TokenRevoke removes one. Unknown ids are ErrNotFound.
type TokenRevoke struct{ ID string }

// ReservationCreate books all of it or nothing. The leader has chosen hosts,
// identifiers and secrets; Apply checks every one again.
type ReservationCreate struct {
	Key         string // idempotency key, unique per project; may be empty
	RequestHash []byte // of the specification, to tell a reused key
	Reservation Reservation
	Volumes     []Volume
	Leases      []Lease
	Images      []ImageWant
}

// ReservationRelease ends a reservation early, in whatever state.
type ReservationRelease struct{ ID, By string }

// ReservationFail ends a reservation that cannot be provisioned.
type ReservationFail struct{ ID, Message string }

// ClockAdvance carries the leader's time; everything due by it happens.
type ClockAdvance struct{}

// ImageWant asks that an image of the recipe exist.
type ImageWant struct {
	Recipe, Appliance string
	Rolls             []string
	Builder           string
}

// ImageAssign gives an unbuilt image another builder.
type ImageAssign struct{ Recipe, Builder string }

// RollsRegister records the rolls the leader knows.
type RollsRegister struct{ Rolls []Roll }

// Formed says that the expected voters have joined, once.
type Formed struct{}

// stamp is put in front of every command by Encode.
type stamp struct{ now time.Time }

var _ = api.StateBooked
var _ = stamp{}
