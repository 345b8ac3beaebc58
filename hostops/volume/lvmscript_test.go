package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"

	"vcn/hostops"
)

// script answers for lvm2 where an error is wanted that a real one gives
// seldom. What it answers is what a real one was seen to write.
type script struct {
	t       *testing.T
	noGroup bool
	missing int
	lvs     []*lv
	status  string
	fail    map[string]error // by command
	junk    string           // instead of what lvs writes
	changes []string         // commands that change something
	onFail  func()           // what else happens with a failure
}

func newScript(t *testing.T, lvs ...*lv) *script {
	st := thinState(0)
	return &script{t: t, lvs: append([]*lv{st.pool}, lvs...), status: "0 1 thin-pool 1 10/1000 100/1000 - rw discard_passdown error_if_no_space - 1024", fail: map[string]error{}}
}

func (s *script) run(ctx context.Context, change bool, name string, args ...string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if change {
		s.changes = append(s.changes, name+" "+strings.Join(args[2:], " "))
	}
	if err := s.fail[name]; err != nil {
		if s.onFail != nil {
			s.onFail()
		}
		return nil, &commandError{command: name, stderr: "said so", err: err}
	}
	vg := row{"vg_name": "data", "vg_size": "1000", "vg_free_count": "0", "vg_extent_size": "4194304", "vg_missing_pv_count": strconv.Itoa(s.missing), "vg_mda_size": "1044480", "vg_mda_free": "500000"}
	rows := []row{}
	switch name {
	case "dmsetup":
		return []byte(s.status), nil
	case "vgs":
		if !s.noGroup {
			rows = append(rows, vg)
		}
		return json.Marshal(map[string]any{"report": []any{map[string]any{"vg": rows}}})
	case "lvs":
		if s.noGroup {
			return nil, &commandError{command: name, stderr: `Volume group "data" not found`, err: errors.New("exit status 5")}
		}
		if s.junk != "" {
			return []byte(s.junk), nil
		}
		for _, v := range s.lvs {
			rows = append(rows, s.row(v, vg))
		}
		return json.Marshal(map[string]any{"report": []any{map[string]any{"lv": rows}}})
	}
	return nil, nil
}

func (s *script) row(v *lv, vg row) row {
	r := row{"lv_name": v.name, "lv_uuid": v.uuid, "lv_size": strconv.FormatInt(v.sizeBytes, 10), "lv_tags": strings.Join(v.tags, ","),
		"lv_layout": strings.Join(v.layout, ","), "pool_lv": v.pool, "origin": v.origin, "chunk_size": strconv.FormatInt(v.chunkBytes, 10),
		"lv_active": "active", "lv_time": "1795445762", "zero": "zero", "discards": "passdown", "lv_when_full": "error", "lv_permissions": "writeable"}
	if v.open {
		r["lv_device_open"] = "open"
	}
	for k, x := range vg {
		r[k] = x
	}
	return r
}

func (s *script) store(known bool) (*LVM, error) {
	c := lvmConfig(s.t)
	c.Known = known
	c.Log = slog.New(slog.DiscardHandler)
	return newLVM(s.t.Context(), c, s.run)
}

func (s *script) opened() *LVM {
	s.t.Helper()
	l, err := s.store(true)
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

func volumeLV(id string, more ...string) *lv {
	return &lv{name: lvName(volumePrefix, id), uuid: "uuid-" + id, pool: "vcn", sizeBytes: 8 * mib, layout: []string{"thin", "sparse"},
		tags: append([]string{tagOurs, ownedTag(testOwner), tagVolume + id}, more...)}
}

func TestLVMOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*script)
		known bool
		want  error
		says  string
	}{
		{"no group", func(s *script) { s.noGroup = true }, false, hostops.ErrNotFound, "vgcreate data"},
		{"a known group is gone", func(s *script) { s.noGroup = true }, true, ErrGone, "data"},
		{"a known pool is gone", func(s *script) { s.lvs = nil }, true, ErrGone, "data"},
		{"no room for a pool", func(s *script) { s.lvs = nil }, false, hostops.ErrNoSpace, "vgextend"},
		{"another's pool", func(s *script) { s.lvs[0].tags[1] = ownerTag("cluster c-2 host h-9") }, true, hostops.ErrForeign, "cluster c-2 host h-9"},
		{"a pool without a mark", func(s *script) { s.lvs[0].tags = nil }, false, hostops.ErrForeign, "lvchange --addtag vcn.owner:cluster=20c-1=20host=20h-1 data/vcn"},
		{"our mark on no pool", func(s *script) { s.lvs[0].layout = []string{"linear"} }, true, nil, "no thin pool (linear)"},
		{"lvs fails", func(s *script) { s.fail["lvs"] = errors.New("exit status 5") }, true, nil, "said so"},
		{"lvs writes junk", func(s *script) { s.junk = "WARNING" }, true, nil, "report"},
		{"lvs writes nothing", func(s *script) { s.junk = `{"report":[]}` }, true, nil, "empty"},
		{"lvs writes something else", func(s *script) { s.junk = `{"report":[{"pv":[]}]}` }, true, nil, `no "lv"`},
		{"a size that is none", func(s *script) {
			s.junk = `{"report":[{"lv":[{"lv_name":"a","lv_uuid":"b","lv_size":"1g","vg_name":"data","vg_extent_size":"4"}]}]}`
		}, true, nil, "lv_size"},
		{"no extents", func(s *script) { s.junk = `{"report":[{"lv":[{"lv_name":"a","lv_uuid":"b","vg_name":"data"}]}]}` }, true, nil, "extents"},
		{"the status cannot be read", func(s *script) { s.fail["dmsetup"] = errors.New("exit status 1") }, true, nil, "status of thin pool"},
	} {
		s := newScript(t)
		c.spoil(s)
		_, err := s.store(c.known)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
		if len(s.changes) != 0 {
			t.Errorf("%s: %q", c.name, s.changes)
		}
	}
}

