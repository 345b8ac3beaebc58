//go:build lab

package targetd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/hostops/hosttest"
)

const (
	spare        = "/dev/disk/by-id/virtio-spare0"
	labBytes     = 16 << 20 // of a device of a test, on the spare disk
	labSectors   = labBytes / 512
	kernelStores = "/sys/kernel/config/target/core"
)

var labDevices atomic.Int64

// labDevice makes a block device that can be suspended. Its end is the
// caller's: what the kernel serves cannot be removed.
func labDevice(t testing.TB) (name string) {
	t.Helper()
	n := labDevices.Add(1)
	name = fmt.Sprintf("vcntest%d-%d", os.Getpid(), n)
	dm(t, "create", name, "--table", fmt.Sprintf("0 %d linear %s %d", labSectors, spare, (n%200)*labSectors))
	return name
}

func dm(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("dmsetup", args...).CombinedOutput(); err != nil {
		t.Fatalf("dmsetup %v: %v\n%s", args, err, out)
	}
}

// commands counts what the kernel has begun to run on a volume.
func commands(t testing.TB, path string) int {
	t.Helper()
	l, err := filepath.Glob(kernelStores + "/*/*/udev_path")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range l {
		b, err := os.ReadFile(f)
		if err != nil || strings.TrimSpace(string(b)) != path {
			continue
		}
		b, err = os.ReadFile(filepath.Join(filepath.Dir(f), "statistics/scsi_lu/num_cmds"))
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	t.Fatalf("the kernel does not serve %s", path)
	return 0
}

// newKernelRig serves by LIO; its volumes are devices.
func newKernelRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{kernel: true}
	var devices []string
	r.volume = func(int64) string {
		devices = append(devices, labDevice(t))
		return "/dev/mapper/" + devices[len(devices)-1]
	}
	r.hold = func(path string) (func(), <-chan struct{}) {
		name := filepath.Base(path)
		before := commands(t, path)
		dm(t, "suspend", "--noflush", "--nolockfs", name)
		entered := make(chan struct{})
		go func() {
			eventually(t, "a command on the suspended device", func() bool { return commands(t, path) > before })
			close(entered)
		}()
		return func() { dm(t, "resume", name) }, entered
	}
	r.start(t, Config{Engine: EngineLIO})
	t.Cleanup(func() {
		for _, d := range devices {
			dm(t, "resume", d)
		}
		withdrawAll(t, r.srv)
		for _, d := range devices {
			dm(t, "remove", "--retry", d)
		}
	})
	return r
}

// withdrawAll leaves nothing in the kernel, which serves on otherwise.
func withdrawAll(t testing.TB, s hostops.Targets) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := s.List(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, x := range l {
		if err := s.Withdraw(ctx, x.Volume); err != nil {
			t.Error(err)
		}
	}
}

func TestLabConformance(t *testing.T) {
	volume := func(t *testing.T, _ string, size int64) string { return newVolume(t, size) }
	hosttest.TestTargets(t, func(t *testing.T) hosttest.TargetsEnv {
		return hosttest.TargetsEnv{Targets: newKernelRig(t).client, Volume: volume}
	})
}

// libiscsi reads the padding of a login response, and LIO leaves old text
// there. Its CHAP identifiers count up, so the lengths change with the tenth.
func libiscsiLogsInOften(t *testing.T, r *rig) {
	e := r.publish(testExport("v-01a5c0de-0000-7000-8000-000000000000", newVolume(t, 1<<20), 1))
	for i := range 12 {
		out, err := tool(t, "iscsi-inq", "-i", testInitiator, fmt.Sprintf("iscsi://%s%%%s@%s/%s/1", testUser, testSecret, r.portal, e.IQN))
		if err != nil {
			t.Fatalf("login %d: %v\n%s", i, err, out)
		}
	}
}

func TestLabGuards(t *testing.T) {
	for name, guard := range map[string]func(*testing.T, *rig){
		"login is refused":             loginIsRefused,
		"login by QEMU is refused":     qemuLoginIsRefused,
		"raised generation cuts":       raisedGenerationCutsBeforeAdmitting,
		"changed access cuts who lost": changedAccessCutsOnlyWhoLostIt,
		"publish twice is nothing":     publishTwiceIsNothing,
		"publish refuses what is open": publishRefusesWhatIsOpen,
		"withdraw while writing":       withdrawWhileWriting,
		"drain given up":               drainGivenUp,
		"resize":                       resizeTellsTheInitiator,
		"logins of libiscsi":           libiscsiLogsInOften,
		"QEMU idle, then I/O":          qemuIdleThenIO,
		"QEMU zeroes and discard":      qemuZeroesAndDiscard,
		"QEMU converts onto old data":  qemuConvertOntoOldData,
	} {
		t.Run(name, func(t *testing.T) { guard(t, newKernelRig(t)) })
	}
}
