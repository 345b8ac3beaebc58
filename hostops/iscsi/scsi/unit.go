package scsi

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/gostor/gotgt/pkg/api"
	gotgt "github.com/gostor/gotgt/pkg/scsi"
)

const (
	blockShift    = 9 // 512-byte logical blocks
	blockBytes    = 1 << blockShift
	physicalShift = 3 // 4 KiB physical blocks

	// MaxTransferBytes is the most one command reads or writes.
	MaxTransferBytes = 8 << 20

	maxTransferBlocks   = MaxTransferBytes / blockBytes
	maxUnmapBlocks      = 1 << 20 // 512 MiB in one descriptor
	maxUnmapDescriptors = 256
	maxWriteSameBlocks  = 1 << 18 // 128 MiB: still quick where zeroes must be written
	maxCompareBlocks    = 255
)

// Config says what a unit is.
type Config struct {
	// VolumeID is the immutable name of the volume: serial number and NAA come
	// from it, so that a guest sees the same disk wherever it is served.
	VolumeID string
	Log      *slog.Logger
	// OnFail is called once, before the initiator is told, when the unit has
	// failed for good. It may be nil.
	OnFail func(error)
	// Failed makes a unit that has failed before (in an earlier process).
	Failed string
	// WriteThrough makes every write durable before it is answered, and says so
	// (WCE=0): for hosts that may lose their power.
	WriteThrough bool
	// PowerLost: the host lost its power, and with it perhaps writes of this
	// volume that were answered and not flushed. Initiators hear POWER ON
	// OCCURRED instead of the common POWER ON, RESET, OR BUS DEVICE RESET.
	PowerLost bool
	// Mark, if not nil, is set while there may be writes that were answered and
	// not flushed.
	Mark Mark
}

// Unit is one disk. Its methods may be called concurrently.
type Unit struct {
	cfg  Config
	file File
	naa  uint64
	base api.CommandFunc // gotgt's own PerformCommand

	// geometry is written by Resize and read by gotgt's commands.
	geometry sync.RWMutex
	lu       *api.SCSILu
	blocks   atomic.Uint64

	failed atomic.Pointer[string]
	failMu sync.Mutex // held while the first failure is told

	// data is locked for writing by COMPARE AND WRITE, which must be atomic
	// against every other write.
	data sync.RWMutex

	// access is held for reading while a command that reservations govern runs,
	// and for writing while reservations change. It comes before data.
	access   sync.RWMutex
	res      reservations
	reserved atomic.Pointer[string] // nexus that has RESERVE(6) or (10)

	flush flusher
	mark  marker

	nexusMu sync.Mutex
	nexus   map[string]string // initiators of the sessions
	copies  map[string][]copyResult
	ports   map[string]*port // by initiator
	pending atomic.Int64     // unit attentions of all ports
}

// NewUnit makes a unit over f, which it owns from then on.
func NewUnit(f File, c Config) (*Unit, error) {
	if c.VolumeID == "" || c.Log == nil {
		return nil, fmt.Errorf("make unit: volume id and logger are needed")
	}
	sum := sha256.Sum256([]byte(c.VolumeID))
	u := &Unit{
		cfg: c, file: f, nexus: map[string]string{}, copies: map[string][]copyResult{}, ports: map[string]*port{},
		// NAA 3h, locally assigned (SPC-4 7.8.6.6).
		naa: binary.BigEndian.Uint64(sum[:8])&^(0xf<<60) | 3<<60,
	}
	lu, err := newLogicalUnit(f, u.naa)
	if err != nil {
		return nil, err
	}
	u.lu, u.base = lu, lu.PerformCommand
	// Whoever holds the model gets our commands, never the ones found wrong.
	lu.PerformCommand = func(_ int, cmd *api.SCSICommand) api.SAMStat { return u.perform(cmd) }
	u.blocks.Store(lu.Size >> blockShift)
	if lu.Size < blockBytes {
		return nil, fmt.Errorf("make unit: volume %s of %d bytes is smaller than a block", c.VolumeID, lu.Size)
	}
	if c.Failed != "" {
		u.failed.Store(&c.Failed)
	}
	return u, nil
}

// Failed tells why the unit has failed for good; empty if it has not.
func (u *Unit) Failed() string {
	if p := u.failed.Load(); p != nil {
		return *p
	}
	return ""
}

// Resize rereads the size of the file and tells every initiator. A file that
// shrank is an error and changes nothing.
func (u *Unit) Resize() error {
	n, err := u.file.Size()
	if err != nil {
		return fmt.Errorf("size of volume %s: %w", u.cfg.VolumeID, err)
	}
	now := uint64(n) >> blockShift
	u.geometry.Lock()
	old := u.blocks.Load()
	if now > old {
		u.lu.Size = uint64(n)
		u.blocks.Store(now)
	}
	u.geometry.Unlock()
	if now < old {
		return fmt.Errorf("resize volume %s: file shrank from %d to %d blocks", u.cfg.VolumeID, old, now)
	}
	if now > old {
		u.attention(ascCapacityChanged)
	}
	return nil
}

// Close closes the file, and clears the mark if everything is flushed. No
// command may run.
func (u *Unit) Close() error {
	u.closeMark()
	return u.file.Close()
}

