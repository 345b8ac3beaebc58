package libvirt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"vcn/hostops"
	"vcn/hostops/facts"
	"vcn/internal/claims"
)

const (
	defaultSocket = "/run/libvirt/libvirt-sock"
	socketMax     = 107 // sun_path without its final zero
	tapAttempts   = 4
	stopPoll      = 200 * time.Millisecond
	// agentPatience bounds asking a guest agent that may have gone silent.
	agentPatience = 6 * time.Second
)

// Driver runs nodes as libvirt domains. It is safe for concurrent use; calls
// for one node follow each other.
type Driver struct {
	socket  string
	uri     string
	cluster string
	accel   string
	tscKHz  int64
	why     string
	log     *slog.Logger
	now     func() time.Time

	life context.Context // ends with Close
	end  context.CancelFunc
	wg   sync.WaitGroup

	claims claims.Set    // by node
	agents chan struct{} // taken by exchanges with guest agents
}

var _ hostops.Domains = (*Driver)(nil)

// New makes a driver. It does not connect: libvirtd may start later, and each
// call connects anew.
func New(c Config) (*Driver, error) {
	if c.Socket == "" {
		c.Socket = defaultSocket
	}
	if c.URI == "" {
		c.URI = string(golibvirt.QEMUSystem)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if len(c.Socket) > socketMax {
		return nil, fmt.Errorf("drive libvirt: socket path %s has %d bytes, at most %d work", c.Socket, len(c.Socket), socketMax)
	}
	accel, why, err := facts.Accel(facts.Config{Accel: c.Accel})
	if err != nil {
		return nil, fmt.Errorf("drive libvirt: %w", err)
	}
	d := &Driver{
		socket: c.Socket, uri: c.URI, cluster: c.Cluster, accel: accel, why: why, log: c.Log, now: time.Now,
		agents: make(chan struct{}, agentCallsMax),
	}
	if accel == facts.TCG {
		d.tscKHz = facts.TSCKHz()
	}
	d.life, d.end = context.WithCancel(context.Background())
	return d, nil
}

// Accel says how guests run, kvm or tcg, and why.
func (d *Driver) Accel() (name, why string) { return d.accel, d.why }

// Close ends the watchers and any call that still waits. Guests go on.
func (d *Driver) Close() error {
	d.end()
	d.wg.Wait()
	return nil
}

// on runs one operation on one node.
func (d *Driver) on(ctx context.Context, verb, reservation, node string, do func(*conn) error) error {
	if err := hostops.CheckNode(reservation, node); err != nil {
		return fmt.Errorf("%s domain: %w", verb, err)
	}
	key := reservation + "/" + node
	release, err := d.claims.Claim(ctx, key)
	if err != nil {
		return fmt.Errorf("%s domain %s: %w", verb, key, err)
	}
	defer release()
	if err := d.with(ctx, do); err != nil {
		return fmt.Errorf("%s domain %s: %w", verb, key, err)
	}
	return nil
}

// Ensure is hostops.Domains. Errors: hostops.ErrInvalid, ErrForeign, ErrStale,
// ErrBusy (an older generation's process cannot be ended).
func (d *Driver) Ensure(ctx context.Context, s hostops.DomainSpec) error {
	if err := s.Validate(); err != nil {
		return fmt.Errorf("ensure domain: %w", err)
	}
	return d.on(ctx, "ensure", s.Reservation, s.Node, func(c *conn) error {
		have, err := c.find(s.Reservation, s.Node)
		if err != nil {
			return err
		}
		if have != nil && have.seen.Generation > s.Generation {
			return fmt.Errorf("generation %d, here is %d: %w", s.Generation, have.seen.Generation, hostops.ErrStale)
		}
		if have != nil && have.active {
			if have.seen.Generation == s.Generation {
				return c.goOn(have)
			}
			if err := c.destroy(have.dom); err != nil {
				return err
			}
		}
		return d.start(c, s)
	})
}

// goOn lets a domain that stopped on an I/O error try again.
func (c *conn) goOn(have *found) error {
	if !have.ioError {
		return nil
	}
	err := c.DomainResume(have.dom)
	if is(err, golibvirt.ErrOperationInvalid) {
		return nil // it runs again, or has ended; the next look tells
	}
	return err
}

// start defines the domain anew and starts it.
func (d *Driver) start(c *conn, s hostops.DomainSpec) error {
	if err := c.setSecret(s); err != nil {
		return err
	}
	if s.ConsolePath != "" {
		if err := os.MkdirAll(filepath.Dir(s.ConsolePath), 0o700); err != nil {
			return fmt.Errorf("make console directory: %w", err)
		}
	}
	sum, err := digest(s, d.accel)
	if err != nil {
		return err
	}
	in := input{DomainSpec: s, accel: d.accel, tscKHz: d.tscKHz, meta: meta{
		Cluster: d.cluster, Reservation: s.Reservation, Node: s.Node, Generation: s.Generation, Digest: sum,
		Started: d.now().UTC().Format(time.RFC3339Nano),
	}}
	for in.attempt = range tapAttempts {
		text, err := buildXML(in)
		if err != nil {
			return err
		}
		dom, err := c.DomainDefineXMLFlags(text, golibvirt.DomainDefineValidate)
		if err != nil {
			return fmt.Errorf("define: %w", err)
		}
		_, err = c.DomainCreateWithFlags(dom, 0)
		if err == nil {
			d.quietTaps(in)
			return nil
		}
		if !tapTaken(err, in) {
			return fmt.Errorf("start: %w", err)
		}
		if s.Disk.ISCSI != nil {
			// Whoever holds it may be this very node, out of libvirt's sight. QEMU's
			// lock keeps two from one file, nothing keeps them from one export.
			return fmt.Errorf("start: %w: another process holds the node's tap, and may use its disk: end it, or take a new generation: %v", hostops.ErrBusy, err)
		}
		d.log.Warn("tap is still held by another process, try another name", "node", s.Node, "err", err)
	}
	return fmt.Errorf("start: %d tap names are taken: %w", tapAttempts, hostops.ErrBusy)
}

// quietTaps keeps the host from speaking IPv6 to the guest on its own account:
// a tap that is up announces itself. It is a courtesy, and libvirtd may live in
// another network namespace than we, so a failure is only logged.
func (d *Driver) quietTaps(in input) {
	for i := range in.NICs {
		tap := hostops.TapName(in.Reservation, in.Node, in.Generation, i, in.attempt)
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+tap+"/disable_ipv6", []byte("1"), 0)
		if err != nil {
			d.log.Debug("switch off IPv6 of a tap", "tap", tap, "err", err)
		}
	}
}

