package fsm

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"vcn/api"
)

var update = flag.Bool("update", false, "write golden files anew")

// samples has one of every command with every field set, so that the golden
// file shows its whole shape.
func samples() []Command {
	at := time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC)
	node := Node{Name: "frontend", Role: api.RoleFrontend, Group: "g", Appliance: "frontend", CPUs: 2, MemoryBytes: gib,
		DiskBytes: 4 * gib, Host: "a", Storage: "a", Volume: "v", Leaving: true, LeaveBy: at, LeaveDue: true, LeaveIndex: 2, Joining: true, LeftIndex: 3, PrivateMAC: "52:54:00:00:00:01", PrivateIP: "10.64.0.1",
		PublicMAC: "52:54:00:00:00:02", PublicIP: "192.0.2.10", Generation: 1, State: NodeWaiting, Since: at, Message: "m"}
	vol := Volume{ID: "v", Reservation: "r", Node: "frontend", Host: "a", SizeBytes: 4 * gib, Recipe: "rec", Generation: 1,
		User: "u", Secret: "0123456789ab", Made: true, ImageDigest: "d"}
	res := Reservation{ID: "r", Name: "lab", Project: "studio", Owner: "op", State: api.StateBooked, Outcome: api.StateEnded,
		Message: "m", Start: at, End: at.Add(time.Hour), Zone: "UTC", Grace: time.Minute, Provision: at, Lead: time.Minute, Created: at, ReadyAt: at, Closed: at,
		Bound: true, Series: "s", Wait: &Wait{Earliest: at, Latest: at, Length: time.Hour, Passed: 1, Message: "m"}, Notices: []NoticeWork{{"n", "t"}}, Warned: 1,
		Kept: true, ParkedAt: at, ParkedUntil: at, StopAt: at, FrontendStops: true, NodesGone: true, Freed: []string{"c"},
		EndIndex: 7, Spec: api.Spec{Name: "lab", Slot: api.Slot{Start: "asap", For: "1h"}}, VLAN: 100, Subnet: "10.64.0.0/24",
		Nodes: []Node{node}, Users: []User{{Name: "alice", UID: 2000, Keys: []string{"k"}, Admin: true}}, Rolls: []string{"base@1"},
		Recipes: map[string]string{"frontend": "rec"}, Secrets: map[string][]byte{"munge/key": []byte("s")},
		Conditions: []api.Condition{{Type: "degraded", Message: "m", Since: at}},
		Phases:     []api.Phase{{Name: "images", Start: at, End: &at, Note: "n"}}, Modified: 9}
	want := ImageWant{Recipe: "rec", Appliance: "frontend", Rolls: []string{"base@1"}, Builder: "a"}
	host := testHost("a", api.ClassGateway, api.ClassStorage)
	host.FailureDomain, host.Network, host.Version, host.Registered = "rack1", "vlan", "0.1", at
	host.VolumeDriver, host.TargetEngine, host.Initiator = "lvm", "lio", "kernel"
	host.Status, host.StatusSince, host.Cordoned, host.Short = HostAlive, at, "c", "s"
	binding, seats := Binding{Volumes: []Volume{vol}, Secrets: res.Secrets}, []Seat{{"a", "b"}}
	init := sampleInit()
	init.Meta.Policy = Policy{HoldMax: time.Hour, HoldsMax: 1, ParkMax: time.Hour, ParkBytes: 1, SeriesMax: 1, WaitMax: 1}
	init.Meta.Formed, init.Meta.Created = true, at
	token := Token{ID: "t", Kind: api.TokenProject, Project: "studio", Note: "n", Hash: []byte{1}, Created: at, Expires: at}
	init.Token = token
	return []Command{
		init,
		HostRegister{host},
		HostStatusSet{"a", HostDead},
		HostReport{Host: "a", Applied: 7, Objects: []Object{{Kind: KindImage, ID: "rec", Reservation: "r", Node: "n",
			Generation: 1, State: ObjReady, Message: "m", Digest: "d", SizeBytes: 1, BootOnly: true}}},
		TokenCreate{token},
		TokenRevoke{"t"},
		ReservationRelease{ID: "r", By: "op"},
		ReservationFail{ID: "r", Message: "m"},
		ClockAdvance{},
		want,
		ImageAssign{"rec", "b"},
		RollsRegister{[]Roll{{Name: "base", Version: "1", Digest: "d", Registered: at}}},
		Formed{},
		ReservationBook{Key: "k", RequestHash: []byte("h"), Hold: "o", Passed: []string{"q"}, Series: &Series{ID: "s", Name: "lab", Project: "studio", Owner: "op", Spec: res.Spec, Created: at},
			Reservations: []Reservation{res}, Images: []ImageWant{want}, Bind: &binding},
		ReservationBind{ID: "r", Modified: 9, Seats: seats, Binding: binding},
		ReservationReseat{Moves: []Move{{"r", 9, seats}}, Why: "w"},
		ReservationClaim{ID: "r", Modified: 9, Start: at, End: at, Provision: at, Lead: time.Minute, Seats: seats, Passed: []string{"q"}, Bind: &binding},
		ReservationChange{ID: "r", Modified: 9, By: "op", Name: "lab", Start: at, End: at, Provision: at, Lead: time.Minute, Grace: time.Minute, Zone: "UTC",
			Wait: res.Wait, Spec: res.Spec, Nodes: []Node{node}, Leave: []Leave{{"n", at}}, Rolls: res.Rolls, Recipes: res.Recipes, Images: []ImageWant{want}, Binding: binding, Reinstall: true},
		ReservationPark{ID: "r", By: "op", For: time.Hour},
		ReservationResume{ID: "r", Modified: 9, Key: "k", RequestHash: []byte("h"), Spec: res.Spec, Start: at, End: at, Provision: at, Lead: time.Minute, Grace: time.Minute,
			Zone: "UTC", Seats: seats, Bind: &binding},
		HoldPlace{Hold{ID: "h", Project: "studio", Owner: "op", Created: at, Expires: at, Offers: []HeldOffer{{ID: "o", Offer: api.Offer{ID: "o", Kind: "exact"}, Spec: res.Spec,
			Parts: []Promise{{Start: at, End: at, Provision: at, Lead: time.Minute, Grace: time.Minute, Nodes: []Node{node}}}}}}},
		HoldRelease{"h"},
		PolicySet{Policy{HoldMax: time.Hour, HoldsMax: 1, ParkMax: time.Hour, ParkBytes: 1, SeriesMax: 1, WaitMax: 1}},
		NotifyDone{7},
	}
}

