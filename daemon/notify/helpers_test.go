package notify

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain sets a proxy that is not there for all tests: net/http reads the
// environment only once.
func TestMain(m *testing.M) {
	for _, v := range []string{"HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"} {
		if err := os.Setenv(v, "http://proxy.invalid:3128"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

var eventTime = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)

func message() Message {
	return Message{
		ID: "1234.0", Kind: "reservation.ready", Time: eventTime, Reservation: "0199-aa", Name: "rendering", Project: "studio",
		State: "ready", Text: "Reservation rendering is ready.", Start: eventTime, End: eventTime.Add(8 * time.Hour), Zone: "Asia/Tokyo",
	}
}

// names is a resolver that gives its answers in turn, the last one for ever.
type names struct {
	mu      sync.Mutex
	answers map[string][][]string
	asked   []string
}

func (n *names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, host)
	rounds := n.answers[host]
	if len(rounds) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, Server: "10.9.9.9:53", IsNotFound: true}
	}
	var out []netip.Addr
	for _, a := range rounds[0] {
		out = append(out, netip.MustParseAddr(a))
	}
	if len(rounds) > 1 {
		n.answers[host] = rounds[1:]
	}
	return out, nil
}

// wires is a dialer that notes where to, and connects all to one address.
type wires struct {
	mu     sync.Mutex
	to     string
	dialed []string
}

func (w *wires) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dialed = append(w.dialed, address)
	w.mu.Unlock()
	if w.to == "" {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.ErrDeadlineExceeded}
	}
	return (&net.Dialer{}).DialContext(ctx, network, w.to)
}

func newSender(t *testing.T, c Config) *Sender {
	t.Helper()
	if c.Site == "" {
		c.Site = "lab"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// server starts a receiver on loopback with a certificate of example.com and 127.0.0.1.
func server(t *testing.T, h http.HandlerFunc) (*httptest.Server, *x509.CertPool, string) {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return srv, pool, port
}

// script writes a shell script that may be run as the mail command; dir is where it
// may write.
func script(t *testing.T, text string) (path, dir string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "mail command")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nD='"+dir+"'\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, dir
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
