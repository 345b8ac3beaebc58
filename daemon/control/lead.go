package control

import (
	"slices"
	"time"

	"vcn/api"
	"vcn/fsm"
)

// The lead time is what is kept before a slot for provisioning:
// leadBase + leadPerNode × nodes, + leadImage if an image must be built, times
// what has been learned, within leadMin and leadMax. The constants are some two
// times what one frontend and two workers need on a small machine without KVM.
const (
	leadBase    = 60 * time.Second
	leadPerNode = 5 * time.Second
	leadImage   = 180 * time.Second
	leadMin     = 30 * time.Second
	leadMax     = 2 * time.Hour

	// leadSamplesMax is how many of the last provisionings are learned from.
	leadSamplesMax = 10
	// leadFactorMin and leadFactorMax bound what is learned, so that a few odd
	// provisionings cannot push the lead to nothing or to hours.
	leadFactorMin = 0.5
	leadFactorMax = 4.0
	// leadLearnEvery is how long a learned factor is used before it is learned anew.
	leadLearnEvery = 30 * time.Second
)

// defaultLead is the lead time before anything is learned.
func defaultLead(nodes int, build bool) time.Duration {
	d := leadBase + time.Duration(nodes)*leadPerNode
	if build {
		d += leadImage
	}
	return d
}

// lead is the lead time of a new reservation under a learned factor.
func lead(nodes int, build bool, factor float64) time.Duration {
	d := time.Duration(float64(defaultLead(nodes, build)) * factor)
	return min(max(d, leadMin), leadMax)
}

// learned is the factor by which provisioning is slower or faster than the
// formula says. Of the last leadSamplesMax reservations that became ready, the
// slowest counts. Those whose images phase took long are left out: builds have
// their own constant.
func learned(past []fsm.Reservation) float64 {
	type sample struct {
		ready time.Time
		ratio float64
	}
	var samples []sample
	for _, r := range past {
		if r.ReadyAt.IsZero() || r.Provision.IsZero() || imagesBuilt(r) {
			continue
		}
		took := r.ReadyAt.Sub(r.Provision)
		if took > 0 {
			samples = append(samples, sample{r.ReadyAt, float64(took) / float64(defaultLead(len(r.Nodes), false))})
		}
	}
	if len(samples) == 0 {
		return 1
	}
	slices.SortFunc(samples, func(a, b sample) int { return b.ready.Compare(a.ready) })
	worst := 0.0
	for _, s := range samples[:min(len(samples), leadSamplesMax)] {
		worst = max(worst, s.ratio)
	}
	return min(max(worst, leadFactorMin), leadFactorMax)
}

// imagesWaitMax is how long the images phase takes when all images are there.
const imagesWaitMax = 10 * time.Second

func imagesBuilt(r fsm.Reservation) bool {
	return slices.ContainsFunc(r.Phases, func(p api.Phase) bool {
		return p.Name == "images" && p.End != nil && p.End.Sub(p.Start) > imagesWaitMax
	})
}
