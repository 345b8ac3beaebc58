package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"

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
	if len(key) > keyBytesMax {
		return nil, api.Invalid("the idempotency key is too long", []api.FieldError{{Field: "Idempotency-Key", Want: fmt.Sprintf("at most %d bytes", keyBytesMax)}})
	}
	if r, err := c.replay(spec, project, key); r != nil || err != nil {
		return r, err
	}
	d, err := newDraft(c.recipes, spec, project, owner, key, c.now())
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		cmd, err := c.planner.plan(d, c.now(), true)
		if err != nil {
			// The same request may have been booked since; then its name is
			// taken by itself.
			if r, rerr := c.replay(spec, project, key); r != nil || rerr != nil {
				return r, rerr
			}
			return nil, err
		}
		res, err := c.apply(ctx, cmd)
		c.planner.land(d.id, err == nil)
		if err == nil {
			return res.Reservation, nil
		}
		if !moved(err) {
			return nil, reserveProblem(d.spec, err)
		}
		if try >= replanTriesMax {
			return nil, &api.Problem{Status: http.StatusConflict, Code: api.CodeConflict,
				Detail: fmt.Sprintf("the state changed under the plan %d times in a row", try), Next: "try again in a moment"}
		}
		c.cfg.Log.Debug("plan again", "reservation", d.id, "try", try, "err", err)
	}
}

// replay finds what a repeated request has made before. It stands before
// planning, because the capacity may be gone: to the reservation itself.
func (c *Control) replay(spec api.Spec, project, key string) (*fsm.Reservation, error) {
	if key == "" {
		return nil, nil
	}
	spec = spec.Defaults()
	if spec.Project == "" {
		spec.Project = project
	}
	v := c.cfg.State.View()
	id, hash, ok := v.KeyOf(spec.Project, key)
	if !ok {
		return nil, nil
	}
	want, err := specHash(spec)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(hash, want) {
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
		Detail: "this Idempotency-Key was used before, for another specification",
		Next:   "use a new key for a new reservation"}
}

// moved tells whether a refusal means that the state is not what it was when
// the plan was placed.
func moved(err error) bool {
	for _, known := range []error{fsm.ErrNoCapacity, fsm.ErrLeased, fsm.ErrHostUnfit, fsm.ErrUnknownHost, fsm.ErrUnknownImage} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// reserveProblem says a refusal of the FSM to the owner.
func reserveProblem(s api.Spec, err error) error {
	switch {
	case errors.Is(err, fsm.ErrNameTaken):
		return nameTaken(s)
	case errors.Is(err, fsm.ErrKeyReused):
		return keyReused()
	}
	return err
}

// DryRun answers what Reserve would book now, and books nothing.
func (c *Control) DryRun(_ context.Context, spec api.Spec, project string) (api.Plan, error) {
	d, err := newDraft(c.recipes, spec, project, "", "", c.now())
	if err != nil {
		return api.Plan{}, err
	}
	cmd, err := c.planner.plan(d, c.now(), false)
	if err != nil {
		return api.Plan{}, err
	}
	v := c.cfg.State.View()
	r := cmd.Reservation
	plan := api.Plan{Start: r.Start, End: r.End, Provision: r.Provision, Rolls: r.Rolls, Nodes: []api.Node{}, Images: []api.Image{}}
	plan.Lead = api.FormatDuration(c.planner.leadOf(v, d, c.now()))
	hostName := func(id string) string {
		if h, ok := v.Host(id); ok {
			return h.Name
		}
		return id
	}
	for i, n := range r.Nodes {
		plan.Nodes = append(plan.Nodes, api.Node{
			Name: n.Name, Role: n.Role, Host: hostName(n.Host), Storage: hostName(cmd.Volumes[i].Host),
			PrivateIP: n.PrivateIP, PublicIP: n.PublicIP, MAC: n.PrivateMAC, CPUs: n.CPUs,
			Memory: api.Quantity(n.MemoryBytes), Disk: api.Quantity(n.DiskBytes),
			Generation: n.Generation, State: fsm.NodeWaiting, Since: r.Provision,
		})
	}
	for a, rec := range d.recipes {
		img := api.Image{Recipe: rec.digest, Appliance: a, Rolls: rec.names, State: fsm.ImageWanted}
		if have, ok := v.Image(rec.digest); ok {
			img.Digest, img.State, img.Message, img.Size = have.Digest, have.State, have.Message, api.Quantity(have.SizeBytes)
		}
		plan.Images = append(plan.Images, img)
	}
	sortImages(plan.Images)
	return plan, nil
}

// Release ends a reservation, in whatever state. by is the token's id.
func (c *Control) Release(ctx context.Context, id, by string) (*fsm.Reservation, error) {
	res, err := c.apply(ctx, fsm.ReservationRelease{ID: id, By: by})
	if errors.Is(err, fsm.ErrNotFound) {
		return nil, &api.Problem{Status: http.StatusNotFound, Code: api.CodeNotFound, Detail: "there is no reservation " + id, Next: "vcnctl list --all shows those there are"}
	}
	if err != nil {
		return nil, err
	}
	if res.Reservation != nil {
		return res.Reservation, nil
	}
	r, ok := c.cfg.State.View().Reservation(id)
	if !ok {
		return nil, fmt.Errorf("release %s: it is gone", id)
	}
	return &r, nil
}
