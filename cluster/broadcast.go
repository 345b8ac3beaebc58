package cluster

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/memberlist"
)

// An advert is larger than one gossip packet, so it travels in chunks:
//
//	byte 0      1 (kind)
//	byte 1      length of host id, then the host id
//	8 bytes     sequence number of the advert
//	2 + 2 bytes number of this chunk, number of chunks
//	rest        up to chunkBytes of the packed advert
//
// Integers are big-endian. Whoever sees a chunk for the first time passes it on.
const (
	kindChunk  = 1
	chunkBytes = 1024 // with head, label and encryption still under memberlist's 1400-byte packets
	chunksMax  = (AdvertBytesMax + chunkBytes - 1) / chunkBytes
)

type chunk struct {
	host         string
	seq          uint64
	number, many uint16
	data         []byte
}

func split(host string, seq uint64, packed []byte) []chunk {
	many := max(1, (len(packed)+chunkBytes-1)/chunkBytes)
	out := make([]chunk, 0, many)
	for i := range many {
		part := packed[i*chunkBytes : min(len(packed), (i+1)*chunkBytes)]
		out = append(out, chunk{host: host, seq: seq, number: uint16(i), many: uint16(many), data: part})
	}
	return out
}

func (c chunk) encode() []byte {
	b := make([]byte, 0, 14+len(c.host)+len(c.data))
	b = append(b, kindChunk, byte(len(c.host)))
	b = append(b, c.host...)
	b = binary.BigEndian.AppendUint64(b, c.seq)
	b = binary.BigEndian.AppendUint16(b, c.number)
	b = binary.BigEndian.AppendUint16(b, c.many)
	return append(b, c.data...)
}

// decodeChunk copies what it keeps: memberlist reuses its buffers.
func decodeChunk(b []byte) (chunk, error) {
	if len(b) < 2 || b[0] != kindChunk {
		return chunk{}, fmt.Errorf("decode gossip message: kind unknown")
	}
	idLen := int(b[1])
	if len(b) < 2+idLen+12 {
		return chunk{}, fmt.Errorf("decode gossip message: %d bytes are too few", len(b))
	}
	c := chunk{host: string(b[2 : 2+idLen])}
	b = b[2+idLen:]
	c.seq = binary.BigEndian.Uint64(b)
	c.number = binary.BigEndian.Uint16(b[8:])
	c.many = binary.BigEndian.Uint16(b[10:])
	c.data = append([]byte{}, b[12:]...)
	switch {
	case !idPattern.MatchString(c.host):
		return chunk{}, fmt.Errorf("decode gossip message: host id %q is malformed", c.host)
	case c.many == 0 || c.many > chunksMax || c.number >= c.many:
		return chunk{}, fmt.Errorf("decode gossip message: chunk %d of %d", c.number, c.many)
	case len(c.data) > chunkBytes:
		return chunk{}, fmt.Errorf("decode gossip message: chunk of %d bytes", len(c.data))
	}
	return c, nil
}

// queued is a chunk on its way out. A newer advert of a host pushes out the older one's chunks.
type queued struct {
	c       chunk
	encoded []byte
}

func (q *queued) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(*queued)
	if !ok || o.c.host != q.c.host {
		return false
	}
	return o.c.seq < q.c.seq || o.c.seq == q.c.seq && o.c.number == q.c.number
}

func (q *queued) Message() []byte { return q.encoded }
func (q *queued) Finished()       {}

// partial is an advert being put together.
type partial struct {
	seq   uint64
	parts [][]byte
	have  int
}

// add takes a chunk; fresh says it was not there yet, packed is the whole when complete.
func (p *partial) add(c chunk) (fresh bool, packed []byte) {
	if c.seq > p.seq || p.parts == nil {
		p.seq, p.parts, p.have = c.seq, make([][]byte, c.many), 0
	}
	if c.seq != p.seq || int(c.many) != len(p.parts) || p.parts[c.number] != nil {
		return false, nil
	}
	p.parts[c.number] = c.data
	p.have++
	if p.have < len(p.parts) {
		return true, nil
	}
	for _, d := range p.parts {
		packed = append(packed, d...)
	}
	return true, packed
}
