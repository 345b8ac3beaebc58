package lio

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"vcn/hostops"
)

// Root is where the kernel shows its target.
const Root = "/sys/kernel/config/target"

// Config of an Engine.
type Config struct {
	Root    string           // empty: Root
	Owner   string           // whose volumes these are: 1-32 of a-z 0-9
	Portals []netip.AddrPort // port 0 takes a free one
	Log     *slog.Logger
}

// Engine is the kernel's target, as far as it carries our mark.
type Engine struct {
	cfg     Config
	root    string
	portals []netip.AddrPort
	wg      sync.WaitGroup
	stop    context.CancelFunc

	mu        sync.Mutex
	volumes   map[string]*volume
	wedged    map[string]int // by directory: pid of an earlier process's call in it
	listening bool
}

// volume is what we have in the kernel for one volume. The fields up to mu are
// of the holder of op.
type volume struct {
	id   string
	op   chan struct{} // a channel, so that waiting ends with the context
	iqn  string        // of its target; empty if there is none
	dev  string        // directory of its backstore; empty if there is none
	size int64         // bytes, as far as known

	// Under Engine.mu:
	job      *job
	addrs    map[string][]netip.Addr // by initiator: where it may come from
	seen     map[string]seen         // by initiator
	sessions []hostops.Session       // as last seen
}

// seen is the session of an initiator, and since when we know it.
type seen struct {
	id    string
	since time.Time
}

var ownerPattern = regexp.MustCompile(`^[a-z0-9]{1,32}$`)

