package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// builderVersion goes into every lock. It rises when the builder makes another
// image of the same lock's packages.
const builderVersion = 2

// Package is one exact package of a lock.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	SHA256  string `json:"sha256"` // of the .deb file, as the signed index has it
	Size    int64  `json:"size"`   // bytes of the .deb file
}

// file is the package's file name in apt's archive directory: an epoch's colon
// is written as %3a.
func (p Package) file() string {
	return fmt.Sprintf("%s_%s_%s.deb", p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.Arch)
}

// Lock says exactly what an image is made of. Its digest is the image's.
type Lock struct {
	Builder  int       `json:"builder"`
	Release  string    `json:"release"`
	Recipe   string    `json:"recipe"` // rolls.Recipe.Digest()
	Init     string    `json:"init"`   // SHA-256 of the init program
	Packages []Package `json:"packages"`
}

// Digest returns the SHA-256 of the lock's canonical JSON, packages sorted, as
// 64 lower-case hex digits.
func (l Lock) Digest() string {
	l.Packages = slices.Clone(l.Packages)
	sortPackages(l.Packages)
	b, err := json.Marshal(l)
	if err != nil {
		panic("images: a lock is plain data: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func sortPackages(ps []Package) {
	slices.SortFunc(ps, func(a, b Package) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Arch+a.Version, b.Arch+b.Version)
	})
}

// baseDigest names the base tree made from these packages.
func baseDigest(release string, ps []Package) string {
	return Lock{Builder: builderVersion, Release: release, Packages: ps}.Digest()
}

// fileDigest is the SHA-256 of a whole file.
func fileDigest(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
