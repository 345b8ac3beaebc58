package simulate

import (
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"vcn/api"
	"vcn/daemon/simulate/swf"
)

func readSmall(t *testing.T, o TraceOptions) Trace {
	t.Helper()
	text, err := os.ReadFile("swf/testdata/small.swf")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := ReadTrace(bytes.NewReader(text), o)
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err1 := z.Write(text)
	if err := errors.Join(err1, z.Close()); err != nil {
		t.Fatal(err)
	}
	same, err := ReadTrace(&zipped, o)
	if err != nil || !reflect.DeepEqual(plain, same) {
		t.Fatalf("compressed it is another: %v", err)
	}
	return plain
}

func TestJobsBecomeFrontendsWithWorkers(t *testing.T) {
	start := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	got := readSmall(t, TraceOptions{CPUsPerWorker: 4, Lead: 2 * m, Wait: time.Hour})
	shape := func(memory api.Quantity) api.NodeShape { return api.NodeShape{CPUs: 4, Memory: memory} }
	wants := []Request{
		// 1 asked for 20 minutes and a gibibyte a processor; 2 was cancelled before it ran.
		{At: start, Length: 22 * m, Runs: 10 * m, Workers: 1, Shape: shape(4 * api.GiB), Project: "group-1", Wait: time.Hour},
		// 3 ran for less than half a second, and says no memory.
		{At: start.Add(61 * time.Second), Length: 3 * m, Runs: time.Second, Workers: 1, Shape: shape(4 * api.GiB), Project: "group-1", Wait: time.Hour},
		{At: start.Add(time.Hour), Length: 122 * m, Runs: 2 * time.Hour, Workers: 4, Shape: shape(4 * api.GiB), Project: "group-2", Wait: time.Hour},
		// 5 had three processors and asked for none.
		{At: start.Add(3601 * time.Second), Length: 3 * m, Runs: 30 * time.Second, Workers: 1, Shape: shape(4 * api.GiB), Project: "group-2", Wait: time.Hour},
		{At: start.Add(9000 * time.Second), Length: 4 * m, Runs: m, Workers: 1, Shape: shape(4 * api.GiB), Project: "group-1", Wait: time.Hour},
	}
	if got.Skipped != 2 || len(got.Requests) != len(wants) {
		t.Fatalf("%d requests, %d skipped", len(got.Requests), got.Skipped)
	}
	for i := range wants {
		if !reflect.DeepEqual(got.Requests[i], wants[i]) {
			t.Errorf("request %d\n%+v\nwant\n%+v", i, got.Requests[i], wants[i])
		}
	}
}

func TestTracesAreCutByTimeAndNumber(t *testing.T) {
	start := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	want(t, "first two", len(readSmall(t, TraceOptions{JobsMax: 2}).Requests), 2)
	within := readSmall(t, TraceOptions{From: start.Add(time.Hour), Until: start.Add(9000 * time.Second), Memory: 512 * api.MiB})
	want(t, "from the hour on", len(within.Requests), 2)
	want(t, "memory given", within.Requests[0].Shape.Memory, 512*api.MiB)
	want(t, "workers of one core", within.Requests[0].Workers, 16)
}

func TestATraceThatIsNotRightNamesItsLine(t *testing.T) {
	var e *swf.Error
	if _, err := ReadTrace(strings.NewReader("; x\n1 2 3\n"), TraceOptions{}); !errors.As(err, &e) || e.Line != 2 {
		t.Errorf("%v", err)
	}
	if _, err := ReadTrace(strings.NewReader("\x1f\x8bnot gzip"), TraceOptions{}); err == nil {
		t.Error("it is no gzip")
	}
	if _, err := ReadTrace(strings.NewReader(""), TraceOptions{CPUsPerWorker: 1000}); !errors.Is(err, ErrInvalid) {
		t.Errorf("%v", err)
	}
}

