package control

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"vcn/api"
	"vcn/fsm"
	"vcn/placement"
)

// planner places drafts on the latest state plus the plans in flight.
type planner struct {
	state   State
	recipes *recipes

	mu       sync.Mutex
	inFlight map[string]*flight   // by reservation id
	inv      *placement.Inventory // hosts and bookings, with all plans placed since; nil if not to be used
	invAt    time.Time            // when it was made
	factor   float64              // learned, for lead times
	learned  time.Time            // when
}

// flight is a plan that is placed and perhaps not yet in the state.
type flight struct {
	project, name string
	vlan          int
	subnet        string
	public        string
	macs          []string
	bookings      []placement.Booking
	builders      []string // hosts chosen to build
	recipes       []string // that they build
}

// inventoryKept is how long an inventory is planned on before it is made anew
// from the state. To make one costs milliseconds with thousands of bookings. What it may
// miss meanwhile is capacity given back (a plan that does not fit is tried once
// more on a new one) and hosts lost (Apply refuses, and a refusal drops it).
const inventoryKept = time.Second

func newPlanner(state State, rs *recipes) *planner {
	return &planner{state: state, recipes: rs, inFlight: map[string]*flight{}}
}

// reset forgets all plans in flight.
func (p *planner) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.inFlight)
	p.inv = nil
}

// land takes a plan out of flight: its command is applied, or (not ok) given up.
func (p *planner) land(id string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.inFlight, id)
	if !ok {
		p.inv = nil
	}
}

// plan places a draft at the time now. With keep, the plan stays in flight until
// land. The error is a *api.Problem when it cannot be placed.
func (p *planner) plan(d *draft, now time.Time, keep bool) (fsm.ReservationCreate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.state.View()
	if clock := v.Clock(); clock.After(now) {
		now = clock
	}
	cmd, f, err := p.place(v, d, now)
	if err != nil {
		return fsm.ReservationCreate{}, err
	}
	if keep {
		p.inFlight[d.id] = f
		p.inv.Add(f.bookings...)
	}
	return cmd, nil
}

// place chooses everything scarce. It is called with the lock held.
func (p *planner) place(v *fsm.View, d *draft, now time.Time) (fsm.ReservationCreate, *flight, error) {
	none := fsm.ReservationCreate{}
	if err := p.admit(v, d); err != nil {
		return none, nil, err
	}
	images := p.images(v, d)
	var lead time.Duration
	if !d.asap {
		lead = p.lead(v, d, now)
	}
	provision, start, end := d.slot(now, lead)
	if !end.After(start) {
		return none, nil, api.Invalid("the slot is not possible", []api.FieldError{{Field: "slot.end", Value: d.spec.Slot.End, Want: "a time after the start, " + start.UTC().Format(time.RFC3339)}})
	}
	r := fsm.Reservation{
		ID: d.id, Name: d.spec.Name, Project: d.spec.Project, Owner: d.owner,
		Start: start, End: end, Provision: provision,
		Spec: d.spec, Nodes: slices.Clone(d.nodes), Users: d.users, Rolls: d.rolls,
		Recipes: map[string]string{}, Secrets: d.secrets,
	}
	for a, rec := range d.recipes {
		r.Recipes[a] = rec.digest
	}
	volumes := slices.Clone(d.volumes)
	bookings, err := p.assign(v, &r, volumes, d, now)
	if err != nil {
		return none, nil, err
	}
	if err := p.identify(v, &r); err != nil {
		return none, nil, err
	}
	f := &flight{project: r.Project, name: r.Name, vlan: r.VLAN, subnet: r.Subnet, bookings: bookings}
	for _, n := range r.Nodes {
		f.macs = append(f.macs, n.PrivateMAC)
		if n.PublicMAC != "" {
			f.macs, f.public = append(f.macs, n.PublicMAC), n.PublicIP
		}
	}
	for _, w := range images {
		f.builders, f.recipes = append(f.builders, w.Builder), append(f.recipes, w.Recipe)
	}
	return fsm.ReservationCreate{
		Key: d.key, RequestHash: d.hash, Reservation: r, Volumes: volumes, Leases: fsm.LeasesOf(r), Images: images,
	}, f, nil
}

