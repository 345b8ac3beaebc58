package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"vcn/api"
	"vcn/fsm"
)

const (
	// replanTriesMax is how often a plan is placed again when the state moved
	// between placing and applying.
	replanTriesMax = 5
	// keyBytesMax bounds an idempotency key.
	keyBytesMax = 200
)

// Reserve books a cluster. project is the token's, and counts where the
// specification names none; owner is the token's id. key, if not empty, makes
// a repeated call answer with what the first one made. Errors are *api.Problem
// where the owner can do something about them.
func (c *Control) Reserve(ctx context.Context, spec api.Spec, project, owner, key string) (*fsm.Reservation, error) {
	if spec.Slot.Repeat != "" {
		return nil, api.Invalid("this is a series", []api.FieldError{{Field: "slot.repeat", Value: spec.Slot.Repeat, Want: "nothing here"}})
	}
	if err := checkKey(key); err != nil {
		return nil, err
	}
	spec = spec.Defaults()
	if spec.Project == "" {
		spec.Project = project
	}
	q := bookRequest{key: key}
	var err error
	if q.hash, err = keyHash(key, spec); err != nil {
		return nil, err
	}
	if r, err := c.replay(q.hash, spec.Project, key); r != nil || err != nil {
		return r, err
	}
	d, err := newDraft(c.recipes, spec, project, owner, key, c.now())
	if err != nil {
		return nil, err
	}
	q.drafts = []*draft{d}
	r, err := c.book(ctx, q)
	return r, c.nearest(d, err)
}

func checkKey(key string) error {
	if len(key) > keyBytesMax {
		return api.Invalid("the idempotency key is too long", []api.FieldError{{Field: "Idempotency-Key", Want: fmt.Sprintf("at most %d bytes", keyBytesMax)}})
	}
	return nil
}

// bookRequest is what is to be booked together.
type bookRequest struct {
	drafts []*draft
	series *fsm.Series
	key    string
	hash   []byte // of the request, where there is a key
}

// book plans and books, again while the state moves under the plan. It returns
// the first reservation.
func (c *Control) book(ctx context.Context, q bookRequest) (*fsm.Reservation, error) {
	project := q.drafts[0].spec.Project
	var why error
	for range replanTriesMax {
		now := c.now()
		made, err := c.place(q.drafts, now, true)
		if errors.Is(err, errSlotGone) {
			why = err
			continue
		}
		if err != nil {
			// The same request may have been booked since; then its name is
			// taken by itself.
			if r, rerr := c.replay(q.hash, project, q.key); r != nil || rerr != nil {
				return r, rerr
			}
			return nil, err
		}
		cmd, err := c.bookCommand(q, made, now)
		if err != nil {
			c.planner.land(made.flight, false)
			return nil, err
		}
		res, err := c.apply(ctx, cmd)
		c.planner.land(made.flight, err == nil)
		if err == nil {
			return res.Reservation, nil
		}
		if !moved(err) && !errors.Is(err, fsm.ErrTurn) {
			if len(q.drafts) > 1 {
				return nil, stateProblem(err) // which names the date
			}
			return nil, reserveProblem(q.drafts[0].spec, err)
		}
		why = err
		c.cfg.Log.Debug("plan again", "reservation", q.drafts[0].id, "err", err)
	}
	return nil, movedProblem(why)
}

// movedProblem: the state moved under the plan again and again.
func movedProblem(why error) error {
	return &api.Problem{Status: http.StatusConflict, Code: api.CodeConflict, Reasons: []string{why.Error()},
		Detail: fmt.Sprintf("the state changed under the plan %d times in a row", replanTriesMax), Next: "try again in a moment"}
}

