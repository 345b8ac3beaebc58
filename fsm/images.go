package fsm

import "hash/fnv"

// whole says whether the object is a complete image with that digest.
func (o *objectRow) whole(digest string) bool {
	return o != nil && o.Kind == KindImage && o.State == ObjReady && !o.BootOnly && o.Digest != "" &&
		(digest == "" || o.Digest == digest)
}

// learnImage brings the record up to what the host now says of its image, and
// says whether anything changed that assignments depend on.
func (t *tx) learnImage(host, recipe string) bool {
	o, _ := t.object(host, KindImage, recipe)
	old, had := first[Image](t.reader, tabImages, "id", key(recipe))
	img := Image{Recipe: recipe, State: ImageWanted, Wanted: t.now}
	if had {
		img = *old
	}
	switch {
	case img.Digest != "":
		return false
	case o.whole(""):
		img.Digest, img.SizeBytes = o.Digest, o.SizeBytes
		img.State, img.Message, img.Builder = ImageReady, "", ""
		if had && old.Builder != "" {
			t.touch(old.Builder)
		}
	case !had || o == nil || img.Builder != host:
		return false
	case o.State == ObjFailed:
		img.State, img.Message = ImageFailed, o.Message
	case o.State == ObjWorking:
		img.State, img.Message = ImageBuilding, o.Message
	default:
		return false
	}
	moved := !had || img.State != old.State
	if !moved && img.Message == old.Message {
		return false
	}
	t.put(tabImages, &img)
	if moved {
		text := img.Message
		if img.Digest != "" {
			text = "digest " + img.Digest
		}
		t.event("", host, "image."+img.State, "image of %s (%s) on %s: %s", img.Appliance, recipe, t.hostName(host), text)
	}
	return moved
}

// findImage takes a whole image that the host has for one whose record has
// none, and says whether it did.
func (t *tx) findImage(host, recipe string) bool {
	img, ok := first[Image](t.reader, tabImages, "id", key(recipe))
	if !ok || img.Digest != "" {
		return false
	}
	if o, ok := t.object(host, KindImage, recipe); !ok || !o.whole("") || !t.learnImage(host, recipe) {
		return false
	}
	t.touchUsers(recipe)
	return true
}

// imageChanged touches and settles every reservation that uses the recipe.
func (t *tx) imageChanged(recipe string) {
	for _, r := range t.users(recipe) {
		t.touchAll(r)
		t.settle(r)
	}
}

// users returns the reservations with volumes of the recipe, by id. Volumes
// count, and not what the reservation says: rolls may have been changed since.
func (r reader) users(recipe string) []string {
	var out []string
	for v := range scan[Volume](r, tabVolumes, "recipe", key(recipe)) {
		if len(out) == 0 || out[len(out)-1] != v.Reservation {
			out = append(out, v.Reservation)
		}
	}
	return out
}

// sources returns up to n living hosts, other than host, that have the image
// whole. The list begins at a place that depends on the host, so that a
// thousand hosts do not all ask the first one.
func (r reader) sources(img *Image, host string, n int) []string {
	var have []string
	for o := range scan[objectRow](r, tabObjects, "image", key(img.Recipe)) {
		if o.Host == host || !o.whole(img.Digest) {
			continue
		}
		if h, err := r.host(o.Host); err == nil && h.Status == HostAlive {
			have = append(have, o.Host)
		}
	}
	if len(have) <= n {
		return have
	}
	sum := fnv.New32a()
	sum.Write([]byte(host))
	start := int(sum.Sum32() % uint32(len(have)))
	out := make([]string, 0, n)
	for i := range n {
		out = append(out, have[(start+i)%len(have)])
	}
	return out
}
