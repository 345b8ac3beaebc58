package simulate

import (
	"time"

	"vcn/api"
)

// Report is what came of a scenario. But for Took it is a function of it.
type Report struct {
	Name    string       `json:"name"`
	Policy  Policy       `json:"policy"`
	Hosts   int          `json:"hosts"`
	CPUs    int          `json:"cpus"`
	Memory  api.Quantity `json:"memory"`
	Storage api.Quantity `json:"storage"`
	// From is when the first request came, Until when the last cluster ended.
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`

	Requests   int      `json:"requests"`
	AtOnce     int      `json:"acceptedAtOnce"`    // began when they could at best
	Waited     int      `json:"acceptedAfterWait"` // began later
	Refused    int      `json:"refused"`
	Reasons    []Reason `json:"reasons"`    // of the refusals, most first
	Acceptance float64  `json:"acceptance"` // share of the requests, 0-1
	Cut        int      `json:"cut"`        // the slot's end came before the job's
	Broken     int      `json:"broken"`     // promises that were not kept

	WaitSeconds Spread `json:"waitSeconds"` // of those that were accepted
	Slowdown    Spread `json:"boundedSlowdown"`
	Queue       Queue  `json:"queue"`

	CoresUse   Use   `json:"coresUse"`
	MemoryUse  Use   `json:"memoryUse"`
	StorageUse Use   `json:"storageUse"`
	Days       []Day `json:"days"`

	NodeHours NodeHours `json:"nodeHours"`

	// Took is what the run took by the wall clock.
	Took time.Duration `json:"-"`
}

// Rate is requests per second of wall clock.
func (r *Report) Rate() float64 {
	if r.Took <= 0 {
		return 0
	}
	return float64(r.Requests) / r.Took.Seconds()
}

// Reason counts refusals of a class; see the Class constants.
type Reason struct {
	Class string `json:"class"`
	Count int    `json:"count"`
}

// Spread is how values are distributed; percentiles are by nearest rank.
type Spread struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	Max  float64 `json:"max"`
}

// Queue is the most requests that waited at one time, and when that first was.
type Queue struct {
	Max int       `json:"max"`
	At  time.Time `json:"at,omitzero"`
}

// Use is the share of all hosts that was held, 0-1: the mean over time and the
// most at one time.
type Use struct {
	Mean float64 `json:"mean"`
	Peak float64 `json:"peak"`
}

// Day is the use on one day (UTC).
type Day struct {
	Date    string `json:"date"`
	Cores   Use    `json:"cores"`
	Memory  Use    `json:"memory"`
	Storage Use    `json:"storage"`
}

// NodeHours count nodes, frontends included, times hours: asked for by all
// requests, used by jobs, and held with provisioning.
type NodeHours struct {
	Asked float64 `json:"asked"`
	Used  float64 `json:"used"`
	Held  float64 `json:"held"`
}

func bytesOf(n int64) api.Quantity { return api.Quantity(n) }