// place finds slots for the drafts that have a window, and places all of them.
func (c *Control) place(drafts []*draft, now time.Time, keep bool) (planned, error) {
	v := c.cfg.State.View()
	if err := admit(v, drafts); err != nil {
		return planned{}, err
	}
	if len(drafts) == 1 { // the dates of a series have no windows
		if err := c.planner.search(drafts[0], now); err != nil {
			return planned{}, err
		}
	}
	return c.planner.plan(drafts, now, keep)
}

func (c *Control) bookCommand(q bookRequest, made planned, now time.Time) (fsm.ReservationBook, error) {
	cmd := fsm.ReservationBook{Key: q.key, RequestHash: q.hash, Series: q.series, Images: made.images, Passed: made.passed}
	for _, b := range made.bookings {
		r := b.draft.record(b.times, b.plan)
		if q.series != nil {
			r.Series = q.series.ID
		}
		cmd.Reservations = append(cmd.Reservations, r)
	}
	return cmd, c.bindFirst(&cmd, now)
}

// bindFirst adds what the first reservation needs if it is to be provisioned at once.
func (c *Control) bindFirst(cmd *fsm.ReservationBook, now time.Time) error {
	r := &cmd.Reservations[0]
	if r.Provision.After(now) || r.State == api.StateWaitlisted {
		return nil
	}
	b, err := c.planner.binding(r, r.Nodes)
	if err != nil {
		return err
	}
	cmd.Bind = &b
	return nil
}

// keyHash tells a repeated request from another one under the same key.
func keyHash(key string, request any) ([]byte, error) {
	if key == "" {
		return nil, nil
	}
	return specHash(request)
}

// replay finds what a repeated request has made before. It stands before
// planning, because the capacity may be gone: to the reservation itself.
func (c *Control) replay(hash []byte, project, key string) (*fsm.Reservation, error) {
	if key == "" {
		return nil, nil
	}
	v := c.cfg.State.View()
	id, have, ok := v.KeyOf(project, key)
	if !ok {
		return nil, nil
	}
	if !bytes.Equal(have, hash) {
		return nil, keyReused()
	}
	r, ok := v.Reservation(id)
	if !ok {
		return nil, nil // forgotten: make a new one
	}
	return &r, nil
}

func keyReused() *api.Problem {
	return &api.Problem{Status: http.StatusConflict, Code: api.CodeConflict,
		Detail: "this Idempotency-Key was used before, for another request",
		Next:   "use a new key for a new reservation"}
}

