package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"vcn/cluster/pki"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The last probe of a memberlist ends by timeout after its Shutdown.
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

// realWorld is three voters on loopback, with boltdb on disk.
func realWorld(t testing.TB, measured bool) *world {
	t.Helper()
	w := newWorld(t, false)
	w.measured = measured
	for range 3 {
		w.add()
	}
	took := w.wantRoles(3, 0, 15*time.Second)
	t.Logf("three voters %v after the third joined", took.Round(time.Millisecond))
	return w
}

func TestRealHostsCommitServeAndResume(t *testing.T) {
	w := realWorld(t, false)
	w.commit("one", 5*time.Second)
	w.same(5 * time.Second)

	// Internal HTTP: the handler knows who asks, the asker gets whom it asked.
	a, b := w.hosts[0], w.hosts[1]
	b.ServeHTTP(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		peer, ok := PeerHost(r)
		fmt.Fprintf(rw, "%s %v %s %s", peer, ok, r.Proto, r.URL.Path)
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	get := func(from *host, to string) (string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://whoever/x", nil)
		if err != nil {
			return "", err
		}
		resp, err := from.HTTPClient(to).Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	if got, err := get(a, "h2"); got != "h1 true HTTP/2.0 /x" {
		t.Errorf("got %q %v", got, err)
	}
	if _, err := get(a, "h9"); !errors.Is(err, ErrUnknownHost) {
		t.Errorf("unknown host: %v", err)
	}

	w.eventually("a leader that is verified and has passed a barrier", 10*time.Second, func() bool {
		l := w.leader()
		return l != nil && l.VerifyLeader(ctx) == nil && l.Barrier(ctx) == nil
	})
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(a.Collector()); err != nil {
		t.Fatal(err)
	}
	if fams, err := reg.Gather(); err != nil || len(fams) < 8 {
		t.Errorf("metrics: %d families, %v", len(fams), err)
	}

	// Restarts, one after the other, gracefully: the leader hands over, nobody is replaced.
	for _, h := range w.hosts {
		n := h.Node
		h.Node = nil
		if err := n.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		w.commit("without "+h.cfg.HostID, 5*time.Second)
		h.restart()
		w.eventually(h.cfg.HostID+" back", 10*time.Second, func() bool { return h.IsPeer() && h.AppliedIndex() > 0 })
		w.mustLead(5 * time.Second)
	}
	w.same(10 * time.Second)
	for _, e := range []string{"one", "without h1", "without h2", "without h3"} {
		if !slices.ContainsFunc(w.mustLead(10*time.Second).fsm.all(), func(x entry) bool { return x.Data == e }) {
			t.Errorf("entry %q is gone", e)
		}
	}
	if _, err := os.Stat(w.hosts[1].cfg.DataDir + "/raft.old"); err == nil {
		t.Error("a restart set data aside")
	}
}

// handshake dials a raw TLS connection and says whether the other end keeps it:
// in TLS 1.3 a refusal of the client's certificate arrives with the first read.
func handshake(addr string, conf *tls.Config) error {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, conf)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, err = conn.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // kept open
	}
	return err
}

func tlsPair(t testing.TB, ca pki.CA, id string) tls.Certificate {
	t.Helper()
	certPEM, keyPEM := credentials(t, ca, id)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func TestOnlyHostsOfThisClusterGetIn(t *testing.T) {
	w := newWorld(t, false)
	a := w.add()
	w.mustLead(5 * time.Second)
	addr := a.Addr().String()
	twin, err := pki.NewCA(testCluster, "same id, another key")
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.NewCA("c2", "another cluster")
	if err != nil {
		t.Fatal(err)
	}
	good := tlsPair(t, w.ca, "h7")
	for _, c := range []struct {
		name   string
		certs  []tls.Certificate
		protos []string
		max    uint16
		ok     bool
	}{
		{"our host, http", []tls.Certificate{good}, []string{"h2"}, 0, true},
		{"no certificate", nil, []string{protoRaft}, 0, false},
		{"another cluster's host, raft", []tls.Certificate{tlsPair(t, other, "h7")}, []string{protoRaft}, 0, false},
		{"another cluster's host, http", []tls.Certificate{tlsPair(t, other, "h7")}, []string{"h2"}, 0, false},
		{"another CA with our cluster id", []tls.Certificate{tlsPair(t, twin, "h7")}, []string{protoRaft}, 0, false},
		{"unknown protocol", []tls.Certificate{good}, []string{"smtp"}, 0, false},
		{"no protocol", []tls.Certificate{good}, nil, 0, false},
		{"old TLS", []tls.Certificate{good}, []string{"h2"}, tls.VersionTLS12, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := handshake(addr, &tls.Config{
				Certificates: c.certs, NextProtos: c.protos, InsecureSkipVerify: true, MaxVersion: c.max,
			})
			if (err == nil) != c.ok {
				t.Errorf("got %v, want in: %v", err, c.ok)
			}
		})
	}

	t.Run("expelled host", func(t *testing.T) {
		b := w.add(func(c *Config) { c.Expelled = func(id string) bool { return id == "h7" } })
		err := handshake(b.Addr().String(), &tls.Config{Certificates: []tls.Certificate{good}, NextProtos: []string{"h2"}, InsecureSkipVerify: true})
		if err == nil {
			t.Error("an expelled host got in")
		}
	})
	t.Run("own certificate of another cluster", func(t *testing.T) {
		cfg := a.cfg
		cfg.DataDir = t.TempDir()
		cfg.Cert, cfg.Key = credentials(t, twin, "h1")
		if _, err := New(cfg); !errors.Is(err, ErrWrongCluster) {
			t.Errorf("started with a foreign certificate: %v", err)
		}
		cfg.Cert, cfg.Key = credentials(t, w.ca, "h8")
		if _, err := New(cfg); !errors.Is(err, ErrWrongHost) {
			t.Errorf("started with another host's certificate: %v", err)
		}
	})
}

