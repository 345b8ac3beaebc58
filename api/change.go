package api

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DeadlineMax bounds how long workers that leave may take.
const DeadlineMax = year

const (
	wantNode     = "a worker's node name, such as compute-3"
	wantDeadline = "0s to 1y, such as 8h"
	wantCounts   = "the new count by worker group, such as {compute: 8}"
	wantShapes   = "the new shape by worker group, such as {compute: {memory: 8GiB}}"
)

var nodeShape = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,28}[a-z0-9])?-(0|[1-9][0-9]{0,5})$`)

// Defaults fills in the defaults of what happens at the end, if that is to be
// changed. It shares nothing that it changes.
func (c Change) Defaults() Change {
	if c.AtEnd != nil {
		c.AtEnd = new(c.AtEnd.Defaults())
	}
	return c
}

// Validate checks what can be checked without the reservation.
func (c Change) Validate() []FieldError {
	var k checker
	if c.Name != nil && !nameShape.MatchString(*c.Name) {
		k.bad("name", *c.Name, wantName)
	}
	c.times(&k)
	c.counts(&k)
	c.leavers(&k)
	if c.Frontend != nil {
		k.partOfShape("frontend", *c.Frontend)
	}
	if len(c.Shapes) > WorkerGroupsMax {
		k.bad("shapes", fmt.Sprintf("%d groups", len(c.Shapes)), fmt.Sprintf("at most %d groups", WorkerGroupsMax))
	} else {
		for _, g := range slices.Sorted(maps.Keys(c.Shapes)) {
			if !groupShape.MatchString(g) || g == FrontendName {
				k.bad("shapes", g, "names of worker groups")
				continue
			}
			k.partOfShape("shapes."+g, c.Shapes[g])
		}
	}
	if c.Rolls != nil {
		k.rolls("rolls", *c.Rolls)
	}
	k.atEnd("atEnd", c.AtEnd)
	k.notify("notify", c.Notify)
	return k.errs
}

// anyZone lets times without an offset pass where the zone is not known yet.
var anyZone = time.UTC

func (c Change) times(k *checker) {
	if c.Start != nil && *c.Start != StartAsap {
		if _, err := ParseTimeIn(*c.Start, anyZone); err != nil {
			k.bad("start", *c.Start, "asap, or "+wantOf(err))
		}
	}
	if c.End != nil {
		if _, err := ParseTimeIn(*c.End, anyZone); err != nil {
			k.bad("end", *c.End, wantOf(err))
		}
	}
	given := ""
	if c.End != nil {
		given = "end"
	}
	for _, f := range []struct {
		name  string
		value *string
	}{{"for", c.For}, {"extend", c.Extend}, {"shorten", c.Shorten}} {
		if f.value == nil {
			continue
		}
		if given != "" {
			k.bad(f.name, *f.value, "only one of end, for, extend and shorten; "+given+" is given too")
			continue
		}
		given = f.name
		k.length(f.name, *f.value, SlotLengthMin, SlotLengthMax, wantDuration+", 1m to 5y")
	}
}

func (c Change) counts(k *checker) {
	if len(c.Workers) > WorkerGroupsMax {
		k.bad("workers", fmt.Sprintf("%d groups", len(c.Workers)), fmt.Sprintf("at most %d groups", WorkerGroupsMax))
		return
	}
	total := 0
	for _, g := range slices.Sorted(maps.Keys(c.Workers)) {
		if !groupShape.MatchString(g) || g == FrontendName {
			k.bad("workers", g, "names of worker groups")
			continue
		}
		n := c.Workers[g]
		k.number("workers."+g, n, 0, WorkersMax)
		total += min(max(n, 0), WorkersMax)
	}
	if total > WorkersMax && len(c.Workers) > 1 {
		k.bad("workers", fmt.Sprintf("%d workers", total), fmt.Sprintf("at most %d workers in all", WorkersMax))
	}
}

func (c Change) leavers(k *checker) {
	if len(c.Remove) > WorkersMax {
		k.bad("remove", fmt.Sprintf("%d workers", len(c.Remove)), fmt.Sprintf("at most %d", WorkersMax))
		return
	}
	seen := map[string]bool{}
	for i, n := range c.Remove {
		at := fmt.Sprintf("remove[%d]", i)
		switch {
		case n == FrontendName:
			k.bad(at, n, "a worker: a cluster keeps its frontend")
		case !nodeShape.MatchString(n):
			k.bad(at, n, wantNode)
		case seen[n]:
			k.bad(at, n, "each worker once")
		}
		seen[n] = true
	}
	if c.Deadline != nil {
		k.length("deadline", *c.Deadline, 0, DeadlineMax, wantDeadline)
	}
}

// partOfShape checks the parts of a shape that are given.
func (c *checker) partOfShape(at string, n NodeShape) {
	if n == (NodeShape{}) {
		c.bad(at, "", "cpus, memory or disk")
		return
	}
	c.shape(at, n.over(NodeShape{1, MemoryMin, DiskMin}))
}

// GroupOf is the worker group of a node name, or nothing.
func GroupOf(node string) string {
	if i := strings.LastIndexByte(node, '-'); i > 0 && nodeShape.MatchString(node) {
		return node[:i]
	}
	return ""
}

// Apply is the specification as it would be after the change, as far as that
// can be said without the reservation: name, counts, shapes, rolls, atEnd and
// notify. Workers that are removed by name make their group smaller by one each
// where the change gives no count for it. A group without workers goes. The
// times are [Change.ResolveSlot]'s. Errors name the change's fields, or, where
// only the whole is wrong, the specification's.
func (c Change) Apply(spec Spec) (Spec, []FieldError) {
	var k checker
	if c.Name != nil {
		spec.Name = *c.Name
	}
	if c.Frontend != nil {
		spec.Frontend = c.Frontend.over(spec.Frontend)
	}
	spec.Workers = c.applyGroups(&k, spec.Workers)
	if c.Rolls != nil {
		spec.Rolls = slices.Clone(*c.Rolls)
	}
	if c.AtEnd != nil {
		spec.AtEnd = new(c.AtEnd.Defaults())
	}
	if c.Notify != nil {
		spec.Notify = nil
		if *c.Notify != (Notify{}) {
			spec.Notify = new(*c.Notify)
		}
	}
	if len(k.errs) == 0 {
		k.errs = spec.Validate()
	}
	return spec, k.errs
}

func (c Change) applyGroups(k *checker, groups []WorkerGroup) []WorkerGroup {
	groups = slices.Clone(groups)
	at, names := map[string]int{}, []string{}
	for i, g := range groups {
		at[g.Name] = i
		names = append(names, g.Name)
	}
	known := "one of the groups: " + strings.Join(names, ", ")
	for i, n := range c.Remove {
		g, ok := at[GroupOf(n)]
		if !ok {
			k.bad(fmt.Sprintf("remove[%d]", i), n, "a worker of "+known)
		} else if _, given := c.Workers[GroupOf(n)]; !given {
			groups[g].Count--
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Workers)) {
		if g, ok := at[name]; ok {
			groups[g].Count = c.Workers[name]
		} else {
			k.bad("workers."+name, strconv.Itoa(c.Workers[name]), known)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Shapes)) {
		if g, ok := at[name]; ok {
			groups[g].NodeShape = c.Shapes[name].over(groups[g].NodeShape)
		} else {
			k.bad("shapes."+name, "", known)
		}
	}
	left := slices.DeleteFunc(groups, func(g WorkerGroup) bool { return g.Count <= 0 })
	if len(left) == 0 && len(k.errs) == 0 {
		k.bad("workers", "0 workers", "at least one worker; to give everything back, release the reservation")
	}
	return left
}

// MovesSlot is true if the change has to do with times.
func (c Change) MovesSlot() bool {
	return c.Start != nil || c.End != nil || c.For != nil || c.Extend != nil || c.Shorten != nil
}

// ResolveSlot is the slot after a valid change of one that is from start to
// end, in the zone of slot.zone (nil: none). A new start alone moves the slot:
// it stays as long. With start: asap, asap is true and newStart is now, to be
// moved by whoever plans. Errors are FieldErrors, also of a new start that is
// past or an end that is not to come.
func (c Change) ResolveSlot(now, start, end time.Time, zone *time.Location) (newStart, newEnd time.Time, asap bool, err error) {
	newStart, length := start, end.Sub(start)
	fail := func(field, value, want string) (time.Time, time.Time, bool, error) {
		return time.Time{}, time.Time{}, false, FieldError{field, value, want}
	}
	if c.Start != nil {
		if asap = *c.Start == StartAsap; asap {
			newStart = now
		} else if newStart, err = ParseTimeIn(*c.Start, zone); err != nil {
			return fail("start", *c.Start, "asap, or "+wantOf(err))
		}
		if !asap {
			newStart = newStart.Truncate(time.Second)
		}
		if newStart.Before(now.Add(-SlotPastGrace)) {
			return fail("start", *c.Start, "a time to come, or asap (it is "+now.UTC().Format(time.RFC3339)+" now)")
		}
		if newStart.Sub(now) > SlotAheadMax {
			return fail("start", *c.Start, "at most 10 years ahead")
		}
	}
	field, value := "start", ""
	switch {
	case c.End != nil:
		field, value = "end", *c.End
		t, err := ParseTimeIn(value, zone)
		if err != nil {
			return fail(field, value, wantOf(err))
		}
		length = t.Truncate(time.Second).Sub(newStart)
	case c.For != nil:
		field, value, length = "for", *c.For, mustDuration(*c.For)
	case c.Extend != nil:
		field, value, length = "extend", *c.Extend, length+mustDuration(*c.Extend)
	case c.Shorten != nil:
		field, value, length = "shorten", *c.Shorten, length-mustDuration(*c.Shorten)
	}
	newEnd = newStart.Add(length)
	switch {
	case length < SlotLengthMin || length > SlotLengthMax:
		return fail(field, value, "a slot of 1m to 5y; it would be from "+newStart.Format(time.RFC3339)+" to "+newEnd.Format(time.RFC3339))
	case c.MovesSlot() && newEnd.Before(now):
		return fail(field, value, "an end to come, not "+newEnd.Format(time.RFC3339)+"; to end it now, release it")
	}
	return newStart, newEnd, asap, nil
}
