package control

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"vcn/api"
	"vcn/fsm"
	"vcn/placement"
	"vcn/rolls"
)

const firstUID = 2001 // of the users of a cluster, in the order of the specification

// draft is all of a reservation that needs no state: it is made outside the
// planner's lock.
type draft struct {
	spec    api.Spec // with defaults and project
	owner   string
	key     string
	window  api.Window
	grace   time.Duration
	parkFor time.Duration
	id      string
	nodes   []fsm.Node
	users   []fsm.User
	rolls   []string
	recipes map[string]resolved // by appliance
	// pinStorage: the volumes exist and stay on the hosts of the nodes' Storage.
	pinStorage bool
	// found is the slot that a search without the lock has found.
	found *slotTimes
	wants []placement.NodeRequest
	set   string // see recipeSet
}

// recipeSet is the draft's recipes as one word.
func (d *draft) recipeSet() string {
	if d.set == "" {
		list := make([]string, 0, len(d.recipes))
		for _, r := range d.recipes {
			list = append(list, r.digest)
		}
		d.set = recipeSet(list)
	}
	return d.set
}

// request is what the draft needs of placement for a slot.
func (d *draft) request(s slotTimes) placement.Request {
	if d.wants == nil {
		d.wants = request(d.nodes, d.pinStorage)
	}
	return placeRequest(d.wants, s)
}

// newDraft validates a specification and makes of it what can be made without
// state. Errors are *api.Problem where the specification is at fault.
func newDraft(rs *recipes, spec api.Spec, project, owner, key string, now time.Time) (*draft, error) {
	spec, err := settleSpec(spec, project)
	if err != nil {
		return nil, err
	}
	d := &draft{spec: spec, owner: owner, key: key}
	if d.window, err = spec.ResolveWindow(now); err != nil {
		return nil, slotProblem(err)
	}
	d.grace = spec.Grace()
	if spec.AtEnd != nil && spec.AtEnd.Action == api.EndPark {
		d.parkFor = spec.ParkFor()
	}
	if err := d.resolveRolls(rs); err != nil {
		return nil, err
	}
	d.nodes = layOut(spec)
	for i, u := range spec.Users {
		d.users = append(d.users, fsm.User{Name: u.Name, UID: firstUID + i, Keys: u.Keys, Admin: u.Admin})
	}
	return d, d.rename()
}

// rename gives the draft an id of its own.
func (d *draft) rename() error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make reservation id: %w", err)
	}
	d.id = id.String()
	return nil
}

func slotProblem(err error) error {
	var fe api.FieldError
	if errors.As(err, &fe) {
		return api.Invalid("the slot is not possible", []api.FieldError{fe})
	}
	return fmt.Errorf("resolve slot: %w", err)
}

// settleSpec fills in defaults and the project, and validates.
func settleSpec(spec api.Spec, project string) (api.Spec, error) {
	spec = spec.Defaults()
	if spec.Project == "" {
		spec.Project = project
	}
	errs := spec.Validate()
	if spec.Project == "" {
		errs = append(errs, api.FieldError{Field: "project", Want: "the project that this is for (an operator's token has none of its own)"})
	}
	if len(errs) == 0 {
		return spec, nil
	}
	p := api.Invalid(countFields(errs), errs)
	p.Next = "correct the fields named above"
	return spec, p
}

func countFields(errs []api.FieldError) string {
	if len(errs) == 1 {
		return "one field is wrong"
	}
	return fmt.Sprintf("%d fields are wrong", len(errs))
}

// specHash tells a repeated request from another one under the same key.
func specHash(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("hash request: %w", err)
	}
	h := sha256.Sum256(b)
	return h[:], nil
}

func (d *draft) resolveRolls(rs *recipes) error {
	appliances := []string{api.FrontendName}
	for _, g := range d.spec.Workers {
		appliances = append(appliances, g.Appliance)
	}
	d.recipes = map[string]resolved{}
	for i, a := range appliances {
		if _, ok := d.recipes[a]; ok {
			continue
		}
		r, err := rs.resolve(d.spec.Rolls, a)
		switch {
		case errors.Is(err, rolls.ErrAppliance) && i > 0:
			return api.Invalid("there is no such appliance", []api.FieldError{{
				Field: fmt.Sprintf("workers[%d].appliance", i-1), Value: a,
				Want: "an appliance that one of the rolls knows; worker is always there"}})
		case err != nil:
			return rollProblem("rolls", d.spec.Rolls, err)
		}
		d.recipes[a] = r
	}
	d.rolls = d.recipes[api.FrontendName].names
	return nil
}

// layOut names the nodes of a specification and gives them their shapes.
func layOut(spec api.Spec) []fsm.Node {
	var nodes []fsm.Node
	add := func(name, group, appliance string, role api.Role, s api.NodeShape, extra api.Quantity) {
		nodes = append(nodes, fsm.Node{
			Name: name, Role: role, Group: group, Appliance: appliance,
			CPUs: s.CPUs, MemoryBytes: int64(s.Memory), DiskBytes: int64(s.Disk) + int64(extra), Generation: 1,
		})
	}
	add(api.FrontendName, "", api.FrontendName, api.RoleFrontend, spec.Frontend, spec.Home)
	names := spec.NodeNames()[1:]
	for _, g := range spec.Workers {
		for range g.Count {
			add(names[0], g.Name, g.Appliance, api.RoleWorker, g.NodeShape, 0)
			names = names[1:]
		}
	}
	return nodes
}

// request is what nodes need of placement; pinned keeps them on their hosts.
func request(nodes []fsm.Node, pinned bool) []placement.NodeRequest {
	out := make([]placement.NodeRequest, len(nodes))
	for i, n := range nodes {
		out[i] = placement.NodeRequest{Name: n.Name, Frontend: n.Role == api.RoleFrontend, CPUs: n.CPUs, MemoryBytes: n.MemoryBytes, DiskBytes: n.DiskBytes}
		if pinned {
			out[i].Host, out[i].Storage = n.Host, n.Storage
		}
	}
	return out
}

// record is the reservation of the draft in a slot, on the seats of a plan.
func (d *draft) record(s slotTimes, plan placement.Plan) fsm.Reservation {
	r := fsm.Reservation{
		ID: d.id, Name: d.spec.Name, Project: d.spec.Project, Owner: d.owner, State: api.StateBooked,
		Start: s.start, End: s.end, Provision: s.provision, Lead: s.lead, Grace: s.grace, Zone: d.spec.Slot.Zone,
		Spec: d.spec, Nodes: slices.Clone(d.nodes), Users: d.users, Rolls: d.rolls, Recipes: map[string]string{},
	}
	for a, rec := range d.recipes {
		r.Recipes[a] = rec.digest
	}
	for i, a := range plan.Nodes {
		r.Nodes[i].Host, r.Nodes[i].Storage = a.Host, a.Storage
	}
	return r
}

// workers counts the workers of a specification.
func workers(s api.Spec) int {
	n := 0
	for _, g := range s.Workers {
		n += g.Count
	}
	return n
}

// appliancesOf lists the appliances of a draft in order.
func (d *draft) appliances() []string {
	out := make([]string, 0, len(d.recipes))
	for a := range d.recipes {
		out = append(out, a)
	}
	slices.SortFunc(out, strings.Compare)
	return out
}
