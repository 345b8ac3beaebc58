package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-memdb"

	"vcn/api"
)

// Tables. Rows are pointers to structs and are constants once stored: copy,
// change, write.
const (
	tabState        = "state"        // *stateRow, one
	tabMeta         = "meta"         // *Meta, one
	tabHosts        = "hosts"        // *Host
	tabReports      = "reports"      // *reportRow: a host's last report without its objects
	tabObjects      = "objects"      // *objectRow: the objects
	tabTouched      = "touched"      // *touchedRow: assignment versions
	tabReservations = "reservations" // *Reservation
	tabVolumes      = "volumes"      // *Volume
	tabLeases       = "leases"       // *Lease
	tabImages       = "images"       // *Image
	tabRolls        = "rolls"        // *Roll
	tabTokens       = "tokens"       // *Token
	tabKeys         = "keys"         // *keyRow: idempotency keys
	tabEvents       = "events"       // *Event
	tabSeries       = "series"       // *Series
	tabHolds        = "holds"        // *Hold
	tabBookings     = "bookings"     // *Booking; derived, not in snapshots
	tabTimeline     = "timeline"     // *timelineRow; derived, not in snapshots
)

// stateRow is what is not about anything in particular.
type stateRow struct {
	Index  uint64
	Clock  time.Time
	Events int // rows in the table of events
	// HostsIndex is the Raft index of the last change to any host.
	HostsIndex uint64
	// Notified: owners have been told of the events up to this index.
	Notified uint64
	// The identifiers leased last: the next search starts after them, so that
	// one just freed is not handed out again at once.
	LastVLAN   int
	LastSubnet string
	LastPublic string
	LastMAC    string
}

// reportRow is HostStatus without its objects.
type reportRow struct {
	Host    string
	Applied uint64
	Time    time.Time
}

type objectRow struct {
	Host string
	Object
}

type touchedRow struct {
	Host  string
	Index uint64
}

type keyRow struct {
	Project, Key string
	Hash         []byte
	Reservation  string
	Expires      time.Time
}

// key joins parts into a byte string that sorts as the parts do: strings end
// in a zero byte, numbers and times are big endian.
func key(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch v := p.(type) {
		case string:
			b = append(append(b, v...), 0)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, v)
		case int:
			b = binary.BigEndian.AppendUint64(b, uint64(v))
		case time.Time:
			b = binary.BigEndian.AppendUint64(b, uint64(v.UnixNano()))
		default:
			panic(fmt.Sprintf("fsm: key part of type %T", p))
		}
	}
	return b
}

// index is a memdb indexer made of one function. The function returns nil when
// the row has no entry in it.
type index[T any] struct{ of func(*T) []byte }

func (i index[T]) FromObject(raw any) (bool, []byte, error) {
	row, ok := raw.(*T)
	if !ok {
		return false, nil, fmt.Errorf("row of type %T", raw)
	}
	k := i.of(row)
	return k != nil, k, nil
}

var errArgs = errors.New("want one []byte key")

func (i index[T]) FromArgs(args ...any) ([]byte, error) {
	if len(args) != 1 {
		return nil, errArgs
	}
	k, ok := args[0].([]byte)
	if !ok {
		return nil, errArgs
	}
	return k, nil
}

func (i index[T]) PrefixFromArgs(args ...any) ([]byte, error) { return i.FromArgs(args...) }

// idx makes one index. All are unique: those that are not by nature end in the
// row's id.
func idx[T any](name string, of func(*T) []byte) *memdb.IndexSchema {
	return &memdb.IndexSchema{Name: name, Unique: true, AllowMissing: name != "id", Indexer: index[T]{of}}
}

func table(name string, ix ...*memdb.IndexSchema) *memdb.TableSchema {
	t := &memdb.TableSchema{Name: name, Indexes: map[string]*memdb.IndexSchema{}}
	for _, i := range ix {
		t.Indexes[i.Name] = i
	}
	return t
}

var theOne = key("the one")

