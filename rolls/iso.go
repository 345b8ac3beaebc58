package rolls

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/kdomanski/iso9660"
)

// Names on the seed ISO.
const (
	SeedLabel    = "VCNSEED"     // volume label
	SeedTarName  = "seed.tar"    // what Render returned
	SeedHashName = "seed.sha256" // hex SHA-256 of seed.tar, newline
)

// SeedISO packs a seed tar into an ISO 9660 image. The same tar gives the same
// bytes.
func SeedISO(tar []byte) (iso []byte, err error) {
	if len(tar) > SeedBytesMax {
		return nil, fmt.Errorf("make seed ISO: %w: %d bytes of at most %d", ErrTooLarge, len(tar), SeedBytesMax)
	}
	w, err := iso9660.NewWriter()
	if err != nil {
		return nil, fmt.Errorf("make seed ISO: %w", err)
	}
	defer func() {
		if e := w.Cleanup(); e != nil && err == nil {
			iso, err = nil, fmt.Errorf("make seed ISO: remove staging directory: %w", e)
		}
	}()
	sum := sha256.Sum256(tar)
	if err := w.AddFile(bytes.NewReader(tar), SeedTarName); err != nil {
		return nil, fmt.Errorf("make seed ISO: %w", err)
	}
	if err := w.AddFile(bytes.NewReader([]byte(hex.EncodeToString(sum[:])+"\n")), SeedHashName); err != nil {
		return nil, fmt.Errorf("make seed ISO: %w", err)
	}
	var buf bytes.Buffer
	if err := w.WriteTo(&buf, SeedLabel); err != nil {
		return nil, fmt.Errorf("make seed ISO: %w", err)
	}
	stampISO(buf.Bytes())
	return buf.Bytes(), nil
}

// stampISO replaces the creation, modification and effective times of the
// primary volume descriptor (ECMA-119 8.4.26, 8.4.27, 8.4.29), which the library
// takes from the clock, by seedTime.
func stampISO(iso []byte) {
	const descriptor = 16 * 2048
	stamp := append([]byte(seedTime.Format("20060102150405")+"00"), 0)
	for _, at := range []int{813, 830, 864} {
		copy(iso[descriptor+at:], stamp)
	}
}
