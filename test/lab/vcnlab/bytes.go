package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"vcn/test/lab"
)

var units = []struct {
	name  string
	bytes int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}}

// parseBytes reads "512MiB", or a bare number of bytes.
func parseBytes(s string) (int64, error) {
	unit := int64(1)
	number := s
	for _, u := range units {
		if n, ok := strings.CutSuffix(s, u.name); ok {
			number, unit = n, u.bytes
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is no size: want a number and KiB, MiB, GiB or TiB", s)
	}
	return n * unit, nil
}

// parseDisks reads "4,4GiB" or "4,4GiB,none"; "0" is none at all.
func parseDisks(s string) ([]lab.Disk, error) {
	f := strings.Split(s, ",")
	n, err := strconv.Atoi(f[0])
	if err != nil || n < 0 || len(f) > 3 || n > 0 && len(f) < 2 {
		return nil, fmt.Errorf("%q: want COUNT,SIZE or COUNT,SIZE,CACHE", s)
	}
	if n == 0 {
		return nil, nil
	}
	d := lab.Disk{}
	if d.SizeBytes, err = parseBytes(f[1]); err != nil {
		return nil, err
	}
	if len(f) == 3 {
		d.Cache = f[2]
	}
	var ds []lab.Disk
	for range n {
		ds = append(ds, d)
	}
	return ds, nil
}
