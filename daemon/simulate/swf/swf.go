package swf

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bounds of a trace.
const (
	TraceBytesMax   = 1 << 30 // of text
	LineBytesMax    = 64 << 10
	HeaderFieldsMax = 10_000
	// FieldsOfJob is how many fields a job has.
	FieldsOfJob = 18
	// numberMax bounds every number: seconds (of some 31 000 years), kilobytes, counts and ids.
	numberMax = 1e12
	// digitsMax bounds the text of a number.
	digitsMax = 32
)

// Unknown stands for what the trace does not say.
const Unknown = -1

// Values of Job.Status.
const (
	StatusFailed      = 0
	StatusCompleted   = 1
	StatusPartial     = 2 // a part of a job that goes on in another line
	StatusPartialLast = 3 // the last part, which completed
	StatusPartialFail = 4 // the last part, which failed
	StatusCanceled    = 5
)

// Job is one line of a trace. What is not known is Unknown.
type Job struct {
	Number           int64
	Submit           float64 // seconds since the trace's beginning; always known
	Wait, Run        float64 // seconds
	Procs            int64   // allocated
	CPUTime          float64 // seconds, mean per processor
	UsedMemory       float64 // kilobytes per processor
	RequestedProcs   int64
	RequestedTime    float64 // seconds
	RequestedMemory  float64 // kilobytes per processor
	Status           int64
	User, Group, App int64
	Queue, Partition int64
	Preceding        int64   // number of the job that this one waits for
	Think            float64 // seconds from the end of that one to this one's submit
}

// fieldNames are those of the format's text, by position.
var fieldNames = [FieldsOfJob]string{"job number", "submit time", "wait time", "run time", "allocated processors", "average CPU time", "used memory",
	"requested processors", "requested time", "requested memory", "status", "user", "group", "application", "queue", "partition", "preceding job", "think time"}

// values are pointers to the fields by position: *int64 or *float64.
func (j *Job) values() [FieldsOfJob]any {
	return [FieldsOfJob]any{&j.Number, &j.Submit, &j.Wait, &j.Run, &j.Procs, &j.CPUTime, &j.UsedMemory, &j.RequestedProcs, &j.RequestedTime,
		&j.RequestedMemory, &j.Status, &j.User, &j.Group, &j.App, &j.Queue, &j.Partition, &j.Preceding, &j.Think}
}

// Field is one line of the header, such as MaxProcs: 128. A comment that is none
// has no name.
type Field struct{ Name, Value string }

// Header is the comments before the first job.
type Header []Field

// Get is the first value of a name; names do not tell cases apart.
func (h Header) Get(name string) (string, bool) {
	for _, f := range h {
		if strings.EqualFold(f.Name, name) {
			return f.Value, true
		}
	}
	return "", false
}

// Int is the leading whole number of a value; false without one that is 0 or more.
func (h Header) Int(name string) (int64, bool) {
	v, _ := h.Get(name)
	digits := v[:len(v)-len(strings.TrimLeft(v, "0123456789"))]
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, err == nil
}

// Start is the moment that times are counted from; false if the header does not
// say one after 1970.
func (h Header) Start() (time.Time, bool) {
	n, ok := h.Int("UnixStartTime")
	if !ok || n <= 0 || n > math.MaxInt32*2 {
		return time.Time{}, false
	}
	return time.Unix(n, 0).UTC(), true
}

// Error is a line that is not as it should be.
type Error struct {
	Line  int    // from 1
	Field string // of the job; empty if it is about the whole line
	Value string
	Want  string
}

func (e *Error) Error() string {
	s := fmt.Sprintf("line %d: ", e.Line)
	if e.Field != "" {
		s += e.Field + ": "
	}
	if e.Value != "" {
		s += strconv.Quote(e.Value) + ": "
	}
	return s + "want " + e.Want
}

// Reader reads a trace line by line.
type Reader struct {
	in     *bufio.Reader
	line   int
	bytes  int64
	header Header
	jobs   bool // the first one has been read
}

// NewReader reads from in. It reads ahead.
func NewReader(in io.Reader) *Reader { return &Reader{in: bufio.NewReaderSize(in, LineBytesMax)} }

// Header is what was read of it: all after the first Next.
func (r *Reader) Header() Header { return r.header }

