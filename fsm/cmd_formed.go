package fsm

// Formed says that the expected voters have joined, once.
type Formed struct{}

var _ = register[Formed](TypeFormed, "Formed")

// Type is the command's number.
func (Formed) Type() Type { return TypeFormed }

func (Formed) apply(t *tx) error {
	m, err := t.meta()
	if err != nil {
		return err
	}
	if m.Formed {
		return nil
	}
	c := *m
	c.Formed = true
	t.put(tabMeta, &c)
	t.event("", "", "cluster.formed", "%d voters have joined; reservations are accepted", c.Expect)
	return nil
}
