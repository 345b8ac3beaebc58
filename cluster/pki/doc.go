// Package pki makes the cluster's certificate authority and the certificates
// of its hosts, and reads the identity out of them.
//
// It imports nothing of ours.
//
//	vcnd init:  NewCA ──▶ CertPEM (public), KeyPEM (secret, sealed in the replicated state)
//	vcnd join:  NewCSR ──csr──▶ leader: CA.SignHost ──cert──▶ host
//	connection: chain to this CA ∧ usage ∧ ParseIdentity = vcn://<cluster>/host/<host>
//
// Decisions: ECDSA P-256 everywhere, because browsers accept it and refuse
// Ed25519. The signer, not the request, decides every name in a certificate:
// of the CSR only the public key and the proof of possession are used. One host
// certificate serves the internal listener and the public API. There is no
// revocation list, and no command yet that expels a host or rotates the CA.
package pki
