package cli

import (
	"fmt"
	"net/http"
	"time"

	"vcn/api"
)

func (f *fakeAPI) change(w http.ResponseWriter, q *http.Request) {
	r := f.find(q.PathValue("ref"))
	if r == nil {
		fakeProblem(w, 404, api.CodeNotFound, fmt.Sprintf("there is no reservation %q", q.PathValue("ref")), "")
		return
	}
	var ch api.Change
	if !fakeRead(w, q, &ch) || fakeInvalid(w, ch.Validate()) {
		return
	}
	spec, errs := ch.Apply(r.Spec)
	if fakeInvalid(w, errs) {
		return
	}
	start, end, _, err := ch.ResolveSlot(fakeNow, r.Start, r.End, time.UTC)
	if err != nil {
		fakeInvalid(w, []api.FieldError{err.(api.FieldError)})
		return
	}
	if end.Sub(r.End) > 24*time.Hour {
		fakeAnswer(w, 409, api.Problem{Status: 409, Code: api.CodeNoFit, Detail: r.Name + " cannot be extended so far", Reasons: []string{"h2: 4 cores short from 20:00; another project holds them"},
			Until: "2026-11-23T20:00:00Z", Nearest: []api.Offer{{Kind: api.OfferShorter, Summary: "until 20:00", Workers: 2, Shape: api.NodeShape{CPUs: 1, Memory: api.GiB, Disk: 4 * api.GiB},
				Parts: []api.OfferPart{{Start: r.Start, End: r.End.Add(4 * time.Hour)}}}}})
		return
	}
	plan := planOf(r, spec, end)
	switch {
	case q.URL.Query().Get("dryRun") == "true":
		fakeAnswer(w, 200, plan)
		return
	case plan.LosesData && q.URL.Query().Get("allowDataLoss") != r.Name:
		fakeProblem(w, 409, api.CodeDataLoss, "the frontend's disk would be made anew, smaller", "")
		return
	}
	var leaving, joining []string
	have, want := r.Spec.Workers[0].Count, spec.Workers[0].Count
	for i := want; i < have; i++ {
		leaving = append(leaving, fmt.Sprintf("%s-%d", spec.Workers[0].Name, i))
	}
	for i := have; i < want; i++ {
		joining = append(joining, fmt.Sprintf("%s-%d", spec.Workers[0].Name, i))
	}
	if len(ch.Remove) > 0 {
		leaving = ch.Remove
	}
	if len(leaving)+len(joining) > 0 {
		r.Change = &api.PendingChange{Leaving: leaving, Joining: joining}
		if ch.Deadline != nil {
			d, _ := api.ParseDuration(*ch.Deadline)
			at := fakeNow.Add(d)
			r.Change.Deadline = &at
		}
	}
	r.Spec, r.Name, r.Start, r.End = spec, spec.Name, start, end
	f.index++
	fakeAnswer(w, 200, r)
}

// planOf compares a few fields.
func planOf(r *api.Reservation, spec api.Spec, end time.Time) api.ChangePlan {
	p := api.ChangePlan{Name: r.Name, Start: r.Start, End: end, Nodes: r.Nodes, Fields: []api.FieldChange{}}
	add := func(differs bool, field string, from, to any, how, note string) {
		if differs {
			p.Fields = append(p.Fields, api.FieldChange{Field: field, From: fmt.Sprint(from), To: fmt.Sprint(to), How: how, Note: note})
			p.LosesData = p.LosesData || how == api.HowLosesData
		}
	}
	add(!end.Equal(r.End), "slot.end", r.End.Format(time.RFC3339), end.Format(time.RFC3339), api.HowInPlace, "")
	add(spec.Name != r.Name, "name", r.Name, spec.Name, api.HowInPlace, "")
	was, now := r.Spec.Workers[0], spec.Workers[0]
	add(was.Count != now.Count, "workers.compute.count", was.Count, now.Count, api.HowRolling, "drained first")
	add(was.NodeShape != now.NodeShape, "workers.compute.shape", shapeText(was.NodeShape), shapeText(now.NodeShape), api.HowRolling, "one after another")
	add(spec.Frontend.Disk != r.Spec.Frontend.Disk, "frontend.disk", r.Spec.Frontend.Disk, spec.Frontend.Disk, api.HowLosesData, "home is on it")
	add(fmt.Sprint(spec.Rolls) != fmt.Sprint(r.Spec.Rolls), "rolls", r.Spec.Rolls, spec.Rolls, api.HowReplace, "")
	add(spec.AtEnd != nil && spec.AtEnd.Action == api.EndPark, "atEnd", "release", atEndText(spec.AtEnd), api.HowInPlace, "")
	return p
}

func (f *fakeAPI) park(w http.ResponseWriter, q *http.Request) {
	r := f.find(q.PathValue("ref"))
	if r == nil {
		fakeProblem(w, 404, api.CodeNotFound, fmt.Sprintf("there is no reservation %q", q.PathValue("ref")), "")
		return
	}
	var req api.ParkRequest
	if !fakeRead(w, q, &req) || fakeInvalid(w, req.Defaults().Validate()) {
		return
	}
	d, _ := api.ParseDuration(req.Defaults().For)
	until := fakeNow.Add(d)
	r.State, r.ParkedUntil = api.StateEnding, &until
	f.index++
	fakeAnswer(w, 202, r)
}

