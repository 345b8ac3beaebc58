package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestMessagesToOneTargetKeepTheirOrderThroughRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceivers()
		r.answer["a"] = func(_ context.Context, n int) error {
			if n%3 != 2 {
				return ErrLater
			}
			return nil
		}
		q := start(t, r, QueueConfig{})
		for i := range 5 {
			add(t, q, to(fmt.Sprint("m", i), "a", ""), to(fmt.Sprint("n", i), "b", ""))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		var got []string
		for _, s := range r.of("a") {
			got = append(got, s.id)
		}
		if want := strings.Fields("m0 m0 m0 m1 m1 m1 m2 m2 m2 m3 m3 m3 m4 m4 m4"); !slices.Equal(got, want) {
			t.Errorf("tries %q", got)
		}
		for _, s := range r.of("b") {
			if s.at != 0 {
				t.Errorf("%s to a target that works, at %s", s.id, s.at)
			}
		}
		if s := q.Stats(); s.Delivered != 10 || s.Retries != 10 || s.Waiting+s.InFlight != 0 || len(q.lanes)+len(q.open) != 0 {
			t.Errorf("stats %+v, %d lanes, %d open", s, len(q.lanes), len(q.open))
		}
	})
}

func TestRetriesWaitLongerUpToTenMinutesAndEndAfterADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceivers()
		r.answer["a"] = dead
		q := start(t, r, QueueConfig{})
		add(t, q, to("m", "a", ""))
		time.Sleep(6 * time.Hour)
		synctest.Wait()
		add(t, q, to("later", "a", ""))
		time.Sleep(18*time.Hour - time.Nanosecond)
		if !q.Pending("later") {
			t.Error("the second message was given up with the first")
		}
		synctest.Wait()
		o, ok := r.outcome("m")
		if !ok || !errors.Is(o.Err, ErrGaveUp) || errors.Is(o.Err, ErrLater) || o.Took > GiveUpAfter || o.Took < GiveUpAfter-RetryMax {
			t.Errorf("outcome %+v, %v", o, ok)
		}
		tries := slices.DeleteFunc(r.of("a"), func(s try) bool { return s.id != "m" })
		if o.Attempts != len(tries) || len(tries) < 140 || len(tries) > 300 {
			t.Errorf("%d attempts, %d tries", o.Attempts, len(tries))
		}
		differ := map[time.Duration]bool{}
		for i := 1; i < len(tries); i++ {
			want := min(2*RetryMin<<min(i-1, 20), RetryMax)
			if gap := tries[i].at - tries[i-1].at; gap < want/2 || gap > want {
				t.Errorf("gap %d: %s, want %s-%s", i, gap, want/2, want)
			} else if want == RetryMax {
				differ[gap] = true
			}
		}
		if len(differ) < 100 {
			t.Errorf("only %d different waits: no jitter", len(differ))
		}
		time.Sleep(6 * time.Hour)
		synctest.Wait()
		if o, ok := r.outcome("later"); !ok || !errors.Is(o.Err, ErrGaveUp) || o.Took > GiveUpAfter {
			t.Errorf("second outcome %+v, %v", o, ok)
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceivers()
		r.answer["a"] = func(_ context.Context, n int) error {
			if n == 0 {
				return fmt.Errorf("busy: %w", notBefore{ErrLater, 5 * time.Minute})
			}
			return nil
		}
		q := start(t, r, QueueConfig{})
		add(t, q, to("m", "a", ""))
		time.Sleep(time.Hour)
		synctest.Wait()
		if tries := r.of("a"); len(tries) != 2 || tries[1].at != 5*time.Minute {
			t.Errorf("%+v", tries)
		}
	})
}

