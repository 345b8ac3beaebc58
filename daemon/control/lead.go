package control

import (
	"maps"
	"slices"
	"strings"
	"time"

	"vcn/api"
	"vcn/fsm"
)

// The lead time is what is kept before a slot for provisioning. It is learned
// from what was measured, per set of images and size: of the last
// leadSamplesMax provisionings of the same images, each scaled to the size asked
// for, the slowest counts, with a margin. Without any, those of other images
// do; without any at all the formula
//
//	leadBase + leadPerNode × nodes
//
// whose constants are some two times what one frontend and two workers need on a
// small machine without KVM. leadImage is added if an image must be built. All
// within leadMin and leadMax.
const (
	leadBase    = 60 * time.Second
	leadPerNode = 5 * time.Second
	leadImage   = 180 * time.Second
	leadMin     = 30 * time.Second
	leadMax     = 2 * time.Hour

	// leadMarginPercent is added to what was measured.
	leadMarginPercent = 20
	// leadSamplesMax is how many of the last provisionings are learned from, of
	// leadLooked at most.
	leadSamplesMax = 10
	leadLooked     = 200
	// leadFactorMin and leadFactorMax bound what is learned against the formula,
	// so that a few odd provisionings cannot push the lead to nothing or to hours.
	leadFactorMin = 0.1
	leadFactorMax = 4.0
	// leadLearnEvery is how long what was learned is used before it is learned anew.
	leadLearnEvery = 30 * time.Second
)

// formula is the lead time before anything is learned, without margin.
func formula(nodes int) time.Duration { return leadBase + time.Duration(nodes)*leadPerNode }

// leads is what was learned. It is used under the planner's lock.
type leads struct {
	samples []leadSample // newest first
	at      time.Time
	// slowest is the largest part of the formula that the last provisionings of a set of
	// images took; 0 for a set without any. Worked out when it is first asked for.
	slowest map[string]float64
	fixed   time.Duration // Config.Lead; zero: learned
}

// leadSample is one provisioning that was measured.
type leadSample struct {
	recipes string // recipeSet
	nodes   int
	took    time.Duration
}

// anySet stands for all samples, whatever their images.
const anySet = "any"

// recipeSet is a set of recipes as one word.
func recipeSet(digests []string) string {
	slices.Sort(digests)
	return strings.Join(digests, " ")
}

// of is the lead time of a draft.
func (l *leads) of(v *fsm.View, d *draft, now time.Time) time.Duration {
	if l.fixed > 0 {
		return l.fixed
	}
	l.learn(v, now)
	lead := l.estimate(d.recipeSet(), len(d.nodes))
	if !d.pinStorage && building(v, d.recipes) { // disks that exist need no image
		lead += leadImage
	}
	return min(max(lead, leadMin), leadMax).Round(time.Second)
}

// learn looks at what became ready last, now and then.
func (l *leads) learn(v *fsm.View, now time.Time) {
	if !l.at.IsZero() && now.Sub(l.at) < leadLearnEvery && !now.Before(l.at) {
		return
	}
	l.samples, l.at, l.slowest = samples(v.LastReady(leadLooked)), now, map[string]float64{}
}

// samples leaves out those that waited for an image to be built: that has its
// own constant.
func samples(past []fsm.Reservation) []leadSample {
	var out []leadSample
	for _, r := range past {
		if len(r.Phases) == 0 || imagesBuilt(r) {
			continue
		}
		if took := r.ReadyAt.Sub(r.Phases[0].Start); took > 0 {
			out = append(out, leadSample{recipeSet(slices.Collect(maps.Values(r.Recipes))), len(r.Nodes), took})
		}
	}
	return out
}

// estimate is how long provisioning may take, image builds apart.
func (l *leads) estimate(set string, nodes int) time.Duration {
	part := l.worst(set)
	if part == 0 {
		part = l.worst(anySet)
	}
	plain := float64(formula(nodes))
	if part == 0 {
		return time.Duration(plain)
	}
	part = part * (100 + leadMarginPercent) / 100
	return time.Duration(min(max(part, leadFactorMin), leadFactorMax) * plain)
}

// worst is the largest part of the formula that the last samples of a set took.
func (l *leads) worst(set string) float64 {
	if part, known := l.slowest[set]; known {
		return part
	}
	part, n := 0.0, 0
	for _, s := range l.samples {
		if n == leadSamplesMax {
			break
		}
		if set == anySet || s.recipes == set {
			part = max(part, float64(s.took)/float64(formula(s.nodes)))
			n++
		}
	}
	if l.slowest == nil || len(l.slowest) >= recipesCachedMax {
		l.slowest = map[string]float64{}
	}
	l.slowest[set] = part
	return part
}

// imagesWaitMax is how long the images phase takes when all images are there.
const imagesWaitMax = 10 * time.Second

func imagesBuilt(r fsm.Reservation) bool {
	return slices.ContainsFunc(r.Phases, func(p api.Phase) bool {
		return p.Name == "images" && p.End != nil && p.End.Sub(p.Start) > imagesWaitMax
	})
}
