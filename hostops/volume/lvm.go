package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"vcn/hostops"
	"vcn/internal/claims"
)

const (
	// openTimeMax bounds NewLVM, which may make a pool.
	openTimeMax = 5 * time.Minute
	// nodeTimeMax is how long udev may take to show a volume's device node after
	// LVM has said that it is there.
	nodeTimeMax = 20 * time.Second
	nodePoll    = 50 * time.Millisecond
	// healthLogEvery is how often an alarm that goes on is logged.
	healthLogEvery = time.Hour
)

// LVM keeps volumes as thin logical volumes. It is safe for concurrent use;
// calls for one volume follow each other.
type LVM struct {
	cfg    LVMConfig
	run    runner
	claims claims.Set

	mu       sync.Mutex
	logged   Level
	loggedAt time.Time

	// at is called after each step of making something; tests die in it.
	at func(step string)
}

var _ hostops.Volumes = (*LVM)(nil)

// NewLVM opens the store, makes its thin pool if there is none, and removes
// what dead processes left half-made. Errors: ErrGone (a Known store is not
// there), hostops.ErrForeign (the pool is another's), hostops.ErrNotFound (no
// such volume group), hostops.ErrNoSpace (no room for a pool).
func NewLVM(ctx context.Context, c LVMConfig) (*LVM, error) {
	return newLVM(ctx, c, runCommand)
}

