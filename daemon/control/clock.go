package control

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"vcn/fsm"
)

// Ends are final: a reservation that has ended does not come back. So the
// leader does not carry a jump of time into the log on its own word.
const (
	// clockJumpMax is how far the wall clock may be from the state's without
	// being asked about. Hosts register every minute, so where hosts live the
	// state's clock is at most minutes behind.
	clockJumpMax = 10 * time.Minute
	// clockAgreeWithin is how far apart clocks that agree may be: the age of what
	// a host last said is known, the time that gossip took to carry it is not.
	clockAgreeWithin = time.Minute
	// clockAloneAfter is how long a single voter waits for the other hosts
	// to show up before it believes its own clock.
	clockAloneAfter = 2 * time.Minute
	// clockLogEvery bounds how often a clock in doubt is complained about.
	clockLogEvery = time.Minute
)

// clock is the time that commands are stamped with: the wall's, unless it is
// ahead of the state's by more than other hosts confirm.
type clock struct {
	wall    func() time.Time
	state   State
	members Members

	mu     sync.Mutex
	alone  time.Time // since when no other host is seen, by the wall clock's monotonic reading
	logged time.Time
}

// now returns the time, and why it is not the wall clock's: then it is the
// state's clock, so that time stands still.
func (c *clock) now() (time.Time, error) {
	wall, v := c.wall(), c.state.View()
	at := v.Clock()
	if at.IsZero() || wall.Sub(at) <= clockJumpMax {
		return wall.UTC(), nil
	}
	if err := c.confirm(v, wall); err != nil {
		return at, fmt.Errorf("the wall clock of this host says %s, the cluster's time is %s: %w: check the clocks of all hosts (timedatectl); until then time stands still",
			wall.UTC().Format(time.RFC3339), at.Format(time.RFC3339), err)
	}
	return wall.UTC(), nil
}

// confirm asks the other hosts' clocks, as gossip shows them, about a jump: a
// majority of the hosts that are alive, this one included, has to agree.
func (c *clock) confirm(v *fsm.View, wall time.Time) error {
	alive, agree := 0, 0
	for _, m := range c.members.Members() {
		if m.Status != fsm.HostAlive {
			continue
		}
		alive++
		if !m.Wall.IsZero() && wall.Sub(m.Wall).Abs() <= clockAgreeWithin {
			agree++
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if alive > 1 {
		c.alone = time.Time{}
		if 2*agree <= alive {
			return fmt.Errorf("the clocks of only %d of %d hosts agree with it", agree, alive)
		}
		return nil
	}
	others := 0
	for _, h := range v.Hosts() {
		if h.Status != fsm.HostLeft {
			others++
		}
	}
	switch {
	case others <= 1:
		return nil // there is nobody to ask
	case c.members.Voters() > 1:
		return errors.New("no other host's clock is seen yet")
	case c.alone.IsZero() || wall.Sub(c.alone) < 0:
		c.alone = wall
	}
	if wait := clockAloneAfter - wall.Sub(c.alone); wait > 0 {
		return fmt.Errorf("no other host is seen to ask; it is believed in %s", wait.Round(time.Second))
	}
	return nil
}

// complain is true once per clockLogEvery.
func (c *clock) complain() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.wall()
	if since := now.Sub(c.logged); !c.logged.IsZero() && since >= 0 && since < clockLogEvery {
		return false
	}
	c.logged = now
	return true
}

// believed is the time, and whether it is the wall clock's. Doubts are logged.
func (c *Control) believed() (time.Time, bool) {
	now, err := c.clock.now()
	if err != nil && c.clock.complain() {
		c.cfg.Log.Error("the clock is not believed", "err", err)
	}
	return now, err == nil
}

// now is the time of planning and of commands; never before the state's clock.
func (c *Control) now() time.Time {
	now, _ := c.believed()
	if at := c.cfg.State.View().Clock(); at.After(now) {
		return at
	}
	return now
}

// Health says what is wrong with what this package does on this host; nil for
// nothing. That is its clock: it is ahead of the cluster's and other hosts do not
// confirm it, or it is behind.
func (c *Control) Health() error {
	if _, err := c.clock.now(); err != nil {
		return err
	}
	wall, at := c.cfg.Now(), c.cfg.State.View().Clock()
	if at.Sub(wall) > clockJumpMax {
		return fmt.Errorf("the wall clock of this host says %s, the cluster's time is %s already: check the clocks of all hosts (timedatectl)",
			wall.UTC().Format(time.RFC3339), at.Format(time.RFC3339))
	}
	return nil
}