func (f *fakeAPI) resume(w http.ResponseWriter, q *http.Request) {
	r := f.find(q.PathValue("ref"))
	var slot api.Slot
	switch {
	case r == nil:
		fakeProblem(w, 404, api.CodeNotFound, fmt.Sprintf("there is no reservation %q", q.PathValue("ref")), "")
		return
	case r.State != api.StateParked:
		fakeProblem(w, 409, api.CodeConflict, fmt.Sprintf("%s is %s, not parked", r.Name, r.State), "")
		return
	case !fakeRead(w, q, &slot):
		return
	}
	spec := r.Spec
	spec.Slot = slot
	if fakeInvalid(w, spec.Validate()) {
		return
	}
	made := f.plan(spec)
	if q.URL.Query().Get("dryRun") == "true" {
		fakeAnswer(w, 200, api.Plan{Start: made.Start, End: made.End, Provision: made.Provision, Lead: made.Lead, Nodes: made.Nodes, Rolls: made.Rolls, Expected: made.Start})
		return
	}
	if q.Header.Get(api.HeaderIdempotencyKey) == "" {
		fakeProblem(w, 422, api.CodeInvalid, "no idempotency key", "")
		return
	}
	made.ID = r.ID
	*r = *made
	f.index++
	fakeAnswer(w, 200, r)
}

func (f *fakeAPI) explain(w http.ResponseWriter, q *http.Request) {
	r := f.find(q.PathValue("ref"))
	if r == nil {
		fakeProblem(w, 404, api.CodeNotFound, fmt.Sprintf("there is no reservation %q", q.PathValue("ref")), "")
		return
	}
	until := r.End.Add(4 * time.Hour)
	fakeAnswer(w, 200, api.Explanation{ID: r.ID, Name: r.Name, State: r.State, Lines: []string{"It starts as soon as it was asked for."},
		Nodes: []api.NodeWhy{{Node: "frontend", Host: "h1", Storage: "h3", Why: "the only gateway with room"},
			{Node: "compute-0", Host: "h2", Storage: "h3", Why: "fits best", Passed: []string{"h4: dead", "h5: 2 cores short"}}},
		Blocked: []string{"h2: another project holds 4 cores from 20:00"}, Until: &until})
}

// showCalendar has two hosts of which one carries a reservation of ours, one of
// others, a hold, and something parked.
func (f *fakeAPI) showCalendar(w http.ResponseWriter, q *http.Request) {
	from, err1 := time.Parse(time.RFC3339, q.URL.Query().Get("from"))
	until, err2 := time.Parse(time.RFC3339, q.URL.Query().Get("until"))
	if err1 != nil || err2 != nil {
		fakeProblem(w, 422, api.CodeInvalid, "from and until are wanted here", "")
		return
	}
	at := func(h int) time.Time { return from.Add(time.Duration(h) * time.Hour) }
	cal := api.Calendar{From: from, Until: until,
		Hosts: []api.CalendarHost{
			{Name: "h1", Classes: []api.Class{api.ClassGateway, api.ClassCompute}, CPUs: 8, Memory: 16 * api.GiB, Storage: api.TiB, Spans: []api.CalendarSpan{
				{From: at(-2), Until: at(24), Reservation: "r1", Name: "mine", Project: "studio", Kind: "reservation", CPUs: 2, Memory: 2 * api.GiB},
				{From: at(12), Until: at(48), Reservation: "r2", Name: "render", Project: "studio", Kind: "reservation", CPUs: 6, Memory: 8 * api.GiB},
				{From: at(60), Until: at(72), Kind: "reservation", CPUs: 8, Memory: 16 * api.GiB},
				{From: at(96), Until: at(100), Kind: "hold", CPUs: 4}}},
			{Name: "h2", Classes: []api.Class{api.ClassStorage}, Storage: api.TiB, Unusable: "it is dead", Spans: []api.CalendarSpan{
				{From: at(0), Until: until, Reservation: "r3", Name: "old", Project: "studio", Kind: "parked", Storage: 600 * api.GiB}}},
		},
		Slots: []api.CalendarSlot{
			{ID: "r2", Name: "render", Project: "studio", State: api.StateBooked, Start: at(12), End: at(48), Provision: at(12).Add(-2 * time.Minute), Zone: "Europe/Berlin", Workers: 6, Series: "s1"},
			{ID: "r1", Name: "mine", Project: "studio", State: api.StateActive, Start: at(-2), End: at(24), Provision: at(-2), Workers: 2}},
		Free: []api.CalendarFree{{From: from, CPUs: 6, Memory: 14 * api.GiB, Storage: api.TiB}, {From: at(12), CPUs: 0, Memory: 6 * api.GiB, Storage: api.TiB}, {From: at(48), CPUs: 8, Memory: 16 * api.GiB, Storage: api.TiB},
			{From: at(60), CPUs: 0, Memory: 0, Storage: api.TiB}, {From: at(72), CPUs: 8, Memory: 16 * api.GiB, Storage: api.TiB}}}
	if f.calendar.silent {
		cal.From, cal.Until = time.Time{}, time.Time{}
	}
	fakeAnswer(w, 200, cal)
}
