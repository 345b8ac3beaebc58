package lab

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"vcn/test/lab/wire"
)

const (
	memoryDefault = 1 << 30
	memoryMin     = 256 << 20
	cpusMax       = 16
	disksMax      = 16
	cardsMax      = 8
	bootWait      = 5 * time.Minute // measured 10 s on an idle machine, 90 s beside six others
	agentPoll     = 100 * time.Millisecond
	pingWait      = 2 * time.Second
	killWait      = 10 * time.Second
	portTries     = 5
	stateName     = "machine.json"
	consoleName   = "console.log"
	qemuLogName   = "qemu.log"
)

var (
	// ErrNotRoot: taps, namespaces and file owners want it.
	ErrNotRoot = errors.New("needs root")
	// ErrRoot: building the root file system failed.
	ErrRoot = errors.New("build failed")
	// ErrOff: the machine does not run.
	ErrOff = errors.New("machine is off")
	// ErrVersion: the machine was started by another version of this program.
	ErrVersion = errors.New("machine is of another version of the lab")
	// ErrConfig: a machine like this cannot be made.
	ErrConfig = errors.New("bad machine")
	// ErrBoot: it was started and its agent did not answer.
	ErrBoot = errors.New("machine did not come up")
)

// Disk is a spare, empty disk: /dev/disk/by-id/virtio-spareN in the machine, where N
// counts from 0.
type Disk struct {
	SizeBytes int64 // sparse on the host
	// Cache is QEMU's mode: "writeback" (default), "none" (past the host's page
	// cache, as a real disk behaves when its host loses power), "writethrough", "unsafe".
	Cache string
}

// NIC is a card on a cable: eth0, eth1, … in the machine.
type NIC struct {
	Cable *Cable
	// MAC is made of the machine's name and the card's number if it is empty.
	MAC string
	// Capture is a file into which every frame of this card is written (pcap), or
	// empty. A machine that is started again begins it anew.
	Capture string
}

// Config describes a machine.
type Config struct {
	Name        string // its host name; letters, digits, "-"
	MemoryBytes int64  // default 1 GiB
	CPUs        int    // default 1
	Disks       []Disk
	NICs        []NIC
	// Dir keeps disks and logs; a new one below StateDir if it is empty. Close removes it.
	Dir string
	// Cache is where roots are kept; CacheDir if it is empty.
	Cache string
	// Agent is the program labd; AgentPath if it is empty.
	Agent string
	// Detached machines outlive this process, until somebody opens and closes them.
	// They have no cards.
	Detached bool
	// Progress is told what takes long; may be nil.
	Progress func(string)
}

// state is what another process needs to reach a detached machine.
type state struct {
	Name    string
	PID     int
	Started uint64 // of the process, clock ticks after the host's boot (proc(5))
	Port    int    // of the agent, on 127.0.0.1
	Token   string
	Disks   []Disk
	Memory  int64
	Owner   int    // process that must live, or 0
	Since   uint64 // its start
	// Protocol is that of its agent, which need not be of this program's version.
	Protocol int
}

// Machine is a lab machine, on or off. Its methods may be called from several goroutines.
type Machine struct {
	cfg   Config
	dir   string
	root  Root
	begun time.Time

	dialing sync.Mutex // held while connecting

	mu     sync.Mutex
	st     state
	vm     *process // nil when off
	closed bool
	forget func() // of the context and of the signals
}

var goodName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func (c *Config) check() error {
	switch {
	case !goodName.MatchString(c.Name):
		return fmt.Errorf("%w: name %q: want lower-case letters, digits and \"-\", at most 32", ErrConfig, c.Name)
	case c.MemoryBytes != 0 && c.MemoryBytes < memoryMin:
		return fmt.Errorf("%w: %d bytes of memory: want at least %d", ErrConfig, c.MemoryBytes, memoryMin)
	case c.CPUs < 0 || c.CPUs > cpusMax || len(c.Disks) > disksMax || len(c.NICs) > cardsMax:
		return fmt.Errorf("%w: %d processors, %d disks, %d cards: want at most %d, %d, %d", ErrConfig,
			c.CPUs, len(c.Disks), len(c.NICs), cpusMax, disksMax, cardsMax)
	case c.Detached && len(c.NICs) > 0:
		return fmt.Errorf("%w: a detached machine cannot be on a cable, which ends with its process", ErrConfig)
	}
	for i, d := range c.Disks {
		if d.SizeBytes < 1<<20 || d.SizeBytes%512 != 0 {
			return fmt.Errorf("%w: disk %d of %d bytes: want whole sectors and at least 1 MiB", ErrConfig, i, d.SizeBytes)
		}
		if d.Cache != "" && !slices.Contains([]string{"writeback", "none", "writethrough", "unsafe"}, d.Cache) {
			return fmt.Errorf("%w: disk %d: cache mode %q", ErrConfig, i, d.Cache)
		}
	}
	return nil
}

