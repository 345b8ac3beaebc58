package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vcn/api"
	"vcn/daemon/control/controltest"
	"vcn/fsm"
)

func problem(t *testing.T, err error, code api.Code) *api.Problem {
	t.Helper()
	var p *api.Problem
	if !errors.As(err, &p) {
		t.Fatalf("error is %v (%T), want a problem of code %s", err, err, code)
	}
	if p.Code != code {
		t.Fatalf("problem is %s (%v), want %s", p.Code, p, code)
	}
	return p
}

func reserve(t *testing.T, r *controltest.Rig, spec api.Spec) *fsm.Reservation {
	t.Helper()
	res, err := r.Control.Reserve(t.Context(), spec, "", "op", "")
	if err != nil {
		t.Fatalf("reserve %s: %v", spec.Name, err)
	}
	return res
}

func TestReserveBooksTheWholeCluster(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	res := reserve(t, r, controltest.Spec("lab", 3))
	if res.State != api.StateProvisioning {
		t.Errorf("state is %s, want provisioning at once: it is asap", res.State)
	}
	if !res.Provision.Equal(res.Start) {
		t.Errorf("asap provisions at %v and starts at %v, want the same", res.Provision, res.Start)
	}
	if got := res.End.Sub(res.Start); got != 8*time.Hour {
		t.Errorf("the slot is %v long, want 8h", got)
	}
	var names, ips []string
	for _, n := range res.Nodes {
		names, ips = append(names, n.Name), append(ips, n.PrivateIP)
	}
	if want := []string{"frontend", "compute-0", "compute-1", "compute-2"}; !slices.Equal(names, want) {
		t.Errorf("nodes are %v, want %v", names, want)
	}
	if want := []string{"10.64.0.1", "10.64.0.10", "10.64.0.11", "10.64.0.12"}; !slices.Equal(ips, want) {
		t.Errorf("addresses are %v, want %v", ips, want)
	}
	if f := res.Nodes[0]; f.PublicIP != "192.0.2.10" || f.PublicMAC == "" || f.Host != controltest.HostID(0) {
		t.Errorf("frontend is %+v, want it public and on the gateway", f)
	}
	if u := res.Users[0]; u.Name != "alice" || u.UID != 2001 || !u.Admin {
		t.Errorf("user is %+v", u)
	}
	v := r.FSM.View()
	vols := v.Volumes(res.ID)
	if len(vols) != 4 {
		t.Fatalf("%d volumes, want 4", len(vols))
	}
	for _, vol := range vols {
		if !strings.HasPrefix(vol.ID, "v-") || len(vol.User) != 16 || len(vol.Secret) != 16 || vol.User == vol.Secret {
			t.Errorf("volume %+v: want id v-…, and a CHAP user and secret of 16 characters", vol)
		}
		if h, _ := v.Host(vol.Host); !slices.Contains(h.Classes, api.ClassStorage) {
			t.Errorf("volume %s is on %s, which is not of class storage", vol.ID, vol.Host)
		}
	}
	if got := len(v.Leases()); got != 8 {
		t.Errorf("%d leases, want 8: VLAN, subnet, public address and 5 MACs", got)
	}
	images := v.Images()
	if len(images) != 2 {
		t.Fatalf("%d images wanted, want 2", len(images))
	}
	if images[0].Builder == images[1].Builder {
		t.Errorf("both images are built by %s, want the two storage hosts to share", images[0].Builder)
	}
	for _, i := range images {
		if h, _ := v.Host(i.Builder); !slices.Contains(h.Classes, api.ClassStorage) {
			t.Errorf("%s builds an image and is not of class storage", i.Builder)
		}
	}
	if !slices.ContainsFunc(res.Rolls, func(s string) bool { return strings.HasPrefix(s, "base@") }) {
		t.Errorf("rolls are %v, want base among them", res.Rolls)
	}
	for key := range res.Secrets {
		if strings.HasSuffix(key, "hostkey/frontend.pub") {
			return
		}
	}
	t.Error("no host key for the frontend among the secrets")
}

