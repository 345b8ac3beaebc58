package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// pinned is a Raft address: whom to find, and where. Written "<host id>@<ip:port>".
type pinned struct{ host, addr string }

func (p pinned) String() string             { return p.host + "@" + p.addr }
func (p pinned) Network() string            { return "tcp" }
func (p pinned) server() raft.ServerAddress { return raft.ServerAddress(p.String()) }

func parsePinned(a raft.ServerAddress) (pinned, error) {
	host, addr, ok := strings.Cut(string(a), "@")
	if !ok || !idPattern.MatchString(host) || addr == "" {
		return pinned{}, fmt.Errorf("read raft address %q: want <host>@<ip:port>", a)
	}
	return pinned{host, addr}, nil
}

// addressBook tells Raft where a host is now. On error Raft takes the address
// in its configuration, which is pinned to the same host.
type addressBook struct{ n *Node }

func (b addressBook) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	addr, err := b.n.addressOf(string(id))
	if err != nil {
		return "", err
	}
	return pinned{string(id), addr}.server(), nil
}

// raftLayer is Raft's view of the network: our listener's vcn-raft/1
// connections in, pinned TLS connections out. Closing it closes all of them.
type raftLayer struct {
	n     *Node
	group groupID
	in    *queueListener

	mu     sync.Mutex
	conns  map[*raftConn]struct{}
	closed bool
}

func newRaftLayer(n *Node, id groupID) *raftLayer {
	return &raftLayer{n: n, group: id, in: newQueueListener(n.raftAddr), conns: map[*raftConn]struct{}{}}
}

func (l *raftLayer) Accept() (net.Conn, error) { return l.in.Accept() }
func (l *raftLayer) Addr() net.Addr            { return l.n.raftAddr }

// Dial opens a connection to the pinned host and says which group it is for.
func (l *raftLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	p, err := parsePinned(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(timeout, dialTimeMax))
	defer cancel()
	// A stopping node does not wait for a dial that nobody answers.
	go func() {
		select {
		case <-l.in.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	conn, err := l.n.dial(ctx, p.host, p.addr, protoRaft)
	if err != nil {
		return nil, err
	}
	if err = conn.SetDeadline(time.Now().Add(handshakeTimeMax)); err == nil {
		_, err = conn.Write(l.group[:])
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("greet raft at %s: %w", p, err)
	}
	return l.track(conn)
}

func (l *raftLayer) track(c net.Conn) (net.Conn, error) {
	rc := &raftConn{Conn: c, layer: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		c.Close()
		return nil, net.ErrClosed
	}
	l.conns[rc] = struct{}{}
	return rc, nil
}

func (l *raftLayer) Close() error {
	l.in.Close()
	l.mu.Lock()
	l.closed = true
	open := make([]*raftConn, 0, len(l.conns))
	for c := range l.conns {
		open = append(open, c)
	}
	l.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
	return nil
}

type raftConn struct {
	net.Conn
	layer *raftLayer
}

func (c *raftConn) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.conns, c)
	c.layer.mu.Unlock()
	return c.Conn.Close()
}

// acceptRaft takes a connection that asked for Raft, after it named our group.
func (n *Node) acceptRaft(ctx context.Context, conn net.Conn) error {
	g := n.group.Load()
	if g == nil {
		return ErrNotPeer
	}
	var id groupID
	if err := conn.SetReadDeadline(time.Now().Add(handshakeTimeMax)); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, id[:]); err != nil {
		return fmt.Errorf("read raft greeting: %w", err)
	}
	if id != g.id {
		n.metrics.refused.Add(1)
		return fmt.Errorf("raft group %v, ours is %v: %w", id, g.id, ErrRefused)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	c, err := g.layer.track(conn)
	if err != nil {
		return err
	}
	if err := g.layer.in.put(ctx, c); err != nil {
		return errors.Join(err, c.Close())
	}
	return nil
}
