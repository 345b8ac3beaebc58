package fsm

import "errors"

// ErrInitialized: ClusterInit was applied before.
var ErrInitialized = errors.New("cluster is initialized already")

// ClusterInit is the first command ever: it makes the cluster of hosts. A
// second one is refused (ErrInitialized).
type ClusterInit struct {
	Meta  Meta
	Token Token // the operator's
}

var _ = register[ClusterInit](TypeClusterInit, "ClusterInit")

// Type is the command's number.
func (ClusterInit) Type() Type { return TypeClusterInit }

func (c ClusterInit) apply(t *tx) error {
	if _, err := t.meta(); err == nil {
		return ErrInitialized
	}
	m := c.Meta
	if m.ClusterID == "" {
		return invalid("cluster id is empty")
	}
	if m.Expect < 1 || m.Expect > 5 {
		return invalid("expected voters %d: want 1-5", m.Expect)
	}
	if err := m.Pools.Check(); err != nil {
		return err
	}
	m.Formed, m.Created = false, t.now
	t.put(tabMeta, &m)
	if err := t.addToken(c.Token); err != nil {
		return err
	}
	t.event("", "", "cluster.init", "cluster %s made; waiting for %d voters", m.Name, m.Expect)
	return nil
}
