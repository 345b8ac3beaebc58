package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"regexp"

	"vcn/api"
)

func (s *Server) registerOffers() {
	addBody[api.OfferRequest](s, operation("makeOffers", http.MethodPost, api.PathOffers, "When could I have this?",
		"Answers with what would fit: what was asked for, or the same later, fewer workers, another shape, a shorter slot, two slots. "+
			"The offers are held together for a while; one of them can be taken (POST /v1/reservations?offer=ID). "+
			"With an Idempotency-Key, repeating the same question within an hour answers with the same offers, as long as the same host leads.", 200, forOwner), s.makeOffers)
	one := api.PathOffers + "/{id}"
	add(s, operation("getOffer", http.MethodGet, one, "One held offer",
		"409 with code expired: it is not held any more. 404: that is not an offer's id.", 200, forOwner, http.StatusNotFound, http.StatusConflict), s.getOffer)
	add(s, operation("releaseOffer", http.MethodDelete, one, "Give a hold back",
		"With all its alternatives. 409 with code expired: it is not held any more.", 204, forOwner, http.StatusNotFound, http.StatusConflict), s.releaseOffer)
}

type keyedIn struct {
	Key     string `header:"Idempotency-Key" maxLength:"200" doc:"any text, new for each new request; remembered for an hour by the host that leads"`
	RawBody []byte
}

func (s *Server) makeOffers(ctx context.Context, in *keyedIn) (*oneOf[api.OfferList], error) {
	var req api.OfferRequest
	if err := api.ReadStrict(bytes.NewReader(in.RawBody), BodyBytesMax, &req); err != nil {
		return nil, err
	}
	who := principalOf(ctx)
	if err := ofProject(who, req.Spec.Project); err != nil {
		return nil, err
	}
	list, err := once(ctx, &s.replies, "makeOffers", in.Key, string(in.RawBody), func() (api.OfferList, error) {
		return s.cfg.Control.Offers(ctx, req, who.Project, who.TokenID)
	})
	if err != nil {
		return nil, err
	}
	return &oneOf[api.OfferList]{at(s.cfg.State.View().Index()), list}, nil
}

type offerIn struct {
	ID string `path:"id" maxLength:"100"`
}

// offerID is the form of an offer's id: that of its hold, and a number.
var offerID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-[0-9]+$`)

// offer finds a held offer that the asker may see. What is over is forgotten, so
// that any id of the right form may have been an offer.
func (s *Server) offer(ctx context.Context, id string) (api.Offer, error) {
	if !offerID.MatchString(id) {
		return api.Offer{}, newProblem(http.StatusNotFound, api.CodeNotFound, fmt.Sprintf("there is no offer %.100s", id), "ask for offers: vcnctl when")
	}
	o, err := s.cfg.Control.Offer(id)
	if err == nil && !principalOf(ctx).sees(o.Project) {
		_, err = s.cfg.Control.Offer("") // as if there were none
	}
	return o, err
}

func (s *Server) getOffer(ctx context.Context, in *offerIn) (*oneOf[api.Offer], error) {
	index := s.cfg.State.View().Index() // read first: what follows is of this state or a later one
	o, err := s.offer(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &oneOf[api.Offer]{at(index), o}, nil
}

func (s *Server) releaseOffer(ctx context.Context, in *offerIn) (*struct{}, error) {
	if _, err := s.offer(ctx, in.ID); err != nil {
		return nil, err
	}
	return nil, s.cfg.Control.ReleaseOffer(ctx, in.ID)
}
