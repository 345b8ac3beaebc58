package swf

import (
	"bytes"
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

const unknowns = " -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1"

func readAll(in io.Reader) (Header, []Job, error) {
	r := NewReader(in)
	var jobs []Job
	for {
		j, err := r.Next()
		if errors.Is(err, io.EOF) {
			return r.Header(), jobs, nil
		}
		if err != nil {
			return r.Header(), jobs, err
		}
		jobs = append(jobs, j)
	}
}

func TestTheSampleIsReadFieldByField(t *testing.T) {
	text, err := os.ReadFile("testdata/small.swf")
	if err != nil {
		t.Fatal(err)
	}
	h, jobs, err := readAll(iotest.OneByteReader(bytes.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	if len(jobs) != 7 {
		t.Fatalf("%d jobs, want 7", len(jobs))
	}
	want := []Job{
		{Number: 1, Submit: 0, Wait: 5, Run: 600, Procs: 4, CPUTime: 590.5, UsedMemory: 524288, RequestedProcs: 4, RequestedTime: 1200, RequestedMemory: 1048576,
			Status: StatusCompleted, User: 1, Group: 1, App: 1, Queue: 1, Partition: 1, Preceding: -1, Think: -1},
		{Number: 2, Submit: 30, Wait: -1, Run: -1, Procs: -1, CPUTime: -1, UsedMemory: -1, RequestedProcs: 8, RequestedTime: 3600, RequestedMemory: -1,
			Status: StatusCanceled, User: 2, Group: 1, App: -1, Queue: 1, Partition: 1, Preceding: -1, Think: -1},
		{Number: 3, Submit: 60.5, Wait: 0, Run: 0, Procs: 1, CPUTime: -1, UsedMemory: -1, RequestedProcs: 1, RequestedTime: -1, RequestedMemory: -1,
			Status: StatusCompleted, User: 1, Group: 1, App: 2, Queue: 1, Partition: 1, Preceding: 1, Think: 12.25},
	}
	if !reflect.DeepEqual(jobs[:3], want) {
		t.Errorf("jobs\n%+v\nwant\n%+v", jobs[:3], want)
	}
	if procs, ok := h.Int("maxprocs"); !ok || procs != 16 {
		t.Errorf("MaxProcs %d %v", procs, ok)
	}
	if nodes, ok := h.Int("MaxNodes"); !ok || nodes != 4 {
		t.Errorf("MaxNodes %d %v", nodes, ok)
	}
	if at, ok := h.Start(); !ok || !at.Equal(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("start %v %v", at, ok)
	}
	if v, _ := h.Get("Queue"); v != "1 short: an hour" {
		t.Errorf("Queue %q", v)
	}
	if _, ok := h.Int("TimeZoneString"); ok {
		t.Error("a zone's name is a number")
	}
	if len(h) != 10 {
		t.Errorf("header of %d lines: %q", len(h), h)
	}
}

func TestWhatIsWrittenIsReadTheSame(t *testing.T) {
	text, err := os.ReadFile("testdata/small.swf")
	if err != nil {
		t.Fatal(err)
	}
	h, jobs, err := readAll(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	again(t, h, jobs)
}

// again writes a trace and reads it.
func again(t *testing.T, h Header, jobs []Job) {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out, h)
	for _, j := range jobs {
		if err := w.Write(j); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	h2, jobs2, err := readAll(&out)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(jobs, jobs2) {
		t.Fatalf("jobs\n%+v\nbecame\n%+v", jobs, jobs2)
	}
	if len(h) != len(h2) {
		t.Fatalf("header\n%q\nbecame\n%q", h, h2)
	}
}

func TestWhatIsWrongIsNamedByLineAndField(t *testing.T) {
	for name, c := range map[string]struct {
		text, field string
		line        int
	}{
		"too few fields":         {"; a\n1 2 3\n", "", 2},
		"too many fields":        {"1 0" + unknowns + " 4\n", "", 1},
		"no submit time":         {"1 -1" + unknowns + "\n", "submit time", 1},
		"a word":                 {"1 0" + unknowns + "\n\n2 soon" + unknowns, "submit time", 3},
		"an exponent":            {"1 1e3" + unknowns, "submit time", 1},
		"hexadecimal":            {"1 0x10" + unknowns, "submit time", 1},
		"not a number":           {"1 NaN" + unknowns, "submit time", 1},
		"negative":               {"-2 0" + unknowns, "job number", 1},
		"a part of a job":        {"1.5 0" + unknowns, "job number", 1},
		"two points":             {"1 1.2.3" + unknowns, "submit time", 1},
		"a sign and nothing":     {"1 -" + unknowns, "submit time", 1},
		"too large":              {"1 9999999999999" + unknowns, "submit time", 1},
		"too long":               {"1 0." + strings.Repeat("0", 40) + unknowns, "submit time", 1},
		"a status there is none": {"1 0 -1 -1 -1 -1 -1 -1 -1 -1 6 -1 -1 -1 -1 -1 -1 -1", "status", 1},
		"a line without end":     {"1 0" + unknowns + "\n" + strings.Repeat("1", LineBytesMax+1), "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := readAll(strings.NewReader(c.text))
			var e *Error
			if !errors.As(err, &e) || e.Line != c.line || e.Field != c.field || e.Want == "" {
				t.Errorf("%v, want line %d, field %q", err, c.line, c.field)
			}
		})
	}
}

func TestTheReadersErrorIsKept(t *testing.T) {
	broken := errors.New("the disk is gone")
	_, jobs, err := readAll(io.MultiReader(strings.NewReader("1 0"+unknowns+"\n"), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) || len(jobs) != 1 {
		t.Errorf("%d jobs, %v", len(jobs), err)
	}
}

func TestAnEndlessTraceEnds(t *testing.T) {
	r := NewReader(endless{})
	r.bytes = TraceBytesMax - 100 // reading all of it takes seconds
	for {
		_, err := r.Next()
		if err == nil {
			continue
		}
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Want, "at most 1073741824 bytes") {
			t.Errorf("%v", err)
		}
		return
	}
}

func TestAnEndlessHeaderEnds(t *testing.T) {
	_, _, err := readAll(strings.NewReader(strings.Repeat("; x: y\n", HeaderFieldsMax+1)))
	var e *Error
	if !errors.As(err, &e) || e.Line != HeaderFieldsMax+1 {
		t.Errorf("%v", err)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return copy(b, "1 0"+unknowns+"\n"), nil }

func FuzzReader(f *testing.F) {
	if text, err := os.ReadFile("testdata/small.swf"); err == nil {
		f.Add(text)
	}
	f.Add([]byte("1 0" + unknowns))
	f.Add([]byte(";:\n;a:b:c\n1 -0" + unknowns))
	f.Add([]byte("1 000000000000.5" + unknowns + "\r\n;\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, jobs, err := readAll(bytes.NewReader(text))
		var e *Error
		if err != nil && (!errors.As(err, &e) || e.Line < 1) {
			t.Fatalf("%v", err)
		}
		for _, j := range jobs {
			if j.Submit < 0 || j.Submit > numberMax || j.Run < 0 && j.Run != Unknown || j.Status > StatusCanceled {
				t.Fatalf("took %+v", j)
			}
		}
		again(t, h, jobs)
	})
}