// Next is the next job; io.EOF after the last one, an *Error where a line is not
// right, or the error of the reader.
func (r *Reader) Next() (Job, error) {
	for {
		text, err := r.in.ReadSlice('\n')
		if len(text) > 0 {
			r.line++
			r.bytes += int64(len(text))
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return Job{}, &Error{Line: r.line, Want: fmt.Sprintf("a line of less than %d bytes", LineBytesMax)}
		case r.bytes > TraceBytesMax:
			return Job{}, &Error{Line: r.line, Want: fmt.Sprintf("a trace of at most %d bytes", TraceBytesMax)}
		case err != nil && !errors.Is(err, io.EOF):
			return Job{}, fmt.Errorf("read line %d: %w", r.line+1, err)
		}
		text = bytes.TrimSpace(text)
		if comment, ok := bytes.CutPrefix(text, []byte(";")); ok {
			if e := r.comment(string(comment)); e != nil {
				return Job{}, e
			}
		} else if len(text) > 0 {
			r.jobs = true
			return r.job(text)
		}
		if err != nil {
			return Job{}, io.EOF
		}
	}
}

// comment adds a line to the header.
func (r *Reader) comment(text string) error {
	text = strings.TrimSpace(text)
	if r.jobs || text == "" {
		return nil
	}
	if len(r.header) >= HeaderFieldsMax {
		return &Error{Line: r.line, Want: fmt.Sprintf("a header of at most %d lines", HeaderFieldsMax)}
	}
	f := Field{Value: text}
	if name, value, ok := strings.Cut(text, ":"); ok && isName(name) {
		f = Field{Name: name, Value: strings.TrimSpace(value)}
	}
	r.header = append(r.header, f)
	return nil
}

// isName is true of one word of letters.
func isName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return s != ""
}

func (r *Reader) job(text []byte) (Job, error) {
	var j Job
	n := 0
	values := j.values()
	for word := range bytes.FieldsSeq(text) {
		if n == FieldsOfJob {
			return Job{}, &Error{Line: r.line, Want: fmt.Sprintf("%d fields, and there are more", FieldsOfJob)}
		}
		if want := parse(string(word), values[n]); want != "" {
			return Job{}, &Error{Line: r.line, Field: fieldNames[n], Value: clip(string(word)), Want: want}
		}
		n++
	}
	switch {
	case n < FieldsOfJob:
		return Job{}, &Error{Line: r.line, Want: fmt.Sprintf("%d fields, and there are %d", FieldsOfJob, n)}
	case j.Submit < 0:
		return Job{}, &Error{Line: r.line, Field: fieldNames[1], Value: "-1", Want: "0 or more"}
	case j.Status > StatusCanceled:
		return Job{}, &Error{Line: r.line, Field: fieldNames[10], Value: strconv.FormatInt(j.Status, 10), Want: "-1 to 5"}
	}
	return j, nil
}

func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), digitsMax)], "?") }

const wantWhole, wantNumber = "a whole number of 0 to 1e12, or -1", "a number of 0 to 1e12, or -1"

// parse reads a plain decimal number into an *int64 or a *float64; it says
// what is wanted if the text is none.
func parse(s string, into any) (want string) {
	whole, isWhole := into.(*int64)
	if isWhole {
		want = wantWhole
	} else {
		want = wantNumber
	}
	digits, dots := 0, 0
	for i, c := range []byte(s) {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c == '.' && !isWhole:
			dots++
		case c != '-' || i > 0:
			return want
		}
	}
	if digits == 0 || dots > 1 || len(s) > digitsMax {
		return want
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || v > numberMax || v < 0 && v != Unknown {
		return want
	}
	if isWhole {
		*whole = int64(v)
	} else {
		*into.(*float64) = v + 0 // -0 is 0
	}
	return ""
}

// Writer writes a trace.
type Writer struct {
	out  *bufio.Writer
	line []byte
}

// NewWriter writes the header to out. Errors show in Flush.
func NewWriter(out io.Writer, h Header) *Writer {
	w := &Writer{out: bufio.NewWriter(out)}
	for _, f := range h {
		if f.Name == "" {
			fmt.Fprintf(w.out, "; %s\n", oneLine(f.Value))
			continue
		}
		fmt.Fprintf(w.out, "; %s: %s\n", f.Name, oneLine(f.Value))
	}
	return w
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Write adds a job.
func (w *Writer) Write(j Job) error {
	w.line = w.line[:0]
	for i, v := range j.values() {
		if i > 0 {
			w.line = append(w.line, ' ')
		}
		switch v := v.(type) {
		case *int64:
			w.line = strconv.AppendInt(w.line, *v, 10)
		case *float64:
			w.line = strconv.AppendFloat(w.line, *v, 'f', -1, 64)
		}
	}
	if _, err := w.out.Write(append(w.line, '\n')); err != nil {
		return fmt.Errorf("write job %d: %w", j.Number, err)
	}
	return nil
}

// Flush writes what is left, and returns the first error there was.
func (w *Writer) Flush() error {
	if err := w.out.Flush(); err != nil {
		return fmt.Errorf("write trace: %w", err)
	}
	return nil
}
