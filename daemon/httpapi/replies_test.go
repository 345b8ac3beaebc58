package httpapi

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"vcn/api"
)

func asToken(t *testing.T, id string) context.Context {
	return context.WithValue(t.Context(), principalKey{}, principal{TokenID: id, Kind: api.TokenProject, Project: "p"})
}

func TestRepliesAreForgottenAfterTheirLifeAndWhenThereAreTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m replies
		ctx, made := asToken(t, "t1"), 0
		ask := func(key string) int {
			n, err := once(ctx, &m, "op", key, "request", func() (int, error) { made++; return made, nil })
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		first := ask("k")
		time.Sleep(replyLife - time.Second)
		if ask("k") != first {
			t.Error("it was forgotten before its time")
		}
		time.Sleep(time.Second)
		if ask("k") == first {
			t.Error("it was not forgotten after its time")
		}
		for i := range 3 * repliesMax {
			ask(fmt.Sprint("x", i))
		}
		if len(m.known) > repliesMax || len(m.order) > repliesMax {
			t.Errorf("%d are remembered in a queue of %d, want at most %d", len(m.known), len(m.order), repliesMax)
		}
		before := made
		if ask(fmt.Sprint("x", 3*repliesMax-1)); made != before {
			t.Error("the newest was forgotten")
		}
		if ask("k"); made == before {
			t.Error("the oldest was not forgotten")
		}
		before = made
		ask("")
		if ask(""); made != before+2 {
			t.Error("without a key requests are taken for each other")
		}
	})
}

func TestFailedRepliesAreForgottenInTheQueueToo(t *testing.T) {
	var m replies
	ctx := asToken(t, "t1")
	for range 3 * repliesMax { // the same key fails again and again
		if _, err := once(ctx, &m, "op", "k", "request", func() (int, error) { return 0, errors.New("no") }); err == nil {
			t.Fatal("no error")
		}
	}
	if len(m.known) != 0 || len(m.order) > repliesMax {
		t.Errorf("%d are remembered in a queue of %d, want none and at most %d", len(m.known), len(m.order), repliesMax)
	}
}

func TestTheSameRequestAtTheSameTimeIsMadeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m replies
		made, answers := 0, make(chan int, 10)
		for range 10 {
			go func() {
				n, err := once(asToken(t, "t1"), &m, "op", "k", "request", func() (int, error) {
					made++
					time.Sleep(time.Second)
					return 7, nil
				})
				if err != nil {
					t.Error(err)
				}
				answers <- n
			}()
		}
		for range 10 {
			if n := <-answers; n != 7 {
				t.Errorf("the answer is %d, want 7", n)
			}
		}
		if made != 1 {
			t.Errorf("made %d times, want once", made)
		}
		for name, c := range map[string]struct{ token, op, request string }{
			"another token's": {"t2", "op", "request"}, "another operation": {"t1", "op2", "request"},
		} {
			if n, err := once(asToken(t, c.token), &m, c.op, "k", c.request, func() (int, error) { return 8, nil }); n != 8 || err != nil {
				t.Errorf("%s: %d, %v", name, n, err)
			}
		}
	})
}

// TestAReplyThatPanicsKeepsNobodyWaiting: who waits gets an error, and the key
// is free again.
func TestAReplyThatPanicsKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m replies
		waited := make(chan error, 1)
		go func() {
			time.Sleep(time.Millisecond)
			_, err := once(asToken(t, "t1"), &m, "op", "k", "request", func() (int, error) { return 1, nil })
			waited <- err
		}()
		func() {
			defer func() { recover() }()
			once(asToken(t, "t1"), &m, "op", "k", "request", func() (int, error) { time.Sleep(time.Second); panic("no") })
		}()
		if err := <-waited; err == nil {
			t.Error("who waited got an answer that nobody made")
		}
		if n, err := once(asToken(t, "t1"), &m, "op", "k", "request", func() (int, error) { return 2, nil }); n != 2 || err != nil {
			t.Errorf("after it: %d, %v", n, err)
		}
		ctx, cancel := context.WithCancel(asToken(t, "t1"))
		go once(asToken(t, "t1"), &m, "op", "slow", "request", func() (int, error) { time.Sleep(time.Minute); return 1, nil })
		synctest.Wait()
		cancel()
		if _, err := once(ctx, &m, "op", "slow", "request", func() (int, error) { return 1, nil }); err == nil {
			t.Error("who gave up got an answer")
		}
		time.Sleep(2 * time.Minute)
	})
}
