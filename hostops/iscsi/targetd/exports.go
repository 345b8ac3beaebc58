package targetd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"vcn/hostops"
	"vcn/hostops/iscsi"
	"vcn/hostops/iscsi/scsi"
)

// export is one volume being served. Its fields are written by the holder of
// op, under Server.mu.
type export struct {
	op chan struct{} // one operation at a time; a channel, so that waiting ends with the context

	hostops.Export // what it is to be
	// What it is: behind Export until a drain is over.
	unit    *scsi.Unit
	path    string // of the unit
	served  string // name under which the portal has it, or is draining it
	failed  string // why there is no unit
	settled bool   // everything is as the Export says
	gone    bool   // withdrawn while somebody waited for op
}

var _ hostops.Targets = (*Server)(nil)

// acquire takes the export of a volume for one operation; nil if there is none
// and make is false.
func (s *Server) acquire(ctx context.Context, volume string, make_ bool) (*export, error) {
	for {
		s.mu.Lock()
		x := s.exports[volume]
		if x == nil && make_ {
			if len(s.exports) >= maxExports {
				s.mu.Unlock()
				return nil, fmt.Errorf("%w: more than %d exports", hostops.ErrInvalid, maxExports)
			}
			x = &export{op: make(chan struct{}, 1)}
			s.exports[volume] = x
		}
		s.mu.Unlock()
		if x == nil {
			return nil, nil
		}
		select {
		case x.op <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !x.gone {
			return x, nil
		}
		x.release()
	}
}

func (x *export) release() { <-x.op }

// drop forgets an export; the caller holds op.
func (s *Server) drop(volume string, x *export) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.gone = true
	delete(s.exports, volume)
}

// Publish implements hostops.Targets.
func (s *Server) Publish(ctx context.Context, e hostops.Export) error {
	if err := validate(e); err != nil {
		return err
	}
	e.Access = slices.Clone(e.Access)
	for i, a := range e.Access {
		e.Access[i].Addr = a.Addr.Unmap()
	}
	x, err := s.acquire(ctx, e.Volume, true)
	if err != nil {
		return fmt.Errorf("publish volume %s: %w", e.Volume, err)
	}
	defer x.release()
	if err := s.publish(ctx, x, e); err != nil {
		if x.Volume == "" { // it never was one
			s.drop(e.Volume, x)
		}
		return fmt.Errorf("publish volume %s: %w", e.Volume, err)
	}
	return nil
}

func (s *Server) publish(ctx context.Context, x *export, e hostops.Export) error {
	if e.Generation < x.Generation {
		return fmt.Errorf("generation %d: %w (%d)", e.Generation, hostops.ErrStale, x.Generation)
	}
	if x.settled && x.unit != nil && equal(x.Export, e) {
		return nil
	}
	unit, made := x.unit, false
	if unit == nil || x.path != e.Path {
		u, err := s.openUnit(row{Export: e, Failed: s.remembered(e)})
		if err != nil {
			return err
		}
		unit, made = u, true
	}
	err := s.remember(e)
	if err == nil {
		s.set(func() { x.Export, x.settled = e, false })
		// Another name or another file: the old target ends, drained, first.
		if x.served != "" && (made || x.served != e.IQN) {
			err = s.portal.Withdraw(ctx, x.served)
		}
	}
	if err != nil {
		if made {
			_ = unit.Close()
		}
		return err
	}
	if made && x.unit != nil {
		_ = x.unit.Close()
	}
	s.set(func() { x.unit, x.path, x.served, x.failed = unit, e.Path, e.IQN, "" })
	if err := s.portal.Publish(ctx, asTarget(e, unit)); err != nil {
		return err
	}
	s.set(func() { x.settled = true })
	s.cfg.Log.Info("volume published", "volume", e.Volume, "generation", e.Generation, "initiators", len(e.Access))
	return nil
}

