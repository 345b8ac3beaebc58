package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// startTime is when a process began, in clock ticks after the host's boot: with its
// number it names one process for good (proc(5), stat, field 22).
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold anything.
	_, rest, ok := strings.Cut(string(b), ") ")
	for ok {
		var after string
		if _, after, ok = strings.Cut(rest, ") "); ok {
			rest = after
		}
	}
	f := strings.Fields(rest)
	if len(f) < 20 || f[0] == "Z" {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(f[19], 10, 64)
}

func sameProcess(pid int, started uint64) bool {
	t, err := startTime(pid)
	return err == nil && t == started
}

// process is QEMU, ours or one that another process has left running.
type process struct {
	pid     int
	started uint64
	done    chan struct{} // closed when our child has ended; nil if it is not our child
	status  atomic.Value  // string, how it ended
}

// spawn starts QEMU. Unless it is detached, it is killed with this process, however
// that ends: the thread that started it lives as long as it does, since the kernel
// ties the two (PR_SET_PDEATHSIG in prctl(2)).
func spawn(cmd *exec.Cmd, detached bool) (*process, error) {
	p := &process{done: make(chan struct{})}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !detached {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
			p.started, err = startTime(p.pid)
			if errors.Is(err, os.ErrProcessDone) {
				err = nil // at once: Wait says how
			}
		}
		started <- err
		if cmd.Process != nil {
			_ = cmd.Wait() // its state says it
			p.status.Store(cmd.ProcessState.String())
		}
	}()
	if err := <-started; err != nil {
		if p.pid != 0 {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
		<-p.done
		return nil, err
	}
	return p, nil
}

func (p *process) alive() bool {
	if p.done != nil {
		select {
		case <-p.done:
			return false
		default:
			return true
		}
	}
	return sameProcess(p.pid, p.started)
}

// kill ends the process at once and waits until it is gone.
func (p *process) kill() error {
	if p.alive() {
		if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill QEMU, process %d: %w", p.pid, err)
		}
	}
	return p.wait(killWait)
}

func (p *process) wait(atMost time.Duration) error {
	for deadline := time.Now().Add(atMost); p.alive(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("QEMU, process %d, still runs after %v", p.pid, atMost)
		}
	}
	return nil
}
