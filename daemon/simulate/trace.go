package simulate

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"vcn/api"
	"vcn/daemon/simulate/swf"
)

// TraceOptions say how batch jobs become clusters.
type TraceOptions struct {
	CPUsPerWorker int           // zero: 1
	Memory        api.Quantity  // of each worker; zero: what the trace says, or memoryPerCPU
	Lead          time.Duration // added to the time a job asked for, as its slot has to hold its provisioning too
	Wait          time.Duration // of each request
	JobsMax       int           // zero: RequestsMax, and then more are an error
	// From and Until choose jobs by when they were submitted, of those times
	// that are not zero.
	From, Until time.Time
}

// memoryPerCPU is what a worker has where the trace does not know.
const memoryPerCPU = api.GiB

// traceStart is when a trace began that does not say it.
var traceStart = time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)

// Trace is the requests of a trace.
type Trace struct {
	Header   swf.Header
	Requests []Request
	// Skipped jobs have no processors or never ran and asked for no time.
	Skipped int
	// Start is when the trace began.
	Start time.Time
}

// ReadTrace reads jobs in the Standard Workload Format, plain or compressed by
// gzip. A job becomes a frontend and ⌈processors/CPUsPerWorker⌉ workers, for the
// time it asked for (or ran, if that is not known, or longer), and ends when it did.
// Errors are *swf.Error, ErrInvalid, or the reader's.
func ReadTrace(in io.Reader, o TraceOptions) (Trace, error) {
	if o.CPUsPerWorker == 0 {
		o.CPUsPerWorker = 1
	}
	if o.CPUsPerWorker < 0 || o.CPUsPerWorker > api.CPUsMax {
		return Trace{}, invalid("%d cores of each worker: want 1-%d", o.CPUsPerWorker, api.CPUsMax)
	}
	plain, err := unzipped(in)
	if err != nil {
		return Trace{}, err
	}
	r := swf.NewReader(plain)
	t := Trace{Start: traceStart}
	for first := true; ; first = false {
		j, err := r.Next()
		if first {
			if at, ok := r.Header().Start(); ok {
				t.Start = at
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Trace{}, fmt.Errorf("read trace: %w", err)
		}
		at := t.Start.Add(seconds(j.Submit))
		if !o.From.IsZero() && at.Before(o.From) || !o.Until.IsZero() && !at.Before(o.Until) {
			continue
		}
		q, ok := o.request(&j, at)
		if !ok {
			t.Skipped++
			continue
		}
		if len(t.Requests) == RequestsMax {
			return Trace{}, invalid("more than %d jobs: choose fewer", RequestsMax)
		}
		if t.Requests = append(t.Requests, q); len(t.Requests) == o.JobsMax {
			break
		}
	}
	t.Header = r.Header()
	return t, nil
}

// unzipped is the text of what may be compressed.
func unzipped(in io.Reader) (io.Reader, error) {
	b := bufio.NewReader(in)
	if head, _ := b.Peek(2); !bytes.Equal(head, []byte{0x1f, 0x8b}) {
		return b, nil
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, fmt.Errorf("decompress trace: %w", err)
	}
	return z, nil
}

// seconds is at most as long as a time can be.
func seconds(s float64) time.Duration {
	const most = 200 * 365 * 24 * time.Hour
	return time.Duration(min(math.Round(s), most.Seconds())) * time.Second
}

// request is what one job asks for; false if it asks for nothing.
func (o *TraceOptions) request(j *swf.Job, at time.Time) (Request, bool) {
	procs := j.RequestedProcs
	if procs <= 0 {
		procs = j.Procs
	}
	asked, ran := seconds(j.RequestedTime), seconds(j.Run)
	if asked <= 0 {
		asked = ran
	}
	if ran <= 0 { // it ran for less than half a second, or is known by what it asked for only
		ran = time.Second
		if j.Run == swf.Unknown {
			ran = asked
		}
	}
	if procs <= 0 || asked <= 0 && j.Run == swf.Unknown || j.Status == swf.StatusCanceled && j.Run <= 0 {
		return Request{}, false
	}
	length := max(asked, ran) + o.Lead
	if rest := length % time.Minute; rest > 0 {
		length += time.Minute - rest
	}
	per := int64(o.CPUsPerWorker)
	q := Request{At: at, Length: min(length, api.SlotLengthMax), Runs: ran, Wait: o.Wait, Project: projectOf(j),
		Workers: int(min((procs+per-1)/per, math.MaxInt32)), Shape: api.NodeShape{CPUs: o.CPUsPerWorker, Memory: o.memory(j)}}
	return q, true
}

func projectOf(j *swf.Job) string {
	if j.Group >= 0 {
		return fmt.Sprintf("group-%d", j.Group)
	}
	return ""
}

// memory is that of each worker: kilobytes per processor, times its processors.
func (o *TraceOptions) memory(j *swf.Job) api.Quantity {
	if o.Memory > 0 {
		return o.Memory
	}
	kb := j.RequestedMemory
	if kb <= 0 {
		kb = j.UsedMemory
	}
	if kb <= 0 {
		return min(memoryPerCPU*api.Quantity(o.CPUsPerWorker), api.MemoryMax)
	}
	total := kb * 1024 * float64(o.CPUsPerWorker)
	mib := math.Ceil(total / float64(api.MiB))
	return min(max(api.Quantity(min(mib, 1<<30))*api.MiB, api.MemoryMin), api.MemoryMax)
}
