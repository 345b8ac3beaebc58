package fsm

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// tx is one command's part of a transaction, with its time and index.
type tx struct {
	reader
	index     uint64
	now       time.Time
	state     stateRow // written with the batch
	writes    []write
	sub       int // events so far
	eventsMax int
	result    *Reservation
	moved     []hostChange
	eased     []string // hosts of which less is booked than before
}

// write is one change of a table, with what is needed to take it back.
type write struct {
	table    string
	old, row any // before and after; nil: not there
}

func (t *tx) put(table string, row any) {
	t.writes = append(t.writes, write{table, t.stored(table, row), row})
	must(t.txn.Insert(table, row))
	if table == tabHosts {
		t.state.HostsIndex = t.index
	}
}

func (t *tx) del(table string, row any) {
	old := t.stored(table, row)
	if old == nil {
		return
	}
	t.writes = append(t.writes, write{table, old, nil})
	must(t.txn.Delete(table, old))
}

// stored returns the row of the same id that is there now; nil if none is.
func (t *tx) stored(table string, row any) any {
	_, id, err := ids[table].FromObject(row)
	must(err)
	old, err := t.txn.First(table, "id", id)
	must(err)
	return old
}

// undo takes back all writes, the last one first. The store has transactions,
// but none within one that could be thrown away alone.
func (t *tx) undo() {
	for _, w := range slices.Backward(t.writes) {
		if w.old == nil {
			must(t.txn.Delete(w.table, w.row))
		} else {
			must(t.txn.Insert(w.table, w.old))
		}
	}
	t.writes = nil
}

// all collects a scan, so that the table may be written while looping.
func all[T any](seq func(func(*T) bool)) []*T {
	var rows []*T
	for row := range seq {
		rows = append(rows, row)
	}
	return rows
}

func (t *tx) meta() (*Meta, error) {
	m, ok := first[Meta](t.reader, tabMeta, "id", theOne)
	if !ok {
		return nil, ErrNotInitialized
	}
	return m, nil
}

func (r reader) host(id string) (*Host, error) {
	h, ok := first[Host](r, tabHosts, "id", key(id))
	if !ok {
		return nil, fmt.Errorf("%w %q", ErrUnknownHost, id)
	}
	return h, nil
}

// hostName is for messages.
func (r reader) hostName(id string) string {
	if h, err := r.host(id); err == nil {
		return h.Name
	}
	return id
}

func (r reader) reservation(id string) (*Reservation, error) {
	v, ok := first[Reservation](r, tabReservations, "id", key(id))
	if !ok {
		return nil, fmt.Errorf("reservation %q: %w", id, ErrNotFound)
	}
	return v, nil
}

// touch says that the host's assignment may have changed.
func (t *tx) touch(host string) {
	if row, ok := first[touchedRow](t.reader, tabTouched, "id", key(host)); ok && row.Index == t.index {
		return
	}
	t.put(tabTouched, &touchedRow{Host: host, Index: t.index})
}

// touchAll touches every host that has a part in the reservation.
func (t *tx) touchAll(reservation string) {
	for _, h := range t.involved(reservation) {
		t.touch(h)
	}
}

// involved returns the hosts that hold a share of the reservation, in order.
func (r reader) involved(reservation string) []string {
	var hosts []string
	for b := range scan[Booking](r, tabBookings, "id", key(reservation)) {
		if b.Host != Identifiers && (len(hosts) == 0 || hosts[len(hosts)-1] != b.Host) {
			hosts = append(hosts, b.Host)
		}
	}
	return hosts
}

// event records something a person may want to know. The number of events is
// bounded right here: the oldest makes room.
func (t *tx) event(reservation, host, kind, format string, args ...any) {
	t.put(tabEvents, &Event{
		Index: t.index, Sub: t.sub, Time: t.now,
		Reservation: reservation, Host: host, Kind: kind, Message: fmt.Sprintf(format, args...),
	})
	t.sub++
	t.state.Events++
	for t.state.Events > t.eventsMax {
		for e := range from[Event](t.reader, tabEvents, "id", key(uint64(0))) {
			t.del(tabEvents, e)
			break
		}
		t.state.Events--
	}
}

// clip bounds a text from outside. What is not UTF-8, or is cut to pieces here,
// goes: a snapshot would write it otherwise than it was.
func clip(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), MessageBytesMax)], "")
}
