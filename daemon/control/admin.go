package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"

	"github.com/google/uuid"

	"vcn/api"
	"vcn/cluster/pki"
	"vcn/fsm"
	"vcn/rolls"
)

// joinPeersMax bounds the gossip addresses a joining host is told.
const joinPeersMax = 16

// CreateToken makes a token. Its secret is in the answer and nowhere else: the
// state keeps a hash.
func (c *Control) CreateToken(ctx context.Context, req api.TokenRequest, by string) (api.Token, error) {
	req = req.Defaults()
	if errs := req.Validate(); len(errs) > 0 {
		return api.Token{}, api.Invalid("the token request is not valid", errs)
	}
	return c.makeToken(ctx, req, by)
}

// makeToken makes a token of a valid request.
func (c *Control) makeToken(ctx context.Context, req api.TokenRequest, by string) (api.Token, error) {
	life, err := api.ParseDuration(req.For)
	if err != nil {
		return api.Token{}, fmt.Errorf("create token: %w", err)
	}
	meta, ok := c.cfg.State.View().Meta()
	if !ok {
		return api.Token{}, fmt.Errorf("create token: %w", fsm.ErrNotInitialized)
	}
	text, row, err := NewToken(meta.ClusterID, meta.CACert, req.Kind)
	if err != nil {
		return api.Token{}, err
	}
	row.Project, row.Note = req.Project, req.Note
	row.Expires = c.now().Add(life)
	if _, err := c.apply(ctx, fsm.TokenCreate{Token: row}); err != nil {
		return api.Token{}, err
	}
	c.cfg.Log.Info("token created", "token", row.ID, "kind", row.Kind, "project", row.Project, "by", by)
	return api.Token{ID: row.ID, Kind: row.Kind, Project: row.Project, Note: row.Note,
		Created: c.now(), Expires: row.Expires, Secret: text}, nil
}

// NewToken makes the text of a token and its row, without project and expiry.
// vcnd init uses it for the first operator's.
func NewToken(clusterID string, caPEM []byte, kind api.TokenKind) (text string, row fsm.Token, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", row, fmt.Errorf("make token id: %w", err)
	}
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return "", row, fmt.Errorf("make token: %w", err)
	}
	t := api.TokenText{Kind: kind, ClusterID: clusterID, ID: id.String(), Secret: hex.EncodeToString(secret[:]), CAFingerprint: pki.Fingerprint(caPEM)}
	text = t.String()
	if _, err := api.ParseToken(text); err != nil {
		return "", row, fmt.Errorf("make token: %w", err)
	}
	return text, fsm.Token{ID: t.ID, Kind: kind, Hash: api.HashToken(text)}, nil
}

// RevokeToken removes a token.
func (c *Control) RevokeToken(ctx context.Context, id string) error {
	missing := &api.Problem{Status: http.StatusNotFound, Code: api.CodeNotFound, Detail: "there is no token " + id, Next: "vcnctl token list shows those there are"}
	if _, ok := c.cfg.State.View().TokenByID(id); !ok {
		return missing // what is known to be refused need not go into the log
	}
	_, err := c.apply(ctx, fsm.TokenRevoke{ID: id})
	if errors.Is(err, fsm.ErrNotFound) {
		return missing
	}
	return err
}