func schema() *memdb.DBSchema {
	s := &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{}}
	for _, t := range []*memdb.TableSchema{
		table(tabState, idx("id", func(*stateRow) []byte { return theOne })),
		table(tabMeta, idx("id", func(*Meta) []byte { return theOne })),
		table(tabHosts,
			idx("id", func(h *Host) []byte { return key(h.ID) }),
			idx("name", func(h *Host) []byte { return key(h.Name) })),
		table(tabReports, idx("id", func(r *reportRow) []byte { return key(r.Host) })),
		table(tabObjects,
			idx("id", func(o *objectRow) []byte { return key(o.Host, o.Kind, o.ID) }),
			idx("reservation", objectByReservation),
			idx("image", objectByImage)),
		table(tabTouched, idx("id", func(r *touchedRow) []byte { return key(r.Host) })),
		table(tabReservations,
			idx("id", func(r *Reservation) []byte { return key(r.ID) }),
			idx("name", reservationByName),
			idx("ending", reservationByEnding),
			idx("placed", reservationByPlaced),
			idx("bind", reservationByBind),
			idx("waiting", reservationByWait),
			idx("series", reservationBySeries),
			idx("ready", reservationByReady),
			idx("due", reservationByDue)),
		table(tabVolumes,
			idx("id", func(v *Volume) []byte { return key(v.ID) }),
			idx("host", func(v *Volume) []byte { return key(v.Host, v.ID) }),
			idx("recipe", func(v *Volume) []byte { return key(v.Recipe, v.Reservation, v.ID) }),
			idx("reservation", func(v *Volume) []byte { return key(v.Reservation, v.ID) })),
		table(tabLeases,
			idx("id", func(l *Lease) []byte { return key(l.Kind, l.Value) }),
			idx("reservation", func(l *Lease) []byte { return key(l.Reservation, l.Kind, l.Value) })),
		table(tabImages, idx("id", func(i *Image) []byte { return key(i.Recipe) })),
		table(tabRolls, idx("id", func(r *Roll) []byte { return key(r.Name, r.Version) })),
		table(tabTokens,
			idx("id", func(t *Token) []byte { return key(t.ID) }),
			idx("due", func(t *Token) []byte { return key(t.Expires.Add(TokenGrace), t.ID) })),
		table(tabKeys,
			idx("id", func(k *keyRow) []byte { return key(k.Project, k.Key) }),
			idx("due", func(k *keyRow) []byte { return key(k.Expires, k.Project, k.Key) })),
		table(tabEvents,
			idx("id", func(e *Event) []byte { return key(e.Index, e.Sub) }),
			idx("reservation", eventByReservation)),
		table(tabBookings,
			idx("id", func(b *Booking) []byte { return key(b.Owner, b.Host, b.From, b.Until) }),
			idx("host", func(b *Booking) []byte { return key(b.Host, b.Until, b.From, b.Owner) })),
		table(tabTimeline, idx("id", func(r *timelineRow) []byte { return key(r.Host) })),
		table(tabSeries, idx("id", func(s *Series) []byte { return key(s.ID) })),
		table(tabHolds,
			idx("id", func(h *Hold) []byte { return key(h.ID) }),
			idx("due", func(h *Hold) []byte { return key(h.Expires, h.ID) })),
	} {
		s.Tables[t.Name] = t
	}
	return s
}

// ids makes the id of a row of each table.
var ids = func() map[string]memdb.SingleIndexer {
	out := map[string]memdb.SingleIndexer{}
	for name, t := range schema().Tables {
		out[name] = t.Indexes["id"].Indexer.(memdb.SingleIndexer)
	}
	return out
}()

func objectByReservation(o *objectRow) []byte {
	if o.Reservation == "" {
		return nil
	}
	return key(o.Reservation, o.Host, o.Kind, o.ID)
}

func objectByImage(o *objectRow) []byte {
	if o.Kind != KindImage {
		return nil
	}
	return key(o.ID, o.Host)
}

func reservationByName(r *Reservation) []byte {
	if !r.Live() {
		return nil
	}
	return key(r.Project, r.Name)
}

func reservationByEnding(r *Reservation) []byte {
	if r.State != api.StateEnding {
		return nil
	}
	return key(r.ID)
}

func reservationByPlaced(r *Reservation) []byte {
	if !r.Placed() {
		return nil
	}
	return key(r.ID)
}

// reservationByBind orders what is promised by when it is to be provisioned.
func reservationByBind(r *Reservation) []byte {
	if r.State != api.StateBooked {
		return nil
	}
	return key(r.Provision, r.ID)
}

// reservationByWait is the order of the waitlist.
func reservationByWait(r *Reservation) []byte {
	if r.State != api.StateWaitlisted {
		return nil
	}
	return key(r.Created, r.ID)
}

// reservationByReady orders what has become ready by when, to learn lead times from.
func reservationByReady(r *Reservation) []byte {
	if r.ReadyAt.IsZero() {
		return nil
	}
	return key(r.ReadyAt, r.ID)
}

func reservationBySeries(r *Reservation) []byte {
	if r.Series == "" {
		return nil
	}
	return key(r.Series, r.Start, r.ID)
}

func reservationByDue(r *Reservation) []byte {
	if at, ok := due(r); ok {
		return key(at, r.ID)
	}
	return nil
}

func eventByReservation(e *Event) []byte {
	if e.Reservation == "" {
		return nil
	}
	return key(e.Reservation, e.Index, e.Sub)
}

// must turns a memdb error into a stop: with this schema it can only mean a
// programming error, and a peer that went on would differ from the others.
func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("fsm: store: %v", err))
	}
}

// reader is what reads need of a transaction.
type reader struct{ txn *memdb.Txn }

// first returns the row with exactly that key.
func first[T any](r reader, table, ix string, k []byte) (*T, bool) {
	raw, err := r.txn.First(table, ix, k)
	must(err)
	if raw == nil {
		return nil, false
	}
	return raw.(*T), true
}

// scan yields the rows whose key begins with prefix, in key order. The caller
// must not write to the same table while ranging; collect first.
func scan[T any](r reader, table, ix string, prefix []byte) func(func(*T) bool) {
	return func(yield func(*T) bool) {
		it, err := r.txn.Get(table, ix+"_prefix", prefix)
		must(err)
		for raw := it.Next(); raw != nil; raw = it.Next() {
			if !yield(raw.(*T)) {
				return
			}
		}
	}
}

// from yields the rows whose key is at or after k, in key order.
func from[T any](r reader, table, ix string, k []byte) func(func(*T) bool) {
	return func(yield func(*T) bool) {
		it, err := r.txn.LowerBound(table, ix, k)
		must(err)
		for raw := it.Next(); raw != nil; raw = it.Next() {
			if !yield(raw.(*T)) {
				return
			}
		}
	}
}

func (r reader) state() stateRow {
	if s, ok := first[stateRow](r, tabState, "id", theOne); ok {
		return *s
	}
	return stateRow{}
}
