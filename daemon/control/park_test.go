package control_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vcn/api"
	"vcn/daemon/control/controltest"
	"vcn/fsm"
)

func TestParkedClusterComesBackToItsDisks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, controltest.Options{Hosts: 6})
		id := inState(t, r, "parked")
		parked := booked(t, r, id)
		slot := at(5*time.Hour, "4h")
		plan, err := r.Control.PlanResume(id, slot)
		if err != nil {
			t.Fatal(err)
		}
		res, err := r.Control.Resume(t.Context(), id, slot, "key")
		if err != nil || res.State != api.StateBooked || !res.Start.Equal(plan.Start) || !res.Provision.Equal(plan.Provision) {
			t.Fatalf("it is %+v, %v; planned was %+v", res, err, plan)
		}
		if again, err := r.Control.Resume(t.Context(), id, slot, "key"); err != nil || again.Modified != res.Modified {
			t.Errorf("a repeated call: %v, %v", again, err)
		}
		_, err = r.Control.Resume(t.Context(), id, at(6*time.Hour, "4h"), "key")
		problem(t, err, api.CodeConflict)
		for i, n := range res.Nodes {
			if n.Storage != parked.Nodes[i].Storage || n.Volume != parked.Nodes[i].Volume {
				t.Errorf("the disk of %s is %s on %s, was %s on %s", n.Name, n.Volume, n.Storage, parked.Nodes[i].Volume, parked.Nodes[i].Storage)
			}
		}
		if res.Lead >= 180*time.Second {
			t.Errorf("lead is %v: no image is to be built for disks that exist", res.Lead)
		}
		time.Sleep(time.Until(res.Provision) + time.Second)
		step(t, r)
		r.Settle()
		if now := booked(t, r, id); now.State != api.StateReady {
			t.Errorf("at its time it is %s (%s), want ready", now.State, now.Message)
		}
	})
}

func TestResumeIsRefusedWithTheNearestOrWithWhatStorageIsPromised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, small)
		id := inState(t, r, "parked") // until five days from now
		reserve(t, r, specAt("busy", 3, at(5*time.Hour, "4h")))
		_, err := r.Control.Resume(t.Context(), id, at(5*time.Hour, "1h"), "")
		if p := problem(t, err, api.CodeNoFit); len(p.Nearest) != 1 || p.Nearest[0].Kind != api.OfferLater {
			t.Errorf("the problem is %+v, want when it would fit", p)
		}
		slot := at(5*time.Hour, "1h")
		slot.Latest = at(20*time.Hour, "").Start
		if res, err := r.Control.Resume(t.Context(), id, slot, ""); err != nil || !res.Start.After(time.Now().Add(9*time.Hour)) {
			t.Errorf("with a window it starts at %v, %v", res, err)
		}
		if _, err := r.Control.Park(t.Context(), id, api.ParkRequest{}, "op"); err != nil { // it is given back
			t.Fatal(err)
		}
		big := specAt("big", 1, at(10*24*time.Hour, "1d"))
		big.Frontend.Disk = 2*api.TiB - 12*api.GiB
		reserve(t, r, big)
		if now := booked(t, r, id); now.State != api.StateParked {
			t.Fatalf("it is %s", now.State)
		}
		_, err = r.Control.Resume(t.Context(), id, at(12*24*time.Hour, "1h"), "")
		if p := problem(t, err, api.CodeNoFit); !strings.Contains(p.Detail, "disks cannot be kept") {
			t.Errorf("the problem is %+v", p)
		}
		_, err = r.Control.Resume(t.Context(), id, api.Slot{Start: at(30*time.Hour, "").Start, For: "1h", Repeat: "FREQ=DAILY;COUNT=2", Zone: "UTC"}, "")
		problem(t, err, api.CodeInvalid)
	})
}

