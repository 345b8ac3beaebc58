package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var loopback = []string{"127.0.0.0/8"}

func TestWebhookGetsSignedJSONAtTheNameItWasResolvedFrom(t *testing.T) {
	type got struct {
		head http.Header
		host string
		body []byte
		sni  string
	}
	arrived := make(chan got, 1)
	_, pool, port := server(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.URL.RequestURI() != "/hook/a%20b?x=1" {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		arrived <- got{r.Header, r.Host, b, r.TLS.ServerName}
		w.WriteHeader(http.StatusNoContent)
	})
	// A second answer would lead elsewhere.
	n := &names{answers: map[string][][]string{"example.com.": {{"127.0.0.1"}, {"10.0.0.1"}}}}
	secret := []byte("0123456789abcdef")
	now := time.Unix(1_800_000_000, 0)
	for _, perProject := range []bool{false, true} {
		n.answers["example.com."] = [][]string{{"127.0.0.1"}, {"10.0.0.1"}}
		s := newSender(t, Config{WebhookAllow: loopback, RootCAs: pool, Resolver: n, Secret: secret, SecretPerProject: perProject,
			Now: func() time.Time { return now }, Site: "Rechenzentrum Süd (1)"})
		m := message()
		m.Webhook = "https://Example.com:" + port + "/hook/a%20b?x=1"
		if err := s.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		last := <-arrived
		key := secret
		if perProject {
			key = []byte(ProjectKey(secret, "studio"))
		}
		h := hmac.New(sha256.New, key)
		h.Write([]byte("1800000000."))
		h.Write(last.body)
		for name, want := range map[string]string{
			"X-Vcn-Signature": "sha256=" + hex.EncodeToString(h.Sum(nil)), "X-Vcn-Timestamp": "1800000000", "X-Vcn-Event": m.Kind,
			"X-Vcn-Delivery": m.ID, "Content-Type": "application/json", "User-Agent": "vcn (Rechenzentrum S_d _1_)",
		} {
			if got := last.head.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		var b map[string]any
		if err := json.Unmarshal(last.body, &b); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]any{
			"id": m.ID, "kind": m.Kind, "name": "rendering", "project": "studio", "state": "ready", "text": m.Text, "zone": "Asia/Tokyo",
			"time": "2026-12-01T00:00:00Z", "start": "2026-12-01T00:00:00Z", "end": "2026-12-01T08:00:00Z", "site": "Rechenzentrum Süd (1)", "reservation": "0199-aa",
		} {
			if b[name] != want {
				t.Errorf("%s: %v, want %v", name, b[name], want)
			}
		}
		if last.host != "example.com:"+port || last.sni != "example.com" {
			t.Errorf("host %q, server name %q", last.host, last.sni)
		}
	}
	if len(n.asked) != 2 {
		t.Errorf("2 deliveries asked %d times", len(n.asked))
	}
	if ProjectKey(secret, "a") == ProjectKey(secret, "b") {
		t.Error("two projects share a key")
	}
}

func TestStatusSaysDeliveredLaterOrNever(t *testing.T) {
	var status atomic.Int64
	var after atomic.Value
	srv, pool, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", after.Load().(string))
		w.WriteHeader(int(status.Load()))
	})
	s := newSender(t, Config{WebhookAllow: loopback, RootCAs: pool})
	m := message()
	m.Webhook = srv.URL
	later := map[int]bool{408: true, 425: true, 429: true, 500: true, 502: true, 503: true, 504: true}
	for _, c := range []int{200, 202, 204, 299, 300, 301, 304, 307, 400, 401, 403, 404, 408, 410, 413, 422, 425, 429, 500, 502, 503, 504} {
		status.Store(int64(c))
		after.Store("")
		err := s.Send(t.Context(), m)
		if (err == nil) != (c < 300) || errors.Is(err, ErrLater) != later[c] || errors.Is(err, ErrRefused) != (c >= 300 && !later[c]) {
			t.Errorf("status %d: %v", c, err)
		}
	}
	for head, want := range map[string]time.Duration{"120": 2 * time.Minute, "999999": RetryMax, "-3": -1, "soon": -1, "99999999999999999999": -1} {
		after.Store(head)
		var nb notBefore
		if err := s.Send(t.Context(), m); errors.As(err, &nb) != (want >= 0) || want >= 0 && nb.wait != want {
			t.Errorf("Retry-After %q: %v, %v", head, nb.wait, err)
		}
	}
}

