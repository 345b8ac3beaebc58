package daemon

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"

	"vcn/api"
	"vcn/api/client"
	"vcn/cluster/pki"
	"vcn/daemon/control"
	"vcn/fsm"
)

const (
	operatorTokenLife = 365 * 24 * time.Hour
	gossipKeyBytes    = 32
	expectMax         = 5
)

// InitOptions are what the operator decides once, for all hosts.
type InitOptions struct {
	ClusterName string
	Expect      int    // voters to wait for before reservations are accepted: 1, 3 or 5
	VLANs       string // FIRST-LAST
	Subnets     string // CIDR that clusters' private networks are cut from
	SubnetBits  int
	PublicPool  string // FIRST-LAST/BITS
	PublicGW    string // may be empty
}

// InitResult is what the operator needs to go on.
type InitResult struct {
	ClusterID string
	HostID    string
	Token     string // the operator's, shown once
	CA        []byte
	API       string // https://address:port
}

// Init makes a cluster of hosts and this host its first member. Exactly one
// host ever runs it; the others join. Nothing starts before Run.
func Init(c Config, o InitOptions) (InitResult, error) {
	var res InitResult
	pools, err := o.pools()
	if err != nil {
		return res, err
	}
	clusterID, hostID := newID(), newID()
	ca, err := pki.NewCA(clusterID, o.ClusterName)
	if err != nil {
		return res, err
	}
	csr, key, err := pki.NewCSR(hostID, c.Name)
	if err != nil {
		return res, err
	}
	dns, ips := certNames(c)
	cert, err := ca.SignHost(csr, hostID, c.Name, dns, ips)
	if err != nil {
		return res, err
	}
	now := time.Now().UTC()
	text, token, err := control.NewToken(clusterID, ca.CertPEM, api.TokenOperator)
	if err != nil {
		return res, err
	}
	token.Note, token.Created, token.Expires = "made by vcnd init", now, now.Add(operatorTokenLife)
	gossipKey := make([]byte, gossipKeyBytes)
	rand.Read(gossipKey) // never fails since Go 1.24
	id := Identity{
		ClusterID: clusterID, HostID: hostID, Name: c.Name, CA: ca.CertPEM, Cert: cert, Key: key, GossipKey: gossipKey,
		Bootstrap: &fsm.ClusterInit{
			Meta: fsm.Meta{
				ClusterID: clusterID, Name: o.ClusterName, CACert: ca.CertPEM, CAKey: ca.KeyPEM, GossipKey: gossipKey,
				Expect: o.Expect, Pools: pools, Created: now,
			},
			Token: token,
		},
	}
	if err := saveIdentity(c.DataDir, id, true); err != nil {
		return res, err
	}
	return InitResult{ClusterID: clusterID, HostID: hostID, Token: text, CA: ca.CertPEM, API: "https://" + c.API.Listen}, nil
}

