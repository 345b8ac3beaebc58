package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/hashicorp/go-memdb"
	"github.com/hashicorp/raft"
)

// A snapshot is lines of JSON:
//
//	{"Snapshot":"vcn","Format":2,"ClusterID":…,"Index":…,"Clock":…}
//	{"Table":"state","Rows":1}      then its rows, by id; every table in fixed order
//	…
//	{"SHA256":"…"}                  of all bytes before this line
//
// What can be computed from the rest is left out and made anew by Restore.

// ErrSnapshot: the snapshot is cut off, altered, of another format or not ours.
// Restore leaves the state as it was.
var ErrSnapshot = errors.New("snapshot is unusable")

const (
	snapshotName   = "vcn"
	snapshotFormat = 2
	// snapshotLineBytesMax bounds one row.
	snapshotLineBytesMax = 64 << 20
)

type snapshotHeader struct {
	Snapshot  string
	Format    int
	ClusterID string
	Index     uint64
	Clock     time.Time
}

type snapshotTable struct {
	Table string
	Rows  int
}

type snapshotTrailer struct{ SHA256 string }

// stored is how one table is written and read.
type stored struct {
	name string
	read func(line []byte) (any, error)
}

func tableOf[T any](name string) stored {
	return stored{name, func(line []byte) (any, error) {
		row := new(T)
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields() // a field of a newer program would be lost
		return row, d.Decode(row)
	}}
}

// storedTables is the order. New tables go to the end, with a new format.
var storedTables = []stored{
	tableOf[stateRow](tabState),
	tableOf[Meta](tabMeta),
	tableOf[Host](tabHosts),
	tableOf[reportRow](tabReports),
	tableOf[objectRow](tabObjects),
	tableOf[touchedRow](tabTouched),
	tableOf[Reservation](tabReservations),
	tableOf[Volume](tabVolumes),
	tableOf[Lease](tabLeases),
	tableOf[Image](tabImages),
	tableOf[Roll](tabRolls),
	tableOf[Token](tabTokens),
	tableOf[keyRow](tabKeys),
	tableOf[Event](tabEvents),
	tableOf[Series](tabSeries),
	tableOf[Hold](tabHolds),
}

// snapshot is the state at one index, to be written while Apply goes on.
type snapshot struct{ v *View }

// Snapshot implements raft.FSM. It costs nothing: the state is immutable.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) { return snapshot{f.View()}, nil }

// Persist implements raft.FSMSnapshot.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.v.WriteSnapshot(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("close snapshot: %w", err)
	}
	return nil
}

// Release implements raft.FSMSnapshot.
func (snapshot) Release() {}

// WriteSnapshot writes the whole state. Equal states write equal bytes.
func (v *View) WriteSnapshot(w io.Writer) error {
	sum := sha256.New()
	buf := bufio.NewWriterSize(io.MultiWriter(w, sum), 1<<16)
	enc := json.NewEncoder(buf)
	m, _ := v.Meta()
	if err := enc.Encode(snapshotHeader{snapshotName, snapshotFormat, m.ClusterID, v.st.Index, v.st.Clock}); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	for _, t := range storedTables {
		if err := v.writeTable(enc, t.name); err != nil {
			return fmt.Errorf("write snapshot of %s: %w", t.name, err)
		}
	}
	if err := buf.Flush(); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if err := json.NewEncoder(w).Encode(snapshotTrailer{hex.EncodeToString(sum.Sum(nil))}); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

func (v *View) writeTable(enc *json.Encoder, name string) error {
	count, err := v.txn.Get(name, "id")
	if err != nil {
		return err
	}
	n := 0
	for count.Next() != nil {
		n++
	}
	if err := enc.Encode(snapshotTable{name, n}); err != nil {
		return err
	}
	rows, err := v.txn.Get(name, "id")
	if err != nil {
		return err
	}
	for row := rows.Next(); row != nil; row = rows.Next() {
		if err := enc.Encode(row); err != nil {
			return err
		}
	}
	return nil
}

// Restore implements raft.FSM: it replaces the state, or leaves it alone and
// returns an error (ErrSnapshot). Watchers wake.
func (f *FSM) Restore(rc io.ReadCloser) error {
	defer rc.Close()
	db, header, err := readSnapshot(rc)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if m, ok := f.View().Meta(); ok && header.ClusterID != m.ClusterID {
		return fmt.Errorf("restore: %w: it is of cluster %q, this one is %q", ErrSnapshot, header.ClusterID, m.ClusterID)
	}
	f.mu.Lock()
	f.db, f.changes = db, &changeLog{base: header.Index}
	close(f.replaced)
	f.replaced = make(chan struct{})
	f.mu.Unlock()
	f.announce(header.Index)
	f.log.Info("restored state", "cluster", header.ClusterID, "index", header.Index, "clock", header.Clock)
	return nil
}

// lines reads a snapshot line by line, and sums what it has read.
type lines struct {
	r   *bufio.Reader
	sum hash.Hash
}

func (l *lines) next() ([]byte, error) {
	var line []byte
	for {
		part, err := l.r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull) && len(line) <= snapshotLineBytesMax:
			continue
		case err != nil:
			return nil, fmt.Errorf("%w: it breaks off after %d bytes of a line: %v", ErrSnapshot, len(line), err)
		}
		return line, nil
	}
}

