package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// guest is what a running QEMU's command line says of its guest: enough to
// boot the same one again without us.
type guest struct {
	kernel, initrd, cmdline, memoryMiB string
	seed                               string   // path of its ISO
	macs                               []string // of its NICs, in order of their devices
}

// readGuest understands the command lines that libvirt writes.
func readGuest(args []string) (guest, error) {
	var g guest
	plain := map[string]*string{"-kernel": &g.kernel, "-initrd": &g.initrd, "-append": &g.cmdline, "-m": &g.memoryMiB}
	for i := 0; i+1 < len(args); i++ {
		if to := plain[args[i]]; to != nil {
			*to = args[i+1]
		}
		if args[i] != "-blockdev" && args[i] != "-device" || !strings.HasPrefix(args[i+1], "{") {
			continue
		}
		var dev struct {
			Filename string
			MAC      string
		}
		if err := json.Unmarshal([]byte(args[i+1]), &dev); err != nil {
			return g, fmt.Errorf("read %s %s: %w", args[i], args[i+1], err)
		}
		if strings.HasSuffix(dev.Filename, ".iso") {
			g.seed = dev.Filename
		}
		if dev.MAC != "" {
			g.macs = append(g.macs, dev.MAC)
		}
	}
	if g.kernel == "" || g.initrd == "" || g.cmdline == "" || g.memoryMiB == "" || g.seed == "" || len(g.macs) == 0 {
		return g, errors.New("read command line of QEMU: it lacks kernel, initrd, words, memory, seed or NICs")
	}
	return g, nil
}

// bareArgs is a plain QEMU for the same guest, with its disk in a file: the
// devices that hostops/libvirt gives a node, its NICs on networks of their own.
func (g guest) bareArgs(accel, disk, seed, console string) []string {
	cpu := "max,erms=off"
	if accel == "kvm" {
		cpu = "host"
	}
	args := []string{
		"-machine", "pc,usb=off,accel=" + accel, "-cpu", cpu, "-m", g.memoryMiB, "-smp", "1",
		"-no-user-config", "-nodefaults", "-display", "none", "-serial", "file:" + console,
		"-kernel", g.kernel, "-initrd", g.initrd, "-append", g.cmdline,
		"-drive", "file=" + disk + ",if=virtio,format=raw,cache=none,discard=unmap",
		"-drive", "file=" + seed + ",if=ide,media=cdrom,format=raw,readonly=on",
		"-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
		"-chardev", "null,id=ga", "-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0",
	}
	for i, mac := range g.macs {
		args = append(args, "-netdev", fmt.Sprintf("user,id=n%d,restrict=on", i),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=n%d,romfile=,mac=%s", i, mac))
	}
	return args
}

func TestReadGuest(t *testing.T) {
	args := []string{"qemu-system-x86_64", "-name", "guest=vcn-1-frontend", "-m", "512", "-kernel", "/i/d/kernel", "-initrd", "/i/d/initrd",
		"-append", "console=ttyS0 quiet", "-device", `{"driver":"virtio-serial-pci","id":"s0"}`,
		"-blockdev", `{"driver":"iscsi","portal":"198.18.0.2:3260","target":"iqn.x:v"}`,
		"-blockdev", `{"driver":"file","filename":"/d/nodes/r/frontend/seed-1.iso","node-name":"x"}`,
		"-netdev", `{"type":"tap","fd":"34"}`,
		"-device", `{"driver":"virtio-net-pci","mac":"02:76:63:00:00:06"}`, "-device", `{"driver":"virtio-net-pci","mac":"02:76:63:00:00:09"}`}
	g, err := readGuest(args)
	if err != nil {
		t.Fatal(err)
	}
	if g.kernel != "/i/d/kernel" || g.initrd != "/i/d/initrd" || g.cmdline != "console=ttyS0 quiet" || g.memoryMiB != "512" ||
		g.seed != "/d/nodes/r/frontend/seed-1.iso" || !slices.Equal(g.macs, []string{"02:76:63:00:00:06", "02:76:63:00:00:09"}) {
		t.Errorf("%+v", g)
	}
	bare := strings.Join(g.bareArgs("tcg", "/d.img", "/s.iso", "/c.log"), " ")
	for _, want := range []string{"accel=tcg", "-m 512", "file=/d.img,if=virtio", "file=/s.iso,if=ide", "mac=02:76:63:00:00:06", "mac=02:76:63:00:00:09"} {
		if !strings.Contains(bare, want) {
			t.Errorf("the bare command lacks %q: %s", want, bare)
		}
	}
	for i, missing := range []int{4, 6, 8, 10} { // values of -m, -kernel, -initrd, -append
		short := slices.Clone(args)
		short = slices.Delete(short, missing-1, missing+1)
		if _, err := readGuest(short); err == nil {
			t.Errorf("case %d: without %s there is no error", i, args[missing-1])
		}
	}
	if _, err := readGuest([]string{"-device", "{"}); err == nil {
		t.Error("broken JSON is taken")
	}
}
