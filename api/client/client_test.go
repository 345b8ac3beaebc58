package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"vcn/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority is a CA of a cluster of hosts.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vcn"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// leaf is a certificate with its chain; usage is what it is for.
func (a *authority) leaf(t testing.TB, usage x509.ExtKeyUsage, notAfter time.Time) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "h1"}, NotBefore: time.Now().Add(-2 * time.Hour),
		NotAfter: notAfter, ExtKeyUsage: []x509.ExtKeyUsage{usage}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}
}

func (a *authority) server(t testing.TB, h http.Handler) *httptest.Server {
	return serve(t, a.leaf(t, x509.ExtKeyUsageServerAuth, time.Now().Add(time.Hour)), h)
}

func serve(t testing.TB, c tls.Certificate, h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{c}}
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func connect(t testing.TB, ca []byte, retry time.Duration, hosts ...string) *Client {
	c, err := New(Config{Hosts: hosts, CA: ca, Token: "secret", RetryFor: retry})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func statusOf(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, api.Status{Host: name}) })
}

func refuse(status int, p api.Problem, header ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(p)
	})
}

// deadAddress refuses connections.
func deadAddress(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr().String()
}

func TestNextHostAnswersWhenOneDies(t *testing.T) {
	ca := newAuthority(t)
	s1, s2 := ca.server(t, statusOf("h1")), ca.server(t, statusOf("h2"))
	c := connect(t, ca.pem(), 5*time.Second, s1.URL, s2.URL)
	ask := func(want string) {
		t.Helper()
		if st, err := c.Status(t.Context()); err != nil || st.Host != want {
			t.Fatalf("%q, %v, want %q", st.Host, err, want)
		}
	}
	ask("h1")
	ask("h1") // it stays with who answers
	s1.CloseClientConnections()
	s1.Close()
	began := time.Now()
	ask("h2")
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("took %v", d)
	}
	ask("h2")
}

func TestNextHostAnswersWhenOneIsBusy(t *testing.T) {
	ca := newAuthority(t)
	for _, status := range []int{502, 503, 504} {
		s1, s2 := ca.server(t, refuse(status, api.Problem{Detail: "no leader", Code: api.CodeNoLeader})), ca.server(t, statusOf("h2"))
		c := connect(t, ca.pem(), 5*time.Second, s1.URL, s2.URL)
		if st, err := c.Status(t.Context()); err != nil || st.Host != "h2" {
			t.Fatal(status, st, err)
		}
	}
}

func TestBusyHostIsAskedAgainAfterRetryAfter(t *testing.T) {
	ca := newAuthority(t)
	var n atomic.Int32
	s := ca.server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) < 3 {
			refuse(503, api.Problem{Detail: "no leader", Code: api.CodeNoLeader}, "Retry-After", "0").ServeHTTP(w, r)
			return
		}
		statusOf("h1").ServeHTTP(w, r)
	}))
	c := connect(t, ca.pem(), 10*time.Second, s.URL)
	if st, err := c.Status(t.Context()); err != nil || st.Host != "h1" || n.Load() != 3 {
		t.Fatal(st, err, n.Load())
	}
}

func TestTryingIsBounded(t *testing.T) {
	ca := newAuthority(t)
	s := ca.server(t, refuse(503, api.Problem{Detail: "still forming", Code: api.CodeForming}, "Retry-After", "9999"))
	c := connect(t, ca.pem(), 400*time.Millisecond, s.URL, deadAddress(t))
	began := time.Now()
	_, err := c.Status(t.Context())
	var p *api.Problem
	if !errors.As(err, &p) || p.Code != api.CodeForming || p.Detail != "still forming" {
		t.Errorf("%v, want what the host said", err)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
	c = connect(t, ca.pem(), 400*time.Millisecond, deadAddress(t), deadAddress(t))
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
}

func TestARefusalIsFinal(t *testing.T) {
	ca := newAuthority(t)
	var n atomic.Int32
	want := api.Problem{Status: 409, Detail: "no capacity", Code: api.CodeNoFit, Reasons: []string{"compute: 3 cores short"}}
	s := ca.server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { n.Add(1); refuse(409, want).ServeHTTP(w, r) }))
	c := connect(t, ca.pem(), 5*time.Second, s.URL, s.URL)
	_, err := c.Reserve(t.Context(), api.Spec{}, "")
	var p *api.Problem
	if !errors.As(err, &p) || p.Code != api.CodeNoFit || len(p.Reasons) != 1 || n.Load() != 1 {
		t.Fatal(err, n.Load())
	}
}

