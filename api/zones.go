package api

import (
	"archive/zip"
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// zoneData is the IANA time zone database as the Go distribution carries it
// (lib/time/zoneinfo.zip): about 400KiB for some 600 zones.
//
//go:generate sh -c "cp \"$(go env GOROOT)/lib/time/zoneinfo.zip\" zoneinfo.zip && chmod 644 zoneinfo.zip"
//go:embed zoneinfo.zip
var zoneData []byte

const (
	zoneSizeMax = 64 << 10 // bytes of one zone's rules; the largest has under 4KiB
	wantZone    = "an IANA time zone, such as Europe/Berlin or UTC"
)

var zoneShape = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_+-]{0,31}(/[A-Za-z0-9_+-]{1,31}){0,2}$`)

// zoneFiles is the database's files by zone name.
var zoneFiles = sync.OnceValues(func() (map[string]*zip.File, error) {
	r, err := zip.NewReader(bytes.NewReader(zoneData), int64(len(zoneData)))
	if err != nil {
		return nil, fmt.Errorf("open time zone database: %w", err)
	}
	files := map[string]*zip.File{}
	for _, f := range r.File {
		if zoneShape.MatchString(f.Name) {
			files[f.Name] = f
		}
	}
	return files, nil
})

// zones is the zones that were loaded, by name: at most as many as the database
// has. Equal names give equal pointers, so that times of one zone compare equal.
var zones sync.Map

// LoadZone is the time zone of an IANA name, from the database that is built
// in: neither the machine's files nor its environment have a say. Names of
// machines' own choosing ("Local", "", paths) are refused. The error is a
// FieldError without a field, except where the built-in database is damaged.
func LoadZone(name string) (*time.Location, error) {
	if name == "UTC" {
		return time.UTC, nil
	}
	if z, ok := zones.Load(name); ok {
		return z.(*time.Location), nil
	}
	files, err := zoneFiles()
	if err != nil {
		return nil, err
	}
	f, ok := files[name]
	if !ok {
		return nil, FieldError{Value: name, Want: suggestZone(name, files)}
	}
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("open time zone %s: %w", name, err)
	}
	data, err := io.ReadAll(io.LimitReader(r, zoneSizeMax))
	if err == nil {
		err = r.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("read time zone %s: %w", name, err)
	}
	zone, err := time.LoadLocationFromTZData(name, data)
	if err != nil {
		return nil, fmt.Errorf("read time zone %s: %w", name, err)
	}
	z, _ := zones.LoadOrStore(name, zone)
	return z.(*time.Location), nil
}

// suggestZone says what somebody who wrote europe/berlin, Berlin or +01:00 may
// have meant.
func suggestZone(name string, files map[string]*zip.File) string {
	switch {
	case name == "":
		return wantZone
	case strings.EqualFold(name, "local"):
		return wantZone + "; what is local differs from machine to machine"
	case name[0] == '+' || name[0] == '-' || name == "Z":
		return wantZone + "; an offset from UTC belongs to the time, as in 2030-12-01T09:00+09:00"
	}
	low := strings.ToLower(strings.ReplaceAll(name, " ", "_"))
	for _, known := range slices.Sorted(maps.Keys(files)) {
		k := strings.ToLower(known)
		if k == low || strings.HasSuffix(k, "/"+low) {
			return fmt.Sprintf("an IANA time zone; did you mean %q?", known)
		}
	}
	return wantZone
}

const (
	// zoneReach is further than any zone is, or ever was, from UTC.
	zoneReach = 26 * time.Hour
	// zoneStep is shorter than clocks ever keep an offset.
	zoneStep = time.Hour
)

// inZone is the moment at which clocks in the zone show a wall time, which is
// given as if it were UTC. Of two such moments (clocks put back) it is the
// first. If clocks never show it (put forward), ok is false, and last and next
// are the minutes just around the gap.
//
// All offsets near the wall time are tried. Time.ZoneBounds would save most of
// the steps, but in the last hours of a leap year it returns an end that is past.
func inZone(wall time.Time, zone *time.Location) (at, last, next time.Time, ok bool) {
	previous := 0
	for n := range int(2*zoneReach/zoneStep) + 1 {
		t := wall.Add(time.Duration(n)*zoneStep - zoneReach).In(zone)
		offset := offsetAt(t)
		if n > 0 && offset == previous {
			continue
		}
		guess := atOffset(wall, offset).In(zone)
		if offsetAt(guess) == offset && (!ok || guess.Before(at)) {
			at, ok = guess, true
		}
		if n > 0 {
			// In a gap clocks by the old offset are past the turn already,
			// and by the new one not there yet.
			if turn := turnBefore(t); !atOffset(wall, previous).Before(turn) && guess.Before(turn) {
				last, next = turn.Add(-time.Minute), turn
			}
		}
		previous = offset
	}
	return at, last, next, ok
}

// turnBefore is the moment, less than zoneStep before t, from which the offset
// at t holds; or t less zoneStep if it held before that.
func turnBefore(t time.Time) time.Time {
	seconds := sort.Search(int(zoneStep/time.Second), func(n int) bool {
		return offsetAt(t.Add(-zoneStep+time.Duration(n)*time.Second)) == offsetAt(t)
	})
	return t.Add(-zoneStep + time.Duration(seconds)*time.Second)
}

// offsetAt is how far clocks are from UTC at t in t's location, in seconds.
func offsetAt(t time.Time) int {
	_, offset := t.Zone()
	return offset
}

// atOffset is the moment of a wall time by an offset.
func atOffset(wall time.Time, offset int) time.Time {
	return wall.Add(-time.Duration(offset) * time.Second)
}
