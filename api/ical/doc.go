// Package ical writes slots as an iCalendar (RFC 5545) that calendar programs
// subscribe to.
//
// It may import api, the standard library and github.com/arran4/golang-ical,
// which knows the format's lines, folding and escaping. It reads no clock and
// calls nobody (the library can fetch calendars; that is not used).
//
//	api.Calendar.Slots ──▶ Calendar{Name, Stamp, Slots} ──Write──▶ VCALENDAR, one VEVENT per slot
//
// # Bounds
//
// One event per slot, each of at most about 2KiB. Lines are folded at 75
// octets, between characters.
//
// # Decisions and trade-offs
//
// Times are written in UTC: a calendar program shows them in its owner's zone,
// and no VTIMEZONE has to be right. The slot's own zone is told in the
// description. A series is not written as one event with RRULE but as its dates,
// because each of them has its own state and may be changed singly.
//
// Events do not make their reader busy (TRANSP:TRANSPARENT): a cluster being
// reserved does not keep anybody from a meeting.
//
// A slot without a start, or that does not end after it, is left out: the
// format has no way to write it, and one odd slot must not cost the others.
//
// Text loses what is no text: bytes that are not UTF-8 become U+FFFD, control
// characters other than a line's end become spaces.
package ical
