package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"vcn/cluster/pki"
)

// Protocols of the one listener, by ALPN (RFC 7301).
const (
	protoRaft  = "vcn-raft/1"
	protoHTTP2 = "h2"
	protoHTTP1 = "http/1.1"
)

// identity is who we are and whom we believe.
type identity struct {
	clusterID, hostID string
	roots             *x509.CertPool
	expelled          func(hostID string) bool
	cert              atomic.Pointer[tls.Certificate]
}

func newIdentity(c *Config) (*identity, error) {
	clusterID, err := pki.ClusterID(c.CA)
	if err != nil {
		return nil, fmt.Errorf("read cluster CA: %w", err)
	}
	if clusterID != c.ClusterID {
		return nil, fmt.Errorf("read cluster CA: made for %q, want %q: %w", clusterID, c.ClusterID, ErrWrongCluster)
	}
	ca, err := pki.ParseCert(c.CA)
	if err != nil {
		return nil, fmt.Errorf("read cluster CA: %w", err)
	}
	id := &identity{clusterID: c.ClusterID, hostID: c.HostID, roots: x509.NewCertPool(), expelled: c.Expelled}
	id.roots.AddCert(ca)
	return id, id.set(c.Cert, c.Key)
}

// set takes a certificate into use after checking that it is ours.
func (id *identity) set(certPEM, keyPEM []byte) error {
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("read host certificate: %w", err)
	}
	if cert.Leaf == nil {
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return fmt.Errorf("read host certificate: %w", err)
		}
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if err := id.verify([]*x509.Certificate{cert.Leaf}, use, id.hostID); err != nil {
			return fmt.Errorf("read host certificate: %w", err)
		}
	}
	id.cert.Store(&cert)
	return nil
}

// verify checks chain, usage, cluster and, unless wantHost is empty, host.
func (id *identity) verify(chain []*x509.Certificate, use x509.ExtKeyUsage, wantHost string) error {
	if len(chain) == 0 {
		return fmt.Errorf("verify peer: no certificate: %w", ErrWrongCluster)
	}
	leaf := chain[0]
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: id.roots, CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{use},
	})
	if err != nil {
		if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
			return fmt.Errorf("verify peer: %w: %w", ErrWrongCluster, err)
		}
		return fmt.Errorf("verify peer: %w", err)
	}
	clusterID, hostID, err := pki.ParseIdentity(leaf)
	switch {
	case err != nil:
		return fmt.Errorf("verify peer: %w", err)
	case clusterID != id.clusterID:
		return fmt.Errorf("verify peer: cluster %q, want %q: %w", clusterID, id.clusterID, ErrWrongCluster)
	case wantHost != "" && hostID != wantHost:
		return fmt.Errorf("verify peer: host %q, want %q: %w", hostID, wantHost, ErrWrongHost)
	case id.expelled != nil && id.expelled(hostID):
		return fmt.Errorf("verify peer: host %q is expelled: %w", hostID, ErrWrongHost)
	}
	return nil
}

// server is the TLS side of accept. Verification is wholly ours, so that dial
// and accept follow one rule. Without tickets every connection is verified.
func (id *identity) server() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{protoRaft, protoHTTP2, protoHTTP1},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.cert.Load(), nil },
		VerifyConnection: func(cs tls.ConnectionState) error {
			return id.verify(cs.PeerCertificates, x509.ExtKeyUsageClientAuth, "")
		},
	}
}

// client is the TLS side of a dial to one host.
func (id *identity) client(wantHost string, protos ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: protos,
		// The name in the address means nothing here; VerifyConnection checks
		// chain and identity instead.
		InsecureSkipVerify:   true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.cert.Load(), nil },
		VerifyConnection: func(cs tls.ConnectionState) error {
			return id.verify(cs.PeerCertificates, x509.ExtKeyUsageServerAuth, wantHost)
		},
	}
}

// peerOf is the host at the other end of a verified connection.
func peerOf(cs *tls.ConnectionState) (string, bool) {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return "", false
	}
	_, hostID, err := pki.ParseIdentity(cs.PeerCertificates[0])
	return hostID, err == nil
}
