package simulate

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"vcn/api"
	"vcn/fsm"
)

// book asks control as the policy says.
func (p *player) book(ctx context.Context, n int, req *Request) (*fsm.Reservation, error) {
	spec := req.spec(n, p.rig.now)
	c := p.rig.control
	switch {
	case p.s.Policy == PolicyBook || req.Wait == 0:
		return c.Reserve(ctx, spec, "", "", "")
	case p.s.Policy == PolicyWait:
		return c.ReserveWait(ctx, spec, api.FormatDuration(max(req.Wait, WaitMin)), "", "", "")
	}
	return p.offered(ctx, spec, later(p.rig.now, req.Earliest).Add(max(req.Wait, WaitMin)))
}

// offerHold is how long offers are held; one is taken at once.
const offerHold = "10m"

// offered takes the earliest offer of the size asked for.
func (p *player) offered(ctx context.Context, spec api.Spec, latest time.Time) (*fsm.Reservation, error) {
	list, err := p.rig.control.Offers(ctx, api.OfferRequest{Spec: spec, Latest: latest.UTC().Format(time.RFC3339), Hold: offerHold}, spec.Project, "")
	if err != nil {
		return nil, err
	}
	fit := slices.DeleteFunc(list.Items, func(o api.Offer) bool { return o.Kind != api.OfferExact && o.Kind != api.OfferLater })
	if len(fit) == 0 {
		return nil, &api.Problem{Code: api.CodeNoFit, Detail: "there is no offer", Reasons: list.Reasons}
	}
	best := slices.MinFunc(fit, func(a, b api.Offer) int {
		return cmp.Or(a.Parts[0].Start.Compare(b.Parts[0].Start), cmp.Compare(a.Kind, b.Kind))
	})
	return p.rig.control.TakeOffer(ctx, best.ID, "", spec.Project, "", "")
}

// Classes of refusals. The first four are what there was too little of.
const (
	ClassGateway     = "gateway"     // hosts for the frontend
	ClassCompute     = "compute"     // hosts for the workers
	ClassStorage     = "storage"     // hosts for the volumes
	ClassIdentifiers = "identifiers" // VLANs, subnets, addresses
	ClassQueue       = "queue"       // somebody who was passed too often goes first
	ClassWaited      = "waited"      // nothing came free in time
	ClassFull        = "waitlist"    // the project has too many in the waitlist
	ClassInvalid     = "impossible"  // no cluster can be like this
)

// classify is the class of a refusal; false of an error that is none.
func classify(err error) (class string, refusal bool) {
	var p *api.Problem
	if !errors.As(err, &p) {
		return "", false
	}
	switch p.Code {
	case api.CodeInvalid:
		return ClassInvalid, true
	case api.CodeConflict: // a quota: nothing else is asked for twice
		return ClassFull, strings.Contains(p.Detail, "waitlisted")
	case api.CodeNoFit:
		if len(p.Reasons) == 0 {
			return ClassQueue, true
		}
		what, _, _ := strings.Cut(p.Reasons[0], ":")
		if slices.Contains([]string{ClassGateway, ClassCompute, ClassStorage, ClassIdentifiers}, what) {
			return what, true
		}
		return ClassQueue, true
	}
	return "", false
}
