package scsi

import (
	"encoding/binary"
	"slices"

	gotgt "github.com/gostor/gotgt/pkg/scsi"
)

// Persistent reservations (SPC-4 5.12, 6.15, 6.16) and the RESERVE and RELEASE
// of SPC-2. They live in memory: APTPL is refused, and a new process starts
// without any, as a disk does after a power cycle.

const (
	maxRegistrations = 64
	outListBytes     = 24 // parameter list of PERSISTENT RESERVE OUT
)

// Service actions.
const (
	saReadKeys        = 0x00
	saReadReservation = 0x01
	saReportCaps      = 0x02
	saReadFullStatus  = 0x03

	saRegister       = 0x00
	saReserve        = 0x01
	saRelease        = 0x02
	saClear          = 0x03
	saPreempt        = 0x04
	saPreemptAbort   = 0x05
	saRegisterIgnore = 0x06
)

// Types of reservations (SPC-4 table 63).
const (
	prNone            = 0
	prWriteExclusive  = 1
	prExclusiveAccess = 3
	prWriteRegistered = 5
	prAccessRegister  = 6
	prWriteAll        = 7
	prAccessAll       = 8
)

type registration struct {
	initiator string
	key       uint64
}

// reservations are changed under Unit.access held for writing, so that none of
// the commands they forbid is running any more when a change is answered.
type reservations struct {
	generation uint32
	keys       []registration // in the order they came
	kind       byte           // of the reservation, prNone without one
	holder     string         // initiator; not used by the all-registrants kinds
}

func (r *reservations) find(initiator string) int {
	return slices.IndexFunc(r.keys, func(x registration) bool { return x.initiator == initiator })
}

func allRegistrants(kind byte) bool { return kind == prWriteAll || kind == prAccessAll }

func registrantsOnly(kind byte) bool { return kind >= prWriteRegistered }

func validKind(k byte) bool {
	return k == prWriteExclusive || k == prExclusiveAccess || k >= prWriteRegistered && k <= prAccessAll
}

// holds says whether a registered initiator holds the reservation.
func (r *reservations) holds(initiator string) bool {
	if r.kind == prNone {
		return false
	}
	return allRegistrants(r.kind) && r.find(initiator) >= 0 || !allRegistrants(r.kind) && r.holder == initiator
}

// conflict says whether a reservation keeps a command from running; the caller
// holds access.
func (u *Unit) conflict(nexus string, class access) bool {
	r := &u.res
	if class != accessCapacity && u.reservedByOther(nexus) {
		return true
	}
	if r.kind == prNone || class < accessRead {
		return false
	}
	i := u.initiator(nexus)
	if r.holds(i) || registrantsOnly(r.kind) && r.find(i) >= 0 {
		return false
	}
	readable := r.kind == prWriteExclusive || r.kind == prWriteRegistered || r.kind == prWriteAll
	return class != accessRead || !readable
}

// reservedByOther says whether another nexus has the unit by RESERVE.
func (u *Unit) reservedByOther(nexus string) bool {
	by := u.reserved.Load()
	return by != nil && *by != nexus
}

// unreserve ends a RESERVE of one nexus, or of whoever has it.
func (u *Unit) unreserve(nexus string) {
	if by := u.reserved.Load(); by != nil && (nexus == "" || *by == nexus) {
		u.reserved.CompareAndSwap(by, nil)
	}
}

func conflicts() Result { return Result{Status: StatusConflict} }

// reserve is RESERVE(6) and (10) of the whole unit (SPC-2 7.21). It and
// persistent reservations exclude each other (SPC-4 5.12.3, without CRH).
func (u *Unit) reserve(k *call) Result {
	// Third party, extents: both obsolete.
	if k.cdb[1]&0x1f != 0 {
		return illegalAt(1)
	}
	u.access.Lock()
	defer u.access.Unlock()
	if len(u.res.keys) > 0 || u.reservedByOther(k.nexus) {
		return conflicts()
	}
	u.reserved.Store(&k.nexus)
	return Result{}
}

// release ends a RESERVE of the same nexus; of another one it does nothing.
func (u *Unit) release(k *call) Result {
	if k.cdb[1]&0x1f != 0 {
		return illegalAt(1)
	}
	u.access.RLock()
	defer u.access.RUnlock()
	if len(u.res.keys) > 0 {
		return conflicts()
	}
	u.unreserve(k.nexus)
	return Result{}
}

