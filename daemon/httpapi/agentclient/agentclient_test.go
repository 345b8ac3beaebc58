package agentclient

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vcn/fsm"
)

// peers answers for every host with a function.
type peers struct {
	leader string
	asked  []string
	answer func(host string, r *http.Request) (int, string)
}

func (p *peers) Leader() (string, string, bool) { return p.leader, "", p.leader != "" }

func (p *peers) HTTPClient(host string) *http.Client { return &http.Client{Transport: &trip{p, host}} }

type trip struct {
	p    *peers
	host string
}

func (t *trip) RoundTrip(r *http.Request) (*http.Response, error) {
	t.p.asked = append(t.p.asked, t.host)
	code, body := t.p.answer(t.host, r)
	if code == 0 {
		return nil, errors.New(body)
	}
	return &http.Response{StatusCode: code, Status: http.StatusText(code), Body: io.NopCloser(strings.NewReader(body)), Header: http.Header{}, Request: r}, nil
}

func TestTheLeaderFirstThenTheOthersThenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		round := 0
		p := &peers{leader: "b", answer: func(host string, _ *http.Request) (int, string) {
			if round++; round == 6 {
				return 204, ""
			}
			return []int{503, 0}[round%2], "nobody leads"
		}}
		c := New(Config{Host: "me", Peers: p, RaftPeers: func() []string { return []string{"a", "b", "c"} }})
		if err := c.Report(t.Context(), fsm.HostReport{Host: "me"}); err != nil {
			t.Fatal(err)
		}
		if want := []string{"b", "a", "c", "b", "a", "c"}; !slices.Equal(p.asked, want) {
			t.Errorf("asked %v, want %v", p.asked, want)
		}
	})
}

func TestRefusalsAreNotRepeated(t *testing.T) {
	p := &peers{leader: "b", answer: func(string, *http.Request) (int, string) { return 403, `{"detail":"not yours"}` }}
	err := New(Config{Host: "me", Peers: p}).Report(t.Context(), fsm.HostReport{Host: "me"})
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "not yours") || len(p.asked) != 1 {
		t.Errorf("%v after %d requests, want it refused at once with the reason", err, len(p.asked))
	}
}

func TestBackoffIsBoundedAndEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peers{leader: "b", answer: func(string, *http.Request) (int, string) { return 503, "" }}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		err := New(Config{Host: "me", Peers: p}).Report(ctx, fsm.HostReport{Host: "me"})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
		if n := len(p.asked); n < 130 || n > 410 {
			t.Errorf("%d requests in 10 minutes, want one each 1.5 to 4.5 s", n)
		}
	})
}

func TestAssignmentOfAnotherHostIsRefused(t *testing.T) {
	p := &peers{leader: "b", answer: func(string, *http.Request) (int, string) { return 200, `{"Host":"other"}` }}
	if _, err := New(Config{Host: "me", Peers: p}).Assignment(t.Context(), 0); !errors.Is(err, ErrRefused) {
		t.Errorf("error is %v, want it refused", err)
	}
}
