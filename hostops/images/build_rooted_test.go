//go:build rooted

package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/rolls"
)

// withRoll is the recipe of the built-in base and one roll of the test's own.
func withRoll(t *testing.T, a rolls.Apply, files map[string][]byte) rolls.Recipe {
	t.Helper()
	catalog, err := rolls.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	r, err := catalog.Resolve([]string{"base"}, rolls.ApplianceWorker)
	if err != nil {
		t.Fatal(err)
	}
	r.Rolls = append(r.Rolls, &rolls.Roll{Name: "probe", Version: "1.0", Description: "a test's", Files: files,
		Apply: map[string]rolls.Apply{rolls.AnyAppliance: a}})
	return r
}

// leavesNothing fails if a build has left a mount, a process or a directory.
func leavesNothing(t *testing.T, s *Store) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), s.cfg.CacheDir) {
		t.Errorf("a mount is left:\n%s", mounts)
	}
	for dir, prefix := range map[string]string{s.cfg.CacheDir: workPrefix, s.cfg.Dir: buildPrefix} {
		if left, _ := filepath.Glob(filepath.Join(dir, prefix+"*")); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
	out, _ := exec.Command("pgrep", "-fa", s.cfg.CacheDir).Output()
	if len(out) > 0 {
		t.Errorf("processes are left:\n%s", out)
	}
}

func TestFaultsNameTheirRoll(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	s, _, _ := builtImages(ctx, t)
	for name, c := range map[string]struct {
		apply rolls.Apply
		files map[string][]byte
		want  []string
	}{
		"no such package": {rolls.Apply{Packages: []string{"no-such-package"}}, nil,
			[]string{"roll probe@1.0", "Unable to locate package no-such-package"}},
		"script fails": {rolls.Apply{Scripts: []string{"s.sh"}}, map[string][]byte{"s.sh": []byte("#!/bin/sh\necho so far so good\necho the last words >&2\nexit 3\n")},
			[]string{"roll probe@1.0", "script s.sh", "exit status 3", "so far so good", "the last words"}},
		"no such unit": {rolls.Apply{Enable: []string{"absent.service"}}, nil, []string{"roll probe@1.0", "enable units", "absent.service"}},
		"a private key": {rolls.Apply{Files: []rolls.FileSpec{{Path: "/etc/x", Source: "x"}}}, map[string][]byte{"x": []byte("-----BEGIN OPENSSH PRIVATE KEY-----\n")},
			[]string{"private key", "/etc/x"}},
		"the network": {rolls.Apply{Scripts: []string{"s.sh"}}, map[string][]byte{"s.sh": []byte("#!/bin/sh\nip -o link | grep -v LOOPBACK && exit 4\nip -o addr | grep -q 'inet ' && exit 5\nexit 6\n")},
			[]string{"exit status 6"}}, // no card but lo, and no address
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Build(ctx, hostops.BuildSpec{Recipe: withRoll(t, c.apply, c.files)}, nil)
			if !errors.Is(err, ErrBuild) {
				t.Fatalf("error %v", err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("no %q in: %v", w, err)
				}
			}
			leavesNothing(t, s)
		})
	}
}

func TestCancelledBuildLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	s, _, _ := builtImages(ctx, t)
	before, err := s.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"installing", "roll probe: script", "packing the root disk"} {
		t.Run(at, func(t *testing.T) {
			one, stop := context.WithCancel(ctx)
			defer stop()
			marker := fmt.Sprintf("# %s\n", at) // another recipe each time
			r := withRoll(t, rolls.Apply{Scripts: []string{"s.sh"}}, map[string][]byte{"s.sh": []byte("#!/bin/sh\n" + marker + "sleep 2\n")})
			_, err := s.Build(one, hostops.BuildSpec{Recipe: r}, func(l string) {
				if strings.HasPrefix(l, at) {
					time.AfterFunc(300*time.Millisecond, stop)
				}
			})
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("error %v", err)
			}
			leavesNothing(t, s)
			if after, err := s.List(ctx); err != nil || len(after) != len(before) {
				t.Errorf("%d images, before %d: %v", len(after), len(before), err)
			}
		})
	}
}

func TestImageIsWholeAndHoldsNoSecret(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	_, _, ims := builtImages(ctx, t)
	for app, im := range ims {
		for _, p := range []string{"/etc/munge/munge.key", "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa_key", "/var/lib/systemd/random-seed", "/etc/hostname"} {
			out, _ := exec.CommandContext(ctx, "debugfs", "-R", "stat "+p, im.Root).CombinedOutput()
			if !strings.Contains(string(out), "File not found") {
				t.Errorf("%s: %s is there:\n%s", app, p, out)
			}
		}
		out, err := exec.CommandContext(ctx, "debugfs", "-R", "cat /etc/machine-id", im.Root).Output()
		if err != nil || len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("%s: machine-id %q %v", app, out, err)
		}
		if out, _ := exec.CommandContext(ctx, "debugfs", "-R", "ea_list /usr/bin/ping", im.Root).CombinedOutput(); !strings.Contains(string(out), "security.capability") {
			t.Errorf("%s: ping has lost its capability, users cannot run it: %s", app, out)
		}
		if out, err := exec.CommandContext(ctx, "e2fsck", "-fn", im.Root).CombinedOutput(); err != nil {
			t.Errorf("%s: e2fsck: %v\n%s", app, err, out)
		}
		if im.Manifest.Users["munge"].UID == 0 || im.Manifest.Packages["slurm-client"] == "" {
			t.Errorf("%s: manifest %+v", app, im.Manifest)
		}
	}
}

func TestExportOfARealImage(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	s, _, ims := builtImages(ctx, t)
	im := ims[rolls.ApplianceWorker]
	dir, err := os.MkdirTemp("/var/tmp", "vcn-import-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	to, err := New(Config{Dir: filepath.Join(dir, "images"), CacheDir: filepath.Join(dir, "cache"), InitPath: s.cfg.InitPath})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	r, w := io.Pipe()
	var n int64
	go func() { w.CloseWithError(s.Export(ctx, im.Digest, false, io.MultiWriter(w, counter{&n}))) }()
	got, err := to.Import(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MB of data in a stream of %d MB, exported and imported in %.1f s", im.SizeBytes/1e6, n/1e6, time.Since(start).Seconds())
	if out, err := exec.CommandContext(ctx, "cmp", im.Root, got.Root).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if got.SizeBytes > im.SizeBytes*11/10 {
		t.Errorf("%d bytes allocated, the original has %d", got.SizeBytes, im.SizeBytes)
	}
}

type counter struct{ n *int64 }

func (c counter) Write(p []byte) (int, error) {
	*c.n += int64(len(p))
	return len(p), nil
}
