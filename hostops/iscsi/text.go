package iscsi

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	maxTextKeys     = 256
	maxKeyBytes     = 63  // RFC 7143 6.1
	maxValueBytes   = 255 // except for CHAP's large binary values
	maxBigValue     = 8 << 10
	maxIQNBytes     = 223 // RFC 7143 4.2.7.1
	maxCHAPValue    = 1024
	keyInitiator    = "InitiatorName"
	keyTarget       = "TargetName"
	keySessionType  = "SessionType"
	keyAuthMethod   = "AuthMethod"
	keyMaxRecv      = "MaxRecvDataSegmentLength"
	valueDiscovery  = "Discovery"
	valueNone       = "None"
	valueYes        = "Yes"
	valueNo         = "No"
	valueIrrelevant = "Irrelevant"
	valueReject     = "Reject"
	valueUnknown    = "NotUnderstood"
)

// text is the key=value pairs of a login or text PDU, in order.
type text struct {
	keys   []string
	values map[string]string
}

// parseText reads NUL-terminated key=value pairs (RFC 7143 6.1). A key that
// comes twice keeps its first place and its last value.
func parseText(b []byte) (text, error) {
	t := text{values: map[string]string{}}
	for len(b) > 0 {
		var pair []byte
		pair, b, _ = cutNUL(b)
		if len(pair) == 0 {
			continue // padding
		}
		k, v, ok := strings.Cut(string(pair), "=")
		if !ok || k == "" || len(k) > maxKeyBytes || len(v) > maxBigValue {
			return text{}, fmt.Errorf("%w: text %.40q", ErrProtocol, pair)
		}
		if _, dup := t.values[k]; !dup {
			if len(t.keys) == maxTextKeys {
				return text{}, fmt.Errorf("%w: more than %d keys", ErrProtocol, maxTextKeys)
			}
			t.keys = append(t.keys, k)
		}
		t.values[k] = v
	}
	return t, nil
}

func cutNUL(b []byte) (before, after []byte, found bool) {
	for i, c := range b {
		if c == 0 {
			return b[:i], b[i+1:], true
		}
	}
	return b, nil, false
}

func (t text) get(k string) string { return t.values[k] }

func (t text) has(k string) bool {
	_, ok := t.values[k]
	return ok
}

// offers says whether a comma-separated list of values holds v.
func offers(list, v string) bool {
	for x := range strings.SplitSeq(list, ",") {
		if x == v {
			return true
		}
	}
	return false
}

// pairs is an answer being built.
type pairs []byte

func (p *pairs) add(k, v string) { *p = append(append(append(append(*p, k...), '='), v...), 0) }

// number reads a decimal or hexadecimal number and forces it into a range; what
// is no number counts as the lowest value.
func number(v string, lo, hi int) int {
	base := 10
	if len(v) > 2 && v[0] == '0' && (v[1] == 'x' || v[1] == 'X') {
		v, base = v[2:], 16
	}
	n, err := strconv.ParseUint(v, base, 31)
	if err != nil {
		return lo
	}
	return min(max(int(n), lo), hi)
}

func yesNo(b bool) string {
	if b {
		return valueYes
	}
	return valueNo
}
