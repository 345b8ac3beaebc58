//go:build lab

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const childVariable = "LAB_TEST_CHILD"

// must runs a command in a machine that has to succeed.
func must(t *testing.T, m *Machine, script string) string {
	t.Helper()
	out, err := m.Command(t.Context(), "sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", m.Name(), err, out)
	}
	return string(out)
}

func TestLabCable(t *testing.T) {
	cable := CableFor(t, 9000)
	dir := t.TempDir()
	var ms [2]*Machine
	errs := make(chan error, len(ms))
	for i := range ms {
		go func() {
			var err error
			ms[i], err = Start(t.Context(), Config{Name: fmt.Sprintf("host-%d", i), MemoryBytes: 512 << 20,
				NICs: []NIC{{Cable: cable, Capture: filepath.Join(dir, fmt.Sprint(i))}}})
			errs <- err
		}()
	}
	started := errors.Join(<-errs, <-errs)
	t.Cleanup(func() {
		for _, m := range ms {
			if m == nil {
				continue
			}
			if t.Failed() {
				keepLogs(t, m)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	if started != nil {
		t.Fatal(started)
	}
	a, b := ms[0], ms[1]
	for i, m := range ms {
		must(t, m, fmt.Sprintf(`ip addr add 10.77.0.%[1]d/24 dev eth0; ip link set eth0 up
for v in 7 8; do ip link add link eth0 name v$v type vlan id $v; ip addr add 10.77.$v.%[1]d/24 dev v$v; ip link set v$v up; done`, i+1))
	}
	t.Run("frames pass as they are", func(t *testing.T) { tagged(t, a, dir) })
	t.Run("the MTU is the cable's", func(t *testing.T) {
		must(t, a, "[ $(cat /sys/class/net/eth0/mtu) = 9000 ]; ping -c1 -W10 -M do -s 8972 10.77.0.2")
	})
	t.Run("the host is on the cable", func(t *testing.T) { hostOnCable(t, cable, b) })
	t.Run("a dead machine is silent", func(t *testing.T) { silent(t, cable, a, b) })
	if got := taps(t); got != "" {
		t.Errorf("links outside the cable's namespace: %s", got)
	}
}

// tagged pings untagged and in two VLANs, and looks at both ends of the wire.
func tagged(t *testing.T, a *Machine, dir string) {
	must(t, a, "for n in 0 7 8; do ping -c2 -i0.3 -W10 10.77.$n.2; done")
	for i := range 2 {
		frames, err := ReadCapture(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		for _, f := range frames {
			// IPv4, ICMP, and the subnet of the sender
			if f.EtherType == 0x0800 && f.Payload[9] == 1 {
				seen[fmt.Sprintf("net %d tags %v", f.Payload[14], f.Tags)]++
			}
		}
		want := map[string]int{"net 0 tags []": 4, "net 7 tags [7]": 4, "net 8 tags [8]": 4}
		if fmt.Sprint(seen) != fmt.Sprint(want) {
			t.Errorf("capture of machine %d: pings %v, want %v", i, seen, want)
		}
	}
}

func hostOnCable(t *testing.T, cable *Cable, m *Machine) {
	if err := cable.Address(t.Context(), "10.77.0.254/24"); err != nil {
		t.Fatal(err)
	}
	if out, err := cable.Command(t.Context(), "ip", "-o", "addr", "show", bridgeName).CombinedOutput(); err != nil || !strings.Contains(string(out), "10.77.0.254/24") {
		t.Errorf("the host's addresses on the cable: %v: %s", err, out)
	}
	must(t, m, "systemd-run --quiet systemd-socket-activate --inetd -a -l 9000 cat")
	var err error
	for range 100 {
		var conn interface {
			Read([]byte) (int, error)
			Write([]byte) (int, error)
			Close() error
		}
		if conn, err = cable.Dial(t.Context(), "tcp", "10.77.0.2:9000"); err != nil {
			time.Sleep(agentPoll)
			continue
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("over the cable\n")); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || line != "over the cable\n" {
			t.Errorf("echo %q, %v", line, err)
		}
		return
	}
	t.Errorf("dial: %v", err)
}

func silent(t *testing.T, cable *Cable, a, b *Machine) {
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	conn, err := cable.Dial(ctx, "tcp", "10.77.0.2:9000")
	if err == nil {
		conn.Close()
		t.Error("a dead machine accepts connections")
	}
	var timeout net.Error
	if !errors.Is(err, syscall.EHOSTUNREACH) && !(errors.As(err, &timeout) && timeout.Timeout()) {
		t.Errorf("want silence from a dead machine: %v", err)
	}
	if err := b.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	must(t, b, "ip addr add 10.77.0.2/24 dev eth0; ip link set eth0 up; ping -c1 -W20 10.77.0.1")
	if err := cable.Unplug(t.Context(), b, 0); err != nil {
		t.Fatal(err)
	}
	if out, err := b.Command(t.Context(), "ping", "-c1", "-W1", "10.77.0.1").CombinedOutput(); err == nil {
		t.Errorf("unplugged, and still: %s", out)
	}
	if err := cable.Plug(t.Context(), b, 0); err != nil {
		t.Fatal(err)
	}
	must(t, b, "ping -c3 -W20 10.77.0.1")
}

// TestLabKilledProcessLeavesNothing kills a process that has a machine.
func TestLabKilledProcessLeavesNothing(t *testing.T) {
	if os.Getenv(childVariable) != "" {
		_, err := Start(t.Context(), Config{Name: "orphan"})
		t.Fatalf("the child was to be killed meanwhile: %v", err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestLabKilledProcessLeavesNothing$")
		child.Env = append(os.Environ(), childVariable+"=1")
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		var dir string
		var st state
		for st.PID == 0 && ctx.Err() == nil {
			time.Sleep(agentPoll)
			dirs, err := filepath.Glob(filepath.Join(StateDir(), "orphan.*"))
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(dirs, func(d string) bool {
				st, err = readState(d)
				return err == nil && st.Owner == child.Process.Pid
			})
			if i >= 0 {
				dir = dirs[i]
			}
		}
		if st.PID == 0 || !sameProcess(st.PID, st.Started) {
			t.Fatalf("the child's machine does not run: %+v", st)
		}
		if err := child.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait() // it was killed
		vm := process{pid: st.PID, started: st.Started}
		if err := vm.wait(5 * time.Second); err != nil {
			t.Errorf("after %v: %v", sig, err)
		}
		if sig == syscall.SIGKILL {
			if err := sweep(StateDir()); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after %v: %s is still there: %v", sig, dir, err)
		}
		if !strings.HasPrefix(child.ProcessState.String(), "signal: ") {
			t.Errorf("the child ended with %v, want it to end by the signal", child.ProcessState)
		}
	}
}
