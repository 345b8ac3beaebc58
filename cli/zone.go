package cli

import (
	"os"
	"strings"
	"time"

	"vcn/api"
)

// readerZone is the zone that times are shown and read in: that of TZ, or the
// machine's. It has its IANA name where that can be found out.
func readerZone(getenv func(string) string) *time.Location {
	name := strings.TrimPrefix(getenv("TZ"), ":")
	if name == "" {
		link, _ := os.Readlink("/etc/localtime")
		_, name, _ = strings.Cut(link, "zoneinfo/")
	}
	if zone, err := api.LoadZone(name); err == nil {
		return zone
	}
	return time.Local
}

// zoneName is the IANA name of the reader's zone; empty if it has none.
func (a *app) zoneName() string {
	if a.zone == nil || a.zone == time.Local {
		return ""
	}
	return a.zone.String()
}

// namedZone is the zone of a --zone flag, the reader's by default.
func (a *app) namedZone(flag string) (*time.Location, error) {
	if flag == "" {
		return a.zone, nil
	}
	zone, err := api.LoadZone(flag)
	if f, ok := err.(api.FieldError); ok {
		return nil, usage("a flag's value is not right", "", api.FieldError{Field: "--zone", Value: flag, Want: f.Want})
	}
	return zone, err
}

// isLocal: a time without an offset, whose zone has to be said. What is no time
// at all is left to whoever checks it.
func isLocal(text string) bool {
	_, err := api.ParseTimeIn(text, time.UTC)
	_, errAlone := api.ParseTime(text)
	return err == nil && errAlone != nil
}

// inZone says of which zone a slot's times without an offset are: that of the
// flag, or of the file, or the reader's.
func (a *app) inZone(s *api.Slot, flag string) error {
	if flag != "" {
		s.Zone = flag
		return nil
	}
	texts := []*string{&s.Start, &s.Latest, &s.End}
	local := s.Repeat != ""
	for _, t := range texts {
		local = local || isLocal(*t)
	}
	if s.Zone != "" || !local {
		return nil
	}
	if s.Zone = a.zoneName(); s.Zone != "" || s.Repeat != "" {
		return nil // a series has to name one; who checks it says so
	}
	for _, t := range texts {
		var err error
		if *t, err = absolute("slot", *t, a.zone); err != nil {
			return err
		}
	}
	return nil
}

// absolute gives a time without an offset that of the zone. Anything else is
// left as it is.
func absolute(field, text string, zone *time.Location) (string, error) {
	if !isLocal(text) {
		return text, nil
	}
	t, err := api.ParseTimeIn(text, zone)
	if f, ok := err.(api.FieldError); ok {
		return "", usage("a time is not right", "", api.FieldError{Field: field, Value: text, Want: f.Want})
	}
	return t.In(zone).Format(time.RFC3339), err
}

// moment reads a time of a flag, in the zone if it has no offset; zero if it is
// empty.
func moment(field, text string, zone *time.Location) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := api.ParseTimeIn(text, zone)
	if f, ok := err.(api.FieldError); ok {
		return t, usage("a time is not right", "", api.FieldError{Field: field, Value: text, Want: f.Want})
	}
	return t, err
}