// reserveOut is PERSISTENT RESERVE OUT.
func (u *Unit) reserveOut(k *call) Result {
	action, scope, kind := k.cdb[1]&0x1f, k.cdb[2]>>4, k.cdb[2]&0x0f
	if be32(k.cdb[5:]) != outListBytes || len(k.out) != outListBytes {
		return Check(gotgt.ILLEGAL_REQUEST, gotgt.ASC_PARAMETER_LIST_LENGTH_ERR)
	}
	key, action2 := be64(k.out), be64(k.out[8:])
	const specIPT, aptpl = 0x08, 0x01
	registers := action == saRegister || action == saRegisterIgnore
	if k.out[20]&specIPT != 0 || registers && k.out[20]&aptpl != 0 {
		// Neither registration for others nor through a power loss is served.
		return Check(gotgt.ILLEGAL_REQUEST, gotgt.ASC_INVALID_FIELD_IN_PARMS)
	}
	if !registers && action != saClear && (scope != 0 || !validKind(kind)) {
		return illegalAt(2)
	}
	u.access.Lock()
	defer u.access.Unlock()
	if u.reserved.Load() != nil {
		return conflicts()
	}
	who := u.initiator(k.nexus)
	at := u.res.find(who)
	if registers {
		return u.register(who, at, key, action2, action == saRegisterIgnore)
	}
	if at < 0 || u.res.keys[at].key != key {
		return conflicts()
	}
	switch action {
	case saReserve:
		return u.reservePersistent(who, kind)
	case saRelease:
		return u.releasePersistent(who, kind)
	case saClear:
		u.res.generation++
		u.tellRegistered(who, gotgt.ASC_RESERVATIONS_PREEMPTED)
		u.res.keys, u.res.kind, u.res.holder = nil, prNone, ""
		return Result{}
	}
	// PREEMPT AND ABORT needs no more than PREEMPT: holding access, nothing of
	// anybody is running, and what is still on its way meets the reservation.
	return u.preempt(who, action2, kind)
}

// register is REGISTER and REGISTER AND IGNORE EXISTING KEY; a new key of 0
// takes the registration back.
func (u *Unit) register(who string, at int, old, key uint64, ignore bool) Result {
	r := &u.res
	if at < 0 {
		switch {
		case !ignore && old != 0:
			return conflicts()
		case key == 0:
			return Result{}
		case len(r.keys) >= maxRegistrations:
			return Check(gotgt.ILLEGAL_REQUEST, gotgt.ASC_INSUFFICIENT_REGISTRATION_RESOURCES)
		}
		r.generation++
		r.keys = append(r.keys, registration{who, key})
		return Result{}
	}
	if !ignore && r.keys[at].key != old {
		return conflicts()
	}
	r.generation++
	if key != 0 {
		r.keys[at].key = key
		return Result{}
	}
	r.keys = slices.Delete(r.keys, at, at+1)
	last := allRegistrants(r.kind) && len(r.keys) == 0
	if last || r.kind != prNone && !allRegistrants(r.kind) && r.holder == who {
		u.endReservation(who)
	}
	return Result{}
}

// endReservation ends the reservation; those whom it let in are told.
func (u *Unit) endReservation(by string) {
	if registrantsOnly(u.res.kind) {
		u.tellRegistered(by, gotgt.ASC_RESERVATIONS_RELEASED)
	}
	u.res.kind, u.res.holder = prNone, ""
}

func (u *Unit) tellRegistered(but string, asc gotgt.SCSISubError) {
	for _, x := range u.res.keys {
		if x.initiator != but {
			u.tell(x.initiator, asc)
		}
	}
}

func (u *Unit) reservePersistent(who string, kind byte) Result {
	r := &u.res
	if r.kind == prNone {
		r.kind, r.holder = kind, who
		return Result{}
	}
	if !r.holds(who) || r.kind != kind {
		return conflicts()
	}
	return Result{}
}

