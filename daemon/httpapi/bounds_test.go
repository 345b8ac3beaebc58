package httpapi_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vcn/api"
	"vcn/daemon/control/controltest"
	"vcn/fsm"
)

// TestThePublicCannotKeepHostsFromEachOther fills the public listener with
// requests that are held; the internal one still answers, and the other way round.
func TestThePublicCannotKeepHostsFromEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 1)
		server := w.hosts[controltest.HostID(0)].server
		status := func(h http.Handler) int {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, httptest.NewRequest("GET", "/no/such/thing", nil))
			return rec.Code
		}
		w.setLeader("") // requests wait for one
		const slots = 1024
		for range slots {
			go server.Public().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", api.PathStatus, nil))
		}
		synctest.Wait()
		if got := status(server.Public()); got != http.StatusServiceUnavailable {
			t.Errorf("the public listener is full and answers %d, want 503", got)
		}
		if got := status(server.Internal()); got != http.StatusNotFound {
			t.Errorf("the internal listener answers %d, want 404: it has room of its own", got)
		}
		time.Sleep(time.Minute)
		if got := status(server.Public()); got != http.StatusNotFound {
			t.Errorf("with its slots back the public listener answers %d, want 404", got)
		}
	})
}

// pipes is a listener whose connections are in memory.
type pipes struct{ conns chan net.Conn }

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { close(p.conns); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestABodyThatDribblesIsGivenUp sends a body that never ends, and then, on
// another connection, one that comes slowly but in time, with a long poll behind it that
// takes longer than any body may.
func TestABodyThatDribblesIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, controltest.Options{}, 1)
		l := pipes{make(chan net.Conn)}
		srv := &http.Server{Handler: w.hosts[controltest.HostID(0)].server.Public()}
		done := make(chan error, 1)
		go func() { done <- srv.Serve(l) }()
		dial := func() (net.Conn, *bufio.Reader) {
			here, there := net.Pipe()
			l.conns <- there
			return here, bufio.NewReader(here)
		}
		head := func(method, path string, length int) string {
			return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", method, path, w.rig.Operator, length)
		}
		c, r := dial()
		began := time.Now()
		io.WriteString(c, head("POST", api.PathTokens, 1000))
		go func(c net.Conn) { // a byte each second, until it is cut
			for {
				if _, err := io.WriteString(c, " "); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}(c)
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); res.StatusCode != http.StatusRequestTimeout || took < 29*time.Second || took > 31*time.Second || !res.Close {
			t.Errorf("status %d after %s, connection closes: %v; want 408 after 30 s, and that", res.StatusCode, took, res.Close)
		}
		c.Close()

		c, r = dial()
		body := `{"kind":"join"}`
		io.WriteString(c, head("POST", api.PathTokens, len(body)))
		time.Sleep(20 * time.Second)
		io.WriteString(c, body)
		res, err = http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != http.StatusCreated {
			t.Fatalf("a slow body: %+v, %v", res, err)
		}
		io.Copy(io.Discard, res.Body)
		poll := fmt.Sprintf("%s?after=%d&wait=60s", api.PathEvents, w.rig.FSM.View().Index())
		io.WriteString(c, head("GET", poll, 0))
		time.Sleep(50 * time.Second)
		w.rig.Apply(fsm.HostStatusSet{Host: controltest.HostID(1), Status: fsm.HostDead})
		res, err = http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		if res.StatusCode != http.StatusOK || !strings.Contains(string(text), "dead") {
			t.Errorf("a long poll after it: %d %s", res.StatusCode, text)
		}
		c.Close()
		srv.Close()
		<-done
	})
}
