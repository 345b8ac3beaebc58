package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"vcn/api"
)

// fakeAPI is a host of a cluster over real TLS: it answers the routes from
// state in memory, checks tokens, remembers idempotency keys, and moves a
// reservation on by one stage with each long poll.
type fakeAPI struct {
	*httptest.Server
	id          string
	fingerprint string

	mu       sync.Mutex
	keys     map[string]string // idempotency key to reservation
	res      []*api.Reservation
	index    uint64
	images   []api.Image
	tokens   []api.Token
	requests []string
	hold     bool // long polls wait for their end instead of moving on
	polled   chan struct{}
	busy     int // answer 503 this many times
	failBoot bool
	cancel   bool // releases what is provisioning
	calendar fakeCalendar
}

var fakeNow = time.Date(2026, 11, 23, 8, 0, 30, 0, time.UTC)

const fakeHostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFRJdi1l frontend"

func newFakeAPI(t testing.TB, id string) *fakeAPI {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: id}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(caDER)
	f := &fakeAPI{id: id, fingerprint: hex.EncodeToString(sum[:]), keys: map[string]string{}, index: 10, polled: make(chan struct{}, 100)}
	f.Server = httptest.NewUnstartedServer(f.mux())
	f.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der, caDER}, PrivateKey: key}}}
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.StartTLS()
	t.Cleanup(f.Close)
	return f
}

// token makes a token of this cluster; its id says what it is worth.
func (f *fakeAPI) token(kind api.TokenKind, id string) string {
	return api.TokenText{Kind: kind, ClusterID: f.id, ID: id, Secret: strings.Repeat("5", 64), CAFingerprint: f.fingerprint}.String()
}

func (f *fakeAPI) mux() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET "+api.PathStatus, func(w http.ResponseWriter, r *http.Request) {
		fakeAnswer(w, 200, api.Status{ClusterID: f.id, Name: "lab", Host: "h2", Leader: "h1", Voters: 3, Expect: 3, Hosts: 4, HostsAlive: 3, Reservations: len(f.res), Index: f.index, Version: "0.1"})
	})
	m.HandleFunc("GET "+api.PathHosts, f.hosts)
	m.HandleFunc("GET "+api.PathLeases, func(w http.ResponseWriter, r *http.Request) {
		fakeAnswer(w, 200, api.List[api.Lease]{Items: []api.Lease{{Kind: "vlan", Value: "101", Reservation: "r1"}, {Kind: "mac", Value: "02:00:00:00:00:01", Reservation: "r1", Node: "frontend"}}})
	})
	m.HandleFunc("GET "+api.PathRolls, func(w http.ResponseWriter, r *http.Request) {
		fakeAnswer(w, 200, api.List[api.Roll]{Items: []api.Roll{{Name: "slurm", Version: "1.0", Description: "Slurm scheduler", Requires: []string{"base", "home"}, Appliances: []string{"frontend", "worker"}}}})
	})
	m.HandleFunc("GET "+api.PathEvents, f.events)
	m.HandleFunc("GET "+api.PathImages, f.listImages)
	m.HandleFunc("POST "+api.PathImages, f.buildImages)
	m.HandleFunc("GET "+api.PathTokens, func(w http.ResponseWriter, r *http.Request) { fakeAnswer(w, 200, api.List[api.Token]{Items: f.tokens}) })
	m.HandleFunc("POST "+api.PathTokens, f.createToken)
	m.HandleFunc("DELETE "+api.PathTokens+"/{id}", f.revokeToken)
	m.HandleFunc("POST "+api.PathReservations, f.reserve)
	m.HandleFunc("GET "+api.PathReservations, f.listReservations)
	m.HandleFunc("GET "+api.PathReservations+"/{ref}", f.getReservation)
	m.HandleFunc("DELETE "+api.PathReservations+"/{ref}", f.release)
	m.HandleFunc("GET "+api.PathReservations+"/{ref}/events", f.events)
	f.calendarRoutes(m)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.guard(w, r, m) })
}

