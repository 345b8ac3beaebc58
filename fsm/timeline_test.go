package fsm

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestLongTimelineIsTheSameInPartsAsWhole books and unbooks enough on one host to
// split and join parts, beside a timeline in one piece.
func TestLongTimelineIsTheSameInPartsAsWhole(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := formed(rt)
		txn := w.f.database().Txn(true)
		defer txn.Abort()
		x := &tx{reader: reader{txn}, index: 1}
		var whole []Step
		var held []*Booking
		for range rapid.IntRange(1, 400).Draw(rt, "n") {
			change := Amounts.plus
			from := epoch.Add(time.Duration(rapid.IntRange(0, 2000).Draw(rt, "from")) * time.Minute)
			b := &Booking{Host: Identifiers, Owner: "x", From: from, Clusters: 1,
				Until: from.Add(time.Duration(rapid.IntRange(1, 600).Draw(rt, "for")) * time.Minute)}
			if len(held) > 0 && rapid.IntRange(0, 2).Draw(rt, "less") == 0 {
				i := rapid.IntRange(0, len(held)-1).Draw(rt, "which")
				b, change = held[i], Amounts.minus
				held = slices.Delete(held, i, i+1)
			} else {
				held = append(held, b)
			}
			x.shift(b, change)
			whole = shifted(whole, b.From.UnixNano(), b.Until.UnixNano(), func(a Amounts) Amounts { return change(a, b.amounts()) })
			row := x.timeline(Identifiers)
			if !slices.Equal(row.steps(), whole) {
				rt.Fatalf("in %d parts %v, whole %v", len(row.parts), row.steps(), whole)
			}
			for _, p := range row.parts {
				if len(p) == 0 || len(p) > partMax {
					rt.Fatalf("a part of %d steps", len(p))
				}
			}
			lo, hi := from.UnixNano(), from.Add(time.Hour).UnixNano()
			want := slices.Collect(within(whole, lo, hi))
			if got := slices.Collect(within(x.stepsAround(Identifiers, lo, hi), lo, hi)); !slices.Equal(got, want) {
				rt.Fatalf("within an hour %v, want %v", got, want)
			}
		}
	})
}