func TestRedirectsAndProxiesAreNotFollowed(t *testing.T) { // the proxies: TestMain
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	_, pool, port := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/redirect" {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		}
	})
	n := &names{answers: map[string][][]string{"example.com.": {{"127.0.0.1"}}}}
	s := newSender(t, Config{WebhookAllow: loopback, RootCAs: pool, Resolver: n})
	m := message()
	m.Webhook = "https://example.com:" + port
	if err := s.Send(t.Context(), m); err != nil {
		t.Errorf("with proxies in the environment: %v", err)
	}
	m.Webhook += "/redirect"
	if err := s.Send(t.Context(), m); !errors.Is(err, ErrRefused) {
		t.Errorf("redirect: %v", err)
	}
	if n := elsewhere.Load(); n > 0 {
		t.Errorf("%d requests went elsewhere", n)
	}
}

func TestTLSIsVerifiedAndRecent(t *testing.T) {
	reached := atomic.Int64{}
	srv, pool, port := server(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	m := message()
	m.Webhook = srv.URL
	if err := newSender(t, Config{WebhookAllow: loopback}).Send(t.Context(), m); !errors.Is(err, ErrLater) {
		t.Errorf("unknown authority: %v", err)
	}
	n := &names{answers: map[string][][]string{"other.test.": {{"127.0.0.1"}}}}
	m.Webhook = "https://other.test:" + port
	if err := newSender(t, Config{WebhookAllow: loopback, RootCAs: pool, Resolver: n}).Send(t.Context(), m); !errors.Is(err, ErrLater) {
		t.Errorf("another's certificate: %v", err)
	}
	old := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.Config.ErrorLog = srv.Config.ErrorLog
	old.StartTLS()
	defer old.Close()
	m.Webhook = old.URL
	if err := newSender(t, Config{WebhookAllow: loopback, RootCAs: pool}).Send(t.Context(), m); !errors.Is(err, ErrLater) {
		t.Errorf("TLS 1.1: %v", err)
	}
	if n := reached.Load(); n > 0 {
		t.Errorf("%d requests arrived", n)
	}
}

func TestEndlessAnswersEnd(t *testing.T) {
	srv, pool, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/header" {
			w.Header().Set("X-Long", strings.Repeat("x", 4*responseHeaderBytesMax))
		}
		w.WriteHeader(http.StatusOK)
		for r.URL.Path == "/body" {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	s := newSender(t, Config{WebhookAllow: loopback, RootCAs: pool})
	m := message()
	m.Webhook = srv.URL + "/body"
	if err := s.Send(t.Context(), m); err != nil {
		t.Errorf("endless body: %v", err)
	}
	m.Webhook = srv.URL + "/header"
	if err := s.Send(t.Context(), m); !errors.Is(err, ErrLater) {
		t.Errorf("long header: %v", err)
	}
}

func TestSilentReceiversEndWithTheContext(t *testing.T) {
	// One never answers; one never shakes hands.
	entered := make(chan struct{}, 1)
	srv, pool, _ := server(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client is gone
		entered <- struct{}{}
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // an answer could still arrive while the client closes
	})
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			entered <- struct{}{}
			defer c.Close()
		}
	}()
	s := newSender(t, Config{WebhookAllow: loopback, RootCAs: pool, HTTPTimeout: time.Minute})
	for _, u := range []string{srv.URL, "https://" + silent.Addr().String()} {
		ctx, cancel := context.WithCancel(t.Context())
		m := message()
		m.Webhook = u
		done := make(chan error, 1)
		go func() { done <- s.Send(ctx, m) }()
		<-entered
		cancel()
		if err := <-done; !errors.Is(err, ErrLater) {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func TestWhatAReceiverSaysIsNotInTheError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "SSH-2.0-confidential\r\n")
			_ = c.Close()
		}
	}()
	s := newSender(t, Config{WebhookAllow: loopback})
	for _, scheme := range []string{"http", "https"} {
		m := message()
		m.Webhook = scheme + "://" + l.Addr().String() + "/token"
		if err := s.Send(t.Context(), m); !errors.Is(err, ErrLater) || strings.Contains(err.Error(), "confidential") || strings.Contains(err.Error(), "token") {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

func TestDisabledWebhooksReachNothing(t *testing.T) {
	n, w := &names{}, &wires{}
	s := newSender(t, Config{WebhookDisabled: true, WebhookAllow: loopback, Resolver: n, Dialer: w})
	m := message()
	m.Webhook = "https://h.example.com"
	if err := s.Send(t.Context(), m); !errors.Is(err, ErrRefused) || len(n.asked)+len(w.dialed) > 0 {
		t.Errorf("%v, asked %q, dialled %q", err, n.asked, w.dialed)
	}
}
