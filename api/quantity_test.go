package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseQuantity(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Quantity
	}{
		{"", 0}, {"0", 0}, {"512MiB", 512 * MiB}, {"4GiB", 4 * GiB}, {"1TiB", TiB}, {"1KiB", 1024}, {"7B", 7}, {"0GiB", 0},
	} {
		if got, err := ParseQuantity(c.in); err != nil || got != c.want {
			t.Errorf("%q: %d, %v, want %d", c.in, got, err, c.want)
		}
	}
}

func TestWrongQuantitySaysTheRightOne(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"4GB", "want 4GiB (units are KiB, MiB, GiB, TiB)"},
		{"4G", "want 4GiB"}, {"512m", "want 512MiB"}, {"4gib", "want 4GiB"}, {"4 GiB", "want 4GiB"}, {"2tb", "want 2TiB"},
		{"4096", "want a unit: 4096MiB or 4096GiB"},
		{"1.5GiB", "want a whole number"}, {"-4GiB", "want a whole number"}, {"4PiB", "want a whole number with"},
		{"lots", "want a whole number"}, {"9999999TiB", "less than 8388608TiB"}, {"99999999999999999999B", "less than"},
		{"4GiB\n", "want"}, {" 4GiB", "want"},
	} {
		_, err := ParseQuantity(c.in)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want an error with %q", c.in, err, c.want)
		}
	}
}

func TestQuantityRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := Quantity(rapid.Int64Min(0).Draw(t, "bytes"))
		b, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		var back Quantity
		if err := json.Unmarshal(b, &back); err != nil || back != q {
			t.Fatalf("%d became %s became %d (%v)", q, b, back, err)
		}
	})
}

func TestQuantityText(t *testing.T) {
	for _, c := range []struct {
		q           Quantity
		text, short string
	}{
		{0, "0", "0"}, {-5, "0", "0"}, {4 * GiB, "4GiB", "4GiB"}, {1536 * MiB, "1536MiB", "1536MiB"}, {1025, "1025B", "1025B"},
		{16*GiB - 4096, "16777212KiB", "15.9GiB"}, {512 * MiB, "512MiB", "512MiB"}, {3*TiB + 100*GiB, "3172GiB", "3172GiB"},
	} {
		if c.q.String() != c.text || c.q.Short() != c.short {
			t.Errorf("%d: %s and %s, want %s and %s", c.q, c.q, c.q.Short(), c.text, c.short)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "8h": 8 * time.Hour, "30d": 720 * time.Hour, "2w": 336 * time.Hour,
		"1y": 8760 * time.Hour, "45s": 45 * time.Second, "1d12h": 36 * time.Hour, "0m": 0,
	} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "8", "h", "8 h", "8hours", "1.5h", "-1h", "12h1d", "1h1h", "1M", "999y", "99999999999999999999h"} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("%q was read as %v", in, got)
		}
	}
}

func TestDurationRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(1, 1<<32).Draw(t, "seconds")) * time.Second
		if back, err := ParseDuration(FormatDuration(d)); err != nil || back != d {
			t.Fatalf("%v became %s became %v (%v)", d, FormatDuration(d), back, err)
		}
	})
}

func TestParseTime(t *testing.T) {
	want := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	for _, in := range []string{"2026-12-01T09:00+09:00", "2026-12-01T00:00Z", "2026-12-01T00:00:00Z", "2026-12-01T09:00:00.000+09:00"} {
		if got, err := ParseTime(in); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for in, say := range map[string]string{
		"2026-12-01T09:00": "a zone at its end", "2026-12-01 09:00": "a T between", "2026-12-01": "a time of day",
		"tomorrow": "a time with a zone", "2026-13-01T09:00Z": "a time with a zone", "1970-01-01T00:00Z": "a year from 2000",
	} {
		if _, err := ParseTime(in); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v, want an error with %q", in, err, say)
		}
	}
}
