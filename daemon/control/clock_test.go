package control_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vcn/api"
	"vcn/daemon/control/controltest"
	"vcn/fsm"
)

const week = 7 * 24 * time.Hour

// jump is a cluster of hosts with a reservation of 8 hours, ready for use, at
// the moment when the leader's clock, and perhaps others', jump by a week.
func jump(t *testing.T, hosts int, ahead []int, after func(t *testing.T, r *controltest.Rig, id string, log *bytes.Buffer)) {
	var log bytes.Buffer
	o := controltest.Options{Hosts: hosts, Log: slog.New(slog.NewTextHandler(&log, nil))}
	lead(t, o, func(t *testing.T, r *controltest.Rig) {
		res := reserve(t, r, controltest.Spec("lab", 1))
		r.Settle()
		if got := state(r, res.ID); got != api.StateActive {
			t.Fatalf("before: %s", got)
		}
		for _, n := range ahead {
			r.Gossip.SetClock(controltest.HostID(n), week)
		}
		after(t, r, res.ID, &log)
	})
}

func state(r *controltest.Rig, id string) api.State {
	res, _ := r.FSM.View().Reservation(id)
	return res.State
}

// live lets time pass with a registration of every host each minute, as living
// hosts make them.
func live(t *testing.T, r *controltest.Rig, d time.Duration) {
	t.Helper()
	for ; d > 0; d -= time.Minute {
		for _, h := range r.FSM.View().Hosts() {
			if err := r.Control.RegisterHost(t.Context(), h); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
	}
	synctest.Wait()
}

// TestALeaderWithAWrongClockEndsNothing: alone in the future, it carries no time
// into the state, plans at the state's time, and says what is wrong; when its
// clock is right again all goes on, and ends when it should.
func TestALeaderWithAWrongClockEndsNothing(t *testing.T) {
	jump(t, 3, []int{0}, func(t *testing.T, r *controltest.Rig, id string, log *bytes.Buffer) {
		began, commands := r.FSM.View().Clock(), r.Applier.Index()
		live(t, r, 30*time.Minute)
		if got := r.FSM.View().Clock().Sub(began); got > time.Second {
			t.Errorf("the state's clock moved on by %s", got)
		}
		if got := r.Applier.Index() - commands; got > 100 {
			t.Errorf("%d commands in 30 minutes in which time stands still, 90 of them registrations", got)
		}
		if got := state(r, id); got != api.StateActive {
			t.Errorf("the reservation is %s, want active", got)
		}
		second := reserve(t, r, controltest.Spec("second", 1))
		if ahead := second.Start.Sub(began); ahead < 0 || ahead > time.Hour {
			t.Errorf("a reservation for now starts %s after the state's time", ahead)
		}
		if err := r.Control.Health(); err == nil || !strings.Contains(err.Error(), "only 1 of 3 hosts") {
			t.Errorf("health: %v", err)
		}
		if n := strings.Count(log.String(), "the clock is not believed"); n < 25 || n > 32 {
			t.Errorf("%d complaints in 30 minutes, want one a minute", n)
		}
		r.Gossip.SetClock(controltest.HostID(0), 0)
		live(t, r, 7*time.Hour+20*time.Minute)
		if got := state(r, id); got != api.StateActive {
			t.Errorf("before its end the reservation is %s, want active", got)
		}
		live(t, r, 15*time.Minute)
		if got := state(r, id); got != api.StateEnding {
			t.Errorf("after its end the reservation is %s, want ending", got)
		}
		if err := r.Control.Health(); err != nil {
			t.Errorf("health: %v", err)
		}
	})
}

func TestAJumpOfTimeIsBelievedOnlyFromAMajority(t *testing.T) {
	for name, c := range map[string]struct {
		hosts    int
		ahead    []int // hosts that show the leader's time
		mute     []int // that show none
		dead     []int
		voters   int // default: all hosts
		wait     time.Duration
		believed bool
	}{
		"one of two":                         {hosts: 2, ahead: []int{0}},
		"two of three":                       {hosts: 3, ahead: []int{0, 2}, believed: true},
		"two of four":                        {hosts: 4, ahead: []int{0, 1}},
		"two of three alive":                 {hosts: 4, ahead: []int{0, 1}, dead: []int{3}, believed: true},
		"a dead host's word does not count":  {hosts: 3, ahead: []int{0, 1}, dead: []int{1}},
		"who says nothing does not agree":    {hosts: 3, ahead: []int{0}, mute: []int{1, 2}},
		"a single host":                      {hosts: 1, ahead: []int{0}, believed: true},
		"a single host that says nothing":    {hosts: 1, ahead: []int{0}, mute: []int{0}, believed: true},
		"a voter of several, alone for long": {hosts: 3, ahead: []int{0}, dead: []int{1, 2}, wait: time.Hour},
		"the only voter, others not here":    {hosts: 2, ahead: []int{0}, dead: []int{1}, voters: 1},
		"the only voter, alone for long":     {hosts: 2, ahead: []int{0}, dead: []int{1}, voters: 1, wait: 3 * time.Minute, believed: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := controltest.New(t, controltest.Options{Hosts: c.hosts})
				res := reserve(t, r, controltest.Spec("lab", 1))
				for _, n := range c.ahead {
					r.Gossip.SetClock(controltest.HostID(n), week)
				}
				for _, n := range c.mute {
					r.Gossip.Mute(controltest.HostID(n))
				}
				for _, n := range c.dead {
					r.Gossip.Set(controltest.HostID(n), fsm.HostDead)
				}
				if c.voters > 0 {
					r.Gossip.SetVoters(c.voters)
				}
				ctx, cancel := context.WithCancel(t.Context())
				go r.Control.RunLeader(ctx)
				time.Sleep(c.wait + 20*time.Second)
				synctest.Wait()
				if err := r.Control.Health(); (err == nil) != c.believed {
					t.Errorf("health: %v, believed %v", err, c.believed)
				}
				if got := state(r, res.ID); (got == api.StateEnding) != c.believed {
					t.Errorf("the reservation is %s, believed %v", got, c.believed)
				}
				cancel()
				synctest.Wait()
			})
		})
	}
}

