package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"vcn/api"
	"vcn/fsm"
)

func (s *Server) registerChanges() {
	one := api.PathReservations + "/{id}"
	byName := []int{http.StatusNotFound}
	change := operation("changeReservation", http.MethodPatch, one, "Change a reservation",
		"All of it is changed, or nothing. With dryRun=true the answer is a ChangePlan, and nothing is changed. A change that deletes data wants allowDataLoss with the reservation's name; "+
			"without it the answer is 409 with code data_loss. An extension that does not fit is 409 with code no_fit, what blocks it in reasons and the longest possible end in until. "+
			"With an Idempotency-Key, repeating the same change within an hour changes nothing more, as long as the same host leads.", 200, forOwner, byName...)
	change.Responses = map[string]*huma.Response{"200": jsonAnswer(s, "With dryRun=true: a ChangePlan", reflect.TypeFor[api.Reservation](), reflect.TypeFor[api.ChangePlan]())}
	addBody[api.Change](s, change, s.changeReservation)
	addBody[api.ParkRequest](s, operation("parkReservation", http.MethodPost, one+"/park", "End a slot now and keep the volumes",
		"Repeating it changes nothing.", 202, forOwner, byName...), s.park).Required = false
	resume := operation("resumeReservation", http.MethodPost, one+"/resume", "Bring a parked cluster back in a new slot",
		"With dryRun=true the answer is a Plan, and nothing is booked.", 200, forOwner, byName...)
	resume.Responses = map[string]*huma.Response{"200": jsonAnswer(s, "With dryRun=true: a Plan", reflect.TypeFor[api.Reservation](), reflect.TypeFor[api.Plan]())}
	addBody[api.Slot](s, resume, s.resume)
	add(s, operation("explainReservation", http.MethodGet, one+"/explain", "Why it is where it is, and what stands in the way of more", "", 200, forOwner, http.StatusNotFound, http.StatusConflict), s.explain)
}

// ofProject refuses what is said to be for another project than the token's.
func ofProject(who principal, project string) error {
	if who.Kind != api.TokenProject || project == "" || project == who.Project {
		return nil
	}
	return newProblem(http.StatusForbidden, api.CodeForbidden, fmt.Sprintf("this token is of project %s, the specification is of project %s", who.Project, project),
		"leave project out of the specification, or use that project's token")
}

type changeIn struct {
	FindIn
	Key           string `header:"Idempotency-Key" maxLength:"200" doc:"any text, new for each new request; remembered for an hour by the host that leads"`
	DryRun        bool   `query:"dryRun" doc:"only say what would be changed, and how"`
	AllowDataLoss string `query:"allowDataLoss" maxLength:"100" doc:"the reservation's name: yes, what is on its disks may be deleted"`
	RawBody       []byte
}

type anyOut struct {
	Indexed
	Body any
}

func (s *Server) changeReservation(ctx context.Context, in *changeIn) (*anyOut, error) {
	var ch api.Change
	if err := api.ReadStrict(bytes.NewReader(in.RawBody), BodyBytesMax, &ch); err != nil {
		return nil, err
	}
	who, v := principalOf(ctx), s.cfg.State.View()
	r, err := find(v, who, in.FindIn)
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		plan, err := s.cfg.Control.PlanChange(r.ID, ch, who.sees)
		if err != nil {
			return nil, err
		}
		return &anyOut{at(v.Index()), plan}, nil
	}
	request := r.ID + " " + in.AllowDataLoss + "\n" + string(in.RawBody)
	done, err := once(ctx, &s.replies, "changeReservation", in.Key, request, func() (*fsm.Reservation, error) {
		return s.cfg.Control.Change(ctx, r.ID, ch, who.TokenID, in.AllowDataLoss, who.sees)
	})
	return s.shown(done, err)
}

// shown is a reservation as it is after a command about it.
func (s *Server) shown(r *fsm.Reservation, err error) (*anyOut, error) {
	if err != nil {
		return nil, err
	}
	v := s.cfg.State.View()
	if now, ok := v.Reservation(r.ID); ok {
		r = &now
	}
	return &anyOut{at(v.Index()), s.newShower(v).reservation(*r)}, nil
}

type parkIn struct {
	FindIn
	RawBody []byte
}

func (s *Server) park(ctx context.Context, in *parkIn) (*oneOf[api.Reservation], error) {
	var req api.ParkRequest
	if len(bytes.TrimSpace(in.RawBody)) > 0 {
		if err := api.ReadStrict(bytes.NewReader(in.RawBody), BodyBytesMax, &req); err != nil {
			return nil, err
		}
	}
	who := principalOf(ctx)
	r, err := find(s.cfg.State.View(), who, in.FindIn)
	if err != nil {
		return nil, err
	}
	done, err := s.cfg.Control.Park(ctx, r.ID, req, who.TokenID)
	out, err := s.shown(done, err)
	if err != nil {
		return nil, err
	}
	return &oneOf[api.Reservation]{out.Indexed, out.Body.(api.Reservation)}, nil
}

type resumeIn struct {
	FindIn
	DryRun  bool   `query:"dryRun" doc:"only say what would be booked"`
	Key     string `header:"Idempotency-Key" maxLength:"200" doc:"any text, new for each new request; remembered for a day"`
	RawBody []byte
}

func (s *Server) resume(ctx context.Context, in *resumeIn) (*anyOut, error) {
	var slot api.Slot
	if err := api.ReadStrict(bytes.NewReader(in.RawBody), BodyBytesMax, &slot); err != nil {
		return nil, err
	}
	v := s.cfg.State.View()
	r, err := find(v, principalOf(ctx), in.FindIn)
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		plan, err := s.cfg.Control.PlanResume(r.ID, slot)
		if err != nil {
			return nil, err
		}
		return &anyOut{at(v.Index()), plan}, nil
	}
	done, err := s.cfg.Control.Resume(ctx, r.ID, slot, in.Key)
	return s.shown(done, err)
}

func (s *Server) explain(ctx context.Context, in *FindIn) (*oneOf[api.Explanation], error) {
	who := principalOf(ctx)
	v := s.cfg.State.View()
	r, err := find(v, who, *in)
	if err != nil {
		return nil, err
	}
	e, err := s.cfg.Control.Explain(r.ID, who.sees)
	if err != nil {
		return nil, err
	}
	return &oneOf[api.Explanation]{at(v.Index()), e}, nil
}
