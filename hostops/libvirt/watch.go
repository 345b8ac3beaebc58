package libvirt

import (
	"context"
	"fmt"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
)

const (
	backoffMin = 100 * time.Millisecond
	backoffMax = 5 * time.Second
)

// watched are the events after which List may differ.
var watched = []golibvirt.DomainEventID{golibvirt.DomainEventIDLifecycle, golibvirt.DomainEventIDAgentLifecycle}

// Watch is hostops.Domains. The first value comes when libvirtd is reached,
// and one after each reconnection: whatever happened in between was missed.
// The channel is closed when ctx or the driver ends.
func (d *Driver) Watch(ctx context.Context) <-chan struct{} {
	out := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(d.life, cancel)
	d.wg.Go(func() {
		defer close(out)
		defer cancel()
		defer stop()
		wait := backoffMin
		for {
			reached, err := d.follow(ctx, out)
			if ctx.Err() != nil {
				return
			}
			if reached {
				wait = backoffMin
				tell(out) // libvirtd is gone: that is news, too
			}
			d.log.Warn("watching libvirtd was interrupted", "err", err, "retry_in", wait)
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return
			}
			wait = min(2*wait, backoffMax)
		}
	})
	return out
}

func tell(out chan<- struct{}) {
	select {
	case out <- struct{}{}:
	default:
	}
}

// follow passes events on until the connection or ctx ends.
func (d *Driver) follow(ctx context.Context, out chan<- struct{}) (reached bool, err error) {
	c, err := d.connect(ctx)
	if err != nil {
		return false, err
	}
	// The library's streams are never cancelled, only closed with their
	// connection, and drained until then: a cancelled stream that still gets an
	// event blocks the connection's reader for ever.
	done := make(chan struct{}, len(watched)+1)
	streams := 0
	defer func() {
		c.close()
		for range streams {
			<-done
		}
	}()
	for _, id := range watched {
		events, err := c.SubscribeEvents(context.WithoutCancel(ctx), id, nil)
		if err != nil {
			return false, fmt.Errorf("subscribe to events: %w", cause(ctx, err))
		}
		streams++
		go func() {
			for range events {
				tell(out)
			}
			done <- struct{}{}
		}()
	}
	tell(out)
	streams++
	go func() {
		d.warm(c)
		done <- struct{}{}
	}()
	select {
	case <-c.Disconnected():
		return true, fmt.Errorf("connection to libvirtd: %w", golibvirt.ErrInterrupted)
	case <-ctx.Done():
		return true, ctx.Err()
	}
}

// warm has libvirtd find out what its QEMU can do, which takes it seconds and is
// kept: otherwise the first machine of a fresh host would wait for it.
func (d *Driver) warm(c *conn) {
	began := time.Now()
	_, err := c.ConnectGetDomainCapabilities(nil, golibvirt.OptString{"x86_64"}, nil, golibvirt.OptString{domainType(d.accel)}, 0)
	d.log.Debug("asked libvirtd what its QEMU can do", "took", time.Since(began).Round(time.Millisecond), "err", err)
}