// WantImages asks that images of the rolls exist, and returns their recipes in
// the order of the appliances.
func (c *Control) WantImages(ctx context.Context, req api.ImageRequest) ([]string, error) {
	if errs := req.Validate(); len(errs) > 0 {
		return nil, api.Invalid("the image request is not valid", errs)
	}
	if len(req.Appliances) == 0 {
		req.Appliances = []string{api.FrontendName, api.DefaultWorkerAppliance}
	}
	var out []string
	v := c.cfg.State.View()
	load := c.planner.load(v)
	for _, a := range req.Appliances {
		r, err := c.recipes.resolve(req.Rolls, a)
		if err != nil {
			return nil, rollProblem("rolls", req.Rolls, err)
		}
		out = append(out, r.digest)
		if img, ok := v.Image(r.digest); ok && img.State != fsm.ImageFailed {
			continue
		}
		builder := chooseBuilder(v, load, "")
		if builder == "" {
			return nil, noBuilder()
		}
		load[builder]++
		if _, err := c.apply(ctx, fsm.ImageWant{Recipe: r.digest, Appliance: a, Rolls: r.names, Builder: builder}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func noBuilder() *api.Problem {
	return &api.Problem{Status: http.StatusConflict, Code: api.CodeNoFit, Detail: "no host can build images now",
		Reasons: []string{"no registered host is alive and not cordoned"}, Next: "start vcnd on a host; vcnctl host list shows all"}
}

// RegisterHost adds a host or updates what is known of it.
func (c *Control) RegisterHost(ctx context.Context, h fsm.Host) error {
	_, err := c.apply(ctx, fsm.HostRegister{Host: h})
	switch {
	case errors.Is(err, fsm.ErrNameTaken):
		return &api.Problem{Status: http.StatusConflict, Code: api.CodeConflict,
			Detail: fmt.Sprintf("another host is named %s", h.Name), Next: "give this host another name in its configuration"}
	case errors.Is(err, fsm.ErrInvalid):
		return api.Invalid(err.Error(), nil)
	}
	return err
}

// Report takes a host's account of what it holds.
func (c *Control) Report(ctx context.Context, r fsm.HostReport) error {
	_, err := c.apply(ctx, r)
	switch {
	case errors.Is(err, fsm.ErrUnknownHost):
		return &api.Problem{Status: http.StatusNotFound, Code: api.CodeNotFound, Detail: "this host is not registered", Next: "it registers by itself when it joins"}
	case errors.Is(err, fsm.ErrInvalid):
		return api.Invalid(err.Error(), nil)
	}
	return err
}

// SignJoin makes a new host a member: it signs the host's request with the
// cluster's CA and hands over what it needs to speak to the others. remote is
// the address the request came from; it becomes a name in the certificate.
//
// A host id belongs to who took it first: the id of a registered host is
// refused, whatever has become of that host. A token lets one in; it must not
// let one be somebody else, with that one's volumes and votes.
func (c *Control) SignJoin(_ context.Context, req api.JoinRequest, remote string) (api.JoinResponse, error) {
	v := c.cfg.State.View()
	meta, ok := v.Meta()
	if !ok {
		return api.JoinResponse{}, fmt.Errorf("sign join: %w", fsm.ErrNotInitialized)
	}
	if h, ok := v.Host(req.HostID); ok {
		return api.JoinResponse{}, conflictHost(fmt.Sprintf("host id %s belongs to host %s, which is %s", req.HostID, h.Name, h.Status),
			"vcnd join makes a new id each time; a host that has its data directory need not join again")
	}
	if _, ok := v.HostByName(req.Name); ok {
		return api.JoinResponse{}, conflictHost("another host is named "+req.Name, "give this host another name in its configuration; vcnctl host list shows all")
	}
	var ips []net.IP
	if ip := remoteIP(remote); ip != nil {
		ips = append(ips, ip)
	}
	ca := pki.CA{CertPEM: meta.CACert, KeyPEM: meta.CAKey}
	cert, err := ca.SignHost([]byte(req.CSR), req.HostID, req.Name, nil, ips)
	if err != nil {
		// The CA is ours and good; what is wrong can only be the request.
		return api.JoinResponse{}, api.Invalid("the join request cannot be signed: "+err.Error(), nil)
	}
	c.cfg.Log.Info("host joins", "host", req.HostID, "name", req.Name, "remote", remote)
	return api.JoinResponse{ClusterID: meta.ClusterID, CA: string(meta.CACert), Cert: string(cert),
		GossipKey: base64.StdEncoding.EncodeToString(meta.GossipKey), Peers: c.gossipPeers()}, nil
}

func conflictHost(detail, next string) *api.Problem {
	return &api.Problem{Status: http.StatusConflict, Code: api.CodeConflict, Detail: detail, Next: next}
}

func remoteIP(remote string) net.IP {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return nil
	}
	return net.IP(ap.Addr().Unmap().WithZone("").AsSlice())
}

func (c *Control) gossipPeers() []string {
	var out []string
	for _, m := range c.cfg.Members.Members() {
		if m.Status == fsm.HostAlive && m.Gossip != "" && len(out) < joinPeersMax {
			out = append(out, m.Gossip)
		}
	}
	return out
}

// Rolls lists the rolls this host knows.
func (c *Control) Rolls() []api.Roll {
	out := []api.Roll{}
	for _, r := range c.cfg.Catalog.Rolls() {
		out = append(out, api.Roll{Name: r.Name, Version: r.Version, Description: r.Description,
			Requires: r.Requires, Conflicts: r.Conflicts, Appliances: r.Appliances(), Digest: r.Digest()})
	}
	return out
}

// HostKey is the public ssh host key of a node, in the form of
// authorized_keys; empty if the reservation keeps no secrets any more.
func (c *Control) HostKey(r fsm.Reservation, node string) string {
	return rolls.Secrets(r.Secrets).HostKey(node)
}

func sortImages(images []api.Image) {
	slices.SortFunc(images, func(a, b api.Image) int {
		return cmp.Or(cmp.Compare(a.Appliance, b.Appliance), cmp.Compare(a.Recipe, b.Recipe))
	})
}
