package api

import "time"

// OfferRequest asks when something like a specification could be had. The
// specification's own slot and shapes are what is wanted most; the rest says
// what else would do.
type OfferRequest struct {
	Spec       Spec        `json:"spec"`
	LengthMin  string      `json:"lengthMin,omitempty" doc:"shortest length that would do; default: the slot's"`
	Latest     string      `json:"latest,omitempty" doc:"latest start that would do, as slot.start; default: 30 days after the earliest"`
	WorkersMin int         `json:"workersMin,omitempty" doc:"fewest workers that would do, in all groups together; default: all"`
	Shapes     []NodeShape `json:"shapes,omitempty" doc:"other worker shapes that would do, at most 8"`
	Split      bool        `json:"split,omitempty" doc:"two slots that are as long together would do"`
	Hold       string      `json:"hold,omitempty" doc:"how long to hold the offers, 0s-1h; default 10m; 0s: nothing is held"`
}

// Kinds of offers.
const (
	OfferExact   = "exact"   // what was asked for
	OfferLater   = "later"   // the same size, at another time
	OfferFewer   = "fewer"   // fewer workers, at the time asked for
	OfferShape   = "shape"   // another worker shape
	OfferShorter = "shorter" // a shorter slot
	OfferSplit   = "split"   // two slots
)

// Offer is one answer to "when could I have this?".
type Offer struct {
	ID      string      `json:"id,omitempty" doc:"take it with reserve --offer ID; empty if nothing is held"`
	Kind    string      `json:"kind" enum:"exact,later,fewer,shape,shorter,split"`
	Summary string      `json:"summary" doc:"one line for people"`
	Project string      `json:"project"`
	Parts   []OfferPart `json:"parts" doc:"one, or two of a split offer"`
	Workers int         `json:"workers"`
	Shape   NodeShape   `json:"shape" doc:"of the first worker group"`
	Expires *time.Time  `json:"expires,omitempty" doc:"until when it is held"`
}

// OfferPart is one slot of an offer.
type OfferPart struct {
	Start     time.Time `json:"start"`
	End       time.Time `json:"end"`
	Provision time.Time `json:"provision"`
	Expected  time.Time `json:"expected" doc:"when it is expected to be usable: the start, or later where it starts at once"`
}

// OfferList is the answer to an OfferRequest, best first. Only one of them can
// be taken: they share a hold.
type OfferList struct {
	Items   []Offer  `json:"items"`
	Reasons []string `json:"reasons,omitempty" doc:"why what was asked for does not fit as it is"`
}

// Change is what is to be changed of a reservation; what is left out stays.
type Change struct {
	Name     *string              `json:"name,omitempty"`
	Start    *string              `json:"start,omitempty" doc:"moves the slot, as slot.start; only before provisioning"`
	End      *string              `json:"end,omitempty" doc:"extends or shortens it, as slot.end"`
	For      *string              `json:"for,omitempty" doc:"its whole length; instead of end"`
	Extend   *string              `json:"extend,omitempty" doc:"by how much longer, such as 2h; instead of end"`
	Shorten  *string              `json:"shorten,omitempty" doc:"by how much shorter; instead of end"`
	Workers  map[string]int       `json:"workers,omitempty" doc:"new count by worker group"`
	Remove   []string             `json:"remove,omitempty" doc:"workers that leave, by node name, instead of the last ones"`
	Deadline *string              `json:"deadline,omitempty" doc:"workers that leave are stopped after this long even if jobs run on them; never if that is unknown; default: wait for ever"`
	Frontend *NodeShape           `json:"frontend,omitempty" doc:"new shape of the frontend"`
	Shapes   map[string]NodeShape `json:"shapes,omitempty" doc:"new shape by worker group"`
	Rolls    *[]string            `json:"rolls,omitempty" doc:"all rolls it shall have"`
	AtEnd    *AtEnd               `json:"atEnd,omitempty"`
	Notify   *Notify              `json:"notify,omitempty"`
}

// How a change of one field is made.
const (
	HowInPlace   = "in_place"   // nothing restarts
	HowRolling   = "rolling"    // one node after another is drained and restarted, or workers come and go
	HowReplace   = "replace"    // nodes are made anew; what users hold elsewhere stays
	HowLosesData = "loses_data" // disks are deleted with what is on them
)

// FieldChange is what changing one field does.
type FieldChange struct {
	Field string `json:"field"`
	From  string `json:"from"`
	To    string `json:"to"`
	How   string `json:"how" enum:"in_place,rolling,replace,loses_data"`
	Note  string `json:"note,omitempty"`
}

// ChangePlan is the answer to a change's dry run.
type ChangePlan struct {
	Name      string        `json:"name"`
	Fields    []FieldChange `json:"fields" doc:"empty: nothing would change"`
	LosesData bool          `json:"losesData" doc:"true: wants allowDataLoss=NAME"`
	Start     time.Time     `json:"start"`
	End       time.Time     `json:"end"`
	Nodes     []Node        `json:"nodes" doc:"as they would be"`
}

// ParkRequest ends a slot now and keeps the volumes.
type ParkRequest struct {
	For string `json:"for,omitempty" doc:"how long they are kept; 1h-1y, default 30d"`
}

