package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"vcn/api"
	"vcn/fsm"
)

const (
	// eventsPage is how many events one answer holds, but for those of the
	// last index, which stay together.
	eventsPage = 1000
)

func (s *Server) registerReservations() {
	one := api.PathReservations + "/{id}"
	byName := []int{http.StatusNotFound, http.StatusConflict} // none of that name, or several
	add(s, operation("listReservations", http.MethodGet, api.PathReservations, "The reservations there are",
		"A project's token sees its own project's.", 200, forOwner), s.listReservations)
	reserve := operation("reserve", http.MethodPost, api.PathReservations, "Reserve a cluster",
		"All of it is booked, or nothing. With dryRun=true the answer is 200 and a Plan (of a series: a SeriesResult), and nothing is booked. "+
			"With an Idempotency-Key, repeating the same request answers with the same reservation. "+
			"A held offer is taken with offer=ID and no body; of an offer of two slots the first reservation is answered.", 201, forOwner, http.StatusNotFound)
	reserve.Responses = map[string]*huma.Response{
		"200": jsonAnswer(s, "With dryRun=true: what would be booked", reflect.TypeFor[api.Plan](), reflect.TypeFor[api.SeriesResult]()),
		"201": jsonAnswer(s, "Of a specification with slot.repeat: a SeriesResult", reflect.TypeFor[api.Reservation](), reflect.TypeFor[api.SeriesResult]()),
	}
	addBody[api.Spec](s, reserve, s.reserve).Required = false
	add(s, operation("getReservation", http.MethodGet, one, "One reservation, by id or name",
		"With index, the answer waits until the reservation has changed after that index (X-Vcn-Index of the last answer), or wait has passed.", 200, forOwner, byName...), s.getReservation)
	add(s, operation("release", http.MethodDelete, one, "End a reservation now",
		"In whatever state it is. Its volumes are deleted. Repeating it changes nothing.", 202, forOwner, byName...), s.release)
	add(s, operation("listReservationEvents", http.MethodGet, one+"/events", "What happened to a reservation", "", 200, forOwner, byName...), s.reservationEvents)
	add(s, operation("listEvents", http.MethodGet, api.PathEvents, "What happened",
		"A project's token sees what happened to its own reservations.", 200, forOwner), s.events)
}

type listReservationsIn struct {
	Project string `query:"project" maxLength:"100" doc:"only this project's"`
	All     bool   `query:"all" doc:"also those that are over"`
	State   string `query:"state" enum:"waitlisted,booked,provisioning,ready,active,ending,parked,ended,failed,cancelled" doc:"only those in this state"`
}

func (s *Server) listReservations(ctx context.Context, in *listReservationsIn) (*listOf[api.Reservation], error) {
	who := principalOf(ctx)
	f := fsm.ReservationFilter{Project: in.Project, Closed: in.All}
	switch api.State(in.State) {
	case api.StateEnded, api.StateFailed, api.StateCancelled:
		f.Closed = true
	}
	if err := listsProject(who, in.Project); err != nil {
		return nil, err
	}
	if who.Kind == api.TokenProject {
		f.Project = who.Project
	}
	v := s.cfg.State.View()
	show := s.newShower(v)
	var out []api.Reservation
	for _, r := range v.Reservations(f) {
		if in.State == "" || string(r.State) == in.State {
			out = append(out, show.reservation(r))
		}
	}
	return listAt(v.Index(), out), nil
}

// listsProject refuses to list another project's things for a project's token:
// an empty list would look as if there were none.
func listsProject(who principal, project string) error {
	if who.Project == "" || project == "" || project == who.Project {
		return nil
	}
	return newProblem(http.StatusForbidden, api.CodeForbidden, "this token is of project "+who.Project, "leave out project, or use that project's token")
}

