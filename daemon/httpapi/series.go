package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"

	"vcn/api"
	"vcn/fsm"
)

func (s *Server) registerSeries() {
	one := api.PathSeries + "/{id}"
	byName := []int{http.StatusNotFound, http.StatusConflict}
	add(s, operation("listSeries", http.MethodGet, api.PathSeries, "The series there are", "A project's token sees its own project's.", 200, forOwner), s.listSeries)
	add(s, operation("getSeries", http.MethodGet, one, "One series with its reservations", "", 200, forOwner, byName...), s.getSeries)
	addBody[api.Change](s, operation("changeSeries", http.MethodPatch, one, "Change all dates that have not begun",
		"One after another; those for which it is not possible stay as they are and are named. A start is a time of day. With dryRun=true nothing is changed. "+
			"With an Idempotency-Key, repeating the same change within an hour changes nothing more, as long as the same host leads.", 200, forOwner, http.StatusNotFound), s.changeSeries)
	add(s, operation("cancelSeries", http.MethodDelete, one, "Cancel all dates that have not begun", "", 202, forOwner, byName...), s.cancelSeries)
}

// findSeries looks a series up by id or name, for who asks. Of a name, those with
// dates that are not over count before the others, and of those the latest.
func (s *Server) findSeries(ctx context.Context, id string) (fsm.Series, error) {
	who, v := principalOf(ctx), s.cfg.State.View()
	var live, over []fsm.Series
	for _, x := range v.AllSeries() {
		switch {
		case !who.sees(x.Project):
		case x.ID == id:
			return x, nil
		case x.Name != id:
		case slices.ContainsFunc(v.OfSeries(x.ID), func(r fsm.Reservation) bool { return r.Live() }):
			live = append(live, x)
		default:
			over = append(over, x)
		}
	}
	switch {
	case len(live) == 1:
		return live[0], nil
	case len(live) > 1:
		return fsm.Series{}, newProblem(http.StatusConflict, api.CodeConflict, fmt.Sprintf("%d series are named %.100s", len(live), id), "give its id")
	case len(over) > 0:
		return slices.MaxFunc(over, func(a, b fsm.Series) int { return a.Created.Compare(b.Created) }), nil
	}
	return fsm.Series{}, newProblem(http.StatusNotFound, api.CodeNotFound, fmt.Sprintf("there is no series %.100s", id), "vcnctl series list shows those there are")
}

func (s *shower) series(x fsm.Series) api.Series {
	out := api.Series{ID: x.ID, Name: x.Name, Project: x.Project, Zone: x.Spec.Slot.Zone, Repeat: x.Spec.Slot.Repeat, Except: x.Spec.Slot.Except,
		Created: x.Created, Reservations: []api.Reservation{}}
	for _, r := range s.v.OfSeries(x.ID) {
		out.Reservations = append(out.Reservations, s.reservation(r))
	}
	return out
}

func (s *Server) listSeries(ctx context.Context, _ *nothing) (*listOf[api.Series], error) {
	v := s.cfg.State.View()
	show := s.newShower(v)
	var out []api.Series
	for _, x := range v.AllSeries() {
		if principalOf(ctx).sees(x.Project) {
			out = append(out, show.series(x))
		}
	}
	return listAt(v.Index(), out), nil
}

type seriesIn struct {
	ID string `path:"id" maxLength:"100" doc:"id, or name"`
}

func (s *Server) getSeries(ctx context.Context, in *seriesIn) (*oneOf[api.Series], error) {
	x, err := s.findSeries(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	v := s.cfg.State.View()
	return &oneOf[api.Series]{at(v.Index()), s.newShower(v).series(x)}, nil
}

type changeSeriesIn struct {
	ID      string `path:"id" maxLength:"100" doc:"id, or name"`
	Key     string `header:"Idempotency-Key" maxLength:"200" doc:"any text, new for each new request; remembered for an hour by the host that leads"`
	DryRun  bool   `query:"dryRun" doc:"only say what would be changed"`
	RawBody []byte
}

func (s *Server) changeSeries(ctx context.Context, in *changeSeriesIn) (*oneOf[api.SeriesResult], error) {
	var ch api.Change
	if err := api.ReadStrict(bytes.NewReader(in.RawBody), BodyBytesMax, &ch); err != nil {
		return nil, err
	}
	x, err := s.findSeries(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	who, before, key := principalOf(ctx), s.cfg.State.View(), in.Key
	if in.DryRun {
		key = "" // nothing is done that could be done twice
	}
	res, err := once(ctx, &s.replies, "changeSeries", key, x.ID+"\n"+string(in.RawBody), func() (api.SeriesResult, error) {
		return s.cfg.Control.ChangeSeries(ctx, x.ID, ch, in.DryRun, who.TokenID, who.sees)
	})
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		return &oneOf[api.SeriesResult]{at(before.Index()), res}, nil
	}
	v := s.cfg.State.View()
	shown := s.newShower(v).series(x)
	res.Series = &shown
	return &oneOf[api.SeriesResult]{at(v.Index()), res}, nil
}

func (s *Server) cancelSeries(ctx context.Context, in *seriesIn) (*oneOf[api.Series], error) {
	x, err := s.findSeries(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Control.CancelSeries(ctx, x.ID, principalOf(ctx).TokenID); err != nil {
		return nil, err
	}
	v := s.cfg.State.View()
	return &oneOf[api.Series]{at(v.Index()), s.newShower(v).series(x)}, nil
}