func TestRefusedIsToldAtOnceAndTheNextGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceivers()
		r.answer["a"] = func(_ context.Context, n int) error {
			if n == 0 {
				return fmt.Errorf("gone: %w", ErrRefused)
			}
			return nil
		}
		q := start(t, r, QueueConfig{})
		add(t, q, to("bad", "a", "x@example.org"), to("good", "a", ""), to("none", "", ""))
		synctest.Wait()
		if o, ok := r.outcome("bad"); !ok || !errors.Is(o.Err, ErrRefused) || o.Attempts != 2 || len(r.of("x@example.org")) != 1 {
			t.Errorf("bad: %+v, %v", o, ok)
		}
		for _, id := range []string{"good", "none"} {
			if o, ok := r.outcome(id); !ok || o.Err != nil {
				t.Errorf("%s: %+v, %v", id, o, ok)
			}
		}
		if err := q.Add(to("a\nb", "a", "")); !errors.Is(err, ErrRefused) {
			t.Errorf("invalid message: %v", err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(r.settled) != 3 {
			t.Errorf("told %d times", len(r.settled))
		}
	})
}

func TestOnlyTheTargetThatFailedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceivers()
		r.answer["a"] = func(_ context.Context, n int) error {
			if n < 3 {
				return ErrLater
			}
			return nil
		}
		q := start(t, r, QueueConfig{})
		add(t, q, to("m", "a", "x@example.org"))
		synctest.Wait()
		add(t, q, to("m", "a", "x@example.org")) // handed over once more
		if _, ok := r.outcome("m"); ok || !q.Pending("m") {
			t.Error("settled before both targets have it")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if o, ok := r.outcome("m"); !ok || o.Err != nil || o.Attempts != 5 || len(r.settled) != 1 || q.Pending("m") {
			t.Errorf("%+v, %v", o, ok)
		}
		if len(r.of("a")) != 4 || len(r.of("x@example.org")) != 1 {
			t.Errorf("tries %+v", r.tries)
		}
	})
}

// TestDeadAndSlowReceiversDoNotHoldOthersUp: a hundred receivers of one owner and a
// hundred of many, all silent for the whole timeout, and a mail command that hangs.
func TestDeadAndSlowReceiversDoNotHoldOthersUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceivers()
		q := start(t, r, QueueConfig{})
		for i := range 200 {
			url, address := fmt.Sprint("slow", i), fmt.Sprintf("slow%d@example.org", i)
			r.set(url, slow(10*time.Second))
			r.set(address, slow(30*time.Second))
			m := to(fmt.Sprint("s", i), url, address)
			if m.Project = "flood"; i >= 100 {
				m.Project = fmt.Sprint("p", i)
			}
			add(t, q, m)
		}
		time.Sleep(30 * time.Minute) // all have failed by now
		for i := range 100 {
			url := fmt.Sprint("good", i)
			m := to(fmt.Sprint("g", i), url, "")
			m.Project = fmt.Sprint("good", i%10)
			before := time.Since(r.begin)
			add(t, q, m)
			synctest.Wait()
			if tries := r.of(url); len(tries) != 1 || tries[0].at != before {
				t.Fatalf("%s waited: %+v, added at %s", url, tries, before)
			}
			time.Sleep(7 * time.Second)
			synctest.Wait()
		}
		if n := r.inFlightMost(); n > WebhooksDefault+MailsDefault {
			t.Errorf("%d in flight", n)
		}
		for i := range 200 {
			if len(r.of(fmt.Sprint("slow", i))) < 2 {
				t.Errorf("slow%d was not tried again", i)
			}
		}
	})
}

func TestOneProjectsNewFloodLeavesSlotsToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceivers()
		q := start(t, r, QueueConfig{})
		for i := range 100 {
			url := fmt.Sprint("slow", i)
			r.set(url, slow(10*time.Second))
			m := to(fmt.Sprint("s", i), url, "")
			m.Project = "flood"
			add(t, q, m)
		}
		synctest.Wait()
		add(t, q, to("m", "good", ""))
		synctest.Wait()
		if o, ok := r.outcome("m"); !ok || o.Err != nil || o.Took != 0 {
			t.Errorf("%+v, %v", o, ok)
		}
		if n := r.inFlightMost(); n != WebhooksDefault/2+1 {
			t.Errorf("%d in flight", n)
		}
	})
}

