package httpapi_test

import (
	"strings"
	"testing"
	"time"

	"vcn/api"
	"vcn/daemon/control/controltest"
)

// weekly is a specification of three dates, from next week on, at 9 in Berlin.
func weekly(name, project string) api.Spec {
	s := controltest.Spec(name, 2)
	s.Project = project
	day := time.Now().Add(7 * 24 * time.Hour).UTC().Format("2006-01-02")
	s.Slot = api.Slot{Start: day + "T09:00", For: "4h", Zone: "Europe/Berlin", Repeat: "FREQ=WEEKLY;COUNT=3"}
	return s
}

func TestSeriesIsBookedChangedAndCancelled(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	studio, forge, h := w.token(api.TokenProject, "studio").Secret, w.token(api.TokenProject, "forge").Secret, controltest.HostID(0)
	spec := weekly("drill", "")
	w.unchanged(func() {
		dry := decode[api.SeriesResult](t, w.ask(h, studio, "POST", api.PathReservations+"?dryRun=true", spec), 200)
		if len(dry.Booked) != 3 || dry.Series != nil {
			t.Errorf("a dry run says %+v, want three dates and no series", dry)
		}
	})
	post := func() answer {
		return w.ask(h, studio, "POST", api.PathReservations, spec, api.HeaderIdempotencyKey, "k")
	}
	a := post()
	made := decode[api.SeriesResult](t, a, 201)
	if made.Series == nil || len(made.Series.Reservations) != 3 || made.Series.Project != "studio" || a.header.Get("Location") != api.PathSeries+"/"+made.Series.ID {
		t.Fatalf("made %+v with headers %v", made, a.header)
	}
	w.unchanged(func() {
		if again := decode[api.SeriesResult](t, post(), 201); again.Series.ID != made.Series.ID {
			t.Errorf("repeated, it is %s, want %s", again.Series.ID, made.Series.ID)
		}
	})
	one := api.PathSeries + "/" + made.Series.ID
	for _, path := range []string{one, api.PathSeries + "/drill"} {
		if s := decode[api.Series](t, w.ask(h, studio, "GET", path, nil), 200); s.ID != made.Series.ID || s.Zone != "Europe/Berlin" || len(s.Reservations) != 3 {
			t.Errorf("%s is %+v", path, s)
		}
		w.unchanged(func() {
			for _, method := range []string{"GET", "PATCH", "DELETE"} {
				if p := w.ask(h, forge, method, path, `{"for":"1h"}`).problem(t); p.Status != 404 || strings.Contains(p.Error(), "studio") {
					t.Errorf("%s of a foreign series: %+v", method, p)
				}
			}
		})
	}
	for token, want := range map[string]int{studio: 1, forge: 0, w.rig.Operator: 1} {
		if l := decode[api.List[api.Series]](t, w.ask(h, token, "GET", api.PathSeries, nil), 200); len(l.Items) != want {
			t.Errorf("%d series, want %d", len(l.Items), want)
		}
	}
	w.unchanged(func() {
		dry := decode[api.SeriesResult](t, w.ask(h, studio, "PATCH", one+"?dryRun=true", `{"start":"10:30"}`), 200)
		if len(dry.Booked) != 3 || dry.Series != nil || dry.Booked[0].Start.Sub(made.Booked[0].Start) != 90*time.Minute {
			t.Errorf("a dry run says %+v, want three dates 90 minutes later", dry)
		}
	})
	extend := func() api.SeriesResult {
		return decode[api.SeriesResult](t, w.ask(h, studio, "PATCH", api.PathSeries+"/drill", `{"extend":"1h"}`, api.HeaderIdempotencyKey, "e"), 200)
	}
	res := extend()
	w.unchanged(func() { res = extend() })
	if res.Series == nil || len(res.Booked) != 3 || res.Booked[2].End.Sub(made.Booked[2].End) != time.Hour || res.Series.Reservations[0].End.Sub(res.Series.Reservations[0].Start) != 5*time.Hour {
		t.Errorf("extended by an hour, and repeated: %+v", res)
	}
	gone := decode[api.Series](t, w.ask(h, studio, "DELETE", one, nil), 202)
	for _, r := range gone.Reservations {
		if r.State != api.StateCancelled {
			t.Errorf("cancelled, %s is %s", r.Name, r.State)
		}
	}
	// The name is free again, and means the series that there is now.
	again := decode[api.SeriesResult](t, w.ask(h, studio, "POST", api.PathReservations, spec), 201)
	if s := decode[api.Series](t, w.ask(h, studio, "GET", api.PathSeries+"/drill", nil), 200); s.ID != again.Series.ID {
		t.Errorf("by name it is %s, want the one that is not over, %s", s.ID, again.Series.ID)
	}
}