// fakeServer is a TLS server with somebody's certificate.
func fakeServer(t *testing.T, pair tls.Certificate) (addr string, dials *atomic.Int64) {
	t.Helper()
	dials = &atomic.Int64{}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{pair}, NextProtos: []string{protoRaft, "h2"}, ClientAuth: tls.RequestClientCert,
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			dials.Add(1)
			c.(*tls.Conn).Handshake()
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String(), dials
}

func TestDialFindsTheHostItAskedForOrNobody(t *testing.T) {
	w := newWorld(t, false)
	other, err := pki.NewCA("c2", "another cluster")
	if err != nil {
		t.Fatal(err)
	}
	where := map[string]string{"refusing": "127.0.0.1:1"}
	where["foreign"], _ = fakeServer(t, tlsPair(t, other, "foreign"))
	where["swapped"], _ = fakeServer(t, tlsPair(t, w.ca, "someone-else"))
	where["honest"], _ = fakeServer(t, tlsPair(t, w.ca, "honest"))
	w.config = func(c *Config) {
		c.KnownHosts = func() []KnownHost {
			var out []KnownHost
			for id, addr := range where {
				out = append(out, KnownHost{ID: id, Internal: addr})
			}
			return out
		}
	}
	a := w.add()
	w.mustLead(5 * time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for id, want := range map[string]error{"foreign": ErrWrongCluster, "swapped": ErrWrongHost, "nobody": ErrUnknownHost, "honest": nil} {
		conn, err := a.DialContext(ctx, id)
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("dial %s: %v, want %v", id, err, want)
		}
		if conn != nil {
			conn.Close()
		}
	}
	if _, err := a.HTTPClient("swapped").Get("https://swapped/"); !errors.Is(err, ErrWrongHost) {
		t.Errorf("http to a swapped host: %v", err)
	}
	layer := a.group.Load().layer
	if _, err := layer.Dial(pinned{"swapped", where["swapped"]}.server(), time.Second); !errors.Is(err, ErrWrongHost) {
		t.Errorf("raft to a swapped host: %v", err)
	}
	if _, err := layer.Dial("127.0.0.1:1", time.Second); err == nil || !strings.Contains(err.Error(), "want <host>@") {
		t.Errorf("raft to an address without a host: %v", err)
	}
}

