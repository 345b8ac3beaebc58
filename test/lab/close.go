package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"vcn/test/lab/wire"
)

// powerOffWait is for systemd's way down, some 5-10 s.
const powerOffWait = 90 * time.Second

// PowerOff shuts the machine down in order and waits until it is off.
func (m *Machine) PowerOff(ctx context.Context) error {
	m.mu.Lock()
	vm := m.vm
	m.mu.Unlock()
	if vm == nil || !vm.alive() {
		return ErrOff
	}
	err := m.Command(ctx, "systemctl", "poweroff", "--no-block").Run()
	var exit *ExitError
	if errors.As(err, &exit) || errors.Is(err, ErrOff) {
		return fmt.Errorf("power off machine %s: %w", m.cfg.Name, err)
	}
	// Any other error: the agent may be stopped before it can answer.
	for deadline := time.Now().Add(powerOffWait); vm.alive(); {
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("power off machine %s: still on after %v", m.cfg.Name, powerOffWait), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("power off machine %s: %w", m.cfg.Name, ctx.Err())
		case <-time.After(agentPoll):
		}
	}
	return nil
}

// Kill cuts the power: QEMU is killed, nothing is flushed, and on its cables there
// is silence. Boot starts it again.
func (m *Machine) Kill() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.vm == nil || !m.vm.alive() {
		return ErrOff
	}
	return m.vm.kill()
}

// Close ends the machine and removes its disks and logs. It may be called again.
func (m *Machine) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	if m.forget != nil {
		m.forget()
	}
	var errs []error
	if m.vm != nil {
		errs = append(errs, m.vm.kill())
	}
	for i, n := range m.cfg.NICs {
		errs = append(errs, n.Cable.removeTap(m.tapName(i)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close machine %s: %w", m.cfg.Name, err)
	}
	return os.RemoveAll(m.dir)
}

// SaveLogs copies the console, QEMU's own output and, if the machine still answers,
// its journal into a directory, and returns the files.
func (m *Machine) SaveLogs(ctx context.Context, dir string) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var files []string
	var errs []error
	for _, name := range []string{consoleName, qemuLogName} {
		b, err := os.ReadFile(filepath.Join(m.dir, name))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		to := filepath.Join(dir, m.st.Name+"-"+name)
		files, errs = append(files, to), append(errs, os.WriteFile(to, b, 0o644))
	}
	if m.PID() != 0 {
		to := filepath.Join(dir, m.st.Name+"-journal.log")
		f, err := os.Create(to)
		if err != nil {
			return files, errors.Join(append(errs, err)...)
		}
		errs = append(errs, m.Journal(ctx, f), f.Close())
		files = append(files, to)
	}
	return files, errors.Join(errs...)
}

// Journal writes the machine's journal since its boot.
func (m *Machine) Journal(ctx context.Context, w io.Writer) error {
	c := m.Command(ctx, "journalctl", "--no-pager", "-o", "short-monotonic")
	c.Stdout = w
	return c.Run()
}

// Open returns a detached machine that another process has started in dir. Close
// ends it, also if an error comes with it: ErrOff if it does not run, ErrVersion if its
// agent speaks another language than this program.
func Open(dir string) (*Machine, error) {
	st, err := readState(dir)
	if err != nil {
		return nil, err
	}
	m := &Machine{cfg: Config{Name: st.Name, Disks: st.Disks, MemoryBytes: st.Memory, Detached: true}, dir: dir, st: st,
		vm: &process{pid: st.PID, started: st.Started}}
	if err := m.cfg.defaults(); err != nil {
		return nil, err
	}
	if st.Protocol != wire.Version && m.vm.alive() {
		return m, fmt.Errorf("machine %s: %w: end it and start it again", st.Name, ErrVersion)
	}
	if st.PID == 0 || !m.vm.alive() {
		return m, fmt.Errorf("machine %s: %w", st.Name, ErrOff)
	}
	return m, nil
}

func readState(dir string) (st state, err error) {
	b, err := os.ReadFile(filepath.Join(dir, stateName))
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return st, fmt.Errorf("read %s: %w", filepath.Join(dir, stateName), err)
	}
	return st, nil
}

// watched are the machines that an interrupt ends.
var watched struct {
	sync.Mutex
	machines map[*Machine]bool
	signals  chan os.Signal
}

// onInterrupt has m closed when the process is interrupted, which then ends as it
// would have.
func onInterrupt(m *Machine) (forget func()) {
	watched.Lock()
	defer watched.Unlock()
	if watched.machines == nil {
		watched.machines = map[*Machine]bool{}
	}
	watched.machines[m] = true
	if watched.signals == nil {
		watched.signals = make(chan os.Signal, 1)
		signal.Notify(watched.signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		go interrupted(watched.signals)
	}
	return func() {
		watched.Lock()
		defer watched.Unlock()
		delete(watched.machines, m)
		if len(watched.machines) == 0 && watched.signals != nil {
			signal.Stop(watched.signals)
			close(watched.signals)
			watched.signals = nil
		}
	}
}

func interrupted(c chan os.Signal) {
	s, ok := <-c
	if !ok {
		return // no machine is left
	}
	watched.Lock()
	var ms []*Machine
	for m := range watched.machines {
		ms = append(ms, m)
	}
	watched.Unlock()
	for _, m := range ms {
		_ = m.Close()
	}
	signal.Reset(s)
	_ = syscall.Kill(os.Getpid(), s.(syscall.Signal))
}
