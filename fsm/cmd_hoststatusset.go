package fsm

// HostStatusSet is the leader's word on hosts: alive, dead or left.
type HostStatusSet struct {
	Host   string
	Status string
}

var _ = register[HostStatusSet](TypeHostStatusSet, "HostStatusSet")

// Type is the command's number.
func (HostStatusSet) Type() Type { return TypeHostStatusSet }

func (c HostStatusSet) apply(t *tx) error {
	old, err := t.host(c.Host)
	if err != nil {
		return err
	}
	switch c.Status {
	case HostAlive, HostDead, HostLeft:
	default:
		return invalid("host status %q: want alive, dead or left", c.Status)
	}
	if old.Status == c.Status {
		return nil
	}
	h := *old
	h.Status, h.StatusSince = c.Status, t.now
	t.put(tabHosts, &h)
	t.event("", h.ID, "host."+h.Status, "host %s is %s", h.Name, h.Status)
	t.hostMoved(h.ID)
	return nil
}

// hostMoved settles whatever has to do with a host that came or went. Its
// images count as sources only while it lives.
func (t *tx) hostMoved(host string) {
	for _, o := range all(scan[objectRow](t.reader, tabObjects, "id", key(host, KindImage))) {
		t.touchUsers(o.ID)
		if t.alive(host) && t.findImage(host, o.ID) {
			t.imageChanged(o.ID)
		}
	}
	for _, b := range all(scan[Booking](t.reader, tabBookings, "host", key(host))) {
		t.settle(b.Owner)
	}
}

// touchUsers touches every host that has to have the image.
func (t *tx) touchUsers(recipe string) {
	for _, r := range t.users(recipe) {
		t.touchAll(r)
	}
	if img, ok := first[Image](t.reader, tabImages, "id", key(recipe)); ok && img.Builder != "" {
		t.touch(img.Builder)
	}
}
