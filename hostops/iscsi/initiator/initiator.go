package initiator

import (
	"bytes"
	"crypto/md5" //nolint:gosec // CHAP
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	headerBytes  = 48
	defaultLimit = 30 * time.Second

	loginRoundsMax = 8
)

// Config says who logs in to what.
type Config struct {
	Addr      string // host:port
	LocalAddr string // source address; empty lets the kernel choose
	Initiator string
	Target    string // empty: a discovery session
	User      string // empty: no CHAP is offered
	Secret    string
	ISID      [6]byte
	TSIH      uint16
	LUN       byte
	Timeout   time.Duration // of each answer; 0: 30 s
	Extra     [][2]string   // further operational keys
	// KeepAttention leaves unit attentions pending; otherwise a login to a unit
	// takes them, as every initiator does.
	KeepAttention bool
}

// Conn is one connection.
type Conn struct {
	cfg       Config
	NC        net.Conn
	CmdSN     uint32
	ExpStatSN uint32
	tag       uint32
	transit   bool // the last login response went to the next stage
	rounds    int  // of operational negotiation
	// CRC32C digests that were agreed upon, of what is sent and received.
	HeaderDigest, DataDigest bool
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func digest(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli))
}

// PDU is a header and its data.
type PDU struct {
	H    [headerBytes]byte
	Data []byte
}

// U32 reads a field of the header.
func (p *PDU) U32(off int) uint32 { return binary.BigEndian.Uint32(p.H[off:]) }

// Put writes a field of the header.
func (p *PDU) Put(off int, v uint32) { binary.BigEndian.PutUint32(p.H[off:], v) }

// Refused is a login that the target refused.
type Refused struct{ Class, Detail byte }

func (e *Refused) Error() string { return fmt.Sprintf("login refused: %02x%02x", e.Class, e.Detail) }

// Dial connects without logging in.
func Dial(c Config) (*Conn, error) {
	if c.Timeout == 0 {
		c.Timeout = defaultLimit
	}
	d := net.Dialer{Timeout: c.Timeout}
	if c.LocalAddr != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(c.LocalAddr)}
	}
	nc, err := d.Dial("tcp", c.Addr)
	if err != nil {
		return nil, fmt.Errorf("dial target: %w", err)
	}
	return Over(nc, c), nil
}

// Over is Dial with a connection that is there already.
func Over(nc net.Conn, c Config) *Conn {
	if c.Timeout == 0 {
		c.Timeout = defaultLimit
	}
	return &Conn{cfg: c, NC: nc, CmdSN: 1, tag: 1}
}

// Login connects and logs in.
func Login(c Config) (*Conn, error) {
	k, err := Dial(c)
	if err != nil {
		return nil, err
	}
	if err := k.Login(); err != nil {
		_ = k.Close()
		return nil, err
	}
	return k, nil
}

// Close cuts the connection without a logout.
func (k *Conn) Close() error { return k.NC.Close() }

// Send writes one PDU as it is, but for the length of its data.
func (k *Conn) Send(p *PDU) error {
	b := k.Wire(p)
	_ = k.NC.SetWriteDeadline(time.Now().Add(k.cfg.Timeout))
	_, err := k.NC.Write(b)
	return err
}

// Wire is what Send puts on the wire for a PDU.
func (k *Conn) Wire(p *PDU) []byte {
	n := len(p.Data)
	p.H[5], p.H[6], p.H[7] = byte(n>>16), byte(n>>8), byte(n)
	b := append([]byte(nil), p.H[:]...)
	if k.HeaderDigest {
		b = append(b, digest(b)...)
	}
	at := len(b)
	b = append(append(b, p.Data...), make([]byte, -n&3)...)
	if k.DataDigest && n > 0 {
		b = append(b, digest(b[at:])...)
	}
	return b
}

func (k *Conn) checked(b []byte, on bool) error {
	if !on {
		return nil
	}
	var got [4]byte
	if _, err := io.ReadFull(k.NC, got[:]); err != nil {
		return err
	}
	if !bytes.Equal(got[:], digest(b)) {
		return errors.New("wrong digest from the target")
	}
	return nil
}

// Receive reads one PDU.
func (k *Conn) Receive() (*PDU, error) {
	_ = k.NC.SetReadDeadline(time.Now().Add(k.cfg.Timeout))
	p := new(PDU)
	if _, err := io.ReadFull(k.NC, p.H[:]); err != nil {
		return nil, err
	}
	if err := k.checked(p.H[:], k.HeaderDigest); err != nil {
		return nil, err
	}
	n := int(p.H[5])<<16 | int(p.H[6])<<8 | int(p.H[7])
	b := make([]byte, n+(-n&3))
	if _, err := io.ReadFull(k.NC, b); err != nil {
		return nil, err
	}
	p.Data = b[:n]
	return p, k.checked(b, k.DataDigest && n > 0)
}