// admit says what forbids a reservation before anything is chosen for it.
func (p *planner) admit(v *fsm.View, d *draft) error {
	meta, ok := v.Meta()
	if !ok || !meta.Formed {
		return &api.Problem{Status: http.StatusServiceUnavailable, Code: api.CodeForming,
			Detail: fmt.Sprintf("this cluster of hosts is still forming: it waits for %d voters", meta.Expect),
			Next:   "try again when the operator has joined the other hosts (vcnd join); vcnctl status shows how many there are"}
	}
	if _, taken := v.ReservationByName(d.spec.Project, d.spec.Name); taken {
		return nameTaken(d.spec)
	}
	return nil
}

func nameTaken(s api.Spec) *api.Problem {
	return &api.Problem{Status: http.StatusConflict, Code: api.CodeConflict,
		Detail: fmt.Sprintf("project %s has a live reservation named %s", s.Project, s.Name),
		Next:   "choose another name, or release that one first (vcnctl release " + s.Name + ")"}
}

// inventory returns what to plan on, and whether it was made just now.
func (p *planner) inventory(v *fsm.View, now time.Time) (*placement.Inventory, bool) {
	if p.inv != nil && now.Sub(p.invAt) < inventoryKept && !now.Before(p.invAt) {
		return p.inv, false
	}
	var bookings []placement.Booking
	for _, b := range v.Bookings() {
		bookings = append(bookings, placement.Booking{Host: b.Host, From: b.From, Until: b.Until,
			CPUs: b.CPUs, MemoryBytes: b.MemoryBytes, StorageBytes: b.StorageBytes})
	}
	for id, f := range p.inFlight {
		if _, landed := v.Reservation(id); !landed {
			bookings = append(bookings, f.bookings...)
		}
	}
	p.inv, p.invAt = placement.New(placeHosts(v), bookings), now
	return p.inv, true
}

// assign chooses hosts for nodes and volumes and returns what is booked.
func (p *planner) assign(v *fsm.View, r *fsm.Reservation, volumes []fsm.Volume, d *draft, now time.Time) ([]placement.Booking, error) {
	request := placement.Request{From: r.Provision, Until: r.End.Add(fsm.Turnaround), Nodes: d.request, Policy: placement.Spread}
	inv, fresh := p.inventory(v, now)
	plan, err := inv.Plan(request)
	if err != nil && !fresh {
		p.inv = nil
		inv, _ = p.inventory(v, now)
		plan, err = inv.Plan(request)
	}
	if err != nil {
		return nil, noFit(err)
	}
	for i, a := range plan.Nodes {
		n := &r.Nodes[i]
		if a.Node != n.Name {
			return nil, fmt.Errorf("place %s: placement answered for %q at its place", n.Name, a.Node)
		}
		n.Host, volumes[i].Host = a.Host, a.Storage
	}
	return plan.Bookings(request), nil
}

func noFit(err error) error {
	var nf *placement.NoFit
	if !errors.As(err, &nf) {
		return fmt.Errorf("place nodes: %w", err)
	}
	return &api.Problem{Status: http.StatusConflict, Code: api.CodeNoFit,
		Detail: "the hosts cannot carry this in that slot", Reasons: nf.Reasons,
		Next: "ask for less, for smaller nodes, or for another time; --dry-run tries without booking"}
}

// identify chooses VLAN, subnet, addresses and MACs that neither the state nor a plan in flight has.
func (p *planner) identify(v *fsm.View, r *fsm.Reservation) error {
	vlans, subnets, publics, macs := map[int]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, f := range p.inFlight {
		vlans[f.vlan], subnets[f.subnet], publics[f.public] = true, true, true
		for _, m := range f.macs {
			macs[m] = true
		}
	}
	n := len(p.inFlight) + 1
	free, err := v.AllocVLANs(n)
	if err != nil {
		return poolEmpty("VLANs", err)
	}
	r.VLAN = firstNot(free, vlans)
	nets, err := v.AllocSubnets(n)
	if err != nil {
		return poolEmpty("subnets", err)
	}
	r.Subnet = firstNot(nets, subnets)
	addrs, err := v.AllocPublics(n)
	if err != nil {
		return poolEmpty("public addresses", err)
	}
	public := firstNot(addrs, publics)
	cards, err := v.AllocMACs(len(macs) + len(r.Nodes) + 1)
	if err != nil {
		return poolEmpty("MAC addresses", err)
	}
	cards = slices.DeleteFunc(cards, func(m string) bool { return macs[m] })
	return address(r, public, cards)
}

