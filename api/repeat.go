package api

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/teambition/rrule-go"
)

// Limits of a series.
const (
	RepeatSizeMax  = 512 // bytes of a recurrence rule
	SeriesDatesMax = 400 // dates of a series, and COUNT
	ExceptMax      = 400 // exceptions of a series
	SeriesYearsMax = 5   // from the first start to the last
	// SeriesNameMax is shorter than other names, so that -YYYYMMDD-HHMM can
	// follow.
	SeriesNameMax = 40 - len("-20301201-0900")

	intervalMax    = 50_000 // five years of hours
	wantRepeat     = "a recurrence rule (RFC 5545) with COUNT or UNTIL, such as FREQ=WEEKLY;BYDAY=MO,WE;COUNT=20"
	wantExcept     = "a date, such as 2030-12-24, or a start of the series"
	wantSeriesName = "1-26 of a-z, 0-9 and '-', as the dates of the series are added to it"
)

var (
	repeatFreqs = []string{"YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY"}
	repeatInts  = regexp.MustCompile(`^[+-]?\d{1,3}(,[+-]?\d{1,3})*$`)
	repeatDays  = regexp.MustCompile(`^(MO|TU|WE|TH|FR|SA|SU)(,(MO|TU|WE|TH|FR|SA|SU))*$`)
	repeatNths  = regexp.MustCompile(`^([+-]?[1-9]\d?)?(MO|TU|WE|TH|FR|SA|SU)(,([+-]?[1-9]\d?)?(MO|TU|WE|TH|FR|SA|SU))*$`)
	repeatUntil = regexp.MustCompile(`^\d{8}(T\d{6}Z?)?$`)
	repeatCount = regexp.MustCompile(`^[1-9]\d{0,5}$`)
)

// repeatParts is what may follow each key of a rule, and what is right.
var repeatParts = map[string]struct {
	shape *regexp.Regexp
	want  string
}{
	"FREQ":       {regexp.MustCompile("^(" + strings.Join(repeatFreqs, "|") + ")$"), "one of " + strings.Join(repeatFreqs, ", ")},
	"INTERVAL":   {repeatCount, "a whole number from 1"},
	"COUNT":      {repeatCount, "a whole number from 1"},
	"UNTIL":      {repeatUntil, "a date or time such as 20301224 or 20301224T090000Z"},
	"WKST":       {regexp.MustCompile("^(MO|TU|WE|TH|FR|SA|SU)$"), "a day such as MO"},
	"BYDAY":      {repeatNths, "days such as MO,WE, or in months and years 1MO or -1FR"},
	"BYMONTH":    {repeatInts, "months, 1 to 12"},
	"BYMONTHDAY": {repeatInts, "days of the month, such as 1 or -1"},
	"BYYEARDAY":  {repeatInts, "days of the year, such as 1 or -1"},
	"BYWEEKNO":   {repeatInts, "weeks of the year, such as 1 or -1"},
	"BYHOUR":     {repeatInts, "hours, 0 to 23"},
	"BYMINUTE":   {repeatInts, "minutes, 0 to 59"},
	"BYSETPOS":   {repeatInts, "places among the others, such as 1 or -1"},
}

// NormalRepeat checks a recurrence rule (RFC 5545 3.3.10) and returns it in
// capitals and without the word RRULE. It takes what a calendar of slots needs:
// no seconds, no minutes as frequency, and an end. The error is a FieldError
// without a field.
func NormalRepeat(rule string) (string, error) {
	bad := func(format string, args ...any) (string, error) {
		return "", FieldError{Value: rule, Want: fmt.Sprintf(format, args...)}
	}
	if len(rule) > RepeatSizeMax {
		return bad("at most %d bytes", RepeatSizeMax)
	}
	normal := strings.TrimPrefix(strings.ToUpper(strings.TrimSpace(rule)), "RRULE:")
	parts := map[string]string{}
	for part := range strings.SplitSeq(normal, ";") {
		key, value, ok := strings.Cut(part, "=")
		known, isKnown := repeatParts[key]
		_, twice := parts[key]
		switch {
		case !ok:
			return bad("%s", wantRepeat)
		case key == "FREQ" && (value == "MINUTELY" || value == "SECONDLY"), key == "BYSECOND":
			return bad("nothing finer than FREQ=HOURLY, and no BYSECOND: slots are in minutes")
		case !isKnown:
			return bad("%s; it knows no %.20s", wantRepeat, key)
		case twice:
			return bad("%s only once", key)
		case !known.shape.MatchString(value):
			return bad("%s to be %s", key, known.want)
		}
		parts[key] = value
	}
	if want := checkRepeatParts(parts); want != "" {
		return bad("%s", want)
	}
	option, err := rrule.StrToROption(normal)
	if err != nil {
		return bad("%s: %s", wantRepeat, err)
	}
	option.Dtstart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // any: with none it would read the clock
	if _, err := rrule.NewRRule(*option); err != nil {
		return bad("%s: %s", wantRepeat, err)
	}
	return normal, nil
}

// checkRepeatParts says what is wrong with parts that are right one by one. The
// table in RFC 5545 3.3.10 says which part goes with which frequency.
func checkRepeatParts(parts map[string]string) string {
	freq := parts["FREQ"]
	count, _ := strconv.Atoi(parts["COUNT"])
	interval, _ := strconv.Atoi(parts["INTERVAL"])
	has := func(key string) bool { return parts[key] != "" }
	switch {
	case freq == "":
		return "FREQ, one of " + strings.Join(repeatFreqs, ", ")
	case has("COUNT") == has("UNTIL"):
		return "one of COUNT and UNTIL: a series has an end"
	case count > SeriesDatesMax:
		return fmt.Sprintf("COUNT of at most %d", SeriesDatesMax)
	case interval > intervalMax:
		return fmt.Sprintf("INTERVAL of at most %d", intervalMax)
	case freq == "HOURLY" && has("BYHOUR"):
		return "FREQ=DAILY with BYHOUR"
	case has("BYWEEKNO") && freq != "YEARLY":
		return "BYWEEKNO only with FREQ=YEARLY"
	case has("BYYEARDAY") && freq != "YEARLY":
		return "BYYEARDAY only with FREQ=YEARLY"
	case has("BYMONTHDAY") && freq == "WEEKLY":
		return "BYMONTHDAY with another FREQ than WEEKLY"
	case has("BYDAY") && !repeatDays.MatchString(parts["BYDAY"]) && (freq != "MONTHLY" && freq != "YEARLY" || has("BYWEEKNO")):
		return "days with numbers only with FREQ=MONTHLY or YEARLY, and without BYWEEKNO"
	}
	if has("BYSETPOS") {
		if !slices.ContainsFunc([]string{"BYDAY", "BYMONTH", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYHOUR", "BYMINUTE"}, has) {
			return "BYSETPOS only beside another BY part"
		}
	}
	return ""
}

// ParseExcept reads an exception of a series: a date, or a start as in
// ParseTimeIn. The error is a FieldError without a field.
func ParseExcept(s string, zone *time.Location) (t time.Time, isDate bool, err error) {
	if timeDate.MatchString(s) {
		if t, err = time.Parse(time.DateOnly, s); err != nil {
			return time.Time{}, false, FieldError{Value: s, Want: wantExcept}
		}
		return t, true, nil
	}
	if t, err = ParseTimeIn(s, zone); err != nil {
		return time.Time{}, false, FieldError{Value: s, Want: wantExcept + ": " + wantOf(err)}
	}
	return t.Truncate(time.Second), false, nil
}