// guard checks the token and takes the lock but while a long poll is held.
func (f *fakeAPI) guard(w http.ResponseWriter, r *http.Request, next http.Handler) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	f.calendar.note(r)
	text, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	tok, err := api.ParseToken(text)
	switch {
	case f.busy > 0:
		f.busy--
		w.Header().Set("Retry-After", "0")
		fakeProblem(w, 503, api.CodeNoLeader, "no leader for 2 s", "")
	case err != nil:
		fakeProblem(w, 401, api.CodeUnauthorized, "no token", "")
	case tok.ClusterID != f.id:
		fakeProblem(w, 421, api.CodeWrongCluster, "the token is of another cluster of hosts", "")
	case tok.ID == "expired":
		fakeProblem(w, 401, api.CodeUnauthorized, "the token expired at 2026-11-01T00:00Z", "")
	case tok.ID == "small" && r.URL.Path == api.PathHosts:
		fakeProblem(w, 403, api.CodeForbidden, "a project token may not list hosts", "")
	case f.calendar.stall:
		f.mu.Unlock()
		<-r.Context().Done()
		f.mu.Lock()
	default:
		next.ServeHTTP(w, r)
	}
}

func fakeAnswer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func fakeProblem(w http.ResponseWriter, status int, code api.Code, detail, next string, reasons ...string) {
	fakeAnswer(w, status, api.Problem{Status: status, Code: code, Detail: detail, Next: next, Reasons: reasons})
}

func (f *fakeAPI) hosts(w http.ResponseWriter, _ *http.Request) {
	fakeAnswer(w, 200, api.List[api.Host]{Items: []api.Host{
		{ID: "1", Name: "h1", Classes: []api.Class{api.ClassGateway, api.ClassCompute}, APIAddress: f.URL, Status: "alive", Raft: "leader", CPUs: 8, FreeCPUs: 6, Memory: 16 * api.GiB, FreeMemory: 15*api.GiB + 512*api.MiB, Storage: 2 * api.TiB, FreeStorage: api.TiB, Accel: "tcg", Network: "vxlan", Version: "0.1"},
		{ID: "2", Name: "h2", Classes: []api.Class{api.ClassStorage}, APIAddress: "127.0.0.1:1", Status: "dead", Raft: "voter", Version: "0.1"},
	}})
}

func (f *fakeAPI) events(w http.ResponseWriter, r *http.Request) {
	if ref := r.PathValue("ref"); ref != "" && f.find(ref) == nil {
		fakeProblem(w, 404, api.CodeNotFound, fmt.Sprintf("there is no reservation %q", ref), "")
		return
	}
	fakeAnswer(w, 200, api.EventList{Index: 12, Items: []api.Event{{Index: 12, Time: fakeNow, Reservation: "r1", Host: "h1", Kind: "reservation.ready", Message: "mine is\x1b[31m ready"}}})
}

func (f *fakeAPI) reserve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("offer") {
		f.takeOffer(w, r)
		return
	}
	var s api.Spec
	if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
		fakeProblem(w, 422, api.CodeInvalid, err.Error(), "")
		return
	}
	if s.Slot.Repeat != "" {
		f.reserveSeries(w, r, s)
		return
	}
	for _, roll := range s.Rolls {
		if roll == "nosuch" {
			p := api.Invalid("the specification is not right", []api.FieldError{{Field: "rolls[0]", Value: roll, Want: "a roll there is: base, home, slurm, users"}})
			p.Next = "See the rolls there are: vcnctl roll list"
			fakeAnswer(w, 422, p)
			return
		}
	}
	if s.Name == "toobig" && !r.URL.Query().Has("waitFor") {
		fakeProblem(w, 409, api.CodeNoFit, "toobig does not fit", "", "compute: 40 cores short from 08:00 to 16:00")
		return
	}
	made := f.plan(s)
	if s.Name == "toobig" {
		f.waitlist(made, r.URL.Query().Get("waitFor"))
	}
	if r.URL.Query().Get("dryRun") == "true" {
		fakeAnswer(w, 200, api.Plan{Start: made.Start, End: made.End, Provision: made.Provision, Lead: made.Lead, Nodes: made.Nodes, Rolls: made.Rolls, Expected: made.Start.Add(40 * time.Second)})
		return
	}
	key := r.Header.Get(api.HeaderIdempotencyKey)
	if key == "" {
		fakeProblem(w, 422, api.CodeInvalid, "no idempotency key", "")
		return
	}
	if id, ok := f.keys[key]; ok {
		fakeAnswer(w, 201, f.find(id))
		return
	}
	if f.find(s.Name) != nil {
		fakeProblem(w, 409, api.CodeConflict, fmt.Sprintf("there is a reservation %q already", s.Name), "Take another name, or release it: vcnctl release "+s.Name)
		return
	}
	made.ID = fmt.Sprintf("r%d", len(f.res)+1)
	f.keys[key] = made.ID
	f.index++
	f.res = append(f.res, made)
	fakeAnswer(w, 201, made)
}