// TestCommandsAreWhatTheyWere pins every number with its name and the shape of
// its data. A line may be added; one that changed breaks the logs of running
// clusters.
func TestCommandsAreWhatTheyWere(t *testing.T) {
	var b strings.Builder
	seen := map[Type]bool{}
	for _, c := range samples() {
		data, err := Encode(c, epoch)
		if err != nil {
			t.Fatal(err)
		}
		seen[c.Type()] = true
		fmt.Fprintf(&b, "%d %s %s %s\n", c.Type(), registry[c.Type()].name,
			hex.EncodeToString(data[:entryHeaderBytes]), data[entryHeaderBytes:])
	}
	for _, n := range types() {
		if !seen[n] {
			t.Errorf("type %d (%s) has no sample", n, registry[n].name)
		}
	}
	path := filepath.Join("testdata", "commands.golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("commands changed; got\n%s\nwant\n%s", b.String(), want)
	}
}

// TestGoldenCommandsAreStillRead decodes what is pinned, without loss.
func TestGoldenCommandsAreStillRead(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "commands.golden"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		f := strings.SplitN(line, " ", 4)
		head, err := hex.DecodeString(f[2])
		if err != nil {
			t.Fatal(err)
		}
		cmd, stamp, err := decode(append(head, f[3]...))
		if err != nil {
			t.Fatalf("%s %s: %v", f[0], f[1], err)
		}
		if got := reflect.TypeOf(cmd).Name(); got != f[1] || !stamp.Equal(epoch) {
			t.Errorf("line of %s was read as %s of %s", f[1], got, stamp)
		}
		if again, err := json.Marshal(cmd); err != nil || string(again) != f[3] {
			t.Errorf("%s loses something: %s, %v", f[1], again, err)
		}
	}
}

// TestSamplesSetEveryField makes sure that a new field shows in the golden
// file.
func TestSamplesSetEveryField(t *testing.T) {
	for _, c := range samples() {
		unset(t, fmt.Sprintf("%T", c), reflect.ValueOf(c))
	}
}

func unset(t *testing.T, path string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() || v.Type().PkgPath() == "vcn/api" {
			return
		}
		for i := range v.NumField() {
			unset(t, path+"."+v.Type().Field(i).Name, v.Field(i))
		}
	case reflect.Slice:
		if v.Len() == 0 {
			t.Errorf("%s is not set", path)
		} else if v.Type().Elem().Kind() == reflect.Struct {
			unset(t, path+"[0]", v.Index(0))
		}
	default:
		if v.IsZero() {
			t.Errorf("%s is not set", path)
		}
	}
}
