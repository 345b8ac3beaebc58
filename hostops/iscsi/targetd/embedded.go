package targetd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"vcn/hostops"
	"vcn/hostops/iscsi"
	"vcn/hostops/iscsi/scsi"
)

// embedded is the engine in this process: our session layer over our SCSI
// units. It ends with the process.
type embedded struct {
	cfg    Config
	onFail func(volume string, cause error)
	ended  func(what string, err error) // told when a listener ends
	portal *iscsi.Server
	wg     sync.WaitGroup

	mu      sync.Mutex
	portals []net.Listener
}

func newEmbedded(c Config, onFail func(string, error), ended func(string, error)) *embedded {
	if c.Open == nil {
		c.Open = scsi.OpenFile
	}
	return &embedded{cfg: c, onFail: onFail, ended: ended, portal: iscsi.NewServer(iscsi.Config{Log: c.Log})}
}

func (b *embedded) open(e hostops.Export, failed string) (unit, error) {
	f, err := b.cfg.Open(e.Path)
	if err != nil {
		return nil, err
	}
	mark, err := scsi.OpenMark(b.markPath(e.Volume))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if mark.Lost() {
		b.cfg.Log.Error("this host lost power, and with it writes that a volume's user had not flushed: restart the node", "volume", e.Volume)
	}
	u, err := scsi.NewUnit(f, scsi.Config{
		VolumeID: e.Volume, Log: b.cfg.Log, Failed: failed, WriteThrough: b.cfg.WriteThrough,
		Mark: mark, PowerLost: mark.Lost(), OnFail: func(err error) { b.onFail(e.Volume, err) },
	})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return embeddedUnit{u, mark}, nil
}

// markPath is where a volume's mark of unflushed writes is.
func (b *embedded) markPath(volume string) string {
	return filepath.Join(b.cfg.StateDir, marksName, volume)
}

func (b *embedded) forget(volume string) error {
	if err := os.Remove(b.markPath(volume)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget mark: %w", err)
	}
	return nil
}

func (b *embedded) publish(ctx context.Context, u unit, e hostops.Export) error {
	t := asTarget(e)
	t.Device = u.(embeddedUnit).Unit
	return b.portal.Publish(ctx, t)
}

func (b *embedded) announce(e hostops.Export) { b.portal.Announce(asTarget(e)) }

// asTarget is all of a target but its device.
func asTarget(e hostops.Export) iscsi.Target {
	t := iscsi.Target{Name: e.IQN, Epoch: e.Generation}
	for _, a := range e.Access {
		t.Access = append(t.Access, iscsi.Access{Initiator: a.Initiator, Addr: a.Addr, CHAP: iscsi.CHAP{User: a.User, Secret: a.Secret}})
	}
	return t
}

func (b *embedded) withdraw(ctx context.Context, _, iqn string) error {
	return b.portal.Withdraw(ctx, iqn)
}

func (b *embedded) sessions(_, iqn string) []hostops.Session {
	var l []hostops.Session
	for _, c := range b.portal.Sessions(iqn) {
		l = append(l, hostops.Session{Initiator: c.Initiator, Addr: c.Addr, Since: c.Since})
	}
	return l
}

// prune has nothing to do: what an earlier process served ended with it.
func (b *embedded) prune(map[string]bool) map[string]error { return nil }

func (b *embedded) listen() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.cfg.Listen {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
		if err != nil {
			return fmt.Errorf("listen on portal: %w", err)
		}
		b.portals = append(b.portals, l)
	}
	for _, p := range b.portals {
		b.wg.Go(func() { b.ended("portal", b.portal.Serve(p)) })
	}
	return nil
}

func (b *embedded) addrs() []netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	var l []netip.AddrPort
	for _, p := range b.portals {
		a := p.Addr().(*net.TCPAddr).AddrPort()
		l = append(l, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
	}
	return l
}

func (b *embedded) close() {
	b.mu.Lock()
	for _, p := range b.portals {
		_ = p.Close()
	}
	b.mu.Unlock()
	b.portal.Close()
	b.wg.Wait()
}