// tapTaken tells whether a start failed because a process that libvirtd knows
// nothing of still holds one of the taps. libvirt has no code of its own for
// it; its message names the tap.
func tapTaken(err error, in input) bool {
	if !is(err, golibvirt.ErrSystemError, golibvirt.ErrOperationInvalid) {
		return false
	}
	for i := range in.NICs {
		if strings.Contains(err.Error(), hostops.TapName(in.Reservation, in.Node, in.Generation, i, in.attempt)) {
			return true
		}
	}
	return false
}

func (c *conn) setSecret(s hostops.DomainSpec) error {
	if s.Disk.ISCSI == nil || s.Disk.ISCSI.User == "" {
		return nil
	}
	text, err := buildSecret(s)
	if err != nil {
		return err
	}
	sec, err := c.SecretDefineXML(text, 0)
	if err != nil {
		return fmt.Errorf("define secret: %w", err)
	}
	if err := c.SecretSetValue(sec, []byte(s.Disk.ISCSI.Secret), 0); err != nil {
		return fmt.Errorf("set secret: %w", err)
	}
	return nil
}

// destroy ends the process. That it has ended already is success.
func (c *conn) destroy(dom golibvirt.Domain) error {
	err := c.DomainDestroyFlags(dom, 0)
	switch {
	case err == nil, is(err, golibvirt.ErrOperationInvalid, golibvirt.ErrNoDomain):
		return nil
	case is(err, golibvirt.ErrSystemError):
		// The process does not die: it waits in the kernel, for a disk mostly.
		return fmt.Errorf("destroy: %w: %w", hostops.ErrBusy, err)
	}
	return fmt.Errorf("destroy: %w", err)
}

