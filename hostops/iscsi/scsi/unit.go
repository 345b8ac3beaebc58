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
	maxAttentions       = 8 // queued for one nexus
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

	nexusMu sync.Mutex
	nexus   map[string][]gotgt.SCSISubError // pending unit attentions
}

// NewUnit makes a unit over f, which it owns from then on.
func NewUnit(f File, c Config) (*Unit, error) {
	if c.VolumeID == "" || c.Log == nil {
		return nil, fmt.Errorf("make unit: volume id and logger are needed")
	}
	sum := sha256.Sum256([]byte(c.VolumeID))
	u := &Unit{
		cfg: c, file: f, nexus: map[string][]gotgt.SCSISubError{},
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

// Sync makes every completed write durable. After one failure it fails for
// good.
func (u *Unit) Sync() error {
	if why := u.Failed(); why != "" {
		// Nobody hears of the failure before OnFail has returned.
		u.failMu.Lock()
		defer u.failMu.Unlock()
		return fmt.Errorf("sync volume %s: unit has failed: %s", u.cfg.VolumeID, why)
	}
	// The kernel tells of lost pages once. A sync that runs beside the one that is
	// told must not find the pages clean and answer before that one is noted.
	u.failMu.Lock()
	defer u.failMu.Unlock()
	if why := u.Failed(); why != "" {
		return fmt.Errorf("sync volume %s: unit has failed: %s", u.cfg.VolumeID, why)
	}
	err := u.file.Sync()
	if err == nil {
		return nil
	}
	err = fmt.Errorf("sync volume %s: %w", u.cfg.VolumeID, err)
	why := err.Error()
	if u.failed.CompareAndSwap(nil, &why) {
		u.cfg.Log.Error("volume has failed for good: data that was written may be lost", "volume", u.cfg.VolumeID, "err", err)
		if u.cfg.OnFail != nil {
			u.cfg.OnFail(err)
		}
	}
	return err
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

// Close closes the file. No command may run.
func (u *Unit) Close() error { return u.file.Close() }

// Attach makes a nexus (one session) known, so that unit attentions reach it.
func (u *Unit) Attach(nexus string) {
	u.nexusMu.Lock()
	defer u.nexusMu.Unlock()
	u.nexus[nexus] = nil
}

// Detach forgets a nexus.
func (u *Unit) Detach(nexus string) {
	u.nexusMu.Lock()
	defer u.nexusMu.Unlock()
	delete(u.nexus, nexus)
}

// Reset is a logical unit reset; every nexus is told (SAM-5 5.14.6).
func (u *Unit) Reset() { u.attention(gotgt.ASC_POWERON_RESET) }

func (u *Unit) attention(asc gotgt.SCSISubError) {
	u.nexusMu.Lock()
	defer u.nexusMu.Unlock()
	for n, q := range u.nexus {
		if len(q) < maxAttentions {
			u.nexus[n] = append(q, asc)
		}
	}
}

func (u *Unit) takeAttention(nexus string) (gotgt.SCSISubError, bool) {
	u.nexusMu.Lock()
	defer u.nexusMu.Unlock()
	q := u.nexus[nexus]
	if len(q) == 0 {
		return 0, false
	}
	u.nexus[nexus] = q[1:]
	return q[0], true
}

// call is one command on its way through a handler.
type call struct {
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
	case c.run == nil:
		return u.kept(cdb)
	}
	return c.run(u, &call{cdb: cdb, out: out, inMax: inMax})
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