// pools checks what Init was given; every error names the flag.
func (o InitOptions) pools() (fsm.Pools, error) {
	p := fsm.Pools{Subnets: o.Subnets, SubnetBits: o.SubnetBits, PublicGateway: o.PublicGW, MACPrefix: "02:76:63"}
	bad := func(flag, value, want string) (fsm.Pools, error) {
		return fsm.Pools{}, fmt.Errorf("--%s: %q: want %s", flag, value, want)
	}
	if !hostNamePattern.MatchString(o.ClusterName) {
		return bad("name", o.ClusterName, "1-40 of a-z, 0-9 and '-', starting with a letter")
	}
	if o.Expect != 1 && o.Expect != 3 && o.Expect != expectMax {
		return bad("expect", fmt.Sprint(o.Expect), "1, 3 or 5")
	}
	if n, err := fmt.Sscanf(o.VLANs, "%d-%d", &p.VLANFirst, &p.VLANLast); n != 2 || err != nil ||
		p.VLANFirst < 1 || p.VLANLast > 4094 || p.VLANFirst > p.VLANLast {
		return bad("vlans", o.VLANs, "FIRST-LAST within 1-4094, such as 100-1099")
	}
	subnets, err := netip.ParsePrefix(o.Subnets)
	if err != nil || !subnets.Addr().Is4() || subnets != subnets.Masked() {
		return bad("subnets", o.Subnets, "an IPv4 network, such as 10.64.0.0/10")
	}
	if o.SubnetBits < subnets.Bits() || o.SubnetBits > 28 {
		return bad("subnet-bits", fmt.Sprint(o.SubnetBits), fmt.Sprintf("%d-28", subnets.Bits()))
	}
	span, bits, ok1 := strings.Cut(o.PublicPool, "/")
	first, last, ok2 := strings.Cut(span, "-")
	a, err1 := netip.ParseAddr(first)
	b, err2 := netip.ParseAddr(last)
	if n, err := fmt.Sscanf(bits, "%d", &p.PublicBits); !ok1 || !ok2 || err1 != nil || err2 != nil || n != 1 || err != nil ||
		!a.Is4() || !b.Is4() || b.Less(a) || p.PublicBits < 8 || p.PublicBits > 30 || !netip.PrefixFrom(a, p.PublicBits).Masked().Contains(b) {
		return bad("public-pool", o.PublicPool, "FIRST-LAST/BITS within one IPv4 network, such as 192.0.2.10-192.0.2.99/24")
	}
	p.PublicFirst, p.PublicLast = a.String(), b.String()
	if o.PublicGW != "" {
		if gw, err := netip.ParseAddr(o.PublicGW); err != nil || !netip.PrefixFrom(a, p.PublicBits).Masked().Contains(gw) {
			return bad("public-gateway", o.PublicGW, "an address in the public pool's network")
		}
	}
	return p, nil
}

// Join makes this host a member of the cluster that the token names: it asks
// any of its hosts, whose CA the token pins. Nothing starts before Run.
func Join(ctx context.Context, c Config, hosts []string, token string) (Identity, error) {
	var id Identity
	if _, err := loadIdentity(c.DataDir); err == nil {
		return id, fmt.Errorf("join: %w", ErrIdentity)
	}
	text, err := api.ParseToken(token)
	if err != nil {
		return id, fmt.Errorf("read join token: %w", err)
	}
	if text.Kind != api.TokenJoin {
		return id, fmt.Errorf("read join token: it is a token of kind %s: make one with \"vcnctl token create --kind join\"", text.Kind)
	}
	hostID := newID()
	csr, key, err := pki.NewCSR(hostID, c.Name)
	if err != nil {
		return id, err
	}
	dns, ips := certNames(c)
	req := api.JoinRequest{HostID: hostID, Name: c.Name, CSR: string(csr), Names: dns}
	for _, ip := range ips {
		req.Names = append(req.Names, ip.String())
	}
	res, err := askToJoin(ctx, hosts, text, token, req)
	if err != nil {
		return id, err
	}
	gossipKey, err := base64.StdEncoding.DecodeString(res.GossipKey)
	if err != nil {
		return id, fmt.Errorf("read answer to join: gossip key: %w", err)
	}
	id = Identity{
		ClusterID: res.ClusterID, HostID: hostID, Name: c.Name, CA: []byte(res.CA), Cert: []byte(res.Cert), Key: key,
		GossipKey: gossipKey, Peers: res.Peers,
	}
	return id, saveIdentity(c.DataDir, id, true)
}

// askToJoin posts the request to the first host that answers and whose CA is
// the one the token pins.
func askToJoin(ctx context.Context, hosts []string, text api.TokenText, token string, req api.JoinRequest) (api.JoinResponse, error) {
	var res api.JoinResponse
	var last error
	for _, h := range hosts {
		ca, err := client.FetchCA(ctx, h, text.CAFingerprint)
		if err != nil {
			last = err
			continue
		}
		cl, err := client.New(client.Config{Hosts: hosts, CA: ca, Token: token})
		if err != nil {
			return res, err
		}
		res, err = cl.Join(ctx, req)
		if err != nil {
			return res, fmt.Errorf("join cluster: %w", err)
		}
		return res, nil
	}
	return res, fmt.Errorf("join cluster: no host of %s answered: %w", strings.Join(hosts, ", "), last)
}

// newID is a UUID of version 7 (RFC 9562): unique without asking, ordered by
// the time it was made.
func newID() string { return uuid.Must(uuid.NewV7()).String() }
