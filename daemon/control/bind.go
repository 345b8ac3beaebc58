package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"

	"vcn/api"
	"vcn/fsm"
	"vcn/placement"
	"vcn/rolls"
)

const (
	chapLength = 16 // characters of a CHAP user and of a CHAP secret

	// bindAtOnce bounds the promises that one look begins to provision.
	bindAtOnce = 64
	// bindRetryEvery is the pace of trying again what could not be provisioned.
	bindRetryEvery = 5 * time.Second
)

// chapAlphabet has 64 characters, so that a random byte's low six bits choose
// one evenly. libvirt takes no others in a user's name.
const chapAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// binding makes what is random of a reservation: volumes of the nodes (new ones,
// or new credentials for those that exist) and secrets. It travels in the
// command, so that Apply needs no chance.
func (p *planner) binding(r *fsm.Reservation, nodes []fsm.Node) (fsm.Binding, error) {
	var b fsm.Binding
	appliances := map[string]bool{}
	var recipes []rolls.Recipe
	for i := range nodes {
		n := &nodes[i]
		v, err := newVolume(r.ID, n)
		if err != nil {
			return b, err
		}
		b.Volumes = append(b.Volumes, v)
		if appliances[n.Appliance] {
			continue
		}
		appliances[n.Appliance] = true
		res, err := p.recipes.resolve(r.Rolls, n.Appliance)
		if err != nil {
			return b, fmt.Errorf("resolve rolls %v for %s: %w", r.Rolls, n.Appliance, err)
		}
		recipes = append(recipes, res.recipe)
	}
	var names, users []string
	for i := range nodes {
		names = append(names, nodes[i].Name)
	}
	for _, u := range r.Users {
		users = append(users, u.Name)
	}
	secrets, err := rolls.MakeSecrets(recipes, names, users, rand.Reader)
	if err != nil {
		return b, fmt.Errorf("make secrets: %w", err)
	}
	b.Secrets = secrets
	return b, nil
}

func newVolume(reservation string, n *fsm.Node) (fsm.Volume, error) {
	v := fsm.Volume{ID: n.Volume, Reservation: reservation, Node: n.Name}
	if v.ID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return v, fmt.Errorf("make volume id: %w", err)
		}
		v.ID = "v-" + id.String()
	}
	chap, err := randomText(2 * chapLength)
	if err != nil {
		return v, fmt.Errorf("make CHAP secret: %w", err)
	}
	v.User, v.Secret = chap[:chapLength], chap[chapLength:]
	return v, nil
}

// randomText returns n random characters of chapAlphabet, six bits each.
func randomText(n int) (string, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(rand.Reader, b); err != nil {
		return "", fmt.Errorf("read random bytes: %w", err)
	}
	for i := range b {
		b[i] = chapAlphabet[b[i]&63]
	}
	return string(b), nil
}

// binder begins the provisioning of promises. What it remembers begins with the term.
type binder struct {
	c      *Control
	failed map[string]time.Time // when a promise was last tried in vain
}

// runBinder begins the provisioning of promises when their time has come, and
// moves those in danger to other hosts before.
func (c *Control) runBinder(ctx context.Context) error {
	b := &binder{c: c, failed: map[string]time.Time{}}
	var s reseater
	var looked time.Time
	for ctx.Err() == nil {
		v, now := c.cfg.State.View(), c.now()
		b.look(ctx, v, now)
		if d := now.Sub(looked); d >= reseatEvery || d < 0 {
			looked = now
			s.look(ctx, c, now)
		}
		c.watch(ctx, v.Index(), b.wait(c.cfg.State.View(), now))
	}
	return ctx.Err()
}

// look tries those whose time has come; those that failed a moment ago are left
// alone, and nobody waits for them.
func (b *binder) look(ctx context.Context, v *fsm.View, now time.Time) (bound int) {
	due := v.ToBind(now, bindAtOnce+len(b.failed))
	still := make(map[string]time.Time, len(b.failed))
	for _, r := range due {
		if at, ok := b.failed[r.ID]; ok {
			still[r.ID] = at
			if d := now.Sub(at); d < bindRetryEvery && d >= 0 {
				continue
			}
		}
		err := b.c.bind(ctx, r)
		if err == nil {
			bound++
			delete(still, r.ID)
			continue
		}
		if _, again := still[r.ID]; ctx.Err() == nil && !again {
			b.c.cfg.Log.Warn("begin provisioning; it is tried again and again", "reservation", r.ID, "name", r.Name, "err", err)
		}
		still[r.ID] = now
	}
	b.failed = still
	return bound
}

// wait is how long nothing is to be done.
func (b *binder) wait(v *fsm.View, now time.Time) time.Duration {
	wait := reseatEvery
	if at, ok := v.NextBind(now); ok {
		wait = min(wait, at.Sub(now))
	}
	for _, at := range b.failed {
		wait = min(wait, at.Add(bindRetryEvery).Sub(now))
	}
	return max(wait, time.Millisecond)
}

