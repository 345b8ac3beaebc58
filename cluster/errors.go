package cluster

import "errors"

var (
	// ErrNotLeader: another host leads; see Node.Leader for whom to ask.
	ErrNotLeader = errors.New("cluster: this host does not lead")
	// ErrNoLeader: nobody is known to lead now; try again shortly.
	ErrNoLeader = errors.New("cluster: no leader")
	// ErrOutcomeUnknown: leadership or the wait ended after the command was
	// handed to Raft. It may or may not commit; repeat it with its idempotency key.
	ErrOutcomeUnknown = errors.New("cluster: outcome of command unknown")
	// ErrNotPeer: this host is outside the Raft group.
	ErrNotPeer = errors.New("cluster: this host is not in the Raft group")
	// ErrBusy: too many commands wait; try again shortly.
	ErrBusy = errors.New("cluster: too many commands in flight")
	// ErrTooLarge: a command or an advert is over its limit.
	ErrTooLarge = errors.New("cluster: too large")
	// ErrUnknownHost: no address is known for a host id.
	ErrUnknownHost = errors.New("cluster: unknown host")
	// ErrWrongCluster: the other end has a certificate of another cluster.
	ErrWrongCluster = errors.New("cluster: certificate of another cluster")
	// ErrWrongHost: the other end is a host of this cluster, but not the one asked for.
	ErrWrongHost = errors.New("cluster: certificate of another host")
	// ErrShutdown: the node is shut down.
	ErrShutdown = errors.New("cluster: shut down")
	// ErrBootstrapped: this data directory has bootstrapped a group before and has lost it.
	ErrBootstrapped = errors.New("cluster: this host has bootstrapped before")
	// ErrRefused: a peer refused an internal request; the text says why.
	ErrRefused = errors.New("cluster: refused by peer")
)
