package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

const (
	pcapMagic      = 0xa1b2c3d4
	pcapHeadBytes  = 24
	pcapFrameBytes = 16
	etherBytes     = 14
	tagBytes       = 4
	typeVLAN       = 0x8100 // IEEE 802.1Q
	typeQinQ       = 0x88a8 // IEEE 802.1ad
	vlanMask       = 0x0fff
)

// Frame is one Ethernet frame as a card sent or received it.
type Frame struct {
	At        time.Time
	Dst, Src  net.HardwareAddr
	Tags      []int  // VLAN IDs, the outer first; none if it is untagged
	EtherType uint16 // what is inside, after the tags
	Payload   []byte
	Bytes     int // on the wire, without its checksum
}

// ReadCapture reads what a card's Capture has so far, in the order of the wire (format:
// libpcap's pcap-savefile(5)). A last frame that is still being written is left out.
func ReadCapture(path string) ([]Frame, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read capture: %w", err)
	}
	fs, err := parseCapture(b)
	if err != nil {
		return nil, fmt.Errorf("read capture %s: %w", path, err)
	}
	return fs, nil
}

func parseCapture(b []byte) ([]Frame, error) {
	if len(b) < pcapHeadBytes {
		return nil, io.ErrUnexpectedEOF
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if order.Uint32(b) != pcapMagic {
		order = binary.BigEndian
	}
	if order.Uint32(b) != pcapMagic {
		return nil, errors.New("it is no pcap file")
	}
	var fs []Frame
	for b = b[pcapHeadBytes:]; len(b) >= pcapFrameBytes; {
		kept, whole := order.Uint32(b[8:]), order.Uint32(b[12:])
		at := time.Unix(int64(order.Uint32(b)), int64(order.Uint32(b[4:]))*1000)
		if b = b[pcapFrameBytes:]; uint64(len(b)) < uint64(kept) {
			break
		}
		f, err := parseFrame(b[:kept])
		if err != nil {
			return nil, fmt.Errorf("frame %d: %w", len(fs), err)
		}
		f.At, f.Bytes = at, int(whole)
		fs = append(fs, f)
		b = b[kept:]
	}
	return fs, nil
}

func parseFrame(b []byte) (f Frame, err error) {
	if len(b) < etherBytes {
		return f, fmt.Errorf("%d bytes are no Ethernet frame", len(b))
	}
	f.Dst, f.Src = net.HardwareAddr(b[:6]), net.HardwareAddr(b[6:12])
	f.EtherType = binary.BigEndian.Uint16(b[12:])
	b = b[etherBytes:]
	for (f.EtherType == typeVLAN || f.EtherType == typeQinQ) && len(b) >= tagBytes {
		f.Tags = append(f.Tags, int(binary.BigEndian.Uint16(b)&vlanMask))
		f.EtherType = binary.BigEndian.Uint16(b[2:])
		b = b[tagBytes:]
	}
	f.Payload = b
	return f, nil
}
