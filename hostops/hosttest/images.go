package hosttest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"vcn/hostops"
	"vcn/rolls"
)

// ImagesEnv is what one case needs.
type ImagesEnv struct {
	Images hostops.Images
	// Other is the empty store of another host.
	Other hostops.Images
	// Recipe can be built here.
	Recipe rolls.Recipe
}

// TestImages checks the contract of hostops.Images. Builds can take long, so
// it is one walk: build, read, carry to another host in two steps, remove.
func TestImages(t *testing.T, factory func(t *testing.T) ImagesEnv) {
	ctx := t.Context()
	e := factory(t)
	var steps []string
	built, err := e.Images.Build(ctx, hostops.BuildSpec{Recipe: e.Recipe}, func(s string) { steps = append(steps, s) })
	if err != nil {
		t.Fatalf("Build: %v", err)
	}
	if built.Recipe != e.Recipe.Digest() || built.Appliance != e.Recipe.Appliance || built.Digest == "" ||
		built.Root == "" || built.Kernel == "" || built.Initrd == "" || built.Manifest.Digest != built.Digest {
		t.Fatalf("built %+v", built)
	}
	if len(steps) == 0 {
		t.Error("the build told no progress")
	}
	again, err := e.Images.Build(ctx, hostops.BuildSpec{Recipe: e.Recipe}, nil)
	if err != nil || again.Digest != built.Digest {
		t.Errorf("second Build: %s, %v", again.Digest, err)
	}
	if got, err := e.Images.Get(ctx, built.Digest); err != nil || got.Root != built.Root {
		t.Errorf("Get: %+v, %v", got, err)
	}
	carryImage(t, ctx, e, built)
	for range 2 {
		if err := e.Images.Remove(ctx, built.Digest); err != nil {
			t.Fatalf("Remove: %v", err)
		}
	}
	if _, err := e.Images.Get(ctx, built.Digest); !errors.Is(err, hostops.ErrNotFound) {
		t.Errorf("Get after Remove: %v, want ErrNotFound", err)
	}
	if all, err := e.Images.List(ctx); err != nil || len(all) != 0 {
		t.Errorf("List after Remove: %+v, %v", all, err)
	}
}

func carryImage(t *testing.T, ctx context.Context, e ImagesEnv, built hostops.Image) {
	t.Helper()
	for _, bootOnly := range []bool{true, false, true} {
		var stream bytes.Buffer
		if err := e.Images.Export(ctx, built.Digest, bootOnly, &stream); err != nil {
			t.Fatalf("Export(bootOnly %v): %v", bootOnly, err)
		}
		got, err := e.Other.Import(ctx, &stream)
		if err != nil {
			t.Fatalf("Import(bootOnly %v): %v", bootOnly, err)
		}
		if got.Digest != built.Digest || got.Kernel == "" || got.Initrd == "" || got.Manifest.Recipe != built.Recipe {
			t.Errorf("Import(bootOnly %v): %+v", bootOnly, got)
		}
	}
	got, err := e.Other.Get(ctx, built.Digest)
	if err != nil || got.Root == "" {
		t.Errorf("a later import of boot files took the root disk away: %+v, %v", got, err)
	}
	if _, err := e.Other.Import(ctx, strings.NewReader("not an image")); err == nil {
		t.Error("nonsense was imported")
	}
	if all, err := e.Other.List(ctx); err != nil || len(all) != 1 {
		t.Errorf("List of the other host: %+v, %v", all, err)
	}
	var none bytes.Buffer
	if err := e.Images.Export(ctx, "0000", false, &none); !errors.Is(err, hostops.ErrNotFound) {
		t.Errorf("Export of what is absent: %v, want ErrNotFound", err)
	}
}