// Series is reservations that were booked by one recurrence rule.
type Series struct {
	ID           string        `json:"id"`
	Name         string        `json:"name"`
	Project      string        `json:"project"`
	Zone         string        `json:"zone"`
	Repeat       string        `json:"repeat"`
	Except       []string      `json:"except,omitempty"`
	Created      time.Time     `json:"created"`
	Reservations []Reservation `json:"reservations"`
}

// SeriesResult says what became of each date of a series.
type SeriesResult struct {
	Series  *Series      `json:"series,omitempty" doc:"empty for a dry run"`
	Booked  []SeriesDate `json:"booked"`
	Missing []SeriesDate `json:"missing,omitempty" doc:"those that do not fit, with why"`
}

// SeriesDate is one date of a series.
type SeriesDate struct {
	Name    string    `json:"name"`
	Start   time.Time `json:"start"`
	End     time.Time `json:"end"`
	Reasons []string  `json:"reasons,omitempty"`
}

// Explanation says why a placement is where it is, or why there is none.
type Explanation struct {
	ID      string     `json:"id"`
	Name    string     `json:"name"`
	State   State      `json:"state" enum:"waitlisted,booked,provisioning,ready,active,ending,parked,ended,failed,cancelled"`
	Lines   []string   `json:"lines" doc:"sentences about the whole, in order"`
	Nodes   []NodeWhy  `json:"nodes"`
	Blocked []string   `json:"blocked,omitempty" doc:"what would stand in the way of a longer slot"`
	Until   *time.Time `json:"until,omitempty" doc:"the longest end that is possible now"`
}

// NodeWhy says why one node is where it is.
type NodeWhy struct {
	Node    string   `json:"node"`
	Host    string   `json:"host"`
	Storage string   `json:"storage"`
	Why     string   `json:"why"`
	Passed  []string `json:"passed,omitempty" doc:"hosts that were not chosen, with why; the first few"`
}

// Calendar is who holds what, and what is free, over time.
type Calendar struct {
	From  time.Time      `json:"from"`
	Until time.Time      `json:"until"`
	Hosts []CalendarHost `json:"hosts"`
	Slots []CalendarSlot `json:"slots" doc:"reservations that the asker may see, by start"`
	Free  []CalendarFree `json:"free" doc:"what is free of all usable hosts together, from each time until the next"`
}

// CalendarHost is one host's share.
type CalendarHost struct {
	Name     string         `json:"name"`
	Classes  []Class        `json:"classes" enum:"gateway,compute,storage"`
	CPUs     int            `json:"cpus"`
	Memory   Quantity       `json:"memory"`
	Storage  Quantity       `json:"storage"`
	Unusable string         `json:"unusable,omitempty" doc:"why nothing new goes there"`
	Spans    []CalendarSpan `json:"spans"`
}

// CalendarSpan is what one reservation holds of a host. Of others' reservations
// only the amounts are shown.
type CalendarSpan struct {
	From        time.Time `json:"from"`
	Until       time.Time `json:"until"`
	Reservation string    `json:"reservation,omitempty"`
	Name        string    `json:"name,omitempty"`
	Project     string    `json:"project,omitempty"`
	Kind        string    `json:"kind" enum:"reservation,hold,parked"`
	CPUs        int       `json:"cpus"`
	Memory      Quantity  `json:"memory"`
	Storage     Quantity  `json:"storage"`
}

// CalendarSlot is one reservation's slot.
type CalendarSlot struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Project   string    `json:"project"`
	State     State     `json:"state" enum:"waitlisted,booked,provisioning,ready,active,ending,parked,ended,failed,cancelled"`
	Start     time.Time `json:"start"`
	End       time.Time `json:"end"`
	Provision time.Time `json:"provision"`
	Zone      string    `json:"zone,omitempty"`
	Workers   int       `json:"workers"`
	Series    string    `json:"series,omitempty"`
}

// CalendarFree is what is free from a time on.
type CalendarFree struct {
	From    time.Time `json:"from"`
	CPUs    int       `json:"cpus"`
	Memory  Quantity  `json:"memory"`
	Storage Quantity  `json:"storage"`
}

// FeedRequest asks for the address of a project's iCalendar feed.
type FeedRequest struct {
	Project string `json:"project,omitempty" doc:"default: the token's"`
	For     string `json:"for,omitempty" doc:"life, 1d-10y; default 1y"`
}

// Feed is the address of a project's iCalendar feed. It shows times, names and
// states, needs no token, and is a secret by itself; it is shown once.
type Feed struct {
	ID      string    `json:"id" doc:"revoke it as a token: vcnctl token revoke ID"`
	Project string    `json:"project"`
	URL     string    `json:"url" doc:"path and query; put the address of a host before it"`
	Expires time.Time `json:"expires"`
}

// Policy is what the operator sets for all projects.
type Policy struct {
	HoldMax   string   `json:"holdMax" doc:"longest hold of offers, 0s-1h; default 1h"`
	HoldsMax  int      `json:"holdsMax" doc:"holds of one project at a time, 0-100; default 10"`
	ParkMax   string   `json:"parkMax" doc:"longest parking, 1h-1y; default 90d"`
	ParkBytes Quantity `json:"parkBytes" doc:"parked volumes of one project; 0: unlimited"`
	SeriesMax int      `json:"seriesMax" doc:"dates of one series, 1-400; default 100"`
	WaitMax   int      `json:"waitMax" doc:"waitlisted reservations of one project, 0-1000; default 20"`
}
