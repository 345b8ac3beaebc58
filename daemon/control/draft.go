package control

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"vcn/api"
	"vcn/fsm"
	"vcn/placement"
	"vcn/rolls"
)

const (
	firstUID     = 2001 // of the users of a cluster, in the order of the specification
	chapLength   = 16   // characters of a CHAP user and of a CHAP secret
	frontendHost = 1    // the frontend's address in the subnet: its first, the cluster's gateway
	workersFrom  = 10   // the first worker's; those between are for virtual addresses to come
)

// chapAlphabet has 64 characters, so that a random byte's low six bits choose
// one evenly. libvirt takes no others in a user's name.
const chapAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// draft is all of a reservation that needs no state: it is made outside the
// planner's lock.
type draft struct {
	spec    api.Spec // with defaults and project
	owner   string
	key     string
	hash    []byte
	start   time.Time // of the slot; with asap the time of planning
	end     time.Time
	length  time.Duration // with asap and no fixed end: end is start + length
	asap    bool
	id      string
	nodes   []fsm.Node
	request []placement.NodeRequest
	users   []fsm.User
	rolls   []string
	recipes map[string]resolved // by appliance
	volumes []fsm.Volume
	secrets map[string][]byte
}

// newDraft validates a specification and makes of it what can be made without
// state. Errors are *api.Problem where the specification is at fault.
func newDraft(rs *recipes, spec api.Spec, project, owner, key string, now time.Time) (*draft, error) {
	spec, err := settleSpec(spec, project)
	if err != nil {
		return nil, err
	}
	d := &draft{spec: spec, owner: owner, key: key}
	if d.start, d.end, d.asap, err = spec.ResolveSlot(now); err != nil {
		var fe api.FieldError
		if errors.As(err, &fe) {
			return nil, api.Invalid("the slot is not possible", []api.FieldError{fe})
		}
		return nil, fmt.Errorf("resolve slot: %w", err)
	}
	if d.asap && spec.Slot.End == "" {
		d.length = d.end.Sub(d.start)
	}
	if d.hash, err = specHash(spec); err != nil {
		return nil, err
	}
	if err := d.resolveRolls(rs); err != nil {
		return nil, err
	}
	d.layOut()
	return d, d.makeRandom()
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
	detail := "one field is wrong"
	if len(errs) > 1 {
		detail = fmt.Sprintf("%d fields are wrong", len(errs))
	}
	p := api.Invalid(detail, errs)
	p.Next = "correct the fields named above"
	return spec, p
}

// specHash tells a repeated request from another one under the same key.
func specHash(spec api.Spec) ([]byte, error) {
	b, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("hash specification: %w", err)
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
			p := api.Invalid("there is no such appliance", []api.FieldError{{
				Field: fmt.Sprintf("workers[%d].appliance", i-1), Value: a,
				Want: "an appliance that one of the rolls knows; worker is always there"}})
			return p
		case err != nil:
			return rollProblem("rolls", d.spec.Rolls, err)
		}
		d.recipes[a] = r
	}
	d.rolls = d.recipes[api.FrontendName].names
	return nil
}

// layOut names nodes, volumes and users.
func (d *draft) layOut() {
	add := func(name, group, appliance string, role api.Role, s api.NodeShape, extra api.Quantity) {
		disk := int64(s.Disk) + int64(extra)
		d.nodes = append(d.nodes, fsm.Node{
			Name: name, Role: role, Group: group, Appliance: appliance,
			CPUs: s.CPUs, MemoryBytes: int64(s.Memory), DiskBytes: disk, Generation: 1,
		})
		d.request = append(d.request, placement.NodeRequest{
			Name: name, Frontend: role == api.RoleFrontend, CPUs: s.CPUs, MemoryBytes: int64(s.Memory), DiskBytes: disk,
		})
	}
	add(api.FrontendName, "", api.FrontendName, api.RoleFrontend, d.spec.Frontend, d.spec.Home)
	names := d.spec.NodeNames()[1:]
	for _, g := range d.spec.Workers {
		for range g.Count {
			add(names[0], g.Name, g.Appliance, api.RoleWorker, g.NodeShape, 0)
			names = names[1:]
		}
	}
	for i, u := range d.spec.Users {
		d.users = append(d.users, fsm.User{Name: u.Name, UID: firstUID + i, Keys: u.Keys, Admin: u.Admin})
	}
}

// makeRandom makes everything random: ids, CHAP users and secrets, and the
// rolls' secrets. It all travels in the command, so that Apply needs none.
func (d *draft) makeRandom() error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make reservation id: %w", err)
	}
	d.id = id.String()
	for i := range d.nodes {
		n := &d.nodes[i]
		v, err := newVolume(d.id, n, d.recipes[n.Appliance].digest)
		if err != nil {
			return err
		}
		n.Volume = v.ID
		d.volumes = append(d.volumes, v)
	}
	var recipes []rolls.Recipe
	for _, r := range d.recipes {
		recipes = append(recipes, r.recipe)
	}
	var users []string
	for _, u := range d.users {
		users = append(users, u.Name)
	}
	d.secrets, err = rolls.MakeSecrets(recipes, d.spec.NodeNames(), users, rand.Reader)
	if err != nil {
		return fmt.Errorf("make secrets: %w", err)
	}
	return nil
}

func newVolume(reservation string, n *fsm.Node, recipe string) (fsm.Volume, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return fsm.Volume{}, fmt.Errorf("make volume id: %w", err)
	}
	chap, err := randomText(2 * chapLength)
	if err != nil {
		return fsm.Volume{}, fmt.Errorf("make CHAP secret: %w", err)
	}
	return fsm.Volume{
		ID: "v-" + id.String(), Reservation: reservation, Node: n.Name, SizeBytes: n.DiskBytes, Recipe: recipe,
		Generation: n.Generation, User: chap[:chapLength], Secret: chap[chapLength:],
	}, nil
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

// slot is when the reservation begins, ends and is provisioned, decided at now.
func (d *draft) slot(now time.Time, lead time.Duration) (provision, start, end time.Time) {
	if d.asap {
		end = d.end
		if d.length > 0 {
			end = now.Add(d.length)
		}
		return now, now, end
	}
	provision = d.start.Add(-lead)
	if provision.Before(now) {
		provision = now
	}
	return provision, d.start, d.end
}