func TestParkingIsBoundedByTheOperatorsPolicy(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	p := r.Control.Policy()
	p.ParkBytes, p.ParkMax = 10*api.GiB, "2d"
	if err := r.Control.SetPolicy(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	id := inState(t, r, "active") // three disks of 4 GiB
	_, err := r.Control.Park(t.Context(), id, api.ParkRequest{For: "1d"}, "op")
	if p := problem(t, err, api.CodeConflict); !strings.Contains(p.Detail, "may") {
		t.Errorf("the problem is %+v", p)
	}
	p.ParkBytes = 0
	if err := r.Control.SetPolicy(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	_, err = r.Control.Park(t.Context(), id, api.ParkRequest{For: "3d"}, "op")
	problem(t, err, api.CodeInvalid)
	if now, err := r.Control.Park(t.Context(), id, api.ParkRequest{For: "1d"}, "op"); err != nil || now.State != api.StateEnding {
		t.Errorf("it is %+v, %v", now, err)
	}
}

// weekly is a series over the change to winter time.
func weekly(name string) api.Spec {
	s := controltest.Spec(name, 2)
	s.Slot = api.Slot{Start: "2030-10-15T09:00", For: "2h", Zone: "Europe/Berlin", Repeat: "FREQ=WEEKLY;COUNT=4", Except: []string{"2030-10-22"}}
	return s
}

func TestSeriesBooksAllOrThoseThatFit(t *testing.T) {
	ahead := time.Date(2030, 10, 1, 0, 0, 0, 0, time.UTC)
	r := controltest.New(t, controltest.Options{Hosts: 1, CPUs: 4, Now: func() time.Time { return ahead }})
	block := controltest.Spec("block", 2)
	block.Slot = api.Slot{Start: "2030-10-29T08:30Z", For: "1h"}
	reserve(t, r, block)
	_, _, err := r.Control.ReserveSeries(t.Context(), weekly("lab"), false, false, "", "op", "")
	if p := problem(t, err, api.CodeNoFit); len(p.Reasons) == 0 || !strings.HasPrefix(p.Reasons[0], "lab-20301029: ") {
		t.Errorf("the problem is %+v, want the date that does not fit", p)
	}
	if n := r.FSM.View().ReservationCount(); n != 1 {
		t.Errorf("%d reservations, want none of the series", n)
	}
	dry, _, err := r.Control.ReserveSeries(t.Context(), weekly("lab"), true, true, "", "op", "")
	if err != nil || len(dry.Booked) != 2 || len(dry.Missing) != 1 {
		t.Errorf("the dry run says %+v, %v", dry, err)
	}
	made, row, err := r.Control.ReserveSeries(t.Context(), weekly("lab"), true, false, "", "op", "k")
	if err != nil || row == nil || len(made.Booked) != 2 || len(made.Missing) != 1 || made.Missing[0].Name != "lab-20301029" {
		t.Fatalf("made is %+v, %v", made, err)
	}
	// Nine in Berlin is seven in summer and eight in winter.
	if a, b := made.Booked[0], made.Booked[1]; a.Start.UTC().Hour() != 7 || b.Start.UTC().Hour() != 8 || b.Name != "lab-20301105" {
		t.Errorf("dates are %v and %v", a, b)
	}
	again, _, err := r.Control.ReserveSeries(t.Context(), weekly("lab"), true, false, "", "op", "k")
	if err != nil || len(again.Booked) != 2 {
		t.Errorf("a repeated call: %+v, %v", again, err)
	}
	changed, err := r.Control.ChangeSeries(t.Context(), row.ID, api.Change{Start: new("10:30"), Extend: new("30m")}, false, "op", everybody)
	if err != nil || len(changed.Booked) != 2 || changed.Booked[0].Start.UTC().Format(time.TimeOnly) != "08:30:00" || changed.Booked[1].Start.UTC().Format(time.TimeOnly) != "09:30:00" {
		t.Errorf("changed are %+v, %v", changed, err)
	}
	if _, err := r.Control.ChangeSeries(t.Context(), row.ID, api.Change{Start: new("tomorrow")}, true, "op", everybody); err == nil {
		t.Error("a start that is no time of day is taken")
	}
	one, _ := r.FSM.View().ReservationByName("studio", "lab-20301015")
	if now := mustChange(t, r, one.ID, api.Change{Workers: map[string]int{"compute": 1}}); len(now.Nodes) != 2 || now.Series != row.ID {
		t.Errorf("one date has %d nodes, series %s", len(now.Nodes), now.Series)
	}
	if err := r.Control.CancelSeries(t.Context(), row.ID, "op"); err != nil {
		t.Fatal(err)
	}
	if n := r.FSM.View().ReservationCount(); n != 1 {
		t.Errorf("%d reservations are left", n)
	}
}

// TestDateWhoseHourTheClocksLeaveOutStays: 2030-03-31 02:30 does not exist in Berlin.
func TestDateWhoseHourTheClocksLeaveOutStays(t *testing.T) {
	r := controltest.New(t, controltest.Options{Now: func() time.Time { return time.Date(2030, 3, 1, 0, 0, 0, 0, time.UTC) }})
	s := controltest.Spec("night", 1)
	s.Slot = api.Slot{Start: "2030-03-24T04:00", For: "1h", Zone: "Europe/Berlin", Repeat: "FREQ=WEEKLY;COUNT=3"}
	_, row, err := r.Control.ReserveSeries(t.Context(), s, false, false, "", "op", "")
	if err != nil {
		t.Fatal(err)
	}
	out, err := r.Control.ChangeSeries(t.Context(), row.ID, api.Change{Start: new("02:30")}, false, "op", everybody)
	if err != nil || len(out.Booked) != 2 || len(out.Missing) != 1 || out.Missing[0].Name != "night-20300331" || len(out.Missing[0].Reasons) == 0 {
		t.Errorf("changed are %+v, %v", out, err)
	}
}

func TestSeriesLosesNoDateToARace(t *testing.T) {
	now := time.Date(2030, 10, 1, 0, 0, 0, 0, time.UTC)
	r := controltest.New(t, controltest.Options{Hosts: 1, CPUs: 4, Now: func() time.Time { return now }})
	r.Applier.SetHook(func([]byte) error { // somebody is faster
		r.Applier.SetHook(nil)
		s := controltest.Spec("fast", 2)
		s.Slot = api.Slot{Start: "2030-10-29T08:30Z", For: "1h"}
		_, err := r.Control.Reserve(t.Context(), s, "", "op", "")
		if err != nil && !errors.Is(err, fsm.ErrNoCapacity) {
			return nil // the plan in flight keeps it out: that is as good
		}
		return err
	})
	made, _, err := r.Control.ReserveSeries(t.Context(), weekly("lab"), true, false, "", "op", "")
	if err != nil || len(made.Booked)+len(made.Missing) != 3 {
		t.Errorf("made is %+v, %v; want each date booked or named", made, err)
	}
}

func TestCalendarTellsOthersOnlyAmounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, controltest.Options{})
		reserve(t, r, specAt("mine", 1, at(time.Hour, "4h")))
		other := specAt("secret", 1, at(time.Hour, "4h"))
		other.Project = "elsewhere"
		res := reserve(t, r, other)
		offers(t, r, api.OfferRequest{Spec: specAt("maybe", 1, at(time.Hour, "4h"))})
		cal, err := r.Control.Calendar(time.Time{}, time.Time{}, "", func(p string) bool { return p == "studio" })
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		for _, h := range cal.Hosts {
			for _, s := range h.Spans {
				seen[s.Kind+" "+s.Name]++
				if s.Reservation == res.ID || s.Project == "elsewhere" || s.Name == "secret" {
					t.Errorf("the calendar tells of %+v", s)
				}
				if s.CPUs == 0 && s.Memory == 0 && s.Storage == 0 {
					t.Errorf("a span of nothing: %+v", s)
				}
			}
		}
		if seen["reservation mine"] == 0 || seen["reservation "] == 0 || seen["hold "] == 0 {
			t.Errorf("seen are %v", seen)
		}
		if len(cal.Slots) != 1 || cal.Slots[0].Name != "mine" || len(cal.Free) < 2 {
			t.Errorf("slots are %+v, free %+v", cal.Slots, cal.Free)
		}
	})
}