type reserveIn struct {
	DryRun  bool   `query:"dryRun" doc:"only say what would be booked"`
	Offer   string `query:"offer" maxLength:"100" doc:"take this held offer; then there is no body"`
	Name    string `query:"name" maxLength:"40" doc:"with offer: another name than was asked with"`
	WaitFor string `query:"waitFor" maxLength:"20" doc:"if it does not fit, wait for it: book it as soon as it does, to start at the latest so long after its earliest start (7d)"`
	Partial bool   `query:"partial" doc:"of a series: book the dates that fit"`
	Key     string `header:"Idempotency-Key" maxLength:"200" doc:"any text, new for each new request; remembered for a day"`
	RawBody []byte
}

type reserveOut struct {
	Status int
	Indexed
	Location string `header:"Location"`
	Body     any
}

func (s *Server) reserve(ctx context.Context, in *reserveIn) (*reserveOut, error) {
	who := principalOf(ctx)
	if in.Offer != "" {
		return s.takeOffer(ctx, in)
	}
	if err := in.check(); err != nil {
		return nil, err
	}
	spec, err := api.ReadSpec(bytes.NewReader(in.RawBody))
	if err != nil {
		return nil, err
	}
	if err := ofProject(who, spec.Project); err != nil {
		return nil, err
	}
	if spec.Slot.Repeat != "" {
		return s.reserveSeries(ctx, in, spec)
	}
	if in.Partial {
		return nil, oneWrong("partial", "true", "nothing without slot.repeat: it is for the dates of a series")
	}
	if in.DryRun {
		plan, err := s.cfg.Control.DryRun(ctx, spec, who.Project)
		if err != nil {
			return nil, err
		}
		return &reserveOut{Status: http.StatusOK, Indexed: at(s.cfg.State.View().Index()), Body: plan}, nil
	}
	if in.WaitFor != "" {
		return s.created(s.cfg.Control.ReserveWait(ctx, spec, in.WaitFor, who.Project, who.TokenID, in.Key))
	}
	return s.created(s.cfg.Control.Reserve(ctx, spec, who.Project, who.TokenID, in.Key))
}

// check refuses parameters that mean nothing beside each other, rather than
// leave them out silently.
func (in *reserveIn) check() error {
	switch {
	case in.Name != "":
		return oneWrong("name", in.Name, "nothing without offer: the name is in the specification")
	case in.WaitFor != "" && in.DryRun:
		return oneWrong("waitFor", in.WaitFor, "nothing with dryRun: whether and when something comes free is not known")
	}
	return nil
}

// oneWrong says that one field is wrong.
func oneWrong(field, value, want string) error {
	return api.Invalid("one field is wrong", []api.FieldError{{Field: field, Value: value, Want: want}})
}

func (s *Server) created(r *fsm.Reservation, err error) (*reserveOut, error) {
	if err != nil {
		return nil, err
	}
	v := s.cfg.State.View()
	if now, ok := v.Reservation(r.ID); ok {
		r = &now
	}
	return &reserveOut{http.StatusCreated, at(v.Index()), api.PathReservations + "/" + r.ID, s.newShower(v).reservation(*r)}, nil
}

func (s *Server) takeOffer(ctx context.Context, in *reserveIn) (*reserveOut, error) {
	if in.DryRun || in.Partial || in.WaitFor != "" || len(bytes.TrimSpace(in.RawBody)) > 0 {
		return nil, api.Invalid("an offer is taken as it is", []api.FieldError{{Field: "offer", Value: in.Offer, Want: "no body, no dryRun, no partial and no waitFor beside it"}})
	}
	who, project := principalOf(ctx), ""
	o, err := s.offer(ctx, in.Offer)
	switch {
	case err == nil:
		project = o.Project
	case in.Key == "":
		return nil, err
	default: // a repeated call finds what the first one made by its key
		project = s.projectOfKey(who, in.Key)
	}
	if project == "" {
		return nil, err
	}
	return s.created(s.cfg.Control.TakeOffer(ctx, in.Offer, in.Name, project, who.TokenID, in.Key))
}