func newLVM(ctx context.Context, c LVMConfig, run runner) (*LVM, error) {
	if err := c.fill(); err != nil {
		return nil, fmt.Errorf("open volume store: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeMax)
	defer cancel()
	l := &LVM{cfg: c, run: run, at: func(string) {}}
	if err := l.open(ctx); err != nil {
		return nil, fmt.Errorf("open volume store %s: %w", l.poolPath(), err)
	}
	return l, nil
}

func (l *LVM) open(ctx context.Context) error {
	st, err := l.look(ctx)
	if err != nil {
		return err
	}
	if st.pool == nil && !l.cfg.Known {
		if err := l.makePool(ctx, st.group); err != nil {
			return fmt.Errorf("make thin pool: %w", err)
		}
		if st, err = l.look(ctx); err != nil {
			return err
		}
	}
	if err := l.checkPool(st); err != nil {
		return err
	}
	if err := l.repairPool(ctx, st.pool); err != nil {
		return err
	}
	if err := l.readPool(ctx, st); err != nil {
		return err
	}
	// A broken pool is opened all the same: its volumes can be listed and read,
	// and everything else says what is wrong with it.
	if l.judged(st).Level == LevelBroken {
		return nil
	}
	return l.sweep(ctx, st)
}

// sweep removes what was left half-made. What another process of this owner
// writes just now is open, and stays.
func (l *LVM) sweep(ctx context.Context, st *lvmState) error {
	for _, v := range st.lvs {
		if !l.ours(v) || !v.has(tagMaking) {
			continue
		}
		l.cfg.Log.Info("remove half-made volume", "volume", l.cfg.VolumeGroup+"/"+v.name)
		if err := l.removeLV(ctx, v, tagMaking); err != nil && !errors.Is(err, hostops.ErrBusy) {
			return fmt.Errorf("remove half-made volume %s: %w", v.name, err)
		}
	}
	return nil
}

func (l *LVM) poolPath() string { return l.cfg.VolumeGroup + "/" + l.cfg.Pool }

func (l *LVM) devPath(name string) string { return "/dev/" + l.cfg.VolumeGroup + "/" + name }

// lvm runs one of LVM's commands with the options that all have.
func (l *LVM) lvm(ctx context.Context, change bool, command string, args ...string) ([]byte, error) {
	return l.run(ctx, change, command, slices.Concat(lvmOptions, args)...)
}

func (l *LVM) change(ctx context.Context, command string, args ...string) error {
	_, err := l.lvm(ctx, true, command, args...)
	return err
}

// lvmState is one look at the volume group.
type lvmState struct {
	group  group
	lvs    map[string]*lv // by name: ours and others'
	pool   *lv            // nil: there is none of that name
	status poolStatus
}

func report(fields string) []string {
	return []string{"--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields}
}

// look reads the volume group and what is in it, whoever's it is. One command
// does where something is in it, as always but at first.
func (l *LVM) look(ctx context.Context) (*lvmState, error) {
	st := &lvmState{lvs: map[string]*lv{}}
	rows, lvsErr := l.rows(ctx, "lvs", "lv", append(report(lvFields+","+vgFields), l.cfg.VolumeGroup)...)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	first := rows
	if lvsErr != nil || len(rows) == 0 {
		var err error
		if first, err = l.rows(ctx, "vgs", "vg", append(report(vgFields), "--select", `vg_name="`+l.cfg.VolumeGroup+`"`)...); err != nil {
			return nil, err
		}
	}
	switch {
	case len(first) == 0 && l.cfg.Known:
		return nil, fmt.Errorf("%w: volume group %s is not there: are its disks? (see pvs)", ErrGone, l.cfg.VolumeGroup)
	case len(first) == 0:
		return nil, fmt.Errorf("volume group %s: %w: name one of this host's (see vgs), or make it of an empty disk with: vgcreate %s /dev/…",
			l.cfg.VolumeGroup, hostops.ErrNotFound, l.cfg.VolumeGroup)
	case lvsErr != nil:
		return nil, lvsErr
	}
	var err error
	if st.group, err = parseGroup(first[0]); err != nil {
		return nil, err
	}
	for _, r := range rows {
		v, err := parseLV(r)
		if err != nil {
			return nil, err
		}
		st.lvs[v.name] = &v
	}
	st.pool = st.lvs[l.cfg.Pool]
	return st, nil
}

func (l *LVM) rows(ctx context.Context, command, kind string, args ...string) ([]row, error) {
	out, err := l.lvm(ctx, false, command, args...)
	if err != nil {
		return nil, err
	}
	return parseReport(out, kind)
}

// lookAtOurs is look with the owner checked. Whoever opened the store had it,
// so what is missing is ErrGone.
func (l *LVM) lookAtOurs(ctx context.Context) (*lvmState, error) {
	st, err := l.look(ctx)
	if errors.Is(err, hostops.ErrNotFound) {
		return nil, fmt.Errorf("%w: %v", ErrGone, err)
	} else if err != nil {
		return nil, err
	}
	return st, l.checkPool(st)
}

// observe is lookAtOurs with the pool active and its status read.
func (l *LVM) observe(ctx context.Context) (*lvmState, error) {
	st, err := l.lookAtOurs(ctx)
	if err != nil {
		return nil, err
	}
	return st, l.readPool(ctx, st)
}

// readPool activates the pool and reads its status, if all its disks are there.
func (l *LVM) readPool(ctx context.Context, st *lvmState) (err error) {
	if st.group.missingPVs == 0 {
		if !st.pool.active {
			if err := l.change(ctx, "lvchange", "--yes", "--activate", "y", "--ignoreactivationskip", l.poolPath()); err != nil {
				return fmt.Errorf("%w: activate thin pool: %w", ErrPool, err)
			}
		}
		if st.status, err = l.readStatus(ctx); err != nil {
			return fmt.Errorf("read status of thin pool: %w", err)
		}
	}
	l.judged(st)
	return nil
}

// judged returns the pool's health, and logs a level that is new or goes on.
func (l *LVM) judged(st *lvmState) Health {
	h := judge(l.cfg, st.group, st.status)
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.Level == l.logged && (h.Level == LevelOK || time.Since(l.loggedAt) < healthLogEvery) {
		return h
	}
	was := l.logged
	l.logged, l.loggedAt = h.Level, time.Now()
	switch {
	case h.Level == LevelOK:
		l.cfg.Log.Info("thin pool is well again", "pool", l.poolPath(), "was", was.String())
	case h.Level == LevelWarn:
		l.cfg.Log.Warn("thin pool: "+h.Text, "level", h.Level.String())
	default:
		l.cfg.Log.Error("thin pool: "+h.Text, "level", h.Level.String())
	}
	return h
}

// ours tells a volume or image of this owner, whole or not: in our pool, with
// our marks, and called as its mark says.
func (l *LVM) ours(v *lv) bool {
	if v.pool != l.cfg.Pool || !v.has(tagOurs) || !v.has(ownedTag(l.cfg.Owner)) {
		return false
	}
	if id, ok := v.tagged(tagVolume); ok {
		return v.name == lvName(volumePrefix, id)
	}
	image, ok := v.tagged(tagImage)
	return ok && v.name == lvName(imagePrefix, image)
}

func (l *LVM) volume(id string, v *lv) hostops.Volume {
	return hostops.Volume{ID: id, Path: l.devPath(v.name), SizeBytes: v.sizeBytes}
}

// activate makes the device node of a volume that a reboot left inactive.
func (l *LVM) activate(ctx context.Context, v *lv) error {
	if !v.active {
		if err := l.change(ctx, "lvchange", "--yes", "--activate", "y", "--ignoreactivationskip", l.cfg.VolumeGroup+"/"+v.name); err != nil {
			return fmt.Errorf("activate %s: %w", v.name, err)
		}
	}
	return waitNode(ctx, l.devPath(v.name))
}

// waitNode waits until udev shows the device. LVM has waited for it already
// where udev runs.
func waitNode(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, nodeTimeMax)
	defer cancel()
	tick := time.NewTicker(nodePoll)
	defer tick.Stop()
	for {
		st, err := os.Stat(path)
		if err == nil && st.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for device %s: %w", path, ctx.Err())
		}
	}
}

// List is hostops.Volumes. Volumes that are inactive, as after a reboot of a
// host that activates none by itself, are activated; one that cannot be is
// listed all the same, for it is there, and logged. Errors: ErrGone,
// hostops.ErrForeign.
func (l *LVM) List(ctx context.Context) ([]hostops.Volume, error) {
	st, err := l.lookAtOurs(ctx)
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var out []hostops.Volume
	for _, v := range st.lvs {
		id, ok := v.tagged(tagVolume)
		if !ok || !l.ours(v) || v.has(tagMaking) {
			continue
		}
		if !v.active {
			if err := l.activate(ctx, v); err != nil {
				if ctx.Err() != nil {
					return nil, fmt.Errorf("list volumes: %w", ctx.Err())
				}
				l.cfg.Log.Error("volume cannot be activated", "volume", id, "error", err)
			}
		}
		out = append(out, l.volume(id, v))
	}
	slices.SortFunc(out, func(a, b hostops.Volume) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// Capacity is hostops.Volumes: of the pool's data, as far as FullPercent and
// the reserve allow. Free is 0 while new volumes are refused for want of
// metadata or data. Errors: ErrGone, hostops.ErrForeign, ErrPool.
func (l *LVM) Capacity(ctx context.Context) (total, free int64, err error) {
	st, err := l.observe(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("read capacity: %w", err)
	}
	total, free = space(l.cfg, st)
	switch h := judge(l.cfg, st.group, st.status); h.Level {
	case LevelBroken:
		return 0, 0, fmt.Errorf("read capacity: %w", h.err())
	case LevelFull:
		free = 0
	}
	return total, free, nil
}

// Health says how well the pool is, without an error as long as it can be read.
func (l *LVM) Health(ctx context.Context) (Health, error) {
	st, err := l.observe(ctx)
	if err != nil {
		return Health{}, fmt.Errorf("read health: %w", err)
	}
	return judge(l.cfg, st.group, st.status), nil
}
