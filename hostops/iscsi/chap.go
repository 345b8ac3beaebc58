package iscsi

import (
	"crypto/md5" //nolint:gosec // what CHAP is made of
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
)

// CHAP (RFC 7143 12.1.3, RFC 1994) with MD5, the one algorithm every initiator
// has. It proves who logs in; it hides nothing: the storage network is private.
const (
	chapMD5            = "5"
	chapChallengeBytes = 16
)

// CHAP is what an initiator must prove, and what we prove in return.
type CHAP struct {
	User   string
	Secret string // 12-64 characters
	// TargetUser and TargetSecret are for initiators that ask us to prove who
	// we are; both are empty where mutual CHAP is not configured.
	TargetUser   string
	TargetSecret string
}

type challenge struct {
	id    byte
	value []byte
}

func newChallenge() challenge {
	b := make([]byte, chapChallengeBytes+1)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return challenge{b[0], b[1:]}
}

func (c challenge) response(secret string) []byte {
	h := md5.New() //nolint:gosec // RFC 1994
	h.Write([]byte{c.id})
	h.Write([]byte(secret))
	h.Write(c.value)
	return h.Sum(nil)
}

// proves says whether name and response fit one access.
func (c challenge) proves(a *CHAP, name string, response []byte) bool {
	user := subtle.ConstantTimeCompare([]byte(name), []byte(a.User))
	return user&subtle.ConstantTimeCompare(response, c.response(a.Secret)) == 1
}

// answer is our side of mutual CHAP, if the initiator asked for it. It refuses
// to sign the challenge that we ourselves made.
func (c challenge) answer(a *CHAP, t text, out *pairs) error {
	v, ok := t.values["CHAP_C"]
	if !ok {
		return nil
	}
	theirs, err := binaryValue(v)
	if err != nil {
		return err
	}
	id, err := strconv.ParseUint(t.get("CHAP_I"), 10, 8)
	if err != nil || len(theirs) == 0 || a.TargetSecret == "" || subtle.ConstantTimeCompare(theirs, c.value) == 1 {
		return fmt.Errorf("%w: mutual CHAP", ErrProtocol)
	}
	out.add("CHAP_N", a.TargetUser)
	out.add("CHAP_R", "0x"+hex.EncodeToString(challenge{byte(id), theirs}.response(a.TargetSecret)))
	return nil
}

// binaryValue reads a large binary value, 0x… or 0b… (RFC 7143 6.1).
func binaryValue(v string) ([]byte, error) {
	if len(v) > 2 && len(v) <= maxCHAPValue && v[0] == '0' {
		s := v[2:]
		switch v[1] {
		case 'x', 'X':
			if len(s)%2 == 1 {
				s = "0" + s
			}
			return hex.DecodeString(s)
		case 'b', 'B':
			return base64.StdEncoding.DecodeString(s)
		}
	}
	return nil, fmt.Errorf("%w: binary value", ErrProtocol)
}