func TestReservationBecomesReadyAndItsHomeIsOnTheFrontendsDisk(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	spec := controltest.Spec("lab", 2)
	spec.Home = 10 * api.GiB
	res := reserve(t, r, spec)
	if got := api.Quantity(res.Nodes[0].DiskBytes); got != 14*api.GiB {
		t.Errorf("the frontend's disk is %v, want 14GiB: 4GiB and the home", got)
	}
	r.Settle()
	now, _ := r.FSM.View().Reservation(res.ID)
	if now.State != api.StateActive && now.State != api.StateReady {
		t.Fatalf("state is %s (%s), want ready or active: what is planned must be carried out", now.State, now.Message)
	}
}

func TestLaterStartHasALeadTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, controltest.Options{})
		spec := controltest.Spec("later", 2)
		start := time.Now().Add(2 * time.Hour).UTC().Truncate(time.Second)
		spec.Slot = api.Slot{Start: start.Format(time.RFC3339), For: "1h"}
		res := reserve(t, r, spec)
		if res.State != api.StateBooked {
			t.Errorf("state is %s, want booked", res.State)
		}
		if got, want := res.Start.Sub(res.Provision), 255*time.Second; got != want {
			t.Errorf("lead is %v, want %v: 60 s, 5 s for each of 3 nodes, 180 s for images", got, want)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { r.Control.RunLeader(ctx); close(done) }()
		synctest.Wait()
		state := func() api.State { x, _ := r.FSM.View().Reservation(res.ID); return x.State }
		sleepTo := func(at time.Time) { time.Sleep(time.Until(at)); synctest.Wait() }
		sleepTo(res.Provision.Add(-time.Second))
		if s := state(); s != api.StateBooked {
			t.Errorf("a second before provisioning it is %s, want booked", s)
		}
		sleepTo(res.Provision.Add(10 * time.Millisecond))
		if s := state(); s != api.StateProvisioning {
			t.Errorf("at its time it is %s, want provisioning", s)
		}
		r.Settle()
		if s := state(); s != api.StateReady {
			t.Errorf("when all is made it is %s, want ready", s)
		}
		sleepTo(start.Add(10 * time.Millisecond))
		if s := state(); s != api.StateActive {
			t.Errorf("at its start it is %s, want active", s)
		}
		sleepTo(res.End.Add(10 * time.Millisecond))
		if s := state(); s != api.StateEnding {
			t.Errorf("at its end it is %s, want ending", s)
		}
		r.Settle()
		if s := state(); s != api.StateEnded {
			t.Errorf("when all is gone it is %s, want ended", s)
		}
		if n := len(r.FSM.View().Leases()); n != 0 {
			t.Errorf("%d leases are left, want none", n)
		}
		cancel()
		<-done
	})
}

func TestLeadIsLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, controltest.Options{})
		r.Settle()
		first := reserve(t, r, controltest.Spec("one", 1))
		r.Settle() // the image is there at once
		second := controltest.Spec("two", 1)
		second.Name = "two"
		slow := reserve(t, r, second)
		for range 2 { // volumes at once, nodes after 140 s: twice the formula's 70 s
			for _, h := range r.FSM.View().Hosts() {
				r.Report(h.ID)
			}
			time.Sleep(70 * time.Second)
		}
		r.Settle()
		done, _ := r.FSM.View().Reservation(slow.ID)
		took := done.ReadyAt.Sub(done.Provision)
		later := controltest.Spec("three", 1)
		later.Slot = api.Slot{Start: time.Now().Add(5 * time.Hour).UTC().Format(time.RFC3339), For: "1h"}
		res := reserve(t, r, later)
		lead := res.Start.Sub(res.Provision).Round(time.Second)
		if want := (took + took/5).Round(time.Second); took < time.Minute || lead != want {
			t.Errorf("the slow one took %v and the lead is %v (first: %s), want what it took and a fifth more", took, lead, first.ID)
		}
	})
}

func TestNoFitSaysWhyAndWhatNext(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	before := r.Applier.Index()
	spec := controltest.Spec("huge", 900)
	_, err := r.Control.Reserve(t.Context(), spec, "", "op", "")
	p := problem(t, err, api.CodeNoFit)
	if len(p.Reasons) == 0 || p.Next == "" || p.Status != 409 {
		t.Errorf("problem is %+v, want status 409, reasons and a next step", p)
	}
	if got := r.Applier.Index(); got != before {
		t.Errorf("%d commands were applied for it, want none", got-before)
	}
}