func TestLeadIsLearnedForEachSetOfImagesAndHasAFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, controltest.Options{CPUs: 64})
		run := func(name string, rolls []string, took time.Duration) time.Duration {
			s := controltest.Spec(name, 2)
			s.Rolls = rolls
			plan := s
			plan.Slot = at(5*time.Hour, "1h")
			p, err := r.Control.DryRun(t.Context(), plan, "")
			if err != nil {
				t.Fatal(err)
			}
			reserve(t, r, s)
			r.SettleOnce()
			time.Sleep(took)
			r.Settle()
			time.Sleep(time.Minute) // what was learned is looked at now and then
			return p.Start.Sub(p.Provision)
		}
		for _, rolls := range [][]string{{"slurm"}, {"users"}} { // images are built first
			run("first-"+rolls[0], rolls, 0)
		}
		slow := 150 * time.Second
		for _, n := range []string{"a", "b"} {
			run("slow-"+n, []string{"slurm"}, slow)
			run("fast-"+n, []string{"users"}, time.Second)
		}
		if got := run("x", []string{"slurm"}, 0); got < slow*11/10 || got > slow*13/10 {
			t.Errorf("lead of the slow ones is %v, took %v; want a fifth more", got, slow)
		}
		if got := run("y", []string{"users"}, 0); got != 30*time.Second {
			t.Errorf("lead of the fast ones is %v, want the floor of 30s", got)
		}
	})
}