func (c *Config) defaults() error {
	if c.MemoryBytes == 0 {
		c.MemoryBytes = memoryDefault
	}
	c.CPUs = max(c.CPUs, 1)
	if c.Agent == "" {
		c.Agent = AgentPath()
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	for i := range c.NICs {
		if c.NICs[i].MAC == "" {
			c.NICs[i].MAC = macOf(c.Name, i)
		}
	}
	return c.check()
}

// macOf makes a locally administered address that stays the same.
func macOf(name string, i int) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%s/%d", name, i))
	return net.HardwareAddr{0x52, 0x54, 0x00, h[0], h[1], h[2]}.String()
}

// Start makes a machine and waits until its agent answers. When ctx ends, and when
// the process is interrupted or killed, the machine ends too, unless it is detached.
func Start(ctx context.Context, cfg Config) (*Machine, error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	m := &Machine{cfg: cfg, begun: time.Now()}
	if err := m.make(ctx); err != nil {
		return nil, fmt.Errorf("start machine %s: %w", cfg.Name, err)
	}
	if !cfg.Detached {
		m.mu.Lock() // a context that has ended calls Close at once
		stop := context.AfterFunc(ctx, func() { _ = m.Close() })
		unwatch := onInterrupt(m)
		m.forget = func() { stop(); unwatch() }
		m.mu.Unlock()
	}
	if err := m.Boot(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// make prepares everything but the process.
func (m *Machine) make(ctx context.Context) (err error) {
	if m.root, err = BuildRoot(ctx, m.cfg.Cache, m.cfg.Progress); err != nil {
		return err
	}
	own, err := startTime(os.Getpid())
	if err != nil {
		return err
	}
	m.st = state{Protocol: wire.Version, Name: m.cfg.Name, Token: rand.Text(), Disks: m.cfg.Disks, Memory: m.cfg.MemoryBytes}
	if !m.cfg.Detached {
		m.st.Owner, m.st.Since = os.Getpid(), own
	}
	m.dir = m.cfg.Dir
	if m.dir == "" {
		if err := sweep(StateDir()); err != nil {
			return err
		}
		if err := os.MkdirAll(StateDir(), 0o755); err != nil {
			return err
		}
		if m.dir, err = os.MkdirTemp(StateDir(), m.cfg.Name+"."); err != nil {
			return err
		}
	} else if err := os.Mkdir(m.dir, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(m.dir))
		}
	}()
	if err := m.save(); err != nil {
		return err
	}
	for i, d := range m.cfg.Disks {
		f, err := os.OpenFile(m.diskPath(i), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Truncate(d.SizeBytes), f.Close()); err != nil {
			return err
		}
	}
	return m.packInitrd()
}

func (m *Machine) diskPath(i int) string { return filepath.Join(m.dir, fmt.Sprintf("spare%d.img", i)) }

// save writes the state whole or not at all.
func (m *Machine) save() error {
	b, err := json.MarshalIndent(m.st, "", "  ")
	if err != nil {
		return err
	}
	name := filepath.Join(m.dir, stateName)
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// machineID is the machine's in the sense of machine-id(5); the same at every boot.
func (m *Machine) machineID() string {
	h := sha256.Sum256([]byte("machine-id " + m.st.Token))
	return hex.EncodeToString(h[:16])
}

// Name is the machine's host name.
func (m *Machine) Name() string { return m.st.Name }

// Dir holds its disks and logs until Close.
func (m *Machine) Dir() string { return m.dir }

// Console is the log of its kernel, of all boots.
func (m *Machine) Console() string { return filepath.Join(m.dir, consoleName) }

// PID is that of QEMU, or 0 when the machine is off.
func (m *Machine) PID() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.vm == nil || !m.vm.alive() {
		return 0
	}
	return m.vm.pid
}

// MAC is the address of card i.
func (m *Machine) MAC(i int) string { return m.cfg.NICs[i].MAC }

// MemoryBytes is what it was given.
func (m *Machine) MemoryBytes() int64 { return m.st.Memory }

// Disks counts its spare disks.
func (m *Machine) Disks() int { return len(m.st.Disks) }