func TestAnErrorThatIsNoProblemBecomesOne(t *testing.T) {
	ca := newAuthority(t)
	for status, code := range map[int]api.Code{400: api.CodeInvalid, 401: api.CodeUnauthorized, 403: api.CodeForbidden, 404: api.CodeNotFound,
		409: api.CodeConflict, 413: api.CodeTooLarge, 418: api.CodeInternal, 421: api.CodeWrongCluster, 301: api.CodeInternal} {
		s := ca.server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "https://192.0.2.1/")
			w.WriteHeader(status)
			io.WriteString(w, "<html>")
		}))
		c := connect(t, ca.pem(), time.Second, s.URL)
		_, err := c.Status(t.Context())
		var p *api.Problem
		if !errors.As(err, &p) || p.Code != code || p.Status != status || p.Detail == "" {
			t.Errorf("%d: %v", status, err)
		}
	}
}

// keys notes the idempotency keys that requests carry.
type keys struct {
	mu   sync.Mutex
	list []string
}

func (k *keys) note(r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = append(k.list, r.Header.Get(api.HeaderIdempotencyKey))
}

// breaks answers nothing: the connection ends after the request was read.
func (k *keys) breaks() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		k.note(r)
		panic(http.ErrAbortHandler)
	})
}

func TestRetryKeepsTheKey(t *testing.T) {
	ca := newAuthority(t)
	var k keys
	s1 := ca.server(t, k.breaks())
	s2 := ca.server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.note(r)
		var s api.Spec
		if json.NewDecoder(r.Body).Decode(&s) != nil || s.Name != "mine" || r.Header.Get("Authorization") != "Bearer secret" {
			t.Error("the repeated request lost its body or token")
		}
		w.WriteHeader(201)
		answer(w, api.Reservation{ID: "r1"})
	}))
	c := connect(t, ca.pem(), 5*time.Second, s1.URL, s2.URL)
	r, err := c.Reserve(t.Context(), api.Spec{Name: "mine"}, "")
	if err != nil || r.ID != "r1" {
		t.Fatal(r, err)
	}
	if len(k.list) != 2 || k.list[0] == "" || k.list[0] != k.list[1] {
		t.Fatalf("keys %q, want one, twice", k.list)
	}
	if _, err := c.Reserve(t.Context(), api.Spec{Name: "mine"}, ""); err != nil || k.list[2] == k.list[0] {
		t.Fatalf("keys %q, want another for another call", k.list)
	}
	if _, err := c.Reserve(t.Context(), api.Spec{Name: "mine"}, "given"); err != nil || k.list[3] != "given" {
		t.Fatalf("keys %q", k.list)
	}
}

func TestTokenIsNotMadeTwice(t *testing.T) {
	ca := newAuthority(t)
	var k keys
	s1 := ca.server(t, k.breaks())
	s2 := ca.server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, api.Token{ID: "t2"}) }))
	c := connect(t, ca.pem(), 5*time.Second, s1.URL, s2.URL)
	if tok, err := c.CreateToken(t.Context(), api.TokenRequest{}); err == nil || len(k.list) != 1 {
		t.Fatal("a create that may have been taken was repeated", tok)
	}
	// What cannot have been taken is repeated.
	c = connect(t, ca.pem(), 5*time.Second, deadAddress(t), s2.URL)
	if tok, err := c.CreateToken(t.Context(), api.TokenRequest{}); err != nil || tok.ID != "t2" {
		t.Fatal(tok, err)
	}
}

