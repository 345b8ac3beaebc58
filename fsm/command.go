package fsm

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Type is a command's number. Numbers are append-only: never reused, never
// reordered; a golden file pins them. An unknown number stops the process.
type Type uint16

// The commands. Each has one file of its own with its apply and its errors.
const (
	TypeClusterInit   Type = 1
	TypeHostRegister  Type = 2
	TypeHostStatusSet Type = 3
	TypeHostReport    Type = 4
	TypeTokenCreate   Type = 5
	TypeTokenRevoke   Type = 6
	// 7 was ReservationCreate, in entries of format 1.
	TypeReservationRelease Type = 8
	TypeReservationFail    Type = 9
	TypeClockAdvance       Type = 10
	TypeImageWant          Type = 11
	TypeImageAssign        Type = 12
	TypeRollsRegister      Type = 13
	TypeFormed             Type = 14
	TypeReservationBook    Type = 15
	TypeReservationBind    Type = 16
	TypeReservationReseat  Type = 17
	TypeReservationClaim   Type = 18
	TypeReservationChange  Type = 19
	TypeReservationPark    Type = 20
	TypeReservationResume  Type = 21
	TypeHoldPlace          Type = 22
	TypeHoldRelease        Type = 23
	TypePolicySet          Type = 24
	TypeNotifyDone         Type = 25
)

// Command is the data of one log entry.
type Command interface{ Type() Type }

// applier is a command that this package knows how to apply. apply reads and
// writes t only; when it returns an error, nothing it wrote remains.
type applier interface {
	Command
	apply(t *tx) error
}

// kind is what the registry knows of a type.
type kind struct {
	name   string
	decode func(body []byte) (applier, error)
}

var registry = map[Type]kind{}

// register is called once per command, from the command's own file. It returns
// a value only so that it can stand in a package-level var.
func register[C applier](n Type, name string) bool {
	if k, dup := registry[n]; dup {
		panic(fmt.Sprintf("fsm: type %d is registered twice: %s and %s", n, k.name, name))
	}
	var c C
	if c.Type() != n {
		panic(fmt.Sprintf("fsm: %s says type %d and is registered as %d", name, c.Type(), n))
	}
	registry[n] = kind{name: name, decode: func(body []byte) (applier, error) {
		var c C
		if err := json.Unmarshal(body, &c); err != nil {
			return nil, err
		}
		return c, nil
	}}
	return true
}

// types returns all registered numbers in order.
func types() []Type { return slices.Sorted(maps.Keys(registry)) }

// A log entry is a header and a JSON body:
//
//	byte 0      format (2)
//	bytes 1-2   type, big endian
//	bytes 3-10  the leader's time: Unix nanoseconds, big endian
//	bytes 11-   body
const (
	entryFormat      = 2
	entryHeaderBytes = 11
)

// Encode makes the log entry of cmd, stamped with the leader's time. The error
// is ErrInvalid for an unregistered type, a time outside 1970-2262, or an entry
// over CommandBytesMax.
func Encode(cmd Command, now time.Time) ([]byte, error) {
	k, ok := registry[cmd.Type()]
	if !ok {
		return nil, fmt.Errorf("encode command: %w", invalid("type %d is not registered", cmd.Type()))
	}
	if y := now.UTC().Year(); y < 1970 || y > 2261 {
		return nil, fmt.Errorf("encode %s: %w", k.name, invalid("time %s", now))
	}
	body, err := json.Marshal(cmd)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", k.name, err)
	}
	if n := entryHeaderBytes + len(body); n > CommandBytesMax {
		return nil, fmt.Errorf("encode %s: %w", k.name, invalid("%d bytes, at most %d", n, CommandBytesMax))
	}
	b := make([]byte, 0, entryHeaderBytes+len(body))
	b = append(b, entryFormat)
	b = binary.BigEndian.AppendUint16(b, uint16(cmd.Type()))
	b = binary.BigEndian.AppendUint64(b, uint64(now.UnixNano()))
	return append(b, body...), nil
}

// decode is the inverse. Every error it returns stops the process: a peer that
// skipped an entry would no longer be a replica.
func decode(b []byte) (applier, time.Time, error) {
	if len(b) < entryHeaderBytes {
		return nil, time.Time{}, fmt.Errorf("entry of %d bytes is shorter than its header", len(b))
	}
	if b[0] != entryFormat {
		return nil, time.Time{}, fmt.Errorf("entry has format %d, this program knows %d", b[0], entryFormat)
	}
	n := Type(binary.BigEndian.Uint16(b[1:3]))
	stamp := time.Unix(0, int64(binary.BigEndian.Uint64(b[3:11]))).UTC()
	k, ok := registry[n]
	if !ok {
		return nil, stamp, fmt.Errorf("entry has command type %d, unknown to this program: a newer vcnd wrote it; upgrade this host", n)
	}
	c, err := k.decode(b[entryHeaderBytes:])
	if err != nil {
		return nil, stamp, fmt.Errorf("entry of type %d (%s) is malformed: %w", n, k.name, err)
	}
	return c, stamp, nil
}
