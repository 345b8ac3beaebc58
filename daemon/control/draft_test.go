package control

import (
	"regexp"
	"testing"
)

func TestRandomTextIsWhatLibvirtTakesAsUser(t *testing.T) {
	allowed := regexp.MustCompile(`^[a-zA-Z0-9_+-]{16}$`)
	for range 2000 {
		if s, err := randomText(chapLength); err != nil || !allowed.MatchString(s) {
			t.Fatalf("random text %q, %v: want %v", s, err, allowed)
		}
	}
}
