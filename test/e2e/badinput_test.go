//go:build rooted

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"vcn/api"
	"vcn/api/client"
)

// record is what bad input must not change.
type record struct {
	Reservations []api.Reservation
	Leases       []api.Lease
	Tokens       []api.Token
	Events       []api.Event
	Live         int
}

func recorded(t *testing.T) record {
	t.Helper()
	return record{
		Reservations: mustList[api.Reservation](t, "list", "--all"), Leases: mustList[api.Lease](t, "lease", "list"),
		Tokens: mustList[api.Token](t, "token", "list"), Events: reservationEvents(t), Live: must[api.Status](t, "status").Reservations,
	}
}

// reservationEvents are those that tell of a reservation; hosts have their own.
func reservationEvents(t *testing.T) (out []api.Event) {
	t.Helper()
	for _, e := range mustList[api.Event](t, "events") {
		if e.Reservation != "" {
			out = append(out, e)
		}
	}
	return out
}

// unchanged runs f and fails if anything that is recorded has changed.
func unchanged(t *testing.T, f func()) {
	t.Helper()
	before := recorded(t)
	f()
	if d := cmp.Diff(before, recorded(t)); d != "" {
		t.Errorf("bad input changed something (-before +after):\n%s", d)
	}
}

// badSpecs are specifications that are wrong, by what vcnctl must say. Raw
// means that the host itself must refuse the same with 422.
var badSpecs = map[string]struct {
	from, to string
	code     int
	want     []string
	raw      bool
}{
	"unknown field":    {"memory: 512MiB, disk: 4GiB}\nworkers", "memroy: 512MiB, disk: 4GiB}\nworkers", 2, []string{"frontend.memroy", `did you mean "memory"?`}, true},
	"wrong unit":       {"memory: 512MiB, disk: 4GiB}\nworkers", "memory: 512MB, disk: 4GiB}\nworkers", 2, []string{`frontend.memory: "512MB": want 512MiB`}, true},
	"end before start": {"{start: asap, for: 1h}", "{start: 2031-05-01T09:00Z, end: 2031-04-30T09:00Z}", 2, []string{`slot.end: "2031-04-30T09:00Z": want a time after the start`}, true},
	"slot in the past": {"{start: asap, for: 1h}", "{start: 2021-05-01T09:00Z, for: 1h}", 2, []string{"slot.start", "2021-05-01T09:00Z"}, true},
	"unknown roll":     {"[slurm]", "[slurm, nosuch]", 2, []string{`rolls[1]: "nosuch"`, "slurm", "vcnctl roll list"}, true},
	"more than exists": {"count: 1", "count: 1000", 3, []string{"vcnctl host list"}, false},
	"larger than any":  {"cpus: 1, memory: 512MiB, disk: 4GiB}\nrolls", "cpus: 200, memory: 512MiB, disk: 4GiB}\nrolls", 3, []string{"cores"}, false},
}

func (l *life) badInput(t *testing.T) {
	good, err := os.ReadFile(l.spec(t, "bad", "{start: asap, for: 1h}", 1))
	if err != nil {
		t.Fatal(err)
	}
	web := hostClient(t)
	unchanged(t, func() {
		for name, c := range badSpecs {
			if bytes.Count(good, []byte(c.from)) != 1 {
				t.Fatalf("%s: %q is not once in the specification", name, c.from)
			}
			bad := bytes.Replace(good, []byte(c.from), []byte(c.to), 1)
			file := filepath.Join(t.TempDir(), "bad.yaml")
			if err := os.WriteFile(file, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, extra := range [][]string{nil, {"--dry-run"}} {
				_, err := bed.Vcnctl(bounded(t, askMax), append([]string{"reserve", "-f", file}, extra...)...)
				refused(t, name, err, c.code, c.want...)
			}
			if c.raw {
				l.rawRefused(t, web, name, bad, c.want[0])
			}
		}
		_, err = bed.Vcnctl(bounded(t, askMax), "show", "nosuch")
		refused(t, "unknown reservation", err, 4, "nosuch")
		_, err = bed.Vcnctl(bounded(t, askMax), "release", "nosuch")
		refused(t, "release of an unknown reservation", err, 4, "nosuch")
		l.strangers(t, web)
	})
	same(t, l.empty)
}

// refused checks an error of vcnctl.
func refused(t *testing.T, what string, err error, code int, want ...string) {
	t.Helper()
	if got := exitOf(err); got != code {
		t.Errorf("%s: exit code %d, want %d: %v", what, got, code, err)
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %v\nwant %q in it", what, err, w)
		}
	}
}

// saved is what vcnctl remembers of this cluster of hosts.
func saved(t *testing.T) (ca []byte, token string) {
	t.Helper()
	b, err := os.ReadFile(bed.ContextFile())
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Contexts []struct{ CA, Token string }
	}
	if err := yaml.Unmarshal(b, &c); err != nil || len(c.Contexts) != 1 {
		t.Fatalf("read contexts: %d, %v", len(c.Contexts), err)
	}
	return []byte(c.Contexts[0].CA), c.Contexts[0].Token
}

