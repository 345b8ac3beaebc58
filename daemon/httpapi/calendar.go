package httpapi

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"vcn/api"
	"vcn/api/ical"
	"vcn/fsm"
)

const (
	// feedPast and feedAhead bound what a feed shows.
	feedPast  = 30 * 24 * time.Hour
	feedAhead = 366 * 24 * time.Hour
)

func (s *Server) registerCalendar() {
	add(s, operation("getCalendar", http.MethodGet, api.PathCalendar, "Who holds what, and what is free, over time",
		"Of reservations of other projects only times and amounts are shown. At most a year; by default the next seven days.", 200, forOwner), s.calendar)
	feed := operation("getFeed", http.MethodGet, api.PathFeed, "The slots as an iCalendar feed (RFC 5545)",
		"For calendar programs: with the key of a feed in the query, which shows its project's; or with a token as elsewhere. "+
			"From 30 days back to a year ahead. The key is good for nothing else, and no other token may be given so.", 200, nil)
	feed.Security = []map[string][]string{{securityName: {}}, {securityFeedName: {}}}
	feed.Metadata[metaToken] = "operator or project; or a feed's key in the query"
	feed.Responses["200"].Content = map[string]*huma.MediaType{"text/calendar": {Schema: &huma.Schema{Type: huma.TypeString}}}
	add(s, feed, s.feed)
	addBody[api.FeedRequest](s, operation("createFeed", http.MethodPost, api.PathFeeds, "Make a feed's address",
		"It shows one project's times, names and states without a token, and nothing else. It is shown once; revoke it as a token.", 201, forOwner), s.createFeed)
	add(s, operation("getPolicy", http.MethodGet, api.PathPolicy, "What the operator allows", "", 200, forOwner),
		func(context.Context, *nothing) (*oneOf[api.Policy], error) {
			return &oneOf[api.Policy]{at(s.cfg.State.View().Index()), s.cfg.Control.Policy()}, nil
		})
	addBody[api.Policy](s, operation("setPolicy", http.MethodPut, api.PathPolicy, "Set what is allowed", "What is left out stays.", 200, forOperator), s.setPolicy)
}

type calendarIn struct {
	From    string `query:"from" maxLength:"40" doc:"RFC 3339; default now"`
	Until   string `query:"until" maxLength:"40" doc:"RFC 3339; default a week after from"`
	Project string `query:"project" maxLength:"100" doc:"list only this project's slots"`
}

func (s *Server) calendar(ctx context.Context, in *calendarIn) (*oneOf[api.Calendar], error) {
	who, index := principalOf(ctx), s.cfg.State.View().Index() // read first: what follows is of this state or a later one
	if err := listsProject(who, in.Project); err != nil {
		return nil, err
	}
	from, err := timeOf("from", in.From)
	if err != nil {
		return nil, err
	}
	until, err := timeOf("until", in.Until)
	if err != nil {
		return nil, err
	}
	c, err := s.cfg.Control.Calendar(from, until, in.Project, who.sees)
	if err != nil {
		return nil, err
	}
	return &oneOf[api.Calendar]{at(index), c}, nil
}

func timeOf(field, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := api.ParseTime(text)
	if err != nil {
		return t, oneWrong(field, text, "a time with a zone, such as 2030-12-01T09:00Z")
	}
	return t, nil
}

// feedIn has no bounds of lengths: what is refused for its length is repeated in
// the refusal, and these are secrets.
type feedIn struct {
	Key     string `query:"feed" doc:"a feed's key"`
	Project string `query:"project" maxLength:"100" doc:"only this project's"`
	Auth    string `header:"Authorization" hidden:"true"`
}

type feedOut struct {
	Indexed
	Type  string `header:"Content-Type"`
	Cache string `header:"Cache-Control" doc:"private: no proxy is to keep it"`
	Body  []byte
}

func (s *Server) feed(_ context.Context, in *feedIn) (*feedOut, error) {
	v := s.cfg.State.View()
	who, err := feedAsker(v, in)
	if err != nil {
		return nil, err
	}
	if err := listsProject(who, in.Project); err != nil {
		return nil, err
	}
	name := "vcn"
	if of := cmp.Or(who.Project, in.Project); of != "" {
		name += ": " + of
	}
	sees := func(project string) bool { return who.Project == "" || project == who.Project }
	cal := ical.Calendar{Name: name, Stamp: v.Clock(), Slots: s.cfg.Control.CalendarSlots(v.Clock().Add(-feedPast), v.Clock().Add(feedAhead), in.Project, sees)}
	var b bytes.Buffer
	if err := ical.Write(&b, cal); err != nil {
		return nil, err
	}
	return &feedOut{Indexed: at(v.Index()), Type: ical.ContentType, Cache: "private, max-age=60", Body: b.Bytes()}, nil
}

// feedAsker is who asks for a feed: by a feed's key in the query, which works
// nowhere else, or by an owner's token, which must not be in an address: those
// are kept in histories and logs.
func feedAsker(v *fsm.View, in *feedIn) (principal, error) {
	const makeOne = "make a feed's address with vcnctl calendar feed"
	if in.Key == "" {
		who, p := authenticate(v, in.Auth, time.Now())
		switch {
		case p != nil:
			return who, p
		case !slices.Contains(forOwner, who.Kind):
			return principal{}, newProblem(http.StatusForbidden, api.CodeForbidden, fmt.Sprintf("a %s token may not do this", who.Kind), "use a token of kind operator or project, or a feed's address")
		}
		return who, nil
	}
	who, p := authenticate(v, "Bearer "+in.Key, time.Now())
	switch {
	case p != nil:
		p.Next = makeOne
		return who, p
	case who.Kind != api.TokenFeed || who.Project == "":
		return principal{}, newProblem(http.StatusForbidden, api.CodeForbidden, fmt.Sprintf("this is a token of kind %s, not a feed's key; tokens do not belong into addresses", who.Kind), makeOne)
	}
	return who, nil
}

func (s *Server) createFeed(ctx context.Context, in *bodyIn) (*oneOf[api.Feed], error) {
	var req api.FeedRequest
	if err := api.ReadStrict(bytes.NewReader(in.RawBody), BodyBytesMax, &req); err != nil {
		return nil, err
	}
	who := principalOf(ctx)
	if err := ofProject(who, req.Project); err != nil {
		return nil, err
	}
	f, err := s.cfg.Control.CreateFeed(ctx, req, who.Project, who.TokenID)
	if err != nil {
		return nil, err
	}
	return &oneOf[api.Feed]{at(s.cfg.State.View().Index()), f}, nil
}

func (s *Server) setPolicy(ctx context.Context, in *bodyIn) (*oneOf[api.Policy], error) {
	p := s.cfg.Control.Policy()
	if err := api.ReadStrict(bytes.NewReader(in.RawBody), BodyBytesMax, &p); err != nil {
		return nil, err
	}
	if err := s.cfg.Control.SetPolicy(ctx, p); err != nil {
		return nil, err
	}
	return &oneOf[api.Policy]{at(s.cfg.State.View().Index()), s.cfg.Control.Policy()}, nil
}