// plan is a booked reservation of a specification.
func (f *fakeAPI) plan(s api.Spec) *api.Reservation {
	start, end, _, err := s.ResolveSlot(fakeNow.Add(-30 * time.Second))
	if err != nil {
		start, end = fakeNow, fakeNow
	}
	r := &api.Reservation{Name: s.Name, Project: "studio", State: api.StateBooked, Start: start, End: end, Provision: start, Created: fakeNow.Add(-30 * time.Second),
		VLAN: 101, Subnet: "10.64.0.0/24", Rolls: append([]string{"base@1.0"}, s.Rolls...), Spec: s}
	f.lead(r)
	for i, n := range s.NodeNames() {
		node := api.Node{Name: n, Role: api.RoleWorker, Host: "h2", Storage: "h3", PrivateIP: fmt.Sprintf("10.64.0.%d", i+1), CPUs: 1, Memory: 512 * api.MiB, Disk: 4 * api.GiB, State: "waiting", Since: r.Created}
		if i == 0 {
			node.Role, node.Host, node.PublicIP = api.RoleFrontend, "h1", "192.0.2.50"
		}
		r.Nodes = append(r.Nodes, node)
	}
	return r
}

func (f *fakeAPI) find(ref string) *api.Reservation {
	for _, r := range f.res {
		if r.ID == ref || r.Name == ref {
			return r
		}
	}
	return nil
}

func (f *fakeAPI) listReservations(w http.ResponseWriter, _ *http.Request) {
	list := api.List[api.Reservation]{Items: []api.Reservation{}}
	for _, r := range f.res {
		list.Items = append(list.Items, *r)
	}
	fakeAnswer(w, 200, list)
}

func (f *fakeAPI) getReservation(w http.ResponseWriter, q *http.Request) {
	r := f.find(q.PathValue("ref"))
	if r == nil {
		fakeProblem(w, 404, api.CodeNotFound, fmt.Sprintf("there is no reservation %q", q.PathValue("ref")), "")
		return
	}
	if q.URL.Query().Get("wait") != "" {
		select {
		case f.polled <- struct{}{}:
		default:
		}
		if f.hold {
			f.mu.Unlock()
			<-q.Context().Done()
			f.mu.Lock()
			return
		}
		f.step(r)
	}
	w.Header().Set(api.HeaderIndex, strconv.FormatUint(f.index, 10))
	fakeAnswer(w, 200, r)
}

// step moves a reservation on by one stage, three seconds each.
func (f *fakeAPI) step(r *api.Reservation) {
	f.index++
	at := r.Created.Add(time.Duration(len(r.Phases)+1) * 3 * time.Second)
	endLast := func() {
		if n := len(r.Phases); n > 0 && r.Phases[n-1].End == nil {
			r.Phases[n-1].End = &at
		}
	}
	all := func(state string) {
		for i := range r.Nodes {
			r.Nodes[i].State, r.Nodes[i].Since = state, at
		}
	}
	switch {
	case f.stepCalendar(r, at):
	case r.State == api.StateBooked:
		r.State = api.StateProvisioning
		r.Phases = []api.Phase{{Name: "images", Start: at, Note: "cached"}}
	case r.State == api.StateProvisioning && len(r.Phases) == 1:
		endLast()
		r.Phases = append(r.Phases, api.Phase{Name: "volumes", Start: at})
		all("volume")
	case r.State == api.StateProvisioning && len(r.Phases) == 2:
		endLast()
		r.Phases = append(r.Phases, api.Phase{Name: "boot", Start: at})
		all("booting")
	case r.State == api.StateProvisioning && f.cancel:
		r.State, r.Message = api.StateCancelled, "cancelled while provisioning, by t7"
	case r.State == api.StateProvisioning && f.failBoot:
		r.State, r.Message = api.StateFailed, "compute-0 did not boot"
	case r.State == api.StateProvisioning:
		endLast()
		all("ready")
		early := int64(r.Start.Sub(at) / time.Second)
		r.Early, r.Expected = &early, nil
		r.State, r.ReadyAt, r.Frontend = api.StateActive, &at, &api.Frontend{Address: "192.0.2.50", HostKey: fakeHostKey}
	case r.State == api.StateEnding:
		r.State, r.Nodes = api.StateEnded, nil
	}
}

