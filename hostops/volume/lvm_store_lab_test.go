//go:build lab

package volume

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"vcn/hostops"
)

// Environment of this program when it runs as a process of its own that is to
// die, or whose machine is.
const (
	labDieAt    = "VCN_VOLUME_DIE_AT" // the step at which it kills itself
	labGroupEnv = "VCN_VOLUME_GROUP"
	labBaseEnv  = "VCN_VOLUME_BASE"
)

func TestMain(m *testing.M) {
	if step := os.Getenv(labDieAt); step != "" {
		labDie(step)
	}
	os.Exit(m.Run())
}

// labDie makes a clone and dies by SIGKILL at a step of it; it never returns.
func labDie(step string) {
	l, err := NewLVM(context.Background(), LVMConfig{VolumeGroup: os.Getenv(labGroupEnv), Owner: testOwner, Known: true})
	if err == nil {
		l.at = func(s string) {
			if s == step {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		}
		_, err = l.Ensure(context.Background(), hostops.VolumeSpec{ID: "node-1", SizeBytes: 40 * mib, Base: os.Getenv(labBaseEnv), Image: "abc"})
	}
	os.Stderr.WriteString("still alive: " + step + ": " + errors.Join(err, errors.New("end")).Error() + "\n")
	os.Exit(3)
}

// TestLabLVMCrash kills a process at each step of making an image volume and a
// clone of it. The next one finds no volume that is not whole, clears up, and
// goes on from where something whole is.
func TestLabLVMCrash(t *testing.T) {
	vg := labGroup(t, labDisk)
	l, _ := labStore(t, LVMConfig{VolumeGroup: vg, PoolBytes: 256 * mib})
	base := labFile(t, 9*mib)
	image, clone := lvName(imagePrefix, "abc"), lvName(volumePrefix, "node-1")
	for _, c := range []struct {
		step         string
		image, clone string // "": absent, "half", "whole"
	}{
		{"created", "half", ""},
		{"flushed", "half", ""},
		{"inactive", "half", ""},
		{"imported", "whole", ""},
		{"snapshot", "whole", "half"},
		{"grown", "whole", "half"},
		{"whole", "whole", "whole"},
	} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), labDieAt+"="+c.step, labGroupEnv+"="+vg, labBaseEnv+"="+base)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("%s: %v: %s", c.step, err, out)
		}
		st := labState(t, l)
		for name, want := range map[string]string{image: c.image, clone: c.clone} {
			got := ""
			if v := st.lvs[name]; v != nil && v.has(tagMaking) {
				got = "half"
			} else if v != nil {
				got = "whole"
			}
			if got != want {
				t.Errorf("killed at %q, %s is %q, want %q", c.step, name, got, want)
			}
		}
		if all, err := l.List(t.Context()); err != nil || (len(all) == 1) != (c.clone == "whole") {
			t.Errorf("killed at %q: %+v, %v", c.step, all, err)
		}
	}
	// What the last but one left is cleared up by the next, what is whole stays.
	l, _ = labStore(t, LVMConfig{VolumeGroup: vg, Known: true})
	st := labState(t, l)
	if len(st.lvs) != 3 || st.lvs[image] == nil || st.lvs[clone] == nil {
		t.Errorf("in the end there are %d logical volumes: %v", len(st.lvs), st.lvs)
	}
	v := labEnsure(t, l, hostops.VolumeSpec{ID: "node-1", SizeBytes: 40 * mib, Base: base, Image: "abc"})
	if v.SizeBytes != 40*mib || !bytes.Equal(labRead(t, v.Path, 0, 9*mib), read(t, base)) {
		t.Errorf("%+v is not the image", v)
	}
	// A process that is alive and writes keeps what it makes.
	labRun(t, "lvcreate", "-q", "-y", "-V", "8m", "--thinpool", "vcn", "-n", "vcn.v.b", "--addtag", tagOurs, "--addtag", tagMaking,
		"--addtag", ownedTag(testOwner), "--addtag", tagVolume+"b", vg)
	f, err := os.Open(l.devPath("vcn.v.b"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, _ = labStore(t, LVMConfig{VolumeGroup: vg, Known: true})
	if labState(t, l).lvs["vcn.v.b"] == nil {
		t.Error("what another process writes was removed")
	}
}

// TestLabLVMOwner is about whose what is.
func TestLabLVMOwner(t *testing.T) {
	ctx := t.Context()
	if _, err := NewLVM(ctx, LVMConfig{VolumeGroup: "vcn-none", Owner: testOwner}); !errors.Is(err, hostops.ErrNotFound) || !strings.Contains(err.Error(), "vgcreate vcn-none") {
		t.Errorf("no group: %v", err)
	}
	if _, err := NewLVM(ctx, LVMConfig{VolumeGroup: "vcn-none", Owner: testOwner, Known: true}); !errors.Is(err, ErrGone) {
		t.Errorf("a known group is not there: %v", err)
	}
	vg := labGroup(t, labDisk)
	if _, err := NewLVM(ctx, LVMConfig{VolumeGroup: vg, Owner: testOwner, Known: true}); !errors.Is(err, ErrGone) {
		t.Errorf("a known pool is not there: %v", err)
	}
	// The operator's own pool, with settings that are not for tenants.
	labRun(t, "lvcreate", "-q", "-y", "--type", "thin-pool", "-n", "vcn", "-L", "128m", "--zero", "n", "--discards", "nopassdown", vg)
	_, err := NewLVM(ctx, LVMConfig{VolumeGroup: vg, Owner: testOwner})
	if !errors.Is(err, hostops.ErrForeign) || !strings.Contains(err.Error(), "lvchange --addtag") {
		t.Fatalf("a pool without a mark: %v", err)
	}
	_, command, _ := strings.Cut(err.Error(), "say so with: ")
	labRun(t, "sh", "-c", command) // what it says helps
	l, _ := labStore(t, LVMConfig{VolumeGroup: vg})
	st := labState(t, l)
	if p := st.pool; !p.zeroes || p.whenFull != "error" || p.discards != "passdown" || !st.status.errorsWhenFull || !st.status.passing {
		t.Errorf("the pool's settings: %+v, %+v", p, st.status)
	}
	_, err = NewLVM(ctx, LVMConfig{VolumeGroup: vg, Owner: "cluster c-2 host h-1"})
	if !errors.Is(err, hostops.ErrForeign) || !strings.Contains(err.Error(), testOwner) || !strings.Contains(err.Error(), "cluster c-2 host h-1") {
		t.Errorf("another's pool: %v, want both owners", err)
	}
	// What is not ours in the group and in the pool, one with a name like ours.
	labRun(t, "lvcreate", "-q", "-y", "-n", "root", "-L", "8m", vg)
	labRun(t, "lvcreate", "-q", "-y", "-V", "8m", "--thinpool", "vcn", "-n", "vcn.v.a", vg)
	if _, err := l.Ensure(ctx, hostops.VolumeSpec{ID: "a", SizeBytes: 8 * mib}); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("Ensure over a foreign volume: %v", err)
	}
	if err := l.Remove(ctx, "a"); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("Remove of a foreign volume: %v", err)
	}
	long := "b" + strings.Repeat("-", 61) + "b"
	v := labEnsure(t, l, hostops.VolumeSpec{ID: long, SizeBytes: 8 * mib})
	// A reboot of a host that activates nothing by itself.
	labRun(t, "vgchange", "-q", "-an", vg)
	if _, err := os.Stat(v.Path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the volume is active: %v", err)
	}
	all, err := l.List(ctx)
	if err != nil || len(all) != 1 || all[0] != v {
		t.Errorf("List: %+v, %v", all, err)
	}
	labZero(t, v.Path, 0, v.SizeBytes)
	if _, _, err := l.Capacity(ctx); err != nil {
		t.Error(err)
	}
	if err := l.Remove(ctx, long); err != nil {
		t.Fatal(err)
	}
	st = labState(t, l)
	if st.lvs["root"] == nil || st.lvs["vcn.v.a"] == nil {
		t.Errorf("what is not ours is gone: %v", st.lvs)
	}
	// The group goes away under the open store.
	labRun(t, "vgchange", "-q", "-an", vg)
	labRun(t, "vgrename", "-q", vg, vg+"-x")
	if all, err := l.List(ctx); !errors.Is(err, ErrGone) {
		t.Errorf("List without the group: %+v, %v", all, err)
	}
	if err := l.Remove(ctx, "a"); !errors.Is(err, ErrGone) {
		t.Errorf("Remove without the group: %v", err)
	}
}