// hostClient speaks to a host without vcnctl's own checks.
func hostClient(t *testing.T) *http.Client {
	t.Helper()
	ca, _ := saved(t)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatal("the context has no CA certificate")
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: askMax}
}

// post sends a body to the last host, a follower, and returns the problem.
func post(t *testing.T, web *http.Client, token string, body []byte) *api.Problem {
	t.Helper()
	req, err := http.NewRequestWithContext(bounded(t, askMax), http.MethodPost, "https://"+bed.Hosts[len(bed.Hosts)-1].API()+api.PathReservations, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	res, err := web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var p api.Problem
	if err := json.Unmarshal(b, &p); err != nil || p.Status != res.StatusCode {
		t.Fatalf("status %d with %s: %v", res.StatusCode, b, err)
	}
	return &p
}

func (l *life) rawRefused(t *testing.T, web *http.Client, name string, spec []byte, want string) {
	t.Helper()
	body, err := yaml.YAMLToJSON(spec)
	if err != nil {
		t.Fatal(err)
	}
	_, token := saved(t)
	if p := post(t, web, token, body); p.Status != 422 || p.Code != api.CodeInvalid || !strings.Contains(p.Error(), want) {
		t.Errorf("%s, at the host: %d %s %v, want 422 %s and %q", name, p.Status, p.Code, p, api.CodeInvalid, want)
	}
}

// strangers: what belongs to another cluster of hosts is refused on both sides.
func (l *life) strangers(t *testing.T, web *http.Client) {
	t.Helper()
	dir := t.TempDir()
	conf, tokenFile := filepath.Join(dir, "vcnd.yaml"), filepath.Join(dir, "token")
	if err := os.WriteFile(conf, []byte("name: other\naddress: 127.0.0.9\ndataDir: "+filepath.Join(dir, "data")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	vcnd := func(args ...string) (string, error) {
		out, err := exec.CommandContext(bounded(t, askMax), filepath.Join(places.bin, "vcnd"), args...).CombinedOutput()
		return string(out), err
	}
	if out, err := vcnd("init", "--config", conf, "--name", "other", "--public-pool", "192.0.2.10-192.0.2.20/24", "--token-file", tokenFile); err != nil {
		t.Fatalf("make another cluster of hosts: %v: %s", err, out)
	}
	b, err := os.ReadFile(tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	foreign := strings.TrimSpace(string(b))
	at := "https://" + bed.Hosts[0].API()

	_, err = bed.Vcnctl(bounded(t, askMax), "list", "--token", foreign)
	refused(t, "token of another cluster in a context", err, 1, "another cluster")
	_, err = bed.Vcnctl(bounded(t, askMax), "context", "add", "other", "--host", at, "--token", foreign)
	refused(t, "token of another cluster in a new context", err, 1, "another cluster")
	if p := post(t, web, foreign, []byte(`{}`)); p.Status != 421 || p.Code != api.CodeWrongCluster {
		t.Errorf("a host that is sent the token of another cluster says %d %s %v", p.Status, p.Code, p)
	}
	// A host of another cluster, met with this one's token: the CA is not it.
	var other struct{ CA []byte }
	b, err = os.ReadFile(filepath.Join(dir, "data", "identity.json"))
	if err == nil {
		err = json.Unmarshal(b, &other)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, token := saved(t)
	c, err := client.New(client.Config{Hosts: []string{at}, CA: other.CA, Token: token, RetryFor: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Status(t.Context()); !errors.Is(err, client.ErrWrongCluster) {
		t.Errorf("a host with another CA than the pinned one: %v", err)
	}
	// And a host that has no right to join does not.
	text, err := api.ParseToken(foreign)
	if err != nil {
		t.Fatal(err)
	}
	text.Kind = api.TokenJoin
	conf2 := filepath.Join(dir, "vcnd2.yaml")
	if err := errors.Join(os.WriteFile(conf2, []byte("name: other2\naddress: 127.0.0.9\ndataDir: "+filepath.Join(dir, "data2")+"\n"), 0o600),
		os.WriteFile(tokenFile, []byte(text.String()), 0o600)); err != nil {
		t.Fatal(err)
	}
	if out, err := vcnd("join", "--config", conf2, "--host", at, "--token-file", tokenFile); err == nil || !strings.Contains(out, "another cluster") {
		t.Errorf("joining with another cluster's token: %v: %s", err, out)
	}
}

// expired waits out the token of a minute that was made at the beginning.
func (l *life) expired(t *testing.T) {
	until(t, convergeMax, "the token to expire", func(context.Context) (bool, string) {
		return time.Now().After(l.shortToken.Expires), "it lives until " + l.shortToken.Expires.String()
	})
	spec := l.spec(t, "late", "{start: asap, for: 1h}", 1)
	unchanged(t, func() {
		_, err := bed.Vcnctl(bounded(t, askMax), "reserve", "-f", spec, "--token", l.shortToken.Secret)
		refused(t, "expired token", err, 1, "the token expired at "+l.shortToken.Expires.UTC().Format(time.RFC3339), "vcnctl token create")
	})
}