// projectOfKey is the project for which this token has used a key: its own, or,
// of an operator's, that of a reservation that it has made; empty if none.
func (s *Server) projectOfKey(who principal, key string) string {
	if who.Kind != api.TokenOperator {
		return who.Project
	}
	v := s.cfg.State.View()
	tried := map[string]bool{}
	for _, r := range v.Reservations(fsm.ReservationFilter{Closed: true}) {
		if r.Owner != who.TokenID || tried[r.Project] {
			continue
		}
		tried[r.Project] = true
		id, _, ok := v.KeyOf(r.Project, key)
		if made, known := v.Reservation(id); ok && known && made.Owner == who.TokenID {
			return r.Project
		}
	}
	return ""
}

func (s *Server) reserveSeries(ctx context.Context, in *reserveIn, spec api.Spec) (*reserveOut, error) {
	if in.WaitFor != "" {
		return nil, oneWrong("waitFor", in.WaitFor, "nothing with slot.repeat: the dates of a series do not wait")
	}
	who := principalOf(ctx)
	res, series, err := s.cfg.Control.ReserveSeries(ctx, spec, in.Partial, in.DryRun, who.Project, who.TokenID, in.Key)
	if err != nil {
		return nil, err
	}
	v := s.cfg.State.View()
	if series == nil {
		return &reserveOut{Status: http.StatusOK, Indexed: at(v.Index()), Body: res}, nil
	}
	shown := s.newShower(v).series(*series)
	res.Series = &shown
	return &reserveOut{http.StatusCreated, at(v.Index()), api.PathSeries + "/" + series.ID, res}, nil
}

type FindIn struct {
	ID      string `path:"id" maxLength:"100" doc:"id, or name"`
	Project string `query:"project" maxLength:"100" doc:"whose, where a name is given and several projects have it"`
}

// find looks a reservation up by id or name, for who asks. Of a name, a live
// one counts before those that are over, and of those the latest.
func find(v *fsm.View, who principal, in FindIn) (fsm.Reservation, error) {
	missing := newProblem(http.StatusNotFound, api.CodeNotFound, fmt.Sprintf("there is no reservation %.100s", in.ID),
		"vcnctl list shows those there are (--all: also those that are over)")
	if r, ok := v.Reservation(in.ID); ok {
		if who.sees(r.Project) {
			return r, nil
		}
		return fsm.Reservation{}, missing // not: forbidden; what others have is none of theirs
	}
	project := in.Project
	if who.Kind == api.TokenProject {
		project = who.Project
	}
	var live, over []fsm.Reservation
	for _, r := range v.Reservations(fsm.ReservationFilter{Project: project, Closed: true}) {
		switch {
		case r.Name != in.ID || !who.sees(r.Project):
		case r.Live():
			live = append(live, r)
		default:
			over = append(over, r)
		}
	}
	switch {
	case len(live) == 1:
		return live[0], nil
	case len(live) > 1:
		return fsm.Reservation{}, newProblem(http.StatusConflict, api.CodeConflict,
			fmt.Sprintf("%d projects have a reservation named %s", len(live), in.ID), "give its id, or ?project=")
	case len(over) == 0:
		return fsm.Reservation{}, missing
	}
	last := over[0]
	for _, r := range over[1:] {
		if r.Created.After(last.Created) {
			last = r
		}
	}
	return last, nil
}

type WaitIn struct {
	Wait string `query:"wait" maxLength:"20" doc:"how long to wait for a change, such as 30s; at most 60s"`
}

// duration reads how long to wait; longer than allowed is cut.
func (w WaitIn) duration() (time.Duration, error) {
	if w.Wait == "" {
		return 0, nil
	}
	d, err := api.ParseDuration(w.Wait)
	if err != nil {
		return 0, oneWrong("wait", w.Wait, "a length such as 30s, at most 60s")
	}
	return min(d, waitSecondsMax*time.Second), nil
}

type getReservationIn struct {
	FindIn
	WaitIn
	Index uint64 `query:"index" doc:"answer once it has changed after this index"`
}

