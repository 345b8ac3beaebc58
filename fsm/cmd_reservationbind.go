package fsm

import (
	"fmt"
	"maps"
	"slices"

	"vcn/api"
)

// ReservationBind begins provisioning: it turns a promise into hosts,
// identifiers, volumes and secrets. Seats may differ from those promised, as
// hosts may have died since.
type ReservationBind struct {
	ID       string
	Modified uint64 // the record's, that the leader planned on
	Seats    []Seat // by node; empty: as they are
	Binding  Binding
}

// Seat is the hosts of one node and of its volume.
type Seat struct{ Host, Storage string }

var _ = register[ReservationBind](TypeReservationBind, "ReservationBind")

// Type is the command's number.
func (ReservationBind) Type() Type { return TypeReservationBind }

func (c ReservationBind) apply(t *tx) error {
	r, err := t.unchanged(c.ID, c.Modified)
	if err != nil {
		return err
	}
	if r.State != api.StateBooked {
		return fmt.Errorf("reservation %q is %s: %w", r.ID, r.State, ErrState)
	}
	if r.Provision.After(t.now) {
		return invalid("reservation %s is to be provisioned at %s", r.ID, r.Provision)
	}
	if len(c.Seats) > 0 {
		if err := t.reseat(r, c.Seats); err != nil {
			return err
		}
		t.save(r)
	}
	if err := t.bind(c.ID, c.Binding); err != nil {
		return err
	}
	t.result, err = t.reservation(c.ID)
	return err
}

// unchanged returns a copy of a reservation that is still as it was.
func (t *tx) unchanged(id string, modified uint64) (*Reservation, error) {
	old, err := t.reservation(id)
	if err != nil {
		return nil, err
	}
	if old.Modified != modified {
		return nil, fmt.Errorf("reservation %q: %w", id, ErrChanged)
	}
	return clone(old), nil
}

// reseat moves a promise to other hosts.
func (t *tx) reseat(r *Reservation, seats []Seat) error {
	if err := t.sit(r, seats); err != nil {
		return err
	}
	return t.rebook(r.ID, bookingsOf(r))
}

// sit gives each node its seat. Volumes that exist stay where they are.
func (t *tx) sit(r *Reservation, seats []Seat) error {
	if len(seats) != len(r.Nodes) {
		return invalid("%d seats for %d nodes", len(seats), len(r.Nodes))
	}
	for i, s := range seats {
		n := &r.Nodes[i]
		if r.Kept && n.Volume != "" && s.Storage != n.Storage {
			return invalid("volume of node %s is on host %s and cannot be on %s", n.Name, n.Storage, s.Storage)
		}
		n.Host, n.Storage = s.Host, s.Storage
	}
	return t.checkNodes(r.Nodes)
}

// bind gives a booked reservation what it lacks, and begins provisioning.
func (t *tx) bind(id string, b Binding) error {
	old, err := t.reservation(id)
	if err != nil {
		return err
	}
	if old.State != api.StateBooked || old.Provision.After(t.now) {
		return fmt.Errorf("reservation %q is %s, to be provisioned at %s: %w", id, old.State, old.Provision, ErrState)
	}
	r := clone(old)
	if err := t.checkNodes(r.Nodes); err != nil { // a host may have died since it was booked
		return err
	}
	if err := t.identify(r); err != nil {
		return err
	}
	if err := t.giveVolumes(r, b.Volumes); err != nil {
		return err
	}
	r.Secrets = mergeSecrets(r.Secrets, b.Secrets)
	r.Bound, r.Kept = true, false
	t.provision(r)
	return nil
}

// mergeSecrets adds what is not there: what a node already has, stays.
func mergeSecrets(old, more map[string][]byte) map[string][]byte {
	out := maps.Clone(old)
	if out == nil {
		out = make(map[string][]byte, len(more))
	}
	for _, k := range slices.Sorted(maps.Keys(more)) {
		if _, have := out[k]; !have {
			out[k] = more[k]
		}
	}
	return out
}

// giveVolumes takes one volume for each node that is given one: a new one, or
// new credentials and a new generation of that which the node has. Every node
// has one in the end. What was parked goes one generation on in any case.
func (t *tx) giveVolumes(r *Reservation, vols []Volume) error {
	seen, given := map[string]bool{}, map[string]*Volume{}
	for i := range vols {
		v := &vols[i]
		if !validID(v.ID) || seen[v.ID] || given[v.Node] != nil {
			return invalid("volume id %q of node %q, or one of them comes twice", v.ID, v.Node)
		}
		seen[v.ID], given[v.Node] = true, v
	}
	used := 0
	for i := range r.Nodes {
		n := &r.Nodes[i]
		v := given[n.Name]
		if v == nil {
			old, ok := first[Volume](t.reader, tabVolumes, "id", key(n.Volume))
			if !ok {
				return invalid("node %s has no volume", n.Name)
			}
			if r.Kept {
				row := *old
				n.Generation++
				row.Generation = n.Generation
				t.put(tabVolumes, &row)
			}
			continue
		}
		used++
		if v.Reservation != r.ID || len(v.Secret) < 12 || len(v.Secret) > 64 || v.User == "" {
			return invalid("volume %s of %q: user %q, secret of %d characters: want 12-64", v.ID, v.Reservation, v.User, len(v.Secret))
		}
		row := Volume{ID: v.ID, Reservation: r.ID, Node: n.Name, Host: n.Storage, SizeBytes: n.DiskBytes,
			Recipe: r.Recipes[n.Appliance], Generation: n.Generation, User: v.User, Secret: v.Secret}
		old, exists := first[Volume](t.reader, tabVolumes, "id", key(v.ID))
		switch {
		case exists && (old.Reservation != r.ID || old.Node != n.Name || n.Volume != v.ID):
			return fmt.Errorf("volume %q: %w", v.ID, ErrExists)
		case exists:
			// The disk of a cluster that was parked: other credentials, one
			// generation on, the same content.
			n.Generation++
			row.Generation, row.Made, row.ImageDigest, row.Recipe = n.Generation, old.Made, old.ImageDigest, old.Recipe
		case row.Recipe == "":
			return invalid("volume %s: appliance %s has no recipe", v.ID, n.Appliance)
		}
		n.Volume = v.ID
		t.put(tabVolumes, &row)
	}
	if used != len(vols) {
		return invalid("%d volumes given, %d are of nodes of reservation %s", len(vols), used, r.ID)
	}
	return nil
}
