package httpapi_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vcn/api"
	"vcn/daemon/control/controltest"
)

func TestAnyHostAnswers(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 3)
	for _, id := range []string{controltest.HostID(1), controltest.HostID(2)} { // a peer, and a follower without state
		spec := controltest.Spec("lab-"+id, 1)
		a := w.ask(id, w.rig.Operator, "POST", api.PathReservations, spec, api.HeaderIdempotencyKey, id)
		res := decode[api.Reservation](t, a, 201)
		if a.header.Get("Location") == "" || a.header.Get(api.HeaderIndex) == "" || a.header.Get(api.HeaderStale) != "" {
			t.Errorf("headers are %v", a.header)
		}
		again := decode[api.Reservation](t, w.ask(controltest.HostID(0), w.rig.Operator, "POST", api.PathReservations, spec, api.HeaderIdempotencyKey, id), 201)
		if again.ID != res.ID {
			t.Error("the idempotency key did not reach the leader")
		}
		if st := decode[api.Status](t, w.ask(id, w.rig.Operator, "GET", api.PathStatus, nil), 200); st.Host != "name-of-host-000" {
			t.Errorf("%s answers itself: %+v", id, st)
		}
		p := w.ask(id, "", "GET", api.PathStatus, nil).problem(t)
		if p.Status != 401 {
			t.Errorf("without a token through %s: %d", id, p.Status)
		}
		if p := w.ask(id, w.rig.Operator, "POST", api.PathReservations, good(`"count":2`, `"count":"x"`)).problem(t); p.Status != 422 {
			t.Errorf("bad input through %s: %+v", id, p)
		}
		if p := w.ask(id, w.rig.Operator, "POST", api.PathReservations, strings.Repeat(" ", 1<<20+1)).problem(t); p.Status != 413 {
			t.Errorf("too much through %s: %+v", id, p)
		}
		if got := decode[api.Reservation](t, w.ask(id, w.rig.Operator, "GET", api.PathReservations+"/"+res.Name+"?project=studio", nil), 200); got.ID != res.ID {
			t.Errorf("query lost on the way: %+v", got)
		}
		if r := decode[api.Reservation](t, w.ask(id, w.rig.Operator, "DELETE", api.PathReservations+"/"+res.ID, nil), 202); r.State != api.StateEnding {
			t.Errorf("release through %s: %s", id, r.State)
		}
	}
}

func TestJoinThroughAnotherHostKeepsTheAskersAddress(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 3)
	token := w.token(api.TokenJoin, "")
	for _, id := range []string{controltest.HostID(0), controltest.HostID(2)} {
		res := decode[api.JoinResponse](t, w.ask(id, token.Secret, "POST", api.PathJoin, joinRequest(t, "new-"+id)), 200)
		cert := parseCert(t, res.Cert)
		if err := cert.VerifyHostname("192.0.2.1"); err != nil { // httptest's remote address
			t.Errorf("through %s: %v", id, err)
		}
	}
}

func TestNoLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 3)
		w.reserve(controltest.Spec("lab", 1))
		w.setLeader("")
		peer, follower := controltest.HostID(1), controltest.HostID(2)
		w.unchanged(func() {
			for _, id := range []string{peer, follower} {
				begin := time.Now()
				a := w.ask(id, w.rig.Operator, "POST", api.PathReservations, controltest.Spec("x", 1))
				if p := a.problem(t); p.Code != api.CodeNoLeader || p.Status != 503 || a.header.Get("Retry-After") == "" {
					t.Errorf("%s: %+v, headers %v", id, p, a.header)
				}
				if took := time.Since(begin); took < 5*time.Second || took > 5500*time.Millisecond {
					t.Errorf("%s was held %v, want 5s", id, took)
				}
			}
		})
		a := w.ask(peer, w.rig.Operator, "GET", api.PathReservations+"/lab", nil)
		if r := decode[api.Reservation](t, a, 200); r.Name != "lab" || a.header.Get(api.HeaderStale) != "true" {
			t.Errorf("a peer says %+v, headers %v; want its own state, marked stale", r, a.header)
		}
		if p := w.ask(peer, "", "GET", api.PathReservations, nil).problem(t); p.Status != 401 {
			t.Errorf("a stale read without a token: %d", p.Status)
		}
		if p := w.ask(follower, w.rig.Operator, "GET", api.PathReservations, nil).problem(t); p.Code != api.CodeNoLeader {
			t.Errorf("a follower without state says %+v", p)
		}
	})
}

func TestHeldUntilALeaderIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 3)
		w.setLeader("")
		go func() {
			time.Sleep(600 * time.Millisecond)
			w.setLeader(controltest.HostID(0))
		}()
		begin := time.Now()
		decode[api.Reservation](t, w.ask(controltest.HostID(2), w.rig.Operator, "POST", api.PathReservations, controltest.Spec("lab", 1)), 201)
		if took := time.Since(begin); took > 700*time.Millisecond {
			t.Errorf("it took %v, want little more than the 600ms without a leader", took)
		}
	})
}

func TestOneHopAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 3)
		hops := 0
		for _, h := range w.hosts {
			h.broken = func(*http.Request) error { hops++; return nil }
		}
		// Host 2 believes that host 1 leads; host 1 believes nobody does.
		w.hosts[controltest.HostID(2)].server = wrongBelief(w, controltest.HostID(2), controltest.HostID(1))
		w.setLeader(controltest.HostID(0))
		begin := time.Now()
		p := w.ask(controltest.HostID(2), w.rig.Operator, "GET", api.PathStatus, nil).problem(t)
		if p.Code != api.CodeNoLeader {
			t.Errorf("it is %+v, want no_leader: host 1 must not forward again", p)
		}
		if took := time.Since(begin); hops > 120 || took > 6*time.Second {
			t.Errorf("%d requests were forwarded in %v, want at most 120 in 5s", hops, took)
		}
	})
}

func TestLeaderLostMidway(t *testing.T) {
	for name, c := range map[string]struct {
		method, key string
		err         error
		status      int
		says        string
	}{
		"read is repeated":                      {"GET", "", errors.New("connection reset"), 200, ""},
		"create with a key is repeated":         {"POST", "k", errors.New("connection reset"), 201, ""},
		"create without a key is not":           {"POST", "", errors.New("connection reset"), 504, "may or may not"},
		"what was never sent is sent elsewhere": {"POST", "", &net.OpError{Op: "dial", Err: errors.New("refused")}, 201, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, controltest.Options{}, 3)
				failed := 0
				w.hosts[controltest.HostID(0)].broken = func(*http.Request) error {
					if failed++; failed <= 2 {
						return c.err
					}
					return nil
				}
				var body any
				if c.method == "POST" {
					body = controltest.Spec("lab", 1)
				}
				a := w.ask(controltest.HostID(2), w.rig.Operator, c.method, api.PathReservations, body, api.HeaderIdempotencyKey, c.key)
				if a.status != c.status || !strings.Contains(string(a.body), c.says) {
					t.Errorf("it is %d %s, want %d and %q", a.status, a.body, c.status, c.says)
				}
			})
		})
	}
}

func TestForwardingIsForHostsOnly(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 3)
	leader := w.hosts[controltest.HostID(0)].server
	for name, header := range map[string]string{"no header": "", "another's name": controltest.HostID(2)} {
		req := httptest.NewRequest("GET", api.PathStatus, nil)
		req.Header.Set(api.HeaderForwarded, header)
		req.Header.Set("Authorization", "Bearer "+w.rig.Operator)
		rec := httptest.NewRecorder()
		leader.Internal().ServeHTTP(rec, req.WithContext(asPeer(t.Context(), controltest.HostID(1))))
		if rec.Code != 403 {
			t.Errorf("%s: %d, want 403", name, rec.Code)
		}
	}
	// A header from outside means nothing.
	a := w.ask(controltest.HostID(2), w.rig.Operator, "GET", api.PathStatus, nil, api.HeaderForwarded, "host-009")
	decode[api.Status](t, a, 200)
	if a := w.ask(controltest.HostID(0), "", "GET", "/internal/assignment", nil); a.status != 404 {
		t.Errorf("the internal routes answer %d on the public listener", a.status)
	}
}