func TestRefusals(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	reserve(t, r, controltest.Spec("taken", 1))
	for name, c := range map[string]struct {
		change func(*api.Spec)
		code   api.Code
		field  string
	}{
		"unknown roll":      {func(s *api.Spec) { s.Rolls = []string{"slurm", "slrum"} }, api.CodeInvalid, "rolls[1]"},
		"unknown version":   {func(s *api.Spec) { s.Rolls = []string{"slurm@99.9"} }, api.CodeInvalid, "rolls[0]"},
		"end before start":  {func(s *api.Spec) { s.Slot = api.Slot{Start: "2999-01-02T00:00Z", End: "2999-01-01T00:00Z"} }, api.CodeInvalid, "slot.end"},
		"start in the past": {func(s *api.Spec) { s.Slot = api.Slot{Start: "2001-01-02T00:00Z", For: "1h"} }, api.CodeInvalid, "slot.start"},
		"no project":        {func(s *api.Spec) { s.Project = "" }, api.CodeInvalid, "project"},
		"name taken":        {func(s *api.Spec) { s.Name = "taken" }, api.CodeConflict, ""},
	} {
		t.Run(name, func(t *testing.T) {
			spec := controltest.Spec("lab", 1)
			c.change(&spec)
			before := r.Applier.Index()
			_, err := r.Control.Reserve(t.Context(), spec, "", "op", "")
			p := problem(t, err, c.code)
			if c.field != "" && (len(p.Errors) == 0 || p.Errors[0].Field != c.field || p.Errors[0].Want == "") {
				t.Errorf("field errors are %+v, want one of %s saying what is wanted", p.Errors, c.field)
			}
			if r.Applier.Index() != before {
				t.Error("the state changed")
			}
		})
	}
}

func TestFormingRefusesUntilTheVotersAreThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, controltest.Options{Forming: true})
		_, err := r.Control.Reserve(t.Context(), controltest.Spec("lab", 1), "", "op", "")
		problem(t, err, api.CodeForming)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go r.Control.RunLeader(ctx)
		time.Sleep(10 * time.Second)
		if m, _ := r.FSM.View().Meta(); m.Formed {
			t.Fatal("formed with 1 voter of 3")
		}
		r.Gossip.SetVoters(3)
		time.Sleep(2 * time.Second)
		if m, _ := r.FSM.View().Meta(); !m.Formed {
			t.Fatal("not formed with 3 voters of 3")
		}
		reserve(t, r, controltest.Spec("lab", 1))
		cancel()
		synctest.Wait()
	})
}

func TestIdempotencyKey(t *testing.T) {
	r := controltest.New(t, controltest.Options{Hosts: 1, CPUs: 2})
	spec := controltest.Spec("lab", 1)
	first, err := r.Control.Reserve(t.Context(), spec, "", "op", "k1")
	if err != nil {
		t.Fatal(err)
	}
	before := r.Applier.Index()
	again, err := r.Control.Reserve(t.Context(), spec, "", "op", "k1") // the host is full now
	if err != nil || again.ID != first.ID {
		t.Fatalf("repeated: %v, %v; want %s again", again, err, first.ID)
	}
	spec.Workers[0].Count = 2
	_, err = r.Control.Reserve(t.Context(), spec, "", "op", "k1")
	problem(t, err, api.CodeConflict)
	if r.Applier.Index() != before {
		t.Error("a repeat changed the state")
	}
}

func TestConcurrentRepeatsMakeOne(t *testing.T) {
	r := controltest.New(t, controltest.Options{Delay: 5 * time.Millisecond})
	var wg sync.WaitGroup
	ids := make([]string, 16)
	for i := range ids {
		wg.Go(func() {
			res, err := r.Control.Reserve(t.Context(), controltest.Spec("lab", 1), "", "op", "same")
			if err != nil {
				t.Errorf("reserve: %v", err)
				return
			}
			ids[i] = res.ID
		})
	}
	wg.Wait()
	if slices.Sort(ids); ids[0] != ids[len(ids)-1] {
		t.Errorf("one key made %v", slices.Compact(ids))
	}
}