// call is one command on its way through a handler.
type call struct {
	nexus string
	cdb   []byte // 16 bytes
	out   []byte // data-out that arrived, maybe less than the CDB wants
	inMax int    // data-in bytes the initiator takes
}

// OutBytes is how many bytes of data-out the CDB (16 bytes) takes, 0 for none.
func (u *Unit) OutBytes(cdb []byte) int {
	if c := find(cdb); c != nil && c.out != nil {
		return c.out(cdb)
	}
	return 0
}

// Exec runs one command. cdb has 16 bytes, out is the data-out that arrived,
// inMax how much data-in the initiator takes. A panic of a handler becomes
// HARDWARE ERROR.
func (u *Unit) Exec(nexus string, cdb, out []byte, inMax int) (r Result) {
	defer func() {
		if e := recover(); e != nil {
			u.cfg.Log.Error("command panicked", "volume", u.cfg.VolumeID, "cdb", fmt.Sprintf("%x", cdb), "panic", e, "stack", string(debug.Stack()))
			r = Broken()
		}
	}()
	c := find(cdb)
	if c == nil || !c.despiteAttention {
		if asc, ok := u.takeAttention(nexus); ok {
			return Check(gotgt.UNIT_ATTENTION, asc)
		}
	}
	switch {
	case c == nil && isServiceAction(cdb[0]):
		return illegalField()
	case c == nil:
		return illegalOp()
	}
	if c.access.governed() {
		u.access.RLock()
		defer u.access.RUnlock()
		if u.conflict(nexus, c.access) {
			return conflicts()
		}
	}
	if c.run == nil {
		return u.kept(cdb)
	}
	return c.run(u, &call{nexus: nexus, cdb: cdb, out: out, inMax: inMax})
}

// NowBytes is the most that ExecNow reads.
const NowBytes = 64 << 10

// ExecNow runs a READ whose data is in memory and that nothing stands in the way
// of; it does not wait for anything. Otherwise ok is false and nothing has
// happened. cdb has 16 bytes.
func (u *Unit) ExecNow(nexus string, cdb []byte, inMax int) (r Result, ok bool) {
	file, can := u.file.(interface{ ReadNow([]byte, int64) bool })
	if !can || u.attends(nexus) || u.reserved.Load() != nil {
		return Result{}, false
	}
	switch cdb[0] {
	case opRead6, opRead10, opRead12, opRead16:
	default:
		return Result{}, false
	}
	if !u.access.TryRLock() {
		return Result{}, false
	}
	defer u.access.RUnlock()
	lba, n, bad := u.within(cdb)
	size := int(n) << blockShift
	if bad != nil || n == 0 || size > NowBytes || size > inMax || u.res.kind != prNone || !u.data.TryRLock() {
		return Result{}, false
	}
	defer u.data.RUnlock()
	buf := NewBuffer(size)
	if !file.ReadNow(buf.B, int64(lba)<<blockShift) {
		buf.Free()
		return Result{}, false
	}
	return Result{Data: buf.B, Total: size, buf: buf}, true
}

// keptBytes bounds the data-in of the commands that stay gotgt's.
const keptBytes = 64

// kept runs a command in gotgt's model.
func (u *Unit) kept(cdb []byte) Result {
	buf := &api.SCSIDataBuffer{Buffer: make([]byte, keptBytes), Length: keptBytes}
	cmd := &api.SCSICommand{
		OpCode: cdb[0], Device: u.lu, SCB: cdb, SCBLength: len(cdb),
		InSDBBuffer: buf, OutSDBBuffer: &api.SCSIDataBuffer{}, SenseBuffer: &api.SenseBuffer{},
	}
	u.geometry.RLock()
	st := u.base(0, cmd)
	u.geometry.RUnlock()
	if st.Stat != StatusGood {
		return Result{Status: st.Stat, Sense: cmd.SenseBuffer.Buffer}
	}
	return Result{Data: buf.Buffer[:min(buf.Resid, keptBytes)]}
}

// perform is our commands in the shape of gotgt's PerformCommand.
func (u *Unit) perform(cmd *api.SCSICommand) api.SAMStat {
	var out []byte
	if cmd.OutSDBBuffer != nil {
		out = cmd.OutSDBBuffer.Buffer
	}
	inMax := 0
	if cmd.InSDBBuffer != nil {
		inMax = len(cmd.InSDBBuffer.Buffer)
	}
	cdb := make([]byte, 16)
	copy(cdb, cmd.SCB)
	r := u.Exec("", cdb, out, inMax)
	defer r.Free()
	if inMax > 0 {
		cmd.InSDBBuffer.Resid = uint32(copy(cmd.InSDBBuffer.Buffer, r.Data))
	}
	cmd.Result, cmd.State = r.Status, api.SCSICommandProcessed
	if r.Status == StatusGood {
		return api.SAMStatGood
	}
	cmd.SenseBuffer = &api.SenseBuffer{Buffer: r.Sense, Length: uint32(len(r.Sense))}
	return api.SAMStat{Stat: r.Status, Err: fmt.Errorf("command %x: status %#x", cdb, r.Status)}
}