func (u *Unit) releasePersistent(who string, kind byte) Result {
	if !u.res.holds(who) {
		return Result{}
	}
	if u.res.kind != kind {
		return Check(gotgt.ILLEGAL_REQUEST, gotgt.ASC_INVALID_RELEASE_OF_PERSISTENT_RESERVATION)
	}
	u.endReservation(who)
	return Result{}
}

// preempt takes registrations, and with them perhaps the reservation, away
// (SPC-4 5.12.11.2.3).
func (u *Unit) preempt(who string, victim uint64, kind byte) Result {
	r := &u.res
	all := allRegistrants(r.kind)
	takes := all && victim == 0
	if r.kind != prNone && !all {
		if at := r.find(r.holder); at >= 0 && r.keys[at].key == victim {
			takes = true
		}
	}
	if victim == 0 && !all {
		return Check(gotgt.ILLEGAL_REQUEST, gotgt.ASC_INVALID_FIELD_IN_PARMS)
	}
	was := r.kind
	var kept []registration
	gone := 0
	for _, x := range r.keys {
		hit := x.key == victim || takes && all
		if !hit {
			kept = append(kept, x)
			continue
		}
		gone++
		if x.initiator == who && takes {
			kept = append(kept, x) // the new holder stays registered
		} else if x.initiator != who {
			u.tell(x.initiator, ascRegistrationsPreempted)
		}
	}
	if gone == 0 {
		return conflicts()
	}
	r.generation++
	r.keys = kept
	switch {
	case takes:
		r.kind, r.holder = kind, who
		if registrantsOnly(was) && was != kind {
			u.tellRegistered(who, gotgt.ASC_RESERVATIONS_RELEASED)
		}
	case all && len(kept) == 0 || !all && r.kind != prNone && r.find(r.holder) < 0:
		u.endReservation(who)
	}
	return Result{}
}

// reserveIn is PERSISTENT RESERVE IN.
func (u *Unit) reserveIn(k *call) Result {
	u.access.RLock()
	defer u.access.RUnlock()
	var b []byte
	switch k.cdb[1] & 0x1f {
	case saReadKeys:
		b = u.listing(func(b []byte) []byte {
			for _, x := range u.res.keys {
				b = binary.BigEndian.AppendUint64(b, x.key)
			}
			return b
		})
	case saReadReservation:
		b = u.listing(u.appendReservation)
	case saReportCaps:
		// ATP_C: one target port is all ports. TMV: the types below. No
		// statement which commands the write exclusive kinds allow.
		b = []byte{0, 8, 0x04, 0x80, 0xea, 0x01, 0, 0}
	case saReadFullStatus:
		b = u.listing(u.appendFullStatus)
	default:
		return illegalAt(1)
	}
	return Result{Data: cut(b, be16(k.cdb[7:]))}
}

// listing puts PRGENERATION and the length before what f appends.
func (u *Unit) listing(f func([]byte) []byte) []byte {
	b := f(make([]byte, 8, 64))
	binary.BigEndian.PutUint32(b, u.res.generation)
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-8))
	return b
}

func (u *Unit) appendReservation(b []byte) []byte {
	if u.res.kind == prNone {
		return b
	}
	key := uint64(0)
	if at := u.res.find(u.res.holder); at >= 0 && !allRegistrants(u.res.kind) {
		key = u.res.keys[at].key
	}
	b = binary.BigEndian.AppendUint64(b, key)
	return append(b, 0, 0, 0, 0, 0, u.res.kind, 0, 0)
}

// appendFullStatus adds one descriptor for each registration, with an iSCSI
// TransportID that is the initiator's name (SPC-4 7.6.4.6).
func (u *Unit) appendFullStatus(b []byte) []byte {
	for _, x := range u.res.keys {
		d := make([]byte, 24)
		binary.BigEndian.PutUint64(d, x.key)
		d[12] = 0x02 // ALL_TG_PT
		if u.res.holds(x.initiator) {
			d[12] |= 0x01
			d[13] = u.res.kind
		}
		d[19] = 1 // relative target port
		name := append([]byte(x.initiator), 0)
		for len(name)%4 != 0 || len(name) < 20 {
			name = append(name, 0)
		}
		id := append([]byte{0x05, 0, byte(len(name) >> 8), byte(len(name))}, name...)
		binary.BigEndian.PutUint32(d[20:], uint32(len(id)))
		b = append(append(b, d...), id...)
	}
	return b
}