func (f *fakeAPI) release(w http.ResponseWriter, q *http.Request) {
	r := f.find(q.PathValue("ref"))
	if r == nil {
		fakeProblem(w, 404, api.CodeNotFound, fmt.Sprintf("there is no reservation %q", q.PathValue("ref")), "")
		return
	}
	r.State = api.StateEnding
	f.index++
	fakeAnswer(w, 202, r)
}

func (f *fakeAPI) buildImages(w http.ResponseWriter, q *http.Request) {
	var req api.ImageRequest
	if err := json.NewDecoder(q.Body).Decode(&req); err != nil {
		fakeProblem(w, 422, api.CodeInvalid, err.Error(), "")
		return
	}
	var asked []api.Image
	for _, a := range []string{"frontend", "worker"} {
		recipe := sha256.Sum256([]byte(a + strings.Join(req.Rolls, ",")))
		asked = append(asked, api.Image{Recipe: hex.EncodeToString(recipe[:]), Appliance: a, Rolls: req.Rolls, State: "wanted"})
	}
	f.images = append(f.images, asked...)
	fakeAnswer(w, 202, api.List[api.Image]{Items: asked})
}

// listImages moves every image on by one stage.
func (f *fakeAPI) listImages(w http.ResponseWriter, _ *http.Request) {
	next := map[string]string{"wanted": "building", "building": "ready"}
	for i := range f.images {
		m := &f.images[i]
		if s, ok := next[m.State]; ok {
			m.State = s
		}
		switch {
		case m.State == "ready" && slices.Contains(m.Rolls, "broken"):
			m.State, m.Message = "failed", "package missing"
		case m.State == "ready":
			m.Message, m.Size, m.Hosts = "", 415*api.MiB, []string{"h1", "h2"}
		case m.State == "building":
			m.Message = "installing packages"
		}
	}
	fakeAnswer(w, 200, api.List[api.Image]{Items: f.images})
}

func (f *fakeAPI) createToken(w http.ResponseWriter, q *http.Request) {
	var req api.TokenRequest
	if err := json.NewDecoder(q.Body).Decode(&req); err != nil {
		fakeProblem(w, 422, api.CodeInvalid, err.Error(), "")
		return
	}
	id := fmt.Sprintf("t%d", len(f.tokens)+1)
	if strings.HasPrefix(req.Note, "id ") { // like a real one
		id = strings.TrimPrefix(req.Note, "id ")
	}
	t := api.Token{ID: id, Kind: req.Kind, Project: req.Project, Note: req.Note, Created: fakeNow, Expires: fakeNow.Add(time.Hour)}
	f.tokens = append(f.tokens, t)
	t.Secret = f.token(req.Kind, t.ID)
	fakeAnswer(w, 201, t)
}

func (f *fakeAPI) revokeToken(w http.ResponseWriter, q *http.Request) {
	for i, t := range f.tokens {
		if t.ID == q.PathValue("id") {
			f.tokens = append(f.tokens[:i], f.tokens[i+1:]...)
			w.WriteHeader(204)
			return
		}
	}
	fakeProblem(w, 404, api.CodeNotFound, fmt.Sprintf("there is no token %q", q.PathValue("id")), "")
}
