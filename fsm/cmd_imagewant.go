package fsm

// ImageWant asks that an image of the recipe exist.
type ImageWant struct {
	Recipe, Appliance string
	Rolls             []string
	Builder           string // host ID; may be empty until one is known
}

var _ = register[ImageWant](TypeImageWant, "ImageWant")

// Type is the command's number.
func (ImageWant) Type() Type { return TypeImageWant }

func (c ImageWant) apply(t *tx) error { return t.wantImage(c) }

// wantImage makes the record, or completes one that was learned from a host
// that happened to have the image. A builder once chosen stays; ImageAssign
// changes it.
func (t *tx) wantImage(c ImageWant) error {
	if c.Recipe == "" || c.Appliance == "" {
		return invalid("image of recipe %q for appliance %q", c.Recipe, c.Appliance)
	}
	if c.Builder != "" {
		if _, err := t.host(c.Builder); err != nil {
			return err
		}
	}
	old, had := first[Image](t.reader, tabImages, "id", key(c.Recipe))
	img := Image{Recipe: c.Recipe, State: ImageWanted, Wanted: t.now}
	if had {
		img = *old
	}
	named := img.Appliance == ""
	if named {
		img.Appliance, img.Rolls = c.Appliance, c.Rolls
	}
	assigned := img.Digest == "" && img.Builder == "" && c.Builder != ""
	if assigned {
		img.Builder, img.State, img.Message = c.Builder, ImageWanted, ""
		t.touch(c.Builder)
	}
	if had && !assigned && !named {
		return nil // as most bookings find it
	}
	t.put(tabImages, &img)
	if !had {
		t.event("", c.Builder, "image.wanted", "image of %s (%s) is wanted", c.Appliance, c.Recipe)
	}
	t.imageChanged(c.Recipe)
	return nil
}