// set changes fields of an export whose op the caller holds.
func (s *Server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func equal(a, b hostops.Export) bool {
	return a.Volume == b.Volume && a.Path == b.Path && a.IQN == b.IQN && a.Generation == b.Generation && slices.Equal(a.Access, b.Access)
}

func asTarget(e hostops.Export, u *scsi.Unit) iscsi.Target {
	t := iscsi.Target{Name: e.IQN, Device: u, Epoch: e.Generation}
	for _, a := range e.Access {
		t.Access = append(t.Access, iscsi.Access{Initiator: a.Initiator, Addr: a.Addr, CHAP: iscsi.CHAP{User: a.User, Secret: a.Secret}})
	}
	return t
}

func (s *Server) openUnit(r row) (*scsi.Unit, error) {
	f, err := s.cfg.Open(r.Path)
	if err != nil {
		return nil, err
	}
	u, err := scsi.NewUnit(f, scsi.Config{
		VolumeID: r.Volume, Log: s.cfg.Log, Failed: r.Failed,
		OnFail: func(err error) { s.rememberFailure(r.Volume, err) },
	})
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return u, nil
}

// Withdraw implements hostops.Targets.
func (s *Server) Withdraw(ctx context.Context, volume string) error {
	x, err := s.acquire(ctx, volume, false)
	if err != nil {
		return fmt.Errorf("withdraw volume %s: %w", volume, err)
	}
	if x == nil {
		return nil
	}
	defer x.release()
	if err := s.forget(volume); err != nil {
		return fmt.Errorf("withdraw volume %s: %w", volume, err)
	}
	s.set(func() { x.settled = false })
	if err := s.portal.Withdraw(ctx, x.served); err != nil {
		return fmt.Errorf("withdraw volume %s: %w", volume, err)
	}
	if x.unit != nil {
		if err := x.unit.Close(); err != nil {
			s.cfg.Log.Error("volume closed with an error", "volume", volume, "err", err)
		}
	}
	s.drop(volume, x)
	s.cfg.Log.Info("volume withdrawn", "volume", volume)
	return nil
}

// List implements hostops.Targets, in the order of volume ids. An export that
// is still being withdrawn is in it.
func (s *Server) List(context.Context) ([]hostops.ExportStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := []hostops.ExportStatus{}
	for _, x := range s.exports {
		if x.Volume == "" {
			continue
		}
		st := hostops.ExportStatus{Volume: x.Volume, IQN: x.IQN, Generation: x.Generation, Failed: x.failed}
		if x.unit != nil {
			st.Failed = x.unit.Failed()
		}
		for _, c := range s.portal.Sessions(x.served) {
			st.Sessions = append(st.Sessions, hostops.Session{Initiator: c.Initiator, Addr: c.Addr, Since: c.Since})
		}
		l = append(l, st)
	}
	slices.SortFunc(l, func(a, b hostops.ExportStatus) int { return strings.Compare(a.Volume, b.Volume) })
	return l, nil
}

// Resize implements hostops.Targets.
func (s *Server) Resize(ctx context.Context, volume string) error {
	x, err := s.acquire(ctx, volume, false)
	if err != nil {
		return fmt.Errorf("resize volume %s: %w", volume, err)
	}
	if x == nil {
		return fmt.Errorf("resize volume %s: %w", volume, hostops.ErrNotFound)
	}
	defer x.release()
	if x.unit == nil {
		return fmt.Errorf("resize volume %s: %w: %s", volume, hostops.ErrBusy, x.failed)
	}
	return x.unit.Resize()
}

// restore publishes what the table holds. Nothing listens yet, so there is
// nothing to drain.
func (s *Server) restore() {
	for v, r := range s.rows {
		x := &export{op: make(chan struct{}, 1), Export: r.Export}
		s.exports[v] = x
		u, err := s.openUnit(r)
		if err == nil {
			x.unit, x.path, x.served = u, r.Path, r.IQN
			err = s.portal.Publish(context.Background(), asTarget(r.Export, u))
		}
		if err != nil {
			x.failed = err.Error()
			s.cfg.Log.Error("volume of the table is not served", "volume", v, "err", err)
			continue
		}
		x.settled = true
	}
}

// remember writes the export into the table; a name that another volume has is
// refused here, where all names are seen together.
func (s *Server) remember(e hostops.Export) error {
	s.tableMu.Lock()
	defer s.tableMu.Unlock()
	s.mu.Lock()
	rows := maps.Clone(s.rows)
	for v, r := range rows {
		if v != e.Volume && r.IQN == e.IQN {
			s.mu.Unlock()
			return fmt.Errorf("%w: %s is the name of volume %s", hostops.ErrInvalid, e.IQN, v)
		}
	}
	// The failure of a unit outlives a change of access, but not of the file.
	r := row{Export: e}
	if was, ok := rows[e.Volume]; ok && was.Path == e.Path {
		r.Failed = was.Failed
	}
	s.mu.Unlock()
	rows[e.Volume] = r
	return s.commit(rows)
}

// commit writes rows and takes them over; the caller holds tableMu.
func (s *Server) commit(rows map[string]row) error {
	if err := saveTable(s.cfg.StateDir, rows); err != nil {
		return err
	}
	s.mu.Lock()
	s.rows = rows
	s.mu.Unlock()
	return nil
}

// remembered tells of a failure in an earlier process.
func (s *Server) remembered(e hostops.Export) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.rows[e.Volume]; r.Path == e.Path {
		return r.Failed
	}
	return ""
}

func (s *Server) forget(volume string) error {
	s.tableMu.Lock()
	defer s.tableMu.Unlock()
	s.mu.Lock()
	rows := maps.Clone(s.rows)
	s.mu.Unlock()
	if _, ok := rows[volume]; !ok {
		return nil
	}
	delete(rows, volume)
	return s.commit(rows)
}

// rememberFailure runs in the path of a flush that has failed, before its
// initiator hears of it. It must not take an export's op: a drain that holds it
// waits for this flush.
func (s *Server) rememberFailure(volume string, cause error) {
	s.tableMu.Lock()
	defer s.tableMu.Unlock()
	s.mu.Lock()
	rows := maps.Clone(s.rows)
	s.mu.Unlock()
	r, ok := rows[volume]
	if !ok {
		return
	}
	r.Failed = cause.Error()
	rows[volume] = r
	if err := s.commit(rows); err != nil {
		s.cfg.Log.Error("failure of a volume is not on disk", "volume", volume, "err", err)
	}
}
