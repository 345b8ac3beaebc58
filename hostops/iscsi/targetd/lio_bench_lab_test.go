//go:build lab

package targetd

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
)

var completedIn = regexp.MustCompile(`Run completed in ([0-9.]+) seconds`)

// BenchmarkLabEngines compares LIO, the embedded engine and the bare device in
// one run, by QEMU's initiator over loopback:
//
//	go test -tags=lab,hashicorpmetrics -exec "$PWD/build/vcn-lab exec" -run '^$' -bench LabEngines -benchtime 3x ./hostops/iscsi/targetd
func BenchmarkLabEngines(b *testing.B) {
	for _, where := range []string{"bare", EngineEmbedded, EngineLIO} {
		for _, load := range []struct {
			name              string
			bytes, count, par int
			write             bool
		}{
			{"random 4k read x16", 4096, 2000, 16, false},
			{"4k write x16", 4096, 2000, 16, true},
			{"256k read x4", 256 << 10, 64, 4, false},
			{"256k write x4", 256 << 10, 64, 4, true},
		} {
			b.Run(where+"/"+load.name, func(b *testing.B) {
				args := []string{"bench", "-c", strconv.Itoa(load.count), "-d", strconv.Itoa(load.par), "-s", strconv.Itoa(load.bytes)}
				if load.bytes == 4096 {
					args = append(args, "-S", strconv.Itoa(37*4096)) // steps, wrapping at the end
				}
				if load.write {
					args = append(args, "-w")
				}
				args = append(args, benchImage(b, where)...)
				var seconds float64
				for b.Loop() {
					out, err := exec.Command("qemu-img", args...).CombinedOutput()
					m := completedIn.FindSubmatch(out)
					if err != nil || m == nil {
						b.Fatalf("qemu-img %v: %v\n%s", args, err, out)
					}
					s, err := strconv.ParseFloat(string(m[1]), 64)
					if err != nil {
						b.Fatal(err)
					}
					seconds += s
				}
				b.ReportMetric(float64(load.count*b.N)/seconds, "ops/s")
				b.ReportMetric(float64(load.count*load.bytes*b.N)/seconds/(1<<20), "MiB/s")
			})
		}
	}
}

// benchImage serves a new device and returns QEMU's arguments for it.
func benchImage(b *testing.B, where string) []string {
	b.Helper()
	var r *rig
	switch where {
	case EngineLIO:
		r = newKernelRig(b)
	default:
		name := labDevice(b)
		b.Cleanup(func() { dm(b, "remove", "--retry", name) })
		if where == "bare" {
			return []string{"-f", "raw", "-t", "none", "/dev/mapper/" + name}
		}
		r = &rig{volume: func(int64) string { return "/dev/mapper/" + name }}
		r.start(b, Config{Engine: EngineEmbedded})
	}
	e := testExport(fmt.Sprintf("bench-%s", where), r.volume(0), 1)
	if err := r.client.Publish(b.Context(), e); err != nil {
		b.Fatal(err)
	}
	// "bench" takes no secret objects.
	return []string{"-t", "none", "--image-opts", fmt.Sprintf("driver=iscsi,transport=tcp,portal=%s,target=%s,lun=1,user=%s,password=%s,initiator-name=%s",
		r.portal, e.IQN, testUser, testSecret, testInitiator)}
}