func TestWrongCAIsRefused(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	asked := false
	s := theirs.server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked = true }))
	c := connect(t, ours.pem(), 5*time.Second, s.URL)
	began := time.Now()
	_, err := c.Status(t.Context())
	if !errors.Is(err, ErrWrongCluster) || !strings.Contains(err.Error(), "not signed by the pinned CA") || !strings.Contains(err.Error(), s.URL) {
		t.Error(err)
	}
	if asked {
		t.Error("the token was sent to a host of another cluster")
	}
	if d := time.Since(began); d > time.Second {
		t.Errorf("waited %v for what cannot change", d)
	}
	// One strange host among ours does not stop the others.
	good := ours.server(t, statusOf("h2"))
	c = connect(t, ours.pem(), 5*time.Second, s.URL, good.URL)
	if st, err := c.Status(t.Context()); err != nil || st.Host != "h2" {
		t.Error(st, err)
	}
}

func TestCertificateMustBeAServersAndValid(t *testing.T) {
	ca := newAuthority(t)
	for name, cert := range map[string]tls.Certificate{
		"a client's": ca.leaf(t, x509.ExtKeyUsageClientAuth, time.Now().Add(time.Hour)),
		"expired":    ca.leaf(t, x509.ExtKeyUsageServerAuth, time.Now().Add(-time.Hour)),
	} {
		s := serve(t, cert, statusOf("h1"))
		c := connect(t, ca.pem(), 300*time.Millisecond, s.URL)
		if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Error(name, err)
		}
	}
}

func TestLongPollHoldsAndEndsWithItsContext(t *testing.T) {
	ca := newAuthority(t)
	asked := make(chan string, 10)
	release := make(chan struct{})
	s := ca.server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.String()
		select {
		case <-release:
			w.Header().Set(api.HeaderIndex, "42")
			answer(w, api.Reservation{Name: "mine"})
		case <-r.Context().Done():
		}
	}))
	c := connect(t, ca.pem(), 5*time.Second, s.URL)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { _, _, err := c.Reservation(ctx, "my ne", 7, time.Hour); ended <- err }()
	if got := <-asked; got != "/v1/reservations/my%20ne?index=7&wait=5m0s" {
		t.Error(got)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(release)
	if r, index, err := c.Reservation(t.Context(), "mine", 7, time.Second); err != nil || index != 42 || r.Name != "mine" {
		t.Error(r, index, err)
	}
}

func TestCallsUseTheirRoutes(t *testing.T) {
	ca := newAuthority(t)
	var got string
	s := ca.server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = strings.TrimSpace(r.Method + " " + r.URL.String() + " " + string(body))
		if r.Method == http.MethodPost && r.Header.Get("Content-Type") != "application/json" {
			t.Error("no content type")
		}
		io.WriteString(w, `{"items":[{}]}`)
	}))
	c := connect(t, ca.pem(), time.Second, s.URL)
	ctx := t.Context()
	for want, call := range map[string]func() error{
		"GET /v1/reservations?all=true&project=p": func() error { _, err := c.Reservations(ctx, "p", true); return err },
		"GET /v1/reservations":                    func() error { _, err := c.Reservations(ctx, "", false); return err },
		"DELETE /v1/reservations/x":               func() error { _, err := c.Release(ctx, "x"); return err },
		"GET /v1/events?after=3&wait=1s":          func() error { _, err := c.Events(ctx, "", 3, time.Second); return err },
		"GET /v1/reservations/x/events":           func() error { _, err := c.Events(ctx, "x", 0, 0); return err },
		"GET /v1/hosts":                           func() error { _, err := c.ListHosts(ctx); return err },
		"GET /v1/leases":                          func() error { _, err := c.ListLeases(ctx); return err },
		"GET /v1/images":                          func() error { _, err := c.ListImages(ctx); return err },
		"GET /v1/rolls":                           func() error { _, err := c.ListRolls(ctx); return err },
		"GET /v1/tokens":                          func() error { _, err := c.ListTokens(ctx); return err },
		"DELETE /v1/tokens/t1":                    func() error { return c.RevokeToken(ctx, "t1") },
		"GET /healthz":                            func() error { _, err := c.Health(ctx); return err },
		`POST /v1/images {"rolls":["slurm"]}`:     func() error { _, err := c.BuildImages(ctx, api.ImageRequest{Rolls: []string{"slurm"}}); return err },
		`POST /v1/join {"hostId":"h","name":"n","csr":"c"}`: func() error {
			_, err := c.Join(ctx, api.JoinRequest{HostID: "h", Name: "n", CSR: "c"})
			return err
		},
	} {
		if err := call(); err != nil || got != want {
			t.Errorf("%s: got %s, %v", want, got, err)
		}
	}
	if _, err := c.DryRun(ctx, api.Spec{Name: "a"}); err != nil || !strings.HasPrefix(got, "POST /v1/reservations?dryRun=true {") {
		t.Error(got, err)
	}
}

