package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	// CAValid is how long a cluster CA lives.
	CAValid = 20 * 365 * 24 * time.Hour
	// HostValid is how long a host certificate lives; browsers refuse server certificates over 825 days.
	HostValid = 820 * 24 * time.Hour
	// RenewBefore is how long before its end a host certificate should be renewed.
	RenewBefore = 180 * 24 * time.Hour

	backdate = time.Hour // tolerated clock difference between hosts
	namesMax = 64        // DNS and IP names in one certificate
	pemMax   = 64 << 10
)

// ErrIdentity: a certificate carries no, or not exactly one, host identity.
var ErrIdentity = errors.New("pki: certificate carries no host identity")

var idPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// CA is the cluster's certificate authority. KeyPEM is a secret.
type CA struct {
	CertPEM []byte
	KeyPEM  []byte
}

// NewCA makes a self-signed CA for one cluster. name is for people.
func NewCA(clusterID, name string) (CA, error) {
	if !idPattern.MatchString(clusterID) {
		return CA{}, fmt.Errorf("make CA: cluster id %q: want %s", clusterID, idPattern)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return CA{}, fmt.Errorf("make CA key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return CA{}, fmt.Errorf("make CA: %w", err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "vcn cluster " + name, Organization: []string{clusterID}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(CAValid),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                  []*url.URL{{Scheme: "vcn", Host: clusterID, Path: "/ca"}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return CA{}, fmt.Errorf("make CA certificate: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return CA{}, err
	}
	return CA{CertPEM: encodeCert(der), KeyPEM: keyPEM}, nil
}

// ClusterID is the cluster a CA certificate was made for.
func ClusterID(caPEM []byte) (string, error) {
	cert, err := ParseCert(caPEM)
	if err != nil {
		return "", err
	}
	if !cert.IsCA || len(cert.URIs) != 1 || cert.URIs[0].Scheme != "vcn" || cert.URIs[0].Path != "/ca" {
		return "", fmt.Errorf("read CA certificate: not a cluster CA: %w", ErrIdentity)
	}
	return cert.URIs[0].Host, nil
}

// NewCSR makes a key and a request for it, both PEM. The signer takes only the public key from it.
func NewCSR(hostID, name string) (csrPEM, keyPEM []byte, err error) {
	if !idPattern.MatchString(hostID) {
		return nil, nil, fmt.Errorf("make certificate request: host id %q: want %s", hostID, idPattern)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make host key: %w", err)
	}
	tmpl := &x509.CertificateRequest{Subject: pkix.Name{CommonName: name, SerialNumber: hostID}}
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	if keyPEM, err = encodeKey(key); err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), keyPEM, nil
}

// SignHost signs a host's request for HostValid. hostID, name (also a DNS name
// when it is one), dns and ips are the signer's decision; loopback and
// "localhost" are always added, so that a command on the host can reach it.
func (ca CA) SignHost(csrPEM []byte, hostID, name string, dns []string, ips []net.IP) (certPEM []byte, err error) {
	if !idPattern.MatchString(hostID) {
		return nil, fmt.Errorf("sign host: host id %q: want %s", hostID, idPattern)
	}
	caCert, caKey, clusterID, err := ca.open()
	if err != nil {
		return nil, fmt.Errorf("sign host %s: %w", hostID, err)
	}
	pub, err := checkCSR(csrPEM)
	if err != nil {
		return nil, fmt.Errorf("sign host %s: %w", hostID, err)
	}
	names := append([]string{"localhost"}, dns...)
	if isDNSName(name) {
		names = append(names, name)
	}
	addrs := append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, ips...)
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names)+len(addrs) > namesMax {
		return nil, fmt.Errorf("sign host %s: %d names, want at most %d", hostID, len(names)+len(addrs), namesMax)
	}
	for _, n := range names {
		if !isDNSName(n) {
			return nil, fmt.Errorf("sign host %s: %q is no DNS name", hostID, n)
		}
	}
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("sign host %s: %w", hostID, err)
	}
	now := time.Now()
	end := now.Add(HostValid)
	if end.After(caCert.NotAfter) {
		end = caCert.NotAfter
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name, SerialNumber: hostID, Organization: []string{clusterID}},
		NotBefore:    now.Add(-backdate),
		NotAfter:     end,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     names,
		IPAddresses:  addrs,
		URIs:         []*url.URL{identityURI(clusterID, hostID)},

		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, caCert, pub, caKey)
	if err != nil {
		return nil, fmt.Errorf("sign host %s: %w", hostID, err)
	}
	return encodeCert(der), nil
}

func identityURI(clusterID, hostID string) *url.URL {
	return &url.URL{Scheme: "vcn", Host: clusterID, Path: "/host/" + hostID}
}

// ParseIdentity reads the one URI SAN vcn://<clusterID>/host/<hostID>. It does
// not verify the chain. Anything but exactly one such URI is ErrIdentity.
func ParseIdentity(cert *x509.Certificate) (clusterID, hostID string, err error) {
	if cert.IsCA || len(cert.URIs) != 1 {
		return "", "", fmt.Errorf("read identity of %q: %w", cert.Subject.CommonName, ErrIdentity)
	}
	u := cert.URIs[0]
	hostID, ok := strings.CutPrefix(u.Path, "/host/")
	if !ok || !idPattern.MatchString(u.Host) || !idPattern.MatchString(hostID) || u.String() != identityURI(u.Host, hostID).String() {
		return "", "", fmt.Errorf("read identity %q: %w", u, ErrIdentity)
	}
	return u.Host, hostID, nil
}

// Fingerprint is the SHA-256 of the first certificate's DER, in lower-case hex; empty when there is none.
func Fingerprint(certPEM []byte) string {
	cert, err := ParseCert(certPEM)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// ParseCert reads exactly one certificate.
func ParseCert(certPEM []byte) (*x509.Certificate, error) {
	if len(certPEM) > pemMax {
		return nil, fmt.Errorf("read certificate: %d bytes of PEM, want at most %d", len(certPEM), pemMax)
	}
	block, rest := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("read certificate: want exactly one PEM CERTIFICATE block")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return cert, nil
}

func (ca CA) open() (*x509.Certificate, *ecdsa.PrivateKey, string, error) {
	clusterID, err := ClusterID(ca.CertPEM)
	if err != nil {
		return nil, nil, "", err
	}
	cert, err := ParseCert(ca.CertPEM)
	if err != nil {
		return nil, nil, "", err
	}
	block, _ := pem.Decode(ca.KeyPEM)
	if block == nil {
		return nil, nil, "", errors.New("read CA key: no PEM block")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, "", fmt.Errorf("read CA key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, "", errors.New("read CA key: not the key of the CA certificate")
	}
	return cert, key, clusterID, nil
}

func checkCSR(csrPEM []byte) (*ecdsa.PublicKey, error) {
	if len(csrPEM) > pemMax {
		return nil, fmt.Errorf("read request: %d bytes, want at most %d", len(csrPEM), pemMax)
	}
	block, _ := pem.Decode(csrPEM)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("read request: no PEM CERTIFICATE REQUEST block")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	pub, ok := req.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("read request: want an ECDSA P-256 key")
	}
	return pub, nil
}

var dnsPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)

func isDNSName(s string) bool {
	return len(s) <= 253 && dnsPattern.MatchString(s) && net.ParseIP(s) == nil
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
