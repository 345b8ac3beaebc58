package control_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vcn/api"
	"vcn/daemon/control/controltest"
	"vcn/fsm"
)

// lead runs f while the rig's control leads, in virtual time.
func lead(t *testing.T, o controltest.Options, f func(*testing.T, *controltest.Rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, o)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { r.Control.RunLeader(ctx); close(done) }()
		synctest.Wait()
		f(t, r)
		cancel()
		<-done // the leader's tasks end with the term
	})
}

func status(r *controltest.Rig, host string) string {
	h, _ := r.FSM.View().Host(host)
	return h.Status
}

func TestHostWatch(t *testing.T) {
	host := controltest.HostID(1)
	for name, c := range map[string]struct {
		steps []string // gossip's word, then how long it stands
		want  string
	}{
		"a blink is not a death":            {[]string{"dead", "10s", "alive", "10s"}, fsm.HostAlive},
		"dead for long is dead":             {[]string{"dead", "17s"}, fsm.HostDead},
		"suspect for long is dead":          {[]string{"suspect", "17s"}, fsm.HostDead},
		"blind for long is dead":            {[]string{"blind", "17s"}, fsm.HostDead},
		"blinks do not add up":              {[]string{"dead", "10s", "alive", "2s", "dead", "10s"}, fsm.HostAlive},
		"a goodbye counts at once":          {[]string{"left", "1ms"}, fsm.HostLeft},
		"alive again after a moment":        {[]string{"dead", "17s", "alive", "3s"}, fsm.HostAlive},
		"not alive again at the first sign": {[]string{"dead", "17s", "alive", "500ms"}, fsm.HostDead},
	} {
		t.Run(name, func(t *testing.T) {
			lead(t, controltest.Options{}, func(t *testing.T, r *controltest.Rig) {
				for i := 0; i < len(c.steps); i += 2 {
					r.Gossip.Set(host, c.steps[i])
					d, err := time.ParseDuration(c.steps[i+1])
					if err != nil {
						t.Fatal(err)
					}
					time.Sleep(d)
					synctest.Wait()
				}
				if got := status(r, host); got != c.want {
					t.Errorf("status is %s, want %s", got, c.want)
				}
				if got := status(r, controltest.HostID(0)); got != fsm.HostAlive {
					t.Errorf("another host is %s, want alive", got)
				}
			})
		})
	}
}

func TestLeaderIsQuietWhenNothingIsDue(t *testing.T) {
	lead(t, controltest.Options{}, func(t *testing.T, r *controltest.Rig) {
		time.Sleep(time.Minute)
		before := r.Applier.Index()
		time.Sleep(24 * time.Hour)
		if got := r.Applier.Index(); got != before {
			t.Errorf("%d commands in an idle day, want none", got-before)
		}
	})
}

func TestRollsAreRegisteredOnce(t *testing.T) {
	lead(t, controltest.Options{}, func(t *testing.T, r *controltest.Rig) {
		if got, want := len(r.FSM.View().Rolls()), len(r.Catalog.Rolls()); got != want || want < 4 {
			t.Errorf("%d rolls registered, want %d", got, want)
		}
	})
}

func TestANewLeaderCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, controltest.Options{})
		tok, err := r.Control.CreateToken(t.Context(), api.TokenRequest{Kind: api.TokenJoin}, "op")
		if err != nil {
			t.Fatal(err)
		}
		res := reserve(t, r, controltest.Spec("lab", 1))
		time.Sleep(time.Hour + fsm.TokenGrace + time.Second) // nobody leads
		if _, ok := r.FSM.View().TokenByID(tok.ID); !ok {
			t.Fatal("time passed without a leader")
		}
		ctx, cancel := context.WithCancel(t.Context())
		go r.Control.RunLeader(ctx)
		time.Sleep(time.Second)
		if _, ok := r.FSM.View().TokenByID(tok.ID); ok {
			t.Error("the expired token is still there")
		}
		if now, _ := r.FSM.View().Reservation(res.ID); now.State != api.StateEnding {
			t.Errorf("the reservation is %s, want ending: its slot is long over", now.State)
		}
		cancel()
		synctest.Wait()
	})
}

// builders says who builds which image, by appliance.
func builders(r *controltest.Rig) map[string]string {
	out := map[string]string{}
	for _, i := range r.FSM.View().Images() {
		out[i.Appliance] = i.Builder
	}
	return out
}

func failBuild(r *controltest.Rig, appliance, message string) {
	for _, i := range r.FSM.View().Images() {
		if i.Appliance == appliance {
			r.Apply(fsm.HostReport{Host: i.Builder, Objects: []fsm.Object{{Kind: fsm.KindImage, ID: i.Recipe, State: fsm.ObjFailed, Message: message}}})
		}
	}
}

func TestDeadBuilderIsReplaced(t *testing.T) {
	lead(t, controltest.Options{}, func(t *testing.T, r *controltest.Rig) {
		reserve(t, r, controltest.Spec("lab", 1))
		was := builders(r)["frontend"]
		r.Gossip.Set(was, "dead")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if now := builders(r)["frontend"]; now == was || now == "" {
			t.Errorf("the builder is %q, was %q and is dead", now, was)
		}
	})
}

