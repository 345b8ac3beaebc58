package claims

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

func TestCallsForOneNameFollowEachOther(t *testing.T) {
	var s Set
	var wg sync.WaitGroup
	inside := 0 // guarded by the claim alone: the race detector looks too
	for range 50 {
		wg.Go(func() {
			release, err := s.Claim(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			defer release()
			if inside++; inside != 1 {
				t.Errorf("%d inside", inside)
			}
			inside--
		})
	}
	wg.Wait()
	if len(s.busy) != 0 {
		t.Errorf("%d names are kept", len(s.busy))
	}
}

func TestOtherNamesGoOnAndWaitingEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Set
		release, err := s.Claim(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		other, err := s.Claim(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		other()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := s.Claim(ctx, "a")
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("waiting ended with %v", err)
		}
	})
}
