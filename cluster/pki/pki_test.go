package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"testing"
	"time"
)

func mustCA(t *testing.T, cluster string) CA {
	t.Helper()
	ca, err := NewCA(cluster, "test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestHostCertificateSaysWhoItIsAndServes(t *testing.T) {
	ca := mustCA(t, "c1")
	csr, key, err := NewCSR("h1", "alpha")
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := ca.SignHost(csr, "h1", "alpha", []string{"alpha.example"}, []net.IP{net.ParseIP("10.1.2.3")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(certPEM, key); err != nil {
		t.Fatal(err)
	}
	cert, err := ParseCert(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	if c, h, err := ParseIdentity(cert); c != "c1" || h != "h1" || err != nil {
		t.Errorf("identity %q %q %v", c, h, err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertPEM)
	for _, name := range []string{"alpha", "alpha.example", "localhost", "10.1.2.3", "127.0.0.1"} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("serving %s: %v", name, err)
		}
	}
	if left := time.Until(cert.NotAfter); left > HostValid || left < HostValid-2*time.Hour {
		t.Errorf("valid for %v", left)
	}
	if id, err := ClusterID(ca.CertPEM); id != "c1" || err != nil {
		t.Errorf("cluster of the CA: %q %v", id, err)
	}
	if len(Fingerprint(ca.CertPEM)) != 64 || Fingerprint(ca.CertPEM) == Fingerprint(certPEM) || Fingerprint([]byte("x")) != "" {
		t.Error("fingerprints")
	}
}

func TestSignerDecidesEveryName(t *testing.T) {
	ca := mustCA(t, "c1")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, _ := url.Parse("vcn://c1/host/admin")
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "admin"}, DNSNames: []string{"evil.example"}, URIs: []*url.URL{uri},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := ca.SignHost(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), "h1", "alpha", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := ParseCert(certPEM)
	if _, h, _ := ParseIdentity(cert); h != "h1" || cert.VerifyHostname("evil.example") == nil || cert.Subject.CommonName != "alpha" {
		t.Errorf("the request's names got in: %v %v %v", cert.URIs, cert.DNSNames, cert.Subject)
	}
}

func TestBadInputIsRefused(t *testing.T) {
	ca, other := mustCA(t, "c1"), mustCA(t, "c2")
	csr, _, err := NewCSR("h1", "a")
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaDER, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(csr)
	forged := bytes.Clone(block.Bytes)
	forged[len(forged)-5] ^= 1
	mixed := CA{CertPEM: ca.CertPEM, KeyPEM: other.KeyPEM}
	for name, f := range map[string]func() ([]byte, error){
		"host id with a slash":   func() ([]byte, error) { return ca.SignHost(csr, "h1/../h2", "a", nil, nil) },
		"empty host id":          func() ([]byte, error) { return ca.SignHost(csr, "", "a", nil, nil) },
		"no request":             func() ([]byte, error) { return ca.SignHost([]byte("hello"), "h1", "a", nil, nil) },
		"certificate as request": func() ([]byte, error) { return ca.SignHost(ca.CertPEM, "h1", "a", nil, nil) },
		"wrong signature": func() ([]byte, error) {
			return ca.SignHost(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: forged}), "h1", "a", nil, nil)
		},
		"RSA key": func() ([]byte, error) {
			return ca.SignHost(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: rsaDER}), "h1", "a", nil, nil)
		},
		"key of another CA":  func() ([]byte, error) { return mixed.SignHost(csr, "h1", "a", nil, nil) },
		"DNS name malformed": func() ([]byte, error) { return ca.SignHost(csr, "h1", "a", []string{"a b"}, nil) },
		"too many names":     func() ([]byte, error) { return ca.SignHost(csr, "h1", "a", nil, make([]net.IP, 80)) },
	} {
		if got, err := f(); err == nil {
			t.Errorf("%s: signed %q", name, got)
		}
	}
	if _, err := NewCA("Not An Id", ""); err == nil {
		t.Error("malformed cluster id accepted")
	}
	caCert, _ := ParseCert(ca.CertPEM)
	if _, _, err := ParseIdentity(caCert); !errors.Is(err, ErrIdentity) {
		t.Errorf("the CA passes for a host: %v", err)
	}
}

func TestMalformedIdentities(t *testing.T) {
	for _, s := range []string{
		"vcn://c1/host/", "vcn://c1/host/h1/x", "vcn:///host/h1", "http://c1/host/h1", "vcn://c1/host/h1?x=1",
		"vcn://u@c1/host/h1", "vcn://c1/ca", "vcn://c1/host/H%31",
	} {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		if c, h, err := ParseIdentity(&x509.Certificate{URIs: []*url.URL{u}}); !errors.Is(err, ErrIdentity) {
			t.Errorf("%s read as %q %q", s, c, h)
		}
	}
	u, _ := url.Parse("vcn://c1/host/h1")
	if _, _, err := ParseIdentity(&x509.Certificate{URIs: []*url.URL{u, u}}); !errors.Is(err, ErrIdentity) {
		t.Error("two identities accepted")
	}
}
