package targetd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"vcn/hostops"
)

// export is one volume being served. Its fields are written by the holder of
// op, under Server.mu.
type export struct {
	op chan struct{} // one operation at a time; a channel, so that waiting ends with the context

	hostops.Export // what it is to be
	// What it is: behind Export until a drain is over.
	unit    unit
	path    string // of the unit
	served  string // name under which the engine has it, or is draining it
	failed  string // why there is no unit
	settled bool   // everything is as the Export says
	shown   bool   // it was settled once
	current uint64 // generation when it was last settled
	anew    bool   // its generation was raised: what its users had lost is past
	gone    bool   // withdrawn while somebody waited for op
}

var _ hostops.Targets = (*Server)(nil)

// acquire takes the export of a volume for one operation, and makes it if there
// is none and there are fewer than makeBelow; with 0 it is nil then.
func (s *Server) acquire(ctx context.Context, volume string, makeBelow int) (*export, error) {
	for {
		s.mu.Lock()
		x := s.exports[volume]
		if x == nil && makeBelow > 0 {
			if len(s.exports) >= makeBelow {
				s.mu.Unlock()
				return nil, fmt.Errorf("%w: more than %d exports", hostops.ErrInvalid, makeBelow)
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
	x, err := s.acquire(ctx, e.Volume, maxExports)
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
	if x.settled && x.unit != nil && equal(x.Export, e) && x.unit.intact(e) {
		return nil
	}
	if e.Generation > x.Generation {
		s.set(func() { x.anew = true })
	}
	u, made := x.unit, false
	if u == nil || x.path != e.Path {
		opened, err := s.engine.open(e, s.remembered(e))
		if err != nil {
			return err
		}
		u, made = opened, true
	}
	err := s.remember(e)
	if err == nil {
		s.set(func() { x.Export, x.settled = e, false })
		// Another name or another file: the old target ends, drained, first.
		if x.served != "" && (made && x.unit != nil || x.served != e.IQN) {
			err = s.engine.withdraw(ctx, e.Volume, x.served)
		}
	}
	if err != nil {
		if made {
			_ = u.close()
		}
		return err
	}
	if made && x.unit != nil {
		_ = x.unit.close()
	}
	s.set(func() { x.unit, x.path, x.served, x.failed = u, e.Path, e.IQN, "" })
	if err := s.engine.publish(ctx, u, e); err != nil {
		return err
	}
	s.set(x.settle)
	if x.anew {
		if err := u.forgive(); err != nil {
			return err
		}
		s.set(func() { x.anew = false })
	}
	s.cfg.Log.Info("volume published", "volume", e.Volume, "generation", e.Generation, "initiators", len(e.Access))
	return nil
}

// settle notes that everything is as the Export says.
func (x *export) settle() { x.settled, x.shown, x.current = true, true, x.Generation }

// set changes fields of an export whose op the caller holds.
func (s *Server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func equal(a, b hostops.Export) bool {
	return a.Volume == b.Volume && a.Path == b.Path && a.IQN == b.IQN && a.Generation == b.Generation && slices.Equal(a.Access, b.Access)
}

// Withdraw implements hostops.Targets. A volume that is not listed may still
// have commands in the kernel: of an earlier process, which forgot it first.
func (s *Server) Withdraw(ctx context.Context, volume string) error {
	if err := hostops.CheckVolumeID(volume); err != nil {
		return fmt.Errorf("withdraw: %w", err)
	}
	x, err := s.acquire(ctx, volume, 2*maxExports)
	if err != nil {
		return fmt.Errorf("withdraw volume %s: %w", volume, err)
	}
	defer x.release()
	if err := s.forget(volume); err != nil {
		return fmt.Errorf("withdraw volume %s: %w", volume, err)
	}
	s.set(func() { x.settled = false })
	if err := s.engine.withdraw(ctx, volume, x.served); err != nil {
		if x.Volume == "" { // it never was one
			s.drop(volume, x)
		}
		return fmt.Errorf("withdraw volume %s: %w", volume, err)
	}
	known := x.Volume != ""
	if x.unit != nil {
		if err := x.unit.close(); err != nil {
			s.cfg.Log.Error("volume closed with an error", "volume", volume, "err", err)
		}
	}
	if err := s.engine.forget(volume); err != nil {
		s.cfg.Log.Warn("a volume that is withdrawn is not forgotten", "volume", volume, "err", err)
	}
	s.drop(volume, x)
	if known {
		s.cfg.Log.Info("volume withdrawn", "volume", volume)
	}
	return nil
}

// List implements hostops.Targets, in the order of volume ids. An export that
// is still being withdrawn is in it; one whose change is not through has the
// generation it had, and is not in it before its first is.
func (s *Server) List(context.Context) ([]hostops.ExportStatus, error) {
	s.mu.Lock()
	l := []hostops.ExportStatus{}
	served := map[string]string{}
	for _, x := range s.exports {
		if x.Volume == "" || !x.shown && x.failed == "" {
			continue // not yet
		}
		st := hostops.ExportStatus{Volume: x.Volume, IQN: x.IQN, Generation: x.current, Failed: x.failed}
		if x.unit != nil {
			st.Failed = cmp.Or(x.unit.failed(), st.Failed)
			st.Lost = x.unit.lost()
		}
		served[x.Volume] = x.served
		l = append(l, st)
	}
	s.mu.Unlock()
	for i, st := range l {
		l[i].Sessions = s.engine.sessions(st.Volume, served[st.Volume])
	}
	slices.SortFunc(l, func(a, b hostops.ExportStatus) int { return strings.Compare(a.Volume, b.Volume) })
	return l, nil
}

// Resize implements hostops.Targets.
func (s *Server) Resize(ctx context.Context, volume string) error {
	x, err := s.acquire(ctx, volume, 0)
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
	return x.unit.resize(ctx)
}

const (
	restoreMax    = 5 * time.Second // for one volume
	restoreAtOnce = 8
)

// restore publishes what the table holds, before anybody is let in. A volume
// that cannot be served, or whose former sessions do not drain, holds up nobody
// else: it is listed as failed, and publishing it again goes on.
func (s *Server) restore() {
	keep := map[string]bool{}
	for v := range s.rows {
		keep[v] = true
	}
	// What was withdrawn when the last process died, and drains still, is listed
	// until it is withdrawn again.
	for v, err := range s.engine.prune(keep) {
		s.cfg.Log.Error("a withdrawn volume has not ended yet", "volume", v, "err", err)
		s.exports[v] = &export{op: make(chan struct{}, 1), Export: hostops.Export{Volume: v}, failed: err.Error()}
	}
	awaitDevices(s.rows)
	var wg sync.WaitGroup
	places := make(chan struct{}, restoreAtOnce)
	for v, r := range s.rows {
		x := &export{op: make(chan struct{}, 1), Export: r.Export}
		s.exports[v] = x
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			ctx, cancel := context.WithTimeout(context.Background(), restoreMax)
			defer cancel()
			s.restoreOne(ctx, x, r)
		})
	}
	wg.Wait()
}

func (s *Server) restoreOne(ctx context.Context, x *export, r row) {
	u, err := s.engine.open(r.Export, r.Failed)
	if err == nil {
		x.unit, x.path, x.served = u, r.Path, r.IQN
		err = s.engine.publish(ctx, u, r.Export)
	} else {
		// What an earlier process left of it may be of another generation.
		err = errors.Join(err, s.engine.withdraw(ctx, r.Volume, r.IQN))
	}
	if err != nil && x.unit == nil {
		s.engine.announce(r.Export)
		x.served = r.IQN
	}
	if err != nil {
		x.failed, x.current = err.Error(), r.Generation
		s.cfg.Log.Error("volume of the table is not served", "volume", r.Volume, "err", err)
		return
	}
	x.settle()
}