// bind begins provisioning on the seats promised or, where one of their hosts
// cannot be used any more, on others.
func (c *Control) bind(ctx context.Context, r fsm.Reservation) error {
	for try := 1; ; try++ {
		cmd, f, err := c.planner.planBind(r, c.now())
		if err != nil {
			return err
		}
		_, err = c.apply(ctx, cmd)
		c.planner.land(f, err == nil)
		if err == nil || !moved(err) && !errors.Is(err, fsm.ErrChanged) || try >= replanTriesMax {
			return err
		}
		now, ok := c.cfg.State.View().Reservation(r.ID)
		if !ok || now.State != api.StateBooked || now.Provision.After(c.now()) {
			return nil
		}
		r = now
	}
}

// planBind makes the command that begins provisioning.
func (p *planner) planBind(r fsm.Reservation, now time.Time) (fsm.ReservationBind, *flight, error) {
	cmd := fsm.ReservationBind{ID: r.ID, Modified: r.Modified}
	var err error
	if cmd.Binding, err = p.binding(&r, r.Nodes); err != nil {
		return cmd, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.state.View()
	if seatsGood(v, r.ID, r.Nodes) {
		return cmd, &flight{}, nil // nothing more is held than before
	}
	plan, f, err := p.moveSeats(v, &r, now)
	if err != nil {
		return cmd, nil, err
	}
	cmd.Seats = seats(plan)
	p.inv.add(f)
	return cmd, f, nil
}

// seatsGood is true while every host of an owner's nodes can be used.
func seatsGood(v *fsm.View, owner string, nodes []fsm.Node) bool {
	for i := range nodes {
		if !hostServes(v, owner, nodes[i].Host) || !hostServes(v, owner, nodes[i].Storage) {
			return false
		}
	}
	return true
}

// hostServes is true if a host can keep what an owner was promised of it.
func hostServes(v *fsm.View, owner, id string) bool {
	h, ok := v.Host(id)
	return ok && unusable(h) == "" && (h.Short == "" || !shortFor(v, owner, h))
}

// shortFor is true if a host that has become smaller is overbooked at some instant at
// which the owner holds what there is too little of.
func shortFor(v *fsm.View, owner string, h fsm.Host) bool {
	steps := v.Steps(h.ID)
	for _, b := range v.BookingsOf(owner) {
		if b.Host != h.ID {
			continue
		}
		from, until := max(b.From.UnixNano(), v.Clock().UnixNano()), b.Until.UnixNano()
		for i, s := range steps {
			if s.At >= until || i+1 < len(steps) && steps[i+1].At <= from {
				continue
			}
			if b.CPUs > 0 && s.CPUs > h.CPUs || b.MemoryBytes > 0 && s.MemoryBytes > h.MemoryBytes || b.StorageBytes > 0 && s.StorageBytes > h.StorageBytes {
				return true
			}
		}
	}
	return false
}

// moveSeats finds other seats for a promise whose own are out of its way, and the
// flight of what it will hold beyond what it holds. Seats on good hosts are kept
// where that is possible. It is called with the lock held.
func (p *planner) moveSeats(v *fsm.View, r *fsm.Reservation, now time.Time) (placement.Plan, *flight, error) {
	inv, held := p.inv.follow(v).Clone(), placeBookings(v.BookingsOf(r.ID))
	inv.Remove(held...)
	q := placeRequest(request(r.Nodes, true), timesOf(r))
	if now.After(q.From) {
		q.From = now
	}
	if !q.Until.After(q.From) {
		return placement.Plan{}, nil, fmt.Errorf("move %s: its slot is over", r.Name)
	}
	for i := range q.Nodes {
		n := &q.Nodes[i]
		if !r.Kept && !hostServes(v, r.ID, n.Storage) {
			n.Storage = ""
		}
		if !hostServes(v, r.ID, n.Host) {
			n.Host = ""
		}
	}
	plan, err := inv.Plan(q)
	if err != nil { // then all may move, but for disks that exist
		plan, err = inv.Plan(unpinned(q, r.Kept))
	}
	if err != nil {
		return plan, nil, err
	}
	return plan, changedFlight(r, beyond(plan.Bookings(q), held)), nil
}

// unpinned lets all nodes move, but for disks that exist.
func unpinned(q placement.Request, kept bool) placement.Request {
	q.Nodes = slices.Clone(q.Nodes)
	for i := range q.Nodes {
		q.Nodes[i].Host = ""
		if !kept {
			q.Nodes[i].Storage = ""
		}
	}
	return q
}

// seats is a plan as commands have it.
func seats(plan placement.Plan) []fsm.Seat {
	out := make([]fsm.Seat, 0, len(plan.Nodes))
	for _, a := range plan.Nodes {
		out = append(out, fsm.Seat{Host: a.Host, Storage: a.Storage})
	}
	return out
}