func TestSeriesThatDoesNotFitNamesTheDatesAndNobody(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 1)
	spec := weekly("drill", "forge")
	spec.Workers[0] = api.WorkerGroup{Count: 3, NodeShape: api.NodeShape{CPUs: 12}}
	res := decode[api.SeriesResult](t, w.op("POST", api.PathReservations+"?dryRun=true", spec), 200)
	block := controltest.Spec("secret-lab", 3)
	block.Project, block.Workers[0].CPUs = "studio", 12
	block.Slot = api.Slot{Start: res.Booked[1].Start.Format(time.RFC3339), For: "1h"}
	hidden := w.reserve(block)
	forge, h := w.token(api.TokenProject, "forge").Secret, controltest.HostID(0)
	w.unchanged(func() {
		a := w.ask(h, forge, "POST", api.PathReservations, spec)
		p := a.problem(t)
		if p.Code != api.CodeNoFit || p.Status != 409 || len(p.Reasons) == 0 || !strings.HasPrefix(p.Reasons[0], res.Booked[1].Name+": ") {
			t.Errorf("it is %+v, want no_fit and the second date", p)
		}
		hides(t, a, hidden)
	})
	a := w.ask(h, forge, "POST", api.PathReservations+"?partial=true", spec)
	made := decode[api.SeriesResult](t, a, 201)
	if len(made.Booked) != 2 || len(made.Missing) != 1 || made.Missing[0].Name != res.Booked[1].Name || len(made.Missing[0].Reasons) == 0 {
		t.Errorf("those that fit: %+v", made)
	}
	hides(t, a, hidden)
	block.Name, block.Slot.Start = "secret-next", made.Booked[1].End.Add(2*time.Hour).Format(time.RFC3339)
	next := w.reserve(block)
	longer := w.ask(h, forge, "PATCH", api.PathSeries+"/drill?dryRun=true", `{"extend":"5h"}`)
	if res := decode[api.SeriesResult](t, longer, 200); len(res.Missing) != 1 || len(res.Booked) != 1 || len(res.Missing[0].Reasons) == 0 {
		t.Errorf("a date that cannot be extended: %+v", res)
	}
	hides(t, longer, next)
	if op := w.op("PATCH", api.PathSeries+"/drill?dryRun=true", `{"extend":"5h"}`); !strings.Contains(string(op.body), "secret-next") {
		t.Errorf("an operator is not told who blocks it: %s", op.body)
	}
	grow := w.ask(h, forge, "PATCH", api.PathSeries+"/drill?dryRun=true", `{"workers":{"compute":300}}`)
	if res := decode[api.SeriesResult](t, grow, 200); len(res.Missing) != 2 || len(res.Booked) != 0 {
		t.Errorf("a series that cannot grow: %+v", res)
	}
	hides(t, grow, hidden)
}

// hides fails if an answer has anything in it of a reservation of project studio.
func hides(t *testing.T, a answer, r api.Reservation) {
	t.Helper()
	body := strings.ReplaceAll(string(a.body), controltest.Key, "") // whose comment is alice@studio
	for _, secret := range []string{r.ID, r.Name, "studio", r.Owner} {
		if strings.Contains(body, secret) {
			t.Errorf("%q of another project's reservation is in the answer: %.600s", secret, a.body)
		}
	}
}
