package libvirt

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"

	"vcn/hostops"
)

// metaNamespace names our metadata element; ".internal" is nobody's domain.
const metaNamespace = "https://vcn.internal/domain/1"

// idSpace is the name space of our version 5 UUIDs (RFC 9562 section 5.5).
var idSpace = uuid.MustParse("0b3c1f0e-6b0f-5a57-9d5c-5a2f6a5f7c11")

// domainUUID is fixed by reservation and node, so that a second define means
// the same domain.
func domainUUID(reservation, node string) uuid.UUID {
	return uuid.NewSHA1(idSpace, []byte("domain\x00"+reservation+"\x00"+node))
}

func secretUUID(reservation, node string) uuid.UUID {
	return uuid.NewSHA1(idSpace, []byte("secret\x00"+reservation+"\x00"+node))
}

// domainName is for people who look at the hypervisor.
func domainName(reservation, node string) string {
	return hostops.Mark + "-" + hostops.ShortID(reservation) + "-" + node
}

// meta is what we write into a domain.
type meta struct {
	XMLName     xml.Name `xml:"https://vcn.internal/domain/1 node"`
	Cluster     string   `xml:"cluster,attr"`
	Reservation string   `xml:"reservation,attr"`
	Node        string   `xml:"node,attr"`
	Generation  uint64   `xml:"generation,attr"`
	Digest      string   `xml:"digest,attr"`
	Started     string   `xml:"started,attr,omitempty"` // RFC 3339 with nanoseconds
}

func (m meta) element() (string, error) {
	// encoding/xml would make the name space a default one; libvirt keeps
	// metadata only when it has a prefix.
	attr := func(s string) (string, error) {
		var b strings.Builder
		err := xml.EscapeText(&b, []byte(s))
		return b.String(), err
	}
	var out strings.Builder
	fmt.Fprintf(&out, `<vcn:node xmlns:vcn="%s"`, metaNamespace)
	for _, kv := range [][2]string{
		{"cluster", m.Cluster}, {"reservation", m.Reservation}, {"node", m.Node}, {"generation", fmt.Sprint(m.Generation)},
		{"digest", m.Digest}, {"started", m.Started},
	} {
		v, err := attr(kv[1])
		if err != nil {
			return "", fmt.Errorf("write metadata: %w", err)
		}
		fmt.Fprintf(&out, ` %s="%s"`, kv[0], v)
	}
	out.WriteString("/>")
	return out.String(), nil
}

// parseMeta finds our element among a domain's metadata; ok is false if it has
// none, and so is not ours.
func parseMeta(inner string) (m meta, ok bool, err error) {
	d := xml.NewDecoder(strings.NewReader("<metadata>" + inner + "</metadata>"))
	for {
		t, err := d.Token()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return meta{}, false, nil
			}
			return meta{}, false, fmt.Errorf("read metadata: %w", err)
		}
		start, is := t.(xml.StartElement)
		if !is || start.Name.Space != metaNamespace || start.Name.Local != "node" {
			continue
		}
		if err := d.DecodeElement(&m, &start); err != nil {
			return meta{}, false, fmt.Errorf("read metadata: %w", err)
		}
		return m, true, nil
	}
}

func (m meta) started() time.Time {
	t, err := time.Parse(time.RFC3339Nano, m.Started)
	if err != nil {
		return time.Time{}
	}
	return t
}

// digest names what a domain was made from. The CHAP secret is left out: it is
// no property of the machine, and nothing derived from it belongs in XML.
func digest(s hostops.DomainSpec, accel string) (string, error) {
	if s.Disk.ISCSI != nil {
		i := *s.Disk.ISCSI
		i.Secret = ""
		s.Disk.ISCSI = &i
	}
	b, err := json.Marshal(struct {
		Format int
		Accel  string
		Spec   hostops.DomainSpec
	}{1, accel, s})
	if err != nil {
		return "", fmt.Errorf("digest specification: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}