func pairs(kv ...[2]string) []byte {
	var b []byte
	for _, p := range kv {
		b = append(b, p[0]+"="+p[1]+"\x00"...)
	}
	return b
}

// LoginPDU makes a login request; flags is the second byte.
func (k *Conn) LoginPDU(flags byte, kv ...[2]string) *PDU {
	p := &PDU{Data: pairs(kv...)}
	p.H[0], p.H[1] = 0x43, flags
	copy(p.H[8:], k.cfg.ISID[:])
	binary.BigEndian.PutUint16(p.H[14:], k.cfg.TSIH)
	p.Put(16, k.tag)
	p.Put(24, k.CmdSN)
	p.Put(28, k.ExpStatSN)
	return p
}

func (k *Conn) exchange(p *PDU) (map[string]string, error) {
	if err := k.Send(p); err != nil {
		return nil, err
	}
	r, err := k.Receive()
	if err != nil {
		return nil, err
	}
	if r.H[0] != 0x23 {
		return nil, fmt.Errorf("login answered by operation %#x", r.H[0])
	}
	if r.H[36] != 0 {
		return nil, &Refused{r.H[36], r.H[37]}
	}
	k.ExpStatSN, k.transit = r.U32(24)+1, r.H[1]&0x80 != 0
	m := map[string]string{}
	for e := range bytes.SplitSeq(r.Data, []byte{0}) {
		if a, b, ok := strings.Cut(string(e), "="); ok {
			m[a] = b
		}
	}
	return m, nil
}

// LoginWith is Login with other operational keys than the configuration's.
func (k *Conn) LoginWith(extra ...[2]string) error {
	k.cfg.Extra = extra
	return k.Login()
}

// Login logs in on a connection.
func (k *Conn) Login() error {
	kind, method := "Normal", "CHAP"
	names := [][2]string{{"InitiatorName", k.cfg.Initiator}}
	if k.cfg.Target == "" {
		kind = "Discovery"
	} else {
		names = append(names, [2]string{"TargetName", k.cfg.Target})
	}
	if k.cfg.User == "" {
		method = "None"
	}
	names = append(names, [2]string{"SessionType", kind}, [2]string{"AuthMethod", method})
	m, err := k.exchange(k.LoginPDU(0x01, names...))
	if err != nil {
		return err
	}
	if m["AuthMethod"] == "CHAP" {
		if m, err = k.exchange(k.LoginPDU(0x01, [2]string{"CHAP_A", "5"})); err != nil {
			return err
		}
		id, _ := strconv.Atoi(m["CHAP_I"])
		ch, err := hex.DecodeString(strings.TrimPrefix(m["CHAP_C"], "0x"))
		if err != nil {
			return err
		}
		h := md5.Sum(append(append([]byte{byte(id)}, k.cfg.Secret...), ch...)) //nolint:gosec // CHAP
		if _, err = k.exchange(k.LoginPDU(0x81, [2]string{"CHAP_N", k.cfg.User}, [2]string{"CHAP_R", fmt.Sprintf("0x%x", h)})); err != nil {
			return err
		}
	}
	ops := append([][2]string{{"MaxRecvDataSegmentLength", "262144"}, {"InitialR2T", "No"}, {"ImmediateData", "Yes"}}, k.cfg.Extra...)
	// A target may come with keys of its own, and lets us go on when we answered.
	agreed := map[string]string{}
	for k.transit = false; !k.transit; {
		if k.rounds++; k.rounds > loginRoundsMax {
			return fmt.Errorf("login has not ended after %d rounds", loginRoundsMax)
		}
		if m, err = k.exchange(k.LoginPDU(0x87, ops...)); err != nil {
			return err
		}
		for _, o := range ops {
			agreed[o[0]] = "" // the answer to it follows
		}
		ops = answers(m, agreed)
		maps.Copy(agreed, m)
	}
	k.HeaderDigest, k.DataDigest = agreed["HeaderDigest"] == "CRC32C", agreed["DataDigest"] == "CRC32C"
	if k.cfg.Target == "" || k.cfg.KeepAttention {
		return nil
	}
	return k.clearAttention()
}

// answers agrees to what the target offers of itself, and to no digests.
func answers(offers, known map[string]string) (l [][2]string) {
	for key, v := range offers {
		if _, ok := known[key]; ok {
			continue
		}
		switch key {
		case "TargetPortalGroupTag", "TargetAlias", "TargetAddress", "MaxRecvDataSegmentLength": // declared
		case "HeaderDigest", "DataDigest":
			l = append(l, [2]string{key, "None"})
		default:
			l = append(l, [2]string{key, v})
		}
	}
	return l
}

const maxAttentions = 16

// clearAttention sends TEST UNIT READY until no unit attention is left.
func (k *Conn) clearAttention() error {
	for range maxAttentions {
		a, err := k.Command(make([]byte, 6), nil, 0)
		if err != nil {
			return err
		}
		if key, _ := a.Key(); key != 6 {
			return nil
		}
	}
	return errors.New("unit attentions do not end")
}

