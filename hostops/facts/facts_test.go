package facts

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func proc(t *testing.T, flags string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"cpuinfo":              "processor\t: 0\nmodel name\t: vmx in a name counts nothing\nflags\t\t: " + flags + "\nbugs\t\t: svm\n",
		"meminfo":              "MemTotal:       24656476 kB\nMemFree:        1 kB\n",
		"sys/kernel/osrelease": "6.1.0-56-cloud-amd64\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func fakeQEMU(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho '"+text+"'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAccel(t *testing.T) {
	device := filepath.Join(t.TempDir(), "kvm")
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, ask, flags, device, want, why string
	}{
		{"a device alone proves nothing", "auto", "fpu sse vmxx", device, TCG, "neither vmx nor svm"},
		{"Intel", "", "fpu vmx sse", device, KVM, "vmx"},
		{"AMD", "auto", "fpu svm", device, KVM, "svm"},
		{"flags without a device", "auto", "svm", device + "-not", TCG, "no such file"},
		{"asked for", KVM, "fpu", device, KVM, "configuration"},
		{"asked for emulation", TCG, "vmx", device, TCG, "configuration"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, why, err := Accel(Config{Accel: c.ask, Proc: proc(t, c.flags), KVMDevice: c.device})
			if err != nil || got != c.want || !strings.Contains(why, c.why) {
				t.Errorf("%s because %q, %v", got, why, err)
			}
		})
	}
	if _, _, err := Accel(Config{Accel: "xen"}); err == nil {
		t.Error("an unknown accelerator was taken")
	}
}

func TestRead(t *testing.T) {
	f, err := Read(t.Context(), Config{
		Proc: proc(t, "fpu"), QEMU: fakeQEMU(t, "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if f.CPUs < 1 || f.MemoryBytes != 24656476<<10 || f.Kernel != "6.1.0-56-cloud-amd64" || f.QEMU != "7.2.22" || f.Accel != TCG {
		t.Errorf("%+v", f)
	}
}

func TestReadSaysWhatIsMissing(t *testing.T) {
	if _, err := Read(t.Context(), Config{Proc: proc(t, "fpu"), QEMU: "/nonexistent/qemu"}); err == nil || !strings.Contains(err.Error(), "/nonexistent/qemu") {
		t.Errorf("no QEMU: %v", err)
	}
	if _, err := Read(t.Context(), Config{Proc: proc(t, "fpu"), QEMU: fakeQEMU(t, "hello")}); err == nil {
		t.Error("an answer without a version was taken")
	}
	if _, err := Read(t.Context(), Config{Proc: t.TempDir()}); err == nil {
		t.Error("an empty /proc was taken")
	}
}

func TestTimeStampCounterIsMeasuredTheSameTwice(t *testing.T) {
	a, b := TSCKHz(), TSCKHz()
	if rdtsc() == 0 {
		if a != 0 {
			t.Errorf("%d kHz of a counter that is not there", a)
		}
		return
	}
	if a < 100_000 || max(a, b)-min(a, b) > a/1000 {
		t.Errorf("%d and %d kHz", a, b)
	}
	t.Logf("%d and %d kHz", a, b)
}
