package api

import (
	"crypto/sha256"
	"errors"
	"strings"
)

// ErrTokenFormat: the text is no vcn token.
var ErrTokenFormat = errors.New("not a vcn token")

// TokenText is what a bearer token's text says. It carries the cluster's id,
// so that a token of another cluster of hosts is told from a wrong one, and
// the fingerprint of its CA, so that a client that holds nothing but the token
// can pin it.
type TokenText struct {
	Kind          TokenKind
	ClusterID     string
	ID            string
	Secret        string // 32 random bytes in lower hex
	CAFingerprint string // SHA-256 of the CA certificate (DER) in lower hex
}

// String is vcn.KIND.CLUSTER.ID.SECRET.FINGERPRINT.
func (t TokenText) String() string {
	return strings.Join([]string{"vcn", string(t.Kind), t.ClusterID, t.ID, t.Secret, t.CAFingerprint}, ".")
}

// ParseToken reads the text of a token.
func ParseToken(s string) (TokenText, error) {
	p := strings.Split(strings.TrimSpace(s), ".")
	if len(p) != 6 || p[0] != "vcn" {
		return TokenText{}, ErrTokenFormat
	}
	t := TokenText{Kind: TokenKind(p[1]), ClusterID: p[2], ID: p[3], Secret: p[4], CAFingerprint: p[5]}
	switch t.Kind {
	case TokenOperator, TokenProject, TokenJoin, TokenFeed:
	default:
		return TokenText{}, ErrTokenFormat
	}
	if len(t.Secret) != 64 || len(t.CAFingerprint) != 64 || t.ID == "" || t.ClusterID == "" {
		return TokenText{}, ErrTokenFormat
	}
	return t, nil
}

// HashToken is what the state keeps of a token's text.
func HashToken(text string) []byte {
	h := sha256.Sum256([]byte(strings.TrimSpace(text)))
	return h[:]
}