// Answer is what a command came to.
type Answer struct {
	Status   byte
	Data     []byte
	Sense    []byte // without its length
	Flags    byte   // residual bits
	Residual uint32
}

// Key is the sense key, with the additional code and its qualifier.
func (a *Answer) Key() (key byte, asc uint16) {
	if len(a.Sense) < 14 {
		return 0, 0
	}
	return a.Sense[2] & 0x0f, binary.BigEndian.Uint16(a.Sense[12:])
}

// CommandPDU makes a command request.
func (k *Conn) CommandPDU(cdb, out []byte, inMax int) *PDU {
	p := &PDU{}
	k.tag++
	p.H[0], p.H[1] = 0x01, 0x81
	edtl := inMax
	if inMax > 0 {
		p.H[1] |= 0x40
	}
	if len(out) > 0 {
		p.H[1] |= 0x20
		edtl = len(out)
	}
	p.H[9] = k.cfg.LUN
	p.Put(16, k.tag)
	p.Put(20, uint32(edtl))
	p.Put(24, k.CmdSN)
	p.Put(28, k.ExpStatSN)
	copy(p.H[32:], cdb)
	k.CmdSN++
	return p
}

// Command runs one command: its data goes as the target asks for it.
func (k *Conn) Command(cdb, out []byte, inMax int) (*Answer, error) {
	if err := k.Send(k.CommandPDU(cdb, out, inMax)); err != nil {
		return nil, err
	}
	return k.Await(out)
}

// Await serves R2Ts from out and collects the answer of the last command.
func (k *Conn) Await(out []byte) (*Answer, error) {
	a := &Answer{}
	for {
		p, err := k.Receive()
		if err != nil {
			return nil, err
		}
		switch p.H[0] & 0x3f {
		case 0x20: // the target asks whether we are there
			if err := k.pong(p); err != nil {
				return nil, err
			}
		case 0x31:
			off, n := int(p.U32(40)), int(p.U32(44))
			if err := k.dataOut(p, out[off:off+n], off); err != nil {
				return nil, err
			}
		case 0x25:
			a.Data = append(a.Data, p.Data...)
			if p.H[1]&0x01 != 0 {
				k.ExpStatSN = p.U32(24) + 1
				a.Status, a.Flags, a.Residual = p.H[3], p.H[1]&0x06, p.U32(44)
				return a, nil
			}
		case 0x21:
			k.ExpStatSN = p.U32(24) + 1
			a.Status, a.Flags, a.Residual = p.H[3], p.H[1]&0x06, p.U32(44)
			if len(p.Data) > 2 {
				a.Sense = p.Data[2:]
			}
			return a, nil
		default:
			return nil, fmt.Errorf("unexpected operation %#x", p.H[0])
		}
	}
}

// pong answers a NOP-In that wants an answer (RFC 7143 11.19).
func (k *Conn) pong(in *PDU) error {
	if in.U32(20) == 0xffffffff {
		return nil
	}
	p := &PDU{Data: in.Data}
	p.H[0], p.H[1] = 0x40, 0x80
	copy(p.H[8:16], in.H[8:16])
	p.Put(16, 0xffffffff)
	p.Put(20, in.U32(20))
	p.Put(24, k.CmdSN)
	p.Put(28, k.ExpStatSN)
	return k.Send(p)
}

func (k *Conn) dataOut(r2t *PDU, b []byte, off int) error {
	const segment = 256 << 10
	for sn := uint32(0); len(b) > 0; sn++ {
		n := min(len(b), segment)
		p := &PDU{Data: b[:n]}
		p.H[0] = 0x05
		if n == len(b) {
			p.H[1] = 0x80
		}
		p.Put(16, r2t.U32(16))
		p.Put(20, r2t.U32(20))
		p.Put(36, sn)
		p.Put(40, uint32(off))
		if err := k.Send(p); err != nil {
			return err
		}
		b, off = b[n:], off+n
	}
	return nil
}

// Read reads n blocks.
func (k *Conn) Read(lba uint64, n int) (*Answer, error) {
	return k.Command(cdb16(0x88, lba, n), nil, n*512)
}

// Write writes whole blocks.
func (k *Conn) Write(lba uint64, b []byte) (*Answer, error) {
	return k.Command(cdb16(0x8a, lba, len(b)/512), b, 0)
}

// Flush is SYNCHRONIZE CACHE(16) of everything.
func (k *Conn) Flush() (*Answer, error) { return k.Command(cdb16(0x91, 0, 0), nil, 0) }

func cdb16(op byte, lba uint64, n int) []byte {
	c := make([]byte, 16)
	c[0] = op
	binary.BigEndian.PutUint64(c[2:], lba)
	binary.BigEndian.PutUint32(c[10:], uint32(n))
	return c
}
