package api

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// Quantity is a number of bytes, written with a binary unit: 512MiB, 4GiB. In
// JSON and YAML it is a string. The empty string is 0.
type Quantity int64

// Binary units, in bytes.
const (
	KiB Quantity = 1 << 10
	MiB Quantity = 1 << 20
	GiB Quantity = 1 << 30
	TiB Quantity = 1 << 40
)

var quantityUnits = []struct {
	suffix string
	size   Quantity
}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}, {"B", 1}}

var quantityShape = regexp.MustCompile(`^([0-9]+)(?:\.([0-9]+))?\s*([A-Za-z]*)$`)

const wantQuantity = "a whole number with KiB, MiB, GiB or TiB, such as 4GiB"

// ParseQuantity reads 512KiB, 512MiB, 4GiB, 1TiB, plain 0, or the exact form
// 1000B that sizes of files may take. The error is a FieldError without a
// field: it names the value and what would be right.
func ParseQuantity(s string) (Quantity, error) {
	if s == "" || s == "0" {
		return 0, nil
	}
	m := quantityShape.FindStringSubmatch(s)
	if m == nil || m[2] != "" {
		return 0, FieldError{Value: s, Want: wantQuantity}
	}
	for _, u := range quantityUnits {
		if m[3] != u.suffix || strings.TrimSuffix(s, u.suffix) != m[1] {
			continue
		}
		n, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil || n > math.MaxInt64/int64(u.size) {
			return 0, FieldError{Value: s, Want: "less than 8388608TiB"}
		}
		return Quantity(n) * u.size, nil
	}
	return 0, FieldError{Value: s, Want: suggestQuantity(m[1], m[3])}
}

// suggestQuantity says what somebody who wrote 4GB, 4G, 4gib or 4 may have
// meant.
func suggestQuantity(number, unit string) string {
	if unit == "" {
		return fmt.Sprintf("a unit: %sMiB or %sGiB (units are KiB, MiB, GiB, TiB)", number, number)
	}
	if i := strings.IndexByte("kmgt", strings.ToLower(unit)[0]); i >= 0 {
		switch strings.ToLower(unit[1:]) {
		case "", "b", "i", "ib":
			return fmt.Sprintf("%s%ciB (units are KiB, MiB, GiB, TiB)", number, "KMGT"[i])
		}
	}
	return wantQuantity
}

// String is the exact text with the largest unit that divides it: 4GiB,
// 1536MiB, 0. Negative quantities, which no part of the contract has, read 0.
func (q Quantity) String() string {
	if q <= 0 {
		return "0"
	}
	for _, u := range quantityUnits {
		if q%u.size == 0 {
			return strconv.FormatInt(int64(q/u.size), 10) + u.suffix
		}
	}
	return "0" // not reached: the last unit divides everything
}

// Short is for people: rounded down to one digit after the point where the
// exact text would be long, such as 15.5GiB. It is not for ParseQuantity.
func (q Quantity) Short() string {
	if s := q.String(); len(s) <= len("1023MiB") {
		return s
	}
	for _, u := range quantityUnits {
		if q >= u.size {
			s := fmt.Sprintf("%d.%d", q/u.size, q%u.size*10/u.size)
			return strings.TrimSuffix(s, ".0") + u.suffix
		}
	}
	return "0"
}

// MarshalText is String.
func (q Quantity) MarshalText() ([]byte, error) { return []byte(q.String()), nil }

// UnmarshalText is ParseQuantity.
func (q *Quantity) UnmarshalText(b []byte) error {
	v, err := ParseQuantity(string(b))
	if err != nil {
		return err
	}
	*q = v
	return nil
}