// decode reads one line into v and adds it to the sum.
func (l *lines) decode(v any) error {
	line, err := l.next()
	if err != nil {
		return err
	}
	l.sum.Write(line)
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("%w: %v", ErrSnapshot, err)
	}
	return nil
}

func readSnapshot(r io.Reader) (*memdb.MemDB, snapshotHeader, error) {
	l := &lines{r: bufio.NewReaderSize(r, 1<<16), sum: sha256.New()}
	var h snapshotHeader
	if err := l.decode(&h); err != nil {
		return nil, h, err
	}
	if h.Snapshot != snapshotName || h.Format != snapshotFormat {
		return nil, h, fmt.Errorf("%w: it is %q format %d, this program knows %q format %d",
			ErrSnapshot, h.Snapshot, h.Format, snapshotName, snapshotFormat)
	}
	db := newDB()
	t := &tx{reader: reader{db.Txn(true)}, index: h.Index} // who read an older state reads all timelines anew
	defer t.txn.Abort()
	for _, table := range storedTables {
		if err := l.table(t, table); err != nil {
			return nil, h, err
		}
	}
	want := hex.EncodeToString(l.sum.Sum(nil))
	var end snapshotTrailer
	if err := l.decode(&end); err != nil {
		return nil, h, err
	}
	if end.SHA256 != want {
		return nil, h, fmt.Errorf("%w: checksum is %s, its trailer says %q", ErrSnapshot, want, end.SHA256)
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(l.r, 1)); err != nil || n > 0 {
		return nil, h, fmt.Errorf("%w: bytes after its end", ErrSnapshot)
	}
	if s := t.reader.state(); s.Index != h.Index || !s.Clock.Equal(h.Clock) {
		return nil, h, fmt.Errorf("%w: header says index %d, state %d", ErrSnapshot, h.Index, s.Index)
	}
	t.derive()
	t.txn.Commit()
	return db, h, nil
}

func (l *lines) table(t *tx, table stored) error {
	var st snapshotTable
	if err := l.decode(&st); err != nil {
		return err
	}
	if st.Table != table.name {
		return fmt.Errorf("%w: table %q where %q should be", ErrSnapshot, st.Table, table.name)
	}
	for range st.Rows {
		line, err := l.next()
		if err != nil {
			return err
		}
		l.sum.Write(line)
		row, err := table.read(line)
		if err != nil {
			return fmt.Errorf("%w: row of %s: %v", ErrSnapshot, table.name, err)
		}
		if err := t.txn.Insert(table.name, row); err != nil {
			return fmt.Errorf("%w: row of %s: %v", ErrSnapshot, table.name, err)
		}
	}
	return nil
}

// derive makes the tables that snapshots leave out.
func (t *tx) derive() {
	for _, r := range all(scan[Reservation](t.reader, tabReservations, "name", nil)) {
		for _, b := range bookingsOf(r) {
			t.book(b)
		}
	}
	for _, h := range all(scan[Hold](t.reader, tabHolds, "id", nil)) {
		for _, b := range heldBy(h) {
			t.book(b)
		}
	}
}