// moved tells whether a refusal means that the state is not what it was when
// the plan was placed.
func moved(err error) bool {
	for _, known := range []error{fsm.ErrNoCapacity, fsm.ErrHostUnfit, fsm.ErrUnknownHost, fsm.ErrUnknownImage, fsm.ErrPoolEmpty} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// reserveProblem says a refusal of the FSM to the owner.
func reserveProblem(s api.Spec, err error) error {
	if errors.Is(err, fsm.ErrNameTaken) {
		return nameTaken(s)
	}
	return stateProblem(err)
}

// stateProblem says the refusals that several commands have in common.
func stateProblem(err error) error {
	switch {
	case moved(err), errors.Is(err, fsm.ErrChanged), errors.Is(err, fsm.ErrTurn):
		return movedProblem(err)
	case errors.Is(err, fsm.ErrKeyReused):
		return keyReused()
	case errors.Is(err, fsm.ErrQuota):
		return &api.Problem{Status: http.StatusConflict, Code: api.CodeConflict, Detail: err.Error(),
			Next: "give back what is not needed, or ask the operator (vcnctl policy show)"}
	case errors.Is(err, fsm.ErrState):
		return &api.Problem{Status: http.StatusConflict, Code: api.CodeConflict, Detail: err.Error(), Next: "vcnctl show tells its state"}
	case errors.Is(err, fsm.ErrNameTaken):
		return &api.Problem{Status: http.StatusConflict, Code: api.CodeConflict, Detail: err.Error(), Next: "choose another name"}
	case errors.Is(err, fsm.ErrNotFound):
		return &api.Problem{Status: http.StatusNotFound, Code: api.CodeNotFound, Detail: err.Error(), Next: "vcnctl list --all shows those there are"}
	case errors.Is(err, fsm.ErrNoHold):
		return offerGone()
	}
	return err
}

// DryRun answers what Reserve would book now, and books nothing.
func (c *Control) DryRun(_ context.Context, spec api.Spec, project string) (api.Plan, error) {
	now := c.now()
	d, err := newDraft(c.recipes, spec, project, "", "", now)
	if err != nil {
		return api.Plan{}, err
	}
	made, err := c.place([]*draft{d}, now, false)
	if err != nil {
		return api.Plan{}, c.nearest(d, err)
	}
	b := made.bookings[0]
	r := d.record(b.times, b.plan)
	return c.showPlan(&r, d.recipes, now), nil
}

// showPlan shows what would be booked.
func (c *Control) showPlan(r *fsm.Reservation, recipes map[string]resolved, now time.Time) api.Plan {
	v := c.cfg.State.View()
	plan := api.Plan{Start: r.Start, End: r.End, Provision: r.Provision, Rolls: r.Rolls, Nodes: []api.Node{}, Images: []api.Image{},
		Lead: api.FormatDuration(r.Lead), Expected: expected(r.Start, r.Provision, r.Lead)}
	for i := range r.Nodes {
		plan.Nodes = append(plan.Nodes, showNode(v, &r.Nodes[i], now))
	}
	for a, rec := range recipes {
		img := api.Image{Recipe: rec.digest, Appliance: a, Rolls: rec.names, State: fsm.ImageWanted}
		if have, ok := v.Image(rec.digest); ok {
			img.Digest, img.State, img.Message, img.Size = have.Digest, have.State, have.Message, api.Quantity(have.SizeBytes)
		}
		plan.Images = append(plan.Images, img)
	}
	sortImages(plan.Images)
	return plan
}

// expected is when something can be used: at its start, or when provisioning is done.
func expected(start, provision time.Time, lead time.Duration) time.Time {
	if done := provision.Add(lead); done.After(start) {
		return done
	}
	return start
}

func showNode(v *fsm.View, n *fsm.Node, since time.Time) api.Node {
	return api.Node{
		Name: n.Name, Role: n.Role, Host: hostName(v, n.Host), Storage: hostName(v, n.Storage),
		PrivateIP: n.PrivateIP, PublicIP: n.PublicIP, MAC: n.PrivateMAC, CPUs: n.CPUs,
		Memory: api.Quantity(n.MemoryBytes), Disk: api.Quantity(n.DiskBytes),
		Generation: n.Generation, State: fsm.NodeWaiting, Since: since,
	}
}

func hostName(v *fsm.View, id string) string {
	if h, ok := v.Host(id); ok {
		return h.Name
	}
	return id
}

// Release ends a reservation, in whatever state. by is the token's id.
func (c *Control) Release(ctx context.Context, id, by string) (*fsm.Reservation, error) {
	res, err := c.apply(ctx, fsm.ReservationRelease{ID: id, By: by})
	return c.answer(id, res, err)
}

// answer is the reservation that a command was about.
func (c *Control) answer(id string, res fsm.Result, err error) (*fsm.Reservation, error) {
	if errors.Is(err, fsm.ErrNotFound) {
		return nil, noReservation(id)
	}
	if err != nil {
		return nil, stateProblem(err)
	}
	if res.Reservation != nil {
		return res.Reservation, nil
	}
	r, ok := c.cfg.State.View().Reservation(id)
	if !ok {
		return nil, fmt.Errorf("look at %s: it is gone", id)
	}
	return &r, nil
}

func noReservation(id string) *api.Problem {
	return &api.Problem{Status: http.StatusNotFound, Code: api.CodeNotFound, Detail: "there is no reservation " + id, Next: "vcnctl list --all shows those there are"}
}
