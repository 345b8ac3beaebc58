// Package recur turns a slot that repeats into its dates.
//
// It may import api, the standard library and github.com/teambition/rrule-go,
// which finds the days and hours of a recurrence rule (RFC 5545 3.3.10). It
// reads no clock: the present is an argument.
//
//	slot.start, zone ──▶ first start ──▶ wall time of the zone ──▶ rrule-go (floating time)
//	slot.repeat ─────────────────────────────────────────────────▶     │ wall times in order
//	                                                                   ▼
//	        Dates ◀── slot.except ◀── COUNT, UNTIL, limits ◀── wall time to moment
//	        Skipped ◀── wall times that clocks never show ────────────┘
//
// # Bounds
//
// At most 400 dates (or what the caller allows, if that is less), from the first
// start to the last at most 5 years; a rule of at most 512 bytes, 400 exceptions.
// The library looks for a rule's next date until the year 9999 and cannot be
// stopped before: a rule that gives no date took up to 1.3s. It is therefore
// asked about the same years of the calendar's last 400-year period.
//
// # Decisions and trade-offs
//
// The library is fed wall times as if they were UTC, and each result is turned
// into a moment here. Left to itself it would build times in the zone, and Go
// moves a time that does not exist to one that does: 02:30 would silently become
// 03:30 on the day clocks are put forward. RFC 5545 wants such dates ignored and
// not counted, so COUNT and UNTIL are applied here too.
//
// A wall time that exists twice is the first of the two. An hourly series has
// therefore a gap of two hours when clocks are put back.
//
// Every date is as long as the first one, in hours: the RFC says so of events
// that have an end. A slot from 20:00 to 08:00 ends at 07:00 or 09:00 in the two
// nights in which clocks change. The other way, a fixed time of day for the end,
// would make two dates a year that are longer or shorter than what was paid for.
//
// A first start that the rule does not give is an error that names the next one
// it gives. The RFC leaves it undefined, and calendars disagree: some count it
// as a date, some do not.
//
// UNTIL with a date alone (UNTIL=20301224) includes all of that day in the
// slot's zone; the RFC does not allow that form beside starts with a time, but
// people write it.
package recur