// Stop is hostops.Domains. A paused guest cannot power off, and is destroyed
// at once.
func (d *Driver) Stop(ctx context.Context, reservation, node string, grace time.Duration) error {
	return d.on(ctx, "stop", reservation, node, func(c *conn) error {
		have, err := c.find(reservation, node)
		if err != nil || have == nil || !have.active {
			return err
		}
		if grace > 0 && have.seen.State == hostops.DomainRunning {
			off, err := d.powerOff(ctx, c, have, grace)
			if err != nil || off {
				return err
			}
		}
		return c.destroy(have.dom)
	})
}

// powerOff asks the guest, through its agent if it has one and by the power
// button in any case, and waits until it is off or grace is over.
func (d *Driver) powerOff(ctx context.Context, c *conn, have *found, grace time.Duration) (off bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if have.seen.Ready {
		d.wg.Go(func() {
			// The call waits for the agent's answer, so it has a connection of
			// its own; the answer does not matter.
			ctx, cancel := context.WithTimeout(ctx, min(grace, agentPatience))
			defer cancel()
			err := d.with(ctx, func(c *conn) error {
				return c.DomainShutdownFlags(have.dom, golibvirt.DomainShutdownGuestAgent)
			})
			d.log.Debug("asked the guest agent to power off", "domain", have.dom.Name, "err", err)
		})
	}
	if err := c.DomainShutdownFlags(have.dom, golibvirt.DomainShutdownAcpiPowerBtn); err != nil {
		if is(err, golibvirt.ErrOperationInvalid, golibvirt.ErrNoDomain) {
			return true, nil
		}
		d.log.Warn("power button failed", "domain", have.dom.Name, "err", err)
	}
	tick := time.NewTicker(stopPoll)
	defer tick.Stop()
	for {
		state, _, err := c.DomainGetState(have.dom, 0)
		switch {
		case is(err, golibvirt.ErrNoDomain):
			return true, nil
		case err != nil:
			return false, err
		case golibvirt.DomainState(state) == golibvirt.DomainShutoff:
			return true, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return false, nil // grace is over; the caller's own end shows in its next call
			}
			return false, ctx.Err()
		}
	}
}

// Remove is hostops.Domains.
func (d *Driver) Remove(ctx context.Context, reservation, node string) error {
	return d.on(ctx, "remove", reservation, node, func(c *conn) error {
		have, err := c.find(reservation, node)
		if err != nil {
			return err
		}
		if have != nil {
			if have.active {
				if err := c.destroy(have.dom); err != nil {
					return err
				}
			}
			flags := golibvirt.DomainUndefineManagedSave | golibvirt.DomainUndefineSnapshotsMetadata |
				golibvirt.DomainUndefineCheckpointsMetadata | golibvirt.DomainUndefineNvram
			if err := c.DomainUndefineFlags(have.dom, flags); err != nil && !is(err, golibvirt.ErrNoDomain) {
				return fmt.Errorf("undefine: %w", err)
			}
		}
		sec, err := c.SecretLookupByUUID(golibvirt.UUID(secretUUID(reservation, node)))
		if err == nil {
			err = c.SecretUndefine(sec)
		}
		if err != nil && !is(err, golibvirt.ErrNoSecret) {
			return fmt.Errorf("forget secret: %w", err)
		}
		return nil
	})
}
