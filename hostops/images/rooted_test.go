//go:build rooted

package images

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/rolls"
)

// cacheDir is shared by all rooted tests of one run: packages, trees, images.
// VCN_CACHE names one to keep; without it all is made anew, once, and removed.
var cacheDir = os.Getenv("VCN_CACHE")

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if cacheDir == "" {
		dir, err := os.MkdirTemp("/var/tmp", "vcn-images-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		cacheDir = dir
	}
	return m.Run()
}

// builtImages builds the frontend's and the worker's image of the built-in
// rolls, or finds those of an earlier test.
func builtImages(ctx context.Context, t *testing.T) (*Store, map[string]rolls.Recipe, map[string]hostops.Image) {
	t.Helper()
	initPath := filepath.Join(t.TempDir(), "vcn-init")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", initPath, "vcn/rolls/vcninit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the init: %v\n%s", err, out)
	}
	s, err := New(Config{Dir: filepath.Join(cacheDir, "images"), CacheDir: filepath.Join(cacheDir, "cache"), InitPath: initPath,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	catalog, err := rolls.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	recipes, ims := map[string]rolls.Recipe{}, map[string]hostops.Image{}
	for _, app := range []string{rolls.ApplianceFrontend, rolls.ApplianceWorker} {
		r, err := catalog.Resolve([]string{"slurm"}, app)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		im, err := s.Build(ctx, hostops.BuildSpec{Recipe: r}, func(l string) {
			t.Logf("%6.1f s %s: %s", time.Since(start).Seconds(), app, l)
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: image %.12s, %d MB, in %.1f s", app, im.Digest, im.SizeBytes/1e6, time.Since(start).Seconds())
		recipes[app], ims[app] = r, im
	}
	return s, recipes, ims
}