func firstNot[T comparable](free []T, taken map[T]bool) T {
	for _, x := range free {
		if !taken[x] {
			return x
		}
	}
	panic("control: more identifiers are in flight than plans") // one more was asked for than can be taken
}

func poolEmpty(what string, err error) error {
	if !errors.Is(err, fsm.ErrPoolEmpty) {
		return fmt.Errorf("choose identifiers: %w", err)
	}
	return &api.Problem{Status: http.StatusConflict, Code: api.CodeNoFit,
		Detail:  "all " + what + " are leased",
		Reasons: []string{"every one of the operator's pool of " + what + " is held by a live reservation"},
		Next:    "release a cluster that is no longer needed, or ask the operator to enlarge the pool; vcnctl lease list shows who holds what"}
}

// address gives every node its addresses and MACs.
func address(r *fsm.Reservation, public string, macs []string) error {
	subnet, err := netip.ParsePrefix(r.Subnet)
	if err != nil {
		return fmt.Errorf("read subnet: %w", err)
	}
	addr := subnet.Addr()
	at := 0
	step := func(to int) (netip.Addr, bool) {
		for ; at < to; at++ {
			addr = addr.Next()
		}
		return addr, subnet.Contains(addr.Next()) // the last is the broadcast address
	}
	for i := range r.Nodes {
		n := &r.Nodes[i]
		host := workersFrom + i - 1
		if n.Role == api.RoleFrontend {
			host = frontendHost
			n.PublicIP, n.PublicMAC = public, macs[len(r.Nodes)]
		}
		a, ok := step(host)
		if !ok {
			return &api.Problem{Status: http.StatusConflict, Code: api.CodeNoFit,
				Detail:  fmt.Sprintf("%d nodes do not fit into a subnet of /%d", len(r.Nodes), subnet.Bits()),
				Reasons: []string{fmt.Sprintf("subnet %s: %s has no address", subnet, n.Name)},
				Next:    "ask for fewer nodes, or ask the operator for larger subnets"}
		}
		n.PrivateIP, n.PrivateMAC = a.String(), macs[i]
	}
	return nil
}

// lead is the lead time of a draft. It is called with the lock held. What is
// learned is kept for a while, as it takes a look at every reservation there was.
func (p *planner) lead(v *fsm.View, d *draft, now time.Time) time.Duration {
	if p.learned.IsZero() || now.Sub(p.learned) > leadLearnEvery {
		p.factor, p.learned = learned(v.Reservations(fsm.ReservationFilter{Closed: true})), now
	}
	return lead(len(d.nodes), p.building(v, d), p.factor)
}

// leadOf is lead with the lock not held.
func (p *planner) leadOf(v *fsm.View, d *draft, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lead(v, d, now)
}

// building is true if an image of the draft is not built yet.
func (p *planner) building(v *fsm.View, d *draft) bool {
	for _, r := range d.recipes {
		if img, ok := v.Image(r.digest); !ok || img.State != fsm.ImageReady {
			return true
		}
	}
	return false
}

// images lists the images that have to be built for the draft, each with a
// builder.
func (p *planner) images(v *fsm.View, d *draft) []fsm.ImageWant {
	var out []fsm.ImageWant
	load := p.buildLoad(v)
	appliances := make([]string, 0, len(d.recipes))
	for a := range d.recipes {
		appliances = append(appliances, a)
	}
	slices.SortFunc(appliances, strings.Compare)
	for _, a := range appliances {
		r := d.recipes[a]
		if img, ok := v.Image(r.digest); ok && img.State != fsm.ImageFailed {
			continue
		}
		w := fsm.ImageWant{Recipe: r.digest, Appliance: a, Rolls: r.names}
		w.Builder = p.builderInFlight(r.digest)
		if w.Builder == "" {
			w.Builder = chooseBuilder(v, load, "")
		}
		load[w.Builder]++
		out = append(out, w)
	}
	return out
}

// builderInFlight is who builds the recipe for a plan in flight.
func (p *planner) builderInFlight(recipe string) string {
	for _, f := range p.inFlight {
		if i := slices.Index(f.recipes, recipe); i >= 0 {
			return f.builders[i]
		}
	}
	return ""
}

// load is buildLoad with the lock not held.
func (p *planner) load(v *fsm.View) map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.buildLoad(v)
}

func (p *planner) buildLoad(v *fsm.View) map[string]int {
	load := buildLoad(v)
	for _, f := range p.inFlight {
		for _, b := range f.builders {
			load[b]++
		}
	}
	return load
}