func TestImageThatCannotBeBuiltFailsItsReservations(t *testing.T) {
	lead(t, controltest.Options{}, func(t *testing.T, r *controltest.Rig) {
		res := reserve(t, r, controltest.Spec("lab", 1))
		seen := map[string]bool{}
		for range 60 {
			seen[builders(r)["worker"]] = true
			failBuild(r, "worker", "E: package slurmd has no installation candidate")
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if now, _ := r.FSM.View().Reservation(res.ID); now.Outcome == api.StateFailed {
				if !strings.Contains(now.Message, "slurmd has no installation candidate") || !strings.Contains(now.Message, "worker") {
					t.Errorf("message is %q, want the appliance and the builder's words", now.Message)
				}
				if len(seen) != 3 {
					t.Errorf("%d hosts tried, want 3", len(seen))
				}
				return
			}
		}
		t.Error("the reservation has not failed after 5 minutes")
	})
}

// TestImageWhoseBuildFailsSlowlyFailsItsReservations: a build that takes minutes
// to fail is working most of the time.
func TestImageWhoseBuildFailsSlowlyFailsItsReservations(t *testing.T) {
	lead(t, controltest.Options{}, func(t *testing.T, r *controltest.Rig) {
		res := reserve(t, r, controltest.Spec("lab", 1))
		say := func(state, message string) string {
			for _, i := range r.FSM.View().Images() {
				if i.Appliance == "worker" && i.Builder != "" {
					r.Apply(fsm.HostReport{Host: i.Builder, Objects: []fsm.Object{{Kind: fsm.KindImage, ID: i.Recipe, State: state, Message: message}}})
					return i.Builder
				}
			}
			return ""
		}
		seen := map[string]bool{}
		for range 60 {
			seen[say(fsm.ObjWorking, "installing")] = true
			time.Sleep(90 * time.Second)
			say(fsm.ObjFailed, "the mirror does not answer")
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if now, _ := r.FSM.View().Reservation(res.ID); now.Outcome == api.StateFailed {
				if delete(seen, ""); len(seen) != 3 || !strings.Contains(now.Message, "mirror") {
					t.Errorf("%d hosts tried, want 3; message %q", len(seen), now.Message)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if b := builders(r)["worker"]; b != "" {
					t.Errorf("%s goes on to build what nobody waits for", b)
				}
				again := reserve(t, r, controltest.Spec("again", 1))
				time.Sleep(5 * time.Second)
				synctest.Wait()
				r.Settle()
				if now, _ := r.FSM.View().Reservation(again.ID); now.State != api.StateActive && now.State != api.StateReady {
					t.Errorf("the next reservation is %s (%s)", now.State, now.Message)
				}
				return
			}
		}
		t.Error("the reservation has not failed after 95 minutes")
	})
}

func TestImageOfAHostThatIsAwayForAWhileIsWaitedFor(t *testing.T) {
	lead(t, controltest.Options{}, func(t *testing.T, r *controltest.Rig) {
		reserve(t, r, controltest.Spec("lab", 1))
		r.Settle()
		var recipe string
		for _, i := range r.FSM.View().Images() {
			recipe = i.Recipe
		}
		img, _ := r.FSM.View().Image(recipe)
		booked := controltest.Spec("later", 1)
		booked.Slot.Start, booked.Slot.For = time.Now().Add(24*time.Hour).UTC().Format(time.RFC3339), "1h"
		reserve(t, r, booked)
		for _, h := range r.FSM.View().ImageHosts(recipe) {
			r.Gossip.Set(h, "dead")
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if now, _ := r.FSM.View().Image(recipe); now.Digest != img.Digest {
			t.Errorf("after 3 minutes the image is %+v", now)
		}
		for _, h := range r.FSM.View().Hosts() {
			r.Gossip.Set(h.ID, "alive")
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if now, _ := r.FSM.View().Image(recipe); now.Digest != img.Digest {
			t.Errorf("all are back and the image is %+v", now)
		}
	})
}

func TestBuildThatFailsOnceIsTriedAgain(t *testing.T) {
	lead(t, controltest.Options{}, func(t *testing.T, r *controltest.Rig) {
		res := reserve(t, r, controltest.Spec("lab", 1))
		failBuild(r, "worker", "mirror hiccup")
		time.Sleep(25 * time.Second)
		synctest.Wait()
		r.Settle()
		time.Sleep(2 * time.Minute)
		if now, _ := r.FSM.View().Reservation(res.ID); now.State != api.StateActive && now.State != api.StateReady {
			t.Errorf("state is %s (%s), want ready: the second builder had it", now.State, now.Message)
		}
	})
}

func TestLostImageIsBuiltAgain(t *testing.T) {
	lead(t, controltest.Options{}, func(t *testing.T, r *controltest.Rig) {
		first := reserve(t, r, controltest.Spec("lab", 1))
		r.Settle()
		if _, err := r.Control.Release(t.Context(), first.ID, "op"); err != nil {
			t.Fatal(err)
		}
		r.Settle()
		for _, h := range r.FSM.View().Hosts() { // every disk is wiped
			r.Apply(fsm.HostReport{Host: h.ID, Applied: r.Applier.Index()})
		}
		res := reserve(t, r, controltest.Spec("again", 1))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		r.Settle()
		if now, _ := r.FSM.View().Reservation(res.ID); now.State != api.StateActive && now.State != api.StateReady {
			t.Errorf("state is %s (%s), want ready: the images must be built again", now.State, now.Message)
		}
	})
}