func TestAnswerThatIsNoJSON(t *testing.T) {
	ca := newAuthority(t)
	s := ca.server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	if _, err := connect(t, ca.pem(), time.Second, s.URL).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "read answer of "+s.URL) {
		t.Error(err)
	}
}

func TestNewRefuses(t *testing.T) {
	ca := newAuthority(t).pem()
	for name, cfg := range map[string]Config{
		"no hosts": {CA: ca}, "too many": {CA: ca, Hosts: make([]string, 101)}, "no CA": {Hosts: []string{"h:1"}},
		"plain HTTP": {CA: ca, Hosts: []string{"http://h:1"}}, "no port": {CA: ca, Hosts: []string{"https://h"}},
		"a path": {CA: ca, Hosts: []string{"https://h:1/v1"}}, "a wrong port": {CA: ca, Hosts: []string{"h:99999"}}, "a user": {CA: ca, Hosts: []string{"https://u@h:1"}},
	} {
		if _, err := New(cfg); err == nil {
			t.Error(name)
		}
	}
	for in, want := range map[string]string{"h:1": "https://h:1", " https://h:1/ ": "https://h:1", "[::1]:8443": "https://[::1]:8443"} {
		if got, err := NormalizeHost(in); err != nil || got != want {
			t.Error(in, got, err)
		}
	}
}

func TestFetchCA(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	s := ours.server(t, statusOf("h1"))
	got, err := FetchCA(t.Context(), s.URL, strings.ToUpper(Fingerprint(ours.cert)))
	if err != nil || string(got) != string(ours.pem()) {
		t.Fatal(string(got), err)
	}
	if st, err := connect(t, got, time.Second, s.URL).Status(t.Context()); err != nil || st.Host != "h1" {
		t.Error(st, err)
	}
	if _, err := FetchCA(t.Context(), s.URL, Fingerprint(theirs.cert)); !errors.Is(err, ErrWrongCluster) {
		t.Error("another CA was taken:", err)
	}
	if _, err := FetchCA(t.Context(), deadAddress(t), Fingerprint(ours.cert)); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	// A server that shows our CA but whose own certificate is not of it.
	liar := theirs.leaf(t, x509.ExtKeyUsageServerAuth, time.Now().Add(time.Hour))
	liar.Certificate[1] = ours.cert.Raw
	s = serve(t, liar, statusOf("h1"))
	if _, err := FetchCA(t.Context(), s.URL, Fingerprint(ours.cert)); !errors.Is(err, ErrWrongCluster) {
		t.Error("a liar was believed:", err)
	}
	// The fingerprint of the host's own certificate pins nothing.
	leaf := ours.leaf(t, x509.ExtKeyUsageServerAuth, time.Now().Add(time.Hour))
	s = serve(t, leaf, statusOf("h1"))
	cert, err := x509.ParseCertificate(leaf.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := FetchCA(t.Context(), s.URL, Fingerprint(cert)); !errors.Is(err, ErrWrongCluster) {
		t.Error("a leaf was taken for a CA:", err)
	}
}