// New takes over what an earlier process of the same owner left in the kernel.
// Nothing is changed yet. A portal that a target which is not ours uses is
// hostops.ErrForeign.
func New(c Config) (*Engine, error) {
	e, err := open(c)
	if err != nil {
		return nil, fmt.Errorf("start LIO engine: %w", err)
	}
	for _, p := range c.Portals {
		if p, err = withPort(p); err != nil {
			return nil, fmt.Errorf("start LIO engine: %w", err)
		}
		e.portals = append(e.portals, p)
	}
	if err := e.checkPortals(); err != nil {
		return nil, fmt.Errorf("start LIO engine: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.stop = cancel
	e.wg.Go(func() { e.watch(ctx) })
	return e, nil
}

func open(c Config) (*Engine, error) {
	if !ownerPattern.MatchString(c.Owner) || c.Log == nil {
		return nil, fmt.Errorf("owner %q and a logger are needed: %w", c.Owner, hostops.ErrInvalid)
	}
	e := &Engine{cfg: c, root: c.Root, volumes: map[string]*volume{}, wedged: map[string]int{}}
	if e.root == "" {
		e.root = Root
	}
	return e, e.inventory()
}

// withPort replaces port 0 by one that is free at the moment.
func withPort(p netip.AddrPort) (netip.AddrPort, error) {
	if p.Port() != 0 {
		return p, nil
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(p))
	if err != nil {
		return p, fmt.Errorf("find a port: %w", err)
	}
	defer l.Close()
	return netip.AddrPortFrom(p.Addr(), l.Addr().(*net.TCPAddr).AddrPort().Port()), nil
}

// Close ends what runs in this process. The kernel serves on.
func (e *Engine) Close() {
	e.stop()
	e.wg.Wait()
}

// Portals are the portals, with the ports they got.
func (e *Engine) Portals() []netip.AddrPort { return slices.Clone(e.portals) }

// Volumes lists, by id, what the kernel has under our mark.
func (e *Engine) Volumes() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var l []string
	for id := range e.volumes {
		l = append(l, id)
	}
	for dir := range e.wedged {
		if id, ok := e.owned(filepath.Base(dir)); ok && e.volumes[id] == nil {
			l = append(l, id)
		}
	}
	slices.Sort(l)
	return l
}

// acquire takes a volume for one operation, after what an earlier one left
// running in the kernel has ended.
func (e *Engine) acquire(ctx context.Context, id, iqn string) (*volume, error) {
	if err := e.unwedge(ctx, id, iqn); err != nil {
		return nil, err
	}
	e.mu.Lock()
	v := e.volumes[id]
	if v == nil {
		v = newVolume(id)
		e.volumes[id] = v
	}
	e.mu.Unlock()
	select {
	case v.op <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := e.settle(ctx, v); err != nil && ctx.Err() != nil {
		e.release(v)
		return nil, err
	}
	if err := e.verify(v); err != nil {
		e.release(v)
		return nil, err
	}
	return v, nil
}

// verify notices what somebody else has removed.
func (e *Engine) verify(v *volume) error {
	for _, x := range []struct {
		field *string
		dir   string
	}{{&v.iqn, e.target(v.iqn)}, {&v.dev, v.dev}} {
		if *x.field == "" {
			continue
		}
		is, err := exists(x.dir)
		if err != nil {
			return err
		}
		if !is {
			*x.field = ""
		}
	}
	return nil
}

// Serves tells whether the kernel's state is still that of x, which was
// published. It changes nothing.
func (e *Engine) Serves(x hostops.Export) bool {
	want, err := grants(x)
	if err != nil {
		return false
	}
	e.mu.Lock()
	v := e.volumes[x.Volume]
	e.mu.Unlock()
	if v == nil || e.busy(v) {
		return false
	}
	select {
	case v.op <- struct{}{}:
		defer e.release(v)
	default: // the watch looks at it for a moment; nothing else does
		return true
	}
	if v.iqn != x.IQN {
		return false
	}
	if on, err := get(filepath.Join(e.tpg(v.iqn), "enable")); err != nil || on != "1" {
		return false
	}
	for name := range want {
		if _, same := e.unchanged(v, name, want); !same {
			return false
		}
	}
	nps, err := list(filepath.Join(e.tpg(v.iqn), "np"))
	if err != nil || len(nps) != len(e.portals) {
		return false
	}
	names, err := list(filepath.Join(e.tpg(v.iqn), "acls"))
	return err == nil && len(names) == len(want)
}

func newVolume(id string) *volume {
	return &volume{id: id, op: make(chan struct{}, 1), seen: map[string]seen{}}
}

// release ends an operation; a volume of which nothing is left is forgotten.
func (e *Engine) release(v *volume) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v.iqn == "" && v.dev == "" && v.job == nil && e.volumes[v.id] == v {
		delete(e.volumes, v.id)
	}
	<-v.op
}

// Publish serves x, or changes how it is served: whom generation and access do
// not cover any more is cut, and none of its commands runs when the next is
// admitted. If ctx ends first, nobody new is admitted; Publish again. A target
// of that name that is not ours is hostops.ErrForeign. A write-protected volume
// is one that has failed.
func (e *Engine) Publish(ctx context.Context, x hostops.Export, protect bool) error {
	want, err := grants(x)
	if err != nil {
		return err
	}
	v, err := e.acquire(ctx, x.Volume, x.IQN)
	if err != nil {
		return fmt.Errorf("publish volume %s by LIO: %w", x.Volume, err)
	}
	defer e.release(v)
	if err := e.publish(ctx, v, x, want, protect); err != nil {
		return fmt.Errorf("publish volume %s by LIO: %w", x.Volume, err)
	}
	addrs := map[string][]netip.Addr{}
	for name, g := range want {
		addrs[name] = g.addrs
	}
	e.mu.Lock()
	v.addrs = addrs
	e.mu.Unlock()
	return nil
}

// Withdraw ends everything of a volume. When it returns nil, none of its
// commands runs any more. What is not there is withdrawn.
func (e *Engine) Withdraw(ctx context.Context, id string) error {
	v, err := e.acquire(ctx, id, "")
	if err != nil {
		return fmt.Errorf("withdraw volume %s from LIO: %w", id, err)
	}
	defer e.release(v)
	e.mu.Lock()
	v.addrs = nil
	e.mu.Unlock()
	if err := e.removeTarget(ctx, v); err != nil {
		return fmt.Errorf("withdraw volume %s from LIO: %w", id, err)
	}
	if err := e.removeStore(ctx, v); err != nil {
		return fmt.Errorf("withdraw volume %s from LIO: %w", id, err)
	}
	return nil
}

// Listen adds the portals to every target: from here on initiators are let in,
// to those that are published later too.
func (e *Engine) Listen() error {
	e.guardDiscovery()
	e.mu.Lock()
	e.listening = true
	var l []*volume
	for _, v := range e.volumes {
		l = append(l, v)
	}
	e.mu.Unlock()
	for _, v := range l {
		if v.iqn == "" || e.busy(v) { // a later Publish does it
			continue
		}
		if err := e.addPortals(context.Background(), v); err != nil {
			return fmt.Errorf("listen by LIO: %w", err)
		}
	}
	return nil
}

// Purge ends everything of an owner, drained; what is wedged is an error when
// ctx ends. A kernel without a target has nothing of anybody, and who is not
// root cannot have left anything there.
func Purge(ctx context.Context, c Config) error {
	if os.Geteuid() != 0 {
		return nil
	}
	e, err := open(c)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("purge LIO: %w", err)
	}
	if err := e.unwedge(ctx, "", ""); err != nil {
		return fmt.Errorf("purge LIO: %w", err)
	}
	var errs []error
	for _, id := range e.Volumes() {
		errs = append(errs, e.Withdraw(ctx, id))
	}
	e.freeDiscovery()
	return errors.Join(errs...)
}

// prefix begins the names of our backstores.
func (e *Engine) prefix() string { return hostops.Mark + "." + e.cfg.Owner + "." }

// alias is the mark of a volume's target.
func (e *Engine) alias(id string) string { return e.prefix() + id }

// owned returns the volume that a mark names, if it is ours.
func (e *Engine) owned(mark string) (id string, ok bool) {
	id, ok = strings.CutPrefix(mark, e.prefix())
	return id, ok && hostops.CheckVolumeID(id) == nil
}