func TestConcurrentReservesDoNotCollide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, controltest.Options{Hosts: 9, CPUs: 64, Delay: 50 * time.Millisecond})
		var mu sync.Mutex
		commands := 0
		count := func(cmd []byte) error { mu.Lock(); commands++; mu.Unlock(); return nil }
		r.Applier.SetHook(count)
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() { reserve(t, r, controltest.Spec(fmt.Sprintf("c%d", i), 1)) })
		}
		wg.Wait()
		if commands != 64 {
			t.Errorf("%d commands for 64 reserves: plans collided", commands)
		}
		if took := time.Since(begin); took != 50*time.Millisecond {
			t.Errorf("64 concurrent reserves took %v of virtual time, want one commit's 50ms", took)
		}
	})
}

func TestPoolEmptyIsNoFit(t *testing.T) {
	pools := fsm.Pools{VLANFirst: 100, VLANLast: 101, Subnets: "10.64.0.0/12", SubnetBits: 24,
		PublicFirst: "192.0.2.10", PublicLast: "192.0.2.250", PublicBits: 24, MACPrefix: "02:76:63"}
	r := controltest.New(t, controltest.Options{Pools: pools})
	reserve(t, r, controltest.Spec("a", 1))
	reserve(t, r, controltest.Spec("b", 1))
	_, err := r.Control.Reserve(t.Context(), controltest.Spec("c", 1), "", "op", "")
	if p := problem(t, err, api.CodeNoFit); !strings.Contains(strings.Join(p.Reasons, " "), "identifiers") {
		t.Errorf("reasons are %q, want the identifiers named", p.Reasons)
	}
}

func TestSubnetTooSmallIsNoFit(t *testing.T) {
	pools := fsm.Pools{VLANFirst: 100, VLANLast: 101, Subnets: "10.64.0.0/12", SubnetBits: 28,
		PublicFirst: "192.0.2.10", PublicLast: "192.0.2.250", PublicBits: 24, MACPrefix: "02:76:63"}
	r := controltest.New(t, controltest.Options{Pools: pools})
	reserve(t, r, controltest.Spec("a", 5)) // .10 to .14 of 16
	_, err := r.Control.Reserve(t.Context(), controltest.Spec("b", 6), "", "op", "")
	problem(t, err, api.CodeNoFit)
}

func TestReplansWhenTheStateMovedUnderIt(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	var once sync.Once
	r.Applier.SetHook(func([]byte) error {
		once.Do(func() { // the host that would build and store is lost just now
			r.Apply2(fsm.HostStatusSet{Host: controltest.HostID(1), Status: fsm.HostDead})
		})
		return nil
	})
	spec := controltest.Spec("lab", 4)
	res := reserve(t, r, spec)
	for _, v := range r.FSM.View().Volumes(res.ID) {
		if v.Host == controltest.HostID(1) {
			t.Errorf("volume %s is on the dead host", v.ID)
		}
	}
}

func TestReplanIsBounded(t *testing.T) {
	// Two hosts that can carry everything: whichever is planned on dies just
	// then, and the other comes back.
	r := controltest.New(t, controltest.Options{Hosts: 2, CPUs: 64})
	for i := range 2 {
		h, _ := r.FSM.View().Host(controltest.HostID(i))
		h.Classes = []api.Class{api.ClassGateway, api.ClassCompute, api.ClassStorage}
		if h.Storage == "" {
			h.Storage = "10.9.0.9:3260"
		}
		r.Apply(fsm.HostRegister{Host: h})
	}
	r.Apply(fsm.HostStatusSet{Host: controltest.HostID(1), Status: fsm.HostDead})
	tries := 0
	r.Applier.SetHook(func([]byte) error {
		before := r.Applier.Hook()
		r.Applier.SetHook(nil)
		defer func() { r.Applier.SetHook(before) }()
		r.Apply(fsm.HostStatusSet{Host: controltest.HostID(tries % 2), Status: fsm.HostDead})
		tries++
		r.Apply(fsm.HostStatusSet{Host: controltest.HostID(tries % 2), Status: fsm.HostAlive})
		return nil
	})
	_, err := r.Control.Reserve(t.Context(), controltest.Spec("lab", 1), "", "op", "")
	problem(t, err, api.CodeConflict)
	if tries != 5 {
		t.Errorf("planned %d times, want 5", tries)
	}
	r.Applier.SetHook(nil)
	reserve(t, r, controltest.Spec("lab", 1)) // what failed holds nothing back
}

