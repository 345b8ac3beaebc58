package scsi

import gotgt "github.com/gostor/gotgt/pkg/scsi"

const (
	maxAttentions = 8   // queued for one initiator
	maxPorts      = 256 // initiators that a unit remembers
)

// port is one initiator as the unit knows it. Our I_T nexus is an initiator
// name: initiators that lost a connection come back with another ISID, and are
// the same ones to reservations and unit attentions.
type port struct {
	sessions  int
	attention []gotgt.SCSISubError // pending, oldest first
}

// Attach says that a session (nexus) of an initiator begins. The first one
// since the unit was made hears of a power on, every later one of the loss of
// its nexus (SAM-5 6.2, 6.3.4).
func (u *Unit) Attach(nexus, initiator string) {
	u.nexusMu.Lock()
	defer u.nexusMu.Unlock()
	asc := gotgt.SCSISubError(gotgt.ASC_I_T_NEXUS_LOSS_OCCURRED)
	p := u.ports[initiator]
	if p == nil {
		u.makeRoom()
		p = &port{}
		u.ports[initiator] = p
		asc = gotgt.ASC_POWERON_RESET
		if u.cfg.PowerLost {
			asc = ascPowerOn
		}
	}
	p.sessions++
	u.nexus[nexus] = initiator
	u.queue(p, asc)
}

// makeRoom forgets an initiator that is away; a forgotten one hears of a power
// on when it returns, which tells it more than it missed.
func (u *Unit) makeRoom() {
	if len(u.ports) < maxPorts {
		return
	}
	for name, p := range u.ports {
		if p.sessions == 0 {
			u.pending.Add(-int64(len(p.attention)))
			delete(u.ports, name)
			return
		}
	}
}

// Detach says that a session has ended; none of its commands runs. RESERVE ends
// with it, a persistent reservation does not.
func (u *Unit) Detach(nexus string) {
	u.unreserve(nexus)
	u.nexusMu.Lock()
	defer u.nexusMu.Unlock()
	if p := u.ports[u.nexus[nexus]]; p != nil {
		p.sessions--
	}
	delete(u.nexus, nexus)
	delete(u.copies, nexus)
}

// Reset is a logical unit reset; every initiator is told (SAM-5 6.3.3).
// Persistent reservations outlive it.
func (u *Unit) Reset() {
	u.unreserve("")
	u.attention(gotgt.ASC_POWERON_RESET)
}

// Renew begins a new generation of the unit's users: registrations,
// reservations and whom it knew are forgotten. No session may be attached.
func (u *Unit) Renew() {
	u.access.Lock()
	u.res = reservations{generation: u.res.generation + 1}
	u.access.Unlock()
	u.unreserve("")
	u.nexusMu.Lock()
	defer u.nexusMu.Unlock()
	clear(u.ports)
	clear(u.nexus)
	clear(u.copies)
	u.pending.Store(0)
}

// attention queues a unit attention for every initiator.
func (u *Unit) attention(asc gotgt.SCSISubError) {
	u.nexusMu.Lock()
	defer u.nexusMu.Unlock()
	for _, p := range u.ports {
		u.queue(p, asc)
	}
}

// tell queues a unit attention for one initiator, there or not.
func (u *Unit) tell(initiator string, asc gotgt.SCSISubError) {
	u.nexusMu.Lock()
	defer u.nexusMu.Unlock()
	if p := u.ports[initiator]; p != nil {
		u.queue(p, asc)
	}
}

// queue is called with nexusMu. What is pending already is not said twice.
func (u *Unit) queue(p *port, asc gotgt.SCSISubError) {
	for _, a := range p.attention {
		if a == asc {
			return
		}
	}
	if len(p.attention) < maxAttentions {
		p.attention = append(p.attention, asc)
		u.pending.Add(1)
	}
}

func (u *Unit) takeAttention(nexus string) (gotgt.SCSISubError, bool) {
	if u.pending.Load() == 0 {
		return 0, false
	}
	u.nexusMu.Lock()
	defer u.nexusMu.Unlock()
	p := u.ports[u.nexus[nexus]]
	if p == nil || len(p.attention) == 0 {
		return 0, false
	}
	asc := p.attention[0]
	p.attention = p.attention[1:]
	u.pending.Add(-1)
	return asc, true
}

// attends says whether a unit attention is pending for a nexus.
func (u *Unit) attends(nexus string) bool {
	if u.pending.Load() == 0 { // of all, those that are away included
		return false
	}
	u.nexusMu.Lock()
	defer u.nexusMu.Unlock()
	p := u.ports[u.nexus[nexus]]
	return p != nil && len(p.attention) > 0
}

func (u *Unit) initiator(nexus string) string {
	u.nexusMu.Lock()
	defer u.nexusMu.Unlock()
	return u.nexus[nexus]
}
