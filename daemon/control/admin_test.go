package control_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"vcn/api"
	"vcn/cluster/pki"
	"vcn/daemon/control/controltest"
	"vcn/fsm"
)

func TestTokens(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	tok, err := r.Control.CreateToken(t.Context(), api.TokenRequest{Kind: api.TokenProject, Project: "studio"}, "op")
	if err != nil {
		t.Fatal(err)
	}
	text, err := api.ParseToken(tok.Secret)
	if err != nil || text.CAFingerprint != pki.Fingerprint(r.CA.CertPEM) || text.ClusterID != "cluster-1" || text.ID != tok.ID {
		t.Errorf("token is %+v, %v", text, err)
	}
	row, ok := r.FSM.View().TokenByID(tok.ID)
	if !ok || !bytes.Equal(row.Hash, api.HashToken(tok.Secret)) || row.Expires.Sub(row.Created).Round(time.Hour) != 90*24*time.Hour {
		t.Errorf("row is %+v", row)
	}
	if _, err := r.Control.CreateToken(t.Context(), api.TokenRequest{Kind: "king"}, "op"); err == nil {
		t.Error("a token of kind king was made")
	}
	if err := r.Control.RevokeToken(t.Context(), tok.ID); err != nil {
		t.Error(err)
	}
	problem(t, r.Control.RevokeToken(t.Context(), tok.ID), api.CodeNotFound)
}

func TestSignJoin(t *testing.T) {
	r := controltest.New(t, controltest.Options{})
	csr, key, err := pki.NewCSR("host-new", "hn")
	if err != nil {
		t.Fatal(err)
	}
	req := api.JoinRequest{HostID: "host-new", Name: "hn", CSR: string(csr)}
	res, err := r.Control.SignJoin(t.Context(), req, "10.9.0.77:5555")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ParseCert([]byte(res.Cert))
	if err != nil {
		t.Fatal(err)
	}
	if cluster, host, err := pki.ParseIdentity(cert); cluster != "cluster-1" || host != "host-new" || err != nil {
		t.Errorf("identity is %s %s %v", cluster, host, err)
	}
	if err := cert.VerifyHostname("10.9.0.77"); err != nil {
		t.Error(err)
	}
	if res.CA != string(r.CA.CertPEM) || len(res.Peers) != 3 || res.GossipKey == "" || strings.Contains(res.Cert, string(key)) {
		t.Errorf("answer is %+v", res)
	}
	for _, status := range []string{fsm.HostAlive, fsm.HostDead, fsm.HostLeft} {
		r.Apply(fsm.HostStatusSet{Host: controltest.HostID(0), Status: status})
		for _, name := range []string{"hn", "h0"} { // h0 is its name
			csr, _, err := pki.NewCSR(controltest.HostID(0), name)
			if err != nil {
				t.Fatal(err)
			}
			taken := api.JoinRequest{HostID: controltest.HostID(0), Name: name, CSR: string(csr)}
			res, err := r.Control.SignJoin(t.Context(), taken, "10.9.0.77:5555")
			problem(t, err, api.CodeConflict)
			if res.Cert != "" || res.GossipKey != "" {
				t.Errorf("the id of a host that is %s was given away as %s", status, name)
			}
		}
	}
	req.HostID, req.Name = "host-new", "h1"
	_, err = r.Control.SignJoin(t.Context(), req, "10.9.0.77:5555")
	problem(t, err, api.CodeConflict)
	req.Name, req.CSR = "hn", "no request"
	_, err = r.Control.SignJoin(t.Context(), req, "10.9.0.77:5555")
	problem(t, err, api.CodeInvalid)
}
