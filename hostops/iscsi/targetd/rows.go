package targetd

import (
	"fmt"
	"maps"

	"vcn/hostops"
)

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
