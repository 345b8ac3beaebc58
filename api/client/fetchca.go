package client

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

const fetchTimeout = 10 * time.Second

// Fingerprint is the lower-hex SHA-256 of a certificate's DER, as tokens carry
// it of the cluster's CA.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// FetchCA gets the cluster's CA certificate, in PEM, from the chain that the
// host at addr (https://host:port or host:port) shows, and checks that it is
// the one whose SHA-256 (DER, lower hex) is fingerprint and that it signed the
// host's own certificate. Nothing is sent but the handshake: a token goes out
// only once the CA is pinned. A server that shows another CA is
// ErrWrongCluster.
func FetchCA(ctx context.Context, addr, fingerprint string) ([]byte, error) {
	base, err := NormalizeHost(addr)
	if err != nil {
		return nil, fmt.Errorf("fetch CA: %w", err)
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("fetch CA: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	d := tls.Dialer{
		NetDialer: &net.Dialer{Timeout: dialTimeout},
		// Trust is decided below, by fingerprint.
		Config: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, ServerName: u.Hostname(),
			NextProtos: []string{"h2", "http/1.1"}},
	}
	conn, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, fmt.Errorf("fetch CA: %w: %w", ErrUnavailable, &connectError{host: base, err: err})
	}
	defer conn.Close()
	chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
	return pickCA(chain, strings.ToLower(strings.TrimSpace(fingerprint)), base)
}

func pickCA(chain []*x509.Certificate, fingerprint, host string) ([]byte, error) {
	for _, ca := range chain {
		if Fingerprint(ca) != fingerprint {
			continue
		}
		if !ca.IsCA {
			return nil, fmt.Errorf("fetch CA: %w: %s shows a certificate with the right fingerprint that is no CA", ErrWrongCluster, host)
		}
		pool := x509.NewCertPool()
		pool.AddCert(ca)
		if err := verifyChain(chain, pool); err != nil {
			return nil, fmt.Errorf("fetch CA: %s: %w", host, err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}), nil
	}
	shown := "none"
	if n := len(chain); n > 0 {
		shown = Fingerprint(chain[n-1])
	}
	return nil, fmt.Errorf("fetch CA: %w: the token belongs to the cluster whose CA has fingerprint %.16s…, and %s shows %.16s…",
		ErrWrongCluster, fingerprint, host, shown)
}