// TestAClusterThatWasOffForAWeekComesUp: the state is a week old, the clocks of
// all hosts are right and show it as soon as the hosts have met.
func TestAClusterThatWasOffForAWeekComesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, controltest.Options{})
		res := reserve(t, r, controltest.Spec("lab", 1))
		time.Sleep(week)
		for n := range 3 { // nobody has advertised yet
			r.Gossip.Mute(controltest.HostID(n))
		}
		ctx, cancel := context.WithCancel(t.Context())
		go r.Control.RunLeader(ctx)
		time.Sleep(10 * time.Second)
		if got := state(r, res.ID); got == api.StateEnding {
			t.Fatal("a jump was believed before any host was asked")
		}
		for n := range 2 { // one is still off
			r.Gossip.SetClock(controltest.HostID(n), 0)
		}
		time.Sleep(2 * time.Second)
		if got := state(r, res.ID); got != api.StateEnding {
			t.Errorf("the reservation is %s, want ending: its slot is long over", got)
		}
		second := reserve(t, r, controltest.Spec("second", 1))
		if d := time.Until(second.Start).Abs(); d > time.Hour {
			t.Errorf("a reservation for now starts %s away from it", d)
		}
		if err := r.Control.Health(); err != nil {
			t.Errorf("health: %v", err)
		}
		cancel()
		synctest.Wait()
	})
}

func TestAClockThatIsBehindIsUnhealthy(t *testing.T) {
	lead(t, controltest.Options{}, func(t *testing.T, r *controltest.Rig) {
		r.Gossip.SetClock(controltest.HostID(0), -time.Hour)
		if err := r.Control.Health(); err == nil || !strings.Contains(err.Error(), "already") {
			t.Errorf("health: %v", err)
		}
	})
}