func TestACalendarIsAskedAgainAsItWas(t *testing.T) {
	spec := api.Spec{Slot: api.Slot{Start: api.StartAsap, For: "8h"}, Home: 10 * api.GiB, Frontend: api.NodeShape{Disk: 20 * api.GiB},
		Workers: []api.WorkerGroup{{Name: "a", Count: 3, NodeShape: api.NodeShape{CPUs: 2}}, {Name: "b", Count: 1, Appliance: "special"}}}
	ahead := spec
	ahead.Slot.Start = "2030-01-09T09:00Z"
	list := []api.Reservation{
		{ID: "2", Created: t0.Add(m), Start: t0.Add(48 * time.Hour), End: t0.Add(56 * time.Hour), Project: "x", State: api.StateBooked, Spec: ahead},
		{ID: "1", Created: t0, Start: t0, End: t0.Add(8 * time.Hour), Project: "x", State: api.StateActive, Spec: spec},
		{ID: "3", Created: t0.Add(2 * m), Start: t0, End: t0, State: api.StateCancelled, Spec: spec},
		{ID: "4", Created: t0.Add(3 * m), Start: t0.Add(3 * m), End: t0.Add(8*time.Hour + 3*m), State: api.StateWaitlisted, Spec: spec,
			Wait: &api.Wait{Earliest: t0.Add(3 * m), Latest: t0.Add(63 * m)}},
	}
	got := Calendar(list, CalendarOptions{Wait: 30 * m})
	want(t, "cancelled", got.Cancelled, 1)
	want(t, "requests", len(got.Requests), 3)
	first := got.Requests[0]
	want(t, "at", first.At, t0)
	want(t, "earliest", first.Earliest, time.Time{})
	want(t, "length", first.Length, 8*time.Hour)
	want(t, "workers", first.nodes(), 5)
	want(t, "disks", api.Quantity(first.demand().storage), 30*api.GiB+4*4*api.GiB)
	want(t, "cores", first.demand().cpus, 1+6+1)
	want(t, "booked ahead", got.Requests[1].Earliest, t0.Add(48*time.Hour))
	want(t, "given wait", got.Requests[1].Wait, 30*m)
	want(t, "own wait", got.Requests[2].Wait, time.Hour)
	want(t, "a part", len(Calendar(list, CalendarOptions{From: t0.Add(m), Until: t0.Add(3 * m)}).Requests), 1)
	r := play(t, Scenario{Hosts: []Host{{Name: "h", Classes: allClasses, CPUs: 9, Memory: api.TiB, Storage: api.TiB}}, Policy: PolicyWait, Requests: got.Requests})
	want(t, "counts", countsOf(r), counts{AtOnce: 2, Refused: 1, Queue: 1})
}

func TestHostsAreScaledByTheirClasses(t *testing.T) {
	hosts := []Host{{Name: "f", Classes: []api.Class{api.ClassStorage, api.ClassGateway}}, {Name: "c", Classes: []api.Class{api.ClassCompute}, Count: 4}}
	for factor, wants := range map[float64][]string{
		1:   {"f", "c-1", "c-2", "c-3", "c-4"},
		1.5: {"f", "f-x2", "c-1", "c-2", "c-3", "c-4", "c-1-x2", "c-2-x2"},
		0.5: {"f", "c-1", "c-2"},
		0.1: {"f", "c-1"},
	} {
		got, err := Scale(hosts, factor)
		var names []string
		for _, h := range got {
			names = append(names, h.Name)
		}
		if err != nil || !slices.Equal(names, wants) {
			t.Errorf("%v: %v %v, want %v", factor, names, err, wants)
		}
	}
	for _, factor := range []float64{0, -1, 1001, 10000} {
		if _, err := Scale(hosts, factor); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v", factor, err)
		}
	}
}

func TestAMadeUpLoadHasItsShape(t *testing.T) {
	l := Load{Seed: 3, Jobs: 20_000, Span: 100 * 24 * time.Hour}
	_, jobs := Synthesize(l)
	_, again := Synthesize(l)
	if !reflect.DeepEqual(jobs, again) {
		t.Error("the same load gives other jobs")
	}
	l.Seed++
	if _, other := Synthesize(l); reflect.DeepEqual(jobs, other) {
		t.Error("another seed gives the same jobs")
	}
	day, night, last := 0, 0, -1.0
	runs := make([]float64, len(jobs))
	for i, j := range jobs {
		if j.Submit < last || j.Run < 1 || j.RequestedTime < j.Run || j.Procs < 1 || j.Procs > 64 {
			t.Fatalf("job %+v after %v", j, last)
		}
		last = j.Submit
		runs[i] = j.Run
		switch h := traceStart.Add(seconds(j.Submit)).Hour(); {
		case h >= 12 && h < 16:
			day++
		case h < 4:
			night++
		}
	}
	if day < 4*night {
		t.Errorf("%d jobs in the afternoon, %d at night", day, night)
	}
	if span := time.Duration(last) * time.Second; span < 90*24*time.Hour || span > 110*24*time.Hour {
		t.Errorf("they come within %v", span)
	}
	slices.Sort(runs)
	if median := runs[len(runs)/2]; median < 3300 || median > 3900 {
		t.Errorf("median run time %v s, want about 3600", median)
	}
}
