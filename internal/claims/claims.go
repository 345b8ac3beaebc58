package claims

import (
	"context"
	"sync"
)

// Set gives one caller at a time the right to work on a name. Its zero value is
// ready to use.
type Set struct {
	mu   sync.Mutex
	busy map[string]chan struct{} // closed when the claim ends
}

// Claim waits until no other call works on name, or ctx ends.
func (c *Set) Claim(ctx context.Context, name string) (release func(), err error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c.mu.Lock()
		wait := c.busy[name]
		if wait == nil {
			if c.busy == nil {
				c.busy = map[string]chan struct{}{}
			}
			done := make(chan struct{})
			c.busy[name] = done
			c.mu.Unlock()
			return func() {
				c.mu.Lock()
				delete(c.busy, name)
				c.mu.Unlock()
				close(done)
			}, nil
		}
		c.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
