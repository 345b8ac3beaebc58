package daemon

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"vcn/api"
	"vcn/api/client"
	"vcn/cluster/pki"
	"vcn/daemon/control"
	"vcn/fsm"
	"vcn/internal/durable"
)

const (
	operatorTokenLife = 365 * 24 * time.Hour
	gossipKeyBytes    = 32
	expectMax         = 5
	publicBitsMin     = 8
	publicBitsMax     = 30
	subnetsBitsMin    = 8
	subnetBitsMax     = 28
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
	// TokenFile is a new file for the operator's token (mode 0600); empty: the
	// caller shows InitResult.Token.
	TokenFile string
}

// InitResult is what the operator needs to go on.
type InitResult struct {
	ClusterID string
	HostID    string
	Token     string // the operator's, shown once
	CA        []byte
	API       string // https://address:port, as other hosts reach it
}

// Init makes a cluster of hosts and this host its first member. Exactly one
// host ever runs it; the others join. Nothing starts before Run. Where it
// fails it leaves neither an identity nor a token file.
func Init(c Config, o InitOptions) (InitResult, error) {
	var res InitResult
	pools, err := o.pools()
	if err != nil {
		return res, err
	}
	if o.Expect > c.Raft.Voters {
		return res, wrongFlag("expect", strconv.Itoa(o.Expect), fmt.Sprintf(
			"at most %d, which is raft.voters in the configuration: no more hosts ever vote (raft.voters is the same on every host)", c.Raft.Voters))
	}
	if err := freshHost(c.DataDir); err != nil {
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
	// The token goes first: an identity whose token was lost is of no use, and
	// stands in the way of another init.
	if o.TokenFile != "" {
		if err := writeToken(o.TokenFile, text); err != nil {
			return res, err
		}
	}
	if err := saveIdentity(c.DataDir, id, true); err != nil {
		if o.TokenFile != "" {
			err = errors.Join(err, os.Remove(o.TokenFile))
		}
		return res, err
	}
	return InitResult{ClusterID: clusterID, HostID: hostID, Token: text, CA: ca.CertPEM, API: "https://" + c.APIAddress()}, nil
}

// freshHost is ErrIdentity on a host that belongs to a cluster already.
func freshHost(dataDir string) error {
	switch _, err := loadIdentity(dataDir); {
	case err == nil:
		return fmt.Errorf("find %s: %w", identityPath(dataDir), ErrIdentity)
	case !errors.Is(err, ErrNoIdentity):
		return err
	}
	return nil
}

// writeToken keeps the operator's token in a new file, durably.
func writeToken(path, token string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("--token-file: %q: want a file that does not exist yet", path)
	}
	if err != nil {
		return fmt.Errorf("--token-file: %q: want a new file in a directory that can be written: %w", path, err)
	}
	_, err = f.WriteString(token + "\n")
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("--token-file: %q: write operator's token: %w", path, err), os.Remove(path))
	}
	return nil
}

func wrongFlag(flag, value, want string) error {
	return api.FieldError{Field: "--" + flag, Value: value, Want: want}
}

// pools checks what Init was given; every error names the flag.
func (o InitOptions) pools() (fsm.Pools, error) {
	p := fsm.Pools{Subnets: o.Subnets, SubnetBits: o.SubnetBits, PublicGateway: o.PublicGW, MACPrefix: "02:76:63"}
	if !hostNamePattern.MatchString(o.ClusterName) {
		return p, wrongFlag("name", o.ClusterName, "1-40 of a-z, 0-9 and '-', starting with a letter")
	}
	if o.Expect != 1 && o.Expect != 3 && o.Expect != expectMax {
		return p, wrongFlag("expect", strconv.Itoa(o.Expect), "1, 3 or 5")
	}
	first, last, _ := strings.Cut(o.VLANs, "-")
	var ok1, ok2 bool
	p.VLANFirst, ok1 = wholeNumber(first)
	p.VLANLast, ok2 = wholeNumber(last)
	if !ok1 || !ok2 || p.VLANFirst < 1 || p.VLANLast > 4094 || p.VLANFirst > p.VLANLast {
		return p, wrongFlag("vlans", o.VLANs, "FIRST-LAST within 1-4094, such as 100-1099")
	}
	if err := o.checkSubnets(); err != nil {
		return p, err
	}
	if err := o.readPublic(&p); err != nil {
		return p, err
	}
	err := p.Check()
	if f, ok := errors.AsType[api.FieldError](err); ok {
		return p, wrongFlag(f.Field, f.Value, f.Want)
	}
	return p, err
}

func (o InitOptions) checkSubnets() error {
	all, err := netip.ParsePrefix(o.Subnets)
	if err != nil || !all.Addr().Is4() || all != all.Masked() || !all.Addr().IsGlobalUnicast() ||
		all.Bits() < subnetsBitsMin || all.Bits() > subnetBitsMax {
		return wrongFlag("subnets", o.Subnets, fmt.Sprintf("an IPv4 network of /%d to /%d, such as 10.64.0.0/10", subnetsBitsMin, subnetBitsMax))
	}
	if o.SubnetBits < all.Bits() || o.SubnetBits > subnetBitsMax {
		return wrongFlag("subnet-bits", strconv.Itoa(o.SubnetBits), fmt.Sprintf("%d-%d, because they are cut from %s (--subnets)", all.Bits(), subnetBitsMax, all))
	}
	return nil
}

// readPublic reads FIRST-LAST/BITS; what the addresses are is for Check.
func (o InitOptions) readPublic(p *fsm.Pools) error {
	span, length, _ := strings.Cut(o.PublicPool, "/")
	first, last, _ := strings.Cut(span, "-")
	a, err1 := netip.ParseAddr(first)
	b, err2 := netip.ParseAddr(last)
	bits, ok := wholeNumber(length)
	if err1 != nil || err2 != nil || !ok || !a.Is4() || !b.Is4() || !a.IsGlobalUnicast() || !b.IsGlobalUnicast() || b.Less(a) {
		return wrongFlag("public-pool", o.PublicPool, "FIRST-LAST/BITS within one IPv4 network, such as 192.0.2.10-192.0.2.99/24")
	}
	if bits < publicBitsMin || bits > publicBitsMax {
		return wrongFlag("public-pool", o.PublicPool, fmt.Sprintf("/%d to /%d at its end, the length of the public network's prefix", publicBitsMin, publicBitsMax))
	}
	p.PublicFirst, p.PublicLast, p.PublicBits = a.String(), b.String(), bits
	return nil
}

// wholeNumber reads digits and nothing else: no sign, no space, no rest.
func wholeNumber(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil
}

// Join makes this host a member of the cluster that the token names: it asks
// any of its hosts, whose CA the token pins. Nothing starts before Run.
func Join(ctx context.Context, c Config, hosts []string, token string) (Identity, error) {
	var id Identity
	if err := freshHost(c.DataDir); err != nil {
		return id, err
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
