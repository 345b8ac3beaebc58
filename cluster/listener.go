package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// sockets is the Network of real hosts.
type sockets struct{}

func (sockets) Listen(addr netip.AddrPort) (net.Listener, error) {
	return net.Listen("tcp", addr.String())
}

func (sockets) Dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeMax, KeepAlive: 5 * time.Second}
	return d.DialContext(ctx, "tcp", addr)
}

func (sockets) Gossip(netip.AddrPort) (memberlist.Transport, error) { return nil, nil }

// listener accepts connections, shakes hands and sorts them by protocol.
type listener struct {
	n    *Node
	raw  net.Listener
	tls  *tls.Config
	http *queueListener

	mu     sync.Mutex
	open   map[net.Conn]struct{} // still shaking hands
	closed bool
	wg     sync.WaitGroup
}

func (n *Node) listen() (*listener, error) {
	raw, err := n.net.Listen(n.cfg.Bind)
	if err != nil {
		return nil, fmt.Errorf("listen on %v: %w", n.cfg.Bind, err)
	}
	return &listener{
		n: n, raw: raw, tls: n.id.server(),
		http: newQueueListener(raw.Addr()),
		open: map[net.Conn]struct{}{},
	}, nil
}

func (l *listener) serve() {
	l.wg.Go(func() {
		pause := 5 * time.Millisecond
		for {
			conn, err := l.raw.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil { // out of descriptors, most likely
				l.n.log.Warn("accept failed", "err", err)
				select {
				case <-time.After(pause):
				case <-l.n.done:
					return
				}
				pause = min(2*pause, time.Second)
				continue
			}
			pause = 5 * time.Millisecond
			if !l.begin(conn) {
				conn.Close()
				continue
			}
			l.wg.Go(func() { l.handshake(conn) })
		}
	})
}

func (l *listener) begin(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.open) >= handshakesMax {
		return false
	}
	l.open[c] = struct{}{}
	return true
}

func (l *listener) end(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
}

func (l *listener) handshake(raw net.Conn) {
	defer l.end(raw)
	conn := tls.Server(raw, l.tls)
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeMax)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		l.n.metrics.refused.Add(1)
		l.n.log.Warn("connection refused", "from", raw.RemoteAddr(), "err", err)
		raw.Close()
		return
	}
	cs := conn.ConnectionState()
	var err error
	switch cs.NegotiatedProtocol {
	case protoRaft:
		err = l.n.acceptRaft(ctx, conn)
	case protoHTTP1, protoHTTP2:
		err = l.http.put(ctx, conn)
	default:
		err = fmt.Errorf("protocol %q is not ours", cs.NegotiatedProtocol)
	}
	if err != nil {
		peer, _ := peerOf(&cs)
		l.n.log.Debug("connection closed", "from", raw.RemoteAddr(), "host", peer, "err", err)
		conn.Close()
	}
}

func (l *listener) close() {
	l.raw.Close()
	l.http.Close()
	l.mu.Lock()
	l.closed = true
	for c := range l.open {
		c.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
}

// queueListener is a net.Listener fed by hand.
type queueListener struct {
	addr net.Addr
	ch   chan net.Conn
	done chan struct{}
	once sync.Once
}

func newQueueListener(addr net.Addr) *queueListener {
	return &queueListener{addr: addr, ch: make(chan net.Conn), done: make(chan struct{})}
}

func (q *queueListener) put(ctx context.Context, c net.Conn) error {
	select {
	case q.ch <- c:
		return nil
	case <-q.done:
		return net.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (q *queueListener) Accept() (net.Conn, error) {
	select {
	case c := <-q.ch:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queueListener) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

func (q *queueListener) Addr() net.Addr { return q.addr }

// dial opens a verified connection to one host at one address.
func (n *Node) dial(ctx context.Context, hostID, addr string, protos ...string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeMax)
	defer cancel()
	raw, err := n.net.Dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dial host %s at %s: %w", hostID, addr, err)
	}
	conn := tls.Client(raw, n.id.client(hostID, protos...))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("dial host %s at %s: %w", hostID, addr, err)
	}
	return conn, nil
}