// TestStolenGossipKeyDoesNotReachRaft: the thief gossips with the right key and
// label, says it is a fine host to become a peer, and has no certificate of ours.
func TestStolenGossipKeyDoesNotReachRaft(t *testing.T) {
	w := newWorld(t, false)
	w.add()
	w.add()
	w.wantRoles(1, 1, 10*time.Second)
	thiefCA, err := pki.NewCA(testCluster, "forged")
	if err != nil {
		t.Fatal(err)
	}
	addr, dials := fakeServer(t, tlsPair(t, thiefCA, "thief"))
	lie := &liar{advert: Advert{HostID: "thief", Internal: addr, FailureDomain: "elsewhere", Seq: 1}}
	m := memberlist.DefaultLANConfig()
	m.Name, m.Label, m.SecretKey = "thief", "vcn/"+testCluster, w.key
	m.BindAddr, m.BindPort, m.AdvertisePort = "127.0.0.1", 0, 0
	m.Delegate, m.LogOutput = lie, io.Discard
	list, err := memberlist.Create(m)
	if err != nil {
		t.Fatal(err)
	}
	defer list.Shutdown()
	if _, err := list.Join([]string{w.hosts[0].GossipAddr()}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the lie to be heard", 10*time.Second, func() bool {
		l := w.leader()
		if l == nil {
			return false
		}
		m, _ := l.Member("thief")
		return m.HasAdvert
	})
	w.eventually("the leader to try the thief", 10*time.Second, func() bool { return dials.Load() > 0 })
	time.Sleep(500 * time.Millisecond) // a round or two more
	if v, s := w.roles(); v != 1 || s != 1 {
		t.Errorf("%d voters, %d spares; want 1 and 1", v, s)
	}
	err = handshake(w.hosts[0].Addr().String(), &tls.Config{
		Certificates: []tls.Certificate{tlsPair(t, thiefCA, "h2")}, NextProtos: []string{protoRaft}, InsecureSkipVerify: true,
	})
	if err == nil {
		t.Error("a forged certificate opened a raft connection")
	}

	t.Run("no key, no gossip", func(t *testing.T) {
		m := memberlist.DefaultLANConfig()
		m.Name, m.Label, m.SecretKey = "stranger", "vcn/"+testCluster, []byte("another key of 32 bytes in total")
		m.BindAddr, m.BindPort, m.AdvertisePort = "127.0.0.1", 0, 0
		m.LogOutput = io.Discard
		list, err := memberlist.Create(m)
		if err != nil {
			t.Fatal(err)
		}
		defer list.Shutdown()
		if _, err := list.Join([]string{w.hosts[0].GossipAddr()}); err == nil {
			t.Error("joined gossip with a wrong key")
		}
	})
}

type liar struct{ advert Advert }

func (l *liar) NodeMeta(int) []byte             { return nil }
func (l *liar) NotifyMsg([]byte)                {}
func (l *liar) GetBroadcasts(int, int) [][]byte { return nil }
func (l *liar) MergeRemoteState([]byte, bool)   {}
func (l *liar) LocalState(bool) []byte {
	b, err := l.advert.encode()
	if err != nil {
		panic(err)
	}
	return append([]byte{0, 0, byte(len(b) >> 8), byte(len(b))}, b...)
}

func TestCertificateIsRenewedWithoutRestart(t *testing.T) {
	w := newWorld(t, false)
	a := w.add()
	certPEM, keyPEM := credentials(t, w.ca, "h1")
	if err := a.SetCertificate(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	conn, err := a.DialContext(t.Context(), "h1")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	leaf := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	if want, _ := pki.ParseCert(certPEM); !leaf.Equal(want) {
		t.Error("the old certificate is still shown")
	}
	foreign, fkey := credentials(t, w.ca, "h2")
	if err := a.SetCertificate(foreign, fkey); !errors.Is(err, ErrWrongHost) {
		t.Errorf("took another host's certificate: %v", err)
	}
}

func TestLeaderKilledOnRealSockets(t *testing.T) {
	w := realWorld(t, true)
	for i := range 2 {
		w.commit(fmt.Sprint("before", i), 5*time.Second)
		old := w.leader()
		began := time.Now()
		old.kill()
		w.commit(fmt.Sprint("after", i), 10*time.Second)
		took := time.Since(began)
		t.Logf("leader killed → next commit: %v", took.Round(time.Millisecond))
		old.restart()
		w.eventually("it to be back", 15*time.Second, func() bool { return old.Role() == RoleVoter && old.AppliedIndex() > 0 })
		w.same(10 * time.Second)
	}
}

func TestBadConfigurationIsRefused(t *testing.T) {
	w := newWorld(t, false)
	base := Config{
		ClusterID: testCluster, HostID: "h1", DataDir: t.TempDir(), CA: w.ca.CertPEM, GossipKey: w.key, FSM: &ledger{},
		Bind: netip.MustParseAddrPort("127.0.0.1:0"), GossipBind: netip.MustParseAddrPort("127.0.0.1:0"),
	}
	base.Cert, base.Key = credentials(t, w.ca, "h1")
	for name, change := range map[string]func(*Config){
		"even voters":      func(c *Config) { c.VotersMax = 4 },
		"no FSM":           func(c *Config) { c.FSM = nil },
		"short gossip key": func(c *Config) { c.GossipKey = []byte("short") },
		"host id":          func(c *Config) { c.HostID = "Host 1" },
		"lease":            func(c *Config) { c.Timing.Lease = time.Second },
		"cluster of CA":    func(c *Config) { c.ClusterID = "c9" },
		"port in use":      func(c *Config) { c.Bind = netip.MustParseAddrPort("192.0.2.1:1") },
	} {
		cfg := base
		change(&cfg)
		if n, err := New(cfg); err == nil {
			n.close()
			t.Errorf("%s: accepted", name)
		}
	}
}