func (s *Server) getReservation(ctx context.Context, in *getReservationIn) (*oneOf[api.Reservation], error) {
	wait, err := in.duration()
	if err != nil {
		return nil, err
	}
	v := s.cfg.State.View()
	r, err := find(v, principalOf(ctx), in.FindIn)
	if err != nil {
		return nil, err
	}
	if wait > 0 && in.Index > 0 && r.Modified <= in.Index {
		wctx, cancel := context.WithTimeout(ctx, wait)
		v = s.cfg.State.WatchReservation(wctx, r.ID, in.Index)
		cancel()
		if now, ok := v.Reservation(r.ID); ok {
			r = now
		}
	}
	return &oneOf[api.Reservation]{at(v.Index()), s.newShower(v).reservation(r)}, nil
}

func (s *Server) release(ctx context.Context, in *FindIn) (*oneOf[api.Reservation], error) {
	who := principalOf(ctx)
	r, err := find(s.cfg.State.View(), who, *in)
	if err != nil {
		return nil, err
	}
	done, err := s.cfg.Control.Release(ctx, r.ID, who.TokenID)
	if err != nil {
		return nil, err
	}
	v := s.cfg.State.View()
	if now, ok := v.Reservation(r.ID); ok {
		done = &now
	}
	return &oneOf[api.Reservation]{at(v.Index()), s.newShower(v).reservation(*done)}, nil
}

type EventsIn struct {
	WaitIn
	After uint64 `query:"after" doc:"only those after this index"`
}

type reservationEventsIn struct {
	FindIn
	EventsIn
}

func (s *Server) reservationEvents(ctx context.Context, in *reservationEventsIn) (*oneOf[api.EventList], error) {
	r, err := find(s.cfg.State.View(), principalOf(ctx), in.FindIn)
	if err != nil {
		return nil, err
	}
	return s.eventPage(ctx, in.EventsIn, r.ID)
}

func (s *Server) events(ctx context.Context, in *EventsIn) (*oneOf[api.EventList], error) {
	return s.eventPage(ctx, *in, "")
}

// eventPage answers with the events after an index that the asker may see, and
// waits for the first one if there is none yet.
func (s *Server) eventPage(ctx context.Context, in EventsIn, reservation string) (*oneOf[api.EventList], error) {
	wait, err := in.duration()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, max(wait, time.Millisecond))
	defer cancel()
	after := in.After
	for {
		v := s.cfg.State.View()
		rows := v.Events(after, eventsPage, reservation)
		page := api.EventList{Items: s.visible(v, principalOf(ctx), rows), Index: max(v.Index(), after)}
		full := len(rows) >= eventsPage
		if full { // there may be more: ask again after the last one
			page.Index = rows[len(rows)-1].Index
		}
		if len(page.Items) > 0 || wait == 0 || (!full && ctx.Err() != nil) {
			return &oneOf[api.EventList]{at(v.Index()), page}, nil
		}
		after = page.Index
		if !full && s.cfg.State.WatchIndex(ctx, after) <= after {
			continue // time is up: the next round answers
		}
	}
}

// visible leaves out what the asker may not know of.
func (s *Server) visible(v *fsm.View, who principal, rows []fsm.Event) []api.Event {
	show := s.newShower(v)
	out := []api.Event{}
	mine := map[string]bool{}
	for _, e := range rows {
		if who.Kind != api.TokenOperator {
			see, known := mine[e.Reservation]
			if !known {
				r, ok := v.Reservation(e.Reservation)
				see = ok && who.sees(r.Project)
				mine[e.Reservation] = see
			}
			if !see {
				continue
			}
		}
		out = append(out, show.event(e))
	}
	return out
}

func (s *Server) listLeases(ctx context.Context, _ *nothing) (*listOf[api.Lease], error) {
	who := principalOf(ctx)
	v := s.cfg.State.View()
	var out []api.Lease
	mine := map[string]bool{}
	for _, l := range v.Leases() {
		see, known := mine[l.Reservation]
		if !known {
			r, ok := v.Reservation(l.Reservation)
			see = who.Kind == api.TokenOperator || ok && who.sees(r.Project)
			mine[l.Reservation] = see
		}
		if see {
			out = append(out, api.Lease{Kind: l.Kind, Value: l.Value, Reservation: l.Reservation, Node: l.Node})
		}
	}
	return listAt(v.Index(), out), nil
}
