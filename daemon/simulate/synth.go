package simulate

import (
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"vcn/daemon/simulate/swf"
)

// Load describes a made-up centre, for benchmarks and trials: jobs come with a
// daily and weekly cycle (most at two in the afternoon, half at weekends), are of
// a power of two processors, mostly few, run for lognormal times and ask for up to
// three times as long. The shapes follow what U. Lublin and D. G. Feitelson found
// in logs (The Workload on Parallel Supercomputers, JPDC 2003), roughly.
type Load struct {
	Seed     uint64
	Jobs     int
	Span     time.Duration // from the first job to the last, about
	Start    time.Time     // zero: that of a trace without one
	ProcsMax int           // zero: 64
	// Median is the median run time; zero: an hour. Sigma is that of its
	// logarithm; zero: 1.5.
	Median time.Duration
	Sigma  float64
	Groups int // projects; zero: 8
}

const (
	runMax     = 7 * 24 * time.Hour
	cycleDepth = 0.8 // of the daily cycle
)

// Synthesize makes the jobs of a load, in the order of their submit times. The
// same load gives the same jobs.
func Synthesize(l Load) (swf.Header, []swf.Job) {
	rng := rand.New(rand.NewPCG(l.Seed, 0x5eed))
	if l.ProcsMax == 0 {
		l.ProcsMax = 64
	}
	if l.Median == 0 {
		l.Median = time.Hour
	}
	if l.Sigma == 0 {
		l.Sigma = 1.5
	}
	if l.Groups == 0 {
		l.Groups = 8
	}
	if l.Start.IsZero() {
		l.Start = traceStart
	}
	gap := l.Span.Seconds() / float64(max(l.Jobs, 1))
	jobs := make([]swf.Job, 0, l.Jobs)
	at := 0.0
	for n := range l.Jobs {
		for { // thinning: as many as at the busiest hour, of which some do not come
			at += rng.ExpFloat64() * gap / busiest
			if rng.Float64()*busiest < rate(l.Start.Add(time.Duration(at)*time.Second)) {
				break
			}
		}
		run := math.Min(math.Exp(math.Log(l.Median.Seconds())+l.Sigma*rng.NormFloat64()), runMax.Seconds())
		run = math.Max(math.Round(run), 1)
		asked := math.Ceil(run * (1 + 2*rng.Float64()) / 900)
		procs := 1 << int(rng.Float64()*rng.Float64()*(math.Log2(float64(l.ProcsMax))+1))
		jobs = append(jobs, swf.Job{Number: int64(n + 1), Submit: math.Round(at), Wait: swf.Unknown, Run: run, Procs: int64(procs), CPUTime: swf.Unknown,
			UsedMemory: swf.Unknown, RequestedProcs: int64(procs), RequestedTime: asked * 900, RequestedMemory: swf.Unknown, Status: swf.StatusCompleted,
			User: int64(rng.IntN(l.Groups * 10)), Group: int64(rng.IntN(l.Groups)), App: swf.Unknown, Queue: swf.Unknown, Partition: swf.Unknown,
			Preceding: swf.Unknown, Think: swf.Unknown})
	}
	return swf.Header{{Name: "Version", Value: "2.2"}, {Name: "Computer", Value: "made up"}, {Name: "MaxJobs", Value: itoa(len(jobs))},
		{Name: "UnixStartTime", Value: strconv.FormatInt(l.Start.Unix(), 10)}, {Name: "Note", Value: "seed " + strconv.FormatUint(l.Seed, 10)}}, jobs
}

// meanOfWeek is what rate has on average, and busiest is its maximum, both
// before it is brought to a mean of 1.
const (
	meanOfWeek = (5 + 2*0.5) / 7
	busiest    = (1 + cycleDepth) / meanOfWeek
)

// rate is how many jobs come at a time, compared with the mean.
func rate(at time.Time) float64 {
	hour := float64(at.Hour()) + float64(at.Minute())/60
	r := 1 + cycleDepth*math.Cos((hour-14)/24*2*math.Pi)
	if d := at.Weekday(); d == time.Saturday || d == time.Sunday {
		r /= 2
	}
	return r / meanOfWeek
}

func itoa(n int) string { return strconv.Itoa(n) }
