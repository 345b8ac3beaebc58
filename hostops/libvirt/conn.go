package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
)

const (
	// handshakeTimeout bounds connecting; a healthy libvirtd needs milliseconds.
	handshakeTimeout = 10 * time.Second
	goodbyeTimeout   = 2 * time.Second
)

// conn is one connection, and ends with the context it was made with.
type conn struct {
	*golibvirt.Libvirt
	cluster string // of hosts; its domains are ours
	raw     net.Conn
	unhook  func() bool
}

// given is a dialer for a connection that is there already.
type given struct{ net.Conn }

func (g given) Dial() (net.Conn, error) { return g.Conn, nil }

func (d *Driver) connect(ctx context.Context) (*conn, error) {
	hs, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(hs, "unix", d.socket)
	if err != nil {
		return nil, fmt.Errorf("connect to libvirtd: %w", err)
	}
	c := &conn{Libvirt: golibvirt.NewWithDialer(given{raw}), cluster: d.cluster, raw: raw}
	stop := context.AfterFunc(hs, func() { raw.Close() })
	err = c.ConnectToURI(golibvirt.ConnectURI(d.uri))
	if !stop() && err == nil {
		err = hs.Err()
	}
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("connect to libvirtd: %w", cause(hs, err))
	}
	// From here on the end of ctx ends the connection, and with it any call
	// that waits on it.
	c.unhook = context.AfterFunc(ctx, func() { raw.Close() })
	return c, nil
}

// close says so first, or libvirtd writes an error into its log each time. It
// waits until the library's goroutines have ended.
func (c *conn) close() {
	bound := time.AfterFunc(goodbyeTimeout, func() { c.raw.Close() })
	_ = c.ConnectClose() // what was done is done; a libvirtd that is gone needs no goodbye
	bound.Stop()
	c.unhook()
	c.raw.Close()
	<-c.Disconnected()
}

// with runs one operation on a connection of its own.
func (d *Driver) with(ctx context.Context, do func(*conn) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(d.life, cancel)
	defer stop()
	c, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	return cause(ctx, do(c))
}

// cause prefers the context's error: that the connection broke is then only
// how the call was ended.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		return fmt.Errorf("%w (%v)", ctx.Err(), err)
	}
	return err
}

// is tells whether libvirt answered with one of these codes.
func is(err error, codes ...golibvirt.ErrorNumber) bool {
	var e golibvirt.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range codes {
		if e.Code == uint32(code) {
			return true
		}
	}
	return false
}
