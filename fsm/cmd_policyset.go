package fsm

import (
	"cmp"
	"time"
)

// PolicySet replaces what the operator sets for all projects.
type PolicySet struct{ Policy Policy }

// NotifyDone says that the owners have been told of all events up to an index.
type NotifyDone struct{ Index uint64 }

var (
	_ = register[PolicySet](TypePolicySet, "PolicySet")
	_ = register[NotifyDone](TypeNotifyDone, "NotifyDone")
)

// Type is the command's number.
func (PolicySet) Type() Type { return TypePolicySet }

// Type is the command's number.
func (NotifyDone) Type() Type { return TypeNotifyDone }

// DefaultPolicy is what holds until the operator says otherwise.
var DefaultPolicy = Policy{
	HoldMax: time.Hour, HoldsMax: 10, ParkMax: 90 * 24 * time.Hour, SeriesMax: 100, WaitMax: 20,
}

// OrDefault is the policy, or the default one where none was set.
func (p Policy) OrDefault() Policy { return cmp.Or(p, DefaultPolicy) }

func (c PolicySet) apply(t *tx) error {
	p := c.Policy
	switch {
	case p.HoldMax < 0 || p.HoldMax > HoldMax:
		return invalid("holdMax %s: want 0s-%s", p.HoldMax, HoldMax)
	case p.HoldsMax < 0 || p.HoldsMax > HoldsMax:
		return invalid("holdsMax %d: want 0-%d", p.HoldsMax, HoldsMax)
	case p.ParkMax < time.Hour || p.ParkMax > ParkMax:
		return invalid("parkMax %s: want 1h-%s", p.ParkMax, ParkMax)
	case p.ParkBytes < 0 || p.ParkBytes > BytesMax:
		return invalid("parkBytes %d: want 0-%d", p.ParkBytes, BytesMax)
	case p.SeriesMax < 1 || p.SeriesMax > SeriesMax:
		return invalid("seriesMax %d: want 1-%d", p.SeriesMax, SeriesMax)
	case p.WaitMax < 0 || p.WaitMax > WaitlistMax:
		return invalid("waitMax %d: want 0-%d", p.WaitMax, WaitlistMax)
	}
	old, err := t.meta()
	if err != nil {
		return err
	}
	m := *old
	m.Policy = p
	t.put(tabMeta, &m)
	t.event("", "", "policy.set", "the operator's policy was changed")
	return nil
}

func (c NotifyDone) apply(t *tx) error {
	if c.Index > t.index {
		return invalid("told of events up to %d, which is ahead of %d", c.Index, t.index)
	}
	t.state.Notified = max(t.state.Notified, c.Index)
	return nil
}
