package fsm

// RollsRegister records the rolls the leader knows.
type RollsRegister struct{ Rolls []Roll }

var _ = register[RollsRegister](TypeRollsRegister, "RollsRegister")

// Type is the command's number.
func (RollsRegister) Type() Type { return TypeRollsRegister }

// apply keeps what is the same, adds what is new, and replaces a roll whose
// content changed under the same version: recipes are named by content, so
// nothing built before changes its meaning, but people should know.
func (c RollsRegister) apply(t *tx) error {
	for _, r := range c.Rolls {
		if r.Name == "" || r.Version == "" || r.Digest == "" {
			return invalid("roll %q@%q with digest %q", r.Name, r.Version, r.Digest)
		}
		old, had := first[Roll](t.reader, tabRolls, "id", key(r.Name, r.Version))
		if had && old.Digest == r.Digest {
			continue
		}
		r.Registered = t.now
		t.put(tabRolls, &r)
		if had {
			t.event("", "", "roll.changed", "roll %s@%s has new content", r.Name, r.Version)
		} else {
			t.event("", "", "roll.registered", "roll %s@%s is known", r.Name, r.Version)
		}
	}
	return nil
}