func TestLVMOpenSweepsOnlyWhatIsOurs(t *testing.T) {
	foreign := volumeLV("c", tagMaking)
	foreign.tags[1] = ownedTag("somebody")
	busy := volumeLV("d", tagMaking)
	busy.open = true
	s := newScript(t, volumeLV("a"), volumeLV("b", tagMaking), foreign, busy)
	s.fail["lvremove"] = errors.New("exit status 5")
	if _, err := s.store(true); err == nil {
		t.Error("a half-made volume that cannot be removed is no error")
	}
	delete(s.fail, "lvremove")
	s.changes = nil
	// The script removes nothing, which is an error; what counts is what was asked.
	_, _ = s.store(true)
	if want := `lvremove --yes --select lv_uuid="uuid-b" && lv_tags={"vcn.making"} data`; !slices.Equal(s.changes, []string{want}) {
		t.Errorf("%q, want %q", s.changes, want)
	}
	// A broken pool is left as it is.
	s.status, s.changes = "0 1 thin-pool Fail", nil
	if _, err := s.store(true); err != nil || len(s.changes) != 0 {
		t.Errorf("%v, %q", err, s.changes)
	}
}

func TestLVMFailuresAreExplainedByThePool(t *testing.T) {
	for _, c := range []struct {
		name   string
		status string
		after  string // the status when lvcreate has failed
		want   error
		says   string
	}{
		{"full before", "0 1 thin-pool 1 10/1000 950/1000 - rw discard_passdown error_if_no_space - 1", "", hostops.ErrNoSpace, "95.0 %"},
		{"metadata full before", "0 1 thin-pool 1 960/1000 1/1000 - rw discard_passdown error_if_no_space - 1", "", hostops.ErrNoSpace, "poolmetadatasize"},
		{"broken before", "0 1 thin-pool Error", "", ErrPool, "lvconvert --repair"},
		{"full while it was made", "0 1 thin-pool 1 10/1000 1/1000 - rw discard_passdown error_if_no_space - 1",
			"0 1 thin-pool 1 10/1000 1000/1000 - out_of_data_space discard_passdown error_if_no_space - 1", hostops.ErrNoSpace, "said so"},
		{"broken while it was made", "0 1 thin-pool 1 10/1000 1/1000 - rw discard_passdown error_if_no_space - 1",
			"0 1 thin-pool 1 10/1000 1/1000 - ro discard_passdown error_if_no_space needs_check 1", ErrPool, "said so"},
		{"something else", "0 1 thin-pool 1 10/1000 1/1000 - rw discard_passdown error_if_no_space - 1",
			"0 1 thin-pool 1 10/1000 1/1000 - rw discard_passdown error_if_no_space - 1", nil, "said so"},
	} {
		s := newScript(t)
		l := s.opened()
		s.status = c.status
		s.fail["lvcreate"] = errors.New("exit status 5")
		s.onFail = func() { s.status = c.after }
		_, err := l.Ensure(t.Context(), hostops.VolumeSpec{ID: "a", SizeBytes: 4 * mib})
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) ||
			c.want == nil && (errors.Is(err, hostops.ErrNoSpace) || errors.Is(err, ErrPool)) {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := len(s.changes); (c.after == "") != (got == 0) {
			t.Errorf("%s: %q", c.name, s.changes)
		}
	}
	s := newScript(t)
	l := s.opened()
	s.missing = 1
	if _, _, err := l.Capacity(t.Context()); !errors.Is(err, ErrPool) || !strings.Contains(err.Error(), "1 disks") {
		t.Errorf("Capacity with a disk missing: %v", err)
	}
}

func TestLVMRemoveOfWhatIsOpenIsNotTried(t *testing.T) {
	open := volumeLV("a")
	open.open = true
	foreign := &lv{name: "vcn.v.b", uuid: "u", pool: "vcn"}
	s := newScript(t, open, foreign)
	l := s.opened()
	if err := l.Remove(t.Context(), "a"); !errors.Is(err, hostops.ErrBusy) {
		t.Errorf("%v, want ErrBusy", err)
	}
	if err := l.Remove(t.Context(), "b"); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("%v, want ErrForeign", err)
	}
	if err := l.Remove(t.Context(), "c"); err != nil {
		t.Errorf("what is not there: %v", err)
	}
	if len(s.changes) != 0 {
		t.Errorf("%q", s.changes)
	}
	all, err := l.List(t.Context())
	if err != nil || len(all) != 1 || all[0] != (hostops.Volume{ID: "a", Path: "/dev/data/vcn.v.a", SizeBytes: 8 * mib}) {
		t.Errorf("List: %+v, %v", all, err)
	}
	s.noGroup = true
	if _, err := l.List(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("List without the group: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.List(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("List with an ended context: %v", err)
	}
}

func TestLVMAlarmIsLoggedOnce(t *testing.T) {
	s := newScript(t)
	l := s.opened()
	var out strings.Builder
	l.cfg.Log = slog.New(slog.NewTextHandler(&out, nil))
	for _, used := range []int{100, 800, 820, 960, 970, 820, 100, 100} {
		s.status = fmt.Sprintf("0 1 thin-pool 1 10/1000 %d/1000 - rw discard_passdown error_if_no_space - 1", used)
		if _, _, err := l.Capacity(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if log := out.String(); strings.Count(log, "level=WARN") != 2 || strings.Count(log, "level=ERROR") != 1 || strings.Count(log, "well again") != 1 {
		t.Errorf("%s", log)
	}
}