func TestCapacityGivenBackIsUsedAtOnce(t *testing.T) {
	r := controltest.New(t, controltest.Options{Hosts: 1, CPUs: 2})
	spec := controltest.Spec("one", 1)
	spec.Slot = api.Slot{Start: time.Now().Add(time.Hour).UTC().Format(time.RFC3339), For: "1h"}
	for i := range 5 {
		res := reserve(t, r, spec)
		_, err := r.Control.Reserve(t.Context(), func() api.Spec { s := spec; s.Name = "two"; return s }(), "", "op", "")
		problem(t, err, api.CodeNoFit)
		if _, err := r.Control.Release(t.Context(), res.ID, "op"); err != nil {
			t.Fatal(i, err)
		}
	}
}

func TestDryRunSaysWhatWouldBeAndChangesNothing(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	before := r.Applier.Index()
	spec := controltest.Spec("lab", 2)
	plan, err := r.Control.DryRun(t.Context(), spec, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Nodes) != 3 || len(plan.Images) != 2 || plan.Lead != "4m15s" || plan.Nodes[0].Host != "h0" {
		t.Errorf("plan is %+v", plan)
	}
	if r.Applier.Index() != before {
		t.Error("a dry run changed the state")
	}
	res := reserve(t, r, spec)
	for i, n := range res.Nodes {
		if h, _ := r.FSM.View().Host(n.Host); plan.Nodes[i].Host != h.Name || plan.Nodes[i].Name != n.Name {
			t.Errorf("planned %+v, booked %+v on %s", plan.Nodes[i], n, h.Name)
		}
	}
}

func TestReleaseWinsAndRepeats(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	res := reserve(t, r, controltest.Spec("lab", 1))
	for range 2 {
		got, err := r.Control.Release(t.Context(), res.ID, "op")
		if err != nil || got.State != api.StateEnding {
			t.Fatalf("release: %v, %v; want it ending", got, err)
		}
	}
	_, err := r.Control.Release(t.Context(), "no-such", "op")
	problem(t, err, api.CodeNotFound)
}

func TestNoSecretInDryRun(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	plan, err := r.Control.DryRun(t.Context(), controltest.Spec("lab", 2), "")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(plan)
	if bytes.Contains(b, []byte("PRIVATE")) || bytes.Contains(bytes.ToLower(b), []byte("secret")) {
		t.Errorf("the plan has a secret in it: %s", b)
	}
}

// An 802.1Q link and a VXLAN link do not meet.
func TestHostWithAnotherNetworkDriverGetsNothing(t *testing.T) {
	r := controltest.New(t, controltest.Options{Hosts: 6})
	odd, _ := r.FSM.View().Host(controltest.HostID(1))
	odd.Network = "vlan"
	r.Apply(fsm.HostRegister{Host: odd})
	for _, n := range reserve(t, r, controltest.Spec("lab", 12)).Nodes {
		if n.Host == odd.ID {
			t.Errorf("node %s is on the one host with driver vlan", n.Name)
		}
	}
	for i := range 6 {
		h, _ := r.FSM.View().Host(controltest.HostID(i))
		h.Network = "vlan"
		if i == 0 { // the gateway that has not been told yet
			h.Network = "vxlan"
		}
		r.Apply(fsm.HostRegister{Host: h})
	}
	spec := controltest.Spec("second", 1)
	spec.Workers[0].Count = 80
	_, err := r.Control.Reserve(t.Context(), spec, "", "op", "")
	if p := problem(t, err, api.CodeNoFit); !strings.Contains(strings.Join(p.Reasons, "\n"), "its network driver is vxlan and that of most hosts is vlan") {
		t.Errorf("reasons %q", p.Reasons)
	}
}
