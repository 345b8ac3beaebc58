package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vcn/api"
	"vcn/fsm"
)

// Notifier tells owners what happened. It queues, and delivers in its own time.
type Notifier interface {
	// Tell takes a message; one with an id that is pending or was just settled
	// is the same one.
	Tell(m Telling) error
	// Pending is true while the message is neither delivered nor given up.
	Pending(id string) bool
}

// Telling is what an owner is told.
type Telling struct {
	ID, Kind                   string
	Time                       time.Time
	Reservation, Name, Project string
	State, Text                string
	Start, End                 time.Time
	Zone                       string
	Webhook, Mail              string
}

const (
	// tellPage is how many events are looked at in one go.
	tellPage = 500
	// tellWait is how long deliveries are waited for before the leader takes
	// them for told: from then on a message is lost if the leader is lost before
	// its receiver is back.
	tellWait = time.Minute
	// tellQuiet is after how many indexes that nobody is to be told of the state
	// says so all the same: the next leader looks at no more.
	tellQuiet = 500
	// tellPace is how often deliveries are looked at, and events gathered.
	tellPace = time.Second
)

// told are the kinds of events that owners are told of.
var told = map[string]bool{
	"reservation.waitlisted": true, "reservation.booked": true, "reservation.changed": true, "reservation.provisioning": true,
	"reservation.ready": true, "reservation.active": true, "reservation.ends_soon": true, "reservation.end_moved": true,
	"reservation.ending": true, "reservation.ended": true, "reservation.failed": true, "reservation.cancelled": true, "reservation.parked": true,
	"reservation.degraded": true, "reservation.degraded.cleared": true, "reservation.missing_resources": true,
	"reservation.missing_resources.cleared": true, "reservation.resources_changed": true, "reservation.shrunk": true,
	"node.joined": true, "node.left": true, "volume.damaged": true,
}

// ErrUntellable is what a Notifier answers for a message that can never be sent:
// it is left out. Any other error is taken for one that passes.
var ErrUntellable = errors.New("the message cannot be sent")

// runTell hands events of reservations whose owners want to be told to the
// notifier, and says in the state how far it is, so that the next leader goes on
// from there.
func (c *Control) runTell(ctx context.Context) error {
	if c.cfg.Notifier == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	seen := c.cfg.State.View().Notified() // events up to it were looked at
	for ctx.Err() == nil {
		v := c.cfg.State.View()
		page := v.Events(seen, tellPage, "")
		if len(page) == 0 {
			c.watch(ctx, v.Index(), clockSleepMax)
			continue
		}
		last := page[len(page)-1].Index
		ids := c.tellPage(ctx, v, page)
		for end := time.Now().Add(tellWait); c.anyPending(ids) && time.Now().Before(end) && ctx.Err() == nil; {
			sleep(ctx, tellPace)
		}
		if ctx.Err() != nil {
			break
		}
		// Where nobody is to be told it need not be in the log each time.
		if len(ids) > 0 || last-v.Notified() >= tellQuiet {
			c.noteTold(ctx, last)
		}
		seen = last
	}
	return ctx.Err()
}

// noteTold says in the state that events up to an index are told.
func (c *Control) noteTold(ctx context.Context, index uint64) {
	for ctx.Err() == nil {
		_, err := c.apply(ctx, fsm.NotifyDone{Index: index})
		if err == nil || ctx.Err() != nil {
			return
		}
		c.cfg.Log.Warn("note who was told", "err", err)
		sleep(ctx, tellPace)
	}
}

// wanted is the reservation whose owner wants to be told of an event.
func (c *Control) wanted(v *fsm.View, e fsm.Event) *fsm.Reservation {
	if e.Reservation == "" || !told[e.Kind] {
		return nil
	}
	r, ok := v.Reservation(e.Reservation)
	if !ok || r.Spec.Notify == nil || *r.Spec.Notify == (api.Notify{}) {
		return nil
	}
	return &r
}

// tellPage hands over what owners want to know, and returns the messages' ids. A
// notifier that is busy is waited for.
func (c *Control) tellPage(ctx context.Context, v *fsm.View, page []fsm.Event) []string {
	var ids []string
	end := time.Now().Add(tellWait)
	for _, e := range page {
		r := c.wanted(v, e)
		if r == nil {
			continue
		}
		m := Telling{ID: fmt.Sprintf("%d-%d", e.Index, e.Sub), Kind: e.Kind, Time: e.Time, Reservation: r.ID, Name: r.Name, Project: r.Project,
			State: string(r.State), Text: e.Message, Start: r.Start, End: r.End, Zone: r.Zone, Webhook: r.Spec.Notify.Webhook, Mail: r.Spec.Notify.Mail}
		err := c.cfg.Notifier.Tell(m)
		for err != nil && !errors.Is(err, ErrUntellable) && time.Now().Before(end) && ctx.Err() == nil {
			sleep(ctx, tellPace)
			err = c.cfg.Notifier.Tell(m)
		}
		if err != nil {
			c.cfg.Log.Warn("tell an owner", "reservation", r.ID, "event", e.Kind, "err", err)
		}
		ids = append(ids, m.ID) // also of one that is left out: it is not tried again
	}
	return ids
}

func (c *Control) anyPending(ids []string) bool {
	for _, id := range ids {
		if c.cfg.Notifier.Pending(id) {
			return true
		}
	}
	return false
}
