package fsm

import "fmt"

// ImageAssign gives an unbuilt image another builder, or with an empty Builder
// none: what has failed then rests until it is wanted again. A built image may
// be assigned again once no living host has it whole: it is then wanted anew. If
// a living host has another build of it, that one is taken instead.
type ImageAssign struct{ Recipe, Builder string }

var _ = register[ImageAssign](TypeImageAssign, "ImageAssign")

// Type is the command's number.
func (ImageAssign) Type() Type { return TypeImageAssign }

func (c ImageAssign) apply(t *tx) error {
	old, ok := first[Image](t.reader, tabImages, "id", key(c.Recipe))
	if !ok {
		return fmt.Errorf("image %q: %w", c.Recipe, ErrNotFound)
	}
	what := "is given up until it is wanted again"
	if c.Builder != "" {
		h, err := t.host(c.Builder)
		if err != nil {
			return err
		}
		what = "is to be built by " + h.Name
	}
	if old.Digest != "" && len(t.sources(old, "", 1)) > 0 {
		return fmt.Errorf("image %q is built: %w", c.Recipe, ErrState)
	}
	img := *old
	img.Digest, img.SizeBytes = "", 0
	img.Builder = c.Builder
	if c.Builder != "" || img.State != ImageFailed {
		img.State, img.Message = ImageWanted, ""
	}
	t.put(tabImages, &img)
	for _, h := range []string{c.Builder, old.Builder} {
		if h != "" {
			t.touch(h)
		}
	}
	if have := t.sources(&img, "", 1); len(have) == 0 || !t.findImage(have[0], c.Recipe) {
		t.event("", c.Builder, "image.assigned", "image of %s (%s) %s", img.Appliance, img.Recipe, what)
	}
	t.imageChanged(c.Recipe)
	return nil
}
