package fsm

import (
	"fmt"
	"math"
	"reflect"
	"slices"

	"vcn/api"
)

// HostRegister adds or updates a host. Status, registration time and cordon
// are kept by the FSM.
type HostRegister struct{ Host Host }

var _ = register[HostRegister](TypeHostRegister, "HostRegister")

// Type is the command's number.
func (HostRegister) Type() Type { return TypeHostRegister }

func (c HostRegister) apply(t *tx) error {
	h := c.Host
	if err := checkHost(&h); err != nil {
		return err
	}
	if o, ok := first[Host](t.reader, tabHosts, "name", key(h.Name)); ok && o.ID != h.ID {
		return fmt.Errorf("host name %q is that of host %s: %w", h.Name, o.ID, ErrNameTaken)
	}
	h.Status, h.StatusSince, h.Registered, h.Cordoned, h.Short = HostAlive, t.now, t.now, "", ""
	old, err := t.host(h.ID)
	known := err == nil
	if known {
		h.Status, h.StatusSince = old.Status, old.StatusSince
		h.Registered, h.Cordoned = old.Registered, old.Cordoned
		if old.Status == HostLeft { // it came back by itself
			h.Status, h.StatusSince = HostAlive, t.now
		}
		h.Short = t.short(&h)
	}
	if !known || !sameHost(old, &h) { // they register every minute
		t.put(tabHosts, &h)
	}
	switch {
	case !known:
		t.event("", h.ID, "host.registered", "host %s: %d cores, %d MiB memory, %d GiB storage, classes %v",
			h.Name, h.CPUs, h.MemoryBytes>>20, h.StorageBytes>>30, h.Classes)
	case h.Short != "" && h.Short != old.Short:
		t.event("", h.ID, "host.short", "host %s %s", h.Name, h.Short)
	}
	if known {
		t.hostMoved(h.ID)
		if h.Name != old.Name || h.Underlay != old.Underlay || h.Storage != old.Storage {
			for _, b := range all(scan[Booking](t.reader, tabBookings, "host", key(h.ID))) {
				t.touchAll(b.Owner)
			}
		}
	}
	return nil
}

func sameHost(a, b *Host) bool {
	x, y := *a, *b
	x.Classes, y.Classes = nil, nil
	return reflect.DeepEqual(x, y) && slices.Equal(a.Classes, b.Classes)
}

func checkHost(h *Host) error {
	if !validID(h.ID) || !validID(h.Name) {
		return invalid("host %q named %q", h.ID, h.Name)
	}
	if h.CPUs < 1 || h.MemoryBytes < 1 || h.StorageBytes < 0 ||
		h.CPUs > CPUsMax || h.MemoryBytes > BytesMax || h.StorageBytes > BytesMax {
		return invalid("host %s: %d cores, %d bytes memory, %d bytes storage", h.Name, h.CPUs, h.MemoryBytes, h.StorageBytes)
	}
	for _, c := range h.Classes {
		switch c {
		case api.ClassGateway, api.ClassCompute, api.ClassStorage:
		default:
			return invalid("host %s: class %q", h.Name, c)
		}
	}
	if slices.Contains(h.Classes, api.ClassStorage) && h.Storage == "" {
		return invalid("host %s is of class storage without a storage address", h.Name)
	}
	return nil
}

// short says what of the host is booked beyond what it now offers.
func (t *tx) short(h *Host) string {
	for s := range within(t.steps(h.ID), t.now.UnixNano(), math.MaxInt64) {
		switch {
		case s.CPUs > h.CPUs:
			return fmt.Sprintf("offers %d cores, and %d are booked", h.CPUs, s.CPUs)
		case s.MemoryBytes > h.MemoryBytes:
			return fmt.Sprintf("offers %d MiB of memory, and %d are booked", h.MemoryBytes>>20, s.MemoryBytes>>20)
		case s.StorageBytes > h.StorageBytes:
			return fmt.Sprintf("offers %d MiB of storage, and %d are booked", h.StorageBytes>>20, s.StorageBytes>>20)
		}
	}
	return ""
}

// ease looks again at hosts that have shrunk and of which something was given
// back: they may have enough now.
func (t *tx) ease() {
	for len(t.eased) > 0 {
		id := t.eased[0]
		t.eased = t.eased[1:]
		old, err := t.host(id)
		if err != nil || old.Short == "" {
			continue
		}
		h := *old
		if h.Short = t.short(&h); h.Short == old.Short {
			continue
		}
		t.put(tabHosts, &h)
		if h.Short == "" {
			t.event("", h.ID, "host.short.cleared", "host %s offers what is booked on it again", h.Name)
		}
		t.hostMoved(h.ID)
	}
}

// validID bounds what may be an id or a name: it becomes part of keys, paths
// and link names elsewhere.
func validID(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}
