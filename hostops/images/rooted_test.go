//go:build rooted

package images

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/rolls"
)

// builtImages builds the frontend's and the worker's image of the built-in rolls.
// VCN_CACHE names a directory to keep packages, trees and images in; without it
// all is made anew.
func builtImages(ctx context.Context, t *testing.T) (*Store, map[string]rolls.Recipe, map[string]hostops.Image) {
	t.Helper()
	cache := os.Getenv("VCN_CACHE")
	if cache == "" {
		var err error
		if cache, err = os.MkdirTemp("/var/tmp", "vcn-images-"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(cache) })
	}
	initPath := filepath.Join(t.TempDir(), "vcn-init")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", initPath, "vcn/rolls/vcninit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the init: %v\n%s", err, out)
	}
	s, err := New(Config{Dir: filepath.Join(cache, "images"), CacheDir: filepath.Join(cache, "cache"), InitPath: initPath,
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

func TestBuild(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	builtImages(ctx, t)
}
