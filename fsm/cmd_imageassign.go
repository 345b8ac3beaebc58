package fsm

import "fmt"

// ImageAssign gives an unbuilt image another builder. A built image may be
// assigned again once no living host has it whole: it is then wanted anew.
type ImageAssign struct{ Recipe, Builder string }

var _ = register[ImageAssign](TypeImageAssign, "ImageAssign")

// Type is the command's number.
func (ImageAssign) Type() Type { return TypeImageAssign }

func (c ImageAssign) apply(t *tx) error {
	old, ok := first[Image](t.reader, tabImages, "id", key(c.Recipe))
	if !ok {
		return fmt.Errorf("image %q: %w", c.Recipe, ErrNotFound)
	}
	h, err := t.host(c.Builder)
	if err != nil {
		return err
	}
	if old.Digest != "" && len(t.sources(old, "", 1)) > 0 {
		return fmt.Errorf("image %q is built: %w", c.Recipe, ErrState)
	}
	img := *old
	img.Digest, img.SizeBytes = "", 0
	img.Builder, img.State, img.Message = c.Builder, ImageWanted, ""
	t.put(tabImages, &img)
	t.touch(c.Builder)
	if old.Builder != "" {
		t.touch(old.Builder)
	}
	t.event("", c.Builder, "image.assigned", "image of %s (%s) is to be built by %s", img.Appliance, img.Recipe, h.Name)
	t.imageChanged(c.Recipe)
	return nil
}
