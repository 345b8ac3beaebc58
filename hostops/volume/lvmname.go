package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

const (
	// A volume is called vcn.v.<id>, an image volume vcn.i.<image>. LVM reserves
	// no name with dots, and device-mapper does not double them.
	volumePrefix = "vcn.v."
	imagePrefix  = "vcn.i."

	// hyphensMax of an id are kept in a name. Device-mapper doubles each, and
	// has 127 bytes for the names of group and volume together.
	hyphensMax = 8
	// lvNameBytesMax is our longest name, hyphens counted twice: a prefix and
	// an image's 64 bytes, or a volume's 63.
	lvNameBytesMax = len(volumePrefix) + 64 + hyphensMax

	// Tags. LVM takes A-Z a-z 0-9 _ + . - / = ! : & # in them (lvm(8)).
	tagOurs      = "vcn"                // everything of ours, for people: lvs @vcn
	tagMaking    = "vcn.making"         // not whole yet; its removal makes it visible
	tagVolume    = "vcn.volume:"        // + volume id
	tagImage     = "vcn.image:"         // + image
	tagData      = "vcn.data:"          // + bytes that were copied into it
	tagOwned     = "vcn.by:"            // + digest of the owner, on volumes and images
	tagOwner     = "vcn.owner:"         // + the owner in full, on the pool
	tagAllowed   = "_+.-/!:&#"          // beside letters and digits, without the '=' we escape by
	ownerDigestN = 8                    // bytes
	lvmNameAllow = `^[a-zA-Z0-9+_.-]+$` // lvm(8), "VALID NAMES"
)

var lvmNamePattern = regexp.MustCompile(lvmNameAllow)

// checkLVMName says whether LVM takes the name and a device's name can hold it.
func checkLVMName(what, name string, bytesMax int) error {
	if !lvmNamePattern.MatchString(name) || name[0] == '-' || name == "." || name == ".." || len(dmEscape(name)) > bytesMax {
		return fmt.Errorf("%s %q: want 1-%d of a-z A-Z 0-9 + _ . and '-' (which counts twice, and not first)", what, name, bytesMax)
	}
	return nil
}

// dmEscape writes a name as it is within a device-mapper device's.
func dmEscape(name string) string { return strings.ReplaceAll(name, "-", "--") }

// lvName derives a logical volume's name from an id of a-z 0-9 '-'. Ids have
// no dots, so no two ids have one name.
func lvName(prefix, id string) string {
	if strings.Count(id, "-") > hyphensMax {
		id = strings.ReplaceAll(id, "-", ".")
	}
	return prefix + id
}

// ownerTag holds the whole owner: what LVM does not take is written as =XX.
func ownerTag(owner string) string {
	var b strings.Builder
	b.WriteString(tagOwner)
	for _, c := range []byte(owner) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(tagAllowed, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

// tagOwnerText reads what ownerTag wrote, for people: what is no escape stays.
func tagOwnerText(tag string) string {
	s := strings.TrimPrefix(tag, tagOwner)
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '=' && i+2 < len(s) {
			if c, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				b.WriteByte(c[0])
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// ownedTag is the short form of the owner that every volume carries: the text
// of a volume group's metadata has little room.
func ownedTag(owner string) string {
	sum := sha256.Sum256([]byte(owner))
	return tagOwned + hex.EncodeToString(sum[:ownerDigestN])
}