func TestWithoutRoomTheLongestLaneLosesItsOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := newReceivers()
		r.answer["flood"], r.answer["down"] = dead, dead
		q := start(t, r, QueueConfig{Pending: 10, PerTarget: 6})
		q.sender.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		add(t, q, to("d0", "down", ""), to("d1", "down", ""))
		for i := range 100 {
			add(t, q, to(fmt.Sprint("f", i), "flood", ""))
			synctest.Wait()
		}
		if s := q.Stats(); s.Waiting != 8 || s.Dropped != 94 {
			t.Errorf("%+v", s)
		}
		for i := range 10 {
			add(t, q, to(fmt.Sprint("e", i), fmt.Sprint("down", i%2), ""))
		}
		synctest.Wait()
		if s := q.Stats(); s.Waiting > 10 {
			t.Errorf("%+v", s)
		}
		if !q.Pending("d0") || !q.Pending("d1") {
			t.Error("the flood was at another's expense")
		}
		if o, ok := r.outcome("f0"); !ok || !errors.Is(o.Err, ErrDropped) {
			t.Errorf("%+v, %v", o, ok)
		}
		for i := range 94 {
			if q.Pending(fmt.Sprint("f", i)) {
				t.Errorf("f%d was kept instead of a younger one", i)
			}
		}
		if n := strings.Count(log.String(), "notifications dropped"); n != 1 {
			t.Errorf("%d log lines of drops in no time", n)
		}
		q.Close()
		if !strings.Contains(log.String(), fmt.Sprintf("total=%d", q.stats.Dropped)) {
			t.Errorf("no line has the total %d:\n%s", q.stats.Dropped, &log)
		}
	})
}

func TestCloseEndsEverythingAndLeavesTheRestToTheNextLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceivers()
		r.answer["hangs"] = func(ctx context.Context, _ int) error { <-ctx.Done(); return ErrLater }
		r.answer["dead"] = dead
		q := start(t, r, QueueConfig{})
		add(t, q, to("h", "hangs", ""), to("d", "dead", ""), to("ok", "good", ""))
		synctest.Wait()
		q.Close()
		q.Close()
		if err := q.Add(to("x", "good", "")); !errors.Is(err, ErrClosed) {
			t.Errorf("add after close: %v", err)
		}
		if len(r.settled) != 1 || r.settled[0].ID != "ok" {
			t.Errorf("settled %+v", r.settled)
		}
	})
}

func TestOutcomesThatNobodyTakesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceivers()
		release := make(chan struct{})
		q := start(t, r, QueueConfig{Pending: 10, Settled: func(o Outcome) { <-release; r.settle(o) }})
		var busy error
		for i := 0; i < 100 && busy == nil; i++ {
			busy = q.Add(to(fmt.Sprint("m", i), "a", ""))
			synctest.Wait()
		}
		if !errors.Is(busy, ErrBusy) || len(q.open) > 12 {
			t.Errorf("%v, %d open", busy, len(q.open))
		}
		close(release)
		synctest.Wait()
		add(t, q, to("last", "a", ""))
		synctest.Wait()
		if o, ok := r.outcome("last"); !ok || o.Err != nil {
			t.Errorf("%+v, %v", o, ok)
		}
	})
}

