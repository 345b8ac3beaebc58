package httpapi_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vcn/api"
	"vcn/cluster/pki"
	"vcn/daemon/control/controltest"
	"vcn/daemon/httpapi"
	"vcn/daemon/httpapi/agentclient"
	"vcn/fsm"
)

func asPeer(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, peerKey{}, id)
}

func joinRequest(t *testing.T, id string) api.JoinRequest {
	t.Helper()
	csr, _, err := pki.NewCSR(id, id)
	if err != nil {
		t.Fatal(err)
	}
	return api.JoinRequest{HostID: id, Name: id, CSR: string(csr)}
}

func parseCert(t *testing.T, pem string) *x509.Certificate {
	t.Helper()
	c, err := pki.ParseCert([]byte(pem))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// believer is a host that is wrong about who leads.
type believer struct {
	*host
	leader string
}

func (b believer) Leader() (string, string, bool) { return b.leader, "addr", true }
func (b believer) IsLeader() bool                 { return false }
func (b believer) Barrier(context.Context) error  { return errors.New("does not lead") }
func (b believer) IsPeer() bool                   { return false }

func wrongBelief(w *world, id, leader string) *httpapi.Server {
	s, err := httpapi.New(httpapi.Config{HostID: id, State: w.rig.FSM, Control: w.rig.Control,
		Cluster: believer{w.hosts[id], leader}, Registry: prometheus.NewRegistry()})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// agent makes the client of a host's agent.
func (w *world) agent(id string) *agentclient.Client {
	h := w.hosts[id]
	return agentclient.New(agentclient.Config{Host: id, Peers: h, Local: h.server,
		RaftPeers: func() []string { return []string{controltest.HostID(0), controltest.HostID(1)} }})
}

func TestAgentsGetTheirAssignment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 3)
		for i := range 3 { // the leader, another peer, and a follower
			id := controltest.HostID(i)
			c := w.agent(id)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			first, err := c.Assignment(ctx, 0)
			if err != nil || first.Host != id {
				t.Fatalf("%s: %+v, %v", id, first, err)
			}
			got := make(chan fsm.Assignment, 1)
			go func() {
				a, err := c.Assignment(ctx, max(first.Version, 1))
				if err != nil {
					t.Errorf("%s: %v", id, err)
				}
				got <- a
			}()
			time.Sleep(3 * time.Second)
			begin := time.Now()
			res := w.reserve(controltest.Spec("for-"+id, 2))
			a := <-got
			if a.Version <= first.Version || time.Since(begin) > 10*time.Millisecond {
				t.Errorf("%s: after %v version %d, want a new one after %d at once", id, time.Since(begin), a.Version, first.Version)
			}
			if want := w.rig.FSM.View().AssignmentFor(id); !sameJSON(a, want) {
				t.Errorf("%s: what came over the wire differs:\n%+v\n%+v", id, a, want)
			}
			if _, err := w.rig.Control.Release(ctx, res.ID, ""); err != nil {
				t.Error(err)
			}
			w.rig.Settle()
			cancel()
		}
	})
}

func sameJSON(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}

func TestAssignmentUnchangedAfterTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 3)
		c := w.agent(controltest.HostID(2))
		first, err := c.Assignment(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		again, err := c.Assignment(t.Context(), max(first.Version, 1))
		if err != nil || again.Version != first.Version || time.Since(begin) != agentclient.DefaultWait {
			t.Errorf("after %v: %+v, %v; want the same after %v", time.Since(begin), again, err, agentclient.DefaultWait)
		}
	})
}

func TestStalePeerHandsOutNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 3)
		w.hosts[controltest.HostID(1)].ago = time.Minute
		if _, err := w.hosts[controltest.HostID(1)].server.Assignment(t.Context(), "host-001", 0, time.Second); err == nil {
			t.Error("a cut-off peer handed out an assignment")
		}
		// Its own agent asks the leader instead.
		if a, err := w.agent(controltest.HostID(1)).Assignment(t.Context(), 0); err != nil || a.Host != "host-001" {
			t.Errorf("%+v, %v", a, err)
		}
		// With nobody else to ask it waits until its context ends.
		w.hosts[controltest.HostID(0)].broken = brokenForever
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := w.agent(controltest.HostID(1)).Assignment(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v, want the deadline", err)
		}
	})
}

func TestReportAndRegisterReachTheLeader(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 3)
	for i := range 3 {
		id := controltest.HostID(i)
		h, _ := w.rig.FSM.View().Host(id)
		h.Version = "v-" + id
		if err := w.agent(id).Register(t.Context(), fsm.HostRegister{Host: h}); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		if now, _ := w.rig.FSM.View().Host(id); now.Version != "v-"+id {
			t.Errorf("%s is registered as %+v", id, now)
		}
		rep := fsm.HostReport{Host: id, Applied: 1, Objects: []fsm.Object{{Kind: fsm.KindImage, ID: "r", State: fsm.ObjWorking, Message: "step"}}}
		if err := w.agent(id).Report(t.Context(), rep); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		if st, ok := w.rig.FSM.View().HostStatus(id); !ok || len(st.Objects) != 1 || st.Objects[0].Message != "step" {
			t.Errorf("%s reported, and the state has %+v", id, st)
		}
	}
}

func TestReportThroughAPeerThatDoesNotLead(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 3)
	body, _ := json.Marshal(fsm.HostReport{Host: controltest.HostID(2)})
	req := httptest.NewRequest("POST", agentclient.PathReport, bytes.NewReader(body))
	rec := httptest.NewRecorder()
	w.hosts[controltest.HostID(1)].server.Internal().ServeHTTP(rec, req.WithContext(asPeer(t.Context(), controltest.HostID(2))))
	if _, ok := w.rig.FSM.View().HostStatus(controltest.HostID(2)); rec.Code != 204 || !ok {
		t.Errorf("%d %s; stored: %v", rec.Code, rec.Body, ok)
	}
}

func TestAHostSpeaksForItselfOnly(t *testing.T) {
	w := newWorld(t, controltest.Options{}, 3)
	w.unchanged(func() {
		c := w.agent(controltest.HostID(2))
		err := c.Report(t.Context(), fsm.HostReport{Host: controltest.HostID(1)})
		if !errors.Is(err, agentclient.ErrRefused) {
			t.Errorf("report for another: %v, want it refused", err)
		}
		err = c.Register(t.Context(), fsm.HostRegister{Host: fsm.Host{ID: controltest.HostID(0), Name: "mine-now"}})
		if !errors.Is(err, agentclient.ErrRefused) {
			t.Errorf("registration of another: %v, want it refused", err)
		}
		req := httptest.NewRequest("GET", agentclient.PathAssignment, nil)
		rec := httptest.NewRecorder()
		w.hosts[controltest.HostID(0)].server.Internal().ServeHTTP(rec, req)
		if rec.Code != 403 {
			t.Errorf("without a certificate: %d, want 403", rec.Code)
		}
	})
}

func TestAgentRetriesUntilTheLeaderIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 3)
		w.setLeader("")
		go func() { time.Sleep(4 * time.Second); w.setLeader(controltest.HostID(0)) }()
		begin := time.Now()
		if err := w.agent(controltest.HostID(2)).Report(t.Context(), fsm.HostReport{Host: controltest.HostID(2)}); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took < 4*time.Second || took > 9*time.Second {
			t.Errorf("it took %v, want soon after 4s", took)
		}
	})
}
