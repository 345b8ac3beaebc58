package simulate

import (
	"math"
	"slices"
	"time"

	"vcn/api"
)

// CalendarOptions choose what of a calendar is replayed.
type CalendarOptions struct {
	Wait time.Duration // of each request that has no wait of its own
	// From and Until choose reservations by when they were made, of those times
	// that are not zero.
	From, Until time.Time
}

// Replay is the requests of a calendar.
type Replay struct {
	Requests []Request
	// Cancelled ones were taken back before their slot; they are left out.
	Cancelled int
}

// Calendar makes requests of reservations as the API shows them: each comes when
// it was made, for the slot it has or, in the waitlist, wants. When one was
// released before its end is not told, so each is used until its slot ends.
func Calendar(list []api.Reservation, o CalendarOptions) Replay {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b api.Reservation) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return slices.Compare([]string{a.ID}, []string{b.ID})
	})
	var out Replay
	for i := range list {
		r := &list[i]
		if !o.From.IsZero() && r.Created.Before(o.From) || !o.Until.IsZero() && !r.Created.Before(o.Until) {
			continue
		}
		if r.State == api.StateCancelled {
			out.Cancelled++
			continue
		}
		out.Requests = append(out.Requests, requestOf(r, o.Wait))
	}
	return out
}

// asapWithin is how soon after it was made a slot begins that was to begin at once.
const asapWithin = time.Minute

func requestOf(r *api.Reservation, wait time.Duration) Request {
	spec := r.Spec.Defaults()
	front := spec.Frontend
	front.Disk += spec.Home
	q := Request{At: r.Created, Earliest: r.Start, Length: r.End.Sub(r.Start), Frontend: front, Project: r.Project, Wait: wait}
	if spec.Slot.Start == api.StartAsap || r.Start.Sub(r.Created) < asapWithin {
		q.Earliest = time.Time{}
	}
	if r.Wait != nil {
		q.Earliest, q.Wait = r.Wait.Earliest, r.Wait.Latest.Sub(r.Wait.Earliest)
	}
	for i, g := range spec.Workers {
		if i == 0 {
			q.Workers, q.Shape = g.Count, g.NodeShape
			continue
		}
		q.More = append(q.More, g)
	}
	return q
}

// scaleMax bounds a factor of Scale.
const scaleMax = 1000

// Scale makes the number of hosts factor times what it is: it repeats them in
// their order, or leaves out the last ones. Of each set of classes at least one
// is kept.
func Scale(hosts []Host, factor float64) ([]Host, error) {
	if !(factor > 0 && factor <= scaleMax) {
		return nil, invalid("a factor of %v: want more than 0, at most %d", factor, scaleMax)
	}
	single, err := expand(hosts)
	if err != nil {
		return nil, err
	}
	groups := map[string][]Host{}
	var order []string
	for _, h := range single {
		classes := slices.Sorted(slices.Values(h.Classes))
		k := ""
		for _, c := range classes {
			k += string(c) + " "
		}
		if _, ok := groups[k]; !ok {
			order = append(order, k)
		}
		groups[k] = append(groups[k], h)
	}
	var out []Host
	for _, k := range order {
		g := groups[k]
		n := max(int(math.Round(float64(len(g))*factor)), 1)
		if len(out)+n > HostsMax {
			return nil, invalid("more than %d hosts", HostsMax)
		}
		for i := range n {
			h := g[i%len(g)]
			if round := i / len(g); round > 0 {
				h.Name = h.Name + "-x" + itoa(round+1)
			}
			out = append(out, h)
		}
	}
	return out, nil
}