// TestAnyHistorySettlesEachMessageOnceInOrderWithinTheBounds: random receivers, then all
// of them work, and everything that is left arrives.
func TestAnyHistorySettlesEachMessageOnceInOrderWithinTheBounds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		plans := rapid.SliceOfN(rapid.SliceOfN(rapid.IntRange(0, 4), 0, 20), 6, 6).Draw(rt, "answers")
		adds := rapid.SliceOfN(rapid.IntRange(0, 35), 1, 80).Draw(rt, "adds")
		gaps := rapid.SliceOfN(rapid.IntRange(0, 900), len(adds), len(adds)).Draw(rt, "gaps")
		cfg := QueueConfig{Webhooks: rapid.IntRange(2, 4).Draw(rt, "webhooks"), Mails: 2, Pending: rapid.IntRange(4, 30).Draw(rt, "pending")}
		synctest.Test(t, func(t *testing.T) {
			r := newReceivers()
			for i, plan := range plans {
				name := fmt.Sprint("w", i)
				if i >= 3 {
					name = fmt.Sprintf("m%d@example.org", i)
				}
				r.answer[name] = func(ctx context.Context, n int) error {
					if n >= len(plan) || plan[n] == 0 {
						return nil
					}
					time.Sleep(time.Duration(plan[n]-1) * 5 * time.Second)
					return []error{ErrLater, ErrLater, ErrRefused, errors.New("of no kind")}[plan[n]-1]
				}
			}
			q := start(t, r, cfg)
			for i, a := range adds {
				m := to(fmt.Sprintf("%04d", i), "", "")
				if a%6 < 3 {
					m.Webhook = fmt.Sprint("w", a%6)
				}
				if a/6 >= 3 {
					m.Mail = fmt.Sprintf("m%d@example.org", a/6)
				}
				m.Project = fmt.Sprint(a % 2)
				add(t, q, m)
				if s := q.Stats(); s.Waiting > cfg.Pending || s.Waiting < 0 {
					rt.Fatalf("%+v", s)
				}
				time.Sleep(time.Duration(gaps[i]) * time.Second / 10)
			}
			time.Sleep(25 * time.Hour)
			synctest.Wait()
			if len(r.settled) != len(adds) || len(q.open)+len(q.lanes) > 0 || r.now > 0 || r.most > cfg.Webhooks+cfg.Mails {
				rt.Fatalf("%d of %d settled, %d open, %d lanes, %d in flight, at most %d", len(r.settled), len(adds), len(q.open), len(q.lanes), r.now, r.most)
			}
			last := map[string]string{}
			for _, s := range r.tries {
				if s.id < last[s.to] {
					rt.Fatalf("%s after %s to %s", s.id, last[s.to], s.to)
				}
				last[s.to] = s.id
			}
			for _, s := range q.slots {
				if s.used+s.failing+len(s.projects) != 0 {
					rt.Fatalf("slots %+v", s)
				}
			}
			q.Close()
		})
	})
}

func TestQueueBoundsAreChecked(t *testing.T) {
	s := newSender(t, Config{})
	for field, c := range map[string]QueueConfig{
		"Settled": {}, "Webhooks": {Webhooks: 1}, "Mails": {Mails: 65}, "Pending": {Pending: 1}, "PerTarget": {Pending: 5, PerTarget: 6},
	} {
		if field != "Settled" {
			c.Settled = func(Outcome) {}
		}
		if _, err := s.Queue(c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestQueueDeliversToARealReceiverAndARealCommand: the receiver fails first.
func TestQueueDeliversToARealReceiverAndARealCommand(t *testing.T) {
	var calls atomic.Int64
	ids := make(chan string, 4)
	srv, pool, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		ids <- r.Header.Get("X-Vcn-Delivery")
		if calls.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	path, dir := script(t, `cat >>"$D/mail"`)
	s := newSender(t, Config{WebhookAllow: loopback, RootCAs: pool, MailCommand: []string{path}, MailFrom: "vcn@example.com"})
	done := make(chan Outcome, 1)
	q, err := s.Queue(QueueConfig{Settled: func(o Outcome) { done <- o }})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	add(t, q, to("7.1", srv.URL, "alice@example.org"))
	if o := <-done; o.Err != nil || o.ID != "7.1" || o.Attempts != 3 {
		t.Errorf("%+v", o)
	}
	if a, b := <-ids, <-ids; a != "7.1" || b != "7.1" {
		t.Errorf("deliveries %q, %q", a, b)
	}
	if n := strings.Count(read(t, filepath.Join(dir, "mail")), "Message-ID: <7.1@example.com>"); n != 1 {
		t.Errorf("%d mails", n)
	}
}
